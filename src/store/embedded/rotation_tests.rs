//! Generations, what is due, warnings and events.

use time::Duration;

use super::tests::{NOW, change, intents, new, open, pair};
use super::*;
use crate::domain::{
    Certificate, Event, EventKind, EventSubject, GenerationTemplate, KeyPairGeneration, KeySpec,
    ListFilter, ListOrder, PageSize, Rotation, SignatureAlgorithm, Validity,
};

const YEAR: u16 = 365;

fn rotation() -> Rotation {
    Rotation {
        creation_buffer_days: 30,
        activation_buffer_days: 10,
        next: GenerationTemplate {
            spec: KeySpec::Ed25519,
            signature_algorithm: SignatureAlgorithm::Ed25519,
            valid_days: YEAR,
            provider: ProviderKind::Local,
        },
    }
}

pub(super) fn rotating(id: &str, key: u8) -> KeyPair {
    let mut pair = pair(id, [key; 16]);
    pair.current.validity = Validity::days_from(NOW, YEAR);
    KeyPair {
        rotation: Some(rotation()),
        ..pair
    }
}

pub(super) fn with_pending(was: &KeyPair, key: u8) -> KeyPair {
    let number = was.last_number.next();
    KeyPair {
        revision: was.revision + 1,
        last_number: number,
        pending: Some(KeyPairGeneration {
            number,
            provider: ProviderKind::Local,
            key_ref: KeyRef::from_random([key; 16]),
            certificate: Certificate::from_der([key; 3]),
            chain: Vec::new(),
            token_attributes: None,
            validity: Validity::days_from(NOW + Duration::days(335), YEAR),
            activate_time: None,
            ..was.current.clone()
        }),
        ..was.clone()
    }
}

pub(super) fn activated(was: &KeyPair) -> KeyPair {
    KeyPair {
        revision: was.revision + 1,
        current: was.pending.clone().unwrap(),
        pending: None,
        previous: vec![was.current.clone()],
        ..was.clone()
    }
}

pub(super) async fn events(store: &EmbeddedStore) -> Vec<Event> {
    store.events_after(0, 100).await.unwrap()
}

/// Records whether the HSM serves, and tells whether that was news.
pub(super) async fn note(store: &EmbeddedStore, serves: bool, time: OffsetDateTime) -> bool {
    let kind = match serves {
        true => EventKind::ProviderRecovered,
        false => EventKind::ProviderUnavailable,
    };
    let noted = store.note_provider_event(kind, ProviderKind::Hsm, time);
    noted.await.unwrap()
}

