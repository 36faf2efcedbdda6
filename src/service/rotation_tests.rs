//! Rotation over a store, with a clock that is set.

use std::path::Path;

use parking_lot::Mutex;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::keep_rotating::Setbacks;
use super::tests::{Counting, Failing, Fault};
use super::*;
use crate::domain::{
    CertificateValidity, GenerationState, KeyPairId, NewKeyPairSettings, ProviderMode,
    ProviderPolicy, RotationAction, RotationSettings, SignatureEncoding, SigningInput,
};
use crate::providers::local::{KeyEncryptionKey, LocalProvider};
use crate::providers::{CryptoProvider, Lanes, Operation};
use crate::store::EmbeddedStore;

pub(super) const START: OffsetDateTime = datetime!(2026-11-24 12:00:00 UTC);

#[derive(Debug)]
pub(super) struct SetClock(Mutex<OffsetDateTime>);

impl Clock for SetClock {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock()
    }
}

/// Daemons with one store and one token between them.
pub(super) struct Stage {
    clock: Arc<SetClock>,
    pub(super) store: Arc<EmbeddedStore>,
    hsm: Arc<Failing>,
    pub(super) services: Vec<Arc<Service>>,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new(services: usize) -> Self {
        // Where there is one, in memory: thousands of commits need no disk to be tried.
        let folder = match Path::new("/dev/shm").is_dir() {
            true => tempfile::tempdir_in("/dev/shm").unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let kek = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
        let read = || KeyEncryptionKey::read(&folder.path().join("kek")).unwrap();
        let hsm = Arc::new(Failing::new(kek));
        let clock = Arc::new(SetClock(Mutex::new(START)));
        let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.db")).unwrap());
        let entropy = Arc::new(Counting::default());
        let service = || {
            let lanes = Lanes {
                sign_threads: 1,
                manage_threads: 1,
                queue_length: 64,
                operation_timeout: std::time::Duration::from_secs(10),
            };
            let local: Arc<dyn CryptoProvider> = Arc::new(LocalProvider::new(read()));
            let token: Arc<dyn CryptoProvider> = hsm.clone();
            let handles =
                [local, token].map(|one| Arc::new(ProviderHandle::start(one, &lanes).unwrap()));
            let policy = ProviderPolicy {
                mode: ProviderMode::Hybrid,
                default: ProviderKind::Local,
            };
            Arc::new(Service::new(
                store.clone(),
                Registry::new(policy, handles.into()),
                clock.clone(),
                entropy.clone(),
                ServiceConfig::default(),
            ))
        };
        Self {
            services: (0..services).map(|_| service()).collect(),
            clock,
            store,
            hsm,
            _folder: folder,
        }
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.services[0]
    }

    /// Sets the clock to a day after the start, and has everything done that is due.
    pub(super) async fn day(&self, day: i64) {
        self.set_day(day);
        let trusted = Some(self.now());
        let service = self.service();
        service
            .do_what_is_due(&mut Setbacks::default(), trusted)
            .await;
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    pub(super) fn set_day(&self, day: i64) {
        *self.clock.0.lock() = START + Duration::days(day);
    }

    /// Makes a key pair that is valid for 100 days, and rotates 30 and 10 days before it is not.
    pub(super) async fn generate(&self, id: &str, provider: ProviderKind) {
        self.generate_with(id, provider, 100, Some(rotation(30, 10)))
            .await;
    }

    pub(super) async fn generate_with(
        &self,
        id: &str,
        provider: ProviderKind,
        valid_days: i32,
        rotation_settings: Option<RotationSettings>,
    ) {
        let settings = NewKeyPairSettings {
            id: Some(id.into()),
            common_name: "Example".into(),
            organization: "Acme".into(),
            country: "US".into(),
            subject_alternative_names: vec!["a.example".into(), "192.0.2.1".into()],
            valid_days,
            key_algorithm: "ED25519".into(),
            crypto_provider: Some(provider),
            rotation_settings,
            ..NewKeyPairSettings::default()
        };
        let request = GenerateRequest {
            settings,
            ..GenerateRequest::default()
        };
        self.service().generate(request).await.unwrap();
    }

    pub(super) async fn rotate(&self, id: &str, activate: bool) -> KeyPairView {
        let request = RotateRequest {
            id: id.into(),
            activate,
            etag: String::new(),
        };
        self.service().rotate(request).await.unwrap()
    }

    pub(super) async fn pair(&self, id: &str) -> KeyPair {
        let id = KeyPairId::parse(id).unwrap();
        self.store.key_pair(&id).await.unwrap().unwrap()
    }

    /// Writes down which generations there are: the current one, the pending one, the previous ones.
    pub(super) async fn generations(&self, id: &str) -> String {
        let pair = self.pair(id).await;
        let pending = pair.pending.as_ref();
        let pending = pending.map_or("-".to_owned(), |one| one.number.to_string());
        let previous: Vec<_> = pair
            .previous
            .iter()
            .map(|one| one.number.to_string())
            .collect();
        format!("{} {pending} [{}]", pair.current.number, previous.join(" "))
    }

    pub(super) fn keys(&self) -> usize {
        self.hsm.keys.lock().len()
    }
}

pub(super) fn rotation(creation: i32, activation: i32) -> RotationSettings {
    RotationSettings {
        creation_buffer_days: creation,
        activation_buffer_days: activation,
        ..RotationSettings::default()
    }
}

#[tokio::test]
async fn a_key_pair_rotates_in_its_provider_under_its_id() {
    for provider in ProviderKind::ALL {
        let stage = Stage::new(1);
        stage.generate("x", provider).await;
        let first = stage.pair("x").await;
        for (day, expected) in [
            (69, "1 - []"),
            (70, "1 2 []"),
            (89, "1 2 []"),
            (90, "2 - [1]"),
            (100, "2 - [1]"),
            (101, "2 - []"),
            (140, "2 3 []"),
            (160, "3 - [2]"),
            (171, "3 - []"),
        ] {
            stage.day(day).await;
            assert_eq!(stage.generations("x").await, expected, "day {day}");
        }
        let third = stage.pair("x").await;
        assert_eq!(third.provider(), provider);
        let (was, is) = (&first.current, &third.current);
        assert_eq!(was.subject_dn, is.subject_dn);
        assert_eq!(was.subject_alternative_names, is.subject_alternative_names);
        assert_ne!(was.public_key, is.public_key);
        assert_eq!(is.activate_time, Some(START + Duration::days(160)));
        if provider == ProviderKind::Hsm {
            assert_eq!(stage.keys(), 1, "former keys are destroyed");
        }
        assert!(stage.store.intents().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_in_order_and_a_clock_that_goes_back_undoes_nothing() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Local).await;
    // Down for years: the current one is expired, and its successor signs at once.
    stage.day(1000).await;
    assert_eq!(stage.generations("x").await, "2 - []");
    let service = stage.service();
    assert_eq!(service.rotation_metrics().done(RotationAction::Activate), 1);
    assert_eq!(service.rotation_metrics().overdue(), 0);
    for day in [0, 999, 1000] {
        stage.day(day).await;
        assert_eq!(stage.generations("x").await, "2 - []", "day {day}");
    }
    stage.day(1070).await;
    assert_eq!(stage.generations("x").await, "2 3 []");
    stage.day(500).await;
    assert_eq!(stage.generations("x").await, "2 3 []");
}

#[tokio::test]
async fn a_key_pair_that_is_expired_is_renewed_when_rotation_is_enabled() {
    let stage = Stage::new(1);
    stage
        .generate_with("x", ProviderKind::Local, 100, None)
        .await;
    stage.day(150).await;
    assert_eq!(stage.generations("x").await, "1 - []");
    let request = UpdateRotationRequest {
        id: "x".into(),
        settings: rotation(30, 10),
        etag: String::new(),
    };
    stage.service().update_rotation(request).await.unwrap();
    stage.day(150).await;
    assert_eq!(stage.generations("x").await, "2 - []");
}

#[tokio::test]
async fn without_settings_what_is_pending_stays_until_it_expires() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Hsm).await;
    stage.day(75).await;
    assert_eq!(
        (stage.generations("x").await.as_str(), stage.keys()),
        ("1 2 []", 2)
    );
    stage.service().delete_rotation("x", "").await.unwrap();
    stage.day(95).await;
    assert_eq!(stage.generations("x").await, "1 2 []");
    // It is no longer shown from its expiry on, whenever it is retired.
    stage.set_day(176);
    let view = stage.service().get("x").await.unwrap();
    assert_eq!(view.key_pair.pending, None);
    stage.day(176).await;
    assert_eq!(
        (stage.generations("x").await.as_str(), stage.keys()),
        ("1 - []", 1)
    );
}

#[tokio::test]
async fn a_rotation_may_lead_into_another_provider_and_another_algorithm() {
    let stage = Stage::new(1);
    let settings = RotationSettings {
        key_algorithm: Some("EC".into()),
        key_size: Some(384),
        crypto_provider: Some(ProviderKind::Hsm),
        ..rotation(30, 10)
    };
    stage
        .generate_with("x", ProviderKind::Local, 100, Some(settings))
        .await;
    let pending = |pair: KeyPair| pair.pending.unwrap();
    stage.day(75).await;
    let pair = stage.pair("x").await;
    assert_eq!(pair.provider(), ProviderKind::Local);
    assert_eq!(pending(pair).public_key.spec().to_string(), "EC-384");
    stage.day(95).await;
    let pair = stage.pair("x").await;
    assert_eq!(pair.provider(), ProviderKind::Hsm);
    assert_eq!(stage.store.count(ProviderKind::Local).await.unwrap(), 0);
    assert_eq!(
        stage
            .store
            .keys_of(ProviderKind::Local)
            .await
            .unwrap()
            .len(),
        1
    );
    let former = pair.previous[0].key_ref;
    assert!(stage.store.sealed_key(former).await.unwrap().is_some());
    // What is encrypted is wiped with the rest.
    stage.day(105).await;
    assert!(stage.store.sealed_key(former).await.unwrap().is_none());
    assert!(
        stage
            .store
            .keys_of(ProviderKind::Local)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(stage.store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_is_counted_and_is_done_when_it_can_be() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Hsm).await;
    stage.generate("y", ProviderKind::Local).await;
    let service = stage.service();
    let metrics = service.rotation_metrics();
    let mut setbacks = Setbacks::default();
    stage.set_day(75);
    let trusted = Some(stage.now());
    for (attempt, operation) in [Operation::Generate, Operation::Sign]
        .into_iter()
        .enumerate()
    {
        *stage.hsm.fault.lock() = Fault::Fails(operation);
        // Each with its own patience: the second try would be put off.
        service
            .do_what_is_due(&mut Setbacks::default(), trusted)
            .await;
        assert_eq!(stage.generations("x").await, "1 - []", "{operation}");
        assert_eq!(stage.keys(), 1, "{operation}");
        assert_eq!(metrics.overdue(), 1);
        assert_eq!(metrics.failures(), u64::try_from(attempt + 1).unwrap());
    }
    // The other one is not kept waiting.
    assert_eq!(stage.generations("y").await, "1 2 []");

    // Away: it is not tried over and over, and at once when it is back.
    *stage.hsm.fault.lock() = Fault::Fails(Operation::Connect);
    for _ in 0..5 {
        service.do_what_is_due(&mut setbacks, trusted).await;
    }
    assert_eq!(metrics.failures(), 3);
    *stage.hsm.fault.lock() = Fault::None;
    service.do_what_is_due(&mut setbacks, trusted).await;
    assert_eq!(stage.generations("x").await, "1 2 []");
    assert_eq!((metrics.overdue(), stage.keys()), (0, 2));

    // A certificate that cannot be put on the token is put there later; nothing is lost by it.
    stage.rotate("y", true).await;
    assert_eq!(stage.generations("y").await, "2 - [1]");
    *stage.hsm.fault.lock() = Fault::Fails(Operation::Destroy);
    stage.day(95).await;
    stage.day(105).await;
    assert_eq!(stage.generations("x").await, "2 - []");
    assert_eq!(stage.store.intents().await.unwrap().len(), 1);
    *stage.hsm.fault.lock() = Fault::None;
    let handle = service.registry().provider(ProviderKind::Hsm).unwrap();
    assert_eq!(service.settle(handle).await.unwrap().destroyed, 1);
    assert_eq!(stage.keys(), 1);
}

#[tokio::test]
async fn a_key_in_a_token_that_is_away_does_not_begin_to_sign() {
    let stage = Stage::new(1);
    let settings = RotationSettings {
        crypto_provider: Some(ProviderKind::Hsm),
        ..rotation(30, 10)
    };
    stage
        .generate_with("x", ProviderKind::Local, 100, Some(settings))
        .await;
    stage.day(75).await;
    *stage.hsm.fault.lock() = Fault::Fails(Operation::Connect);
    stage.day(96).await;
    assert_eq!(stage.generations("x").await, "1 2 []");
    assert_eq!(stage.service().rotation_metrics().overdue(), 1);
    let view = stage.service().get("x").await.unwrap();
    assert_eq!(view.key_pair.provider(), ProviderKind::Local);
    *stage.hsm.fault.lock() = Fault::None;
    stage.day(96).await;
    assert_eq!(stage.generations("x").await, "2 - [1]");
    assert_eq!(stage.service().rotation_metrics().overdue(), 0);
}

#[tokio::test]
async fn what_a_former_generation_signed_is_accepted_until_it_expires() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Local).await;
    let service = stage.service();
    let input = || Some(SigningInput::Message(b"message"[..].into()));
    let request = SignRequest {
        id: "x".into(),
        input: input(),
        signature_algorithm: String::new(),
        encoding: SignatureEncoding::Der,
        allow_outside_validity: false,
    };
    let signed = service.sign(request).await.unwrap();
    stage.day(75).await;
    stage.day(97).await;
    for (day, expected) in [(98, Some(GenerationState::Previous)), (101, None)] {
        // Nobody has retired it yet.
        stage.set_day(day);
        let request = VerifyRequest {
            id: "x".into(),
            input: input(),
            signature: signed.signature.clone(),
            signature_algorithm: String::new(),
            encoding: SignatureEncoding::Der,
            pss_salt_length: None,
        };
        let verified = service.verify(request).await.unwrap();
        assert_eq!(
            verified.map(|verified| verified.state),
            expected,
            "day {day}"
        );
        let published = service
            .public_keys(PublicKeysRequest::default())
            .await
            .unwrap();
        let count = 1 + usize::from(expected.is_some());
        assert_eq!(published.public_keys.len(), count, "day {day}");
    }
}

