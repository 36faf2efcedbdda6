//! `keypairctl doctor`.

use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::Color;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::connect::Daemon;
use super::error::{Failure, is_unknown_call};
use super::output::{Form, cell, time};
use super::reach::Unreachable;
use super::version::one;
use super::{Context, explain};
use crate::proto::finding::Severity;
use crate::proto::{
    CertificateValidity, CryptoProviderState, CryptoProviderStatus, DiagnoseRequest,
    GetVersionRequest, GetVersionResponse, KeyPairFilter, ListCryptoProvidersRequest,
    ListSigningKeyPairsRequest, MissingAlgorithm,
};

/// Tell what is well with the way to the daemon, with the daemon and its providers, what is not,
/// and what to do about it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// End with 1 also when there are warnings.
    #[arg(long)]
    strict: bool,
}

/// One thing that was looked at.
struct Check {
    verdict: Verdict,
    /// What was looked at.
    subject: String,
    /// How it is, in a sentence.
    message: String,
    /// What to do. Empty where nothing is to be done.
    remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It works, and an operator should look at it.
    Warn,
    Fail,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

impl Doctor {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut steps = Vec::new();
        let opened = context.connection.open_in_steps(&mut steps).await;
        let reached = steps.into_iter();
        let mut checks: Vec<_> = reached
            .map(|step| Check::new(Verdict::Ok, step.subject, step.message))
            .collect();
        let daemon = match opened {
            Ok(daemon) => daemon,
            // The rest cannot be asked for.
            Err(Failure::Connect(failed)) => return context.show_unreachable(checks, &failed),
            Err(failure) => return Err(failure),
        };
        let left = context.connection.timeout().saturating_sub(begun.elapsed());
        let asker = Asker { daemon, left };
        match asker.version().await {
            Ok(version) => checks.extend(version),
            Err(status) => match explain(Box::new(status), context.connection).await {
                Failure::Connect(failed) => return context.show_unreachable(checks, &failed),
                failure => {
                    checks.push(Check::new(Verdict::Fail, "gRPC", failure.sentence()));
                    context.show_checks(&checks)?;
                    return Err(Failure::NotReached);
                }
            },
        }
        let health = join_all(SERVICES.map(|service| asker.health(service)));
        let (health, providers, findings, key_pairs) = tokio::join!(
            health,
            asker.providers(),
            asker.findings(),
            asker.key_pairs(),
        );
        checks.extend(health);
        checks.extend(providers);
        checks.extend(key_pairs);
        checks.extend(findings);
        context.show_checks(&checks)?;
        let worst = |verdict| checks.iter().any(|check| check.verdict == verdict);
        match worst(Verdict::Fail) || (self.strict && worst(Verdict::Warn)) {
            true => Err(Failure::NotWell),
            false => Ok(()),
        }
    }
}

impl Context<'_> {
    /// Shows how far the way to the daemon goes.
    fn show_unreachable(
        &mut self,
        mut checks: Vec<Check>,
        failed: &Unreachable,
    ) -> Result<(), Failure> {
        let check = Check::new(Verdict::Fail, failed.subject, &failed.message);
        checks.push(check.with(&failed.remedy));
        self.show_checks(&checks)?;
        Err(Failure::NotReached)
    }

    fn show_checks(&mut self, checks: &[Check]) -> Result<(), Failure> {
        let count = |verdict| {
            checks
                .iter()
                .filter(|check| check.verdict == verdict)
                .count()
        };
        let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
        if self.output.form() == Form::Data {
            let findings: Vec<_> = checks.iter().map(Check::json).collect();
            return self.data(&json!({
                "well": failed == 0,
                "failures": failed,
                "warnings": warned,
                "findings": findings,
            }));
        }
        let mut rows = Vec::new();
        for check in checks {
            let colour = match check.verdict {
                Verdict::Ok => Color::Green,
                Verdict::Warn => Color::Yellow,
                Verdict::Fail => Color::Red,
            };
            rows.push(vec![
                self.cell(check.verdict.name(), Some(colour)),
                cell(&check.subject),
                cell(&check.message),
            ]);
            if !check.remedy.is_empty() {
                let remedy = format!("-> {}", check.remedy);
                rows.push(vec![cell(""), cell(""), cell(remedy)]);
            }
        }
        self.table(&["", "WHAT", "HOW IT IS"], rows)?;
        writeln!(self.out, "\n{}", conclusion(failed, warned))?;
        Ok(())
    }
}