#[tokio::test]
async fn a_rotation_is_remembered_step_by_step() {
    let (store, folder) = open();
    let first = rotating("x", 1);
    store.complete_creation(new(first.clone())).await.unwrap();
    let id = &first.id;
    assert_eq!(store.key_pair(id).await.unwrap(), Some(first.clone()));

    let sealed = SealedKey::from_bytes([9; 50]);
    let pending = with_pending(&first, 2);
    let made = Change {
        event: Some(EventKind::PendingCreated),
        sealed_key: Some(sealed.clone()),
        ..change()
    };
    assert!(store.replace(&first, &pending, made.clone()).await.unwrap());
    // Another worker, which read what this one did, comes too late.
    let other = with_pending(&first, 3);
    assert!(!store.replace(&first, &other, made).await.unwrap());
    let next = pending.pending.clone().unwrap().key_ref;
    assert_eq!(store.key_pair(id).await.unwrap(), Some(pending.clone()));
    assert_eq!(store.sealed_key(next).await.unwrap(), Some(sealed.clone()));
    let (local, hsm) = (ProviderKind::Local, ProviderKind::Hsm);
    let known = KnownKey {
        key_ref: next,
        key_pair: id.clone(),
        fingerprint: pending
            .pending
            .as_ref()
            .unwrap()
            .certificate
            .sha256_fingerprint(),
    };
    assert_eq!(store.keys_of(local).await.unwrap(), [known]);
    // The next one is in software.
    assert!(store.unpublished(None).await.unwrap().is_empty());

    let second = activated(&pending);
    let active = Change {
        event: Some(EventKind::Activated),
        ..change()
    };
    assert!(store.replace(&pending, &second, active).await.unwrap());
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    assert_eq!(store.key_pair(id).await.unwrap(), Some(second.clone()));
    assert_eq!(store.sealed_key(next).await.unwrap(), Some(sealed));
    let query = ListQuery {
        filter: ListFilter::default(),
        order: ListOrder::parse("").unwrap(),
        page_size: PageSize::parse(0).unwrap(),
        after: None,
        skip: 0,
        with_total: true,
        with_sharers: false,
    };
    let page = store.list(query, NOW).await.unwrap();
    assert_eq!(page.key_pairs, std::slice::from_ref(&second));
    assert_eq!(store.count(local).await.unwrap(), 1);

    // What is retired leaves its public part, and a key to be destroyed.
    let mut alone = second.clone();
    alone.revision += 1;
    alone.previous.clear();
    assert!(store.replace(&second, &alone, change()).await.unwrap());
    assert_eq!(store.key_pair(id).await.unwrap(), Some(alone.clone()));
    let destroying = IntentState::Destroying;
    assert_eq!(intents(&store).await, [(1, "x".to_owned(), destroying)]);
    assert!(store.keys_of(hsm).await.unwrap().is_empty());
    store.end_intent(first.current.key_ref).await.unwrap();
    let history = open::open(&folder.path().join("store.db")).unwrap();
    let (key, certificate, sealed): (Vec<u8>, Vec<u8>, Option<Vec<u8>>) = history
        .query_row(
            "SELECT public_key, certificate, sealed_key FROM generations WHERE number = 1",
            (),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(key, first.current.public_key.bits());
    assert_eq!(certificate, first.current.certificate.der());
    assert_eq!(sealed, None);

    let told = events(&store).await;
    let kinds: Vec<_> = told.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [
            EventKind::Created,
            EventKind::PendingCreated,
            EventKind::Activated
        ]
    );
    for (event, pair) in told.iter().zip([&first, &pending, &second]) {
        let subject = EventSubject::KeyPair {
            id: id.clone(),
            after: Some(Box::new(pair.clone())),
        };
        assert_eq!(event.subject, subject);
    }

    // With the key pair, its key goes. In software that is all, and the id is free.
    assert!(store.begin_deletion(&alone, false, NOW).await.unwrap());
    assert!(intents(&store).await.is_empty());
    store
        .complete_creation(new(rotating("x", 7)))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_due_is_found_in_its_order() {
    let (store, _folder) = open();
    let day = NOW + Duration::days(335);
    for (id, key, late) in [("b", 1, 0), ("a", 2, 3), ("c", 3, -1)] {
        let mut pair = rotating(id, key);
        pair.current.validity.not_after -= Duration::hours(late);
        store.complete_creation(new(pair)).await.unwrap();
    }
    let mut idle = rotating("idle", 4);
    idle.rotation = None;
    store.complete_creation(new(idle)).await.unwrap();
    let due = |now| store.due(now, 10);
    let names = |ids: Vec<KeyPairId>| {
        let names = ids.iter().map(ToString::to_string);
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(due(day - Duration::hours(4)).await.unwrap()), "");
    assert_eq!(names(due(day).await.unwrap()), "a b");
    assert_eq!(
        names(due(NOW + Duration::days(9999)).await.unwrap()),
        "a b c"
    );
    assert_eq!(store.count_due(day).await.unwrap(), 1);

    // What was done is not due any more.
    let pair = store
        .key_pair(&KeyPairId::parse("a").unwrap())
        .await
        .unwrap()
        .unwrap();
    let pending = with_pending(&pair, 9);
    assert!(store.replace(&pair, &pending, change()).await.unwrap());
    assert_eq!(names(due(day).await.unwrap()), "b");
}

#[tokio::test]
async fn each_warning_is_given_once_and_the_most_urgent_stands_for_the_others() {
    let (store, _folder) = open();
    let mut pair = rotating("x", 1);
    store.complete_creation(new(pair.clone())).await.unwrap();
    let end = pair.current.validity.not_after;
    let unwarned = |now| {
        let store = &store;
        async move {
            let found = store.unwarned(now, &[30, 1, 7], 10).await.unwrap();
            found.into_iter().map(|(_, days)| days).collect::<Vec<_>>()
        }
    };
    let days = |days| end - Duration::days(days);
    assert!(unwarned(days(31)).await.is_empty());
    assert_eq!(unwarned(days(29)).await, [30]);
    assert!(store.note_warning(&pair, 30, days(29)).await.unwrap());
    assert!(!store.note_warning(&pair, 30, days(29)).await.unwrap());
    assert!(unwarned(days(29)).await.is_empty());
    assert_eq!(unwarned(days(0)).await, [1]);
    assert!(store.note_warning(&pair, 1, days(0)).await.unwrap());
    assert!(unwarned(days(0)).await.is_empty());
    assert_eq!(unwarned(days(-1)).await, [0]);
    assert!(store.note_warning(&pair, 0, days(-1)).await.unwrap());
    assert!(unwarned(days(-99)).await.is_empty());
    let kinds: Vec<_> = events(&store)
        .await
        .iter()
        .map(|event| event.kind)
        .collect();
    let expiring = EventKind::Expiring;
    assert_eq!(
        kinds,
        [EventKind::Created, expiring, expiring, EventKind::Expired]
    );

    // A new certificate is warned of anew.
    let was = pair.clone();
    pair.revision += 1;
    pair.current.validity.not_after += Duration::days(100);
    assert!(store.replace(&was, &pair, change()).await.unwrap());
    assert_eq!(unwarned(days(-99) + Duration::HOUR).await, [1]);
}

#[tokio::test]
async fn events_are_kept_until_they_are_old_and_the_last_is_known_without_them() {
    let (store, folder) = open();
    assert_eq!(store.event_span().await.unwrap(), (0, 0));
    let mut news = store.event_news();
    store
        .complete_creation(new(rotating("x", 1)))
        .await
        .unwrap();
    news.changed().await.unwrap();
    let kind = EventKind::ProviderUnavailable;
    let hsm = ProviderKind::Hsm;
    store.note_provider_event(kind, hsm, NOW).await.unwrap();
    assert_eq!(store.event_span().await.unwrap(), (0, 2));
    let rest = store.events_after(1, 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].subject, EventSubject::Provider(hsm));
    store.forget_events(NOW).await.unwrap();
    assert_eq!(store.event_span().await.unwrap(), (1, 2));
    store.forget_events(NOW + Duration::DAY).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    assert_eq!(store.event_span().await.unwrap(), (2, 2));
}

