//! The use cases over a store and a provider that fail when told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use time::macros::datetime;

use super::report::{Code, report};
use super::*;
use crate::domain::{
    Certificate, EntropyError, Generation, KeyRef, KeySpec, NewKeyPairSettings, PrivateKey,
    ProviderMode, ProviderPolicy, RequestId, SignatureAlgorithm, SigningInput, TokenAttributes,
};
use crate::providers::local::{KeyEncryptionKey, LocalProvider};
use crate::providers::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, KeySearch, Lane, Lanes, LinkedKey,
    Operation, ProviderError, ProviderErrorKind, StoredKey, TokenKey, TokenObject,
    TokenObjectClass, TokenObjects,
};
use crate::store::{EmbeddedStore, NewIntent};

#[derive(Debug)]
struct NoonClock;

impl Clock for NoonClock {
    fn now(&self) -> OffsetDateTime {
        datetime!(2026-11-23 12:00:00.5 UTC)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counting(AtomicU64);

impl Entropy for Counting {
    fn bits_128(&self) -> Result<[u8; 16], EntropyError> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(u128::from(count).to_be_bytes())
    }
}

/// What a provider does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It fails at an operation, and says so.
    Fails(Operation),
    /// It does not destroy a key.
    Keeps(KeyRef),
    /// It signs something else.
    SignsWrongly,
    /// It panics when it signs.
    Panics,
    /// It destroys keys, and does not look for half-made objects.
    DoesNotSweep,
    /// Another private key has the `CKA_ID` of a linked one.
    SharesCkaId,
}

/// The software provider, dressed up as a token that keeps its keys, and failing when told.
#[derive(Debug)]
pub(super) struct Failing {
    inner: LocalProvider,
    pub(super) fault: Mutex<Fault>,
    pub(super) keys: Mutex<Vec<KeyRef>>,
    /// The fingerprints of the certificates.
    certificates: Mutex<HashMap<KeyRef, String>>,
    /// A certificate that another program put on the token.
    foreign_certificate: Mutex<Option<Certificate>>,
    /// Whether it destroys no key, whatever else it does wrong.
    keeps_all: AtomicBool,
    /// What an inventory has not told yet.
    inventory: Mutex<Vec<TokenObject>>,
    /// How often an inventory could not be begun.
    inventories_failed: AtomicU64,
    /// What a certificate waits for before it is put on the token, if anything.
    before_publishing: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Failing {
    pub(super) fn new(kek: KeyEncryptionKey) -> Self {
        Self {
            inner: LocalProvider::new(kek),
            fault: Mutex::new(Fault::None),
            keys: Mutex::default(),
            certificates: Mutex::default(),
            foreign_certificate: Mutex::default(),
            keeps_all: AtomicBool::new(false),
            inventory: Mutex::default(),
            inventories_failed: AtomicU64::new(0),
            before_publishing: Mutex::default(),
        }
    }

    fn put(&self, name: &KeyName, certificate: &Certificate) {
        let fingerprint = certificate.sha256_fingerprint();
        self.certificates.lock().insert(name.key_ref, fingerprint);
    }

    fn check(&self, operation: Operation) -> Result<(), ProviderError> {
        match *self.fault.lock() {
            Fault::Fails(failing) if failing == operation => Err(ProviderError::new(
                ProviderKind::Hsm,
                operation,
                ProviderErrorKind::Unavailable,
            )),
            _ => Ok(()),
        }
    }
}

impl CryptoProvider for Failing {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Hsm
    }

    fn availability(&self) -> Result<(), ProviderError> {
        self.check(Operation::Connect)
    }

