//! `keypairctl doctor`.

use clap::Args;
use comfy_table::Color;
use serde_json::json;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::Context;
use super::connect::Daemon;
use super::error::Failure;
use super::output::{Output, cell, time};
use super::printable::printable_json;
use crate::proto::{
    CertificateValidity, CryptoProviderState, CryptoProviderStatus, KeyPairFilter,
    ListCryptoProvidersRequest, ListSigningKeyPairsRequest, MissingAlgorithm,
};

/// Tell what is well with the daemon and its providers, what is not, and what to do about it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {}

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Well,
    /// Something to know, and nothing wrong.
    Note,
    Wrong,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Note => "note",
            Self::Wrong => "WRONG",
        }
    }
}

impl Doctor {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let daemon = context.connection.open().await?;
        let mut checks = Vec::new();
        for (service, subject, remedy) in SERVICES {
            checks.push(ask_health(context, &daemon, service, subject, remedy).await);
        }
        match list_providers(context, &daemon).await {
            Ok(providers) => {
                for provider in &providers {
                    checks.push(judge(provider));
                    checks.extend(judge_doubtful_keys(provider));
                    checks.extend(provider.missing_algorithms.iter().map(|missing| {
                        Check::new(
                            Verdict::Note,
                            provider.crypto_provider().as_str_name(),
                            missing_in_words(missing),
                        )
                    }));
                }
            }
            Err(status) if status.code() == Code::Unimplemented => {
                let older = "the daemon is older than this command, and does not tell how its providers are";
                let remedy = "keypaird healthcheck --service provider/HSM tells whether one serves";
                checks.push(Check::new(Verdict::Note, "providers", older).with(remedy));
            }
            Err(status) => checks.push(refused("providers", &status)),
        }
        checks.extend(look_at_key_pairs(context, &daemon).await);
        context.show_checks(&checks)?;
        match checks.iter().any(|check| check.verdict == Verdict::Wrong) {
            true => Err(Failure::NotWell),
            false => Ok(()),
        }
    }
}

impl Context<'_> {
    fn show_checks(&mut self, checks: &[Check]) -> Result<(), Failure> {
        let wrong = checks
            .iter()
            .filter(|check| check.verdict == Verdict::Wrong)
            .count();
        if self.output == Output::Json {
            let checks: Vec<_> = checks
                .iter()
                .map(|check| {
                    let mut json = json!({
                        "verdict": check.verdict.name().to_uppercase(),
                        "subject": check.subject,
                        "message": check.message,
                    });
                    if !check.remedy.is_empty() {
                        json["remedy"] = check.remedy.as_str().into();
                    }
                    json
                })
                .collect();
            let json = json!({"well": wrong == 0, "findings": checks});
            writeln!(self.out, "{}", printable_json(&format!("{json:#}")))?;
            return Ok(());
        }
        let mut rows = Vec::new();
        for check in checks {
            let colour = match check.verdict {
                Verdict::Well => Color::Green,
                Verdict::Note => Color::Yellow,
                Verdict::Wrong => Color::Red,
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
        let conclusion = match wrong {
            0 => "All is well.".to_owned(),
            1 => "One thing is wrong.".to_owned(),
            more => format!("{more} things are wrong."),
        };
        writeln!(self.out, "\n{conclusion}")?;
        Ok(())
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

    fn with(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Says that the daemon did not answer a question.
fn refused(subject: &str, status: &Status) -> Check {
    let message = format!("the daemon does not tell: {}", status.message());
    Check::new(Verdict::Wrong, subject, message).with("the daemon's log has the cause")
}

async fn ask_health(
    context: &Context<'_>,
    daemon: &Daemon,
    service: &str,
    subject: &str,
    remedy: &str,
) -> Check {
    let request = context.connection.request(HealthCheckRequest {
        service: service.to_owned(),
    });
    match daemon.health().check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
            Check::new(Verdict::Well, subject, "serves")
        }
        Ok(_) => Check::new(Verdict::Wrong, subject, "does not serve").with(remedy),
        Err(status) if status.code() == Code::NotFound => {
            Check::new(Verdict::Note, subject, "the daemon does not know this name")
        }
        Err(status) => refused(subject, &status),
    }
}

async fn list_providers(
    context: &Context<'_>,
    daemon: &Daemon,
) -> Result<Vec<CryptoProviderStatus>, Status> {
    let request = context.connection.request(ListCryptoProvidersRequest {});
    let answer = daemon.key_pairs().list_crypto_providers(request).await?;
    Ok(answer.into_inner().crypto_providers)
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
            Check::new(Verdict::Well, name, format!("{}{last}", provider.message))
        }
        _ => Check::new(Verdict::Wrong, name, format!("{}{last}", provider.message))
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
    Some(Check::new(Verdict::Wrong, name, message).with(
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

/// Sees whether the store answers, and whether there are key pairs that nobody can sign with any more.
async fn look_at_key_pairs(context: &Context<'_>, daemon: &Daemon) -> Vec<Check> {
    let count = async |status: CertificateValidity| {
        let request = context.connection.request(ListSigningKeyPairsRequest {
            page_size: 1,
            filter: Some(KeyPairFilter {
                status: status.into(),
                ..KeyPairFilter::default()
            }),
            ..ListSigningKeyPairsRequest::default()
        });
        let answer = daemon.key_pairs().list_signing_key_pairs(request).await?;
        Ok::<_, Status>(answer.into_inner().total_size)
    };
    let counted = async {
        Ok::<_, Status>((
            count(CertificateValidity::Unspecified).await?,
            count(CertificateValidity::Expired).await?,
        ))
    };
    match counted.await {
        Ok((0, _)) => vec![Check::new(Verdict::Well, "key pairs", "there are none yet")],
        Ok((all, 0)) => vec![Check::new(
            Verdict::Well,
            "key pairs",
            format!("there are {all}, and none has expired"),
        )],
        Ok((all, expired)) => vec![
            Check::new(
                Verdict::Note,
                "key pairs",
                format!("there are {all}, of which {expired} have expired"),
            )
            .with("keypairctl list --status EXPIRED shows them"),
        ],
        Err(status) => vec![refused("key pairs", &status)],
    }
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
Nothing is changed, and no question reaches the HSM: the daemon tells what it knows.
The exit code is 1 when something is wrong.

Examples:
  keypairctl doctor
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
        assert!(check.verdict == Verdict::Wrong);
        assert_eq!(check.subject, "HSM");
        assert_eq!(check.remedy, "put the right one in place");
        let unknown = CryptoProviderStatus {
            state: 99,
            ..status
        };
        assert!(judge(&unknown).verdict == Verdict::Wrong);
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
        assert!(check.verdict == Verdict::Wrong);
        assert!(check.message.starts_with("2 keys are doubtful"));
        assert!(check.remedy.contains("doubtful-keys destroy"));
    }
}
