//! The store against what it promises, and lists against a simple model.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use time::Duration;
use time::macros::datetime;

use super::sharing_tests::labels;
use super::*;
use crate::domain::{
    Certificate, CertificateValidity, Curve, Generation, Hash, KeyAlgorithm, KeyOrigin,
    KeyPairGeneration, KeySpec, Labels, ListFilter, ListOrder, OrderField, PageSize, PublicKey,
    RsaSize, SignatureAlgorithm, TokenAttributes, Validity,
};

pub(super) const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

pub(super) fn open() -> (EmbeddedStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    (store, folder)
}

pub(super) fn intent(id: &str, key_ref: u8) -> NewIntent {
    NewIntent {
        key_ref: KeyRef::from_random([key_ref; 16]),
        id: KeyPairId::parse(id).unwrap(),
        generation: Generation::FIRST,
        provider: ProviderKind::Hsm,
        request: None,
    }
}

/// Opens a store that was put back: what a copy does not include is not there.
fn open_restored(path: &Path) -> EmbeddedStore {
    std::fs::remove_file(super::open::beside(path, ".lineage")).unwrap();
    EmbeddedStore::open(path).unwrap()
}

/// Returns the intents there are: the first byte of the key, the id, the state.
pub(super) async fn intents(store: &EmbeddedStore) -> Vec<(u8, String, IntentState)> {
    let intents = store.intents().await.unwrap().into_iter();
    intents
        .map(|intent| {
            (
                intent.key_ref.as_bytes()[0],
                intent.id.to_string(),
                intent.state,
            )
        })
        .collect()
}

pub(super) fn pair(id: &str, key_ref: [u8; 16]) -> KeyPair {
    KeyPair::new(
        KeyPairId::parse(id).unwrap(),
        Labels::from_stored([("team".to_owned(), "payments".to_owned())].into()),
        datetime!(2026-11-23 11:59:59.123456 UTC),
        KeyPairGeneration {
            number: Generation::FIRST,
            provider: ProviderKind::Hsm,
            origin: KeyOrigin::Generated,
            key_ref: KeyRef::from_random(key_ref),
            public_key: PublicKey::new(KeySpec::Ec(Curve::P384), [4; 97]),
            token_attributes: Some(TokenAttributes {
                sensitive: true,
                always_sensitive: false,
                never_extractable: true,
                local: false,
            }),
            certificate: Certificate::from_der(*b"certificate"),
            chain: vec![
                Certificate::from_der(*b"\x30\x01i"),
                Certificate::from_der(*b"\x30\x01r"),
            ],
            certificate_signature_algorithm: "SHA512withECDSA".into(),
            signing_algorithm: SignatureAlgorithm::Ecdsa(Hash::Sha512),
            serial_number: u128::MAX.to_string(),
            subject_dn: "CN=Zürich, O=Acme, C=CH".into(),
            issuer_dn: "CN=Other, O=Acme, C=CH".into(),
            subject_alternative_names: vec!["a.example".into(), "192.0.2.1".into()],
            validity: Validity::days_from(NOW, 30),
            activate_time: None,
        },
    )
}

pub(super) fn new(key_pair: KeyPair) -> NewKeyPair {
    NewKeyPair {
        key_pair,
        sealed_key: None,
        request: None,
        intent: None,
    }
}

/// A key pair whose key was made under an intent.
fn made(key_pair: KeyPair) -> NewKeyPair {
    NewKeyPair {
        intent: Some(key_pair.current.key_ref),
        ..new(key_pair)
    }
}

pub(super) fn change() -> Change {
    Change {
        time: NOW,
        event: None,
        sealed_key: None,
    }
}

fn request(name: &str, key_pair: &str, made_at: OffsetDateTime) -> AnsweredRequest {
    AnsweredRequest {
        request_id: RequestId::parse(name).unwrap(),
        settings: [7; 32],
        key_pair: KeyPairId::parse(key_pair).unwrap(),
        made_at,
    }
}

#[tokio::test]
async fn a_key_pair_comes_back_as_it_was_after_reopening() {
    let (store, folder) = open();
    let stored = pair("x", [1; 16]);
    let sealed = SealedKey::from_bytes([9; 100]);
    let answered = request("r", "x", NOW);
    store
        .complete_creation(NewKeyPair {
            sealed_key: Some(sealed.clone()),
            request: Some(answered.clone()),
            ..new(stored.clone())
        })
        .await
        .unwrap();
    store
        .record_key_encryption_check(sealed.clone())
        .await
        .unwrap();
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    let id = &stored.id;
    assert_eq!(store.key_pair(id).await.unwrap(), Some(stored.clone()));
    assert_eq!(
        store.sealed_key(stored.current.key_ref).await.unwrap(),
        Some(sealed.clone())
    );
    assert_eq!(store.key_encryption_check().await.unwrap(), Some(sealed));
    let found = store
        .answered_request(&answered.request_id, NOW)
        .await
        .unwrap();
    assert_eq!(found, Some((answered, Some(stored))));
}

