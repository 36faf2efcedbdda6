//! What the daemon remembers: key pairs, what is under way, and which requests were answered.
//!
//! [`MetadataStore`] says it without naming a database. What a method has acknowledged is durable. Private
//! keys on a token are not here; those of the software provider are, encrypted by it.

mod embedded;
mod error;
mod intent;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use embedded::{BackupError, BackupFile, EmbeddedStore, Restored, back_up, inspect};
pub use error::StoreError;
pub use intent::{Incarnation, Intent, IntentState, NewIntent};

use crate::domain::{
    Certificate, Event, EventKind, KeyPair, KeyPairId, KeyRef, ListFilter, ListQuery, PageToken,
    ProviderKind, RequestId, SealedKey, SettingsDigest,
};

/// A durable store of key pairs.
#[async_trait]
pub trait MetadataStore: fmt::Debug + Send + Sync {
    /// Records that a key is about to be made in a provider that keeps keys itself, and takes its id.
    ///
    /// # Errors
    /// [`StoreError::IdTaken`]; [`StoreError::IdUnfinished`]; [`StoreError::IdDoubtful`].
    async fn begin_creation(&self, intent: NewIntent) -> Result<(), StoreError>;

    /// Records a finished key pair.
    ///
    /// With an intent, exactly that one ends. It must be of this opening of the store, and in
    /// [`IntentState::Creating`]. Without one the key must be new to the store, and the id is
    /// taken. A linked key may be doubtful: then its intent ends, and its id may be that of the key
    /// pair.
    ///
    /// # Errors
    /// [`StoreError::IntentGone`]; [`StoreError::IdTaken`]; [`StoreError::IdUnfinished`];
    /// [`StoreError::IdDoubtful`]; [`StoreError::KeyTaken`]; [`StoreError::KeyUnfinished`].
    async fn complete_creation(&self, made: NewKeyPair) -> Result<(), StoreError>;

    /// Records that a key is about to be made in a provider that keeps keys itself, for a key pair that there
    /// is already.
    ///
    /// # Errors
    /// [`StoreError::IdGone`] when it was deleted meanwhile.
    async fn begin_succession(&self, intent: NewIntent) -> Result<(), StoreError>;

    /// Puts a key pair in the place of what it was when it was read. Ends the intent of a key that
    /// is new to it, as [`MetadataStore::complete_creation`] does. An encrypted private key goes
    /// with the key it is of. Of a generation that is no longer there the public part is kept, and
    /// the destruction of its key is scheduled, unless it was linked or the store itself has it.
    ///
    /// A token has new certificates yet to be told: see [`MetadataStore::unpublished`].
    ///
    /// Returns false when the key pair is not there or was changed since.
    ///
    /// # Errors
    /// [`StoreError::IntentGone`].
    async fn replace(
        &self,
        was: &KeyPair,
        becomes: &KeyPair,
        change: Change,
    ) -> Result<bool, StoreError>;

    /// Returns the keys whose certificate is new or was replaced and may not lie on the token yet: those of one key pair, or all.
    async fn unpublished(
        &self,
        id: Option<&KeyPairId>,
    ) -> Result<Vec<(KeyPairId, KeyRef)>, StoreError>;

    /// Notes that the certificate of a key lies on the token.
    async fn note_published(
        &self,
        key_ref: KeyRef,
        certificate: &Certificate,
    ) -> Result<(), StoreError>;

