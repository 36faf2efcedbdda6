//! Signing, through a real daemon: what comes out, what is refused, and what happens under pressure.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keypaird::domain::{KeyAlgorithm, SignatureAlgorithm};
use keypaird::proto::{
    CryptoProvider, KeyPairView, ListPublicKeysRequest, NewKeyPairSettings, SignRequest,
    SignStreamRequest, SignatureEncoding, VerifyRequest, batch_sign_result, sign_request,
    sign_stream_response, verify_request,
};
use serde_json::{Value, json};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::token::Token;
use softhsm_tests::tools::{OpensslVerifier, pkcs11_tool};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const PROVIDERS: [CryptoProvider; 2] = [CryptoProvider::Hsm, CryptoProvider::Local];

async fn generate(
    client: &Client,
    provider: CryptoProvider,
    algorithm: &str,
    size: i32,
) -> KeyPairView {
    let wanted = NewKeyPairSettings {
        key_algorithm: algorithm.into(),
        key_size: Some(size),
        ..settings(provider)
    };
    client.generate(wanted).await.unwrap()
}

/// Generates a key pair that signs quickly and one that does not, in each provider.
async fn quick_and_slow(client: &Client) -> Vec<String> {
    let mut ids = Vec::new();
    for provider in PROVIDERS {
        ids.push(generate(client, provider, "EC", 256).await.id);
        ids.push(generate(client, provider, "RSA", 2048).await.id);
    }
    ids
}

fn message(id: &str, message: &[u8]) -> SignRequest {
    SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(message.to_vec().into())),
        ..SignRequest::default()
    }
}

fn digest(id: &str, digest: Vec<u8>) -> SignRequest {
    SignRequest {
        input: Some(sign_request::Input::Digest(digest.into())),
        ..message(id, b"")
    }
}

