//! What the daemon says of its providers while they do not sign, and what it costs the token to be asked.

use std::time::Duration;

use keypaird::proto::{CryptoProvider, SignRequest, sign_request};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::http;
use softhsm_tests::token::{PIN, Token};
use softhsm_tests::tools::pkcs11_tool;

async fn serves(daemon: &Daemon, client: &Client, service: &str) -> Duration {
    daemon
        .wait_until(service, async || client.serves(service).await)
        .await
}

async fn ceases(daemon: &Daemon, client: &Client, service: &str) -> Duration {
    daemon
        .wait_until(service, async || !client.serves(service).await)
        .await
}

fn get(daemon: &Daemon, path: &str) -> (u16, String) {
    let answer = http::send(daemon, "GET", path, &[], b"");
    (answer.status, String::from_utf8(answer.body).unwrap())
}

/// Returns why the daemon is not ready.
fn unready(daemon: &Daemon) -> String {
    let (status, body) = get(daemon, "/readyz");
    assert_eq!(status, 503, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["resultId"], "provider_unavailable");
    body["message"].as_str().unwrap().to_owned()
}

/// Returns a figure of `/metrics`.
fn metric(daemon: &Daemon, name: &str) -> u64 {
    let (_, text) = get(daemon, "/metrics");
    let line = text.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn sign(client: &Client, id: &str) {
    let request = SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    };
    client.sign(request).await.unwrap();
}