#[tokio::test]
async fn an_id_is_taken_once_whatever_it_is_taken_for() {
    let (store, _folder) = open();
    let taken = |result: Result<(), StoreError>| matches!(result, Err(StoreError::IdTaken));
    let unfinished =
        |result: Result<(), StoreError>| matches!(result, Err(StoreError::IdUnfinished));

    // While a key is made, and when it is.
    store.begin_creation(intent("x", 1)).await.unwrap();
    assert!(unfinished(store.begin_creation(intent("x", 2)).await));
    assert!(unfinished(
        store.complete_creation(new(pair("x", [2; 16]))).await
    ));
    store
        .complete_creation(made(pair("x", [1; 16])))
        .await
        .unwrap();
    assert!(taken(store.begin_creation(intent("x", 3)).await));
    assert!(taken(
        store.complete_creation(new(pair("x", [3; 16]))).await
    ));

    // While it is destroyed, and no longer.
    assert!(
        store
            .begin_deletion(&pair("x", [1; 16]), false, NOW)
            .await
            .unwrap()
    );
    assert!(
        !store
            .begin_deletion(&pair("x", [1; 16]), false, NOW)
            .await
            .unwrap()
    );
    assert!(unfinished(store.begin_creation(intent("x", 4)).await));
    assert_eq!(
        intents(&store).await,
        [(1, "x".to_owned(), IntentState::Destroying)]
    );
    store
        .end_intent(KeyRef::from_random([1; 16]))
        .await
        .unwrap();
    store.begin_creation(intent("x", 5)).await.unwrap();
}

#[tokio::test]
async fn creations_of_an_earlier_opening_have_ended_and_what_is_recorded_does_not_end() {
    let (store, folder) = open();
    store.begin_creation(intent("x", 1)).await.unwrap();
    store.begin_creation(intent("y", 2)).await.unwrap();
    let owner = store.intents().await.unwrap()[0].owner;
    let ended = store
        .abort_creation(KeyRef::from_random([2; 16]), IntentState::Destroying)
        .await
        .unwrap();
    assert_eq!(ended.unwrap().state, IntentState::Destroying);
    // What is recorded is not being made.
    store
        .complete_creation(new(pair("z", [3; 16])))
        .await
        .unwrap();
    let recorded = KeyRef::from_random([3; 16]);
    let ended = store.abort_creation(recorded, IntentState::Aborted).await;
    assert_eq!(ended.unwrap(), None);
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    assert_eq!(
        intents(&store).await,
        [
            (1, "x".to_owned(), IntentState::Aborted),
            (2, "y".to_owned(), IntentState::Destroying)
        ]
    );
    assert_eq!(store.intents().await.unwrap()[0].owner, owner);
    store.begin_creation(intent("w", 4)).await.unwrap();
    assert_ne!(store.intents().await.unwrap()[2].owner, owner);
}

#[tokio::test]
async fn a_creation_is_completed_by_its_own_intent_or_not_at_all() {
    let (store, folder) = open();
    let gone = |result: Result<(), StoreError>| matches!(result, Err(StoreError::IntentGone));
    // None was recorded; one of another id; one that has ended.
    assert!(gone(
        store.complete_creation(made(pair("x", [1; 16]))).await
    ));
    store.begin_creation(intent("x", 1)).await.unwrap();
    assert!(gone(
        store.complete_creation(made(pair("y", [1; 16]))).await
    ));
    let other = NewKeyPair {
        intent: Some(KeyRef::from_random([1; 16])),
        ..new(pair("x", [2; 16]))
    };
    assert!(gone(store.complete_creation(other).await));
    let first = KeyRef::from_random([1; 16]);
    store
        .abort_creation(first, IntentState::Aborted)
        .await
        .unwrap();
    assert!(gone(
        store.complete_creation(made(pair("x", [1; 16]))).await
    ));
    // One of an earlier opening.
    store.begin_creation(intent("z", 3)).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    assert!(gone(
        store.complete_creation(made(pair("z", [3; 16]))).await
    ));
    assert_eq!(store.count(ProviderKind::Hsm).await.unwrap(), 0);
    assert_eq!(intents(&store).await.len(), 2, "nothing was recorded");

    // The next key of a key pair likewise.
    let was = pair("p", [4; 16]);
    store.complete_creation(new(was.clone())).await.unwrap();
    store.begin_succession(intent("p", 5)).await.unwrap();
    let successor = KeyRef::from_random([5; 16]);
    store
        .abort_creation(successor, IntentState::Aborted)
        .await
        .unwrap();
    let becomes = KeyPair {
        revision: 1,
        pending: Some(KeyPairGeneration {
            number: Generation::new(2).unwrap(),
            ..pair("p", [5; 16]).current
        }),
        ..was.clone()
    };
    let replaced = store.replace(&was, &becomes, change()).await;
    assert!(matches!(replaced, Err(StoreError::IntentGone)));
    assert_eq!(store.key_pair(&was.id).await.unwrap(), Some(was));
}

