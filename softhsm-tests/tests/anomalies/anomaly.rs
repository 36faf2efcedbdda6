//! What strikes one call among many, and a store and a provider that it can strike.

use std::mem;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keypaird::domain::{
    Certificate, Event, EventKind, KeyPair, KeyPairId, KeyRef, KeySpec, ListFilter, ListQuery,
    PrivateKey, ProviderKind, PublicKey, RequestId, SealedKey, SignatureAlgorithm, SigningInput,
};
use keypaird::providers::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, KeySearch, LinkedKey, Operation,
    ProviderError, ProviderErrorKind, StoredKey, TokenKey, TokenObject, TokenObjects,
};
use keypaird::store::{
    AnsweredRequest, Change, DiskSpace, Intent, IntentState, KnownKey, MetadataStore, NewIntent,
    NewKeyPair, Page, SharedKey, StoreError,
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// When a call fails.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// Before it had its effect.
    Before,
    /// After that: the answer is lost.
    After,
}

/// Lets one call fail, the n-th.
#[derive(Debug, Default)]
pub struct Anomaly(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Resting,
    Coming {
        calls_before: u64,
        moment: Moment,
    },
    Struck(&'static str),
}

impl Anomaly {
    /// Lets one call fail, after some that do not.
    pub fn strike(&self, calls_before: u64, moment: Moment) {
        *self.0.lock().unwrap() = State::Coming {
            calls_before,
            moment,
        };
    }

    /// Ends, and returns which call has failed, if there were as many.
    pub fn end(&self) -> Option<&'static str> {
        match mem::take(&mut *self.0.lock().unwrap()) {
            State::Struck(call) => Some(call),
            State::Resting | State::Coming { .. } => None,
        }
    }

    /// Tells whether a call is the one.
    fn meets(&self, call: &'static str) -> Option<Moment> {
        let mut state = self.0.lock().unwrap();
        let State::Coming {
            calls_before,
            moment,
        } = *state
        else {
            return None;
        };
        *state = match calls_before.checked_sub(1) {
            Some(calls_before) => State::Coming {
                calls_before,
                moment,
            },
            None => State::Struck(call),
        };
        matches!(*state, State::Struck(_)).then_some(moment)
    }
}

/// Does a call, unless it is the one that fails.
macro_rules! call {
    ($self:ident, $name:expr, $lost:expr, $call:expr) => {
        match $self.anomaly.meets($name) {
            None => $call,
            Some(Moment::Before) => Err($lost),
            // A refusal is no effect: it is handed on.
            Some(Moment::After) => $call.and_then(|_| Err($lost)),
        }
    };
}

/// A store of which a call may fail.
#[derive(Debug)]
pub struct AnomalousStore {
    pub inner: Arc<dyn MetadataStore>,
    pub anomaly: Anomaly,
}

fn io_error() -> StoreError {
    let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    StoreError::Commit(Arc::new(rusqlite::Error::SqliteFailure(failure, None)))
}

/// Makes a method of the trait of each line.
macro_rules! store {
    ($(fn $name:ident($($argument:ident: $of:ty),*) -> $returned:ty;)*) => {
        #[async_trait]
        impl MetadataStore for AnomalousStore {
            $(async fn $name(&self, $($argument: $of),*) -> Result<$returned, StoreError> {
                let call = self.inner.$name($($argument),*);
                call!(self, stringify!($name), io_error(), call.await)
            })*

            fn event_history(&self) -> Arc<str> {
                self.inner.event_history()
            }

            fn event_news(&self) -> watch::Receiver<()> {
                self.inner.event_news()
            }

            fn disk_space(&self) -> Option<DiskSpace> {
                self.inner.disk_space()
            }

            fn failure(&self) -> CancellationToken {
                self.inner.failure()
            }
        }
    };
}

store! {
    fn begin_creation(intent: NewIntent) -> ();
    fn complete_creation(made: NewKeyPair) -> ();
    fn begin_succession(intent: NewIntent) -> ();
    fn replace(was: &KeyPair, becomes: &KeyPair, change: Change) -> bool;
    fn unpublished(id: Option<&KeyPairId>) -> Vec<(KeyPairId, KeyRef)>;
    fn note_published(key_ref: KeyRef, certificate: &Certificate) -> ();
    fn due(now: OffsetDateTime, limit: u32) -> Vec<KeyPairId>;
    fn count_due(before: OffsetDateTime) -> u64;
    fn count_expiring(
        provider: Option<ProviderKind>, from: OffsetDateTime, before: OffsetDateTime, with_rotation: bool
    ) -> u64;
    fn unwarned(now: OffsetDateTime, days: &[u16], limit: u32) -> Vec<(KeyPairId, u16)>;
    fn note_warning(key_pair: &KeyPair, days: u16, time: OffsetDateTime) -> bool;
    fn note_provider_event(kind: EventKind, provider: ProviderKind, time: OffsetDateTime) -> bool;
    fn events_after(sequence: i64, limit: u32) -> Vec<Event>;
    fn event_span() -> (i64, i64);
    fn forget_events(before: OffsetDateTime) -> ();
    fn request_time() -> Option<OffsetDateTime>;
    fn forget_requests(now: OffsetDateTime) -> ();
    fn abort_creation(key_ref: KeyRef, remains: IntentState) -> Option<Intent>;
    fn intent(key_ref: KeyRef) -> Option<Intent>;
    fn intents() -> Vec<Intent>;
    fn doubt(key_ref: KeyRef) -> ();
    fn schedule_destruction(key_ref: KeyRef) -> Option<Intent>;
    fn end_doubt(key_ref: KeyRef) -> bool;
    fn end_intent(key_ref: KeyRef) -> ();
    fn key_pair(id: &KeyPairId) -> Option<KeyPair>;
    fn signing_key(id: &KeyPairId) -> Option<(KeyPair, Option<SealedKey>)>;
    fn list(query: ListQuery, now: OffsetDateTime) -> Page;
    fn key_pair_and_sharers(id: &KeyPairId) -> Option<(KeyPair, Vec<KeyPairId>)>;
    fn sharing_a_key(id: &KeyPairId) -> Vec<KeyPairId>;
    fn shared_keys(filter: &ListFilter, keys: &[KeyRef], now: OffsetDateTime) -> Vec<SharedKey>;
    fn published_version(now: OffsetDateTime) -> String;
    fn begin_deletion(key_pair: &KeyPair, destroy_linked: bool, time: OffsetDateTime) -> bool;
    fn take_back(key_pair: &KeyPair, doubtful: Option<Intent>, time: OffsetDateTime) -> bool;
    fn sealed_key(key_ref: KeyRef) -> Option<SealedKey>;
    fn keys_of(provider: ProviderKind) -> Vec<KnownKey>;
    fn count(provider: ProviderKind) -> u64;
    fn answered_request(
        request_id: &RequestId,
        not_before: OffsetDateTime
    ) -> Option<(AnsweredRequest, Option<KeyPair>)>;
    fn key_encryption_check() -> Option<SealedKey>;
    fn record_key_encryption_check(check: SealedKey) -> ();
}