    fn connect(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn disconnect(&self) {}

    fn probe(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn capabilities(&self) -> Result<Capabilities, ProviderError> {
        self.inner.capabilities()
    }

    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError> {
        self.keys.lock().push(name.key_ref);
        self.check(Operation::Generate)?;
        self.inner.generate(name, spec)
    }

    fn import(&self, name: &KeyName, key: &PrivateKey) -> Result<GeneratedKey, ProviderError> {
        self.keys.lock().push(name.key_ref);
        self.check(Operation::Import)?;
        self.inner.import(name, key)
    }

    fn export(&self, key: &StoredKey) -> Result<PrivateKey, ProviderError> {
        self.inner.export(key)
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, ProviderError> {
        self.check(Operation::Sign)?;
        let fault = *self.fault.lock();
        match fault {
            Fault::SignsWrongly => {
                let other = SigningInput::Message(b"something else"[..].into());
                self.inner.sign(key, algorithm, &other)
            }
            Fault::Panics => panic!("told to"),
            Fault::None
            | Fault::Fails(_)
            | Fault::Keeps(_)
            | Fault::DoesNotSweep
            | Fault::SharesCkaId => self.inner.sign(key, algorithm, input),
        }
    }

    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        self.check(Operation::Destroy)?;
        if self.keeps_all.load(Ordering::Relaxed) || *self.fault.lock() == Fault::Keeps(key_ref) {
            let kind = ProviderErrorKind::Failed;
            return Err(ProviderError::new(self.kind(), Operation::Destroy, kind));
        }
        self.keys.lock().retain(|kept| *kept != key_ref);
        self.certificates.lock().remove(&key_ref);
        Ok(())
    }

    fn token(&self) -> Option<&dyn TokenObjects> {
        Some(self)
    }
}

impl TokenObjects for Failing {
    fn publish_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        let awaited = self.before_publishing.lock().take();
        if let Some(awaited) = awaited {
            awaited.recv().unwrap();
        }
        self.check(Operation::PublishCertificate)?;
        self.put(name, certificate);
        Ok(())
    }

    fn replace_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        self.check(Operation::PublishCertificate)?;
        self.put(name, certificate);
        Ok(())
    }

    fn find_keys(&self, search: &KeySearch) -> Result<Vec<TokenKey>, ProviderError> {
        let keys = self.keys.lock().clone().into_iter();
        let named = keys.filter(|key| *search == KeySearch::Id(key.as_bytes().to_vec()));
        let found = named.map(|key| TokenKey {
            id: key.as_bytes().to_vec(),
            label: String::new(),
            kind: "EC".to_owned(),
            public_key: None,
            token_attributes: TokenAttributes {
                sensitive: true,
                always_sensitive: true,
                never_extractable: true,
                local: true,
            },
            can_sign: true,
        });
        Ok(found.collect())
    }

    fn certificates_of(&self, _: &[u8]) -> Result<Vec<Certificate>, ProviderError> {
        Ok(self.foreign_certificate.lock().iter().cloned().collect())
    }

    fn look_at_linked_key(
        &self,
        key_ref: KeyRef,
        _: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        Ok(match self.keys.lock().contains(&key_ref) {
            true => LinkedKey::Present,
            false => LinkedKey::Missing,
        })
    }

    fn destroy_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        if *self.fault.lock() == Fault::SharesCkaId {
            return Ok(LinkedKey::Ambiguous);
        }
        let found = self.look_at_linked_key(key_ref, public_key)?;
        self.destroy(key_ref)?;
        Ok(found)
    }

    fn begin_inventory(&self) -> Result<(), ProviderError> {
        self.check(Operation::Inventory).inspect_err(|_| {
            self.inventories_failed.fetch_add(1, Ordering::Relaxed);
        })?;
        let object = |class, key_ref: KeyRef, fingerprint| TokenObject {
            class,
            id: key_ref.as_bytes().to_vec(),
            label: String::new(),
            fingerprint,
        };
        let keys = self.keys.lock().clone().into_iter();
        let keys = keys.map(|key| object(TokenObjectClass::PrivateKey, key, None));
        let certificates = self.certificates.lock().clone().into_iter();
        let certificates = certificates.map(|(key, fingerprint)| {
            object(TokenObjectClass::Certificate, key, Some(fingerprint))
        });
        *self.inventory.lock() = keys.chain(certificates).collect();
        Ok(())
    }

    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError> {
        Ok(std::mem::take(&mut *self.inventory.lock()))
    }

    fn sweep_half_made(&self) -> Result<usize, ProviderError> {
        match *self.fault.lock() {
            Fault::DoesNotSweep => {
                let kind = ProviderErrorKind::Failed;
                Err(ProviderError::new(self.kind(), Operation::Destroy, kind))
            }
            _ => Ok(0),
        }
    }
}