#[tokio::test]
async fn a_key_that_is_being_destroyed_is_not_linked_under_whatever_id() {
    let (store, _folder) = open();
    let linked = |id: &str| {
        let mut linked = pair(id, [1; 16]);
        linked.current.origin = KeyOrigin::Linked;
        linked
    };
    store.complete_creation(new(linked("x"))).await.unwrap();
    assert!(store.begin_deletion(&linked("x"), true, NOW).await.unwrap());
    let intent = &store.intents().await.unwrap()[0];
    assert_eq!(intent.linked, Some(linked("x").current.public_key));
    for id in ["x", "y"] {
        let refused = store.complete_creation(new(linked(id))).await;
        assert!(
            matches!(refused, Err(StoreError::KeyUnfinished)),
            "{refused:?}"
        );
    }
    assert_eq!(
        intents(&store).await,
        [(1, "x".to_owned(), IntentState::Destroying)]
    );
    // What is taken back is left where it was before.
    store
        .end_intent(KeyRef::from_random([1; 16]))
        .await
        .unwrap();
    store.complete_creation(new(linked("x"))).await.unwrap();
    assert!(store.take_back(&linked("x"), None, NOW).await.unwrap());
    assert!(intents(&store).await.is_empty());
}

/// A store with an intent of each state, and then a copy of it that was restored.
async fn restored() -> (EmbeddedStore, tempfile::TempDir) {
    let (store, folder) = open();
    for (id, key_ref) in [("creating", 1), ("aborted", 2)] {
        store.begin_creation(intent(id, key_ref)).await.unwrap();
    }
    store
        .abort_creation(KeyRef::from_random([2; 16]), IntentState::Aborted)
        .await
        .unwrap();
    store
        .complete_creation(new(pair("destroying", [3; 16])))
        .await
        .unwrap();
    let deleted = pair("destroying", [3; 16]);
    assert!(store.begin_deletion(&deleted, false, NOW).await.unwrap());
    store
        .complete_creation(new(pair("rotating", [4; 16])))
        .await
        .unwrap();
    store.begin_succession(intent("rotating", 5)).await.unwrap();
    drop(store);
    let store = open_restored(&folder.path().join("store.db"));
    (store, folder)
}

#[tokio::test]
async fn every_intent_of_a_restored_store_is_doubtful_and_stays_so() {
    let (store, folder) = restored().await;
    let keys = [1, 2, 3, 5];
    let all_doubtful = async |store: &EmbeddedStore| {
        let found = intents(store).await;
        let doubtful = found
            .iter()
            .filter(|(_, _, state)| *state == IntentState::Doubtful);
        let doubtful: Vec<_> = doubtful.map(|(key, _, _)| *key).collect();
        assert_eq!((doubtful, found.len()), (keys.to_vec(), keys.len()));
    };
    all_doubtful(&store).await;
    // Nothing that the daemon does of itself changes that.
    for key in keys {
        let key_ref = KeyRef::from_random([key; 16]);
        let ended = store.abort_creation(key_ref, IntentState::Aborted).await;
        assert_eq!(ended.unwrap(), None);
        store.end_intent(key_ref).await.unwrap();
    }
    for (id, key) in [("creating", 1), ("aborted", 2), ("destroying", 3)] {
        let begun = store.begin_creation(intent(id, 9)).await;
        assert!(matches!(begun, Err(StoreError::IdDoubtful)), "{id}");
        let completed = store.complete_creation(made(pair(id, [key; 16]))).await;
        assert!(matches!(completed, Err(StoreError::IntentGone)), "{id}");
        let completed = store.complete_creation(new(pair(id, [key; 16]))).await;
        assert!(matches!(completed, Err(StoreError::KeyUnfinished)), "{id}");
    }
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    all_doubtful(&store).await;
}

#[tokio::test]
async fn an_operator_has_a_doubtful_key_destroyed_or_keeps_it_by_linking_it() {
    let (store, _folder) = restored().await;
    let destroyed = KeyRef::from_random([1; 16]);
    let scheduled = store.schedule_destruction(destroyed).await.unwrap();
    // Its creation may have left what has no CKA_ID.
    assert_eq!(scheduled.unwrap().state, IntentState::Aborted);
    assert_eq!(store.schedule_destruction(destroyed).await.unwrap(), None);
    store.end_intent(destroyed).await.unwrap();
    store.begin_creation(intent("creating", 9)).await.unwrap();

    let linked = |id: &str, key: u8| {
        let mut linked = pair(id, [key; 16]);
        linked.current.origin = KeyOrigin::Linked;
        new(linked)
    };
    // A link that fails after its record leaves the key doubtful, and its id held.
    let before = store.intents().await.unwrap();
    let doubtful = before.iter().find(|intent| intent.id.as_str() == "aborted");
    let other = linked("other", 2);
    store.complete_creation(other.clone()).await.unwrap();
    let taken_back = store
        .take_back(&other.key_pair, doubtful.cloned(), NOW)
        .await;
    assert!(taken_back.unwrap());
    assert_eq!(store.intents().await.unwrap(), before);
    let held = store.begin_creation(intent("aborted", 11)).await;
    assert!(matches!(held, Err(StoreError::IdDoubtful)), "{held:?}");

    store.complete_creation(linked("aborted", 2)).await.unwrap();
    // Not under the id of another key pair, and under a free one.
    let taken = store.complete_creation(linked("rotating", 5)).await;
    assert!(matches!(taken, Err(StoreError::IdTaken)), "{taken:?}");
    let unfinished = store.complete_creation(linked("creating", 3)).await;
    assert!(matches!(unfinished, Err(StoreError::IdUnfinished)));
    let doubtful = store.complete_creation(linked("destroying", 5)).await;
    assert!(matches!(doubtful, Err(StoreError::IdDoubtful)));
    store.complete_creation(linked("kept", 3)).await.unwrap();
    store
        .begin_creation(intent("destroying", 10))
        .await
        .unwrap();
    assert_eq!(
        intents(&store).await,
        [
            (5, "rotating".to_owned(), IntentState::Doubtful),
            (9, "creating".to_owned(), IntentState::Creating),
            (10, "destroying".to_owned(), IntentState::Creating)
        ]
    );
}

