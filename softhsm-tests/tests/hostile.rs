//! Those who mean harm, or do it without meaning to: too many, too slow, too fast, or not making sense. Each test looks
//! at what becomes of them, and that others do not notice.
//!
//! The same for as long as it takes, with figures: `benches/hostile.rs` and `benches/overload.rs`.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use keypaird::proto::{
    BatchSignRequest, CryptoProvider, ListSigningKeyPairsRequest, NewKeyPairSettings, SignRequest,
    SignStreamRequest, WatchKeyPairsRequest, sign_request,
};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use softhsm_tests::client::{Client, every_method, raw_call, raw_stream, reason, settings};
use softhsm_tests::daemon::{Daemon, Home, binary};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::frames::{
    CONTINUATION, Code as H2Code, DATA, END_HEADERS, HEADERS, Outcome, PING, PREFACE, Peer,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame, get, grpc, settings_frame,
};
use softhsm_tests::hoarding;
use softhsm_tests::http2_rules::{bad_beginnings, cases};
use softhsm_tests::measure::{children, peak_mib, resident_mib};
use softhsm_tests::token::Token;
use softhsm_tests::tools::self_signed_tls;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};

fn sign(id: &str) -> SignRequest {
    SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    }
}

/// A daemon in local mode with a key pair, and a client that uses it.
async fn daemon_and_neighbour(home: &Home) -> (Daemon, Client, String) {
    let daemon = home.start();
    let client = daemon.client().await;
    let view = client.generate(settings(CryptoProvider::Unspecified)).await;
    (daemon, client, view.unwrap().id)
}