struct Setup {
    service: Arc<Service>,
    provider: Arc<Failing>,
    store: Arc<EmbeddedStore>,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(queue_length: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kek = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
        let provider = Arc::new(Failing::new(kek));
        let lanes = Lanes {
            sign_threads: 1,
            manage_threads: 1,
            queue_length,
            operation_timeout: Duration::from_secs(10),
        };
        let dyn_provider: Arc<dyn CryptoProvider> = provider.clone();
        let handle = ProviderHandle::start(dyn_provider, &lanes).unwrap();
        let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.db")).unwrap());
        let policy = ProviderPolicy {
            mode: ProviderMode::Hsm,
            default: ProviderKind::Hsm,
        };
        let service = Arc::new(Service::new(
            store.clone(),
            Registry::new(policy, vec![Arc::new(handle)]),
            Arc::new(NoonClock),
            Arc::new(Counting::default()),
            ServiceConfig::default(),
        ));
        Self {
            service,
            provider,
            store,
            folder,
        }
    }

    /// Returns a service over the same store, which has only the software provider.
    fn in_local_mode(&self) -> Arc<Service> {
        let kek = KeyEncryptionKey::create(&self.folder.path().join("other")).unwrap();
        let lanes = Lanes {
            sign_threads: 1,
            manage_threads: 1,
            queue_length: 8,
            operation_timeout: Duration::from_secs(10),
        };
        let handle = ProviderHandle::start(Arc::new(LocalProvider::new(kek)), &lanes).unwrap();
        let policy = ProviderPolicy {
            mode: ProviderMode::Local,
            default: ProviderKind::Local,
        };
        Arc::new(Service::new(
            self.store.clone(),
            Registry::new(policy, vec![Arc::new(handle)]),
            Arc::new(NoonClock),
            Arc::new(Counting::default()),
            ServiceConfig::default(),
        ))
    }

    fn fail(&self, fault: Fault) {
        *self.provider.fault.lock() = fault;
    }

    async fn delete(&self, id: &str) -> Result<PrivateKeyFate, ServiceError> {
        let request = DeleteRequest {
            id: id.to_owned(),
            ..DeleteRequest::default()
        };
        self.service.delete(request).await
    }

    async fn generate(&self) -> Result<KeyPairView, ServiceError> {
        self.generate_as("x").await
    }

    async fn generate_as(&self, id: &str) -> Result<KeyPairView, ServiceError> {
        self.generate_named(id, "").await
    }

    async fn generate_named(
        &self,
        id: &str,
        request_id: &str,
    ) -> Result<KeyPairView, ServiceError> {
        match self.service.generate(request(id, request_id)).await? {
            GenerateOutcome::Made(view) => Ok(*view),
            GenerateOutcome::WouldMake(_) => unreachable!("the request is no dry run"),
        }
    }

    /// Leaves the intent of a creation that has ended, as if the token had been lost in the middle.
    async fn leave_attempt(&self, id: &str, request_id: &str) -> KeyRef {
        let key_ref = KeyRef::from_random([7; 16]);
        self.leave_attempt_with(key_ref, id, request_id).await;
        key_ref
    }

    async fn leave_attempt_with(&self, key_ref: KeyRef, id: &str, request_id: &str) {
        let intent = NewIntent {
            key_ref,
            id: KeyPairId::parse(id).unwrap(),
            generation: Generation::FIRST,
            provider: ProviderKind::Hsm,
            request: RequestId::parse(request_id).ok(),
        };
        self.store.begin_creation(intent).await.unwrap();
        let ended = self
            .store
            .abort_creation(key_ref, IntentState::Aborted)
            .await;
        assert!(ended.unwrap().is_some());
    }

