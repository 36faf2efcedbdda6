//! The use cases over a store and a provider that fail when told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use time::macros::datetime;

use super::report::{Code, report};
use super::*;
use crate::domain::{
    Certificate, EntropyError, KeyRef, KeySpec, NewKeyPairSettings, PrivateKey, ProviderMode,
    ProviderPolicy, SignatureAlgorithm, SigningInput,
};
use crate::providers::local::{KeyEncryptionKey, LocalProvider};
use crate::providers::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, KeySearch, Lane, Lanes, Operation,
    ProviderError, ProviderErrorKind, StoredKey, TokenKey, TokenObject, TokenObjects,
};
use crate::store::EmbeddedStore;

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
}

/// The software provider, dressed up as a token that keeps its keys, and failing when told.
#[derive(Debug)]
pub(super) struct Failing {
    inner: LocalProvider,
    pub(super) fault: Mutex<Fault>,
    pub(super) keys: Mutex<Vec<KeyRef>>,
}

impl Failing {
    pub(super) fn new(kek: KeyEncryptionKey) -> Self {
        Self {
            inner: LocalProvider::new(kek),
            fault: Mutex::new(Fault::None),
            keys: Mutex::default(),
        }
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
            Fault::None | Fault::Fails(_) | Fault::Keeps(_) => {
                self.inner.sign(key, algorithm, input)
            }
        }
    }

    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        self.check(Operation::Destroy)?;
        if *self.fault.lock() == Fault::Keeps(key_ref) {
            let kind = ProviderErrorKind::Failed;
            return Err(ProviderError::new(self.kind(), Operation::Destroy, kind));
        }
        self.keys.lock().retain(|kept| *kept != key_ref);
        Ok(())
    }

    fn token(&self) -> Option<&dyn TokenObjects> {
        Some(self)
    }
}

impl TokenObjects for Failing {
    fn publish_certificate(&self, _: &KeyName, _: &Certificate) -> Result<(), ProviderError> {
        self.check(Operation::PublishCertificate)
    }

    fn replace_certificate(&self, _: &KeyName, _: &Certificate) -> Result<(), ProviderError> {
        self.check(Operation::PublishCertificate)
    }

    fn find_keys(&self, _: &KeySearch) -> Result<Vec<TokenKey>, ProviderError> {
        Ok(Vec::new())
    }

    fn certificates_of(&self, _: &[u8]) -> Result<Vec<Certificate>, ProviderError> {
        Ok(Vec::new())
    }

    fn begin_inventory(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError> {
        Ok(Vec::new())
    }

    fn sweep_half_made(&self) -> Result<usize, ProviderError> {
        Ok(0)
    }
}

struct Setup {
    service: Arc<Service>,
    provider: Arc<Failing>,
    store: Arc<EmbeddedStore>,
    _folder: tempfile::TempDir,
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
            _folder: folder,
        }
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
        let request = GenerateRequest {
            settings: NewKeyPairSettings {
                id: Some(id.into()),
                common_name: "Example".into(),
                organization: "Acme".into(),
                country: "US".into(),
                valid_days: 1,
                key_algorithm: "EC".into(),
                ..NewKeyPairSettings::default()
            },
            ..GenerateRequest::default()
        };
        match self.service.generate(request).await? {
            GenerateOutcome::Made(view) => Ok(*view),
            GenerateOutcome::WouldMake(_) => unreachable!("the request is no dry run"),
        }
    }

    fn keys(&self) -> usize {
        self.provider.keys.lock().len()
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
            setup.store.condemned().await.unwrap().is_empty(),
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
        (setup.keys(), setup.store.condemned().await.unwrap().len()),
        (1, 1)
    );
    setup.fail(Fault::None);
    assert!(matches!(
        setup.generate().await,
        Err(ServiceError::KeyPairExists(_))
    ));
    // The call repeated finishes it.
    assert_eq!(setup.delete("x").await.unwrap(), PrivateKeyFate::Destroyed);
    assert_eq!(
        (setup.keys(), setup.store.condemned().await.unwrap().len()),
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
    let kept = setup.store.condemned().await.unwrap()[0].key_ref;
    setup.fail(Fault::Keeps(kept));
    let handle = setup.service.registry().provider(ProviderKind::Hsm);
    let handle = handle.unwrap();
    assert!(setup.service.settle_condemned(handle).await.is_err());
    assert_eq!(*setup.provider.keys.lock(), [kept]);
    // The token is looked at all the same.
    setup.service.reconcile(handle).await.unwrap();
    setup.fail(Fault::None);
    assert_eq!(setup.service.settle_condemned(handle).await.unwrap(), 1);
    assert_eq!(setup.keys(), 0);
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
