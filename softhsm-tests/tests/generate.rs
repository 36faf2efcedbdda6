//! `GenerateSigningKeyPair`, and what it leaves in store and token.

use std::collections::HashSet;

use keypaird::proto::{
    CryptoProvider, GenerateSigningKeyPairRequest, KeyPairRotationSettings, NewKeyPairSettings,
};
use serde_json::{Value, json};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::shifted_clock::ShiftedClock;
use softhsm_tests::token::Token;
use softhsm_tests::tools::pkcs11_tool;
use tonic::Code;

const PROVIDERS: [CryptoProvider; 2] = [CryptoProvider::Local, CryptoProvider::Hsm];

#[test]
fn grpcurl_generates_in_both_providers_with_no_proto_at_hand() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let grpcurl = daemon.grpcurl();
    for (provider, hsm) in [("LOCAL", false), ("HSM", true)] {
        let answer = grpcurl
            .key_pairs(
                "GenerateSigningKeyPair",
                &json!({"settings": {
                    "id": format!("signing-{}", provider.to_lowercase()),
                    "commonName": "Example", "organization": "Acme", "organizationUnit": "Engineering",
                    "city": "Austin", "state": "Texas", "country": "US", "validDays": 30,
                    "keyAlgorithm": "RSA", "cryptoProvider": provider,
                    "subjectAlternativeNames": ["DNS:example.com", "example.com", "192.0.2.1"],
                    "labels": {"team": "payments"},
                }}),
            )
            .unwrap();
        let view = &answer["keyPair"];
        let dn = "CN=Example, OU=Engineering, O=Acme, L=Austin, ST=Texas, C=US";
        for (field, expected) in [
            ("id", json!(format!("signing-{}", provider.to_lowercase()))),
            ("subjectDN", json!(dn)),
            ("issuerDN", json!(dn)),
            (
                "subjectAlternativeNames",
                json!(["example.com", "192.0.2.1"]),
            ),
            ("keyAlgorithm", json!("RSA")),
            ("keySize", json!(2048)),
            ("signatureAlgorithm", json!("SHA256withRSA")),
            ("version", json!(3)),
            ("status", json!("VALID")),
            ("cryptoProvider", json!(provider)),
            ("keyOrigin", json!("GENERATED")),
            ("generation", json!(1)),
            ("labels", json!({"team": "payments"})),
        ] {
            assert_eq!(view[field], expected, "{field} of {view}");
        }
        let attributes = json!({
            "sensitive": true, "alwaysSensitive": true, "neverExtractable": true, "local": true
        });
        assert_eq!(
            view["tokenAttributes"],
            if hsm { attributes } else { Value::Null }
        );
        assert!(
            view["certificatePem"]
                .as_str()
                .unwrap()
                .starts_with("-----BEGIN CERTIFICATE-----\n")
        );
        assert!(
            view["publicKeyPem"]
                .as_str()
                .unwrap()
                .starts_with("-----BEGIN PUBLIC KEY-----\n")
        );
        for (field, digits) in [("sha1Fingerprint", 40), ("sha256Fingerprint", 64)] {
            let fingerprint = view[field].as_str().unwrap();
            assert_eq!(fingerprint.len(), digits);
            assert!(
                fingerprint
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
            );
        }
        for absent in ["rotationSettings", "pending", "previous", "exportable"] {
            assert_eq!(view[absent], Value::Null, "{absent}");
        }
        let got = grpcurl
            .key_pairs("GetSigningKeyPair", &json!({"id": view["id"]}))
            .unwrap();
        assert_eq!(got, answer);
        let exported = grpcurl
            .key_pairs(
                "ExportCertificate",
                &json!({"id": view["id"], "includeChain": true}),
            )
            .unwrap();
        assert_eq!(exported["certificatePem"], view["certificatePem"]);
    }
    assert_eq!(
        grpcurl.services(),
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "keypaird.v1.EventService",
            "keypaird.v1.KeyPairService",
            "keypaird.v1.SigningService"
        ]
    );
}

