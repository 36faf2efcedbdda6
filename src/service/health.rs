//! How the providers are, as far as it is known without asking them.
//!
//! What is known comes from signatures: those that callers have made, and where there are none, canaries ([`super::canary`]).
//! Whoever asks for the health is told what is known, and reaches no device.

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Service, ServiceError};
use crate::domain::{KeyPairId, ProviderKind};
use crate::providers::{Finding, Missing, ProviderError, ProviderErrorKind, ProviderHandle};

/// How a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderHealth {
    /// The provider.
    pub provider: ProviderKind,
    /// What it comes to.
    pub state: ProviderState,
    /// The same in a sentence. It has no secrets in it, and no paths.
    pub message: String,
    /// What an operator can do about it. None when there is nothing to be done.
    pub remedy: Option<&'static str>,
    /// When it was last known to sign. None when it has not signed since the start.
    pub last_signature: Option<OffsetDateTime>,
    /// How many canaries there were since the start.
    pub canaries: u64,
    /// How many of them failed.
    pub canary_failures: u64,
}

/// What the health of a provider comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderState {
    /// It signs, or has no key pair to sign with and is there.
    Serving,
    /// It is not connected.
    Unavailable,
    /// Its token refused the PIN, or would.
    LoginRefused,
    /// It is connected, and does not sign.
    NotSigning,
}

impl ProviderState {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Serving,
        Self::Unavailable,
        Self::LoginRefused,
        Self::NotSigning,
    ];

    /// Returns its name for monitoring.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Unavailable => "unavailable",
            Self::LoginRefused => "login_refused",
            Self::NotSigning => "not_signing",
        }
    }
}

/// What is known of the providers.
#[derive(Debug)]
pub(super) struct HealthBoard {
    local: Mutex<Known>,
    hsm: Mutex<Known>,
}

impl Default for HealthBoard {
    fn default() -> Self {
        // Software needs no connection, and is taken to be there from the start.
        let local = Known {
            proof: Proof::NoKeyPair,
            ..Known::default()
        };
        Self {
            local: Mutex::new(local),
            hsm: Mutex::default(),
        }
    }
}

/// What is known of a provider.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Why it could not be connected, when it was tried last.
    pub(super) unconnected: Option<Said>,
    /// What its last signature says.
    pub(super) proof: Proof,
    /// What was logged of its canaries, since it last signed.
    pub(super) complaint: Option<Said>,
    /// When it was last known to sign.
    pub(super) last_signature: Option<OffsetDateTime>,
    pub(super) canaries: u64,
    pub(super) canary_failures: u64,
    /// The key pair that the last canary signed with.
    pub(super) canary_key: Option<KeyPairId>,
}

/// What the last signature of a provider says, a caller's or a canary's.
#[derive(Debug, Default)]
pub(super) enum Proof {
    /// There was none since it was connected.
    #[default]
    Awaited,
    /// It was made.
    Signs,
    /// There is no key pair to sign with, and the provider is there.
    NoKeyPair,
    /// It was not made.
    Fails(Said),
}

/// A sentence and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) message: String,
    pub(super) remedy: &'static str,
}

impl Said {
    /// Says why a provider could not be connected.
    pub(super) fn of_connection(failure: &ProviderError) -> Self {
        match &failure.finding {
            Some(finding) => Self {
                message: finding.to_string(),
                remedy: finding.remedy(),
            },
            None => Self {
                message: failure.kind.to_string(),
                remedy: SEE_THE_LOG,
            },
        }
    }

    /// Says why a canary did not sign.
    pub(super) fn of_canary(failure: &ProviderError) -> Self {
        let of = |message: String, remedy| Self { message, remedy };
        match (failure.kind, &failure.finding) {
            (ProviderErrorKind::TimedOut, _) => of(
                "a trial signature did not come back in time".into(),
                Finding::ModuleHangs.remedy(),
            ),
            (ProviderErrorKind::Busy, _) => of(
                "more work waits than there is room for, and none of it comes back".into(),
                "look at the way to the token, and at who sends so much",
            ),
            (ProviderErrorKind::KeyMissing, _) => of(
                "the private keys of key pairs are not there".into(),
                "see whether the token is the right one; the log names the key pairs",
            ),
            (ProviderErrorKind::KeyUnreadable, _) => of(
                "the private keys in the store cannot be decrypted".into(),
                "restore the store and the key encryption key that belong together",
            ),
            (ProviderErrorKind::Untrustworthy, _) => of(
                "a trial signature does not verify with the public key".into(),
                "look at the token and its module: none of its signatures is handed out",
            ),
            (_, Some(finding)) => of(
                format!("a trial signature failed: {finding}"),
                finding.remedy(),
            ),
            (kind, None) => of(format!("a trial signature failed: {kind}"), SEE_THE_LOG),
        }
    }
}