    fn handle(&self) -> &Arc<ProviderHandle> {
        let handle = self.service.registry().provider(ProviderKind::Hsm);
        handle.unwrap()
    }

    async fn states(&self) -> Vec<IntentState> {
        let intents = self.store.intents().await.unwrap();
        intents.iter().map(|intent| intent.state).collect()
    }

    fn keys(&self) -> usize {
        self.provider.keys.lock().len()
    }
}

fn request(id: &str, request_id: &str) -> GenerateRequest {
    GenerateRequest {
        settings: NewKeyPairSettings {
            id: Some(id.into()),
            common_name: "Example".into(),
            organization: "Acme".into(),
            country: "US".into(),
            valid_days: 1,
            key_algorithm: "EC".into(),
            ..NewKeyPairSettings::default()
        },
        request_id: request_id.into(),
        ..GenerateRequest::default()
    }
}

fn told(error: &ServiceError) -> (Code, &'static str) {
    let report = report(error);
    (report.code, report.reason)
}

#[tokio::test]
async fn a_key_whose_signature_does_not_verify_is_destroyed_and_internal() {
    let setup = Setup::new(8);
    setup.fail(Fault::SignsWrongly);
    let error = setup.generate().await.unwrap_err();
    assert_eq!(told(&error), (Code::Internal, "INTERNAL"));
    assert_eq!(setup.keys(), 0);
    // Nothing is left of it: not even its id is taken.
    setup.fail(Fault::None);
    setup.generate().await.unwrap();
}

#[tokio::test]
async fn a_generation_that_fails_at_any_step_leaves_nothing() {
    let setup = Setup::new(8);
    for operation in [
        Operation::Generate,
        Operation::Sign,
        Operation::PublishCertificate,
    ] {
        setup.fail(Fault::Fails(operation));
        let error = setup.generate().await.unwrap_err();
        assert_eq!(
            told(&error),
            (Code::Unavailable, "PROVIDER_UNAVAILABLE"),
            "{operation}"
        );
        assert_eq!(setup.keys(), 0, "{operation}");
        assert!(
            setup.store.intents().await.unwrap().is_empty(),
            "{operation}"
        );
    }
    setup.fail(Fault::None);
    setup.generate().await.unwrap();
}

#[tokio::test]
async fn a_panic_in_a_provider_is_internal_and_the_next_call_succeeds() {
    let setup = Setup::new(8);
    setup.fail(Fault::Panics);
    let error = setup.generate().await.unwrap_err();
    assert_eq!(told(&error), (Code::Internal, "INTERNAL"));
    setup.fail(Fault::None);
    setup.generate().await.unwrap();
    assert_eq!(setup.keys(), 1);
}

#[tokio::test]
async fn what_cannot_be_destroyed_now_is_destroyed_later_and_keeps_its_id_until_then() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    setup.fail(Fault::Fails(Operation::Destroy));
    assert_eq!(setup.delete("x").await.unwrap(), PrivateKeyFate::Pending);
    // The key pair is gone for callers, its key is not, and its id is taken.
    assert!(matches!(
        setup.service.get("x").await,
        Err(ServiceError::KeyPairNotFound(_))
    ));
    assert_eq!(
        (setup.keys(), setup.store.intents().await.unwrap().len()),
        (1, 1)
    );
    setup.fail(Fault::None);
    let error = setup.generate().await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "CREATION_UNFINISHED"));
    assert!(report(&error).retry_after.is_some());
    // The call repeated finishes it.
    assert_eq!(setup.delete("x").await.unwrap(), PrivateKeyFate::Destroyed);
    assert_eq!(
        (setup.keys(), setup.store.intents().await.unwrap().len()),
        (0, 0)
    );
    assert!(matches!(
        setup.delete("x").await,
        Err(ServiceError::KeyPairNotFound(_))
    ));

    // So does the next look at the token.
    setup.generate().await.unwrap();
    setup.fail(Fault::Fails(Operation::Destroy));
    for _ in 0..2 {
        assert_eq!(setup.delete("x").await.unwrap(), PrivateKeyFate::Pending);
    }
    setup.fail(Fault::None);
    let handle = setup
        .service
        .registry()
        .provider(ProviderKind::Hsm)
        .unwrap();
    let done = setup.service.reconcile(handle).await.unwrap();
    assert_eq!((done.destroyed, setup.keys()), (1, 0));
    setup.generate().await.unwrap();
}

