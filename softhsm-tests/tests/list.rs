//! `ListSigningKeyPairs`, `DeleteSigningKeyPair` and `ListKeyAlgorithms`.

use keypaird::proto::{
    CertificateValidity, CryptoProvider, DeleteSigningKeyPairRequest, KeyPairFilter,
    ListSigningKeyPairsRequest, NewKeyPairSettings,
};
use serde_json::json;
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::token::Token;
use tonic::Code;

async fn make(client: &Client, id: &str, change: impl FnOnce(&mut NewKeyPairSettings)) {
    let mut wanted = NewKeyPairSettings {
        id: Some(id.into()),
        ..settings(CryptoProvider::Unspecified)
    };
    change(&mut wanted);
    client.generate(wanted).await.unwrap();
}

/// Reads all pages, and returns the ids and the last total.
async fn ids(client: &Client, request: ListSigningKeyPairsRequest) -> (Vec<String>, i32) {
    let mut request = request;
    let mut ids = Vec::new();
    loop {
        let page = client.list(request.clone()).await.unwrap();
        ids.extend(page.key_pairs.into_iter().map(|view| view.id));
        if page.next_page_token.is_empty() {
            return (ids, page.total_size);
        }
        request.page_token = page.next_page_token;
    }
}

fn filtered(filter: KeyPairFilter) -> ListSigningKeyPairsRequest {
    ListSigningKeyPairsRequest {
        page_size: 2,
        filter: Some(filter),
        ..ListSigningKeyPairsRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_orders_and_totals_are_as_asked() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    make(&client, "d", |s| {
        s.crypto_provider = CryptoProvider::Local.into();
        s.common_name = "Payments".into();
        s.valid_days = 30;
    })
    .await;
    make(&client, "b", |s| s.valid_days = 10).await;
    make(&client, "c", |s| {
        s.crypto_provider = CryptoProvider::Local.into();
        s.key_algorithm = "ED25519".into();
        s.organization = "100% Acme".into();
        s.valid_days = 20;
    })
    .await;
    make(&client, "a_x", |s| s.key_algorithm = "RSA".into()).await;

    let order = |order_by: &str| ListSigningKeyPairsRequest {
        page_size: 3,
        order_by: order_by.into(),
        ..ListSigningKeyPairsRequest::default()
    };
    for (order_by, expected) in [
        ("", ["d", "b", "c", "a_x"]),
        ("create_time desc", ["a_x", "c", "b", "d"]),
        ("id", ["a_x", "b", "c", "d"]),
        ("id desc", ["d", "c", "b", "a_x"]),
        ("expires", ["b", "c", "d", "a_x"]),
        ("expires desc", ["a_x", "d", "c", "b"]),
        ("subject_dn", ["c", "b", "a_x", "d"]),
        ("subject_dn desc", ["d", "a_x", "b", "c"]),
    ] {
        let (ids, total) = ids(&client, order(order_by)).await;
        assert_eq!(
            (ids, total),
            (expected.map(String::from).to_vec(), 4),
            "{order_by}"
        );
    }

    let none = KeyPairFilter::default;
    let in_days = |days: i64| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        Some(prost_types::Timestamp {
            seconds: i64::try_from(now.as_secs()).unwrap() + days * 86_400,
            nanos: 0,
        })
    };
    for (filter, expected) in [
        (none(), &["d", "b", "c", "a_x"][..]),
        (
            KeyPairFilter {
                crypto_provider: CryptoProvider::Local.into(),
                ..none()
            },
            &["d", "c"],
        ),
        (
            KeyPairFilter {
                crypto_provider: CryptoProvider::Hsm.into(),
                ..none()
            },
            &["b", "a_x"],
        ),
        (
            KeyPairFilter {
                key_algorithm: "EC".into(),
                ..none()
            },
            &["d", "b"],
        ),
        (
            KeyPairFilter {
                crypto_provider: CryptoProvider::Local.into(),
                key_algorithm: "ED25519".into(),
                ..none()
            },
            &["c"],
        ),
        (
            KeyPairFilter {
                status: CertificateValidity::Valid.into(),
                ..none()
            },
            &["d", "b", "c", "a_x"],
        ),
        (
            KeyPairFilter {
                status: CertificateValidity::Expired.into(),
                ..none()
            },
            &[],
        ),
        (
            KeyPairFilter {
                status: CertificateValidity::NotYetValid.into(),
                ..none()
            },
            &[],
        ),
        (
            KeyPairFilter {
                status: CertificateValidity::Revoked.into(),
                ..none()
            },
            &[],
        ),
        (
            KeyPairFilter {
                expires_before: in_days(25),
                ..none()
            },
            &["b", "c"],
        ),
        (
            KeyPairFilter {
                query: "payments".into(),
                ..none()
            },
            &["d"],
        ),
        (
            KeyPairFilter {
                query: "_".into(),
                ..none()
            },
            &["a_x"],
        ),
        (
            KeyPairFilter {
                query: "0%".into(),
                ..none()
            },
            &["c"],
        ),
        (
            KeyPairFilter {
                query: "O=Acme, C=US".into(),
                ..none()
            },
            &["d", "b", "a_x"],
        ),
        (
            KeyPairFilter {
                query: "acme".into(),
                expires_before: in_days(100),
                crypto_provider: CryptoProvider::Local.into(),
                ..none()
            },
            &["d", "c"],
        ),
    ] {
        let (ids, total) = ids(&client, filtered(filter.clone())).await;
        assert_eq!(ids, expected, "{filter:?}");
        assert_eq!(
            usize::try_from(total).unwrap(),
            expected.len(),
            "{filter:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_stable_while_key_pairs_come_and_go() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for n in 0..30 {
        make(&client, &format!("k{n:02}"), |_| {}).await;
    }
    for order_by in ["", "id", "expires", "subject_dn"] {
        let mut request = ListSigningKeyPairsRequest {
            page_size: 7,
            order_by: order_by.into(),
            ..ListSigningKeyPairsRequest::default()
        };
        let mut seen = Vec::new();
        for round in 0.. {
            let page = client.list(request.clone()).await.unwrap();
            seen.extend(page.key_pairs.into_iter().map(|view| view.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
            // One before and one behind the place of the page, and the last one seen goes.
            let tag = order_by.get(..2).unwrap_or("cr");
            make(&client, &format!("a{tag}{round}"), |s| s.valid_days = 1).await;
            make(&client, &format!("z{tag}{round}"), |s| s.valid_days = 9999).await;
            let temporary = format!("k{round:02}-temporary-{tag}");
            make(&client, &temporary, |_| {}).await;
            client.delete(&temporary).await.unwrap();
        }
        let unique: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(
            unique.len(),
            seen.len(),
            "{order_by}: a key pair came twice"
        );
        for n in 0..30 {
            assert!(
                unique.contains(&format!("k{n:02}")),
                "{order_by}: k{n:02} was left out"
            );
        }
    }
}

#[test]
fn bad_list_requests_name_their_fields() {
    let daemon = Home::local().start();
    let refused = daemon
        .grpcurl()
        .key_pairs(
            "ListSigningKeyPairs",
            &json!({"pageSize": -1, "pageToken": "x", "orderBy": "",
                    "filter": {"cryptoProvider": "HSM", "keyAlgorithm": "DSA", "query": "x".repeat(257)}}),
        )
        .unwrap_err();
    assert_eq!((refused.code, &*refused.reason), (3, "VALIDATION_FAILED"));
    assert_eq!(
        refused.fields,
        [
            "filter.cryptoProvider",
            "filter.keyAlgorithm",
            "filter.query",
            "pageSize",
            "pageToken"
        ]
    );
    let refused = daemon
        .grpcurl()
        .key_pairs("ListSigningKeyPairs", &json!({"orderBy": "colour"}))
        .unwrap_err();
    assert_eq!(refused.fields, ["orderBy"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_pair_is_gone_from_store_and_token() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for (id, provider) in [("l", CryptoProvider::Local), ("h", CryptoProvider::Hsm)] {
        make(&client, id, |s| s.crypto_provider = provider.into()).await;
        let view = client.get(id).await.unwrap();
        let delete = |id: &str, etag: &str| DeleteSigningKeyPairRequest {
            id: id.into(),
            etag: etag.into(),
            ..DeleteSigningKeyPairRequest::default()
        };
        let stale = client
            .key_pairs()
            .delete_signing_key_pair(delete(id, "0123"))
            .await
            .unwrap_err();
        assert_eq!(reason(&stale), (Code::Aborted, "ETAG_MISMATCH".into()));
        assert_eq!(client.get(id).await.unwrap(), view);
        client
            .key_pairs()
            .delete_signing_key_pair(delete(id, &view.etag))
            .await
            .unwrap();
        for gone in [
            client.get(id).await.map(|_| ()).unwrap_err(),
            client.delete(id).await.unwrap_err(),
        ] {
            assert_eq!(reason(&gone), (Code::NotFound, "KEY_PAIR_NOT_FOUND".into()));
        }
        // The id is free for a new key pair, which has another etag.
        make(&client, id, |s| s.crypto_provider = provider.into()).await;
        assert_ne!(client.get(id).await.unwrap().etag, view.etag);
        client.delete(id).await.unwrap();
    }
    for kind in ["Private Key", "Public Key", "Certificate"] {
        assert_eq!(token.count(kind), 0, "{kind}");
    }
    let (ids, total) = ids(&client, ListSigningKeyPairsRequest::default()).await;
    assert_eq!((ids.len(), total), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_deletes_at_once_one_succeeds() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in [CryptoProvider::Local, CryptoProvider::Hsm] {
        make(&client, "x", |s| s.crypto_provider = provider.into()).await;
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.delete("x").await })
            })
            .collect();
        let mut deleted = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(()) => deleted += 1,
                Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
            }
        }
        assert_eq!(deleted, 1);
    }
    assert_eq!(token.count("Private Key"), 0);
}

