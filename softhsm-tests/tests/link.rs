//! Keys that were on the token before keypaird: adopted, used, and left as they were.

use std::collections::HashMap;
use std::fs;

use keypaird::proto::{
    CryptoProvider, DeleteSigningKeyPairRequest, KeyOrigin, KeyPairView, LinkSigningKeyPairRequest,
    NewKeyPairSettings,
};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::shifted_clock::ShiftedClock;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, run};
use tonic::{Code, Status};
use tonic_types::StatusExt;

async fn link(client: &Client, request: LinkSigningKeyPairRequest) -> Result<KeyPairView, Status> {
    let answer = client.key_pairs().link_signing_key_pair(request).await?;
    Ok(answer.into_inner().key_pair.unwrap())
}

fn by_label(label: &str) -> LinkSigningKeyPairRequest {
    LinkSigningKeyPairRequest {
        private_key_label: label.into(),
        settings: Some(NewKeyPairSettings {
            key_algorithm: String::new(),
            key_size: None,
            signature_algorithm: None,
            ..settings(CryptoProvider::Hsm)
        }),
        ..LinkSigningKeyPairRequest::default()
    }
}

fn refusal(status: &Status) -> (String, String) {
    assert_eq!(
        reason(status),
        (Code::InvalidArgument, "VALIDATION_FAILED".into())
    );
    let details = status.get_error_details();
    let field = details.bad_request().unwrap().field_violations[0].clone();
    (field.field, field.description)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_other_programs_are_adopted_and_left_where_they_are() {
    let token = Token::fresh();
    for (kind, label, id) in [
        ("EC:prime256v1", "ec", "01"),
        (
            "rsa:2048",
            "rsa",
            "00112233445566778899aabbccddeeff00112233",
        ),
        ("EC:edwards25519", "edwards", "0102"),
    ] {
        token.make_foreign_key(kind, label, id);
    }
    let home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    let before = pkcs11_tool(&token, &["--list-objects"]);
    for (label, id, spec) in [
        ("ec", "01", ("EC", 256)),
        (
            "rsa",
            "00112233445566778899AABBCCDDEEFF00112233",
            ("RSA", 2048),
        ),
        ("edwards", "0102", ("ED25519", 255)),
    ] {
        let view = link(&client, by_label(label)).await.unwrap();
        assert_eq!(view.key_origin(), KeyOrigin::Linked);
        assert_eq!((&*view.key_algorithm, view.key_size), spec);
        assert!(view.token_attributes.unwrap().local);
        client.signs(&view).await;
        // A key has one key pair.
        let mut again = by_label("");
        again.private_key_id = id.into();
        let (field, sentence) = refusal(&link(&client, again.clone()).await.unwrap_err());
        assert_eq!(field, "privateKeyId");
        assert!(sentence.contains("has already"), "{sentence}");
        // Forgotten, it can be adopted again, by its id too.
        client.delete(&view.id).await.unwrap();
        assert_eq!(
            client.get(&view.id).await.unwrap_err().code(),
            Code::NotFound
        );
        let certificate = fs::write(home.path("certificate.pem"), &view.certificate_pem);
        certificate.unwrap();
        again.settings = None;
        again.certificate = view.certificate_pem.clone().into_bytes();
        again.id = Some(format!("linked-{label}"));
        let view = link(&client, again).await.unwrap();
        client.signs(&view).await;
    }
    assert_eq!(
        pkcs11_tool(&token, &["--list-objects"]),
        before,
        "linking changed the token"
    );
    drop(daemon);
    // Over a restart, with the comparison of token and store.
    let daemon = home.start();
    let client = daemon.client().await;
    daemon.wait_for_log("the token and the store were compared");
    client.signs(&client.get("linked-ec").await.unwrap()).await;
    assert_eq!(pkcs11_tool(&token, &["--list-objects"]), before);
    let destroy = DeleteSigningKeyPairRequest {
        id: "linked-rsa".into(),
        destroy_linked_key: true,
        ..DeleteSigningKeyPairRequest::default()
    };
    client
        .key_pairs()
        .delete_signing_key_pair(destroy)
        .await
        .unwrap();
    let after = pkcs11_tool(&token, &["--list-objects"]);
    assert!(
        !after.contains("label:      rsa") && after.contains("label:      ec"),
        "{after}"
    );
}

/// Deletes a linked key pair with its key.
async fn destroy(client: &Client, id: &str) -> Result<(), Status> {
    let request = DeleteSigningKeyPairRequest {
        id: id.to_owned(),
        destroy_linked_key: true,
        ..DeleteSigningKeyPairRequest::default()
    };
    let deleted = client.key_pairs().delete_signing_key_pair(request).await;
    deleted.map(drop)
}

/// Returns the labels on the token, each with the kind of its object.
fn labels(token: &Token) -> Vec<(String, String)> {
    let listed = pkcs11_tool(token, &["--list-objects"]);
    let mut labels = Vec::new();
    let mut kind = String::new();
    for line in listed.lines() {
        match line.split_once(" Object") {
            Some((name, _)) if !line.starts_with(' ') => name.clone_into(&mut kind),
            _ => {
                if let Some(label) = line.trim().strip_prefix("label:") {
                    labels.push((kind.clone(), label.trim().to_owned()));
                }
            }
        }
    }
    labels.sort();
    labels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_key_is_destroyed_with_what_is_its_own_and_no_neighbour_of_any_class() {
    for (kind, other) in [
        ("EC:prime256v1", "EC:prime256v1"),
        ("rsa:2048", "rsa:2048"),
        ("EC:edwards25519", "EC:prime256v1"),
    ] {
        let token = Token::fresh();
        token.make_foreign_key(kind, "ours", "01");
        let home = Home::hybrid(&token);
        let daemon = home.start();
        let client = daemon.client().await;
        let linked = link(&client, by_label("ours")).await.unwrap();
        // Neighbours: a secret key, another public key, a certificate of another key; and one of
        // the key itself.
        pkcs11_tool(
            &token,
            &[
                "--keygen",
                "--key-type",
                "AES:32",
                "--id",
                "01",
                "--label",
                "secret",
            ],
        );
        token.make_foreign_key(other, "neighbour", "02");
        let path = |name: &str| home.path(name).to_str().unwrap().to_owned();
        let neighbour = client.generate(settings(CryptoProvider::Local)).await;
        for (name, label, view) in [
            ("own", "own", &linked),
            ("other", "theirs", &neighbour.unwrap()),
        ] {
            fs::write(home.path(name), &view.certificate_pem).unwrap();
            let (pem, der) = (path(name), path("der"));
            run(
                "openssl",
                ["x509", "-in", &pem, "-outform", "DER", "-out", &der],
            );
            let mut arguments = vec!["--write-object", &der, "--type", "cert"];
            arguments.extend(["--id", "01", "--label", label]);
            pkcs11_tool(&token, &arguments);
        }
        let public = path("public");
        let mut arguments = vec!["--read-object", "--type", "pubkey", "--id", "02"];
        arguments.extend(["-o", &public]);
        pkcs11_tool(&token, &arguments);
        let mut arguments = vec!["--write-object", &public, "--type", "pubkey"];
        arguments.extend(["--id", "01", "--label", "public"]);
        pkcs11_tool(&token, &arguments);

        destroy(&client, &linked.id).await.unwrap();
        let left = [
            ("Certificate", "theirs"),
            ("Private Key", "neighbour"),
            ("Public Key", "neighbour"),
            ("Public Key", "public"),
            ("Secret Key", "secret"),
        ];
        let left = left.map(|(kind, label)| (kind.to_owned(), label.to_owned()));
        let mut found = labels(&token);
        for (kind, _) in &mut found {
            // Some versions say what kind of key it is.
            let known = ["Certificate", "Private Key", "Public Key", "Secret Key"];
            let known = known.into_iter().find(|known| kind.starts_with(known));
            *kind = known.unwrap_or(&**kind).to_owned();
        }
        assert_eq!(found, left, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_key_is_not_destroyed_when_another_private_key_has_its_cka_id_too_or_instead() {
    let token = Token::fresh();
    token.make_foreign_key("EC:prime256v1", "linked", "01");
    token.make_foreign_key("EC:prime256v1", "gone", "02");
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let twin = link(&client, by_label("linked")).await.unwrap();
    let gone = link(&client, by_label("gone")).await.unwrap();
    token.make_foreign_key("EC:secp384r1", "twin", "01");
    pkcs11_tool(
        &token,
        &["--delete-object", "--type", "privkey", "--id", "02"],
    );
    token.make_foreign_key("rsa:2048", "instead", "02");

    let (field, sentence) = refusal(&destroy(&client, &twin.id).await.unwrap_err());
    assert_eq!(field, "destroyLinkedKey");
    assert!(sentence.contains("several private keys"), "{sentence}");
    // It is there as before, and can be deleted without its key.
    client.get(&twin.id).await.unwrap();
    client.delete(&twin.id).await.unwrap();
    destroy(&client, &gone.id).await.unwrap();
    let left = labels(&token);
    let private = left.iter().filter(|(kind, _)| kind == "Private Key");
    let private: Vec<_> = private.map(|(_, label)| &**label).collect();
    assert_eq!(private, ["instead", "linked", "twin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_crosses_a_deletion_never_ends_in_a_key_pair_without_a_key() {
    const ROUNDS: u64 = 200;
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for round in 0..ROUNDS {
        token.make_foreign_key("EC:prime256v1", "crossed", "01");
        let named = |id: &str| LinkSigningKeyPairRequest {
            id: Some(id.to_owned()),
            ..by_label("crossed")
        };
        link(&client, named("l")).await.unwrap();
        // Under the same id and under another one, sooner and later.
        let again = named(if round % 2 == 0 { "l" } else { "m" });
        let id = again.id.clone().unwrap();
        let linking = async {
            tokio::time::sleep(std::time::Duration::from_micros(round * 37 % 4000)).await;
            link(&client, again).await
        };
        let (deleted, linked) = tokio::join!(destroy(&client, "l"), linking);
        deleted.unwrap();
        match linked {
            Ok(view) => client.signs(&view).await,
            Err(status) => {
                let (code, said) = reason(&status);
                assert!(
                    matches!(
                        (code, &*said),
                        (Code::InvalidArgument, "VALIDATION_FAILED")
                            | (Code::AlreadyExists, "KEY_PAIR_EXISTS")
                            | (Code::Unavailable, "CREATION_UNFINISHED")
                    ),
                    "round {round}: {status:?}"
                );
                let found = client.get(&id).await.unwrap_err();
                assert_eq!(found.code(), Code::NotFound, "round {round}");
            }
        }
        assert_eq!(token.count("Private Key"), 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_meant_or_used_are_refused() {
    let token = Token::fresh();
    token.make_foreign_key("EC:prime256v1", "twin", "0a");
    token.make_foreign_key("EC:prime256v1", "twin", "0b");
    token.make_foreign_key("EC:prime256v1", "one", "0c");
    token.make_foreign_key("EC:secp384r1", "other", "0c");
    token.make_foreign_key("EC:secp256k1", "koblitz", "0d");
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for (label, words) in [
        (
            "twin",
            "names 2 private keys: \"twin\" 0a (EC-256), \"twin\" 0b (EC-256); choose one by privateKeyId",
        ),
        ("one", "names 2 private keys"),
        ("nobody", "names no private key on the token"),
        ("koblitz", "P-256, P-384, P-521"),
    ] {
        let (field, sentence) = refusal(&link(&client, by_label(label)).await.unwrap_err());
        assert_eq!(field, "privateKeyLabel");
        assert!(sentence.contains(words), "{sentence}");
    }
    let mut request = by_label("");
    let (field, _) = refusal(&link(&client, request.clone()).await.unwrap_err());
    assert_eq!(field, "privateKeyId");
    request.private_key_id = "0g".into();
    let (field, _) = refusal(&link(&client, request.clone()).await.unwrap_err());
    assert_eq!(field, "privateKeyId");
    request.private_key_id = "0a".into();
    request.settings.as_mut().unwrap().key_algorithm = "RSA".into();
    let (field, sentence) = refusal(&link(&client, request.clone()).await.unwrap_err());
    assert_eq!(
        (&*field, &*sentence),
        (
            "keyAlgorithm",
            "is not that of the key, which is EC-256; leave it out"
        )
    );
    // Neither certificate nor settings, and none on the token.
    request.settings = None;
    let (field, _) = refusal(&link(&client, request.clone()).await.unwrap_err());
    assert_eq!(field, "certificate");
    // A certificate of another key.
    let other = client
        .generate(settings(CryptoProvider::Local))
        .await
        .unwrap();
    request.certificate = other.certificate_pem.into_bytes();
    let (field, sentence) = refusal(&link(&client, request.clone()).await.unwrap_err());
    assert_eq!(field, "certificate");
    assert!(
        sentence.contains("no certificate of this key pair's public key"),
        "{sentence}"
    );
    let local = Home::local().start();
    let (field, sentence) = refusal(
        &link(&local.client().await, by_label("x"))
            .await
            .unwrap_err(),
    );
    assert_eq!(field, "privateKeyLabel");
    assert!(sentence.contains("crypto.mode"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_key_is_left_where_it_is_when_its_key_pair_rotates() {
    let token = Token::fresh();
    token.make_foreign_key("EC:prime256v1", "theirs", "01");
    let clock = ShiftedClock::new();
    let home = Home::hybrid(&token).with("rotation.check_interval = \"50ms\"");
    let daemon = clock.given_to(home).start();
    let client = daemon.client().await;
    let linked = link(&client, by_label("theirs")).await.unwrap();
    assert_eq!(linked.key_origin(), KeyOrigin::Linked);
    let rotated = client.rotate(&linked.id, true).await.unwrap();
    assert_eq!(rotated.key_origin(), KeyOrigin::Generated);
    assert_eq!(rotated.subject_dn, linked.subject_dn);
    client.signs(&rotated).await;
    assert_eq!(token.count("Private Key"), 2);

    // Retired, it is what it was: a key of somebody else.
    clock.set_days_ahead(370);
    while client.get(&linked.id).await.unwrap().previous.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(token.count("Private Key"), 2);
    client.delete(&linked.id).await.unwrap();
    let left = pkcs11_tool(&token, &["--list-objects", "--type", "privkey"]);
    assert_eq!(token.count("Private Key"), 1);
    assert!(left.contains("theirs"), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_key_pair_has_the_labels_of_the_request_whatever_certificate_it_has() {
    let token = Token::fresh();
    token.make_foreign_key("EC:prime256v1", "theirs", "01");
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let map = |labels: &[(&str, &str)]| {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        labels.iter().map(owned).collect::<HashMap<_, _>>()
    };
    let pay = map(&[("team", "pay"), ("stage", "")]);
    let request = |beside: &HashMap<String, String>, inside: &HashMap<String, String>| {
        let mut request = by_label("theirs");
        request.labels = beside.clone();
        request.settings.as_mut().unwrap().labels = inside.clone();
        request
    };
    let none = HashMap::new();
    let mut certificate = Vec::new();
    for (row, request) in [
        ("beside the settings", request(&pay, &none)),
        ("in the settings", request(&none, &pay)),
        ("in both", request(&pay, &pay)),
    ] {
        let view = link(&client, request).await.unwrap();
        assert_eq!(view.labels, pay, "{row}");
        assert_eq!(client.get(&view.id).await.unwrap().labels, pay, "{row}");
        certificate = view.certificate_pem.clone().into_bytes();
        client.delete(&view.id).await.unwrap();
    }
    for (row, labels, field) in [
        ("a key that is none", map(&[("Team", "pay")]), "labels"),
        (
            "a value with a line end",
            map(&[("team", "a\nb")]),
            "labels.team",
        ),
    ] {
        let issued = LinkSigningKeyPairRequest {
            settings: None,
            certificate: certificate.clone(),
            ..request(&labels, &none)
        };
        for request in [request(&labels, &none), request(&none, &labels), issued] {
            let refused = link(&client, request).await.unwrap_err();
            assert_eq!(refusal(&refused).0, field, "{row}");
        }
    }
    let differ = link(&client, request(&map(&[("team", "hr")]), &pay)).await;
    let (field, sentence) = refusal(&differ.unwrap_err());
    assert_eq!(field, "labels");
    assert!(sentence.contains("one of the two places"), "{sentence}");
    let issued = LinkSigningKeyPairRequest {
        settings: None,
        certificate,
        ..request(&pay, &none)
    };
    assert_eq!(link(&client, issued).await.unwrap().labels, pay);
}