#[test]
fn an_id_that_is_left_out_is_made() {
    let daemon = Home::local().start();
    let settings = json!({"commonName": "E", "organization": "A", "country": "US", "validDays": 1,
                          "keyAlgorithm": "ED25519"});
    let answer = daemon
        .grpcurl()
        .key_pairs("GenerateSigningKeyPair", &json!({"settings": settings}))
        .unwrap();
    let id = answer["keyPair"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 25);
    assert!(
        id.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once_by_json_path() {
    let daemon = Home::local().start();
    let refused = daemon
        .grpcurl()
        .key_pairs(
            "GenerateSigningKeyPair",
            &json!({"requestId": "not visible", "settings": {
                "id": "Bad Id", "commonName": "x".repeat(65), "country": "USA", "validDays": 36501,
                "subjectAlternativeNames": ["ok.example", "not a name"], "keyAlgorithm": "DSA",
                "cryptoProvider": "HSM", "rotationSettings": {"creationBufferDays": 2},
            }}),
        )
        .unwrap_err();
    assert_eq!((refused.code, &*refused.reason), (3, "VALIDATION_FAILED"));
    assert_eq!(
        refused.fields,
        [
            "requestId",
            "id",
            "commonName",
            "organization",
            "country",
            "subjectAlternativeNames[1]",
            "validDays",
            "keyAlgorithm",
            "cryptoProvider",
            "rotationSettings.activationBufferDays"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_enum_numbers_and_damaged_messages_are_malformed() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let mut unknown = settings(CryptoProvider::Unspecified);
    unknown.crypto_provider = 7;
    let refused = client.generate(unknown).await.unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::InvalidArgument, "MALFORMED_REQUEST".into())
    );
    assert!(
        refused.message().starts_with("cryptoProvider: "),
        "{}",
        refused.message()
    );

    // A list request whose first field says that a text of 127 bytes follows, and none does.
    let damaged = softhsm_tests::client::raw_call(
        &daemon,
        "/keypaird.v1.KeyPairService/ListSigningKeyPairs",
        &[0x12, 0x7f],
    )
    .await
    .unwrap_err();
    assert_eq!(
        reason(&damaged),
        (Code::InvalidArgument, "MALFORMED_REQUEST".into())
    );

    let none = softhsm_tests::client::raw_call(&daemon, "/keypaird.v1.KeyPairService/Nothing", &[])
        .await
        .unwrap_err();
    assert_eq!(reason(&none), (Code::Unimplemented, "UNIMPLEMENTED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mebibyte_of_names_is_refused_quickly_and_briefly() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for (names, expected) in [
        (
            vec!["x".repeat(64); 16_384],
            "16384 names were given; at most 1000 are allowed",
        ),
        (vec!["x y".repeat(20); 1000], "is not a DNS name"),
        (
            vec!["x".repeat(1 << 20)],
            "must have at most 65536 bytes altogether",
        ),
    ] {
        let refused = client
            .generate(NewKeyPairSettings {
                subject_alternative_names: names,
                ..settings(CryptoProvider::Unspecified)
            })
            .await
            .unwrap_err();
        assert_eq!(reason(&refused).1, "VALIDATION_FAILED");
        assert!(
            refused.message().contains(expected),
            "{}",
            refused.message()
        );
        assert!(
            refused.details().len() < 8192,
            "{}",
            refused.details().len()
        );
    }
    let refused = client
        .generate(NewKeyPairSettings {
            common_name: "x".repeat(5 << 20),
            ..settings(CryptoProvider::Unspecified)
        })
        .await
        .unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::InvalidArgument, "MALFORMED_REQUEST".into())
    );
    assert!(
        refused.message().contains("server.max_message_bytes"),
        "{}",
        refused.message()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_tells_and_changes_nothing() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in PROVIDERS {
        let id = format!("{provider:?}").to_lowercase();
        let wanted = NewKeyPairSettings {
            id: Some(id.clone()),
            subject_alternative_names: vec!["DNS:example.com".into()],
            ..settings(provider)
        };
        let request = |settings| GenerateSigningKeyPairRequest {
            settings: Some(settings),
            request_id: "once".into(),
            validate_only: true,
        };
        let preview = client
            .key_pairs()
            .generate_signing_key_pair(request(wanted.clone()))
            .await
            .unwrap()
            .into_inner()
            .key_pair
            .unwrap();
        assert_eq!(preview.id, id);
        assert_eq!(preview.subject_dn, "CN=Example, O=Acme, C=US");
        assert_eq!(preview.key_size, 256);
        assert_eq!(preview.signature_algorithm, "SHA256withECDSA");
        assert_eq!(preview.crypto_provider(), provider);
        assert_eq!(preview.certificate_pem, "");
        assert_eq!(client.get(&id).await.unwrap_err().code(), Code::NotFound);

        let refused = client
            .key_pairs()
            .generate_signing_key_pair(request(NewKeyPairSettings {
                rotation_settings: Some(KeyPairRotationSettings::default()),
                ..wanted.clone()
            }))
            .await
            .unwrap_err();
        assert_eq!(reason(&refused).1, "VALIDATION_FAILED");

        client.generate(wanted.clone()).await.unwrap();
        let taken = client
            .key_pairs()
            .generate_signing_key_pair(request(wanted))
            .await
            .unwrap_err();
        assert_eq!(
            reason(&taken),
            (Code::AlreadyExists, "KEY_PAIR_EXISTS".into())
        );
    }
    assert_eq!(token.count("Private Key"), 1);
    assert_eq!(client.list_all().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_same_answer_over_a_restart_too() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    let mut first = Vec::new();
    for provider in PROVIDERS {
        first.push(
            client
                .generate_named(settings(provider), &format!("{provider:?}"))
                .await
                .unwrap(),
        );
    }
    // Ten at once: one is made, nine wait for it.
    let at_once = at_once(&client, 10, |_| {
        (settings(CryptoProvider::Hsm), "ten".into())
    })
    .await;
    let ids: HashSet<_> = at_once
        .into_iter()
        .map(|answer| answer.unwrap().id)
        .collect();
    assert_eq!(ids.len(), 1);
    daemon.kill();

    let daemon = home.start();
    let client = daemon.client().await;
    for (provider, first) in PROVIDERS.into_iter().zip(&first) {
        let name = format!("{provider:?}");
        let again = client
            .generate_named(settings(provider), &name)
            .await
            .unwrap();
        assert_eq!(again, *first);
        let other = NewKeyPairSettings {
            valid_days: 366,
            ..settings(provider)
        };
        let refused = client.generate_named(other, &name).await.unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::AlreadyExists, "REQUEST_ID_REUSED".into())
        );
        client.delete(&first.id).await.unwrap();
        let deleted = client
            .generate_named(settings(provider), &name)
            .await
            .unwrap_err();
        assert_eq!(
            reason(&deleted),
            (Code::NotFound, "KEY_PAIR_NOT_FOUND".into())
        );
    }
    assert_eq!(client.list_all().await.len(), 1);
    assert_eq!(token.count("Private Key"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_once_under_one_id_one_is_made_and_of_64_ids_all_are() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in PROVIDERS {
        let same = format!("same-{provider:?}").to_lowercase();
        let named = |id: String| NewKeyPairSettings {
            id: Some(id),
            ..settings(provider)
        };
        let answers = at_once(&client, 64, |_| (named(same.clone()), String::new())).await;
        let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), refused.len()), (1, 63));
        for refused in refused {
            let told = reason(&refused.unwrap_err());
            assert_eq!(told, (Code::AlreadyExists, "KEY_PAIR_EXISTS".into()));
        }
        let different = at_once(&client, 64, |n| {
            (
                named(format!("{n}-{provider:?}").to_lowercase()),
                String::new(),
            )
        })
        .await;
        for answer in different {
            answer.unwrap();
        }
    }
    // An id is unique over both providers.
    let taken = client
        .generate(NewKeyPairSettings {
            id: Some("same-hsm".into()),
            ..settings(CryptoProvider::Local)
        })
        .await
        .unwrap_err();
    assert_eq!(reason(&taken).1, "KEY_PAIR_EXISTS");
    assert_eq!(client.list_all().await.len(), 130);
    for kind in ["Private Key", "Public Key", "Certificate"] {
        assert_eq!(token.count(kind), 65, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_see_a_proper_key_that_does_nothing_but_sign() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for (key_algorithm, id) in [("RSA", "rsa"), ("EC", "ec"), ("ED25519", "ed")] {
        client
            .generate(NewKeyPairSettings {
                id: Some(id.into()),
                key_algorithm: key_algorithm.into(),
                ..settings(CryptoProvider::Hsm)
            })
            .await
            .unwrap();
    }
    let listed = pkcs11_tool(&token, &["--list-objects"]);
    let objects: Vec<_> = listed
        .split_inclusive('\n')
        .fold(Vec::new(), |mut objects, line| {
            match line.starts_with(' ') {
                false => objects.push(line.to_owned()),
                true => objects
                    .last_mut()
                    .map_or((), |object| object.push_str(line)),
            }
            objects
        });
    assert_eq!(objects.len(), 9, "{listed}");
    for id in ["rsa", "ec", "ed"] {
        let label = format!("  label:      {id}\n");
        let of_key: Vec<_> = objects
            .iter()
            .filter(|object| object.contains(&label))
            .collect();
        let cka_id = |object: &str| {
            let line = object.lines().find(|line| line.contains("ID:"));
            line.unwrap().trim().to_owned()
        };
        let ids: HashSet<_> = of_key.iter().map(|object| cka_id(object)).collect();
        assert_eq!((of_key.len(), ids.len()), (3, 1), "{of_key:?}");
        let private = of_key
            .iter()
            .find(|object| object.starts_with("Private Key"))
            .unwrap();
        assert!(private.contains("Usage:      sign\n"), "{private}");
        assert!(
            private.contains("Access:     sensitive, always sensitive, never extractable, local"),
            "{private}"
        );
        let public = of_key
            .iter()
            .find(|object| object.starts_with("Public Key"))
            .unwrap();
        assert!(public.contains("Usage:      verify\n"), "{public}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_in_the_middle_leaves_no_half_key() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    for provider in PROVIDERS {
        // RSA takes long enough to be left.
        let slow = |id: &str| NewKeyPairSettings {
            id: Some(format!("{id}-{provider:?}").to_lowercase()),
            key_algorithm: "RSA".into(),
            key_size: Some(3072),
            ..settings(provider)
        };
        for left_after in [1, 20, 100, 250] {
            let leaving = daemon.client().await;
            let id = format!("left-{left_after}");
            let call = tokio::spawn({
                let settings = slow(&id);
                async move { leaving.generate(settings).await }
            });
            tokio::time::sleep(std::time::Duration::from_millis(left_after)).await;
            call.abort();
        }
        let client = daemon.client().await;
        let mut request = tonic::Request::new(GenerateSigningKeyPairRequest {
            settings: Some(slow("late")),
            ..GenerateSigningKeyPairRequest::default()
        });
        request.set_timeout(std::time::Duration::from_millis(30));
        let late = client
            .key_pairs()
            .generate_signing_key_pair(request)
            .await
            .unwrap_err();
        assert!(
            matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{late:?}"
        );

        // The same ids are free again, or belong to whole key pairs that were faster than the caller.
        for id in ["left-1", "left-20", "left-100", "left-250", "late"] {
            let made = loop {
                match client.generate(slow(id)).await {
                    Err(status) if status.code() == Code::AlreadyExists => {
                        if let Ok(view) = client.get(&slow(id).id.unwrap()).await {
                            break view;
                        }
                        // It is still being undone.
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    made => break made.unwrap(),
                }
            };
            assert!(!made.certificate_pem.is_empty());
        }
    }
    let client = daemon.client().await;
    assert_eq!(client.list_all().await.len(), 10);
    for kind in ["Private Key", "Public Key", "Certificate"] {
        assert_eq!(token.count(kind), 5, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_request_is_finished_although_its_caller_left() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    for provider in PROVIDERS {
        let wanted = NewKeyPairSettings {
            key_algorithm: "RSA".into(),
            ..settings(provider)
        };
        let leaving = daemon.client().await;
        let name = format!("named-{provider:?}");
        let call = tokio::spawn({
            let (wanted, name) = (wanted.clone(), name.clone());
            async move { leaving.generate_named(wanted, &name).await }
        });
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        call.abort();
        let client = daemon.client().await;
        let first = client.generate_named(wanted.clone(), &name).await.unwrap();
        let second = client.generate_named(wanted, &name).await.unwrap();
        assert_eq!(first, second);
    }
    assert_eq!(daemon.client().await.list_all().await.len(), 2);
}

/// Makes many calls at once, and returns all answers.
async fn at_once(
    client: &Client,
    count: usize,
    request: impl Fn(usize) -> (NewKeyPairSettings, String),
) -> Vec<Result<keypaird::proto::KeyPairView, tonic::Status>> {
    let calls: Vec<_> = (0..count)
        .map(|n| {
            let (client, (settings, name)) = (client.clone(), request(n));
            tokio::spawn(async move { client.generate_named(settings, &name).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_request_makes_no_second_key_pair_while_the_clock_is_wrong() {
    let clock = ShiftedClock::new();
    let home = clock.given_to(Home::local());
    let wanted = settings(CryptoProvider::Unspecified);
    let daemon = home.start();
    let client = daemon.client().await;
    let made = client.generate_named(wanted.clone(), "once").await.unwrap();
    clock.set_days_ahead(40);
    let ahead = client.generate_named(wanted.clone(), "once").await.unwrap();
    assert_eq!(ahead.id, made.id);
    drop((client, daemon));
    // Also by a daemon that knows no other clock.
    let daemon = home.start();
    let client = daemon.client().await;
    for days in [40, 0] {
        clock.set_days_ahead(days);
        let again = client.generate_named(wanted.clone(), "once").await.unwrap();
        assert_eq!(again.id, made.id, "{days}");
    }
    assert_eq!(client.list_all().await.len(), 1);
}