#[tokio::test]
async fn a_doubtful_key_is_kept_under_an_id_that_other_doubtful_keys_hold() {
    let (store, folder) = open();
    let mut two = pair("x", [1; 16]);
    two.pending = Some(KeyPairGeneration {
        number: Generation::new(2).unwrap(),
        ..pair("x", [2; 16]).current
    });
    store
        .complete_creation(new(pair("x", [1; 16])))
        .await
        .unwrap();
    store.begin_succession(intent("x", 2)).await.unwrap();
    let becomes = KeyPair {
        revision: 1,
        ..two.clone()
    };
    let was = pair("x", [1; 16]);
    assert!(store.replace(&was, &becomes, change()).await.unwrap());
    assert!(store.begin_deletion(&becomes, false, NOW).await.unwrap());
    drop(store);
    let store = open_restored(&folder.path().join("store.db"));
    for key in [1, 2] {
        let mut linked = pair("x", [key; 16]);
        linked.current.origin = KeyOrigin::Linked;
        let kept = store.complete_creation(new(linked)).await;
        match key {
            1 => kept.unwrap(),
            _ => assert!(matches!(kept, Err(StoreError::IdTaken))),
        }
    }
    assert_eq!(
        intents(&store).await,
        [(2, "x".to_owned(), IntentState::Doubtful)]
    );
}

#[tokio::test]
async fn a_software_key_ends_with_its_row_and_holds_no_id() {
    let (store, _folder) = open();
    let local = |id: &str, key: u8| {
        let mut local = pair(id, [key; 16]);
        local.current.provider = ProviderKind::Local;
        local
    };
    store.complete_creation(new(local("x", 1))).await.unwrap();
    assert!(
        store
            .begin_deletion(&local("x", 1), false, NOW)
            .await
            .unwrap()
    );
    store.complete_creation(new(local("x", 2))).await.unwrap();
    assert!(store.take_back(&local("x", 2), None, NOW).await.unwrap());
    // A former one, which is retired.
    let was = local("x", 3);
    store.complete_creation(new(was.clone())).await.unwrap();
    store.begin_succession(intent("x", 4)).await.unwrap();
    let becomes = KeyPair {
        revision: 1,
        current: KeyPairGeneration {
            number: Generation::new(2).unwrap(),
            ..pair("x", [4; 16]).current
        },
        previous: vec![was.current.clone()],
        ..was.clone()
    };
    assert!(store.replace(&was, &becomes, change()).await.unwrap());
    let retired = KeyPair {
        revision: 2,
        previous: Vec::new(),
        ..becomes.clone()
    };
    assert!(store.replace(&becomes, &retired, change()).await.unwrap());
    assert!(intents(&store).await.is_empty());
}

#[test]
fn intents_from_before_they_had_owners_are_ended_doubted_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut db = open::open(&path).unwrap();
    open::migrate_to(&path, &mut db, 3).unwrap();
    for (id, key_ref, provider, condemned) in [
        ("making", vec![1_u8; 16], 2, 0),
        ("deleted", vec![2; 16], 2, 1),
        ("linked", vec![3; 1], 2, 1),
        ("software", vec![4; 16], 1, 1),
        ("retired", vec![5; 16], 2, 1),
    ] {
        db.execute("INSERT INTO ids VALUES (?1)", [id]).unwrap();
        db.execute(
            "INSERT INTO intents VALUES (?1, ?2, 1, ?3, ?4)",
            params![key_ref, id, provider, condemned],
        )
        .unwrap();
    }
    // It rotated: the public part of its first key is kept.
    db.execute_batch(
        "INSERT INTO key_pairs (sequence, id, provider, origin, labels, create_time, revision, generation,
                                key_algorithm, subject_dn, not_before, not_after)
         VALUES (1, 'retired', 2, 1, '{}', 0, 2, 2, 2, '', 0, 0);
         INSERT INTO generations (key_ref, key_pair, number, key_size, public_key, signature_algorithm,
                                  certificate, serial_number, subject_dn, issuer_dn,
                                  subject_alternative_names, not_before, not_after, provider, state)
         VALUES (CAST(x'05050505050505050505050505050505' AS BLOB), 1, 1, 256, x'04', '', x'30', '1', '', '',
                 '[]', 0, 0, 2, 4);",
    )
    .unwrap();
    drop(db);
    let store = EmbeddedStore::open(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let aborted = IntentState::Aborted;
        assert_eq!(
            intents(&store).await,
            [
                (1, "making".to_owned(), aborted),
                (2, "deleted".to_owned(), IntentState::Doubtful),
                (3, "linked".to_owned(), IntentState::Doubtful),
                (5, "retired".to_owned(), aborted)
            ]
        );
        // By its CKA_ID alone it is not destroyed. When it is gone, its id is free.
        let linked = KeyRef::from_slice(&[3]).unwrap();
        assert_eq!(store.schedule_destruction(linked).await.unwrap(), None);
        assert!(store.end_doubt(linked).await.unwrap());
        assert!(!store.end_doubt(linked).await.unwrap());
        store.begin_creation(intent("linked", 8)).await.unwrap();
        store.begin_creation(intent("software", 9)).await.unwrap();
    });
}

