//! The use cases over the real token, the software provider and the real store, each behind an [`Anomaly`].

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keypaird::domain::{
    Clock, Entropy, EntropyError, KeyOrigin, KeyPair, KeyPairGeneration, KeyPairId, KeyRef,
    ProviderKind, ProviderMode, ProviderPolicy, SignatureEncoding, SigningInput,
};
use keypaird::providers::local::{KeyEncryptionKey, LocalProvider};
use keypaird::providers::pkcs11::{
    PinSource, Pkcs11Config, Pkcs11Provider, TokenSelector, VerifySignatures,
};
use keypaird::providers::{
    CryptoProvider, KeyName, Lane, Lanes, Operation, ProviderError, ProviderHandle, Registry,
    StoredKey, TokenObjectClass,
};
use keypaird::service::{DeleteRequest, RotationConfig, Service, ServiceConfig, SignRequest};
use keypaird::store::EmbeddedStore;
use rand::RngCore;
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::own_process::TokenHere;
use softhsm_tests::token::{self, LABEL};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::anomaly::{AnomalousProvider, AnomalousStore, Anomaly, Moment};

/// Whose call fails, and how.
#[derive(Clone, Debug)]
pub enum Place {
    Store(Moment),
    Token(Moment),
    Software(Moment),
    /// A function of PKCS#11, and what the module is told to do with it.
    Function(String, &'static str),
}

/// A service with all that it works with.
pub struct Stage {
    pub service: Arc<Service>,
    pub store: Arc<AnomalousStore>,
    pub clock: Arc<SetClock>,
    token: Arc<AnomalousProvider>,
    software: Arc<AnomalousProvider>,
    /// What fails when told, where it is not the providers themselves.
    module: Option<FaultyModule>,
    /// How many requests with a name were prepared.
    pub named: AtomicU64,
    looking_after: Option<(CancellationToken, JoinHandle<()>)>,
    database: Mutex<rusqlite::Connection>,
    _folder: TempDir,
}

impl Stage {
    /// Makes one over the token of this process. Where it is the module that fails, the daemon's care for its providers goes
    /// on all the while, for only by that it comes back.
    pub fn new(here: &TokenHere, module: Option<FaultyModule>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = Pkcs11Provider::new(Pkcs11Config {
            module: token::module().into(),
            token: TokenSelector::Label(LABEL.into()),
            pin: PinSource::File(here.pin_file.clone()),
            verify_signatures: VerifySignatures::Always,
            last_try: false,
        });
        token.connect().unwrap();
        let key = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
        let anomalous = |inner| {
            Arc::new(AnomalousProvider {
                inner,
                anomaly: Anomaly::default(),
            })
        };
        let token = anomalous(Arc::new(token));
        let software = anomalous(Arc::new(LocalProvider::new(key)));
        let database = folder.path().join("store.db");
        let store = Arc::new(AnomalousStore {
            inner: Arc::new(EmbeddedStore::open(&database).unwrap()),
            anomaly: Anomaly::default(),
        });
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = rusqlite::Connection::open_with_flags(&database, flags).unwrap();
        let clock = Arc::new(SetClock(Mutex::new(OffsetDateTime::now_utc())));
        let lanes = Lanes {
            sign_threads: 1,
            manage_threads: 1,
            queue_length: 64,
            operation_timeout: Duration::from_secs(10),
        };
        let handles = [Arc::clone(&software), Arc::clone(&token)]
            .map(|one| Arc::new(ProviderHandle::start(one, &lanes).unwrap()));
        let policy = ProviderPolicy {
            mode: ProviderMode::Hybrid,
            default: ProviderKind::Local,
        };
        let service = Service::new(
            store.clone(),
            Registry::new(policy, handles.into()),
            clock.clone(),
            Arc::new(SomeEntropy),
            ServiceConfig {
                // A generation is retired by the second look at the clock.
                rotation: RotationConfig {
                    check_interval: Duration::from_millis(40),
                    ..RotationConfig::default()
                },
                ..ServiceConfig::default()
            },
        );
        Self {
            service: Arc::new(service),
            store,
            clock,
            token,
            software,
            module,
            named: AtomicU64::new(0),
            looking_after: None,
            database: Mutex::new(database),
            _folder: folder,
        }
    }

