//! The modes, changes between them, and tokens that are away or refuse the login.

use keypaird::proto::{
    CryptoProvider, KeyPairRotationSettings, ListSigningKeyPairsRequest, NewKeyPairSettings,
};
use serde_json::{Value, json};
use softhsm_tests::client::{reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::token::{LABEL, PIN, Token};
use softhsm_tests::tools::pkcs11_tool;
use tonic::Code;

fn named(id: &str, provider: CryptoProvider) -> NewKeyPairSettings {
    NewKeyPairSettings {
        id: Some(id.into()),
        ..settings(provider)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blanks_that_fill_a_token_label_up_are_none_of_it() {
    let token = Token::fresh();
    let padded = format!("{LABEL:32}");
    let home = Home::hsm(&token).env("KEYPAIRD__CRYPTO__PKCS11__TOKEN_LABEL", &padded);
    let daemon = home.start();
    let client = daemon.client().await;
    let view = client.generate(settings(CryptoProvider::Unspecified)).await;
    client.signs(&view.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_named_in_hybrid_mode_only() {
    let token = Token::fresh();
    for (mode, home) in [("local", Home::local()), ("hsm", Home::hsm(&token))] {
        let daemon = home.start();
        let view = daemon
            .grpcurl()
            .key_pairs(
                "GenerateSigningKeyPair",
                &json!({"settings": {"id": mode, "commonName": "E", "organization": "A",
                                     "country": "US", "validDays": 1, "keyAlgorithm": "EC"}}),
            )
            .unwrap();
        assert_eq!(view["keyPair"]["cryptoProvider"], Value::Null);
        let algorithms = daemon
            .grpcurl()
            .key_pairs("ListKeyAlgorithms", &json!({}))
            .unwrap();
        let algorithms = algorithms["keyAlgorithms"].as_array().unwrap().clone();
        assert_eq!(algorithms.len(), 3);
        assert!(
            algorithms
                .iter()
                .all(|algorithm| algorithm["cryptoProvider"].is_null())
        );

        let client = daemon.client().await;
        for provider in [CryptoProvider::Local, CryptoProvider::Hsm] {
            let refused = client.generate(named("x", provider)).await.unwrap_err();
            assert_eq!(reason(&refused).1, "VALIDATION_FAILED");
            assert_eq!(
                refused.message(),
                format!(
                    "cryptoProvider: is applicable in hybrid mode only, and this daemon runs in {mode} mode; leave it out"
                )
            );
        }
    }
    assert_eq!(token.count("Private Key"), 1);
    for (default, expected) in [
        ("LOCAL", CryptoProvider::Local),
        ("HSM", CryptoProvider::Hsm),
    ] {
        let home = Home::hybrid(&token).with(&format!("crypto.default_provider = \"{default}\""));
        let daemon = home.start();
        let view = daemon
            .client()
            .await
            .generate(settings(CryptoProvider::Unspecified))
            .await;
        assert_eq!(view.unwrap().crypto_provider(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_changed_mode_does_not_serve_is_kept_and_said() {
    let token = Token::fresh();
    let mut home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    let local = client
        .generate(named("l", CryptoProvider::Local))
        .await
        .unwrap();
    let hsm = client
        .generate(named("h", CryptoProvider::Hsm))
        .await
        .unwrap();
    daemon.stop();

    for (mode, served, hidden, hidden_in) in
        [("hsm", "h", "l", "LOCAL"), ("local", "l", "h", "HSM")]
    {
        home.set_mode(mode, (mode == "hsm").then_some(&token));
        let daemon = home.start();
        let client = daemon.client().await;
        client.get(served).await.unwrap();
        for refused in [
            client.get(hidden).await.map(|_| ()).unwrap_err(),
            client.delete(hidden).await.unwrap_err(),
        ] {
            assert_eq!(
                reason(&refused),
                (Code::FailedPrecondition, "PROVIDER_NOT_CONFIGURED".into())
            );
            assert!(
                refused.message().contains("set crypto.mode to hybrid"),
                "{}",
                refused.message()
            );
        }
        let listed = client.list_all().await;
        assert_eq!(
            listed.iter().map(|view| &*view.id).collect::<Vec<_>>(),
            [served]
        );
        let total = client
            .list(ListSigningKeyPairsRequest::default())
            .await
            .unwrap()
            .total_size;
        assert_eq!(total, 1);
        let taken = client
            .generate(named(hidden, CryptoProvider::Unspecified))
            .await
            .unwrap_err();
        assert_eq!(reason(&taken).1, "KEY_PAIR_EXISTS");
        let (_, log) = daemon.stop();
        let said = format!("key pairs in {hidden_in} are kept in the store but not served");
        assert!(log.contains(&said), "{log}");
    }

    home.set_mode("hybrid", Some(&token));
    let daemon = home.start();
    let client = daemon.client().await;
    assert_eq!(client.get("l").await.unwrap(), local);
    assert_eq!(client.get("h").await.unwrap(), hsm);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_token_the_daemon_serves_the_rest_and_connects_when_the_token_comes() {
    let token = Token::none();
    let daemon = Home::hybrid(&token).start_without_token();
    let client = daemon.client().await;
    client
        .generate(named("l", CryptoProvider::Local))
        .await
        .unwrap();
    let away = client
        .generate(named("h", CryptoProvider::Hsm))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&away),
        (Code::Unavailable, "PROVIDER_UNAVAILABLE".into())
    );
    assert!(client.serves("").await);
    assert!(client.serves("keypaird.v1.KeyPairService").await);
    assert!(client.serves("provider/LOCAL").await);
    assert!(!client.serves("provider/HSM").await);
    let grpcurl = daemon.grpcurl();
    let algorithms = grpcurl.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();
    assert_eq!(algorithms["keyAlgorithms"].as_array().unwrap().len(), 3);
    let asked = grpcurl
        .key_pairs("ListKeyAlgorithms", &json!({"cryptoProvider": "HSM"}))
        .unwrap_err();
    assert_eq!(
        (&*asked.reason, asked.retry_info),
        ("PROVIDER_UNAVAILABLE", true)
    );
    let said = daemon.wait_for_log("the provider is not available; it is tried again and again");
    assert!(
        said["cause"]
            .as_str()
            .unwrap()
            .contains("no token with label \"tests\""),
        "{said}"
    );

    token.initialise(LABEL);
    daemon.wait_for_log("connected to the token");
    client
        .generate(named("h", CryptoProvider::Hsm))
        .await
        .unwrap();
    let serves = async || client.serves("provider/HSM").await;
    daemon.wait_until("provider/HSM serves", serves).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refused_pin_the_daemon_waits_for_another() {
    let token = Token::fresh();
    token.write_pin("another-pin-46");
    let daemon = Home::hsm(&token).start_without_token();
    daemon.wait_for_log("the provider is not available; it is tried when the PIN changes");
    let client = daemon.client().await;
    let refused = client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::Unavailable, "PROVIDER_UNAVAILABLE".into())
    );
    assert!(
        refused.message().contains("refused the PIN"),
        "{}",
        refused.message()
    );
    assert!(!client.serves("").await);
    token.write_pin(PIN);
    daemon.wait_for_log("connected to the token");
    client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    let (_, log) = daemon.stop();
    assert!(
        !log.contains("another-pin-46") && !log.contains(PIN),
        "a PIN is in the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_others_on_the_token_are_left_alone() {
    let token = Token::fresh();
    token.make_foreign_key("EC:prime256v1", "foreign", "01");
    let home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    client
        .generate(named("ours", CryptoProvider::Hsm))
        .await
        .unwrap();
    daemon.kill();
    let daemon = home.start();
    let compared = daemon.wait_for_log("the token and the store were compared");
    assert_eq!(
        (&compared["foreign"], &compared["missing"]),
        (&json!(2), &json!(0))
    );
    daemon.client().await.delete("ours").await.unwrap();
    assert_eq!(token.count("Private Key"), 1);
    assert!(pkcs11_tool(&token, &["--list-objects"]).contains("label:      foreign"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_missing_on_the_token_is_put_back_and_a_missing_key_is_told() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    for id in ["a", "b"] {
        client
            .generate(named(id, CryptoProvider::Hsm))
            .await
            .unwrap();
    }
    daemon.stop();
    pkcs11_tool(
        &token,
        &["--delete-object", "--type", "cert", "--label", "a"],
    );
    pkcs11_tool(
        &token,
        &["--delete-object", "--type", "privkey", "--label", "b"],
    );
    let daemon = home.start();
    let compared = daemon.wait_for_log("the token and the store were compared");
    assert_eq!(
        (&compared["republished"], &compared["missing"]),
        (&json!(1), &json!(1))
    );
    let said = daemon.wait_for_log("the token does not show the private key of a key pair");
    assert_eq!(said["key_pair"], "b");
    assert_eq!(token.count("Certificate"), 2);
    // It is told, not forgotten.
    daemon.client().await.get("b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_fewer_mechanisms_has_a_shorter_list_and_clear_violations() {
    let token = Token::fresh();
    token.configure(
        "slots.mechanisms = CKM_EC_KEY_PAIR_GEN,CKM_ECDSA,CKM_EDDSA,CKM_RSA_PKCS_KEY_PAIR_GEN",
    );
    let daemon = Home::hybrid(&token).start();
    let listed = daemon
        .grpcurl()
        .key_pairs("ListKeyAlgorithms", &json!({"cryptoProvider": "HSM"}))
        .unwrap();
    let names: Vec<_> = listed["keyAlgorithms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|algorithm| algorithm["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["EC"]);
    let client = daemon.client().await;
    client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap();
    for (key_algorithm, mechanism) in [
        ("ED25519", "CKM_EC_EDWARDS_KEY_PAIR_GEN"),
        ("RSA", "CKM_RSA_PKCS "),
    ] {
        let wanted = |provider| NewKeyPairSettings {
            key_algorithm: key_algorithm.into(),
            ..settings(provider)
        };
        let refused = client
            .generate(wanted(CryptoProvider::Hsm))
            .await
            .unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::InvalidArgument, "VALIDATION_FAILED".into())
        );
        let said = refused.message();
        assert!(
            said.starts_with(&format!(
                "keyAlgorithm: {key_algorithm} is not available in HSM"
            )),
            "{said}"
        );
        assert!(said.contains(mechanism), "{said}");
        let local = client
            .generate(wanted(CryptoProvider::Local))
            .await
            .unwrap();

        // Nor into what is not there: it is said when the settings are saved, not when the rotation is due.
        let here = KeyPairRotationSettings {
            creation_buffer_days: 30,
            activation_buffer_days: 10,
            ..KeyPairRotationSettings::default()
        };
        let there = KeyPairRotationSettings {
            crypto_provider: CryptoProvider::Hsm.into(),
            ..here.clone()
        };
        client.update_rotation(&local.id, here).await.unwrap();
        let generate = NewKeyPairSettings {
            rotation_settings: Some(there.clone()),
            ..wanted(CryptoProvider::Local)
        };
        for (refused, path) in [
            (client.update_rotation(&local.id, there).await.err(), ""),
            (client.generate(generate).await.err(), "rotationSettings."),
        ] {
            let refused = refused.unwrap();
            let said = format!("{path}keyAlgorithm: {key_algorithm} is not available in HSM");
            assert!(refused.message().starts_with(&said), "{refused:?}");
        }
        let kept = client.get(&local.id).await.unwrap().rotation_settings;
        assert_eq!(kept.unwrap().crypto_provider(), CryptoProvider::Local);
    }
}