/// Signs all the time until something is done, and panics when one signature fails.
async fn while_others_sign<T: Send + 'static>(
    client: &Client,
    id: &str,
    what: impl FnOnce() -> T + Send + 'static,
) -> T {
    let mut doing = tokio::task::spawn_blocking(what);
    loop {
        tokio::select! {
            done = &mut doing => return done.unwrap(),
            () = async { client.sign(sign(id)).await.map(|_| ()).unwrap() } => {}
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_ended_and_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let with_tls = Home::local().with(&self_signed_tls(folder.path())).start();
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let (address, tls_address) = (daemon.address(), with_tls.address());
    let ended = while_others_sign(&client, &id, move || {
        let kinds: [(&str, std::net::SocketAddr, &[u8]); 4] = [
            ("says nothing", address, b""),
            ("half a preface", address, &PREFACE[..11]),
            ("says nothing, TLS", tls_address, b""),
            (
                "half a handshake",
                tls_address,
                &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            ),
        ];
        let peers: Vec<_> = (0..20)
            .flat_map(|_| kinds)
            .map(|(kind, address, bytes)| {
                let mut peer = Peer::silent(address);
                peer.send(bytes);
                (kind, peer)
            })
            .collect();
        let patience = Instant::now() + Duration::from_secs(30);
        let staying = peers.into_iter().filter_map(|(kind, mut peer)| {
            let rest = patience.saturating_duration_since(Instant::now());
            (!peer.is_closed_within(rest)).then_some(kind)
        });
        staying.collect::<Vec<_>>()
    });
    assert_eq!(ended.await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_those_go_that_never_called_and_then_those_that_are_idle() {
    let home = Home::local().with("server.max_connections = 20");
    let (daemon, first, id) = daemon_and_neighbour(&home).await;
    // More come than there is room for, and whoever has a call to make is served.
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(Peer::silent(daemon.address()));
        first.sign(sign(&id)).await.unwrap();
    }
    assert!(silent[0].is_closed_within(Duration::from_secs(5)));
    let mut others = Vec::new();
    for _ in 0..30 {
        let another = daemon.client().await;
        another.sign(sign(&id)).await.unwrap();
        others.push(another);
    }
    // Those that had to go come back when they have to.
    for idle in others.iter().chain([&first]) {
        idle.sign(sign(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_refused_only_when_all_others_have_calls_under_way() {
    let home = Home::local().with("server.max_connections = 4");
    let (daemon, client, id) = daemon_and_neighbour(&home).await;
    let mut watches = vec![client.watch("", "").await.unwrap()];
    for _ in 0..3 {
        let another = daemon.client().await;
        watches.push(another.watch("", "").await.unwrap());
    }
    for _ in 0..10 {
        let mut refused = Peer::silent(daemon.address());
        assert!(refused.is_closed_within(Duration::from_secs(5)));
    }
    // They go on watching, and call.
    client.rotate(&id, false).await.unwrap();
    for watch in &mut watches {
        watch.next().await.unwrap();
    }
    drop(watches.pop());
    let freed = async {
        loop {
            let address = format!("http://{}", daemon.address());
            let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
            let channel = endpoint.connect().await;
            let Ok(channel) = channel else { continue };
            let health = "/grpc.health.v1.Health/Check";
            let asked = raw_stream(channel, health, vec![vec![]], Duration::from_secs(5));
            if asked.await.is_ok() {
                break;
            }
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(20), freed).await;
    freed.expect("there is room for another");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_the_daemon_goes_on_and_accepts_again_when_there_are_some() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    client
        .list(ListSigningKeyPairsRequest::default())
        .await
        .unwrap();
    let open = u64::try_from(daemon.descriptors()).unwrap();
    daemon.limit(Resource::Nofile, Some(open + 3));
    let waiting: Vec<_> = (0..20).map(|_| Peer::silent(daemon.address())).collect();
    for _ in 0..50 {
        client.sign(sign(&id)).await.unwrap();
    }
    // Those that are silent make room for a newcomer.
    let newcomer = async { daemon.client().await.sign(sign(&id)).await };
    let served = tokio::time::timeout(Duration::from_secs(20), newcomer).await;
    served.unwrap().unwrap();
    daemon.limit(Resource::Nofile, Some(open + 200));
    daemon.client().await.sign(sign(&id)).await.unwrap();
    drop(waiting);
}

/// Makes key pairs as large as they may be: a list of them is an answer of megabytes.
async fn generate_large(client: &Client, count: usize) {
    let names: Vec<_> = (0..1000)
        .map(|number| format!("{}.example.com", format!("n{number}-").repeat(8)))
        .map(|name| name.replace("-.", "."))
        .collect();
    for _ in 0..count {
        let large = NewKeyPairSettings {
            subject_alternative_names: names.clone(),
            ..settings(CryptoProvider::Unspecified)
        };
        client.generate(large).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_end_their_connection_and_no_other() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    generate_large(&client, 20).await;
    let list = ListSigningKeyPairsRequest {
        page_size: 1000,
        ..ListSigningKeyPairsRequest::default()
    };
    let listed = client.list(list.clone()).await.unwrap().encoded_len();
    assert!(listed > 1_000_000, "{listed}");
    let asked_max = 600_000_000 / listed;
    let before = resident_mib(daemon.pid());
    let address = daemon.address();
    let ended = while_others_sign(&client, &id, move || {
        // No window at all: not a byte of an answer can be sent, though every ping is answered.
        let mut peer = Peer::greeted_with(address, &[(4, 0)]);
        let list = list.encode_to_vec();
        let path = "/keypaird.v1.KeyPairService/ListSigningKeyPairs";
        for number in 0..asked_max {
            let stream = u32::try_from(2 * number + 1).unwrap();
            peer.send(&call(stream, path, &list));
        }
        // A minute is promised. A busy machine may need it all to make the answers.
        peer.is_closed_within(Duration::from_secs(3 * 60))
    });
    assert!(ended.await, "who takes nothing stays");
    let grown = resident_mib(daemon.pid()) - before;
    assert!(grown < 450.0, "{grown} MiB were kept for who takes nothing");
    client
        .list(ListSigningKeyPairsRequest::default())
        .await
        .unwrap();
}

/// Lets clients make the daemon keep things while a neighbour signs, and returns by how many MiB the
/// daemon grew at most, and the connections.
async fn grown_by(
    daemon: &Daemon,
    neighbour: (&Client, &str),
    begin: impl FnOnce(std::net::SocketAddr) -> Vec<TcpStream> + Send + 'static,
) -> (f64, Vec<TcpStream>) {
    let (pid, address) = (daemon.pid(), daemon.address());
    while_others_sign(neighbour.0, neighbour.1, move || {
        let before = resident_mib(pid);
        let connections = begin(address);
        let mut most = before;
        // Until it has not grown for three seconds.
        let mut grown = Instant::now();
        while grown.elapsed() < Duration::from_secs(3) {
            let now = resident_mib(pid);
            if now > most + 0.5 {
                (most, grown) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("grown by {:.1} MiB", most - before);
        (most - before, connections)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_an_end_are_kept_no_longer_than_they_may_be() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let near = (&client, &*id);
    let endless = |address| hoarding::endless_heads(address, 200);
    let (grown, _connections) = grown_by(&daemon, near, endless).await;
    assert!(
        grown < 40.0,
        "200 heads of 400 KB without an end: {grown} MiB"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_with_too_many_fields_are_not_kept() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let near = (&client, &*id);
    let many_fields = |address| hoarding::many_fields(address, 6);
    let (grown, _connections) = grown_by(&daemon, near, many_fields).await;
    // Kept, they would take 280 MiB. h2 decodes all that has arrived on a connection before its
    // first request is looked at: up to 1,000 heads of 47 KB, and each of the two cores reads one
    // connection.
    assert!(grown < 120.0, "6,000 heads of 460 fields: {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_with_a_token_and_cookies_pass() {
    let daemon = Home::local().start();
    let token = format!("Bearer {}", "t".repeat(8 * 1024));
    let cookies = "c".repeat(4 * 1024);
    let address = daemon.address();
    // HTTP/2: the client of the health service.
    let mut health =
        tonic_health::pb::health_client::HealthClient::new(daemon.client().await.channel());
    let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
    let metadata = request.metadata_mut();
    metadata.insert("authorization", token.parse().unwrap());
    metadata.insert("cookie", cookies.parse().unwrap());
    health.check(request).await.unwrap();
    // HTTP/1.1.
    let answer = tokio::task::spawn_blocking(move || {
        let mut connection = TcpStream::connect(address).unwrap();
        let request = format!(
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: {token}\r\nCookie: {cookies}\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_a_price_and_too_many_of_them_end_their_connections() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let idle = |address| hoarding::idle_streams(address, 25, 1000);
    let (grown, connections) = grown_by(&daemon, (&client, &id), idle).await;
    let ended = connections
        .iter()
        .filter(|connection| hoarding::is_closed(connection));
    let ended = ended.count();
    assert!(
        (1..20).contains(&ended),
        "{ended} of 25 connections were ended"
    );
    assert!(grown < 300.0, "25,000 idle streams: {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_and_not_read_fills_a_small_window() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let near = (&client, &*id);
    let windows = |address| hoarding::full_windows(address, 64);
    let (grown, _connections) = grown_by(&daemon, near, windows).await;
    assert!(grown < 45.0, "64 full windows: {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_nobody_reads_are_small() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let near = (&client, &*id);
    let errors = |address| hoarding::unread_errors(address, 4, 250);
    let (grown, _connections) = grown_by(&daemon, near, errors).await;
    assert!(
        grown < 30.0,
        "1,000 errors that the client does not read: {grown} MiB"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_of_one_byte_takes_no_more_than_it_is_counted_for() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let chunks = |address| hoarding::small_chunks(address, 4, 500_000);
    let (grown, _connections) = grown_by(&daemon, (&client, &id), chunks).await;
    assert!(grown < 16.0, "two million chunks of one byte: {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_stand_still_break_no_large_answer() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    generate_large(&client, 20).await;
    let list = ListSigningKeyPairsRequest {
        page_size: 1000,
        ..ListSigningKeyPairsRequest::default()
    };
    // Together they are just below what may be kept, and each is smaller than the answer.
    let posters = |address| hoarding::slow_posters(address, 285, 940_000);
    let (_, _posters) = grown_by(&daemon, (&client, &id), posters).await;
    for _ in 0..3 {
        let listed = client.list(list.clone()).await.unwrap();
        assert!(listed.encoded_len() > 1_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflection_stream_that_says_nothing_is_ended() {
    let daemon = Home::local().start();
    let mut channel = daemon.client().await.channel();
    let silent =
        axum::body::Body::from_stream(tokio_stream::pending::<Result<Bytes, Infallible>>());
    let request = http::Request::post("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(silent))
        .unwrap();
    let answer = channel.ready().await.unwrap().call(request).await.unwrap();
    let whole = tokio::time::timeout(Duration::from_secs(30), answer.into_body().collect());
    whole.await.expect("it is ended").expect("and in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_and_takes_nothing_keeps_the_store_from_nobody() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let watch = call(1, "/keypaird.v1.EventService/WatchKeyPairs", b"");
    let ask = [PREFACE.to_vec(), settings_frame(&[(4, 0)]), watch].concat();
    let watchers = (0..300).map(|_| {
        let mut watcher = TcpStream::connect(daemon.address()).unwrap();
        watcher.write_all(&ask).unwrap();
        watcher
    });
    let _watchers: Vec<_> = watchers.collect();
    let patience = Duration::from_secs(20);
    for _ in 0..10 {
        let other = client.generate(settings(CryptoProvider::Unspecified));
        let other = tokio::time::timeout(patience, other).await.unwrap();
        let deleted = client.delete(&other.unwrap().id).await;
        deleted.unwrap();
    }
    client.get(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_lack_their_last_byte_are_not_kept_without_end() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let before = resident_mib(daemon.pid());
    let address = daemon.address();
    let connections = while_others_sign(&client, &id, move || {
        let head = "POST /pf-admin-api/v1/keyPairs/signing/import HTTP/1.1\r\nHost: localhost\r\n\
                    Content-Type: application/json\r\nContent-Length: 4000000\r\n\r\n";
        let request = [head.as_bytes(), &vec![b' '; 3_999_999]].concat();
        let send = |_| {
            let mut connection = TcpStream::connect(address).unwrap();
            // It may be ended before all is sent.
            let _ = connection.write_all(&request);
            connection
        };
        (0..200).map(send).collect::<Vec<_>>()
    })
    .await;
    let grown = resident_mib(daemon.pid()) - before;
    assert!(grown < 450.0, "{grown} MiB are kept of 800");
    drop(connections);
    client.sign(sign(&id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_streams_are_not_kept_without_end() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let before = resident_mib(daemon.pid());
    let request = SignStreamRequest {
        correlation_id: "1".into(),
        request: Some(SignRequest {
            input: Some(sign_request::Input::Message(vec![7; 3_900_000].into())),
            ..sign(&id)
        }),
    };
    let mut whole = vec![0];
    whole.extend(u32::try_from(request.encoded_len()).unwrap().to_be_bytes());
    whole.extend(request.encode_to_vec());
    let whole = Bytes::from(whole);
    for (what, sent) in [
        ("all but the last byte", whole.slice(..whole.len() - 1)),
        // It was decoded, and the decoder keeps the room that it needed for it.
        ("a message and then nothing", whole.clone()),
    ] {
        let channel = daemon.client().await.channel();
        let runtime = tokio::runtime::Handle::current();
        let ended = while_others_sign(&client, &id, move || {
            runtime.block_on(is_ended_for(channel, sent))
        });
        assert!(ended.await, "who sends {what} stays");
        let grown = resident_mib(daemon.pid()) - before;
        assert!(grown < 450.0, "{what}: {grown} MiB are kept of 600");
    }
}

/// Sends the same on 150 streams, none of which ends, and tells whether the connection does.
async fn is_ended_for(mut channel: Channel, sent: Bytes) -> bool {
    let mut answers = Vec::new();
    for _ in 0..150 {
        let parts: Vec<_> = sent
            .chunks(64 * 1024)
            .map(|part| Ok::<_, Infallible>(sent.slice_ref(part)))
            .collect();
        let body = tokio_stream::iter(parts).chain(tokio_stream::pending());
        let request = http::Request::post("/keypaird.v1.SigningService/SignStream")
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(axum::body::Body::from_stream(body)))
            .unwrap();
        // The connection may have been ended already.
        let Ok(ready) = channel.ready().await else {
            break;
        };
        let Ok(answer) = ready.call(request).await else {
            break;
        };
        answers.push(answer.into_body());
    }
    let mut first = answers.remove(0);
    let ended = async {
        loop {
            match first.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break true,
                None => break false,
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    ended.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_at_once_cost_others_nothing_and_too_many_end_their_connection() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let address = daemon.address();
    let before = resident_mib(daemon.pid());
    while_others_sign(&client, &id, move || {
        let path = "/keypaird.v1.SigningService/Sign";
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            let mut peer = Peer::greeted(address);
            // Steadily: each is seen and dropped before the next.
            for number in 0..500 {
                let reset = [
                    frame(HEADERS, END_HEADERS, 2 * number + 1, &grpc(path)),
                    frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]),
                ];
                peer.send(&reset.concat());
                std::thread::sleep(Duration::from_micros(500));
            }
            let borne = peer.outcome();
            assert!(
                matches!(
                    borne,
                    Outcome::Ignored | Outcome::Goodbye(H2Code::EnhanceYourCalm)
                ),
                "{borne:?}"
            );
            // All at once.
            let mut peer = Peer::greeted(address);
            let resets = (0..20_000).flat_map(|number| {
                [
                    frame(HEADERS, END_HEADERS, 2 * number + 1, &grpc(path)),
                    frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]),
                ]
            });
            peer.send(&resets.collect::<Vec<_>>().concat());
            outcomes.push(peer.outcome());
        }
        for outcome in outcomes {
            assert!(
                matches!(
                    outcome,
                    Outcome::Goodbye(H2Code::EnhanceYourCalm) | Outcome::Closed
                ),
                "{outcome:?}"
            );
        }
    })
    .await;
    let grown = resident_mib(daemon.pid()) - before;
    assert!(grown < 64.0, "{grown} MiB were kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_rules_are_answered_as_rfc_9113_says() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let address = daemon.address();
    let other = while_others_sign(&client, &id, move || {
        let mut other = Vec::new();
        for case in cases() {
            let outcome = case.run(address);
            if !case.allowed.contains(&outcome) {
                other.push(format!("{} {}: {outcome:?}", case.section, case.name));
            }
        }
        for (beginning, bytes) in bad_beginnings() {
            let mut peer = Peer::silent(address);
            peer.send(&bytes);
            peer.finish();
            if !peer.is_closed_within(Duration::from_secs(5)) {
                other.push(format!("3.4 {beginning}: stays"));
            }
        }
        other
    });
    assert_eq!(other.await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_are_ended_or_cost_no_memory() {
    let (daemon, client, id) = daemon_and_neighbour(&Home::local()).await;
    let address = daemon.address();
    let before = resident_mib(daemon.pid());
    while_others_sign(&client, &id, move || {
        // A header block that does not end (CVE-2024-27316).
        let mut peer = Peer::greeted(address);
        peer.send(&frame(HEADERS, 0, 1, &get("/healthz")));
        peer.send(&frame(CONTINUATION, 0, 1, b"").repeat(100_000));
        let outcome = peer.outcome();
        assert!(
            matches!(
                outcome,
                Outcome::Goodbye(H2Code::EnhanceYourCalm) | Outcome::Closed
            ),
            "CONTINUATION: {outcome:?}"
        );
        // Streams that the daemon has to reset (CVE-2025-8671).
        let mut peer = Peer::greeted(address);
        let path = "/keypaird.v1.SigningService/Sign";
        for number in 0..3000 {
            let stream = 2 * number + 1;
            peer.send(&frame(HEADERS, END_HEADERS, stream, &grpc(path)));
            peer.send(&frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
        }
        let outcome = peer.outcome();
        assert!(
            matches!(
                outcome,
                Outcome::Goodbye(H2Code::EnhanceYourCalm | H2Code::Protocol) | Outcome::Closed
            ),
            "resets: {outcome:?}"
        );
        // What has to be answered, by one who does not read the answers.
        for (kind, payload) in [(PING, &b"12345678"[..]), (SETTINGS, b"")] {
            let mut peer = Peer::greeted(address);
            let flood = frame(kind, 0, 0, payload).repeat(100_000);
            for _ in 0..20 {
                if !peer.try_send(&flood, Duration::from_secs(1)) {
                    break;
                }
            }
        }
        // Frames without anything in them.
        let mut peer = Peer::greeted(address);
        peer.send(&frame(HEADERS, END_HEADERS, 1, &grpc(path)));
        peer.try_send(
            &frame(DATA, 0, 1, b"").repeat(500_000),
            Duration::from_secs(1),
        );
    })
    .await;
    let grown = resident_mib(daemon.pid()) - before;
    assert!(grown < 64.0, "{grown} MiB were kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_is_refused_and_told_when_to_come_again() {
    let token = Token::fresh();
    let module = FaultyModule::new();
    let home = module
        .given_to(Home::hybrid(&token))
        .env("KEYPAIRD__CRYPTO__PKCS11__QUEUE_LENGTH", "64");
    let daemon = home.start();
    let client = daemon.client().await;
    let hsm = client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap();
    let local = client
        .generate(settings(CryptoProvider::Local))
        .await
        .unwrap();
    client.sign(sign(&hsm.id)).await.unwrap();
    module.tell("C_Sign 0 0 delay 5");
    let calls: Vec<_> = (0..800)
        .map(|_| {
            let (client, id) = (client.clone(), hsm.id.clone());
            tokio::spawn(async move { client.sign(sign(&id)).await })
        })
        .collect();
    let (mut signed, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => signed += 1,
            Err(status) => {
                let busy = (Code::ResourceExhausted, "PROVIDER_BUSY".into());
                assert_eq!(reason(&status), busy);
                refused += 1;
            }
        }
    }
    assert!(signed >= 64, "{signed} signed, {refused} refused");
    assert!(refused > 100, "{signed} signed, {refused} refused");
    // It is said, and not once for each.
    let lines = daemon.log().matches("calls were refused").count();
    assert!((1..100).contains(&lines), "{lines} lines");
    client.sign(sign(&local.id)).await.unwrap();
    client.sign(sign(&hsm.id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_nothing_is_written_or_lost_and_all_else_goes_on() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let daemon = home.start();
    let client = daemon.client().await;
    let providers = [CryptoProvider::Hsm, CryptoProvider::Local];
    let mut ids = Vec::new();
    for provider in providers {
        ids.push(client.generate(settings(provider)).await.unwrap().id);
    }
    let keys = token.count("Private Key");

    // No file of the daemon may grow: it fails as a full disk does.
    daemon.limit(Resource::Fsize, Some(0));
    let unavailable = (Code::Unavailable, "STORE_UNAVAILABLE".into());
    for provider in providers {
        for _ in 0..5 {
            let refused = client.generate(settings(provider)).await.unwrap_err();
            assert_eq!(reason(&refused), unavailable);
        }
    }
    for id in &ids {
        assert_eq!(reason(&client.delete(id).await.unwrap_err()), unavailable);
        let refused = client.rotate(id, false).await.unwrap_err();
        assert_eq!(reason(&refused), unavailable);
        let view = client.get(id).await.unwrap();
        client.signs(&view).await;
    }
    assert_eq!(client.list_all().await.len(), 2);

    daemon.limit(Resource::Fsize, None);
    for provider in providers {
        ids.push(client.generate(settings(provider)).await.unwrap().id);
    }
    client.rotate(&ids[0], false).await.unwrap();
    let mut there: Vec<_> = client
        .list_all()
        .await
        .into_iter()
        .map(|view| view.id)
        .collect();
    there.sort();
    ids.sort();
    assert_eq!(there, ids);
    for id in &ids {
        client.signs(&client.get(id).await.unwrap()).await;
    }
    // The key pair made since, and the next generation of the first.
    assert_eq!(token.count("Private Key"), keys + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_files_cannot_grow_does_not_end_the_process_of_its_module() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let made = client.generate(settings(CryptoProvider::Hsm)).await;
    let made = made.unwrap();
    let [process] = children(daemon.pid())[..] else {
        panic!("one process for the module");
    };
    let process = Pid::from_raw(process.try_into().unwrap());
    let limit = |current| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(process, Resource::Fsize, Rlimit { current, maximum })
    };
    limit(Some(0)).unwrap();
    // SoftHSM2 says that it failed, or does not notice.
    let _ = client.generate(settings(CryptoProvider::Hsm)).await;
    // After a failure, it may be another process.
    let _ = limit(None);
    daemon
        .wait_until("keys are made again", async || {
            let again = client.generate(settings(CryptoProvider::Hsm)).await;
            again.is_ok()
        })
        .await;
    client.signs(&made).await;
    let log = daemon.log();
    assert!(!log.contains("ended by itself"), "{log}");
}

#[test]
fn a_log_on_a_full_disk_loses_its_lines_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("keypaird.sock");
    let home = Home::local().with(&format!("server.unix_socket = \"{}\"", socket.display()));
    let log = folder.path().join("log");
    let serve = Command::new(binary("keypaird"))
        .args(["serve", "--config"])
        .arg(home.write_config())
        .stderr(File::create(&log).unwrap())
        .spawn();
    let mut serve = serve.unwrap();
    let is_well = || home.run(&["healthcheck"]).status.success();
    let begun = Instant::now();
    while !is_well() {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    let pid = Pid::from_child(&serve);
    let nothing = Rlimit {
        current: Some(0),
        maximum: getrlimit(Resource::Fsize).maximum,
    };
    prlimit(Some(pid), Resource::Fsize, nothing).unwrap();
    let lines = std::fs::metadata(&log).unwrap().len();
    for _ in 0..10 {
        assert!(is_well());
    }
    kill_process(pid, Signal::TERM).unwrap();
    assert!(serve.wait().unwrap().success());
    assert_eq!(std::fs::metadata(&log).unwrap().len(), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_on_every_method_get_a_proper_status() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let view = client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap();
    let mut random = StdRng::seed_from_u64(9113);
    let methods = every_method();
    assert!(methods.len() > 20, "{methods:?}");
    let mut improper = Vec::new();
    for method in methods {
        for number in 0..40 {
            let message = nonsense(&mut random, number, &view.id);
            let patience = Duration::from_millis(500);
            let answered = tokio::time::timeout(
                Duration::from_secs(20),
                raw_stream(client.channel(), &method, vec![message.clone()], patience),
            );
            let Ok(answered) = answered.await else {
                improper.push(format!("{method} {message:02x?}: no answer"));
                continue;
            };
            let Err(status) = answered else { continue };
            let fine = !matches!(
                status.code(),
                Code::Internal
                    | Code::Unknown
                    | Code::Unavailable
                    | Code::Cancelled
                    | Code::DataLoss
            );
            // Reflection is tonic's own, and says INTERNAL in the trailers of its stream.
            let ours = method.starts_with("/keypaird");
            if (!fine || status.details().is_empty()) && ours {
                improper.push(format!("{method} {message:02x?}: {status:?}"));
            }
        }
    }
    assert!(improper.is_empty(), "{}", improper.join("\n"));
    client.signs(&view).await;
}

/// Makes bytes that are no message, or look like one.
fn nonsense(random: &mut StdRng, number: usize, id: &str) -> Vec<u8> {
    let mut bytes = match number % 4 {
        0 => {
            return (0..random.random_range(0..200))
                .map(|_| random.random())
                .collect();
        }
        1 => BatchSignRequest {
            requests: vec![sign(id); 3],
        }
        .encode_to_vec(),
        2 => SignStreamRequest {
            correlation_id: "\u{fffd}".into(),
            request: Some(sign(id)),
        }
        .encode_to_vec(),
        _ => settings(CryptoProvider::Local).encode_to_vec(),
    };
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..3) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_http_1_that_is_never_read_or_never_ends_is_given_up() {
    let home = Home::local().with("server.request_timeout = \"2s\"");
    let (daemon, client, id) = daemon_and_neighbour(&home).await;
    let address = daemon.address();
    let ended = while_others_sign(&client, &id, move || {
        let mut slow = TcpStream::connect(address).unwrap();
        slow.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        slow.write_all(
            b"POST /pf-admin-api/v1/keyPairs/signing/generate HTTP/1.1\r\nHost: localhost\r\n\
              Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"commonName\":",
        )
        .unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        answer
    })
    .await;
    assert!(ended.starts_with("HTTP/1.1 504"), "{ended}");
}

/// Makes key pairs, each with two events, and returns their ids.
async fn key_pairs_with_two_events(client: &Client, count: usize) -> Vec<String> {
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        making.spawn(async move {
            let view = client.generate(settings(CryptoProvider::Unspecified)).await;
            let id = view.unwrap().id;
            client.rotate(&id, false).await.unwrap();
            id
        });
    }
    making.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_2000_watchers_that_catch_up_key_pairs_are_got_and_sign() {
    let home = Home::local();
    let daemon = home.start();
    let ids = key_pairs_with_two_events(&daemon.client().await, 300).await;
    // After a restart no key is in memory.
    daemon.stop();
    let daemon = home.start();
    let client = daemon.client().await;
    let watch = WatchKeyPairsRequest {
        since: "e0".into(),
        ..WatchKeyPairsRequest::default()
    };
    let calls = |count: u32| {
        let path = "/keypaird.v1.EventService/WatchKeyPairs";
        let watch = watch.encode_to_vec();
        let calls = (0..count).map(|number| call(2 * number + 1, path, &watch));
        calls.collect::<Vec<_>>().concat()
    };
    let _watchers: Vec<_> = (0..2)
        .map(|_| {
            let mut peer = Peer::greeted(daemon.address());
            peer.send(&calls(1000));
            peer.into_stream()
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for id in ids.iter().take(40) {
        let begun = Instant::now();
        let called = async {
            client.get(id).await.unwrap();
            client.sign(sign(id)).await.unwrap();
        };
        let called = tokio::time::timeout(Duration::from_secs(30), called).await;
        called.unwrap_or_else(|_| panic!("{id}: no answer in 30 s"));
        slowest = slowest.max(begun.elapsed());
    }
    // Under a second for each of the two, with room for a busy machine.
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_two_million_requests_is_counted_before_it_is_decoded() {
    let (daemon, _, _) = daemon_and_neighbour(&Home::local()).await;
    let before = peak_mib(daemon.pid());
    // An empty request takes two bytes.
    let message = b"\x0a\x00".repeat(2_097_000);
    let refused = raw_call(&daemon, "/keypaird.v1.SigningService/BatchSign", &message).await;
    let refused = refused.unwrap_err();
    let expected = (Code::InvalidArgument, "VALIDATION_FAILED".to_owned());
    assert_eq!(reason(&refused), expected);
    assert_eq!(
        refused.message(),
        "requests: 2097000 requests were given; 1 to 1000 are allowed"
    );
    let grown = peak_mib(daemon.pid()) - before;
    assert!(grown < 40.0, "{grown} MiB for one call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_at_4_mib_and_the_next_goes_on_where_it_ended() {
    let (daemon, client, first) = daemon_and_neighbour(&Home::local()).await;
    let names: Vec<_> = (0..700)
        .map(|number| format!("n{number}.{}.example.com", "x".repeat(60)))
        .collect();
    let mut ids = vec![first];
    for _ in 0..80 {
        let large = NewKeyPairSettings {
            subject_alternative_names: names.clone(),
            ..settings(CryptoProvider::Unspecified)
        };
        ids.push(client.generate(large).await.unwrap().id);
    }
    let before = peak_mib(daemon.pid());
    let (mut listed, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = ListSigningKeyPairsRequest {
            page_size: 1000,
            page_token,
            ..ListSigningKeyPairsRequest::default()
        };
        let page = client.list(request).await.unwrap();
        assert!(
            page.encoded_len() <= 4 << 20,
            "{} bytes",
            page.encoded_len()
        );
        assert_eq!(page.total_size, 81);
        listed.extend(page.key_pairs.into_iter().map(|view| view.id));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);
    assert!(pages > 2, "{pages} pages");
    let grown = peak_mib(daemon.pid()) - before;
    assert!(grown < 60.0, "{grown} MiB");

    // Pages by number have the number of key pairs that was asked for, however large they are.
    let list = |query: &str| {
        let answer = softhsm_tests::http::get(&daemon, &format!("/keyPairs/signing{query}")).json();
        let items = answer["items"].as_array().unwrap();
        let ids = items
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(list(""), ids);
    assert_eq!(list("?page=1&numberPerPage=70"), ids[..70]);
    assert_eq!(list("?page=2&numberPerPage=70"), ids[70..]);
    assert_eq!(list("?page=3&numberPerPage=70"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_or_a_stream_of_refused_items_is_a_line_of_the_log_with_their_number() {
    let (daemon, client, _) = daemon_and_neighbour(&Home::local()).await;
    let results = client
        .sign_batch(vec![sign("unknown"); 1000])
        .await
        .unwrap();
    assert_eq!(results.len(), 1000);
    let messages = (0..1000).map(|number: u32| SignStreamRequest {
        correlation_id: number.to_string(),
        request: Some(sign("unknown")),
    });
    let answers = client
        .signing()
        .sign_stream(tokio_stream::iter(messages))
        .await;
    let answers = answers.unwrap().into_inner();
    assert_eq!(answers.collect::<Vec<_>>().await.len(), 1000);
    drop(client);
    let (_, log) = daemon.stop();
    let lines = log
        .lines()
        .filter(|line| line.contains("KEY_PAIR_NOT_FOUND"));
    let refused: Vec<_> = lines
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["refused"].as_u64())
        .collect();
    // One of the batch; of the stream one at once, and one at its end.
    assert_eq!(refused, [Some(1000), Some(1), Some(999)]);
}
