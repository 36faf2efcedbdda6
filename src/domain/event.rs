//! What happens to key pairs and providers, for those who watch.

use time::OffsetDateTime;

use super::{KeyPair, KeyPairId, ProviderKind};

/// Something that happened, in the order in which it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place among all events, from 1.
    pub sequence: i64,
    /// When it happened.
    pub time: OffsetDateTime,
    /// What happened.
    pub kind: EventKind,
    /// To what.
    pub subject: EventSubject,
}

/// To what something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSubject {
    /// To a key pair.
    KeyPair {
        /// Which one.
        id: KeyPairId,
        /// What it was after that. None after its deletion.
        after: Option<Box<KeyPair>>,
    },
    /// To a provider.
    Provider(ProviderKind),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A key pair was generated.
    Created,
    /// A key pair was imported from a file, or linked on the token.
    Imported,
    /// Its certificate was replaced by that of a CA.
    CertificateUpdated,
    /// Its next generation was made and published.
    PendingCreated,
    /// Its next generation began to sign.
    Activated,
    /// Its certificate expires soon.
    Expiring,
    /// Its certificate expired.
    Expired,
    /// It was deleted.
    Deleted,
    /// A provider cannot be used.
    ProviderUnavailable,
    /// A provider can be used again.
    ProviderRecovered,
    /// Its labels or its rotation settings were changed.
    Updated,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Created,
        Self::Imported,
        Self::CertificateUpdated,
        Self::PendingCreated,
        Self::Activated,
        Self::Expiring,
        Self::Expired,
        Self::Deleted,
        Self::ProviderUnavailable,
        Self::ProviderRecovered,
        Self::Updated,
    ];
}
