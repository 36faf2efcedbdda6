//! What is kept of events: of key pairs by reference, and of providers what differs.

use time::Duration;

use super::rotation_tests::{activated, events, note, rotating, with_pending};
use super::tests::{NOW, change, new, open};
use super::*;
use crate::domain::{Certificate, Event, EventKind, EventSubject};

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
async fn a_key_pair_that_is_what_it_was_after_an_event_needs_no_snapshot() {
    let (store, folder) = open();
    let snapshots = || {
        let db = open::open(&folder.path().join("store.db")).unwrap();
        db.query_row("SELECT count(*) FROM snapshots", (), |row| row.get(0))
            .unwrap()
    };
    let mut expected = Vec::new();
    for (key, id) in [(1, "x"), (2, "y")] {
        let pair = rotating(id, key);
        store.complete_creation(new(pair.clone())).await.unwrap();
        expected.push(pair);
    }
    let after = async || {
        let events = events(&store).await.into_iter();
        let after = events.filter_map(|event| match event.subject {
            EventSubject::KeyPair { after, .. } => after.map(|pair| *pair),
            EventSubject::Provider(_) => None,
        });
        after.collect::<Vec<_>>()
    };
    assert_eq!(after().await, expected);
    let mut count: i64 = snapshots();
    assert_eq!(count, 0);
    // With a change, and with the deletion, what it was is written.
    let mut pair = expected[0].clone();
    expected.extend(rotate(&store, &mut pair, 3, 15).await);
    assert!(
        store
            .begin_deletion(&expected[1], false, NOW)
            .await
            .unwrap()
    );
    assert_eq!(after().await, expected);
    count = snapshots();
    assert_eq!(count, i64::try_from(expected.len()).unwrap() - 1);
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
    for (cursor, expected) in (0..).zip([1, 1, 1, 1, 1, 0]) {
        let page = store.events_after(cursor, 32).await.unwrap();
        assert_eq!(page.len(), expected);
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
