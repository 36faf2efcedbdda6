//! Every call of the store and of the providers fails once, before it had its effect and after, in every use case.
//!
//! Whatever the caller is told then: nothing acknowledged is lost, nothing else stays, on the token neither, and the use
//! case succeeds when it is tried again. The providers are the real ones, and so is the store; only the failure is made up.

mod anomaly;
mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use keypaird::domain::{KeyPair, NewKeyPairSettings, ProviderKind, SignatureEncoding};
use keypaird::service::{
    CsrRequest, DeleteRequest, GenerateRequest, ImportRequest, LinkRequest, RotateRequest,
    ServiceError, SignRequest,
};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::own_process::{self, TokenHere};
use softhsm_tests::token::Token;
use softhsm_tests::tools::shell;
use tokio_util::sync::CancellationToken;

use anomaly::Moment;
use stage::{Place, Stage, input};

const ID: &str = "x";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UseCase {
    Generate(ProviderKind),
    /// By a request with a name.
    GenerateNamed(ProviderKind),
    Import(ProviderKind),
    Link,
    MakeCsr(ProviderKind),
    AnswerCsr(ProviderKind),
    MakePending(ProviderKind),
    Activate(ProviderKind),
    /// What a daemon does by itself with a generation that is expired.
    Retire(ProviderKind),
    Migrate,
    Delete(ProviderKind),
    Sign(ProviderKind),
}

impl UseCase {
    /// Makes what there has to be before.
    async fn prepare(self, stage: &Stage, folder: &Path) {
        match self {
            Self::Generate(_) | Self::Import(_) => {}
            Self::GenerateNamed(_) => {
                stage.named.fetch_add(1, Ordering::Relaxed);
            }
            Self::Link => {
                if stage.token_is_empty().await {
                    let conf = std::env::var_os("SOFTHSM2_CONF").unwrap();
                    Token::there(Path::new(&conf)).make_foreign_key(
                        "EC:prime256v1",
                        "foreign",
                        "01",
                    );
                }
            }
            Self::MakeCsr(kind)
            | Self::MakePending(kind)
            | Self::Delete(kind)
            | Self::Sign(kind) => generate(stage, kind, "").await.unwrap(),
            Self::Migrate => generate(stage, ProviderKind::Local, "").await.unwrap(),
            Self::Activate(kind) => {
                generate(stage, kind, "").await.unwrap();
                rotate(stage, false).await.unwrap();
            }
            Self::Retire(kind) => {
                generate(stage, kind, "").await.unwrap();
                rotate(stage, true).await.unwrap();
                stage.clock.advance(time::Duration::days(2));
            }
            Self::AnswerCsr(kind) => {
                generate(stage, kind, "").await.unwrap();
                fs::write(folder.join("x.csr"), csr(stage).await.unwrap()).unwrap();
                shell(
                    folder,
                    "openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days 9 -out x.crt 2>/dev/null
                     cat x.crt ca.crt > answer.pem",
                );
            }
        }
    }