/// Says what the checks come to.
fn conclusion(failed: usize, warned: usize) -> String {
    let failed = match failed {
        0 => None,
        1 => Some("1 failure".to_owned()),
        more => Some(format!("{more} failures")),
    };
    let warned = match warned {
        0 => None,
        1 => Some("1 warning".to_owned()),
        more => Some(format!("{more} warnings")),
    };
    match (failed, warned) {
        (None, None) => "All is well.".to_owned(),
        (Some(failed), None) => format!("{failed}."),
        (None, Some(warned)) => format!("It works, with {warned}."),
        (Some(failed), Some(warned)) => format!("{failed}, {warned}."),
    }
}

impl Check {
    fn new(verdict: Verdict, subject: &str, message: impl Into<String>) -> Self {
        Self {
            verdict,
            subject: subject.to_owned(),
            message: message.into(),
            remedy: String::new(),
        }
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "verdict": self.verdict.name(),
            "subject": self.subject,
            "message": self.message,
        });
        if !self.remedy.is_empty() {
            json["remedy"] = self.remedy.as_str().into();
        }
        json
    }

    fn with(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Asks a daemon that is connected, all questions within one time.
struct Asker {
    daemon: Daemon,
    left: Duration,
}

impl Asker {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.left);
        request
    }

    /// Sees whether what answers is keypaird, and which one.
    async fn version(&self) -> Result<Vec<Check>, Status> {
        let request = self.request(GetVersionRequest {});
        let answer = self.daemon.key_pairs().get_version(request).await;
        let status = match answer {
            Ok(answer) => return Ok(judge_version(&answer.into_inner())),
            Err(status) => status,
        };
        if !is_unknown_call(&status) {
            return Err(status);
        }
        // One that is older knows this name.
        let request = self.request(HealthCheckRequest {
            service: SERVICES[1].0.to_owned(),
        });
        match self.daemon.health().check(request).await {
            Ok(_) => {
                let message = format!(
                    "the daemon is older than this keypairctl ({}) and does not tell its version",
                    crate::VERSION
                );
                let check = Check::new(Verdict::Warn, "version", message);
                Ok(vec![
                    check.with("update the daemon, so that it tells all of this"),
                ])
            }
            Err(_) => Err(status),
        }
    }

    async fn health(&self, (service, subject, remedy): (&str, &str, &str)) -> Check {
        let request = self.request(HealthCheckRequest {
            service: service.to_owned(),
        });
        match self.daemon.health().check(request).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
                Check::new(Verdict::Ok, subject, "serves")
            }
            Ok(_) => Check::new(Verdict::Fail, subject, "does not serve").with(remedy),
            Err(status) if status.code() == Code::NotFound => {
                Check::new(Verdict::Ok, subject, "the daemon does not know this name")
            }
            Err(status) => refused(subject, &status),
        }
    }

    async fn providers(&self) -> Vec<Check> {
        let request = self.request(ListCryptoProvidersRequest {});
        let answer = self.daemon.key_pairs().list_crypto_providers(request).await;
        match answer {
            Ok(answer) => {
                let providers = answer.into_inner().crypto_providers;
                providers.iter().flat_map(judge_provider).collect()
            }
            Err(status) if is_unknown_call(&status) => {
                let older = "the daemon is older than this command, and does not tell how its providers are";
                let remedy = "keypaird healthcheck --service provider/HSM tells whether one serves";
                vec![Check::new(Verdict::Warn, "providers", older).with(remedy)]
            }
            Err(status) => vec![refused("providers", &status)],
        }
    }

    /// Asks for what only the daemon knows.
    async fn findings(&self) -> Vec<Check> {
        let request = self.request(DiagnoseRequest {});
        let findings = match self.daemon.key_pairs().diagnose(request).await {
            Ok(answer) => answer.into_inner().findings,
            // One that is older was warned of.
            Err(status) if is_unknown_call(&status) => return Vec::new(),
            Err(status) => return vec![refused("diagnosis", &status)],
        };
        let checks = findings.into_iter().map(|finding| {
            let verdict = match finding.severity() {
                Severity::Ok => Verdict::Ok,
                Severity::Warn => Verdict::Warn,
                // What this client does not know is not taken for good.
                Severity::Fail | Severity::Unspecified => Verdict::Fail,
            };
            Check::new(verdict, &finding.subject, finding.message).with(finding.remedy)
        });
        checks.collect()
    }

    /// Checks whether the store answers, and whether key pairs have expired.
    async fn key_pairs(&self) -> Vec<Check> {
        let counted = tokio::try_join!(
            self.count(CertificateValidity::Unspecified),
            self.count(CertificateValidity::Expired),
        );
        let subject = "key pairs";
        let check = match counted {
            Ok((0, _)) => Check::new(Verdict::Ok, subject, "there are none yet"),
            Ok((all, 0)) => {
                let message = format!("there are {all}, and none has expired");
                Check::new(Verdict::Ok, subject, message)
            }
            Ok((all, expired)) => {
                let message = format!("there are {all}, of which {expired} have expired");
                Check::new(Verdict::Warn, subject, message)
                    .with("keypairctl list --status expired --all lists them")
            }
            Err(status) => refused(subject, &status),
        };
        vec![check]
    }

    async fn count(&self, status: CertificateValidity) -> Result<i32, Status> {
        let request = self.request(ListSigningKeyPairsRequest {
            page_size: 1,
            filter: Some(KeyPairFilter {
                status: status.into(),
                ..KeyPairFilter::default()
            }),
            ..ListSigningKeyPairsRequest::default()
        });
        let mut client = self.daemon.key_pairs();
        Ok(client
            .list_signing_key_pairs(request)
            .await?
            .into_inner()
            .total_size)
    }
}

