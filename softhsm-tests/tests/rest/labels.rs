//! Labels are changed over gRPC and by keypairctl. Watchers learn of it, and every list filters by
//! them.

use keypaird::proto::key_pair_event::Type;
use keypaird::proto::{
    KeyPairFilter, ListPublicKeysRequest, ListSigningKeyPairsRequest, UpdateLabelsRequest,
};
use serde_json::{Value, json};
use softhsm_tests::client::{Client, reason};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::http::get;
use softhsm_tests::keypairctl;
use tonic::Code;

use super::{generate, is, refused};

fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    let pairs = pairs.iter().map(|(key, value)| (*key, *value));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

async fn update(
    client: &Client,
    id: &str,
    pairs: &[(&str, &str)],
    etag: &str,
) -> Result<keypaird::proto::KeyPairView, tonic::Status> {
    let request = UpdateLabelsRequest {
        id: id.to_owned(),
        labels: labels(pairs),
        etag: etag.to_owned(),
    };
    let updated = client.key_pairs().update_labels(request).await?;
    Ok(updated.into_inner().key_pair.unwrap())
}

/// Returns the ids of a list in every way that there is to ask for it.
async fn everywhere(daemon: &Daemon, client: &Client, asked: &[(&str, &str)]) -> Vec<String> {
    let request = ListSigningKeyPairsRequest {
        filter: Some(KeyPairFilter {
            labels: labels(asked),
            ..KeyPairFilter::default()
        }),
        ..ListSigningKeyPairsRequest::default()
    };
    let page = client.list(request).await.unwrap();
    let ids: Vec<_> = page.key_pairs.into_iter().map(|view| view.id).collect();
    assert_eq!(usize::try_from(page.total_size).unwrap(), ids.len());

    let query: Vec<_> = asked
        .iter()
        .map(|(key, value)| format!("label={key}={value}"))
        .collect();
    let answer = get(daemon, &format!("/keyPairs/signing?{}", query.join("&")));
    let by_rest: Vec<_> = answer.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(by_rest, ids);

    let request = ListPublicKeysRequest {
        labels: labels(asked),
        ..ListPublicKeysRequest::default()
    };
    let keys = client.signing().list_public_keys(request).await.unwrap();
    let keys = keys.into_inner().public_keys.into_iter();
    let mut owners: Vec<_> = keys.map(|key| key.id).collect();
    // One that rotates has several keys.
    owners.dedup();
    assert_eq!(owners, ids);

    let asked: Vec<_> = asked
        .iter()
        .map(|(key, value)| format!("-l{key}={value}"))
        .collect();
    for (command, list) in [("list", "keyPairs"), ("public-keys", "publicKeys")] {
        let mut arguments = vec!["--output", "json", command];
        arguments.extend(asked.iter().map(String::as_str));
        let shown = keypairctl::json(daemon, &arguments);
        let shown = shown[list].as_array().cloned().unwrap_or_default();
        let shown = shown.iter().map(|one: &Value| one["id"].as_str().unwrap());
        let mut shown: Vec<_> = shown.collect();
        shown.dedup();
        assert_eq!(shown, ids, "{command}");
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_changed_told_and_asked_for_everywhere() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for id in ["a", "b", "c"] {
        assert_eq!(generate(&daemon, &json!({"id": id})).status, 201);
    }
    let before = client.get("a").await.unwrap();
    let mut watch = client.watch("a", "").await.unwrap();
    let pay = [("team", "pay"), ("stage", "prod")];
    let after = update(&client, "a", &pay, &before.etag).await.unwrap();
    assert_eq!(after.labels, labels(&pay));
    assert_ne!(after.etag, before.etag);
    assert_eq!(after.sha256_fingerprint, before.sha256_fingerprint);
    let event = watch.next().await.unwrap();
    assert_eq!(event.r#type(), Type::Updated);
    assert_eq!(event.key_pair.unwrap().labels, labels(&pay));
    // The same again changes nothing, and is no event.
    let same = update(&client, "a", &pay, "").await.unwrap();
    assert_eq!(same.etag, after.etag);
    client.signs(&same).await;

    update(&client, "b", &[("team", "pay")], "").await.unwrap();
    assert_eq!(everywhere(&daemon, &client, &[pay[0]]).await, ["a", "b"]);
    assert_eq!(everywhere(&daemon, &client, &pay).await, ["a"]);
    let none: [&str; 0] = [];
    assert_eq!(everywhere(&daemon, &client, &[("team", "p")]).await, none);
    assert_eq!(everywhere(&daemon, &client, &[("team", "")]).await, none);
    assert_eq!(everywhere(&daemon, &client, &[]).await, ["a", "b", "c"]);

    let shown = keypairctl::succeeded(&daemon, &["label", "a", "team=hr", "stage-", "x=1"]);
    assert!(shown.contains("team=hr, x=1"), "{shown}");
    assert_eq!(everywhere(&daemon, &client, &[pay[0]]).await, ["b"]);
    let event = watch.next().await.unwrap();
    let expected = labels(&[("team", "hr"), ("x", "1")]);
    assert_eq!(event.key_pair.unwrap().labels, expected);
    update(&client, "a", &[], "").await.unwrap();
    assert_eq!(client.get("a").await.unwrap().labels, labels(&[]));
    // A key pair keeps its labels when it rotates.
    let rotated = client.rotate("b", true).await.unwrap();
    assert_eq!(rotated.labels, labels(&[("team", "pay")]));
    assert_eq!(everywhere(&daemon, &client, &[pay[0]]).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_cannot_be_are_refused_by_name() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    assert_eq!(generate(&daemon, &json!({"id": "a"})).status, 201);
    let many: Vec<_> = (0..65).map(|n| format!("k{n}")).collect();
    let many: Vec<_> = many.iter().map(|key| (&**key, "")).collect();
    for bad in [&[("Team", "x")][..], &[("", "x")], &[("a", "\u{7}")], &many] {
        let status = update(&client, "a", bad, "").await.unwrap_err();
        let expected = (Code::InvalidArgument, "VALIDATION_FAILED".to_owned());
        assert_eq!(reason(&status), expected, "{bad:?}");
    }
    let status = update(&client, "a", &[], "0000").await.unwrap_err();
    assert_eq!(reason(&status), (Code::Aborted, "ETAG_MISMATCH".into()));
    let status = update(&client, "none", &[], "").await.unwrap_err();
    assert_eq!(
        reason(&status),
        (Code::NotFound, "KEY_PAIR_NOT_FOUND".into())
    );
    for (query, expected) in [
        ("label=team", is(400, "bad_request", &["label"])),
        ("label=Team=x", is(422, "validation_error", &["label"])),
        ("label=a=1&label=a=2", is(400, "bad_request", &["label"])),
        ("labels=a=1", is(400, "bad_request", &["labels"])),
    ] {
        let answer = get(&daemon, &format!("/keyPairs/signing?{query}"));
        assert_eq!(refused(&answer), expected, "{query}");
    }
    let output = keypairctl::run(&daemon, &["list", "-l", "Team=x"]);
    assert!(keypairctl::err(&output).contains("--label"), "{output:?}");
}
