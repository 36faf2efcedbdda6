//! JWK sets: each key once, of some key pairs or of one, and not sent again when nothing changed.

use std::collections::BTreeSet;
use std::fs;

use keypaird::proto::{
    CryptoProvider, GetSigningKeyPairRequest, ImportSigningKeyPairRequest,
    ImportSigningKeyPairSettings, KeyPairView, LinkSigningKeyPairRequest, ListPublicKeysRequest,
    ListSigningKeyPairsRequest, MigrateSigningKeyPairRequest,
};
use serde_json::{Value, json};
use softhsm_tests::client::Client;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::http::{Answer, BASE, get, post, send};
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};

use super::{generate, is, refused};

const SET: &str = "/.well-known/jwks.json";

fn ask(daemon: &Daemon, path: &str) -> Answer {
    send(daemon, "GET", path, &[], b"")
}

fn keys(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/jwk-set+json");
    answer.json()["keys"].as_array().unwrap().clone()
}

fn kids(daemon: &Daemon, path: &str) -> Vec<String> {
    let keys = keys(&ask(daemon, path));
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

/// Makes two files with one RSA key: its certificates are signed with different hashes.
fn one_key_in_two_files() -> [Vec<u8>; 2] {
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        "openssl genrsa -out key.pem 2048 2>/dev/null
         for hash in sha256 sha384; do
             openssl req -x509 -key key.pem -$hash -subj /C=US/O=Acme/CN=$hash -days 9 -out $hash.crt
             cat key.pem $hash.crt >$hash.pem
         done",
    );
    ["sha256.pem", "sha384.pem"].map(|name| fs::read(folder.path().join(name)).unwrap())
}

async fn import(
    client: &Client,
    id: &str,
    provider: CryptoProvider,
    team: &str,
    file: &[u8],
) -> KeyPairView {
    let request = ImportSigningKeyPairRequest {
        settings: Some(ImportSigningKeyPairSettings {
            id: Some(id.to_owned()),
            file_data: file.to_vec(),
            crypto_provider: provider.into(),
            labels: [("team".to_owned(), team.to_owned())].into(),
            ..ImportSigningKeyPairSettings::default()
        }),
    };
    let imported = client.key_pairs().import_signing_key_pair(request).await;
    imported.unwrap().into_inner().key_pair.unwrap()
}