#[tokio::test]
async fn a_key_that_cannot_be_destroyed_is_in_nobodys_way() {
    let setup = Setup::new(8);
    for id in ["a", "b", "c"] {
        setup.generate_as(id).await.unwrap();
    }
    setup.fail(Fault::Fails(Operation::Destroy));
    for id in ["a", "b", "c"] {
        assert_eq!(setup.delete(id).await.unwrap(), PrivateKeyFate::Pending);
    }
    let kept = setup.store.intents().await.unwrap()[0].key_ref;
    setup.fail(Fault::Keeps(kept));
    let handle = setup.service.registry().provider(ProviderKind::Hsm);
    let handle = handle.unwrap();
    assert!(setup.service.settle(handle).await.is_err());
    assert_eq!(*setup.provider.keys.lock(), [kept]);
    // The token is looked at all the same.
    setup.service.reconcile(handle).await.unwrap();
    setup.fail(Fault::None);
    assert_eq!(setup.service.settle(handle).await.unwrap().destroyed, 1);
    assert_eq!(setup.keys(), 0);
}

#[tokio::test]
async fn a_repeated_request_is_never_told_that_its_own_attempt_has_its_id() {
    let setup = Setup::new(8);
    // The token was lost while it made the key, and does not destroy it yet.
    setup.leave_attempt("x", "r").await;
    setup.fail(Fault::Fails(Operation::Destroy));
    let error = setup.generate_named("x", "r").await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "CREATION_UNFINISHED"));
    assert!(report(&error).retry_after.is_some());
    // Another request of the same id is told to try again too.
    setup.fail(Fault::None);
    let error = setup.generate_named("x", "other").await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "CREATION_UNFINISHED"));
    // The repetition ends its own attempt first, and has the same answer from then on.
    let made = setup.generate_named("x", "r").await.unwrap();
    assert_eq!(setup.generate_named("x", "r").await.unwrap(), made);
    assert_eq!((setup.keys(), setup.states().await.len()), (1, 0));
}

#[tokio::test]
async fn what_is_left_in_a_provider_that_is_off_gives_a_final_answer_or_is_in_nobodys_way() {
    let setup = Setup::new(8);
    setup.leave_attempt("x", "r").await;
    let service = setup.in_local_mode();
    let error = service.generate(request("x", "r")).await.unwrap_err();
    let expected = (Code::FailedPrecondition, "PROVIDER_NOT_CONFIGURED");
    assert_eq!(told(&error), expected);
    let expected = "an unfinished creation or deletion in HSM holds the id x, and HSM is off in local mode; \
                    use another id, or set crypto.mode to hybrid so that it is finished";
    assert_eq!(report(&error).message, expected);
    // The request is answered under another id.
    service.generate(request("y", "r")).await.unwrap();
    assert_eq!(setup.states().await, [IntentState::Aborted]);
}

#[tokio::test]
async fn an_aborted_creation_ends_only_after_a_sweep() {
    let setup = Setup::new(8);
    *setup.provider.fault.lock() = Fault::DoesNotSweep;
    setup.leave_attempt("x", "").await;
    let handle = setup.handle();
    setup.service.settle(handle).await.unwrap_err();
    // A deletion of its id does not end it either.
    setup.delete("x").await.unwrap_err();
    assert_eq!(setup.states().await, [IntentState::Aborted]);
    setup.fail(Fault::None);
    let settled = setup.service.settle(handle).await.unwrap();
    assert_eq!((settled.destroyed, setup.states().await.len()), (1, 0));
}

