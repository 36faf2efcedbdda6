//! The daemon as an operator meets it: configuration, TLS, sockets, signals, logs, exit codes.

#[path = "daemon/access.rs"]
mod access;
#[path = "daemon/compression.rs"]
mod compression;
#[path = "daemon/connecting.rs"]
mod connecting;
#[path = "daemon/connection_ends.rs"]
mod connection_ends;
#[path = "daemon/hangup.rs"]
mod hangup;
#[path = "daemon/stops.rs"]
mod stops;

use std::fs;
use std::future::Future;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use keypaird::proto::{CryptoProvider, NewKeyPairSettings, SignRequest, sign_request};
use keypaird::telemetry::{self, FlushOnDrop, LogFormat, TelemetryConfig};
use serde_json::{Value, json};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::{Daemon, Home, Isolation, binary};
use softhsm_tests::http::send;
use softhsm_tests::measure::children;
use softhsm_tests::shifted_clock::ShiftedClock;
use softhsm_tests::token::{LABEL, PIN, SO_PIN, Token};
use softhsm_tests::tools::{Grpcurl, run};

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Makes a CA, and certificates of it for a server and a client.
fn certificates(folder: &Path) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let ca = ["req", "-x509", "-subj", "/CN=Test CA", "-days", "2"];
    run(
        "openssl",
        ca.iter().chain(&new_key).map(ToString::to_string).chain([
            "-keyout".into(),
            path("ca.key"),
            "-out".into(),
            path("ca.pem"),
        ]),
    );
    for name in ["server", "client"] {
        let request = [
            "req",
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ];
        run(
            "openssl",
            request
                .iter()
                .chain(&new_key)
                .map(ToString::to_string)
                .chain([
                    "-keyout".into(),
                    path(&format!("{name}.key")),
                    "-out".into(),
                    path(&format!("{name}.csr")),
                ]),
        );
        sign(folder, name);
    }
}

/// Has the CA sign a request, anew each time.
fn sign(folder: &Path, name: &str) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (csr, certificate) = (path(&format!("{name}.csr")), path(&format!("{name}.pem")));
    let (ca, key) = (path("ca.pem"), path("ca.key"));
    let mut arguments = vec![
        "x509",
        "-req",
        "-in",
        &csr,
        "-out",
        &certificate,
        "-days",
        "2",
    ];
    arguments.extend(["-CA", &ca, "-CAkey", &key, "-copy_extensions", "copy"]);
    run("openssl", arguments);
}

fn with_tls(folder: &Path, client_ca: bool) -> Home {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut lines = format!(
        "server.tls.certificate = \"{}\"\nserver.tls.private_key = \"{}\"",
        path("server.pem"),
        path("server.key")
    );
    if client_ca {
        let client_ca = path("ca.pem");
        lines.push_str("\nserver.tls.client_ca = \"");
        lines.push_str(&client_ca);
        lines.push('"');
    }
    Home::local().with(&lines)
}

#[test]
fn every_fault_of_a_configuration_is_named_at_once() {
    let home = Home::local()
        .with(
            "server.lisen = \"127.0.0.1:1\"\nserver.request_timeout = \"soon\"\n\
             server.max_message_bytes = \"many\"\nserver.tls.certificate = \"c.pem\"\n\
             crypto.default_provider = \"TPM\"\nrotation.check_interval = \"often\"\nrotation.expiry_warning_days = [0]\nauth.mode = \"mtls\"\n\
             telemetry.otlp_endpoint = \"http://127.0.0.1\"",
        )
        .replacing("server.listen", "server.listen = \"0.0.0.0:9443\"")
        .replacing("crypto.mode", "crypto.mode = \"hsm\"")
        .replacing("telemetry.log_format", "telemetry.log_format = \"xml\"")
        .env("KEYPAIRD__STORE__URL", "mysql://x")
        .env("KEYPAIRD__SERVER__NONSENSE", "1");
    for command in ["check-config", "serve"] {
        let output = home.run(&[command]);
        assert_eq!(output.status.code(), Some(64));
        let said = said(&output);
        for expected in [
            "server.lisen: is not a known key; did you mean server.listen?",
            "server.nonsense: is not a known key",
            "server.request_timeout: must be a duration such as \"30s\" or \"5m\", and is \"soon\"",
            "server.max_message_bytes: must be a whole number, and is \"many\"",
            "server.tls.private_key: is required for TLS",
            "crypto.default_provider: must be \"LOCAL\" or \"HSM\", and is \"TPM\"",
            "crypto.pkcs11.module: is required in this mode",
            "crypto.pkcs11.token_label: name the token by either",
            "crypto.pkcs11.pin_file: give the user PIN by either",
            "store.url: must be sqlite://PATH",
            "rotation.check_interval: must be a duration such as \"30s\" or \"5m\", and is \"often\"",
            "rotation.expiry_warning_days: must be at most 16 numbers of days, each 1 to 36500, such as [30, 7, 1]",
            "auth.mode: this version serves \"none\" only",
            "telemetry.otlp_endpoint: is not served by this version",
            "telemetry.log_format: must be \"text\" or \"json\", and is \"xml\"",
        ] {
            assert!(said.contains(expected), "{expected} is not in:\n{said}");
        }
        assert!(
            said.starts_with("keypaird: the configuration has 15 faults:\n"),
            "{said}"
        );
    }
}

