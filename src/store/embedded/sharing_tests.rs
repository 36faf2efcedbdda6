//! Keys that several key pairs have, and key pairs with labels.

use std::collections::BTreeMap;

use time::Duration;

use super::tests::{NOW, change, new, open, pair};
use super::*;
use crate::domain::{Curve, KeySpec, Labels, ListOrder, OrderField, PageSize, PublicKey, RsaSize};

pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter().map(|(key, value)| (*key, *value));
    Labels::from_stored(
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// A key pair with a public key of its own number.
fn with_key(id: &str, key_ref: u8, key: u8) -> KeyPair {
    let mut pair = pair(id, [key_ref; 16]);
    // A new key of it needs no intent.
    pair.current.provider = ProviderKind::Local;
    pair.current.public_key = PublicKey::new(KeySpec::Ec(Curve::P256), [key; 65]);
    pair
}

fn texts(ids: &[KeyPairId]) -> Vec<&str> {
    ids.iter().map(KeyPairId::as_str).collect()
}

fn query(filter: ListFilter, with_total: bool) -> ListQuery {
    ListQuery {
        filter,
        order: ListOrder::default(),
        page_size: PageSize::parse(1000).unwrap(),
        after: None,
        skip: 0,
        with_total,
        with_sharers: false,
    }
}

#[tokio::test]
async fn key_pairs_with_one_key_know_of_each_other() {
    let (store, _folder) = open();
    let alike_at_the_end = {
        let mut one = with_key("end", 9, 1);
        let mut bits = [1; 65];
        bits[0] = 2;
        one.current.public_key = PublicKey::new(KeySpec::Ec(Curve::P256), bits);
        one
    };
    let other_kind = {
        let mut one = with_key("kind", 8, 1);
        one.current.public_key = PublicKey::new(KeySpec::Rsa(RsaSize::Bits2048), [1; 65]);
        one
    };
    for pair in [
        with_key("c", 1, 1),
        with_key("b", 2, 1),
        with_key("a", 3, 1),
        with_key("alone", 4, 2),
        alike_at_the_end,
        other_kind,
    ] {
        store.complete_creation(new(pair)).await.unwrap();
    }
    let mut by_id = query(ListFilter::default(), false);
    by_id.order.field = OrderField::Id;
    by_id.with_sharers = true;
    let page = store.list(by_id, NOW).await.unwrap();
    let alone: Vec<&str> = Vec::new();
    for (pair, sharers, expected) in [
        ("a", 0, vec!["c", "b"]),
        ("alone", 1, alone.clone()),
        ("b", 2, vec!["c", "a"]),
        ("c", 3, vec!["b", "a"]),
        ("end", 4, alone.clone()),
        ("kind", 5, alone.clone()),
    ] {
        assert_eq!(page.key_pairs[sharers].id.as_str(), pair);
        assert_eq!(texts(&page.sharers[sharers]), expected, "{pair}");
        let id = KeyPairId::parse(pair).unwrap();
        let others = store.sharing_a_key(&id).await.unwrap();
        assert_eq!(texts(&others), expected, "{pair}");
    }
    let unknown = KeyPairId::parse("none").unwrap();
    assert_eq!(store.sharing_a_key(&unknown).await.unwrap(), []);
}

#[tokio::test]
async fn of_one_key_the_first_key_pair_of_the_list_counts_and_no_expired_generation() {
    let (store, _folder) = open();
    let first = with_key("first", 1, 1);
    let mut second = with_key("second", 2, 1);
    second.labels = labels(&[("team", "x")]);
    let third = KeyPair {
        labels: second.labels.clone(),
        ..with_key("third", 3, 1)
    };
    for pair in [&first, &second, &third] {
        store.complete_creation(new(pair.clone())).await.unwrap();
    }
    let keys = [&first, &second, &third].map(|pair| pair.current.key_ref);
    let shared = async |filter: &ListFilter, now| {
        let shared = store.shared_keys(filter, &keys, now).await.unwrap();
        let shared = shared.iter().map(|key| {
            let later: Vec<_> = key.later.iter().map(|pair| pair.id.to_string()).collect();
            (key.is_repeated, later.join(" "))
        });
        shared.collect::<Vec<_>>()
    };
    let is = |repeated: bool, later: &str| (repeated, later.to_owned());
    let all = ListFilter::default();
    assert_eq!(
        shared(&all, NOW).await,
        [is(false, "second third"), is(true, ""), is(true, "")]
    );
    let of_team = ListFilter {
        labels: labels(&[("team", "x")]),
        ..ListFilter::default()
    };
    assert_eq!(
        shared(&of_team, NOW).await[1..],
        [is(false, "third"), is(true, "")]
    );

    // The first one rotates: its former key is published until its certificate expires.
    let mut next = with_key("first", 7, 7).current;
    next.number = first.current.number.next();
    let rotated = KeyPair {
        revision: 1,
        last_number: next.number,
        current: next,
        previous: vec![first.current.clone()],
        ..first.clone()
    };
    assert!(store.replace(&first, &rotated, change()).await.unwrap());
    assert_eq!(shared(&all, NOW).await[1], is(true, ""));
    let later = NOW + Duration::days(31);
    assert_eq!(shared(&all, later).await[1], is(false, "third"));
}

#[tokio::test]
async fn the_version_of_what_is_published_changes_with_every_change_and_every_expiry() {
    let (store, _folder) = open();
    let mut seen = Vec::new();
    let mut is_new = |version: String| {
        let is_new = !seen.contains(&version);
        seen.push(version);
        is_new
    };
    let version = async |now| store.published_version(now).await.unwrap();
    assert!(is_new(version(NOW).await));
    assert!(!is_new(version(NOW + Duration::days(31)).await));
    let first = with_key("first", 1, 1);
    store.complete_creation(new(first.clone())).await.unwrap();
    assert!(is_new(version(NOW).await));
    let mut next = with_key("first", 7, 7).current;
    next.number = first.current.number.next();
    let rotated = KeyPair {
        revision: 1,
        last_number: next.number,
        current: next,
        previous: vec![first.current.clone()],
        ..first.clone()
    };
    let activated = Change {
        event: Some(EventKind::Activated),
        ..change()
    };
    assert!(store.replace(&first, &rotated, activated).await.unwrap());
    assert!(is_new(version(NOW).await));
    let later = NOW + Duration::days(31);
    assert!(is_new(version(later).await));
    // A generation is retired without an event.
    let retired = KeyPair {
        revision: 2,
        previous: Vec::new(),
        ..rotated.clone()
    };
    assert!(store.replace(&rotated, &retired, change()).await.unwrap());
    assert!(is_new(version(later).await));
    assert!(store.begin_deletion(&retired, false, NOW).await.unwrap());
    assert!(is_new(version(NOW).await));
}

#[tokio::test]
async fn a_list_by_label_follows_every_change_of_labels() {
    let (store, folder) = open();
    let listed = async |store: &EmbeddedStore, asked: &[(&str, &str)]| {
        let filter = ListFilter {
            labels: labels(asked),
            ..ListFilter::default()
        };
        let page = store.list(query(filter, true), NOW).await.unwrap();
        let ids: Vec<_> = page
            .key_pairs
            .iter()
            .map(|pair| pair.id.to_string())
            .collect();
        assert_eq!(page.total, u64::try_from(ids.len()).unwrap());
        ids.join(" ")
    };
    let mut a = with_key("a", 1, 1);
    a.labels = labels(&[("team", "pay"), ("stage", "prod")]);
    let mut b = with_key("b", 2, 2);
    b.labels = labels(&[("team", "pay"), ("quote", "it's \"x\" \u{e4}")]);
    let mut c = with_key("c", 3, 3);
    c.labels = Labels::default();
    for pair in [&a, &b, &c] {
        store.complete_creation(new(pair.clone())).await.unwrap();
    }
    let team = [("team", "pay")];
    assert_eq!(listed(&store, &team).await, "a b");
    assert_eq!(listed(&store, &[team[0], ("stage", "prod")]).await, "a");
    assert_eq!(listed(&store, &[("quote", "it's \"x\" \u{e4}")]).await, "b");
    assert_eq!(listed(&store, &[("team", "pa")]).await, "");
    assert_eq!(listed(&store, &[("tea", "pay")]).await, "");

    let relabelled = KeyPair {
        revision: 1,
        labels: labels(&[("team", "hr")]),
        ..a.clone()
    };
    assert!(store.replace(&a, &relabelled, change()).await.unwrap());
    assert!(store.begin_deletion(&b, false, NOW).await.unwrap());
    let labelled = KeyPair {
        revision: 1,
        labels: labels(&team),
        ..c.clone()
    };
    assert!(store.replace(&c, &labelled, change()).await.unwrap());
    store.close().await;
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
    assert_eq!(listed(&store, &team).await, "c");
    assert_eq!(listed(&store, &[("team", "hr")]).await, "a");
}

#[test]
fn the_labels_of_an_older_store_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut db = open::open(&path).unwrap();
    open::migrate_to(&path, &mut db, 6).unwrap();
    db.execute_batch(
        r#"INSERT INTO ids VALUES ('old');
         INSERT INTO key_pairs (sequence, id, provider, origin, labels, create_time, revision, generation,
                                key_algorithm, subject_dn, not_before, not_after)
         VALUES (1, 'old', 2, 1, '{"stage":"prod","team":"a=b"}', 0, 2, 2, 2, '', 0, 0);"#,
    )
    .unwrap();
    open::migrate(&path, &mut db).unwrap();
    let mut statement = db
        .prepare("SELECT key, value FROM labels ORDER BY key")
        .unwrap();
    let found = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    let found: BTreeMap<String, String> = found.unwrap().map(Result::unwrap).collect();
    assert_eq!(
        found,
        labels(&[("stage", "prod"), ("team", "a=b")])
            .as_map()
            .clone()
    );
}