const INTERVAL: &str = "KEYPAIRD__CRYPTO__CANARY_INTERVAL";
const TIMEOUT: &str = "KEYPAIRD__CRYPTO__PKCS11__OPERATION_TIMEOUT";

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_sign_does_not_serve_though_nobody_signs_and_recovers_by_itself() {
    println!("| fault | serves again after |\n|---|---|");
    for in_process in [true, false] {
        let (token, module) = (Token::fresh(), FaultyModule::new());
        let home = Home::hybrid(&token).env(INTERVAL, "1s").env(TIMEOUT, "1s");
        let home = if in_process { home.in_process() } else { home };
        let daemon = module.given_to(home).start();
        let client = daemon.client().await;
        let id = client.generate(settings(CryptoProvider::Hsm)).await;
        let id = id.unwrap().id;
        serves(&daemon, &client, "provider/HSM").await;
        for (orders, state, said) in [
            (
                "C_Sign 0 0 return 0x6",
                "not_signing",
                "HSM: a trial signature failed: C_Sign of the PKCS#11 module returned FunctionFailed; see what",
            ),
            (
                "C_Sign 0 0 corrupt",
                "not_signing",
                "HSM: a trial signature does not verify with the public key; look at the token",
            ),
            ("C_Sign 0 0 return 0x30", "", "HSM: "),
            ("C_Sign 0 0 block", "", "HSM: "),
            ("C_SignInit 0 0 logout", "", "HSM: "),
        ] {
            module.tell(orders);
            ceases(&daemon, &client, "provider/HSM").await;
            for other in ["", "provider/LOCAL", "keypaird.v1.SigningService"] {
                assert!(client.serves(other).await, "{other}: {orders}");
            }
            // With the sentence of a trial that came to its end.
            daemon
                .wait_until(orders, async || {
                    let said_now = unready(&daemon);
                    state.is_empty() || said_now.starts_with(said)
                })
                .await;
            assert!(unready(&daemon).starts_with(said), "{orders}");
            let available = "keypaird_provider_available{provider=\"HSM\"}";
            assert_eq!(metric(&daemon, available), 0);
            if !state.is_empty() {
                let name = format!("keypaird_provider_state{{provider=\"HSM\",state=\"{state}\"}}");
                assert_eq!(metric(&daemon, &name), 1, "{orders}");
            }
            let failures = "keypaird_provider_canary_failures_total{provider=\"HSM\"}";
            assert!(metric(&daemon, failures) > 0, "{orders}");
            module.mend();
            let took = serves(&daemon, &client, "provider/HSM").await;
            println!("| {orders} | {:.2} s |", took.as_secs_f64());
            assert_eq!(get(&daemon, "/readyz"), (200, "ready\n".to_owned()));
            sign(&client, &id).await;
        }
        let last = "keypaird_provider_last_signature_timestamp_seconds{provider=\"HSM\"}";
        assert!(metric(&daemon, last) > 1_700_000_000);
        assert_eq!(token.count("Private Key"), 1);
        daemon.wait_for_log("the provider does not sign");
        daemon.wait_for_log("the provider signs again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_health_is_asked_for_the_token_is_not() {
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let home = Home::hsm(&token).env(INTERVAL, "1h");
    let daemon = module.given_to(home).start();
    let client = daemon.client().await;
    let id = client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap()
        .id;
    sign(&client, &id).await;
    // The last one to be told.
    serves(&daemon, &client, "keypaird.v1.SigningService").await;
    let functions = ["C_Sign", "C_SignInit", "C_FindObjectsInit"];
    let called = || functions.map(|function| module.called(function));
    let before = called();
    for _ in 0..300 {
        for service in ["", "provider/HSM", "keypaird.v1.SigningService"] {
            assert!(client.serves(service).await);
        }
        assert_eq!(get(&daemon, "/readyz").0, 200);
        metric(&daemon, "keypaird_provider_available");
    }
    assert_eq!(called(), before, "{functions:?}");
    // So it would be seen.
    sign(&client, &id).await;
    assert_ne!(called(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_callers_are_canaries_enough() {
    let token = Token::fresh();
    let home = Home::hybrid(&token).env(INTERVAL, "1s");
    let daemon = home.start();
    let client = daemon.client().await;
    let id = client.generate(settings(CryptoProvider::Hsm)).await;
    let id = id.unwrap().id;
    let canaries = || {
        metric(
            &daemon,
            "keypaird_provider_canaries_total{provider=\"HSM\"}",
        )
    };
    sign(&client, &id).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = canaries();
    for _ in 0..30 {
        sign(&client, &id).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(canaries(), before);
    daemon
        .wait_until("a canary", async || canaries() > before)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_key_pairs_serves_and_one_key_that_is_gone_is_not_its_fault() {
    let token = Token::fresh();
    let home = Home::hybrid(&token).env(INTERVAL, "1s");
    let daemon = home.start();
    let client = daemon.client().await;
    serves(&daemon, &client, "provider/HSM").await;
    let canaries = || {
        metric(
            &daemon,
            "keypaird_provider_canaries_total{provider=\"HSM\"}",
        )
    };
    let before = canaries();
    daemon
        .wait_until("three", async || canaries() > before + 3)
        .await;
    assert!(client.serves("provider/HSM").await);
    assert_eq!(token.count("Private Key"), 0);

    for id in ["a", "b"] {
        let mut settings = settings(CryptoProvider::Hsm);
        settings.id = Some(id.into());
        client.generate(settings).await.unwrap();
    }
    let before = canaries();
    daemon
        .wait_until("two", async || canaries() > before + 2)
        .await;
    let delete = |id| {
        pkcs11_tool(
            &token,
            &["--delete-object", "--type", "privkey", "--label", id],
        )
    };
    delete("a");
    let before = canaries();
    daemon
        .wait_until("three", async || canaries() > before + 3)
        .await;
    assert!(client.serves("provider/HSM").await);
    delete("b");
    ceases(&daemon, &client, "provider/HSM").await;
    assert!(
        unready(&daemon).starts_with("HSM: the private keys of key pairs are not there; see"),
        "{}",
        unready(&daemon)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_was_refused_is_sent_once_and_another_one_once() {
    for in_process in [true, false] {
        let (token, module) = (Token::fresh(), FaultyModule::new());
        let home = Home::hybrid(&token);
        let home = if in_process { home.in_process() } else { home };
        token.write_pin("wrong-pin-1");
        let daemon = module.given_to(home).start_without_token();
        let client = daemon.client().await;
        let line =
            daemon.wait_for_log("the provider is not available; it is tried when the PIN changes");
        let remedy = line["remedy"].as_str().unwrap();
        assert!(
            remedy.starts_with("put the right PIN into crypto.pkcs11.pin_file; it is read again"),
            "{line}"
        );
        let stays = async |count: u64| {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(module.called("C_Login"), count, "{}", daemon.log());
        };
        stays(1).await;
        assert!(!client.serves("provider/HSM").await);
        assert!(client.serves("keypaird.v1.SigningService").await);
        let state = "keypaird_provider_state{provider=\"HSM\",state=\"login_refused\"}";
        assert_eq!(metric(&daemon, state), 1);
        let said = unready(&daemon);
        assert!(said.starts_with("HSM: the token refused the PIN; it says that some tries are used up, and not how many are left; put the right PIN"), "{said}");
        // The same once more is no other one.
        token.write_pin("wrong-pin-1");
        stays(1).await;
        token.write_pin("wrong-pin-2");
        daemon
            .wait_until("again", async || module.called("C_Login") > 1)
            .await;
        stays(2).await;
        token.write_pin(PIN);
        serves(&daemon, &client, "provider/HSM").await;
        assert_eq!(module.called("C_Login"), 3);

        // It is changed on the token, and the connection is lost: that is one more.
        let changed = ["--change-pin", "--new-pin", "new-pin-4711"];
        pkcs11_tool(&token, &changed);
        let id = client.generate(settings(CryptoProvider::Hsm)).await;
        let id = id.unwrap().id;
        module.tell("C_Sign 0 1 return 0x30");
        let request = SignRequest {
            id: id.clone(),
            input: Some(sign_request::Input::Message(b"message"[..].into())),
            ..SignRequest::default()
        };
        client.sign(request).await.unwrap_err();
        ceases(&daemon, &client, "provider/HSM").await;
        stays(4).await;
        assert_eq!(metric(&daemon, state), 1);
        token.write_pin("new-pin-4711");
        serves(&daemon, &client, "provider/HSM").await;
        assert_eq!(module.called("C_Login"), 5);
        sign(&client, &id).await;
        let log = daemon.log();
        for pin in ["wrong-pin", "new-pin", PIN] {
            assert!(!log.contains(pin), "a PIN is in the log");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_token_is_sent_no_pin_and_one_that_soon_locks_none_either() {
    for in_process in [true, false] {
        let (token, module) = (Token::fresh(), FaultyModule::new());
        let home = Home::hybrid(&token);
        let home = if in_process { home.in_process() } else { home };
        let locked = "HSM: the token is locked after too many wrong PINs, and takes none; have the token's security officer unlock it";
        let state = "keypaird_provider_state{provider=\"HSM\",state=\"login_refused\"}";
        for (orders, logins, said) in [
            ("C_Login 0 0 return 0xa4", 1, locked),
            ("C_GetTokenInfo 0 0 flags 0x40000", 0, locked),
            (
                "C_GetTokenInfo 0 0 flags 0x20000",
                0,
                "HSM: the token says that one more wrong PIN locks it, so the PIN was not tried; see that",
            ),
        ] {
            module.tell(orders);
            let before = module.called("C_Login");
            let daemon = module.given_to(home.clone()).start_without_token();
            let client = daemon.client().await;
            daemon
                .wait_until(orders, async || unready(&daemon).starts_with(said))
                .await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(module.called("C_Login") - before, logins, "{orders}");
            assert_eq!(metric(&daemon, state), 1, "{orders}");
            module.mend();
            if logins == 0 {
                // It shows without a login.
                serves(&daemon, &client, "provider/HSM").await;
            }
        }
    }
}