#[tokio::test]
async fn a_creation_whose_caller_goes_while_it_is_recorded_is_taken_back() {
    for (request_id, left) in [("", 0), ("r", 1)] {
        let setup = Setup::new(8);
        let (publish, awaited) = mpsc::channel();
        *setup.provider.before_publishing.lock() = Some(awaited);
        let mut news = setup.store.event_news();
        let caller = tokio::spawn({
            let service = Arc::clone(&setup.service);
            async move { service.generate(request("x", request_id)).await }
        });
        // The record is there, and the certificate is not yet.
        news.changed().await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        publish.send(()).unwrap();
        setup.service.finish().await;
        assert_eq!(setup.keys(), left, "request {request_id:?}");
        assert_eq!(setup.service.get("x").await.is_ok(), left == 1);
        assert!(setup.states().await.is_empty());
    }
}

#[tokio::test]
async fn another_certificate_than_the_recorded_one_is_replaced_on_the_token() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    let recorded = setup.provider.certificates.lock().clone();
    for fingerprint in setup.provider.certificates.lock().values_mut() {
        *fingerprint = "of the certificate before".to_owned();
    }
    let handle = setup.handle();
    let done = setup.service.reconcile(handle).await.unwrap();
    assert_eq!(done.republished, 1);
    assert_eq!(*setup.provider.certificates.lock(), recorded);
    let done = setup.service.reconcile(handle).await.unwrap();
    assert_eq!(done.republished, 0);
}

#[tokio::test]
async fn a_certificate_that_is_newer_than_the_recorded_one_stays_on_the_token() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    let id = KeyPairId::parse("x").unwrap();
    let was = setup.store.key_pair(&id).await.unwrap().unwrap();
    let newer = was.current.certificate.clone();
    let on_token = setup.provider.certificates.lock().clone();
    // The store has the certificate of before, as after a restore.
    let mut restored = was.clone();
    restored.revision += 1;
    restored.current.certificate = Certificate::from_der(*b"\x30\x01i");
    restored.current.validity.not_before -= Duration::from_secs(1);
    let change = setup.service.change(None);
    let replaced = setup.store.replace(&was, &restored, change).await;
    assert!(replaced.unwrap());
    let current = &restored.current;
    let noted = setup
        .store
        .note_published(current.key_ref, &current.certificate);
    noted.await.unwrap();

    *setup.provider.foreign_certificate.lock() = Some(newer);
    let handle = setup.handle();
    let done = setup.service.reconcile(handle).await.unwrap();
    assert_eq!(done.republished, 0);
    assert_eq!(*setup.provider.certificates.lock(), on_token);
    // One that is none of this key does not.
    *setup.provider.foreign_certificate.lock() = None;
    let done = setup.service.reconcile(handle).await.unwrap();
    assert_eq!(done.republished, 1);
}

#[tokio::test]
async fn a_comparison_that_fails_is_made_again_until_it_succeeds() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    let recorded = setup.provider.certificates.lock().clone();
    setup.provider.certificates.lock().clear();
    // A certificate that could not be put there counts, when all was tried.
    setup.fail(Fault::Fails(Operation::PublishCertificate));
    setup.service.reconcile(setup.handle()).await.unwrap_err();
    setup.fail(Fault::Fails(Operation::Inventory));
    let stop = tokio_util::sync::CancellationToken::new();
    let keeping = tokio::spawn(Arc::clone(&setup.service).keep_connected(stop.clone()));
    // It has failed when the next one is awaited; whichever of them succeeds, it is not of this
    // connection's first.
    while setup.provider.inventories_failed.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    setup.fail(Fault::None);
    let begun = std::time::Instant::now();
    while *setup.provider.certificates.lock() != recorded {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    keeping.await.unwrap();
}