#[tokio::test]
async fn keys_of_a_store_of_version_6_go_on_signing_with_what_they_signed_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut db = open::open(&path).unwrap();
    open::migrate_to(&path, &mut db, 6).unwrap();
    // Key algorithm, key size, algorithm of the certificate, and what signatures had.
    let rows = [
        ("rsa", 1, 2048, "SHA512withRSA", "SHA512withRSA"),
        (
            "rsa-pss",
            1,
            3072,
            "SHA384withRSAandMGF1",
            "SHA384withRSAandMGF1",
        ),
        ("rsa-of-ec-ca", 1, 4096, "SHA384withECDSA", "SHA256withRSA"),
        ("rsa-sha-1", 1, 2048, "SHA1withRSA", "SHA256withRSA"),
        ("weak", 1, 1024, "SHA512withRSA", "SHA512withRSA"),
        ("weak-384", 1, 1024, "SHA384withRSA", "SHA256withRSA"),
        ("p-384", 2, 384, "SHA384withECDSA", "SHA384withECDSA"),
        (
            "p-384-default",
            2,
            384,
            "SHA256withECDSA",
            "SHA256withECDSA",
        ),
        (
            "p-521-of-rsa-ca",
            2,
            521,
            "SHA512withRSA",
            "SHA256withECDSA",
        ),
        ("ed25519", 3, 255, "Ed25519", "Ed25519"),
        ("ed25519-of-rsa-ca", 3, 255, "1.2.3.4", "Ed25519"),
    ];
    for (number, (id, algorithm, size, certificate, _)) in (1_u8..).zip(rows) {
        db.execute("INSERT INTO ids VALUES (?1)", [id]).unwrap();
        db.execute(
            "INSERT INTO key_pairs (sequence, id, provider, origin, labels, create_time, revision, generation,
                                    key_algorithm, subject_dn, not_before, not_after)
             VALUES (?1, ?2, 1, 2, '{}', 0, 0, 1, ?3, '', 0, 0)",
            params![number, id, algorithm],
        )
        .unwrap();
        db.execute(
            "INSERT INTO generations (key_ref, key_pair, number, key_size, public_key, signature_algorithm,
                                      certificate, serial_number, subject_dn, issuer_dn,
                                      subject_alternative_names, not_before, not_after, provider, origin,
                                      key_algorithm, state)
             VALUES (?1, ?2, 1, ?3, x'04', ?4, x'30', '1', '', '', '[]', 0, 0, 1, 2, ?5, 1)",
            params![[number; 16], number, size, certificate, algorithm],
        )
        .unwrap();
    }
    drop(db);
    let store = EmbeddedStore::open(&path).unwrap();
    for (id, _, _, certificate, expected) in rows {
        let id = KeyPairId::parse(id).unwrap();
        let read = store.key_pair(&id).await.unwrap().unwrap();
        let current = &read.current;
        assert_eq!(current.signing_algorithm.name(), expected, "{id}");
        assert_eq!(current.certificate_signature_algorithm, certificate);
    }
}

#[tokio::test]
async fn a_changed_key_pair_is_not_deleted_by_who_saw_it_before() {
    let (store, _folder) = open();
    store
        .complete_creation(new(pair("x", [1; 16])))
        .await
        .unwrap();
    let mut seen = pair("x", [1; 16]);
    seen.revision = 7;
    assert!(!store.begin_deletion(&seen, false, NOW).await.unwrap());
    assert!(store.key_pair(&seen.id).await.unwrap().is_some());
}

#[tokio::test]
async fn who_saw_a_key_pair_does_not_touch_another_that_has_its_id_now() {
    let (store, _folder) = open();
    let (seen, remade) = (pair("x", [1; 16]), pair("x", [2; 16]));
    store.complete_creation(new(seen.clone())).await.unwrap();
    assert!(store.begin_deletion(&seen, false, NOW).await.unwrap());
    store.end_intent(seen.current.key_ref).await.unwrap();
    store.complete_creation(new(remade.clone())).await.unwrap();
    assert_eq!(seen.revision, remade.revision);

    assert!(!store.begin_deletion(&seen, false, NOW).await.unwrap());
    assert!(!store.take_back(&seen, None, NOW).await.unwrap());
    let becomes = KeyPair {
        revision: seen.revision + 1,
        ..seen.clone()
    };
    let change = Change {
        time: NOW,
        event: None,
        sealed_key: None,
    };
    assert!(!store.replace(&seen, &becomes, change).await.unwrap());
    assert!(!store.note_warning(&seen, 1, NOW).await.unwrap());
    assert_eq!(store.key_pair(&seen.id).await.unwrap(), Some(remade));
    assert!(intents(&store).await.is_empty());
}

