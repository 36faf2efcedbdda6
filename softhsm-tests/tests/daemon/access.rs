//! The access log: a line for each call, and no warning for what a caller did wrong.

use serde_json::{Value, json};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::http::{BASE, send};
use tonic::Code;

use super::{
    CryptoProvider, NewKeyPairSettings, certificates, grpcurl_with_certificate, signature_with,
    with_tls,
};

const SERVICE: &str = "/keypaird.v1.KeyPairService";

/// Stops a daemon, and returns the lines of its access log: method, key pair, code.
fn lines(daemon: Daemon) -> (Vec<(String, String, String)>, String) {
    let (status, log) = daemon.stop();
    assert!(status.success());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines
        .filter(|line| line["target"] == "keypaird::access")
        .map(|line| {
            assert_eq!(line["level"], "INFO");
            assert!(text(&line["peer"]).starts_with("127.0.0.1:"), "{line}");
            assert!(
                line["took"].is_string() && line["span"]["request_id"].is_string(),
                "{line}"
            );
            (
                text(&line["method"]),
                text(&line["key_pair"]),
                text(&line["code"]),
            )
        });
    (lines.collect(), log)
}

/// Calls of every kind, some of them mistaken.
async fn calls(daemon: &Daemon, client: &Client) {
    let made = client.generate(NewKeyPairSettings {
        id: Some("payments".into()),
        ..settings(CryptoProvider::Unspecified)
    });
    made.await.unwrap();
    client.sign(signature_with("payments")).await.unwrap();
    let missing = client.get("missing").await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(client.serves("").await);
    tokio::task::block_in_place(|| {
        let path = |id: &str| format!("{BASE}/keyPairs/signing/{id}");
        assert_eq!(send(daemon, "GET", &path("payments"), &[], b"").status, 200);
        assert_eq!(send(daemon, "GET", &path("missing"), &[], b"").status, 404);
        assert_eq!(send(daemon, "GET", "/healthz", &[], b"").status, 200);
        let bad = send(
            daemon,
            "POST",
            &format!("{BASE}/keyPairs/signing/generate"),
            &[("content-type", "application/json")],
            b"{",
        );
        assert_eq!(bad.status, 400);
        let deleted = send(daemon, "DELETE", &path("payments"), &[], b"");
        assert_eq!(deleted.status, 204);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_one_line_and_a_mistake_or_a_stop_is_no_warning() {
    let rest = |method: &str, rest: &str| format!("{method} {BASE}/keyPairs/signing/{rest}");
    let generated = (
        format!("{SERVICE}/GenerateSigningKeyPair"),
        "payments",
        "OK",
    );
    let signed = (
        "/keypaird.v1.SigningService/Sign".to_owned(),
        "payments",
        "OK",
    );
    let missed = (
        format!("{SERVICE}/GetSigningKeyPair"),
        "missing",
        "NOT_FOUND",
    );
    let asked = ("/grpc.health.v1.Health/Check".to_owned(), "", "OK");
    let read = (rest("GET", "payments"), "payments", "200");
    let not_read = (rest("GET", "missing"), "missing", "404");
    let probed = ("GET /healthz".to_owned(), "", "200");
    let refused = (rest("POST", "generate"), "", "400");
    let deleted = (rest("DELETE", "payments"), "payments", "204");
    for (access_log, expected) in [
        ("off", vec![]),
        ("changes", vec![&generated, &refused, &deleted]),
        (
            "except-signing",
            vec![&generated, &missed, &read, &not_read, &refused, &deleted],
        ),
        (
            "all",
            vec![
                &generated, &signed, &missed, &asked, &read, &not_read, &probed, &refused, &deleted,
            ],
        ),
    ] {
        let home = match access_log {
            "except-signing" => Home::local(),
            other => Home::local().env("KEYPAIRD__TELEMETRY__ACCESS_LOG", other),
        };
        let daemon = home.start();
        let client = daemon.client().await;
        daemon
            .wait_until("it serves", async || client.serves("").await)
            .await;
        calls(&daemon, &client).await;
        drop(client);
        let (found, log) = tokio::task::block_in_place(|| lines(daemon));
        let mut found: Vec<_> = found
            .iter()
            .map(|(method, key_pair, code)| (method.clone(), &**key_pair, &**code))
            .collect();
        // Those by which it was waited for.
        let first = found.iter().position(|line| *line == generated);
        found.drain(..first.unwrap_or(found.len()));
        let expected: Vec<_> = expected.into_iter().cloned().collect();
        assert_eq!(found, expected, "{access_log}");
        for level in ["\"WARN\"", "\"ERROR\""] {
            assert!(!log.contains(level), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_writes_is_short_in_the_log_and_in_refusals() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    // Two bytes each, so that a cut at any byte would be in the middle of one.
    let (long, wide) = ("x".repeat(60_000), "é".repeat(30_000));
    let method = "M".repeat(60_000);
    let settings = format!("{{\"{wide}\": 1}}");
    let path = |rest: &str| format!("{BASE}/keyPairs/signing/{rest}");
    tokio::task::block_in_place(|| {
        for (row, method, path, header, body) in [
            ("a path", "GET", format!("/{long}"), ("a", ""), ""),
            ("an id", "GET", path(&long), ("a", ""), ""),
            (
                "a parameter",
                "GET",
                format!("{}?{long}=1", path("x")),
                ("a", ""),
                "",
            ),
            ("a method", &method, "/healthz".to_owned(), ("a", ""), ""),
            ("a host", "GET", "/healthz".to_owned(), ("host", &long), ""),
            ("a user agent", "GET", path("x"), ("user-agent", &wide), ""),
            (
                "a field",
                "POST",
                path("generate"),
                ("content-type", "application/json"),
                &settings,
            ),
        ] {
            let answer = send(&daemon, method, &path, &[header], body.as_bytes());
            assert!(
                (400..500).contains(&answer.status),
                "{row}: {}",
                answer.status
            );
            assert!(answer.body.len() < 2048, "{row}: {}", answer.body.len());
        }
    });
    assert!(client.get(&wide).await.is_err());
    drop(client);
    let (_, log) = tokio::task::block_in_place(|| lines(daemon));
    for line in log.lines() {
        assert!(line.len() < 2048, "{}: {line}", line.len());
    }
}

#[test]
fn a_line_names_the_client_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let daemon = with_tls(folder.path(), true).start();
    let known = grpcurl_with_certificate(folder.path(), &daemon);
    known.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();
    let line = daemon.wait_for_log("call");
    assert_eq!(line["client"], "CN=client");
    assert_eq!(line["method"], format!("{SERVICE}/ListKeyAlgorithms"));
}