#[tokio::test]
async fn a_doubtful_key_is_left_alone_until_an_operator_has_it_destroyed() {
    let setup = Setup::new(8);
    let key_ref = setup.leave_attempt("x", "").await;
    setup.store.doubt(key_ref).await.unwrap();
    setup.provider.keys.lock().push(key_ref);
    let service = &setup.service;
    service.reconcile(setup.handle()).await.unwrap();
    service.settle(setup.handle()).await.unwrap();
    setup.delete("x").await.unwrap_err();
    let error = setup.generate().await.unwrap_err();
    assert_eq!(told(&error), (Code::AlreadyExists, "KEY_PAIR_EXISTS"));
    assert!(report(&error).message.contains("keypairctl doubtful-keys"));
    assert_eq!(setup.keys(), 1);
    let doubtful = service.doubtful_keys().await.unwrap();
    assert_eq!((doubtful.len(), doubtful[0].key_ref), (1, key_ref));
    assert_eq!(service.crypto_providers().await.unwrap()[0].2, 1);

    for other in ["", "0g", "01"] {
        let error = service.destroy_doubtful_key(other).await.unwrap_err();
        assert_eq!(told(&error), (Code::NotFound, "KEY_PAIR_NOT_FOUND"));
    }
    // Away in the middle, the token does it later.
    setup.fail(Fault::Fails(Operation::Destroy));
    let error = service.destroy_doubtful_key(&key_ref.to_string()).await;
    let (code, _) = told(&error.unwrap_err());
    assert_eq!((code, setup.keys()), (Code::Unavailable, 1));
    setup.fail(Fault::None);
    service.settle(setup.handle()).await.unwrap();
    assert_eq!(setup.keys(), 0);
    setup.generate().await.unwrap();
}

#[tokio::test]
async fn a_linked_key_of_which_only_the_cka_id_is_known_is_never_destroyed_by_that() {
    let setup = Setup::new(8);
    let key_ref = KeyRef::from_slice(&[1]).unwrap();
    setup.leave_attempt_with(key_ref, "x", "").await;
    setup.store.doubt(key_ref).await.unwrap();
    setup.provider.keys.lock().push(key_ref);
    let service = &setup.service;
    assert!(service.doubtful_keys().await.unwrap()[0].is_linked);
    let error = service.destroy_doubtful_key("01").await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "VALIDATION_FAILED"));
    service.settle(setup.handle()).await.unwrap();
    assert_eq!((setup.keys(), setup.states().await.len()), (1, 1));
    // The operator has removed it.
    setup.provider.keys.lock().clear();
    service.destroy_doubtful_key("01").await.unwrap();
    assert!(setup.states().await.is_empty());
    setup.generate().await.unwrap();
}

#[tokio::test]
async fn a_linked_key_that_became_doubtful_is_told_to_be_left_on_the_token() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    let id = KeyPairId::parse("x").unwrap();
    let mut linked = setup.store.key_pair(&id).await.unwrap().unwrap();
    setup.delete("x").await.unwrap();
    linked.current.origin = crate::domain::KeyOrigin::Linked;
    let time = linked.create_time;
    let recorded = crate::store::NewKeyPair {
        key_pair: linked.clone(),
        sealed_key: None,
        request: None,
        intent: None,
    };
    setup.store.complete_creation(recorded).await.unwrap();
    let deleted = setup.store.begin_deletion(&linked, true, time).await;
    assert!(deleted.unwrap());
    setup.fail(Fault::SharesCkaId);
    let fate = setup.delete("x").await.unwrap();
    assert_eq!(fate, PrivateKeyFate::LeftOnToken);
    assert_eq!(setup.states().await, [IntentState::Doubtful]);
}

#[tokio::test]
async fn a_failed_creation_that_is_undone_later_is_no_deleted_key_pair() {
    let setup = Setup::new(8);
    setup.fail(Fault::SignsWrongly);
    setup.provider.keeps_all.store(true, Ordering::Relaxed);
    setup.generate().await.unwrap_err();
    assert_eq!(setup.states().await, [IntentState::Aborted]);
    let error = setup.delete("x").await.unwrap_err();
    assert_eq!(told(&error), (Code::NotFound, "KEY_PAIR_NOT_FOUND"));
    setup.provider.keeps_all.store(false, Ordering::Relaxed);
    assert_eq!(
        setup
            .service
            .settle(setup.handle())
            .await
            .unwrap()
            .destroyed,
        1
    );
}