#[test]
fn a_request_may_have_64_mib_at_most() {
    let check = |bytes: u64| {
        let home = Home::local().with(&format!("server.max_message_bytes = {bytes}"));
        home.run(&["check-config"])
    };
    assert!(check(64 << 20).status.success());
    let refused = check((64 << 20) + 1);
    assert_eq!(refused.status.code(), Some(64));
    let expected = "server.max_message_bytes: must be 1 to 67108864, and is 67108865";
    assert!(said(&refused).contains(expected), "{}", said(&refused));
}

#[test]
fn plaintext_stays_on_loopback_unless_permitted() {
    let open = || Home::local().replacing("server.listen", "server.listen = \"0.0.0.0:0\"");
    let refused = open().run(&["check-config"]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(
        said(&refused).contains("0.0.0.0:0 can be reached from other machines, which needs TLS")
    );
    let permitted = open()
        .with("server.allow_insecure = true")
        .run(&["check-config"]);
    assert!(permitted.status.success(), "{}", said(&permitted));
}

#[test]
fn the_example_configuration_is_in_order_and_complete() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/keypaird.example.toml");
    let output = std::process::Command::new(binary("keypaird"))
        .args(["check-config", "--config"])
        .arg(&example)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn without_a_configuration_it_runs_in_local_mode() {
    let home = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(binary("keypaird"))
        .arg("check-config")
        .env_remove("STATE_DIRECTORY")
        .env("XDG_STATE_HOME", home.path())
        .output()
        .unwrap();
    let shown = said(&output);
    let state = home.path().join("keypaird");
    for expected in [
        "mode      local".to_owned(),
        format!("store     {}/keypaird.db", state.display()),
        format!("key file  {}/key-encryption-key", state.display()),
        "listen    127.0.0.1:9443 without TLS".to_owned(),
    ] {
        assert!(shown.contains(&expected), "{expected} is not in:\n{shown}");
    }
}

#[test]
fn the_environment_stands_over_the_file() {
    let home = Home::local().env("KEYPAIRD__CRYPTO__MODE", "quantum");
    let refused = home.run(&["check-config"]);
    assert!(said(&refused).contains("crypto.mode: must be \"local\", \"hsm\" or \"hybrid\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_may_come_from_the_environment() {
    let token = Token::fresh();
    let home = Home::hsm(&token).replacing("pin_file", "pin_env = \"TOKEN_PIN\"");
    let refused = home.run(&["check-config"]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(said(&refused).contains("the environment variable TOKEN_PIN is not set"));
    let daemon = home.env("TOKEN_PIN", PIN).start();
    daemon
        .client()
        .await
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
}

#[test]
fn init_token_makes_a_token_and_never_touches_one_that_is_there() {
    let token = Token::none();
    let home = Home::hsm(&token);
    let so_pin = home.path("so-pin");
    fs::write(&so_pin, SO_PIN).unwrap();
    fs::set_permissions(&so_pin, fs::Permissions::from_mode(0o600)).unwrap();
    let init = ["init-token", "--so-pin-file", so_pin.to_str().unwrap()];
    let made = home.run(&init);
    assert!(made.status.success(), "{}", said(&made));
    assert!(said(&made).starts_with(&format!("initialised the token {LABEL:?}, serial number ")));
    home.start().stop();
    let again = home.run(&init);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        said(&again),
        format!("keypaird: a token with label {LABEL:?} exists already\n")
    );
    fs::set_permissions(&so_pin, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = home.run(&init);
    assert!(
        said(&exposed).contains("is accessible to everybody (mode 644)"),
        "{}",
        said(&exposed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_key_encryption_key_is_refused_and_never_made_anew() {
    let home = Home::local();
    let daemon = home.start();
    let view = daemon
        .client()
        .await
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    daemon.stop();
    let path = home.path("key-encryption-key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let right = fs::read(&path).unwrap();

    let refused = |expected: &str| {
        let output = home.run(&["serve"]);
        assert_eq!(output.status.code(), Some(77), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
    };
    fs::remove_file(&path).unwrap();
    refused("is missing, but the store was made with one; put the file back");
    assert!(!path.exists());

    let stranger = Home::local();
    stranger.start().stop();
    fs::copy(stranger.path("key-encryption-key"), &path).unwrap();
    refused("is not the one that the store was made with; put the right file back");

    fs::write(&path, &right).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    refused("is accessible to others (mode 644); run chmod 600 on it");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = home.start();
    assert_eq!(daemon.client().await.get(&view.id).await.unwrap(), view);
}

#[test]
fn what_is_in_use_or_damaged_ends_with_69_and_says_so() {
    let home = Home::local();
    let daemon = home.start();
    let output = home.run(&["serve"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(
        said(&output).contains("is in use by another keypaird"),
        "{}",
        said(&output)
    );

    let address = daemon.address();
    let taken = Home::local()
        .replacing("server.listen", &format!("server.listen = \"{address}\""))
        .run(&["serve"]);
    assert_eq!(taken.status.code(), Some(69));
    assert!(
        said(&taken).contains(&format!("cannot listen on {address}")),
        "{}",
        said(&taken)
    );

    let damaged = Home::local();
    fs::write(
        damaged.path("keypaird.db"),
        "this is no database, it is a letter",
    )
    .unwrap();
    let output = damaged.run(&["serve"]);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    assert!(
        said(&output).contains("file is not a database"),
        "{}",
        said(&output)
    );
}

#[test]
fn tls_is_served_and_reloaded_when_its_files_change() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let daemon = with_tls(folder.path(), false).start();
    let ca = folder.path().join("ca.pem");
    let grpcurl = Grpcurl::with(&["-cacert", ca.to_str().unwrap()], daemon.address());
    grpcurl.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();
    let serial = || {
        let said = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!(
                "openssl s_client -connect {} -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -serial",
                daemon.address()
            ))
            .output()
            .unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    let before = serial();
    assert!(before.starts_with("serial="), "{before}");

    // Half a change is not taken over.
    fs::write(folder.path().join("server.pem"), "damaged").unwrap();
    daemon.wait_for_log("the TLS files changed and cannot be used; the former ones stay in use");
    assert_eq!(serial(), before);
    sign(folder.path(), "server");
    daemon.wait_for_log("the TLS files changed and are in use");
    assert_ne!(serial(), before);
    grpcurl.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();

    let old = std::process::Command::new("openssl")
        .args([
            "s_client",
            "-tls1_2",
            "-connect",
            &daemon.address().to_string(),
        ])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!old.status.success(), "TLS 1.2 was accepted");
}

/// Returns a client that shows the certificate `client.pem` of a folder.
fn grpcurl_with_certificate(folder: &Path, daemon: &Daemon) -> Grpcurl {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    Grpcurl::with(
        &["-cacert", &ca, "-cert", &certificate, "-key", &key],
        daemon.address(),
    )
}

#[test]
fn a_clock_before_1970_ends_no_handshake_in_a_panic() {
    // Some sixty-eight years.
    const DAYS: u32 = 25_000;
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let clock = ShiftedClock::new();
    let daemon = clock.given_to(with_tls(folder.path(), false)).start();
    let client = grpcurl_with_certificate(folder.path(), &daemon);
    for days in [DAYS, 0] {
        clock.set_days_back(days);
        client.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();
    }
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn mutual_tls_lets_only_clients_of_the_ca_in() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let daemon = with_tls(folder.path(), true).start();
    let known = grpcurl_with_certificate(folder.path(), &daemon);
    known.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();

    let stranger = tempfile::tempdir().unwrap();
    certificates(stranger.path());
    let path = |name: &str| stranger.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("client.pem"), path("client.key"));
    let ca = folder.path().join("ca.pem").to_str().unwrap().to_owned();
    for options in [
        &["-cacert", &*ca][..],
        &["-cacert", &ca, "-cert", &certificate, "-key", &key],
    ] {
        let stranger = Grpcurl::with(options, daemon.address());
        assert!(!stranger.gets_in(), "{options:?} was let in");
    }
}

#[test]
fn tls_files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    fs::copy(
        folder.path().join("client.key"),
        folder.path().join("server.key"),
    )
    .unwrap();
    let output = with_tls(folder.path(), false).run(&["serve"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(
        said(&output).contains("server.pem for TLS: "),
        "{}",
        said(&output)
    );
    fs::remove_file(folder.path().join("server.key")).unwrap();
    let output = with_tls(folder.path(), false).run(&["serve"]);
    assert!(
        said(&output).contains("server.key for TLS: "),
        "{}",
        said(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_replaced_when_dead_and_removed() {
    let home = Home::local();
    let socket = home.path("keypaird.sock");
    let home = home.with(&format!("server.unix_socket = \"{}\"", socket.display()));
    let daemon = home.start();
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    let client = Client::connect(&format!("unix://{}", socket.display())).await;
    client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    let healthy = home.run(&["healthcheck"]);
    assert_eq!(
        (said(&healthy), healthy.status.code()),
        ("serving\n".into(), Some(0))
    );
    let unknown = home.run(&["healthcheck", "--service", "provider/HSM"]);
    assert_eq!(unknown.status.code(), Some(1));
    daemon.kill();
    assert!(socket.exists());
    let gone = home.run(&["healthcheck"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        said(&gone).contains("no daemon answers at unix://"),
        "{}",
        said(&gone)
    );

    let daemon = home.start();
    Client::connect(&format!("unix://{}", socket.display()))
        .await
        .list_all()
        .await;
    daemon.stop();
    assert!(!socket.exists());

    fs::write(&socket, "a letter").unwrap();
    let refused = home.run(&["serve"]);
    assert_eq!(refused.status.code(), Some(69));
    assert_eq!(fs::read(&socket).unwrap(), b"a letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_calls_end_and_takes_no_longer_than_the_grace() {
    let token = Token::fresh();
    let home = Home::hybrid(&token).with("server.shutdown_grace = \"20s\"");
    let daemon = home.start();
    let client = daemon.client().await;
    let call = tokio::spawn(async move {
        client
            .generate(NewKeyPairSettings {
                id: Some("late".into()),
                key_algorithm: "RSA".into(),
                key_size: Some(4096),
                ..settings(CryptoProvider::Hsm)
            })
            .await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (status, log) = daemon.stop();
    assert!(status.success(), "{status}");
    call.await.unwrap().unwrap();
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    home.start().client().await.get("late").await.unwrap();

    // A client that keeps its connection open does not keep the daemon.
    let home = Home::local().with("server.shutdown_grace = \"5s\"");
    let daemon = home.start();
    let idle = daemon.client().await;
    idle.list_all().await;
    let begun = Instant::now();
    daemon.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_lasts_longer_than_allowed_is_cut_off() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token)
        .with("server.request_timeout = \"20ms\"")
        .start();
    let client = daemon.client().await;
    let late = client
        .generate(NewKeyPairSettings {
            key_algorithm: "RSA".into(),
            key_size: Some(4096),
            ..settings(CryptoProvider::Hsm)
        })
        .await
        .unwrap_err();
    let told = softhsm_tests::client::reason(&late);
    assert_eq!(
        told,
        (tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into())
    );
    daemon.stop();
    assert_eq!(token.count("Private Key"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_carry_the_request_id_and_no_secret() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token)
        .replacing("telemetry.log_filter", "telemetry.log_filter = \"trace\"")
        .start();
    let grpcurl = Grpcurl::with(
        &["-plaintext", "-H", "x-request-id: my-own-request-0815"],
        daemon.address(),
    );
    for provider in ["LOCAL", "HSM"] {
        grpcurl
            .key_pairs(
                "GenerateSigningKeyPair",
                &json!({"settings": {"commonName": "E", "organization": "A", "country": "US",
                                     "validDays": 1, "keyAlgorithm": "RSA", "cryptoProvider": provider}}),
            )
            .unwrap();
    }
    let (_, log) = daemon.stop();
    let line = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == "made a key pair")
        .unwrap();
    assert_eq!(line["span"]["request_id"], "my-own-request-0815");
    assert!(!log.contains(PIN), "the PIN is in the log");
    assert!(!log.contains("PRIVATE KEY"), "a private key is in the log");
}

/// Has a daemon log a lot.
fn talkative(home: Home) -> Home {
    home.replacing("telemetry.log_filter", "telemetry.log_filter = \"trace\"")
}

fn signature_with(id: &str) -> SignRequest {
    SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    }
}

/// Returns the answer of a daemon whose log is not read, which must not take long.
async fn answered<T>(what: &str, call: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    let answer = tokio::time::timeout(limit, call).await;
    answer.unwrap_or_else(|_| panic!("{what} is not answered"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_read_stops_neither_answers_nor_the_end_of_the_daemon() {
    let token = Token::fresh();
    for isolation in Isolation::ALL {
        let home = talkative(Home::hybrid(&token)).isolating(isolation);
        let (daemon, _unread) = home.start_unread(&["serving", "connected to the token"]);
        let client = daemon.client().await;
        let made = client.generate(settings(CryptoProvider::Hsm));
        let id = answered("Generate", made).await.unwrap().id;
        for _ in 0..4 {
            let batch = client.sign_batch(vec![signature_with("unknown"); 1000]);
            assert_eq!(answered("BatchSign", batch).await.unwrap().len(), 1000);
        }
        answered("Sign", client.sign(signature_with(&id)))
            .await
            .unwrap();
        let healthz = || send(&daemon, "GET", "/healthz", &[], b"").status;
        assert_eq!(tokio::task::block_in_place(healthz), 200);

        let begun = Instant::now();
        let (status, _) = tokio::task::block_in_place(|| daemon.stop());
        assert!(
            status.success() && begun.elapsed() < Duration::from_secs(2),
            "{isolation:?}: {status} after {:?}",
            begun.elapsed()
        );
    }
}

/// Returns how many log lines a daemon says it lost.
fn lost_lines(daemon: &Daemon) -> u64 {
    let metrics = send(daemon, "GET", "/metrics", &[], b"");
    let metrics = String::from_utf8(metrics.body).unwrap();
    let name = "keypaird_log_lines_lost_total ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_that_are_lost_are_counted_and_reported_when_the_log_is_read_again() {
    let (daemon, mut unread) = talkative(Home::local()).start_unread(&["serving"]);
    let client = daemon.client().await;
    assert_eq!(tokio::task::block_in_place(|| lost_lines(&daemon)), 0);
    let mut lost = 0;
    for _ in 0..200 {
        for _ in 0..100 {
            answered("Get", client.get("unknown")).await.unwrap_err();
        }
        lost = tokio::task::block_in_place(|| lost_lines(&daemon));
        if lost > 0 {
            break;
        }
    }
    assert!(lost > 0);

    let (reported, report) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut lines = Vec::new();
        let mut line = String::new();
        while unread.read_line(&mut line).unwrap() > 0 {
            let read: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
            if read["message"] == "log lines were lost" {
                reported.send(read["count"].as_u64().unwrap()).unwrap();
            }
            lines.push(read);
            line.clear();
        }
        lines
    });
    let mut count = 0;
    while count < lost {
        count += report.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    let counted = tokio::task::block_in_place(|| lost_lines(&daemon));
    assert!(counted >= count, "{count} of {counted} were reported");
    let (status, _) = tokio::task::block_in_place(|| daemon.stop());
    assert!(status.success());
    // Those before the end come too, in their order.
    let lines = reading.join().unwrap();
    let said = lines
        .iter()
        .filter(|line| line["target"] == "keypaird::app");
    let said: Vec<_> = said.map(|line| &line["message"]).collect();
    assert!(
        said.ends_with(&[&json!("stopping"), &json!("stopped")]),
        "{said:?}"
    );
}

#[test]
fn a_panic_is_a_log_line_like_any_other() {
    let here = "a_panic_is_a_log_line_like_any_other";
    if std::env::var_os(PANICS).is_some() {
        let _log = FlushOnDrop;
        let config = TelemetryConfig {
            log_format: LogFormat::Json,
            log_filter: "info".into(),
        };
        telemetry::start(&config).unwrap();
        let thread = std::thread::Builder::new().name("fragile".into());
        let panicked = thread.spawn(|| panic!("a fault of ours")).unwrap().join();
        panicked.unwrap_err();
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([here, "--exact", "--nocapture"])
        .env(PANICS, "1")
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let line: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        (
            &line["level"],
            &line["message"],
            &line["thread"],
            &line["said"]
        ),
        (
            &json!("ERROR"),
            &json!("a thread panicked"),
            &json!("fragile"),
            &json!("a fault of ours")
        )
    );
    assert!(line["location"].as_str().unwrap().contains("daemon.rs:"));
}

/// Tells a test that it is in a process of its own.
const PANICS: &str = "KEYPAIRD_TEST_PANICS";

#[test]
fn a_start_that_fails_ends_with_its_code_when_the_log_is_not_read() {
    let home = Home::local();
    let daemon = home.start();
    let (_unread, mut log) = io::pipe().unwrap();
    log.write_all(&vec![b'x'; PIPE_LEN]).unwrap();
    let mut second = home.serve(log);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = second.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(10) {
            second.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(69), "{status}");
    daemon.stop();
}

/// What a new pipe holds (pipe(7)).
const PIPE_LEN: usize = 65_536;

#[test]
fn the_service_manager_is_told_when_the_daemon_is_ready_and_when_it_stops() {
    let home = Home::local();
    let socket = home.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let home = home.env("NOTIFY_SOCKET", socket.to_str().unwrap());
    let daemon = home.start();
    let mut told = [0; 256];
    let length = manager.recv(&mut told).unwrap();
    assert_eq!(&told[..length], b"READY=1\n");
    daemon.stop();
    let length = manager.recv(&mut told).unwrap();
    assert_eq!(&told[..length], b"STOPPING=1\n");
}

/// Returns the names and the scheduling policies of the threads of a process: fields 2 and 41 of `/proc/PID/task/TID/stat`
/// (`proc_pid_stat(5)`).
fn scheduling(pid: u32) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One may end meanwhile.
    let states =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    let named = |state: String| {
        let (name, rest) = state.split_once('(')?.1.rsplit_once(')')?;
        let policy = rest.split_whitespace().nth(41 - 3)?;
        Some((name.to_owned(), policy.to_owned()))
    };
    states.filter_map(named).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_is_woken_for_replies_does_not_interrupt_one_that_signs() {
    const SCHED_OTHER: &str = "0";
    const SCHED_BATCH: &str = "3";
    let expected = |name: &str| match name {
        "tokio-rt-worker" => SCHED_BATCH,
        _ => SCHED_OTHER,
    };
    let token = Token::fresh();
    for isolation in Isolation::ALL {
        let daemon = Home::hybrid(&token).isolating(isolation).start();
        let what = format!("the policies of all threads, {isolation:?}");
        // One that was just started has the policy of the one that started it.
        daemon
            .wait_until(&what, async || {
                let processes = [vec![daemon.pid()], children(daemon.pid())].concat();
                let threads: Vec<_> = processes.into_iter().flat_map(scheduling).collect();
                assert!(threads.iter().any(|(name, _)| name == "tokio-rt-worker"));
                threads
                    .iter()
                    .all(|(name, policy)| policy == expected(name))
            })
            .await;
    }
}
