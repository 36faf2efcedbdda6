//! A stop with calls and streams of every kind open.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keypaird::proto::{
    CryptoProvider, NewKeyPairSettings, SignRequest, SignStreamRequest, SignStreamResponse,
    WatchKeyPairsRequest, sign_request,
};
use prost::Message as _;
use rustix::process::Signal;
use softhsm_tests::client::{OpenStream, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::frames::Peer;
use softhsm_tests::http::BASE;
use softhsm_tests::token::Token;
use softhsm_tests::tools::grpcurl;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

const HEALTH: &str = "/grpc.health.v1.Health/Watch";
const SIGN: &str = "/keypaird.v1.SigningService/SignStream";
const WATCH: &str = "/keypaird.v1.EventService/WatchKeyPairs";
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// A request of reflection: field 7, `list_services`.
const LIST_SERVICES: &[u8] = &[0x3a, 1, b'*'];

fn sign(id: &str) -> Vec<u8> {
    let request = SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    };
    let message = SignStreamRequest {
        correlation_id: "1".to_owned(),
        request: Some(request),
    };
    message.encode_to_vec()
}

/// Returns a message that each kind of stream answers.
fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let health = HealthCheckRequest {
        service: String::new(),
    };
    let mut streams = vec![
        (HEALTH, health.encode_to_vec()),
        (WATCH, WatchKeyPairsRequest::default().encode_to_vec()),
        (SIGN, sign("k")),
    ];
    streams.extend(REFLECTION.map(|method| (method, LIST_SERVICES.to_vec())));
    streams
}

async fn daemon_with_a_key() -> Daemon {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let k = NewKeyPairSettings {
        id: Some("k".into()),
        ..settings(CryptoProvider::Unspecified)
    };
    client.generate(k).await.unwrap();
    daemon
        .wait_until("it serves", async || client.serves("").await)
        .await;
    daemon
}