#[tokio::test]
async fn requests_are_known_for_a_day() {
    let (store, _folder) = open();
    let day = Duration::days(1);
    let make = |id: &str, byte, request| NewKeyPair {
        request: Some(request),
        ..new(pair(id, [byte; 16]))
    };
    store
        .complete_creation(make("a", 1, request("r", "a", NOW)))
        .await
        .unwrap();
    let name = RequestId::parse("r").unwrap();
    let known = |since| store.answered_request(&name, since);
    assert!(known(NOW).await.unwrap().is_some());
    assert!(known(NOW + Duration::SECOND).await.unwrap().is_none());
    // The name may be used again after that.
    let later = NOW + day + Duration::SECOND;
    store
        .complete_creation(make("b", 2, request("r", "b", later)))
        .await
        .unwrap();
    let found = known(NOW).await.unwrap().unwrap();
    assert_eq!(found.0.key_pair.as_str(), "b");
    // What is taken back was no answer.
    assert!(
        store
            .take_back(&pair("b", [2; 16]), None, later)
            .await
            .unwrap()
    );
    assert!(known(NOW).await.unwrap().is_none());
}

#[tokio::test]
async fn a_request_is_not_answered_with_another_key_pair_that_has_the_id_since() {
    let (store, _folder) = open();
    let answer = |request_id: &str, byte| NewKeyPair {
        request: Some(request(request_id, "x", NOW)),
        ..new(pair("x", [byte; 16]))
    };
    store.complete_creation(answer("first", 1)).await.unwrap();
    let deleted = pair("x", [1; 16]);
    assert!(store.begin_deletion(&deleted, false, NOW).await.unwrap());
    store.end_intent(deleted.current.key_ref).await.unwrap();
    store.complete_creation(answer("second", 2)).await.unwrap();
    let answered = async |name: &str| {
        let name = RequestId::parse(name).unwrap();
        let found = store.answered_request(&name, NOW).await.unwrap();
        found.map(|(_, made)| made)
    };
    let remade = pair("x", [2; 16]);
    assert_eq!(answered("first").await, Some(None));
    assert_eq!(answered("second").await, Some(Some(remade.clone())));
    // What is taken back ends its own request only.
    assert!(store.take_back(&remade, None, NOW).await.unwrap());
    assert_eq!(answered("first").await, Some(None));
    assert_eq!(answered("second").await, None);
}

#[tokio::test]
async fn requests_are_forgotten_by_a_time_of_their_own_which_is_kept_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.request_time().await.unwrap(), None);
    let year = Duration::days(365);
    for (id, byte, time) in [("a", 1, NOW), ("b", 2, NOW + year)] {
        let made = NewKeyPair {
            request: Some(request(id, id, time)),
            ..new(pair(id, [byte; 16]))
        };
        store.complete_creation(made).await.unwrap();
        assert_eq!(store.request_time().await.unwrap(), Some(time));
    }
    let name = RequestId::parse("a").unwrap();
    let is_known = async |store: &EmbeddedStore| {
        let found = store.answered_request(&name, NOW).await;
        found.unwrap().is_some()
    };
    // Neither by a later one nor with old events.
    store.forget_events(NOW + year).await.unwrap();
    store.forget_requests(NOW + Duration::DAY).await.unwrap();
    assert!(is_known(&store).await);
    let later = NOW + year + Duration::HOUR;
    store.forget_requests(later).await.unwrap();
    assert!(!is_known(&store).await);
    store.close().await;
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.request_time().await.unwrap(), Some(later));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_under_one_id_one_succeeds_and_failures_do_not_touch_their_neighbours() {
    let (store, _folder) = open();
    let store = Arc::new(store);
    let writes: Vec<_> = (0..100_u8)
        .map(|n| {
            let store = Arc::clone(&store);
            // Every second one wants the same id, the others one of their own.
            let id = if n % 2 == 0 {
                "same".to_owned()
            } else {
                format!("own-{n}")
            };
            tokio::spawn(async move {
                store
                    .complete_creation(new(pair(&id, [n; 16])))
                    .await
                    .is_ok()
            })
        })
        .collect();
    let mut made = 0;
    for write in writes {
        made += usize::from(write.await.unwrap());
    }
    assert_eq!(made, 51);
    assert_eq!(store.count(ProviderKind::Hsm).await.unwrap(), 51);
    assert_eq!(store.keys_of(ProviderKind::Hsm).await.unwrap().len(), 51);
}

/// A key pair that differs in what lists look at.
fn listed(n: u8, provider: bool, spec: u8, days: u8, subject: u8) -> KeyPair {
    let spec = match spec % 3 {
        0 => KeySpec::Rsa(RsaSize::Bits2048),
        1 => KeySpec::Ec(Curve::P256),
        _ => KeySpec::Ed25519,
    };
    let mut pair = pair(&format!("id{:03}", n.wrapping_mul(37)), [n; 16]);
    pair.current.provider = if provider {
        ProviderKind::Hsm
    } else {
        ProviderKind::Local
    };
    pair.current.public_key = PublicKey::new(spec, [n; 32]);
    // Around now, so that some are expired and some not valid yet.
    let from = NOW + Duration::days(i64::from(days % 5) - 3);
    pair.current.validity = Validity::days_from(from, 2);
    pair.labels = labels(&[("team", ["0", "1", "2"][usize::from(n % 3)])]);
    if n.is_multiple_of(2) {
        pair.labels = labels(&[("team", ["0", "1", "2"][usize::from(n % 3)]), ("half", "")]);
    }
    pair.current.subject_dn = format!("CN=Name {}%, O=Acme_{}", subject % 4, subject % 3);
    pair
}