    /// Has one call fail, after some that do not.
    pub fn strike(&self, place: &Place, calls_before: u64) {
        match place {
            Place::Store(moment) => self.store.anomaly.strike(calls_before, *moment),
            Place::Token(moment) => self.token.anomaly.strike(calls_before, *moment),
            Place::Software(moment) => self.software.anomaly.strike(calls_before, *moment),
            Place::Function(function, action) => {
                let order = format!("{function} {calls_before} 1 {action}");
                self.module.as_ref().unwrap().tell(&order);
            }
        }
    }

    /// Has no call fail any more, and returns which one has, if there were as many.
    pub fn end_strike(&self, place: &Place, calls_before: u64) -> Option<String> {
        let anomaly = match place {
            Place::Store(_) => &self.store.anomaly,
            Place::Token(_) => &self.token.anomaly,
            Place::Software(_) => &self.software.anomaly,
            Place::Function(function, _) => {
                let module = self.module.as_ref().unwrap();
                let struck = module.has_struck(calls_before);
                module.mend();
                return struck.then(|| function.clone());
            }
        };
        anomaly.end().map(str::to_owned)
    }

    /// Has the daemon look after its providers, from the beginning.
    pub async fn look_after(&mut self) {
        self.look_away().await;
        let stop = CancellationToken::new();
        let looking = tokio::spawn(Arc::clone(&self.service).keep_connected(stop.clone()));
        self.looking_after = Some((stop, looking));
    }

    async fn look_away(&mut self) {
        if let Some((stop, looking)) = self.looking_after.take() {
            stop.cancel();
            looking.await.unwrap();
        }
    }

    /// Returns all records.
    pub async fn records(&self) -> BTreeMap<String, KeyPair> {
        let mut records = BTreeMap::new();
        for id in self.rows("SELECT id FROM key_pairs") {
            let parsed = KeyPairId::parse(&id).unwrap();
            let record = self.store.inner.key_pair(&parsed).await.unwrap().unwrap();
            records.insert(id, record);
        }
        records
    }