/// Writes r and s, side by side, in DER, as X.690 says: the shortest two's complement of each.
fn der(p1363: &[u8]) -> Vec<u8> {
    let (r, s) = p1363.split_at(p1363.len() / 2);
    let mut body = Vec::new();
    for number in [r, s] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let mut digits = number[zeros..].to_vec();
        if digits.first().is_none_or(|first| first & 0x80 != 0) {
            digits.insert(0, 0);
        }
        body.push(2);
        body.push(u8::try_from(digits.len()).unwrap());
        body.extend(digits);
    }
    let mut der = vec![0x30];
    if body.len() > 127 {
        der.push(0x81);
    }
    der.push(u8::try_from(body.len()).unwrap());
    der.extend(body);
    der
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_every_algorithm_provider_and_form_verify_with_openssl() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let text = b"what is signed";
    let mut count = 0;
    for provider in PROVIDERS {
        for (name, size) in [
            ("RSA", 2048),
            ("RSA", 3072),
            ("EC", 256),
            ("EC", 384),
            ("EC", 521),
            ("ED25519", 255),
        ] {
            let view = generate(&client, provider, name, size).await;
            let openssl = OpensslVerifier::new(&view.public_key_pem);
            let family = KeyAlgorithm::parse(name).unwrap();
            for algorithm in family.signing_algorithms() {
                let mut requests = vec![message(&view.id, text)];
                if let Some(hash) = algorithm.hash() {
                    requests.push(digest(&view.id, hash.digest(text)));
                }
                for request in requests {
                    for encoding in [SignatureEncoding::Der, SignatureEncoding::P1363] {
                        if encoding == SignatureEncoding::P1363 && name != "EC" {
                            continue;
                        }
                        let signed = client
                            .sign(SignRequest {
                                signature_algorithm: algorithm.name().into(),
                                encoding: encoding.into(),
                                ..request.clone()
                            })
                            .await
                            .unwrap();
                        assert_eq!(signed.signature_algorithm, algorithm.name());
                        assert_eq!(
                            signed.certificate_sha256_fingerprint,
                            view.sha256_fingerprint
                        );
                        assert_eq!(signed.generation, 1);
                        let signature = match encoding {
                            SignatureEncoding::P1363 => {
                                assert_eq!(
                                    signed.signature.len(),
                                    usize::try_from(size.div_euclid(8) + i32::from(size % 8 > 0))
                                        .unwrap()
                                        * 2
                                );
                                der(&signed.signature)
                            }
                            _ => signed.signature,
                        };
                        openssl.accepts(*algorithm, text, &signature);
                        count += 1;
                    }
                }
            }
            // What is used when nothing is asked for.
            let signed = client.sign(message(&view.id, text)).await.unwrap();
            assert_eq!(signed.signature_algorithm, view.signing_algorithm);
            let algorithm = SignatureAlgorithm::parse(&view.signing_algorithm).unwrap();
            openssl.accepts(algorithm, text, &signed.signature);
        }
    }
    // RSA: 6 algorithms of messages and digests, two sizes; EC: 3 by 2 by 2 forms, three curves; Ed25519.
    assert_eq!(count, 2 * (2 * 12 + 3 * 12 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn p1363_is_the_form_of_jws_for_every_kind_of_key() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for (name, size, len) in [("RSA", 2048, 256), ("EC", 384, 96), ("ED25519", 255, 64)] {
        let view = generate(&client, CryptoProvider::Unspecified, name, size).await;
        let request = SignRequest {
            encoding: SignatureEncoding::P1363.into(),
            ..message(&view.id, b"text")
        };
        let signed = client.sign(request).await.unwrap();
        assert_eq!(signed.signature.len(), len, "{name}");
        let verified = client.verify(VerifyRequest {
            id: view.id.clone(),
            input: Some(verify_request::Input::Message(b"text".to_vec().into())),
            signature: signed.signature.clone(),
            encoding: SignatureEncoding::P1363.into(),
            ..VerifyRequest::default()
        });
        assert!(verified.await.unwrap().valid, "{name}");
        if name != "EC" {
            let algorithm = SignatureAlgorithm::parse(&signed.signature_algorithm).unwrap();
            let openssl = OpensslVerifier::new(&view.public_key_pem);
            openssl.accepts(algorithm, b"text", &signed.signature);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_signed_is_refused_by_the_name_of_the_field() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in PROVIDERS {
        let ec = generate(&client, provider, "EC", 256).await.id;
        let rsa = generate(&client, provider, "RSA", 2048).await.id;
        let ed25519 = generate(&client, provider, "ED25519", 255).await.id;
        let algorithm = |request: SignRequest, name: &str| SignRequest {
            signature_algorithm: name.into(),
            ..request
        };
        for (request, field, says) in [
            (digest(&ec, vec![0; 31]), "digest", "must be 32 bytes"),
            (digest(&ec, vec![0; 33]), "digest", "must be 32 bytes"),
            (digest(&ec, vec![]), "digest", "must be 32 bytes"),
            (
                algorithm(digest(&ec, vec![0; 32]), "SHA512withECDSA"),
                "digest",
                "must be 64 bytes",
            ),
            (digest(&ed25519, vec![0; 32]), "digest", "give the message"),
            (
                algorithm(message(&ec, b""), "SHA256withRSA"),
                "signatureAlgorithm",
                "must be SHA256withECDSA",
            ),
            (
                algorithm(message(&rsa, b""), "Ed25519"),
                "signatureAlgorithm",
                "SHA512withRSAandMGF1",
            ),
            (
                algorithm(message(&rsa, b""), "SHA1withRSA"),
                "signatureAlgorithm",
                "SHA-1 is refused",
            ),
            (
                message(&ec, &vec![0; 1024 * 1024 + 1]),
                "message",
                "at most 1048576 bytes",
            ),
            (
                SignRequest {
                    input: None,
                    ..message(&ec, b"")
                },
                "message",
                "is required",
            ),
            (message("", b""), "id", "is required"),
        ] {
            let status = client.sign(request).await.unwrap_err();
            assert_eq!(
                reason(&status),
                (Code::InvalidArgument, "VALIDATION_FAILED".into())
            );
            assert_eq!(fields(&status), [field], "{status:?}");
            assert!(status.message().contains(says), "{status:?}");
        }
        // All at once.
        let nothing = SignRequest {
            input: None,
            ..message(&rsa, b"")
        };
        let nothing = algorithm(nothing, "SHA256withECDSA");
        let status = client.sign(nothing).await.unwrap_err();
        assert_eq!(fields(&status), ["signatureAlgorithm", "message"]);
        let unknown = SignRequest {
            encoding: 9,
            ..message(&ec, b"")
        };
        assert_eq!(
            reason(&client.sign(unknown).await.unwrap_err()),
            (Code::InvalidArgument, "MALFORMED_REQUEST".into())
        );
        for id in ["nobody", "No Id At All"] {
            let status = client.sign(message(id, b"")).await.unwrap_err();
            assert_eq!(
                reason(&status),
                (Code::NotFound, "KEY_PAIR_NOT_FOUND".into())
            );
        }
        // The bounds themselves are fine.
        client
            .sign(message(&ec, &vec![0; 1024 * 1024]))
            .await
            .unwrap();
        client
            .sign(message(&ed25519, &vec![0; 1024 * 1024]))
            .await
            .unwrap();
        client.sign(message(&ed25519, b"")).await.unwrap();
    }
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().unwrap().field_violations.iter();
    violations
        .map(|violation| violation.field.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_time_signs_only_where_the_request_allows_it() {
    let home = Home::local();
    let daemon = home.start();
    let client = daemon.client().await;
    let expired = generate(&client, CryptoProvider::Unspecified, "EC", 256)
        .await
        .id;
    let early = generate(&client, CryptoProvider::Unspecified, "EC", 256)
        .await
        .id;
    daemon.stop();
    let db = rusqlite::Connection::open(home.path("keypaird.db")).unwrap();
    let set = |id: &str, column: &str, shift: i64| {
        db.execute(
            &format!(
                "UPDATE generations SET {column} = unixepoch() + ?1
                 WHERE key_pair = (SELECT sequence FROM key_pairs WHERE id = ?2)"
            ),
            rusqlite::params![shift, id],
        )
        .unwrap();
    };
    set(&expired, "not_after", -2);
    set(&early, "not_before", 3600);
    drop(db);

    let daemon = home.start();
    let client = daemon.client().await;
    for (id, expected) in [
        (&expired, "KEY_PAIR_EXPIRED"),
        (&early, "KEY_PAIR_NOT_YET_VALID"),
    ] {
        let status = client.sign(message(id, b"late")).await.unwrap_err();
        assert_eq!(reason(&status), (Code::FailedPrecondition, expected.into()));
        assert!(
            status.message().contains("allowOutsideValidity"),
            "{status:?}"
        );
        client
            .sign(SignRequest {
                allow_outside_validity: true,
                ..message(id, b"late")
            })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_pair_signs_no_more_from_the_moment_that_is_answered() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in PROVIDERS {
        for _ in 0..5 {
            let id = generate(&client, provider, "EC", 256).await.id;
            let deleted = Arc::new(AtomicBool::new(false));
            let signers: Vec<_> = (0..8)
                .map(|_| {
                    let (client, id, deleted) = (client.clone(), id.clone(), Arc::clone(&deleted));
                    tokio::spawn(async move {
                        let mut made = 0;
                        loop {
                            let was_deleted = deleted.load(Ordering::SeqCst);
                            match client.sign(message(&id, b"still there")).await {
                                Ok(_) => assert!(!was_deleted, "signed after the deletion"),
                                Err(status) if reason(&status).1 == "KEY_PAIR_NOT_FOUND" => {
                                    return made;
                                }
                                // The key went while it was being used.
                                Err(status) => {
                                    assert_eq!(status.code(), Code::Internal, "{status:?}");
                                    assert!(!was_deleted, "not said to be deleted");
                                }
                            }
                            made += 1;
                        }
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(30)).await;
            client.delete(&id).await.unwrap();
            deleted.store(true, Ordering::SeqCst);
            let mut made = 0;
            for signer in signers {
                made += signer.await.unwrap();
            }
            assert!(made > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_request_in_its_place() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let mut ids = quick_and_slow(&client).await;
    ids.push("nobody".into());
    let requests: Vec<_> = (0..1000_u32)
        .map(|number| message(&ids[number as usize % 5], &number.to_be_bytes()))
        .collect();
    let results = client.sign_batch(requests.clone()).await.unwrap();
    assert_eq!(results.len(), 1000);
    for (number, (result, request)) in results.into_iter().zip(requests).enumerate() {
        match result.result.unwrap() {
            batch_sign_result::Result::Signed(signed) => {
                assert_ne!(request.id, "nobody");
                let valid = client
                    .verify(VerifyRequest {
                        id: request.id,
                        input: Some(verify_request::Input::Message(
                            u32::try_from(number).unwrap().to_be_bytes().to_vec().into(),
                        )),
                        signature: signed.signature,
                        ..Default::default()
                    })
                    .await
                    .unwrap();
                assert!(valid.valid, "result {number}");
            }
            batch_sign_result::Result::Error(error) => {
                assert_eq!(request.id, "nobody");
                assert_eq!(error.code, i32::from(Code::NotFound));
                assert_eq!(error.details.len(), 1, "ErrorInfo");
            }
        }
    }
    for count in [0, 1001] {
        let status = client
            .sign_batch(vec![message("x", b""); count])
            .await
            .unwrap_err();
        assert_eq!(
            reason(&status),
            (Code::InvalidArgument, "VALIDATION_FAILED".into())
        );
        assert_eq!(fields(&status), ["requests"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_message_once() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let ids = quick_and_slow(&client).await;
    let requests = (0..2000_usize).map(move |number| SignStreamRequest {
        correlation_id: number.to_string(),
        request: match number % 6 {
            4 => Some(message("nobody", b"")),
            5 => None,
            key => Some(message(&ids[key], &number.to_be_bytes())),
        },
    });
    let mut responses = client
        .signing()
        .sign_stream(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut seen = HashSet::new();
    while let Some(response) = responses.message().await.unwrap() {
        let number: usize = response.correlation_id.parse().unwrap();
        assert!(seen.insert(number), "{number} twice");
        match response.result.unwrap() {
            sign_stream_response::Result::Signed(_) => assert!(number % 6 < 4),
            sign_stream_response::Result::Error(error) => {
                let expected = if number % 6 == 4 {
                    Code::NotFound
                } else {
                    Code::InvalidArgument
                };
                assert_eq!(error.code, i32::from(expected));
            }
        }
    }
    assert_eq!(seen.len(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_its_deadline() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let (_open, requests) = tokio::sync::mpsc::channel::<SignStreamRequest>(1);
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
    // The header alone: the client's own clock must not be what ends it.
    request
        .metadata_mut()
        .insert("grpc-timeout", "300m".parse().unwrap());
    let mut responses = client
        .signing()
        .sign_stream(request)
        .await
        .unwrap()
        .into_inner();
    let ended = tokio::time::timeout(Duration::from_secs(10), responses.message())
        .await
        .unwrap();
    let status = ended.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_at_once_and_says_when_to_come_back() {
    let token = Token::fresh();
    let daemon = Home::hsm(&token)
        .replacing(
            "[crypto.pkcs11]",
            "[crypto.pkcs11]\nsessions = 1\nqueue_length = 4",
        )
        .start();
    let client = daemon.client().await;
    let id = generate(&client, CryptoProvider::Unspecified, "RSA", 4096)
        .await
        .id;
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let (client, id) = (client.clone(), id.clone());
            tokio::spawn(async move { client.sign(message(&id, b"me too")).await })
        })
        .collect();
    let (mut made, mut busy) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => made += 1,
            Err(status) => {
                assert_eq!(
                    reason(&status),
                    (Code::ResourceExhausted, "PROVIDER_BUSY".into())
                );
                let retry = status.get_error_details().retry_info().cloned().unwrap();
                assert!(retry.retry_delay.is_some());
                busy += 1;
            }
        }
    }
    assert!(made >= 5 && busy > 0, "{made} made, {busy} busy");
    client
        .sign(message(&id, b"now there is room"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_away_or_off_stops_its_own_keys_only() {
    let token = Token::fresh();
    let mut home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    let on_token = generate(&client, CryptoProvider::Hsm, "EC", 256).await.id;
    let local = generate(&client, CryptoProvider::Local, "EC", 256).await.id;
    let signed = client.sign(message(&on_token, b"before")).await.unwrap();
    let verify = VerifyRequest {
        id: on_token.clone(),
        input: Some(verify_request::Input::Message(b"before"[..].into())),
        signature: signed.signature,
        ..VerifyRequest::default()
    };
    daemon.stop();

    let away = token.objects().with_extension("away");
    std::fs::rename(token.objects(), &away).unwrap();
    let daemon = home.start_without_token();
    let client = daemon.client().await;
    let status = client.sign(message(&on_token, b"away")).await.unwrap_err();
    let expected = (Code::Unavailable, "PROVIDER_UNAVAILABLE".into());
    assert_eq!(reason(&status), expected);
    let retry = status.get_error_details().retry_info().cloned().unwrap();
    assert!(retry.retry_delay.is_some());
    client.sign(message(&local, b"here")).await.unwrap();
    // What needs no private key goes on.
    assert!(client.verify(verify.clone()).await.unwrap().valid);
    std::fs::rename(&away, token.objects()).unwrap();
    daemon.wait_for_log("connected to the token");
    client.sign(message(&on_token, b"back")).await.unwrap();
    daemon.stop();

    home.set_mode("local", None);
    let daemon = home.start();
    let client = daemon.client().await;
    let expected = (Code::FailedPrecondition, "PROVIDER_NOT_CONFIGURED".into());
    let status = client.sign(message(&on_token, b"off")).await.unwrap_err();
    assert_eq!(reason(&status), expected);
    let status = client.verify(verify).await.unwrap_err();
    assert_eq!(reason(&status), expected);
    client.sign(message(&local, b"here")).await.unwrap();
}

/// Makes a key under a `CKA_ID`, as somebody else would.
fn make_another_key(token: &Token, key_ref: &str) {
    let make = ["--keypairgen", "--key-type", "EC:prime256v1"];
    let named = ["--label", "theirs", "--id", key_ref, "--usage-sign"];
    pkcs11_tool(token, &[&make[..], &named].concat());
}

/// Replaces the private key of a key pair on the token by another one under the same `CKA_ID`.
fn replace_private_key(token: &Token, key_ref: &str) {
    for class in ["privkey", "pubkey"] {
        let delete = ["--delete-object", "--type", class, "--id", key_ref];
        pkcs11_tool(token, &delete);
    }
    make_another_key(token, key_ref);
}

fn key_ref(home: &Home, id: &str) -> String {
    let db = rusqlite::Connection::open(home.path("keypaird.db")).unwrap();
    db.query_row(
        "SELECT lower(hex(key_ref)) FROM generations JOIN key_pairs ON key_pair = sequence WHERE id = ?1",
        [id],
        |row| row.get(0),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_somebody_put_in_the_place_of_ours_never_signs_even_if_nothing_is_verified() {
    for verify in ["always", "never"] {
        let token = Token::fresh();
        let home = Home::hsm(&token).replacing(
            "[crypto.pkcs11]",
            &format!("[crypto.pkcs11]\nverify_signatures = \"{verify}\""),
        );
        let daemon = home.start();
        let client = daemon.client().await;
        let id = generate(&client, CryptoProvider::Unspecified, "EC", 256)
            .await
            .id;
        client.sign(message(&id, b"ours")).await.unwrap();
        replace_private_key(&token, &key_ref(&home, &id));
        for _ in 0..20 {
            let status = client.sign(message(&id, b"not ours")).await.unwrap_err();
            assert_eq!(
                reason(&status),
                (Code::Internal, "INTERNAL".into()),
                "{verify}"
            );
        }
        let line = daemon.wait_for_log(
            "the token returned a wrong signature; it is not handed out, and the session is closed",
        );
        assert_eq!(line["wrong_signatures"], 1);
        // Other keys are none the worse for it.
        let other = generate(&client, CryptoProvider::Unspecified, "EC", 256)
            .await
            .id;
        client.sign(message(&other, b"ours")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keys_with_one_cka_id_none_signs_until_there_is_one() {
    let token = Token::fresh();
    let home = Home::hsm(&token).replacing(
        "[crypto.pkcs11]",
        "[crypto.pkcs11]\nverify_signatures = \"never\"",
    );
    let daemon = home.start();
    let client = daemon.client().await;
    let id = generate(&client, CryptoProvider::Unspecified, "EC", 256)
        .await
        .id;
    daemon.kill();
    make_another_key(&token, &key_ref(&home, &id));
    // What is known of its handle comes from the look at the whole token.
    let daemon = home.start();
    daemon.wait_for_log("the token and the store were compared");
    let client = daemon.client().await;
    let status = client.sign(message(&id, b"whose")).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Internal, "INTERNAL".into()));
    assert!(
        daemon
            .log()
            .contains("the token has 2 private keys with one CKA_ID")
    );
    let delete = ["--delete-object", "--type", "privkey", "--label", "theirs"];
    pkcs11_tool(&token, &delete);
    daemon
        .wait_until("one is left", async || {
            client.sign(message(&id, b"ours")).await.is_ok()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_from_the_token_is_an_error_and_others_go_on() {
    let token = Token::fresh();
    let home = Home::hsm(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    let gone = generate(&client, CryptoProvider::Unspecified, "EC", 256)
        .await
        .id;
    let kept = generate(&client, CryptoProvider::Unspecified, "EC", 256)
        .await
        .id;
    client.sign(message(&gone, b"there")).await.unwrap();
    pkcs11_tool(
        &token,
        &[
            "--delete-object",
            "--type",
            "privkey",
            "--id",
            &key_ref(&home, &gone),
        ],
    );
    let status = client.sign(message(&gone, b"gone")).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Internal, "INTERNAL".into()));
    client.sign(message(&kept, b"kept")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_goes_on_while_rsa_keys_are_generated() {
    let token = Token::fresh();
    let daemon = Home::hsm(&token).start();
    let client = daemon.client().await;
    let id = generate(&client, CryptoProvider::Unspecified, "EC", 256)
        .await
        .id;
    let making = {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..2 {
                generate(&client, CryptoProvider::Unspecified, "RSA", 4096).await;
            }
        })
    };
    let mut made = 0;
    while !making.is_finished() {
        client.sign(message(&id, b"beside")).await.unwrap();
        made += 1;
    }
    making.await.unwrap();
    assert!(made > 20, "{made} signatures meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jwk_set_is_the_list_of_public_keys() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let mut ids = Vec::new();
    for provider in PROVIDERS {
        for (algorithm, size) in [("RSA", 2048), ("EC", 521), ("ED25519", 255)] {
            ids.push(generate(&client, provider, algorithm, size).await.id);
        }
    }
    let list = |request: ListPublicKeysRequest| {
        let mut signing = client.signing();
        async move {
            signing
                .list_public_keys(request)
                .await
                .unwrap()
                .into_inner()
        }
    };
    let all = list(ListPublicKeysRequest::default()).await;
    let listed: Vec<_> = all.public_keys.iter().map(|key| key.id.clone()).collect();
    assert_eq!(listed, ids);
    // The same, two at a time.
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = list(ListPublicKeysRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        })
        .await;
        assert!(page.public_keys.len() <= 2);
        paged.extend(page.public_keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all.public_keys);
    let one = list(ListPublicKeysRequest {
        id: ids[1].clone(),
        ..Default::default()
    })
    .await;
    assert_eq!(one.public_keys, all.public_keys[1..2]);

    let (head, body) = http_get(&daemon, "/.well-known/jwks.json");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: application/jwk-set+json"),
        "{head}"
    );
    let set: Value = serde_json::from_str(&body).unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert_eq!(keys.len(), all.public_keys.len());
    for (key, listed) in keys.iter().zip(all.public_keys) {
        let jwk = listed.jwk.unwrap();
        let members = [
            ("kty", jwk.kty),
            ("use", jwk.r#use),
            ("alg", jwk.alg),
            ("kid", jwk.kid),
            ("n", jwk.n),
            ("e", jwk.e),
            ("crv", jwk.crv),
            ("x", jwk.x),
            ("y", jwk.y),
        ];
        let expected: serde_json::Map<_, _> = members
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        assert_eq!(*key, Value::Object(expected));
        assert_eq!(key["kid"], listed.kid);
    }
    let (head, body) = http_get(&daemon, "/nothing");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let result: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(result["resultId"], "resource_not_found");
}

/// Reads a page by HTTP/1.1, and returns its head and its body.
fn http_get(daemon: &Daemon, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(daemon.address()).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.to_lowercase()
            .replace("http/1.0", "HTTP/1.1")
            .replace("http/1.1", "HTTP/1.1"),
        body.to_owned(),
    )
}