#[tokio::test]
async fn a_deletion_is_not_begun_while_the_provider_is_away() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    setup.fail(Fault::Fails(Operation::Connect));
    let error = setup.delete("x").await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "PROVIDER_UNAVAILABLE"));
    setup.service.get("x").await.unwrap();
}

#[tokio::test]
async fn a_full_queue_answers_at_once_that_waiting_helps() {
    let setup = Setup::new(1);
    let handle = Arc::clone(
        setup
            .service
            .registry()
            .provider(ProviderKind::Hsm)
            .unwrap(),
    );
    let mut slow = Vec::new();
    for _ in 0..2 {
        let handle = Arc::clone(&handle);
        slow.push(tokio::spawn(async move {
            let sleep = |_: &dyn CryptoProvider| {
                std::thread::sleep(Duration::from_millis(300));
                Ok::<_, ProviderError>(())
            };
            handle.run(Lane::Manage, Operation::Sign, sleep).await
        }));
        // The first is taken up by the thread, the second fills the queue.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = std::time::Instant::now();
    let error = setup.generate().await.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_millis(200),
        "{:?}",
        begun.elapsed()
    );
    let report = report(&error);
    assert_eq!(
        (report.code, report.reason),
        (Code::ResourceExhausted, "PROVIDER_BUSY")
    );
    assert!(report.retry_after.is_some());
    for slow in slow {
        slow.await.unwrap().unwrap();
    }
    setup.service.finish().await;
}

#[tokio::test]
async fn times_are_the_clocks() {
    let setup = Setup::new(8);
    let view = setup.generate().await.unwrap();
    let validity = view.key_pair.current.validity;
    assert_eq!(validity.not_before, datetime!(2026-11-23 12:00:00 UTC));
    assert_eq!(validity.not_after, datetime!(2026-11-24 12:00:00 UTC));
    assert_eq!(
        view.key_pair.create_time,
        datetime!(2026-11-23 12:00:00.5 UTC)
    );
    assert_eq!(setup.service.get("x").await.unwrap(), view);
}

#[tokio::test]
async fn only_so_much_work_on_files_waits() {
    let setup = Setup::new(8);
    let service = &setup.service;
    let at_once = u32::try_from(FILES_AT_ONCE).unwrap();
    let held = service.file_work.acquire_many(at_once).await.unwrap();
    let waiting_max = FILES_AT_ONCE + export::FILES_WAITING_MAX;
    let waiting: Vec<_> = (0..waiting_max)
        .map(|_| {
            let service = Arc::clone(service);
            tokio::spawn(async move { service.file_work(|| Ok(())).await })
        })
        .collect();
    while Arc::strong_count(&service.file_work) <= waiting_max {
        tokio::task::yield_now().await;
    }
    let refused = service.file_work(|| Ok(())).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded)));
    drop(held);
    for work in waiting {
        work.await.unwrap().unwrap();
    }
    service.file_work(|| Ok(())).await.unwrap();
}

#[tokio::test]
async fn certificates_of_others_are_read_only_where_there_is_room_for_work_on_files() {
    let setup = Setup::new(8);
    setup.generate().await.unwrap();
    let service = &setup.service;
    let at_once = u32::try_from(FILES_AT_ONCE).unwrap();
    let held = service.file_work.acquire_many(at_once).await.unwrap();
    // As many shares as work that is done and that waits would have.
    let full: Vec<_> = (0..=FILES_AT_ONCE + export::FILES_WAITING_MAX)
        .map(|_| Arc::clone(&service.file_work))
        .collect();
    let answer = || service.import_csr_response("x", "answer".into(), "");
    let refused = answer().await;
    assert!(
        matches!(refused, Err(ServiceError::Overloaded)),
        "{refused:?}"
    );
    drop((held, full));
    let refused = answer().await;
    assert!(
        matches!(refused, Err(ServiceError::Invalid(_))),
        "{refused:?}"
    );
}