fn meets(pair: &KeyPair, filter: &ListFilter) -> bool {
    let text = filter.text.as_ref().map(|text| text.to_lowercase());
    filter
        .provider
        .is_none_or(|provider| pair.provider() == provider)
        && filter
            .algorithm
            .is_none_or(|a| pair.current.public_key.spec().algorithm() == a)
        && filter
            .status
            .is_none_or(|status| pair.current.validity.at(NOW) == status)
        && filter
            .expires_before
            .is_none_or(|before| pair.current.validity.not_after < before)
        && pair.labels.contain(&filter.labels)
        && text.is_none_or(|text| {
            pair.id.as_str().contains(&text)
                || pair.current.subject_dn.to_lowercase().contains(&text)
        })
}

fn filters() -> impl Strategy<Value = ListFilter> {
    (
        prop::option::of(prop::sample::select(&ProviderKind::ALL[..])),
        prop::option::of(prop::sample::select(&KeyAlgorithm::ALL[..])),
        prop::option::of(prop::sample::select(vec![
            CertificateValidity::Valid,
            CertificateValidity::Expired,
            CertificateValidity::NotYetValid,
        ])),
        prop::option::of(-3_i64..4),
        prop::option::of(prop::sample::select(vec![
            "id0", "NAME 1", "%", "_2", "nothing",
        ])),
        prop::sample::select(vec![
            vec![],
            vec![("team", "0")],
            vec![("team", "1"), ("half", "")],
            vec![("team", "9")],
        ]),
    )
        .prop_map(
            |(provider, algorithm, status, before, text, asked)| ListFilter {
                provider,
                algorithm,
                status,
                expires_before: before.map(|days| NOW + Duration::days(days)),
                text: text.map(ToOwned::to_owned),
                labels: labels(&asked),
            },
        )
}