impl Known {
    fn state(&self, availability: &Result<(), ProviderError>) -> ProviderState {
        match (availability, &self.proof) {
            (Err(failure), _) if failure.kind == ProviderErrorKind::LoginRefused => {
                ProviderState::LoginRefused
            }
            (Err(_), _) | (Ok(()), Proof::Awaited) => ProviderState::Unavailable,
            (Ok(()), Proof::Fails(_)) => ProviderState::NotSigning,
            (Ok(()), Proof::Signs | Proof::NoKeyPair) => ProviderState::Serving,
        }
    }
}

impl HealthBoard {
    /// Returns what is known of a provider, to be looked at or written on.
    pub(super) fn of(&self, provider: ProviderKind) -> &Mutex<Known> {
        match provider {
            ProviderKind::Local => &self.local,
            ProviderKind::Hsm => &self.hsm,
        }
    }
}

impl Service {
    /// Returns a token that is cancelled when the store can no longer be written until the daemon is
    /// started anew.
    pub fn store_failure(&self) -> CancellationToken {
        self.store.failure()
    }

    /// Returns how each of the providers is that run.
    pub fn health(&self) -> Vec<ProviderHealth> {
        let handles = self.registry.iter();
        handles.map(|handle| self.health_of(handle)).collect()
    }

    /// Returns how each of the providers is that run, what it cannot do, and how many of its keys
    /// are doubtful.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn crypto_providers(
        &self,
    ) -> Result<Vec<(ProviderHealth, Vec<Missing>, usize)>, ServiceError> {
        let doubtful = self.doubtful_keys().await?;
        let providers = self.registry.iter().map(|handle| {
            let capabilities = handle.provider().capabilities().unwrap_or_default();
            let doubtful = doubtful.iter().filter(|key| key.provider == handle.kind());
            (
                self.health_of(handle),
                capabilities.missing(),
                doubtful.count(),
            )
        });
        Ok(providers.collect())
    }

    /// Returns what the health of each of the providers comes to.
    pub fn provider_states(&self) -> Vec<(ProviderKind, ProviderState)> {
        let states = self.registry.iter().map(|handle| {
            let known = self.health.of(handle.kind()).lock();
            (handle.kind(), known.state(&handle.availability()))
        });
        states.collect()
    }

    fn health_of(&self, handle: &ProviderHandle) -> ProviderHealth {
        let known = self.health.of(handle.kind()).lock();
        let nothing_wrong = |message: &str| (message.to_owned(), None);
        let what_is_wrong = |said: &Said| (said.message.clone(), Some(said.remedy));
        let availability = handle.availability();
        let state = known.state(&availability);
        let (message, remedy) = match (&availability, &known.proof, &known.unconnected) {
            (Err(_), _, Some(said)) | (Ok(()), Proof::Fails(said), _) => what_is_wrong(said),
            (Err(failure), _, None) if failure.source.is_some() => {
                what_is_wrong(&Said::of_connection(failure))
            }
            (Err(_), _, None) => nothing_wrong("is being connected"),
            (Ok(()), Proof::Awaited, _) => {
                nothing_wrong("is connected, and is tried by a signature")
            }
            (Ok(()), Proof::Signs, _) => nothing_wrong("signs"),
            (Ok(()), Proof::NoKeyPair, _) => {
                nothing_wrong("is there, and has no key pair yet to be tried with")
            }
        };
        ProviderHealth {
            provider: handle.kind(),
            state,
            message,
            remedy,
            last_signature: known.last_signature,
            canaries: known.canaries,
            canary_failures: known.canary_failures,
        }
    }
}

const SEE_THE_LOG: &str = "the daemon's log has the cause";
