//! Generations, what is due, warnings and events.

use time::Duration;

use super::tests::{NOW, change, new, open, pair};
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

fn rotating(id: &str, key: u8) -> KeyPair {
    let mut pair = pair(id, [key; 16]);
    pair.current.validity = Validity::days_from(NOW, YEAR);
    KeyPair {
        rotation: Some(rotation()),
        ..pair
    }
}

fn with_pending(was: &KeyPair, key: u8) -> KeyPair {
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

fn activated(was: &KeyPair) -> KeyPair {
    KeyPair {
        revision: was.revision + 1,
        current: was.pending.clone().unwrap(),
        pending: None,
        previous: vec![was.current.clone()],
        ..was.clone()
    }
}

async fn events(store: &EmbeddedStore) -> Vec<Event> {
    store.events_after(0, 100).await.unwrap()
}

/// Records whether the HSM serves, and tells whether that was news.
async fn note(store: &EmbeddedStore, serves: bool, time: OffsetDateTime) -> bool {
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
    assert_eq!(store.keys_of(local).await.unwrap(), [(next, id.clone())]);
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
    let condemned = store.condemned_of(id).await.unwrap();
    let keys: Vec<_> = condemned.iter().map(|intent| intent.key_ref).collect();
    assert_eq!(keys, [first.current.key_ref]);
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

    // With the key pair, its keys go, and the id is free when they are gone.
    assert!(store.begin_deletion(&alone, false, NOW).await.unwrap());
    let condemned = store.condemned_of(id).await.unwrap();
    assert_eq!(condemned.len(), 1);
    store.end_intent(next).await.unwrap();
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

#[tokio::test]
async fn of_a_provider_only_what_differs_from_its_last_event_is_recorded_after_a_restart_too() {
    let (store, folder) = open();
    assert!(!note(&store, true, NOW).await, "nothing was wrong before");
    assert!(note(&store, false, NOW).await);
    assert!(!note(&store, false, NOW).await);
    // The other provider has a history of its own.
    let (kind, local) = (EventKind::ProviderUnavailable, ProviderKind::Local);
    assert!(store.note_provider_event(kind, local, NOW).await.unwrap());
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    assert!(!note(&store, false, NOW).await);
    // The last event is known when it is too old to be kept.
    store.forget_events(NOW + Duration::DAY).await.unwrap();
    assert!(events(&store).await.is_empty());
    assert!(note(&store, true, NOW).await, "the outage ends once");
    assert!(!note(&store, true, NOW).await);
    assert_eq!(events(&store).await.len(), 1);
}

/// Rotates a key pair by two steps, each with its event, and retires what is more than a number of
/// generations. Returns what the key pair was after each event.
async fn rotate(store: &EmbeddedStore, pair: &mut KeyPair, key: u32, kept: usize) -> [KeyPair; 2] {
    let mut pending = with_pending(pair, 0);
    let next = pending.pending.as_mut().unwrap();
    let mut key_ref = [0; 16];
    key_ref[..4].copy_from_slice(&key.to_be_bytes());
    next.key_ref = KeyRef::from_random(key_ref);
    let der: Vec<_> = key.to_be_bytes().into_iter().cycle().take(600).collect();
    next.certificate = Certificate::from_der(der);
    let step = |event| Change { event, ..change() };
    let made = step(Some(EventKind::PendingCreated));
    assert!(store.replace(pair, &pending, made).await.unwrap());
    let mut active = activated(&pending);
    active.previous.extend(pending.previous.iter().cloned());
    let activation = step(Some(EventKind::Activated));
    assert!(store.replace(&pending, &active, activation).await.unwrap());
    *pair = active.clone();
    if pair.previous.len() >= kept {
        pair.revision += 1;
        pair.previous.truncate(kept - 1);
        assert!(store.replace(&active, pair, step(None)).await.unwrap());
    }
    [pending, active]
}

/// A store in memory, where there is such a folder: thousands of commits need no disk to be tried.
fn open_in_memory() -> (EmbeddedStore, tempfile::TempDir) {
    let shm = std::path::Path::new("/dev/shm");
    let folder = match shm.is_dir() {
        true => tempfile::tempdir_in(shm).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    (store, folder)
}

/// Returns how many bytes the history takes: the events, and what key pairs were after them.
fn bytes_of_history(folder: &tempfile::TempDir) -> i64 {
    let db = open::open(&folder.path().join("store.db")).unwrap();
    let tables =
        "SELECT name FROM sqlite_master WHERE tbl_name = 'events' OR tbl_name LIKE 'snapshot%'";
    let sql = format!("SELECT sum(pgsize) FROM dbstat WHERE name IN ({tables})");
    db.query_row(&sql, (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_thousand_rotations_take_a_few_megabytes_and_each_event_has_what_was_after_it() {
    let (store, folder) = open_in_memory();
    let mut pair = rotating("x", 255);
    store.complete_creation(new(pair.clone())).await.unwrap();
    let (mut expected, mut after_half) = (vec![pair.clone()], 0);
    for key in 1..=1000 {
        if key == 501 {
            after_half = bytes_of_history(&folder);
        }
        expected.extend(rotate(&store, &mut pair, key, 15).await);
    }
    let bytes = bytes_of_history(&folder);
    assert!(bytes < 6 * 1024 * 1024, "{bytes} bytes");
    assert!(
        bytes < after_half * 21 / 10,
        "{after_half}, then {bytes} bytes"
    );

    let (mut cursor, mut read) = (0, Vec::new());
    loop {
        let page = store.events_after(cursor, 32).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = last.sequence;
        read.extend(page.into_iter().map(|event| event.subject));
    }
    assert_eq!(read.len(), expected.len());
    for (subject, pair) in read.into_iter().zip(expected) {
        let after = Some(Box::new(pair));
        let id = KeyPairId::parse("x").unwrap();
        assert_eq!(subject, EventSubject::KeyPair { id, after });
    }

    // With its events, all that is kept of them goes.
    store.forget_events(NOW + Duration::DAY).await.unwrap();
    let db = open::open(&folder.path().join("store.db")).unwrap();
    for table in [
        "events",
        "snapshots",
        "snapshot_generations",
        "snapshot_parts",
    ] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = db.query_row(&count, (), |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{table}");
    }
}

#[tokio::test]
async fn a_snapshot_goes_with_the_last_event_of_it() {
    let (store, _folder) = open();
    let pair = rotating("x", 1);
    store.complete_creation(new(pair.clone())).await.unwrap();
    let later = NOW + Duration::days(2);
    assert!(store.note_warning(&pair, 30, later).await.unwrap());
    store.forget_events(NOW + Duration::DAY).await.unwrap();
    let left = events(&store).await;
    let id = pair.id.clone();
    let after = Some(Box::new(pair));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].subject, EventSubject::KeyPair { id, after });
}

#[tokio::test]
async fn a_page_of_large_events_ends_before_its_number() {
    let (store, _folder) = open();
    let names: Vec<_> = (0..1000)
        .map(|n| format!("{n}.{}", "x".repeat(1100)))
        .collect();
    for key in 1..=5 {
        let mut pair = rotating(&format!("x{key}"), key);
        pair.current.subject_alternative_names.clone_from(&names);
        store.complete_creation(new(pair)).await.unwrap();
    }
    let mut cursor = 0;
    for expected in [1, 1, 1, 1, 1, 0] {
        let page = store.events_after(cursor, 32).await.unwrap();
        assert_eq!(page.len(), expected);
        cursor += 1;
    }
}

/// An event of a store before version 6, of a key pair with one generation.
fn old_snapshot(id: &str, revision: u32) -> String {
    serde_json::json!({
        "id": id, "labels": {"team": "a"}, "create_time": 1_000_000, "revision": revision,
        "rotation": null, "last_number": 1,
        "current": {
            "number": 1, "state": 1, "key_ref": "AQEBAQEBAQEBAQEBAQEBAQ==", "provider": 1,
            "origin": 1, "key_algorithm": 2, "key_size": 256, "public_key": "BA==",
            "token_attributes": null, "signature_algorithm": "SHA256withECDSA",
            "certificate": "MAA=", "chain": "", "serial_number": "1", "subject_dn": "CN=x",
            "issuer_dn": "CN=x", "subject_alternative_names": "[]", "not_before": 0,
            "not_after": 86400, "activate_time": 1_000_000
        },
        "others": []
    })
    .to_string()
}

#[tokio::test]
async fn events_of_an_older_store_are_told_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let db = open::open(&path).unwrap();
    for step in [
        include_str!("../migrations/0001_key_pairs.sql"),
        include_str!("../migrations/0002_certified_key_pairs.sql"),
        include_str!("../migrations/0003_rotation.sql"),
    ] {
        db.execute_batch(step).unwrap();
    }
    db.execute_batch(
        "INSERT INTO ids VALUES ('there');
         INSERT INTO key_pairs (sequence, id, provider, origin, labels, create_time, revision, generation,
             key_algorithm, subject_dn, not_before, not_after)
         VALUES (7, 'there', 1, 1, '{}', 1000000, 1, 1, 2, 'CN=x', 0, 86400);
         INSERT INTO generations (key_ref, key_pair, number, key_size, public_key, signature_algorithm, certificate,
             serial_number, subject_dn, issuer_dn, subject_alternative_names, not_before, not_after, provider,
             key_algorithm)
         VALUES (x'01010101010101010101010101010101', 7, 1, 256, x'04', 'SHA256withECDSA', x'3000', '1', 'CN=x',
             'CN=x', '[]', 0, 86400, 1, 2);
         PRAGMA user_version = 3;",
    )
    .unwrap();
    let insert = |kind: i32, id: Option<&str>, provider, revision, key_pair: Option<String>| {
        db.execute(
            "INSERT INTO events (time, kind, key_pair_id, provider, revision, key_pair)
             VALUES (1000000, ?1, ?2, ?3, ?4, ?5)",
            params![kind, id, provider, revision, key_pair],
        )
        .unwrap();
    };
    let none = None::<i64>;
    insert(
        1,
        Some("there"),
        none,
        Some(0),
        Some(old_snapshot("there", 0)),
    );
    insert(
        1,
        Some("gone"),
        none,
        Some(0),
        Some(old_snapshot("gone", 0)),
    );
    insert(8, Some("gone"), none, None, None);
    insert(9, None, Some(2), None, None);
    // What the key pair is.
    insert(3, Some("there"), none, Some(1), None);
    drop(db);

    let store = EmbeddedStore::open(&path).unwrap();
    let told = events(&store).await;
    let after = |event: &Event| match &event.subject {
        EventSubject::KeyPair { id, after } => {
            let after = after
                .as_ref()
                .map(|pair| (pair.id.to_string(), pair.revision));
            Some((id.to_string(), after))
        }
        EventSubject::Provider(_) => None,
    };
    let with = |id: &str, revision| Some((id.to_owned(), Some((id.to_owned(), revision))));
    assert_eq!(
        told.iter().map(after).collect::<Vec<_>>(),
        [
            with("there", 0),
            with("gone", 0),
            Some(("gone".to_owned(), None)),
            None,
            with("there", 1),
        ]
    );
    let id = KeyPairId::parse("there").unwrap();
    let now = store.key_pair(&id).await.unwrap().unwrap();
    assert_eq!(now.revision, 1);
    let EventSubject::KeyPair { after, .. } = &told[4].subject else {
        panic!("{told:?}");
    };
    assert_eq!(after.as_deref(), Some(&now));
    // The key pair was the same before, and so its generation is there once.
    let EventSubject::KeyPair { after, .. } = &told[0].subject else {
        panic!("{told:?}");
    };
    assert_eq!(
        after.as_ref().unwrap().current.certificate,
        now.current.certificate
    );
    assert_eq!(store.event_span().await.unwrap(), (0, 5));

    // What was wrong with the provider is known.
    assert!(!note(&store, false, NOW).await);
    assert!(note(&store, true, NOW).await);
    // The next event has a number of its own, and a second start finds nothing to be rewritten.
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(events(&store).await.len(), 6);
}