/// Panics unless a stream ended because the daemon stops, with the advice to try again.
fn assert_stopped(method: &str, status: &Status) {
    let told = reason(status);
    let expected = (Code::Unavailable, "SHUTTING_DOWN".to_owned());
    assert_eq!(told, expected, "{method}: {status:?}");
    let details = status.get_error_details();
    assert!(details.retry_info().is_some(), "{method}: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_every_kind_of_stream_with_its_status_in_less_than_two_seconds() {
    let daemon = daemon_with_a_key().await;
    let mut open = Vec::new();
    for (method, message) in streams() {
        let channel = daemon.client().await.channel();
        let mut stream = OpenStream::open(channel, method, message).await.unwrap();
        // It is under way.
        let first = stream.next().await.unwrap().unwrap();
        open.push((method, stream, first));
    }
    // Others' client, and one that says nothing more, not even to a ping.
    let mut others: Vec<_> = [
        ("grpc.health.v1.Health/Watch", "{}"),
        ("keypaird.v1.EventService/WatchKeyPairs", "{}"),
        ("keypaird.v1.SigningService/SignStream", ""),
    ]
    .map(|(method, message)| {
        let mut command = Command::new(grpcurl());
        command.args(["-plaintext", "-format-error", "-d"]);
        let mut child = command
            .arg(if message.is_empty() { "@" } else { message })
            .args([&daemon.address().to_string(), method])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if message.is_empty() {
            let sign = br#"{"request": {"id": "k", "message": "AAAA"}}"#;
            child.stdin.as_mut().unwrap().write_all(sign).unwrap();
        }
        let mut answered = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut answered).unwrap();
        (method, child)
    })
    .into();
    let silent = Peer::greeted(daemon.address()).into_stream();

    let begun = Instant::now();
    let stopping = tokio::task::spawn_blocking(move || daemon.stop());
    for (method, stream, first) in &mut open {
        let mut last = first.clone();
        let status = loop {
            match stream.next().await {
                Ok(Some(message)) => last = message,
                Ok(None) => panic!("{method} ended as if all were said"),
                Err(status) => break status,
            }
        };
        assert_stopped(method, &status);
        if *method == HEALTH {
            let last = HealthCheckResponse::decode(&*last).unwrap();
            assert_eq!(last.status().as_str_name(), "NOT_SERVING");
        }
    }
    let (status, log) = stopping.await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}\n{log}");
    assert!(status.success(), "{status}");
    assert!(!log.contains("stopped before all calls"), "{log}");
    for (method, child) in others.drain(..) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // The reason is among the details, which it decodes for some of our methods only.
        assert!(said.contains("\"code\": 14"), "{method}: {said}");
        assert!(said.contains("the daemon is stopping"), "{method}: {said}");
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_what_is_under_way_and_reads_no_more() {
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let home = module.given_to(Home::hsm(&token));
    let daemon = home.start();
    let client = daemon.client().await;
    let k = NewKeyPairSettings {
        id: Some("k".into()),
        ..settings(CryptoProvider::Unspecified)
    };
    client.generate(k).await.unwrap();
    // Each of them takes its time.
    module.tell("C_Sign 0 0 delay 500");
    let before = module.called("C_Sign");
    let mut stream = OpenStream::open(client.channel(), SIGN, sign("k"))
        .await
        .unwrap();
    stream.send(sign("k"));
    stream.send(sign("k"));
    daemon
        .wait_until("it signs", async || module.called("C_Sign") > before)
        .await;
    let begun = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("stopping");
    // It comes too late to be read.
    stream.send(sign("k"));
    let mut answers = 0;
    let status = loop {
        match stream.next().await {
            Ok(message) => {
                let answer = SignStreamResponse::decode(&*message.unwrap()).unwrap();
                assert!(
                    matches!(
                        answer.result,
                        Some(keypaird::proto::sign_stream_response::Result::Signed(_))
                    ),
                    "{answer:?}"
                );
                answers += 1;
            }
            Err(status) => break status,
        }
    };
    assert_stopped(SIGN, &status);
    assert_eq!(answers, 3);
    let (status, log) = daemon.wait();
    assert!(status.success(), "{status}\n{log}");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

/// Begins a call over REST whose body lacks its last byte.
fn half_a_request(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {BASE}/keyPairs/signing/generate HTTP/1.1\r\nHost: {address}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_comes_during_the_stop_is_told_to_try_again() {
    let daemon = daemon_with_a_key().await;
    let address = daemon.address();
    // A call that is under way for as long as we like, which keeps the daemon.
    let mut slow = half_a_request(address);
    // Another on a connection whose peer does not mind that the daemon asks it to go, and so may
    // still call.
    let mut stubborn = Peer::greeted(address);
    let slow_call = |stream, path: &str| {
        use softhsm_tests::frames::{END_HEADERS, HEADERS, frame, grpc};
        frame(HEADERS, END_HEADERS, stream, &grpc(path))
    };
    stubborn.send(&slow_call(
        1,
        "/keypaird.v1.KeyPairService/GetSigningKeyPair",
    ));
    daemon
        .wait_until("both are under way", async || {
            daemon.client().await.serves("").await
        })
        .await;
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("stopping");
    // Past the time in which callers that know nothing of it yet are still served.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stubborn.send(&slow_call(
        3,
        "/keypaird.v1.KeyPairService/ListKeyAlgorithms",
    ));
    let said = loop {
        let frame = stubborn.receive().expect("the connection stays");
        if frame.stream == 3 {
            break frame;
        }
    };
    let text = String::from_utf8_lossy(&said.payload).into_owned();
    println!("{said:?} {text}");
    assert_eq!(said.kind, softhsm_tests::frames::HEADERS);
    slow.write_all(b"}").unwrap();
    let begun = Instant::now();
    drop(stubborn);
    let (status, log) = daemon.wait();
    assert!(begun.elapsed() < Duration::from_secs(3), "{log}");
    assert!(status.success(), "{status}");
    assert!(log.contains("SHUTTING_DOWN"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_does_not_make_the_stop_last_the_whole_grace() {
    let daemon = daemon_with_a_key().await;
    let address = daemon.address();
    let _half = half_a_request(address);
    daemon
        .wait_until("it is under way", async || {
            daemon.client().await.serves("").await
        })
        .await;
    let begun = Instant::now();
    let (status, log) = daemon.stop();
    assert!(status.success(), "{status}");
    // The grace is half a minute.
    assert!(begun.elapsed() < Duration::from_secs(15), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_stream_ends_at_the_deadline_of_its_caller() {
    let daemon = daemon_with_a_key().await;
    for (method, message) in streams() {
        let channel = daemon.client().await.channel();
        let deadline = Duration::from_millis(600);
        let mut stream = OpenStream::open_until(channel, method, message, Some(deadline))
            .await
            .unwrap();
        stream.next().await.unwrap().unwrap();
        let begun = Instant::now();
        let status = loop {
            match stream.next().await {
                Ok(message) => assert!(message.is_some(), "{method} ended as if all were said"),
                Err(status) => break status,
            }
        };
        assert_eq!(
            reason(&status),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()),
            "{method}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{method}");
    }
}