/// Returns the kids that gRPC lists, a few key pairs at a time.
async fn listed_kids(client: &Client) -> Vec<(String, String)> {
    let mut request = ListPublicKeysRequest {
        page_size: 2,
        ..ListPublicKeysRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = client.signing().list_public_keys(request.clone()).await;
        let page = page.unwrap().into_inner();
        found.extend(page.public_keys.into_iter().map(|key| (key.id, key.kid)));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_several_key_pairs_have_is_there_once_and_they_are_told_of_each_other() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let [sha256, sha384] = one_key_in_two_files();
    let (local, hsm) = (CryptoProvider::Local, CryptoProvider::Hsm);
    let first = import(&client, "first", local, "a", &sha256).await;
    assert_eq!(first.also_key_pair_ids, [""; 0]);
    assert_eq!(generate(&daemon, &json!({"id": "other"})).status, 201);
    let second = import(&client, "second", hsm, "a", &sha256).await;
    assert_eq!(second.also_key_pair_ids, ["first"]);
    assert_eq!(keys(&ask(&daemon, SET))[0]["alg"], "RS256");
    let third = import(&client, "third", local, "b", &sha384).await;
    assert_eq!(third.also_key_pair_ids, ["first", "second"]);
    daemon.wait_for_log("other key pairs have the same key");

    // Everywhere it is one key of two.
    let set = kids(&daemon, SET);
    assert_eq!(set.len(), 2);
    assert_eq!(set.iter().collect::<BTreeSet<_>>().len(), 2);
    let listed = listed_kids(&client).await;
    assert_eq!(
        listed,
        [
            ("first".to_owned(), set[0].clone()),
            ("other".to_owned(), set[1].clone())
        ]
    );
    let request = GetSigningKeyPairRequest { id: "first".into() };
    let got = client.key_pairs().get_signing_key_pair(request).await;
    let got = got.unwrap().into_inner().key_pair.unwrap();
    assert_eq!(got.also_key_pair_ids, ["second", "third"]);
    let list = client.list(ListSigningKeyPairsRequest::default()).await;
    let also: Vec<_> = list
        .unwrap()
        .key_pairs
        .into_iter()
        .map(|view| view.also_key_pair_ids.join(" "))
        .collect();
    assert_eq!(also, ["second third", "", "first third", "first second"]);

    // A verifier that compares `alg` would refuse what the other ones sign with another hash.
    let alg = |path: &str| keys(&ask(&daemon, path))[0].get("alg").cloned();
    assert_eq!(alg(SET), None);
    assert_eq!(alg(&format!("{SET}?label=team=a")), Some(json!("RS256")));
    assert_eq!(alg(&format!("{SET}?label=team=b")), Some(json!("RS384")));
    assert_eq!(alg(&format!("{SET}?id=third")), Some(json!("RS384")));

    // The key stays as long as one of them does.
    client.delete("first").await.unwrap();
    assert_eq!(kids(&daemon, SET), [&*set[1], &*set[0]]);
    client.delete("third").await.unwrap();
    assert_eq!(alg(&format!("{SET}?id=second")), Some(json!("RS256")));
    client.delete("second").await.unwrap();
    assert_eq!(kids(&daemon, SET), [&*set[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_set_of_each_key_pair_and_of_those_with_a_label() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let file = fs::read(rsa_file()).unwrap();
    import(&client, "a", CryptoProvider::Unspecified, "x & y", &file).await;
    for id in ["b", "c"] {
        assert_eq!(generate(&daemon, &json!({"id": id})).status, 201);
    }
    let all = kids(&daemon, SET);
    let of = |id: &str| format!("{BASE}/keyPairs/signing/{id}/jwks.json");
    for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(kids(&daemon, &of(id)), [&*all[number]]);
        assert_eq!(kids(&daemon, &format!("{SET}?id={id}")), [&*all[number]]);
    }
    let labelled = format!("{SET}?label=team=x%20%26+y");
    assert_eq!(kids(&daemon, &labelled), [&*all[0]]);
    assert_eq!(kids(&daemon, &format!("{labelled}&id=a")), [&*all[0]]);
    assert_eq!(kids(&daemon, &format!("{labelled}&id=b")), [""; 0]);
    assert_eq!(kids(&daemon, &format!("{labelled}&label=stage=1")), [""; 0]);

    for (path, expected) in [
        (of("none"), is(404, "resource_not_found", &[])),
        (of("generate"), is(404, "resource_not_found", &[])),
        (format!("{SET}?id=none"), is(404, "resource_not_found", &[])),
        (format!("{SET}?id="), is(422, "validation_error", &["id"])),
        (format!("{SET}?x=1"), is(400, "bad_request", &["x"])),
        (format!("{SET}?id=a&id=b"), is(400, "bad_request", &["id"])),
        (
            format!("{SET}?label=team"),
            is(400, "bad_request", &["label"]),
        ),
        (
            format!("{SET}?label=team=a&label=team=b"),
            is(400, "bad_request", &["label"]),
        ),
        (
            format!("{SET}?label=Team=a"),
            is(422, "validation_error", &["label"]),
        ),
        (
            format!("{SET}?id=a&label=team=%01"),
            is(422, "validation_error", &["label"]),
        ),
        (format!("{}?id=a", of("a")), is(400, "bad_request", &["id"])),
        ("/healthz?x=1".into(), is(400, "bad_request", &["x"])),
        ("/readyz?x=1".into(), is(400, "bad_request", &["x"])),
        ("/metrics?x=1".into(), is(400, "bad_request", &["x"])),
        ("/openapi.json?x=1".into(), is(400, "bad_request", &["x"])),
        ("/?x=1".into(), is(400, "bad_request", &["x"])),
    ] {
        assert_eq!(refused(&ask(&daemon, &path)), expected, "{path}");
    }
}

fn rsa_file() -> std::path::PathBuf {
    let folder = tempfile::tempdir().unwrap().keep();
    shell(
        &folder,
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -subj /C=US/O=Acme/CN=x -days 9 -out crt 2>/dev/null
         cat key crt >both.pem",
    );
    folder.join("both.pem")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_has_not_changed_is_not_sent_again() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for id in ["a", "b"] {
        assert_eq!(generate(&daemon, &json!({"id": id})).status, 201);
    }
    let of_a = format!("{BASE}/keyPairs/signing/a/jwks.json");
    let by_label = format!("{SET}?label=team=pay");
    let tag = |path: &str| ask(&daemon, path).header("etag").to_owned();
    let status = |path: &str, tags: &str| {
        let answer = send(&daemon, "GET", path, &[("if-none-match", tags)], b"");
        if answer.status == 304 {
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("etag"), tag(path));
            assert_eq!(answer.header("cache-control"), "public, max-age=60");
            assert_eq!(answer.header("vary"), "Origin");
        }
        answer.status
    };
    let mut tags = BTreeSet::new();
    let mut former = String::new();
    for change in ["none", "generate", "rotate", "label", "delete"] {
        match change {
            "generate" => assert_eq!(generate(&daemon, &json!({"id": "c"})).status, 201),
            "rotate" => drop(client.rotate("a", false).await.unwrap()),
            "label" => {
                let request = keypaird::proto::UpdateLabelsRequest {
                    id: "b".into(),
                    labels: [("team".to_owned(), "pay".to_owned())].into(),
                    etag: String::new(),
                };
                client.key_pairs().update_labels(request).await.unwrap();
            }
            "delete" => client.delete("c").await.unwrap(),
            _ => {}
        }
        for path in [SET, &of_a, &by_label] {
            let now = tag(path);
            assert!(now.starts_with("W/\"") && now.ends_with('"'), "{now}");
            assert_eq!(status(path, &now), 304, "{change}: {path}");
            let strong = now.trim_start_matches("W/");
            assert_eq!(status(path, &format!("\"x\", {strong}")), 304);
            assert_eq!(status(path, "*"), 304);
            assert_eq!(status(path, "\"x\""), 200);
            assert_eq!(status(path, &former), 200, "{change}: {path}");
            assert!(tags.insert(now), "{change}: {path}");
        }
        former = tag(SET);
    }
    // What is not there has no tag that could be known.
    let none = format!("{SET}?id=none");
    let answer = send(&daemon, "GET", &none, &[("if-none-match", "\"x\"")], b"");
    assert_eq!(answer.status, 404);
    let head = send(&daemon, "HEAD", SET, &[], b"");
    assert_eq!((head.status, head.header("etag")), (200, &*tag(SET)));
    assert_eq!(
        post(&daemon, "/keyPairs/signing/a/jwks.json", &json!({})).status,
        405
    );
    assert_eq!(get(&daemon, "/keyPairs/signing/a/jwks.json").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_key_pair_has_is_linked_and_migrated_all_the_same() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        "openssl ecparam -name prime256v1 -genkey -noout -out key.pem
         openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der
         openssl pkey -in key.pem -pubout -outform DER -out public.der
         openssl req -x509 -key key.pem -subj /C=US/O=Acme/CN=x -days 9 -out crt
         cat key.pem crt >both.pem",
    );
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = fs::read(path("both.pem")).unwrap();
    import(&client, "software", CryptoProvider::Local, "a", &file).await;
    import(&client, "token", CryptoProvider::Hsm, "a", &file).await;
    for (name, kind) in [("key.der", "privkey"), ("public.der", "pubkey")] {
        let (object, of_copy) = (path(name), ["--id", "77", "--label", "copy"]);
        let write = ["--write-object", &object, "--type", kind, "--usage-sign"];
        pkcs11_tool(&token, &[&write[..], &of_copy].concat());
    }
    let request = LinkSigningKeyPairRequest {
        id: Some("linked".into()),
        private_key_label: "copy".into(),
        certificate: fs::read(path("crt")).unwrap(),
        ..LinkSigningKeyPairRequest::default()
    };
    let linked = client.key_pairs().link_signing_key_pair(request).await;
    let linked = linked.unwrap().into_inner().key_pair.unwrap();
    assert_eq!(linked.also_key_pair_ids, ["software", "token"]);
    let request = MigrateSigningKeyPairRequest {
        id: "software".into(),
        crypto_provider: CryptoProvider::Hsm.into(),
        etag: String::new(),
    };
    let migrated = client.key_pairs().migrate_signing_key_pair(request).await;
    let migrated = migrated.unwrap().into_inner().key_pair.unwrap();
    assert_eq!(migrated.also_key_pair_ids, ["token", "linked"]);
    assert_eq!(kids(&daemon, SET).len(), 1);
    for id in ["software", "token", "linked"] {
        client.signs(&client.get(id).await.unwrap()).await;
    }
    // The key of one is destroyed, and the others sign on.
    client.delete("token").await.unwrap();
    for id in ["software", "linked"] {
        client.signs(&client.get(id).await.unwrap()).await;
    }
    assert_eq!(kids(&daemon, SET).len(), 1);
}