#[tokio::test]
async fn a_successor_that_expired_before_it_signed_is_not_brought_up_by_hand() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Hsm).await;
    stage.day(75).await;
    stage.service().delete_rotation("x", "").await.unwrap();
    // Nobody has retired it yet.
    stage.set_day(176);
    let view = stage.rotate("x", true).await;
    assert_eq!(view.key_pair.current.number.number(), 3);
    assert_eq!(view.status, CertificateValidity::Valid);
    stage.day(176).await;
    assert_eq!(
        (stage.generations("x").await.as_str(), stage.keys()),
        ("3 - []", 1)
    );
}

#[tokio::test]
async fn a_key_pair_that_moves_into_the_token_takes_its_successor_along() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Local).await;
    stage.day(75).await;
    let service = stage.service();
    let migrate = || service.migrate("x", Some(ProviderKind::Hsm), "");
    *stage.hsm.fault.lock() = Fault::Fails(Operation::Import);
    migrate().await.unwrap_err();
    assert_eq!(
        (stage.pair("x").await.provider(), stage.keys()),
        (ProviderKind::Local, 0)
    );
    *stage.hsm.fault.lock() = Fault::None;
    migrate().await.unwrap();
    assert_eq!(stage.generations("x").await, "1 2 []");
    assert_eq!(stage.keys(), 2);
    let left = stage.store.keys_of(ProviderKind::Local).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    for day in [95, 145] {
        stage.day(day).await;
        let pair = stage.pair("x").await;
        let mut generations = pair.generations();
        assert!(
            generations.all(|(_, one)| one.provider == ProviderKind::Hsm),
            "day {day}"
        );
    }
    assert_eq!(stage.generations("x").await, "2 3 []");
    assert!(stage.store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_thousand_key_pairs_go_through_a_year_of_days() {
    let stage = Stage::new(1);
    for n in 0..1000 {
        let valid_days = 100 + n % 300;
        let creation = 10 + n % 40;
        let settings = Some(rotation(creation, 1 + n % creation));
        let id = format!("x{n}");
        stage
            .generate_with(&id, ProviderKind::Local, valid_days, settings)
            .await;
    }
    for day in 1..=365 {
        stage.day(day).await;
        assert_eq!(stage.service().rotation_metrics().overdue(), 0);
    }
    let now = stage.clock.now();
    let mut generations = 0;
    for n in 0..1000 {
        let pair = stage.pair(&format!("x{n}")).await;
        assert!(pair.current.validity.not_after > now);
        for (_, generation) in pair.generations() {
            assert!(generation.validity.not_after >= now - Duration::SECOND);
        }
        generations += pair.last_number.number();
    }
    let metrics = stage.service().rotation_metrics();
    let created = metrics.done(RotationAction::CreatePending);
    assert_eq!(u64::from(generations), 1000 + created);
    assert!(created > 1000, "{created}");
}