#[test]
fn ids_that_cannot_be_are_not_found_and_empty_ones_are_refused() {
    let daemon = Home::local().start();
    let grpcurl = daemon.grpcurl();
    for method in [
        "GetSigningKeyPair",
        "DeleteSigningKeyPair",
        "ExportCertificate",
    ] {
        for id in [
            "none",
            "No Such Id",
            "../../etc/passwd",
            &"x".repeat(100_000),
        ] {
            let refused = grpcurl.key_pairs(method, &json!({"id": id})).unwrap_err();
            assert_eq!(
                (refused.code, &*refused.reason),
                (5, "KEY_PAIR_NOT_FOUND"),
                "{method}"
            );
            assert!(refused.message.len() < 200, "{}", refused.message);
        }
        let refused = grpcurl.key_pairs(method, &json!({})).unwrap_err();
        assert_eq!(
            (refused.code, refused.fields),
            (3, vec!["id".to_owned()]),
            "{method}"
        );
    }
}

#[test]
fn algorithms_are_listed_for_each_provider() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let grpcurl = daemon.grpcurl();
    let all = grpcurl.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();
    let entry = |name: &str, sizes: &[i32], signatures: &[&str], provider: &str| {
        json!({"name": name, "keySizes": sizes, "defaultKeySize": sizes[0],
               "signatureAlgorithms": signatures, "defaultSignatureAlgorithm": signatures[0],
               "cryptoProvider": provider})
    };
    let of = |provider: &str| {
        [
            entry(
                "RSA",
                &[2048, 3072, 4096],
                &["SHA256withRSA", "SHA384withRSA", "SHA512withRSA"],
                provider,
            ),
            entry(
                "EC",
                &[256, 384, 521],
                &["SHA256withECDSA", "SHA384withECDSA", "SHA512withECDSA"],
                provider,
            ),
            entry("ED25519", &[255], &["Ed25519"], provider),
        ]
    };
    assert_eq!(
        all["keyAlgorithms"],
        json!([of("LOCAL"), of("HSM")].concat())
    );
    let one = grpcurl
        .key_pairs("ListKeyAlgorithms", &json!({"cryptoProvider": "HSM"}))
        .unwrap();
    assert_eq!(one["keyAlgorithms"], json!(of("HSM")));
}