    /// Has the daemon look after its providers until nothing is left to be done, and everything agrees.
    pub async fn settle(&mut self, foreign_objects: usize) -> Result<(), String> {
        self.look_after().await;
        let begun = Instant::now();
        let settled = loop {
            let left = self.left_to_do();
            let agrees = match left.is_empty() {
                true => self.agrees(foreign_objects).await,
                false => Err(format!("not settled: {left:?}")),
            };
            if agrees.is_ok() || begun.elapsed() > Duration::from_secs(8) {
                break agrees;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        if self.module.is_none() {
            self.look_away().await;
        }
        settled
    }

    fn left_to_do(&self) -> Vec<String> {
        [
            self.rows("SELECT 'an intent of ' || id || ', state: ' || state FROM intents"),
            self.rows("SELECT 'a certificate is not on the token' FROM unpublished"),
            self.rows(
                "SELECT id || ' is taken by nothing' FROM ids WHERE id NOT IN (SELECT id FROM key_pairs)
                 AND id NOT IN (SELECT id FROM intents)",
            ),
        ]
        .concat()
    }

    /// Checks that record, private key and certificate of each key pair agree, and that nothing else is on the token.
    async fn agrees(&self, foreign_objects: usize) -> Result<(), String> {
        let mut on_token = self.inventory().await?;
        for (id, record) in self.records().await {
            self.signs(&id, &record).await?;
            for (_, generation) in record.generations() {
                if generation.origin == KeyOrigin::Linked {
                    continue;
                }
                if generation.provider == ProviderKind::Hsm {
                    use TokenObjectClass::{Certificate, PrivateKey, PublicKey};
                    let objects = on_token.remove(generation.key_ref.as_bytes());
                    if objects.as_deref() != Some(&[Certificate, PrivateKey, PublicKey][..]) {
                        return Err(format!("{id}: the token has {objects:?}"));
                    }
                    let token = self.token.inner.token().unwrap();
                    let certificates = token.certificates_of(generation.key_ref.as_bytes());
                    let certificates = certificates.map_err(|error| format!("{error:?}"))?;
                    if certificates != [generation.certificate.clone()] {
                        return Err(format!("{id}: the token has another certificate"));
                    }
                }
                self.generation_signs(&record, generation).await?;
            }
        }
        let left: usize = on_token.values().map(Vec::len).sum();
        match left == foreign_objects {
            true => Ok(()),
            false => Err(format!("orphans on the token: {on_token:?}")),
        }
    }

    /// Destroys all there is.
    pub async fn clear(&mut self, foreign_objects: usize) -> Result<(), String> {
        for id in self.records().await.into_keys() {
            let request = DeleteRequest {
                id,
                ..DeleteRequest::default()
            };
            let deleted = self.service.delete(request).await;
            deleted.map_err(|error| format!("{error:?}"))?;
        }
        self.settle(foreign_objects).await
    }

    /// Destroys all there is on the token, whatever the store says.
    pub async fn wipe_token(&mut self) {
        self.look_after().await;
        while self.token.inner.probe().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for id in self.inventory().await.unwrap().into_keys() {
            // What has no CKA_ID was never made to the end, and ends with its session.
            if let Some(key_ref) = KeyRef::from_slice(&id) {
                self.token.inner.destroy(key_ref).unwrap();
            }
        }
    }

    /// Leaves the module to the next one.
    pub async fn close(mut self) {
        self.look_away().await;
        let token = self.service.registry().provider(ProviderKind::Hsm);
        token.unwrap().disconnect();
    }

    /// Tells whether there is nothing on the token.
    pub async fn token_is_empty(&self) -> bool {
        self.inventory().await.unwrap().is_empty()
    }

    async fn signs(&self, id: &str, record: &KeyPair) -> Result<(), String> {
        let request = SignRequest {
            id: id.to_owned(),
            input: Some(input()),
            signature_algorithm: String::new(),
            encoding: SignatureEncoding::Der,
            allow_outside_validity: true,
        };
        let signed = self.service.sign(request).await;
        let signed = signed.map_err(|error| format!("{id} does not sign: {error:?}"))?;
        let key = &record.current.public_key;
        key.verify(signed.signature_algorithm, &input(), &signed.signature)
            .map_err(|_| format!("{id} signs with another key"))
    }

    async fn generation_signs(
        &self,
        record: &KeyPair,
        generation: &KeyPairGeneration,
    ) -> Result<(), String> {
        let key = StoredKey {
            name: KeyName::of(&record.id, generation),
            public_key: generation.public_key.clone(),
            sealed: self
                .store
                .inner
                .sealed_key(generation.key_ref)
                .await
                .unwrap(),
        };
        let algorithm = generation.signing_algorithm;
        let provider = match generation.provider {
            ProviderKind::Hsm => &self.token,
            ProviderKind::Local => &self.software,
        };
        let said = |what: &dyn Debug| format!("{} {}: {what:?}", record.id, generation.number);
        let signature = provider.inner.sign(&key, algorithm, &input());
        let signature = signature.map_err(|error| said(&error))?;
        key.public_key
            .verify(algorithm, &input(), &signature)
            .map_err(|_| said(&"another key"))
    }

    /// Returns the objects of the token by their `CKA_ID`. On the provider's own thread, where nobody else looks at them
    /// meanwhile.
    async fn inventory(&self) -> Result<HashMap<Vec<u8>, Vec<TokenObjectClass>>, String> {
        let list = |provider: &dyn CryptoProvider| {
            let token = provider.token().unwrap();
            let mut objects: HashMap<_, Vec<_>> = HashMap::new();
            token.begin_inventory()?;
            loop {
                let slice = token.continue_inventory()?;
                if slice.is_empty() {
                    break;
                }
                for object in slice {
                    objects.entry(object.id).or_default().push(object.class);
                }
            }
            for classes in objects.values_mut() {
                classes.sort_by_key(|class| format!("{class:?}"));
            }
            Ok::<_, ProviderError>(objects)
        };
        let handle = self.service.registry().provider(ProviderKind::Hsm).unwrap();
        let listed = handle.run(Lane::Manage, Operation::Inventory, list).await;
        listed.map_err(|error| format!("{error:?}"))
    }

    /// Asks the database itself, for what no method of the store tells.
    fn rows(&self, query: &str) -> Vec<String> {
        let database = self.database.lock().unwrap();
        let mut statement = database.prepare_cached(query).unwrap();
        let rows = statement.query_map((), |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

pub fn input() -> SigningInput {
    SigningInput::Message(b"message"[..].into())
}

/// A clock that is set.
#[derive(Debug)]
pub struct SetClock(Mutex<OffsetDateTime>);

impl SetClock {
    pub fn advance(&self, by: time::Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for SetClock {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap()
    }
}

#[derive(Debug)]
struct SomeEntropy;

impl Entropy for SomeEntropy {
    fn bits_128(&self) -> Result<[u8; 16], EntropyError> {
        let mut bits = [0; 16];
        rand::rng().fill_bytes(&mut bits);
        Ok(bits)
    }
}
