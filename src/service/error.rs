//! Why a use case did not do what was asked.

use crate::certs::CertError;
use crate::domain::{
    CertificateValidity, EntropyError, ProviderKind, ProviderMode, Refusal, Violations,
};
use crate::keyfiles::KeyFileError;
use crate::providers::ProviderError;
use crate::store::StoreError;

/// Why a use case did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The request is not of the form that the contract gives it.
    #[error("the request is malformed: {0}")]
    Malformed(Violations),
    /// Fields of the request cannot be accepted.
    #[error("the request is refused: {0}")]
    Invalid(Violations),
    /// A key file cannot be read: the password is wrong, or it is damaged.
    #[error("a key file cannot be read: {0}")]
    FileUnreadable(Violations),
    /// The private key may not leave its provider.
    #[error("the private key of {id} may not leave {provider}")]
    NotExportable {
        /// The key pair.
        id: String,
        /// Its provider.
        provider: ProviderKind,
    },
    /// The id is taken.
    #[error("the id {0} is taken")]
    KeyPairExists(String),
    /// The id is held by a creation or a deletion that is not finished.
    #[error("the id {0} is held by a creation or a deletion that is not finished")]
    CreationUnfinished(String),
    /// The id is held by a doubtful key.
    #[error("the id {0} is held by a doubtful key")]
    IdDoubtful(String),
    /// An earlier attempt of the same request left a key that is not destroyed yet.
    #[error("an earlier attempt of this request is not undone yet")]
    RequestUnfinished,
    /// There is no such doubtful key.
    #[error("there is no doubtful key {0}")]
    DoubtfulKeyNotFound(String),
    /// The `request_id` came with other settings before.
    #[error("the request id was used with other settings")]
    RequestIdReused,
    /// There is no such key pair.
    #[error("there is no key pair {0}")]
    KeyPairNotFound(String),
    /// The key pair lives in a provider that is off in the configured mode.
    #[error("the key pair {id} lives in {provider}, which is off in {mode} mode")]
    ProviderOff {
        /// The key pair.
        id: String,
        /// Its provider.
        provider: ProviderKind,
        /// The mode.
        mode: ProviderMode,
    },
    /// An unfinished creation or deletion in a provider that is off in the configured mode holds
    /// the id.
    #[error(
        "an unfinished creation or deletion of {id} in {provider} holds the id, and {provider} is off in {mode} mode"
    )]
    HeldInProviderOff {
        /// The id.
        id: String,
        /// The provider.
        provider: ProviderKind,
        /// The mode.
        mode: ProviderMode,
    },
    /// The certificate is expired, or not valid yet.
    #[error("the certificate of {id} is {status:?}")]
    OutsideValidity {
        /// The key pair.
        id: String,
        /// What the certificate is.
        status: CertificateValidity,
    },
    /// A provider returned an ECDSA signature that is none.
    #[error("the provider returned something else than an ECDSA signature")]
    SignatureForm,
    /// What is asked for is for key pairs only that certify themselves.
    #[error("the certificate of {0} is not self-signed")]
    NotSelfSigned(String),
    /// The key pair does not rotate by itself.
    #[error("the key pair {0} has no rotation settings")]
    NoRotation(String),
    /// More calls come in than can be begun.
    #[error("too many calls wait to be begun")]
    Overloaded,
    /// As many watch as may, on this connection or in all.
    #[error("too many watch")]
    TooManyWatchers,
    /// A key pair has as many published generations as it may have.
    #[error("the key pair {id} has as many published generations as it may have")]
    TooManyGenerations {
        /// The key pair.
        id: String,
        /// When there is room for another.
        until: time::OffsetDateTime,
    },
    /// The daemon stops, or the caller's connection has to end.
    #[error("the daemon or the connection ends")]
    Stopping,
    /// The request names a host that is not ours.
    #[error("the host {0:?} is not ours")]
    WrongHost(String),
    /// A web page makes the request: the value of `Origin` or `Sec-Fetch-Site` says so.
    #[error("a web page asks: {0:?}")]
    ForeignPage(String),
    /// The key pair changed since the caller saw it.
    #[error("the key pair {0} has another etag")]
    EtagMismatch(String),
    /// The caller's deadline passed, or the daemon's own limit.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The caller went away.
    #[error("the caller went away")]
    CallerGone,
    /// A provider failed.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The store failed.
    #[error("use the store")]
    Store(#[source] StoreError),
    /// The certificate did not come about. When that is because the new key's signature does not verify,
    /// the key is worthless.
    #[error("make the certificate")]
    Certificate(#[from] CertError),
    /// A key file could not be written.
    #[error("write a key file: {0}")]
    KeyFile(&'static str),
    /// There is no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A fault of ours that was caught.
    #[error("the work panicked")]
    Panicked,
    /// Work behind the call ended without a result.
    #[error("the work was lost: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<KeyFileError> for ServiceError {
    fn from(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Unreadable(field, refusal) => {
                Self::FileUnreadable(Violations::one(field, refusal))
            }
            KeyFileError::Refused(field, refusal) => Self::invalid(field, refusal),
            KeyFileError::Failed(what) => Self::KeyFile(what),
        }
    }
}

impl ServiceError {
    /// Refuses a request by the part that does not have the form it must have.
    pub fn malformed(part: &'static str, sentence: &'static str) -> Self {
        Self::Malformed(Violations::one(part, Refusal::new(sentence)))
    }

    /// Refuses a single field.
    pub fn invalid(field: &'static str, refusal: Refusal) -> Self {
        Self::Invalid(Violations::one(field, refusal))
    }
}