    async fn run(self, stage: &Stage, folder: &Path) -> Result<(), ServiceError> {
        let service = &stage.service;
        match self {
            Self::Generate(kind) => generate(stage, kind, "").await,
            Self::GenerateNamed(kind) => {
                let name = format!("request-{}", stage.named.load(Ordering::Relaxed));
                generate(stage, kind, &name).await
            }
            Self::Import(kind) => {
                let request = ImportRequest {
                    id: Some(ID.into()),
                    file_data: fs::read(folder.join("import.pem")).unwrap().into(),
                    format: None,
                    password: String::new().into(),
                    crypto_provider: Some(kind),
                    labels: BTreeMap::new(),
                };
                service.import(request).await.map(drop)
            }
            Self::Link => {
                let request = LinkRequest {
                    private_key_label: "foreign".into(),
                    settings: Some(settings(ProviderKind::Hsm)),
                    ..LinkRequest::default()
                };
                service.link(request).await.map(drop)
            }
            Self::MakeCsr(_) => csr(stage).await.map(drop),
            Self::AnswerCsr(_) => {
                let answer = fs::read(folder.join("answer.pem")).unwrap();
                service
                    .import_csr_response(ID, answer.into(), "")
                    .await
                    .map(drop)
            }
            Self::MakePending(_) => rotate(stage, false).await,
            Self::Activate(_) => rotate(stage, true).await,
            Self::Retire(_) => retire(stage).await,
            Self::Migrate => {
                let migrated = service.migrate(ID, Some(ProviderKind::Hsm), "").await;
                migrated.map(drop)
            }
            Self::Delete(_) => {
                let request = DeleteRequest {
                    id: ID.into(),
                    ..DeleteRequest::default()
                };
                service.delete(request).await.map(drop)
            }
            Self::Sign(_) => {
                let request = SignRequest {
                    id: ID.into(),
                    input: Some(input()),
                    signature_algorithm: String::new(),
                    encoding: SignatureEncoding::Der,
                    allow_outside_validity: false,
                };
                service.sign(request).await.map(drop)
            }
        }
    }

    /// Tells whether functions of PKCS#11 are called in it that are not called in another one as well.
    fn uses_token(self) -> bool {
        match self {
            Self::GenerateNamed(_) | Self::MakeCsr(_) => false,
            Self::Generate(kind)
            | Self::Import(kind)
            | Self::AnswerCsr(kind)
            | Self::MakePending(kind)
            | Self::Activate(kind)
            | Self::Retire(kind)
            | Self::Delete(kind)
            | Self::Sign(kind) => kind == Hsm,
            Self::Link | Self::Migrate => true,
        }
    }

    /// Tells whether it was done, by what the record is now.
    fn is_done(self, record: Option<&KeyPair>) -> bool {
        let Some(record) = record else {
            return matches!(self, Self::Delete(_));
        };
        match self {
            Self::Generate(_)
            | Self::GenerateNamed(_)
            | Self::Import(_)
            | Self::Link
            | Self::MakeCsr(_)
            | Self::Sign(_) => true,
            Self::AnswerCsr(_) => record.current.issuer_dn.contains("CN=ca"),
            Self::MakePending(_) => record.pending.is_some(),
            Self::Activate(_) => record.pending.is_none() && record.current.number.number() == 2,
            Self::Retire(_) => record.previous.is_empty(),
            Self::Migrate => record.provider() == ProviderKind::Hsm,
            Self::Delete(_) => false,
        }
    }
}

fn settings(kind: ProviderKind) -> NewKeyPairSettings {
    NewKeyPairSettings {
        id: Some(ID.into()),
        common_name: "Example".into(),
        organization: "Acme".into(),
        country: "US".into(),
        valid_days: 1,
        key_algorithm: "EC".into(),
        crypto_provider: Some(kind),
        ..NewKeyPairSettings::default()
    }
}

async fn generate(stage: &Stage, kind: ProviderKind, request_id: &str) -> Result<(), ServiceError> {
    let request = GenerateRequest {
        settings: settings(kind),
        request_id: request_id.to_owned(),
        validate_only: false,
    };
    stage.service.generate(request).await.map(drop)
}

async fn rotate(stage: &Stage, activate: bool) -> Result<(), ServiceError> {
    let request = RotateRequest {
        id: ID.into(),
        activate,
        ..RotateRequest::default()
    };
    stage.service.rotate(request).await.map(drop)
}

async fn csr(stage: &Stage) -> Result<String, ServiceError> {
    let request = CsrRequest {
        id: ID.into(),
        ..CsrRequest::default()
    };
    stage.service.generate_csr(request).await
}