#[tokio::test]
async fn what_is_forgotten_is_a_beginning_whatever_the_clock_did() {
    let (store, _folder) = open();
    for (days, serves) in [(0, false), (60, true), (0, false), (1, true)] {
        let time = NOW + Duration::days(days);
        assert!(note(&store, serves, time).await);
    }
    store.forget_events(NOW + Duration::days(31)).await.unwrap();
    assert_eq!(store.event_span().await.unwrap(), (1, 4));
    assert_eq!(events(&store).await.len(), 3);
    store.forget_events(NOW + Duration::days(61)).await.unwrap();
    assert_eq!(store.event_span().await.unwrap(), (4, 4));
}

#[tokio::test]
async fn a_store_from_before_rotation_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let db = open::open(&path).unwrap();
    db.execute_batch(include_str!("../migrations/0001_key_pairs.sql"))
        .unwrap();
    db.execute_batch(include_str!("../migrations/0002_certified_key_pairs.sql"))
        .unwrap();
    db.execute_batch(
        "INSERT INTO ids VALUES ('old');
         INSERT INTO key_pairs VALUES (7, 'old', 2, 2, '{}', 1000000, 3, 1, 2, 'CN=x', 0, 86400);
         INSERT INTO generations VALUES (x'01', 7, 1, 256, x'04', NULL, 15, 'SHA256withECDSA', x'3000', '1',
             'CN=x', 'CN=x', '[]', 0, 86400, x'');
         PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(db);
    let store = EmbeddedStore::open(&path).unwrap();
    let id = KeyPairId::parse("old").unwrap();
    let pair = store.key_pair(&id).await.unwrap().unwrap();
    assert_eq!(pair.provider(), ProviderKind::Hsm);
    assert_eq!(pair.origin(), KeyOrigin::Imported);
    assert_eq!(pair.current.activate_time, Some(pair.create_time));
    assert_eq!(store.keys_of(ProviderKind::Hsm).await.unwrap().len(), 1);
    // What expired long ago is not news.
    assert!(store.unwarned(NOW, &[30], 10).await.unwrap().is_empty());
}