/// A provider of which a call may fail.
#[derive(Debug)]
pub struct AnomalousProvider {
    pub inner: Arc<dyn CryptoProvider>,
    pub anomaly: Anomaly,
}

impl AnomalousProvider {
    /// The failure that says least: whether the call had its effect is not known.
    fn lost(&self, operation: Operation) -> ProviderError {
        ProviderError::new(self.kind(), operation, ProviderErrorKind::Unavailable)
    }

    fn objects(&self) -> &dyn TokenObjects {
        self.inner.token().unwrap()
    }
}

impl CryptoProvider for AnomalousProvider {
    fn kind(&self) -> ProviderKind {
        self.inner.kind()
    }

    fn availability(&self) -> Result<(), ProviderError> {
        let lost = self.lost(Operation::Connect);
        call!(self, "availability", lost, self.inner.availability())
    }

    fn connect(&self) -> Result<(), ProviderError> {
        self.inner.connect()
    }

    fn disconnect(&self) {
        self.inner.disconnect();
    }

    fn probe(&self) -> Result<(), ProviderError> {
        self.inner.probe()
    }

    fn capabilities(&self) -> Result<Capabilities, ProviderError> {
        let lost = self.lost(Operation::Connect);
        call!(self, "capabilities", lost, self.inner.capabilities())
    }

    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError> {
        let lost = self.lost(Operation::Generate);
        call!(self, "generate", lost, self.inner.generate(name, spec))
    }

    fn import(&self, name: &KeyName, key: &PrivateKey) -> Result<GeneratedKey, ProviderError> {
        let lost = self.lost(Operation::Import);
        call!(self, "import", lost, self.inner.import(name, key))
    }

    fn export(&self, key: &StoredKey) -> Result<PrivateKey, ProviderError> {
        let lost = self.lost(Operation::Export);
        call!(self, "export", lost, self.inner.export(key))
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, ProviderError> {
        let lost = self.lost(Operation::Sign);
        call!(self, "sign", lost, self.inner.sign(key, algorithm, input))
    }

    fn signs_at_once(&self, key: &StoredKey, input: &SigningInput) -> bool {
        self.inner.signs_at_once(key, input)
    }

    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        let lost = self.lost(Operation::Destroy);
        call!(self, "destroy", lost, self.inner.destroy(key_ref))
    }

    fn token(&self) -> Option<&dyn TokenObjects> {
        self.inner.token().map(|_| self as &dyn TokenObjects)
    }
}

impl TokenObjects for AnomalousProvider {
    fn publish_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        let lost = self.lost(Operation::PublishCertificate);
        let publish = || self.objects().publish_certificate(name, certificate);
        call!(self, "publish_certificate", lost, publish())
    }

    fn replace_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        let lost = self.lost(Operation::PublishCertificate);
        let replace = || self.objects().replace_certificate(name, certificate);
        call!(self, "replace_certificate", lost, replace())
    }

    fn find_keys(&self, search: &KeySearch) -> Result<Vec<TokenKey>, ProviderError> {
        let lost = self.lost(Operation::Inventory);
        call!(self, "find_keys", lost, self.objects().find_keys(search))
    }

    fn certificates_of(&self, id: &[u8]) -> Result<Vec<Certificate>, ProviderError> {
        let lost = self.lost(Operation::Inventory);
        let find = || self.objects().certificates_of(id);
        call!(self, "certificates_of", lost, find())
    }

    fn look_at_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        let lost = self.lost(Operation::Inventory);
        let look = || self.objects().look_at_linked_key(key_ref, public_key);
        call!(self, "look_at_linked_key", lost, look())
    }

    fn destroy_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        let lost = self.lost(Operation::Destroy);
        let destroy = || self.objects().destroy_linked_key(key_ref, public_key);
        call!(self, "destroy_linked_key", lost, destroy())
    }

    fn begin_inventory(&self) -> Result<(), ProviderError> {
        self.objects().begin_inventory()
    }

    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError> {
        self.objects().continue_inventory()
    }

    fn sweep_half_made(&self) -> Result<usize, ProviderError> {
        self.objects().sweep_half_made()
    }
}