fn orders() -> impl Strategy<Value = ListOrder> {
    let fields = vec![
        OrderField::CreateTime,
        OrderField::Id,
        OrderField::Expires,
        OrderField::SubjectDn,
    ];
    (prop::sample::select(fields), any::<bool>())
        .prop_map(|(field, descending)| ListOrder { field, descending })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pages_joined_are_the_filtered_and_ordered_list(
        pairs in prop::collection::vec(any::<(bool, u8, u8, u8)>(), 0..40),
        filter in filters(),
        order in orders(),
        page_size in 1_i32..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (store, _folder) = open();
            let mut expected = Vec::new();
            for (n, (provider, spec, days, subject)) in pairs.into_iter().enumerate() {
                let pair = listed(u8::try_from(n).unwrap(), provider, spec, days, subject);
                store.complete_creation(new(pair.clone())).await.unwrap();
                expected.push(pair);
            }
            expected.retain(|pair| meets(pair, &filter));
            if order.descending {
                expected.reverse();
            }
            // Both sorts are stable: what is alike stays in the order of making, or its reverse.
            expected.sort_by(|one, other| {
                let ascending = match order.field {
                    OrderField::CreateTime => std::cmp::Ordering::Equal,
                    OrderField::Id => one.id.cmp(&other.id),
                    OrderField::Expires => {
                        one.current.validity.not_after.cmp(&other.current.validity.not_after)
                    }
                    OrderField::SubjectDn => one.current.subject_dn.cmp(&other.current.subject_dn),
                };
                if order.descending { ascending.reverse() } else { ascending }
            });
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let query = ListQuery {
                    filter: filter.clone(),
                    order,
                    page_size: PageSize::parse(page_size).unwrap(),
                    after,
                    skip: 0,
                    with_total: true,
                    with_sharers: false,
                };
                let page = store.list(query, NOW).await.unwrap();
                prop_assert_eq!(page.total, u64::try_from(expected.len()).unwrap());
                found.extend(page.key_pairs);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_list_is_counted_by_its_text_only_where_the_total_is_needed() {
    let (store, _folder) = open();
    for number in 0..3 {
        let pair = listed(number, false, 0, 1, 1);
        store.complete_creation(new(pair)).await.unwrap();
    }
    for (with_total, total) in [(true, 0), (false, 3)] {
        let query = ListQuery {
            filter: ListFilter {
                text: Some("no key pair has this text".to_owned()),
                ..ListFilter::default()
            },
            order: ListOrder::default(),
            page_size: PageSize::parse(10).unwrap(),
            after: None,
            skip: 0,
            with_total,
            with_sharers: false,
        };
        let page = store.list(query, NOW).await.unwrap();
        assert_eq!((page.key_pairs.len(), page.total), (0, total));
    }
}

#[test]
fn no_long_list_is_sorted_at_run_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut db = open::open(&path).unwrap();
    open::migrate(&path, &mut db).unwrap();
    let filters = [
        ListFilter::default(),
        ListFilter {
            provider: Some(ProviderKind::Local),
            algorithm: Some(KeyAlgorithm::Ec),
            status: Some(CertificateValidity::Valid),
            expires_before: Some(NOW),
            text: Some("x".to_owned()),
            labels: labels(&[("team", "1"), ("half", "")]),
        },
    ];
    for filter in filters {
        for field in [
            OrderField::CreateTime,
            OrderField::Id,
            OrderField::Expires,
            OrderField::SubjectDn,
        ] {
            for descending in [false, true] {
                let order = ListOrder { field, descending };
                let plan = list::plan(&db, filter.clone(), order).unwrap();
                assert!(!plan.contains("TEMP B-TREE"), "{order:?}: {plan}");
                assert!(plan.contains("SEARCH key_pairs"), "{order:?}: {plan}");
            }
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_to_be_put_on_the_token_until_it_is_and_only_where_it_belongs_there() {
    let (store, _folder) = open();
    for (id, key_ref, provider, origin) in [
        ("local", 1, ProviderKind::Local, KeyOrigin::Generated),
        ("linked", 2, ProviderKind::Hsm, KeyOrigin::Linked),
        ("token", 3, ProviderKind::Hsm, KeyOrigin::Imported),
    ] {
        let mut was = pair(id, [key_ref; 16]);
        was.current.provider = provider;
        was.current.origin = origin;
        store.complete_creation(new(was.clone())).await.unwrap();
        let mut certified = was.clone();
        certified.revision += 1;
        certified.current.certificate = Certificate::from_der(*b"another");
        assert!(store.replace(&was, &certified, change()).await.unwrap());
        let key_ref = was.current.key_ref;
        let expected = match id {
            "token" => vec![(was.id.clone(), key_ref)],
            _ => Vec::new(),
        };
        assert_eq!(store.unpublished(None).await.unwrap(), expected, "{id}");
        // What was put there is not it any more.
        let note = |pair: &KeyPair| {
            let (store, certificate) = (&store, pair.current.certificate.clone());
            async move { store.note_published(key_ref, &certificate).await }
        };
        note(&was).await.unwrap();
        assert_eq!(store.unpublished(None).await.unwrap(), expected, "{id}");
        note(&certified).await.unwrap();
        assert!(store.unpublished(None).await.unwrap().is_empty(), "{id}");
    }
}

#[tokio::test]
async fn a_key_pair_is_replaced_as_it_was_read_or_not_at_all() {
    let (store, _folder) = open();
    let mut was = pair("x", [1; 16]);
    was.current.provider = ProviderKind::Local;
    let sealed = SealedKey::from_bytes([9; 100]);
    store
        .complete_creation(NewKeyPair {
            sealed_key: Some(sealed.clone()),
            ..new(was.clone())
        })
        .await
        .unwrap();
    let mut certified = was.clone();
    certified.revision += 1;
    certified.current.certificate = Certificate::from_der(*b"another");
    certified.current.subject_dn = "CN=Other".into();
    certified.current.chain.clear();
    assert!(store.replace(&was, &certified, change()).await.unwrap());
    // Not over what somebody else has made of it.
    assert!(!store.replace(&was, &certified, change()).await.unwrap());
    let read = || store.key_pair(&was.id);
    assert_eq!(read().await.unwrap(), Some(certified.clone()));
    assert_eq!(
        store.sealed_key(was.current.key_ref).await.unwrap(),
        Some(sealed)
    );
    // Another key in another provider: what was the key is gone with it.
    store.begin_succession(intent("x", 2)).await.unwrap();
    let mut moved = certified.clone();
    moved.revision += 1;
    moved.current.provider = ProviderKind::Hsm;
    moved.current.origin = KeyOrigin::Linked;
    moved.current.key_ref = KeyRef::from_random([2; 16]);
    assert!(store.replace(&certified, &moved, change()).await.unwrap());
    assert_eq!(read().await.unwrap(), Some(moved.clone()));
    for key_ref in [was.current.key_ref, moved.current.key_ref] {
        assert_eq!(store.sealed_key(key_ref).await.unwrap(), None);
    }
    assert_eq!(store.count(ProviderKind::Local).await.unwrap(), 0);
    assert_eq!(store.count(ProviderKind::Hsm).await.unwrap(), 1);

    // One that is gone has no successor.
    assert!(matches!(
        store.begin_succession(intent("y", 9)).await,
        Err(StoreError::IdGone)
    ));
    // A succession that is broken off leaves the id where it is.
    store.begin_succession(intent("x", 3)).await.unwrap();
    let broken_off = KeyRef::from_random([3; 16]);
    store
        .abort_creation(broken_off, IntentState::Aborted)
        .await
        .unwrap();
    store.end_intent(broken_off).await.unwrap();
    assert_eq!(read().await.unwrap(), Some(moved.clone()));
    assert!(matches!(
        store.begin_creation(intent("x", 4)).await,
        Err(StoreError::IdTaken)
    ));

    // A key has one key pair; forgotten, it may have another, and so may the id.
    let linked = |id: &str| new(pair(id, [2; 16]));
    assert!(matches!(
        store.complete_creation(linked("y")).await,
        Err(StoreError::KeyTaken)
    ));
    assert!(store.begin_deletion(&moved, false, NOW).await.unwrap());
    assert!(intents(&store).await.is_empty());
    store.complete_creation(linked("x")).await.unwrap();
}