/// Says that the daemon did not answer a question.
fn refused(subject: &str, status: &Status) -> Check {
    let message = format!("the daemon does not tell: {}", status.message());
    Check::new(Verdict::Fail, subject, message).with("the daemon's log has the cause")
}

fn judge_version(daemon: &GetVersionResponse) -> Vec<Check> {
    let theirs = one(&daemon.version, &daemon.revision);
    let mut checks = vec![Check::new(
        Verdict::Ok,
        "version",
        format!("keypaird {theirs}, API {}", daemon.api),
    )];
    let is_other = daemon.version != crate::VERSION
        || (daemon.revision != crate::REVISION
            && !daemon.revision.is_empty()
            && !crate::REVISION.is_empty());
    if is_other {
        let ours = one(crate::VERSION, crate::REVISION);
        let message = format!("this keypairctl is {ours}, and the daemon is {theirs}");
        let check = Check::new(Verdict::Warn, "version", message);
        checks.push(check.with("use the keypairctl that came with the daemon"));
    }
    checks
}

/// Says how a provider is, which of its keys are doubtful, and what it cannot do.
fn judge_provider(provider: &CryptoProviderStatus) -> Vec<Check> {
    let mut checks = vec![judge(provider)];
    checks.extend(judge_doubtful_keys(provider));
    let name = provider.crypto_provider().as_str_name();
    let missing = provider.missing_algorithms.iter();
    checks.extend(missing.map(|missing| Check::new(Verdict::Ok, name, missing_in_words(missing))));
    checks
}

fn judge(provider: &CryptoProviderStatus) -> Check {
    let name = provider.crypto_provider().as_str_name();
    let last = match provider.last_signature_time {
        Some(_) => format!(
            " (it last signed at {})",
            time(provider.last_signature_time)
        ),
        None => String::new(),
    };
    match provider.state() {
        CryptoProviderState::Serving => {
            Check::new(Verdict::Ok, name, format!("{}{last}", provider.message))
        }
        _ => Check::new(Verdict::Fail, name, format!("{}{last}", provider.message))
            .with(&*provider.remedy),
    }
}