/// Has the daemon do once what is due.
async fn retire(stage: &Stage) -> Result<(), ServiceError> {
    let failures = || stage.service.rotation_metrics().failures();
    let (stop, failures_before) = (CancellationToken::new(), failures());
    let rotating = tokio::spawn(Arc::clone(&stage.service).keep_rotating(stop.clone()));
    let begun = Instant::now();
    let retired = loop {
        let record = stage.records().await.remove(ID).unwrap();
        if record.previous.is_empty() {
            break Ok(());
        }
        // It says what failed in the log only.
        if failures() > failures_before || begun.elapsed() > Duration::from_millis(300) {
            break Err(ServiceError::CallerGone);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    // What goes on behind it is let go on.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.cancel();
    rotating.await.unwrap();
    retired
}

/// Where the calls of a use case fail.
struct Trial<'a> {
    here: &'a TokenHere,
    /// Whether it is the module that fails.
    in_module: bool,
    use_case: UseCase,
    folder: &'a Path,
}

impl Trial<'_> {
    async fn stage(&self) -> Stage {
        let mut stage = Stage::new(self.here, self.in_module.then(FaultyModule::of_process));
        if self.in_module {
            stage.look_after().await;
        }
        stage
    }

    /// How many objects are on the token that are not ours.
    fn foreign(&self) -> usize {
        match self.use_case {
            UseCase::Link => 2,
            _ => 0,
        }
    }

    /// Returns where a call may fail.
    async fn places(&self) -> Vec<Place> {
        if !self.in_module {
            let places = [Place::Store, Place::Token, Place::Software];
            return [Moment::Before, Moment::After]
                .into_iter()
                .flat_map(|moment| places.map(|place| place(moment)))
                .collect();
        }
        let mut stage = self.stage().await;
        self.use_case.prepare(&stage, self.folder).await;
        let module = FaultyModule::of_process();
        let before = module.functions_called();
        self.use_case.run(&stage, self.folder).await.unwrap();
        let mut after = module.functions_called();
        after.retain(|function, called| before.get(function) != Some(called));
        stage.clear(self.foreign()).await.unwrap();
        stage.close().await;
        after
            .into_keys()
            .filter(|name| name.starts_with("C_"))
            .flat_map(|name| {
                ["return 0x5", "after 0x30"].map(|action| Place::Function(name.clone(), action))
            })
            .collect()
    }

    /// Has each call fail, one at a time, and returns how many that were, and what was wrong then.
    async fn fail_each_call(&self) -> (usize, Vec<String>) {
        let (mut struck, mut wrong) = (0, Vec::new());
        for place in self.places().await {
            let mut stage = self.stage().await;
            for nth in 0.. {
                self.use_case.prepare(&stage, self.folder).await;
                let before = stage.records().await;
                stage.strike(&place, nth);
                let told = self.use_case.run(&stage, self.folder).await;
                let Some(call) = stage.end_strike(&place, nth) else {
                    told.unwrap();
                    stage.clear(self.foreign()).await.unwrap();
                    break;
                };
                struck += 1;
                if let Err(what) = self.check(&mut stage, &before, &told).await {
                    let told = told.map_err(|error| format!("{error:?}"));
                    wrong.push(format!(
                        "{:?}: {call} fails as {place:?} {nth}: {what}; the caller was told {told:?}",
                        self.use_case
                    ));
                    stage.wipe_token().await;
                    stage.close().await;
                    stage = self.stage().await;
                }
            }
            stage.close().await;
        }
        (struck, wrong)
    }

    /// Checks what is left after a call failed, and that it succeeds the next time.
    async fn check(
        &self,
        stage: &mut Stage,
        before: &BTreeMap<String, KeyPair>,
        told: &Result<(), ServiceError>,
    ) -> Result<(), String> {
        let (use_case, foreign) = (self.use_case, self.foreign());
        stage.settle(foreign).await?;
        let after = stage.records().await;
        let is_done = use_case.is_done(after.get(ID));
        // A deletion is repeated until it succeeds, and may be done as soon as it is begun.
        let may_be_done = matches!(use_case, UseCase::Delete(_));
        match told {
            Ok(()) if !is_done => return Err("acknowledged, and not done".to_owned()),
            Err(_) if *before != after && !(is_done && may_be_done) => {
                return Err("not acknowledged, and done all the same".to_owned());
            }
            _ => {}
        }
        if told.is_err() {
            match use_case.run(stage, self.folder).await {
                Ok(()) => {}
                Err(ServiceError::KeyPairNotFound(_)) if is_done && may_be_done => {}
                Err(error) => return Err(format!("does not succeed later: {error:?}")),
            }
            if !use_case.is_done(stage.records().await.get(ID)) {
                return Err("not done later".to_owned());
            }
            stage.settle(foreign).await?;
        }
        stage.clear(foreign).await
    }
}