    /// Returns the key pairs with which something is to be done at a time or before: see
    /// [`crate::domain::Lifecycle`]. The one that waits longest comes first.
    async fn due(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<KeyPairId>, StoreError>;

    /// Returns how many key pairs wait for something to be done with them since before a time.
    async fn count_due(&self, before: OffsetDateTime) -> Result<u64, StoreError>;

    /// Returns the key pairs whose expiry is to be told of, with the days of the warning, or zero for those that
    /// expired. `days` are those at which warnings are given.
    async fn unwarned(
        &self,
        now: OffsetDateTime,
        days: &[u16],
        limit: u32,
    ) -> Result<Vec<(KeyPairId, u16)>, StoreError>;

    /// Records that a warning was given: the event, and that the same is not given again.
    ///
    /// Returns false when the key pair is not there or was changed since.
    async fn note_warning(
        &self,
        key_pair: &KeyPair,
        days: u16,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError>;

    /// Records that a provider cannot be used, or can be used again, unless its last event says the
    /// same. A provider without events can be used.
    ///
    /// Returns whether it was recorded.
    async fn note_provider_event(
        &self,
        kind: EventKind,
        provider: ProviderKind,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError>;

    /// Returns the events after one, in their order: up to `limit`, and fewer when they are large.
    /// None only when there are no more.
    async fn events_after(&self, sequence: i64, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// Returns the last event that was forgotten, and the last one there is.
    async fn event_span(&self) -> Result<(i64, i64), StoreError>;

    /// Returns the name of the line of events, which is another one after a restore from a backup.
    /// Empty for a line that began before there were names.
    fn event_history(&self) -> Arc<str>;

    /// Forgets the events before the first one that is not older than a time.
    async fn forget_events(&self, before: OffsetDateTime) -> Result<(), StoreError>;

    /// Tells when there may be new events.
    fn event_news(&self) -> watch::Receiver<()>;

    /// Returns a token that is cancelled when nothing can be written any more until the store is opened
    /// anew.
    fn failure(&self) -> CancellationToken;

    /// Notes that the creation of a key has ended without a key pair. `remains` is what may be left
    /// of it: [`IntentState::Aborted`] or [`IntentState::Destroying`].
    ///
    /// Returns the intent, by which what is left is to be destroyed. None when there is no intent:
    /// the key was recorded after all, or nothing of it is left. None too when it is doubtful.
    async fn abort_creation(
        &self,
        key_ref: KeyRef,
        remains: IntentState,
    ) -> Result<Option<Intent>, StoreError>;

    /// Returns the intent of a key.
    async fn intent(&self, key_ref: KeyRef) -> Result<Option<Intent>, StoreError>;

    /// Returns all intents.
    async fn intents(&self) -> Result<Vec<Intent>, StoreError>;

    /// Notes that a key that was to be destroyed may not be ours: only an operator ends that.
    async fn doubt(&self, key_ref: KeyRef) -> Result<(), StoreError>;

    /// Schedules the destruction of a doubtful key, because an operator says so.
    ///
    /// Returns the intent; none when the key is not doubtful. None too when another program chose
    /// its `CKA_ID`, and its public key is not known.
    async fn schedule_destruction(&self, key_ref: KeyRef) -> Result<Option<Intent>, StoreError>;

    /// Notes that a doubtful key is gone from its provider. Its id is free again, unless something
    /// else has it.
    ///
    /// Returns false when the key is not doubtful.
    async fn end_doubt(&self, key_ref: KeyRef) -> Result<bool, StoreError>;

    /// Notes that nothing of a key is left in its provider. Its id is free again, unless something
    /// else has it.
    ///
    /// A doubtful key stays doubtful.
    async fn end_intent(&self, key_ref: KeyRef) -> Result<(), StoreError>;

    /// Returns a key pair.
    async fn key_pair(&self, id: &KeyPairId) -> Result<Option<KeyPair>, StoreError>;

    /// Returns a key pair with the encrypted private key that signs, when the store has it: both as
    /// they are at one moment. It waits for no other kind of read.
    async fn signing_key(
        &self,
        id: &KeyPairId,
    ) -> Result<Option<(KeyPair, Option<SealedKey>)>, StoreError>;

    /// Returns one page of a list. `now` decides what is expired.
    async fn list(&self, query: ListQuery, now: OffsetDateTime) -> Result<Page, StoreError>;

    /// Returns a key pair with the others that have a key of it too, all as they are at one moment.
    /// See [`MetadataStore::sharing_a_key`].
    async fn key_pair_and_sharers(
        &self,
        id: &KeyPairId,
    ) -> Result<Option<(KeyPair, Vec<KeyPairId>)>, StoreError>;

    /// Returns the other key pairs that have a key of this one too, in the order of their making:
    /// the first hundred of them.
    async fn sharing_a_key(&self, id: &KeyPairId) -> Result<Vec<KeyPairId>, StoreError>;

    /// Returns those of some keys that several key pairs of a list publish. `now` decides what is
    /// no longer published.
    async fn shared_keys(
        &self,
        filter: &ListFilter,
        keys: &[KeyRef],
        now: OffsetDateTime,
    ) -> Result<Vec<SharedKey>, StoreError>;

    /// Returns a text that differs after every change of what is published: of the key pairs, by a
    /// change or by an expiry.
    async fn published_version(&self, now: OffsetDateTime) -> Result<String, StoreError>;

    /// Removes a key pair that still has this revision, and schedules the destruction of the keys
    /// that its provider keeps, of linked ones only when told. The intent of a key must be ended
    /// when it is destroyed; until then it holds the id.
    ///
    /// Returns false when the key pair is not there or has another revision.
    async fn begin_deletion(
        &self,
        key_pair: &KeyPair,
        destroy_linked: bool,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError>;

    /// Removes a key pair whose creation failed after it was recorded; and that it was the answer
    /// to a request, so that this can be made again. Its keys count as creations that have ended
    /// ([`IntentState::Aborted`]). A linked one is left as it is, and is doubtful again if it was:
    /// `doubtful` is its intent from before it was linked.
    async fn take_back(
        &self,
        key_pair: &KeyPair,
        doubtful: Option<Intent>,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError>;

    /// Returns the encrypted private key of a software key.
    async fn sealed_key(&self, key_ref: KeyRef) -> Result<Option<SealedKey>, StoreError>;

    /// Returns the keys of all key pairs of a provider.
    async fn keys_of(&self, provider: ProviderKind) -> Result<Vec<KnownKey>, StoreError>;

    /// Returns how many key pairs have a certificate that expires from `from` on and before
    /// `before`, of one provider or of all; those that rotate are left out unless `with_rotation`.
    async fn count_expiring(
        &self,
        provider: Option<ProviderKind>,
        from: OffsetDateTime,
        before: OffsetDateTime,
        with_rotation: bool,
    ) -> Result<u64, StoreError>;

    /// Returns how much room the disk of the store has. None when that is not known.
    fn disk_space(&self) -> Option<DiskSpace>;

    /// Returns how many key pairs a provider has.
    async fn count(&self, provider: ProviderKind) -> Result<u64, StoreError>;

    /// Returns a request that was answered not before a time, with the key pair that it made. None
    /// of that when it was deleted, also when another one has its id since.
    async fn answered_request(
        &self,
        request_id: &RequestId,
        not_before: OffsetDateTime,
    ) -> Result<Option<(AnsweredRequest, Option<KeyPair>)>, StoreError>;

    /// Returns the latest time of named requests that the store has: the last one that
    /// [`Self::forget_requests`] noted, or that a request was answered at. It goes on only while a
    /// daemon runs, and has nothing to do with the clock.
    async fn request_time(&self) -> Result<Option<OffsetDateTime>, StoreError>;

    /// Forgets the requests that were answered more than a day before a time of named requests, and
    /// notes the time.
    async fn forget_requests(&self, now: OffsetDateTime) -> Result<(), StoreError>;

    /// Returns what tells the key encryption key that the store was made with.
    async fn key_encryption_check(&self) -> Result<Option<SealedKey>, StoreError>;

    /// Records what tells the key encryption key, once and for all.
    async fn record_key_encryption_check(&self, check: SealedKey) -> Result<(), StoreError>;
}

/// How much room a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What the daemon may still write, in bytes.
    pub available_bytes: u64,
    /// What the disk has in all, in bytes.
    pub total_bytes: u64,
}

/// A key of a key pair, with what tells its certificate from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Its name in the provider.
    pub key_ref: KeyRef,
    /// The key pair.
    pub key_pair: KeyPairId,
    /// The SHA-256 fingerprint of its certificate: see [`Certificate::sha256_fingerprint`].
    pub fingerprint: String,
}

/// A key that several key pairs of a list publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedKey {
    /// The key, by its name as one key pair has it.
    pub key_ref: KeyRef,
    /// Whether an earlier key pair of the list publishes it.
    pub is_repeated: bool,
    /// The later key pairs of the list that publish it: the first hundred of them. None where it is
    /// repeated itself.
    pub later: Vec<KeyPair>,
}

/// A store that was looked at, and not opened for use.
#[derive(Clone, Debug)]
pub struct StoreInspection {
    /// A daemon uses it.
    pub in_use: bool,
    /// Its schema. None when there is no store yet.
    pub schema: Option<SchemaVersion>,
    /// How many key pairs it has.
    pub key_pairs: u64,
    /// What tells the key encryption key that it was made with.
    pub key_encryption_check: Option<SealedKey>,
}

/// The version of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// That of the store.
    pub found: usize,
    /// The latest one that is known here.
    pub known: usize,
}

/// What goes with a change of a key pair.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it happens.
    pub time: OffsetDateTime,
    /// As what those are told of it who watch.
    pub event: Option<EventKind>,
    /// The encrypted private key of the generation that is new.
    pub sealed_key: Option<SealedKey>,
}

/// A finished key pair with what is stored beside it.
#[derive(Clone, Debug)]
pub struct NewKeyPair {
    /// The key pair.
    pub key_pair: KeyPair,
    /// Its encrypted private key, when the provider does not keep it.
    pub sealed_key: Option<SealedKey>,
    /// The request that it answers, when that had a name.
    pub request: Option<AnsweredRequest>,
    /// The key whose intent was recorded for it. None where no intent is needed: the store has the
    /// key itself, or the key was linked.
    pub intent: Option<KeyRef>,
}

/// A request with a name, and what it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredRequest {
    /// The caller's name for the request.
    pub request_id: RequestId,
    /// What tells its settings from others.
    pub settings: SettingsDigest,
    /// The key pair it made.
    pub key_pair: KeyPairId,
    /// When it was made, by the time of named requests: see [`MetadataStore::request_time`].
    pub made_at: OffsetDateTime,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The key pairs.
    pub key_pairs: Vec<KeyPair>,
    /// Where the page ended, when there is another.
    pub next: Option<PageToken>,
    /// How many key pairs meet the conditions over all pages, where that was asked for. Elsewhere
    /// it is not exact.
    pub total: u64,
    /// For each of them the others that have a key of it too, as [`MetadataStore::sharing_a_key`]
    /// says, where that was asked for.
    pub sharers: Vec<Vec<KeyPairId>>,
}