/// Says that keys of a provider are doubtful, if some are.
fn judge_doubtful_keys(provider: &CryptoProviderStatus) -> Option<Check> {
    let message = match provider.doubtful_keys {
        0 => return None,
        1 => "1 key is doubtful: it may belong to a key pair that the restored store does not know"
            .to_owned(),
        more => format!(
            "{more} keys are doubtful: they may belong to key pairs that the restored store does not know"
        ),
    };
    let name = provider.crypto_provider().as_str_name();
    Some(Check::new(Verdict::Fail, name, message).with(
        "keypairctl doubtful-keys list shows them; keep a key by keypairctl link, or destroy it by keypairctl doubtful-keys destroy",
    ))
}

fn missing_in_words(missing: &MissingAlgorithm) -> String {
    let what = match &*missing.signature_algorithms {
        [] => {
            let sizes: Vec<_> = missing.key_sizes.iter().map(ToString::to_string).collect();
            format!("{} {}", missing.key_algorithm, sizes.join(", "))
        }
        names => names.join(", "),
    };
    format!("cannot do {what}: its token {}", missing.reason)
}

/// What is asked of `grpc.health.v1`: the name, what it is called here, and what to do when it does not serve.
const SERVICES: [(&str, &str, &str); 5] = [
    ("", "daemon", "none of the providers below signs"),
    (
        "keypaird.v1.KeyPairService",
        "keypaird.v1.KeyPairService",
        "the daemon is about to stop",
    ),
    (
        "keypaird.v1.SigningService",
        "keypaird.v1.SigningService",
        "none of the providers below signs",
    ),
    (
        "keypaird.v1.EventService",
        "keypaird.v1.EventService",
        "the daemon is about to stop",
    ),
    (
        "rotation",
        "rotation",
        "a rotation is overdue: keypairctl schedule shows which, and the daemon's log has the cause",
    ),
];

const EXAMPLES: &str = "\
Nothing is changed, and no question reaches the HSM.
It looks at the way there first (the name, TCP, TLS, whether keypaird answers),
and at nothing else when that fails. OK is as it should be, WARN works and
should be looked at, FAIL does not work. The exit code is 1 after a FAIL, with
--strict also after a WARN, and 4 when the daemon cannot be reached.

Examples:
  keypairctl doctor
  keypairctl doctor --strict --timeout 5s
  keypairctl doctor --output json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CryptoProvider;

    #[test]
    fn a_provider_that_does_not_serve_is_wrong_and_has_a_remedy() {
        let status = CryptoProviderStatus {
            crypto_provider: CryptoProvider::Hsm.into(),
            state: CryptoProviderState::LoginRefused.into(),
            message: "the token refused the PIN".into(),
            remedy: "put the right one in place".into(),
            ..CryptoProviderStatus::default()
        };
        let check = judge(&status);
        assert!(check.verdict == Verdict::Fail);
        assert_eq!(check.subject, "HSM");
        assert_eq!(check.remedy, "put the right one in place");
        let unknown = CryptoProviderStatus {
            state: 99,
            ..status
        };
        assert!(judge(&unknown).verdict == Verdict::Fail);
    }

    #[test]
    fn doubtful_keys_are_wrong_and_have_a_remedy() {
        let status = CryptoProviderStatus {
            crypto_provider: CryptoProvider::Hsm.into(),
            state: CryptoProviderState::Serving.into(),
            ..CryptoProviderStatus::default()
        };
        assert!(judge_doubtful_keys(&status).is_none());
        let check = judge_doubtful_keys(&CryptoProviderStatus {
            doubtful_keys: 2,
            ..status
        });
        let check = check.unwrap();
        assert!(check.verdict == Verdict::Fail);
        assert!(check.message.starts_with("2 keys are doubtful"));
        assert!(check.remedy.contains("doubtful-keys destroy"));
    }
}