/// Has each call of use cases fail.
fn check(here: &TokenHere, in_module: bool, use_cases: &[UseCase]) {
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -subj /CN=x -days 9 2>/dev/null
         cat k.pem c.pem > import.pem
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 9 \
             -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign 2>/dev/null",
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut report = String::new();
    for use_case in use_cases {
        let trial = Trial {
            here,
            in_module,
            use_case: *use_case,
            folder: folder.path(),
        };
        let begun = Instant::now();
        let (struck, wrong) = runtime.block_on(trial.fail_each_call());
        println!("{use_case:?}: {struck} calls failed, {:?}", begun.elapsed());
        for wrong in wrong {
            writeln!(report, "{wrong}").unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Makes two tests of each sentence: one where calls of the store and the providers fail, and one where functions of the
/// module do.
macro_rules! anomalies {
    ($(fn $sentence:ident() { $($use_case:expr),* $(,)? })*) => {
        mod calls {
            $(#[test]
            fn $sentence() {
                let name = concat!("calls::", stringify!($sentence));
                super::own_process::with_token(name, |here| super::check(here, false, &super::$sentence()));
            })*
        }
        mod functions {
            $(#[test]
            fn $sentence() {
                let name = concat!("functions::", stringify!($sentence));
                super::own_process::with_faulty_token(name, |here, _| {
                    let mut use_cases = super::$sentence();
                    use_cases.retain(|use_case| use_case.uses_token());
                    super::check(here, true, &use_cases);
                });
            })*
        }
        $(fn $sentence() -> Vec<UseCase> { vec![$($use_case),*] })*
    };
}

use ProviderKind::{Hsm, Local};

anomalies! {
    fn a_key_pair_is_generated_whole_or_not_at_all() {
        UseCase::Generate(Hsm),
        UseCase::Generate(Local),
        UseCase::GenerateNamed(Hsm),
        UseCase::GenerateNamed(Local),
    }
    fn a_key_pair_is_imported_whole_or_not_at_all() {
        UseCase::Import(Hsm),
        UseCase::Import(Local),
    }
    fn the_answer_of_a_ca_is_taken_whole_or_not_at_all() {
        UseCase::MakeCsr(Hsm),
        UseCase::MakeCsr(Local),
        UseCase::AnswerCsr(Hsm),
        UseCase::AnswerCsr(Local),
    }
    fn each_step_of_a_rotation_is_taken_whole_or_not_at_all() {
        UseCase::MakePending(Hsm),
        UseCase::MakePending(Local),
        UseCase::Activate(Hsm),
        UseCase::Activate(Local),
        UseCase::Retire(Hsm),
        UseCase::Retire(Local),
    }
    fn a_key_of_the_token_is_linked_or_left_alone() {
        UseCase::Link,
    }
    fn a_key_pair_moves_into_the_token_whole_or_not_at_all() {
        UseCase::Migrate,
    }
    fn a_deletion_that_was_begun_comes_to_its_end() {
        UseCase::Delete(Hsm),
        UseCase::Delete(Local),
    }
    fn a_signature_is_right_or_there_is_none() {
        UseCase::Sign(Hsm),
        UseCase::Sign(Local),
    }
}
