//! Hostile clients for as long as it takes, and what becomes of them, of the daemon, and of others.
//!
//! `cargo bench -p softhsm-tests --bench hostile` takes ten minutes; words behind `--` choose:
//! `silent`, `slow`, `watchers`, `memory`, `resets`, `disk`. It prints tables, and fails when a call
//! of a well-behaved client does, or when a connection stays that must end. Ten
//! thousand connections need as many descriptors (`ulimit -Hn`), and a full disk needs the right to mount one.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use keypaird::proto::{
    CryptoProvider, ListSigningKeyPairsRequest, NewKeyPairSettings, SignRequest, SignStreamRequest,
    WatchKeyPairsRequest, sign_request,
};
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::frames::{
    DATA, END_HEADERS, HEADERS, Outcome, PING, PREFACE, Peer, RST_STREAM, WINDOW_UPDATE, call,
    frame, grpc, settings_frame,
};
use softhsm_tests::hoarding::{self, crowd};
use softhsm_tests::load::{self, Call};
use softhsm_tests::measure::{Samples, cpu_time, ms, resident_mib};
use softhsm_tests::token::Token;
use softhsm_tests::tools::self_signed_tls;
use tonic::Code;

#[tokio::main]
async fn main() {
    let chosen: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|word| word == name);
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    if is_chosen("silent") {
        silent().await;
    }
    if is_chosen("slow") {
        slow().await;
    }
    if is_chosen("watchers") {
        watchers().await;
    }
    if is_chosen("memory") {
        memory().await;
    }
    if is_chosen("resets") {
        resets().await;
    }
    if is_chosen("disk") {
        full_disk().await;
    }
}

/// A daemon with a software key, and those who mean well.
struct Neighbourhood {
    daemon: Daemon,
    client: Client,
    call: Call,
}

impl Neighbourhood {
    async fn new(home: Home) -> Self {
        let daemon = home
            .replacing("telemetry.log_filter", "telemetry.log_filter = \"info\"")
            .start();
        let client = daemon.client().await;
        let view = client.generate(settings(CryptoProvider::Unspecified)).await;
        Self {
            call: Call::new(daemon.address(), "Sign", &[sign(&view.unwrap().id)]),
            daemon,
            client,
        }
    }

    /// Signs one after the other for a while, and tells how fast.
    fn signs(&self, duration: Duration) -> String {
        let outcome = load::closed(&self.call, 1, duration);
        assert_eq!(outcome.failed, 0);
        format!(
            "{:.0} /s, {:.2} ms, {:.2} ms",
            outcome.rate(),
            outcome.latencies.median().as_secs_f64() * 1000.0,
            outcome.latencies.quantile(0.99).as_secs_f64() * 1000.0
        )
    }

    fn memory(&self) -> f64 {
        resident_mib(self.daemon.pid())
    }
}

/// Connections that say nothing, or begin and say no more.
async fn silent() {
    let folder = tempfile::tempdir().unwrap();
    println!(
        "| 10,000 connections | memory of each | descriptors | signatures one by one: rate, median, p99 | before | after how long the last had gone | descriptors then |"
    );
    println!("|---|---|---|---|---|---|---|");
    let kinds: [(&str, &[u8], bool); 4] = [
        ("that say nothing", b"", false),
        ("that send half a preface", &PREFACE[..11], false),
        ("that say nothing, TLS", b"", true),
        (
            "that send half a TLS handshake",
            &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            true,
        ),
    ];
    for (name, bytes, with_tls) in kinds {
        // The client is on the Unix socket, which TLS is not on.
        let home = Home::local().with("server.max_connections = 12000");
        let near = Neighbourhood::new(home).await;
        let tls = with_tls.then(|| {
            Home::local()
                .with(&self_signed_tls(folder.path()))
                .with("server.max_connections = 12000")
                .start()
        });
        let daemon = tls.as_ref().unwrap_or(&near.daemon);
        let before = near.signs(Duration::from_secs(3));
        let memory = resident_mib(daemon.pid());
        let begun = Instant::now();
        let mut crowd = crowd(daemon.address(), 10_000, bytes);
        let opened = begun.elapsed();
        wait_until(|| daemon.descriptors() > 10_000);
        let each = (resident_mib(daemon.pid()) - memory) * 1024.0 / 10_000.0;
        let descriptors = daemon.descriptors();
        let beside = near.signs(Duration::from_secs(4));
        for connection in &mut crowd {
            wait_for_end(connection, Duration::from_secs(60));
        }
        let gone = begun.elapsed();
        println!(
            "| {name} (opened in {opened:.1?}) | {each:.1} KiB | {descriptors} | {beside} | {before} | {gone:.1?} | {} |",
            daemon.descriptors()
        );
    }
    beyond_the_limit().await;
    idle_http2().await;
}

/// More than there is room for, and more than there are descriptors for.
async fn beyond_the_limit() {
    let near = Neighbourhood::new(Home::local().with("server.max_connections = 2000")).await;
    let busy = cpu_time(near.daemon.pid());
    let begun = Instant::now();
    let crowd_of_many = crowd(near.daemon.address(), 10_000, b"");
    let took = begun.elapsed();
    let descriptors = near.daemon.descriptors();
    let mut newcomers = 0;
    for _ in 0..100 {
        let client = near.daemon.client().await;
        client
            .list(ListSigningKeyPairsRequest::default())
            .await
            .unwrap();
        newcomers += 1;
    }
    let busy = cpu_time(near.daemon.pid()).saturating_sub(busy);
    println!();
    println!(
        "10,000 silent ones where 2,000 are allowed: {took:.1?}, {descriptors} descriptors; {newcomers} of 100 newcomers were served meanwhile; {busy:.1?} of a processor in all."
    );
    drop(crowd_of_many);

    let near = Neighbourhood::new(Home::local()).await;
    let open = u64::try_from(near.daemon.descriptors()).unwrap();
    near.daemon.limit(Resource::Nofile, Some(open + 100));
    let waiting = crowd(near.daemon.address(), 2000, b"");
    let busy = cpu_time(near.daemon.pid());
    std::thread::sleep(Duration::from_secs(5));
    let busy = cpu_time(near.daemon.pid()).saturating_sub(busy);
    let beside = near.signs(Duration::from_secs(3));
    println!(
        "2,000 where the system gives 100 descriptors: the daemon had {busy:.1?} of a processor in 5 s; beside it, signatures {beside}."
    );
    drop(waiting);
    let begun = Instant::now();
    near.daemon.client().await.list_all().await;
    println!(
        "When they were gone, the next one was served in {:.1?}.",
        begun.elapsed()
    );
}

/// Connections that are in order and do not call.
async fn idle_http2() {
    let near = Neighbourhood::new(Home::local().with("server.max_connections = 12000")).await;
    let before = near.memory();
    let greeting = [PREFACE.to_vec(), settings_frame(&[])].concat();
    let crowd = crowd(near.daemon.address(), 10_000, &greeting);
    wait_until(|| near.daemon.descriptors() > 10_000);
    std::thread::sleep(Duration::from_secs(2));
    let each = (near.memory() - before) * 1024.0 / 10_000.0;
    let beside = near.signs(Duration::from_secs(4));
    println!(
        "10,000 connections that speak HTTP/2 and do not call: {each:.1} KiB each; beside them, signatures {beside}."
    );
    drop(crowd);
    println!();
}

/// Clients that ask for much and read nothing.
async fn slow() {
    let near = Neighbourhood::new(Home::local()).await;
    let names: Vec<_> = (0..1000)
        .map(|number| format!("name-{number}.{}.example.com", "x".repeat(40)))
        .collect();
    for _ in 0..20 {
        let large = NewKeyPairSettings {
            subject_alternative_names: names.clone(),
            ..settings(CryptoProvider::Unspecified)
        };
        near.client.generate(large).await.unwrap();
    }
    let list = ListSigningKeyPairsRequest {
        page_size: 1000,
        ..ListSigningKeyPairsRequest::default()
    };
    let answer = near.client.list(list.clone()).await.unwrap().encoded_len();
    println!("An answer to a list has {} KiB.", answer / 1024);
    println!();
    println!(
        "| who reads nothing | memory before | at most | ended after | signatures one by one beside it: rate, median, p99 |"
    );
    println!("|---|---|---|---|---|");
    // All that the store opens to be read is open.
    let lists: Vec<_> = (0..40)
        .map(|_| {
            let (client, list) = (near.client.clone(), list.clone());
            tokio::spawn(async move { client.list(list).await.unwrap() })
        })
        .collect();
    for list in lists {
        list.await.unwrap();
    }
    let before = near.signs(Duration::from_secs(3));
    println!("| nobody | {:.0} MiB | | | {before} |", near.memory());

    let address = near.daemon.address();
    let path = "/keypaird.v1.KeyPairService/ListSigningKeyPairs";
    let message = list.encode_to_vec();
    let lists = |count: u32| {
        (0..count)
            .map(|n| call(2 * n + 1, path, &message))
            .collect::<Vec<_>>()
            .concat()
    };
    // One connection, no window: hundreds of answers.
    near.watch(
        "one that asks for 1,000 lists and lets no byte of them come",
        || {
            let mut peer = Peer::greeted_with(address, &[(4, 0)]);
            peer.send(&lists(1000));
            vec![peer.into_stream()]
        },
    );
    // Few enough to be kept, until it is clear that they are not wanted.
    near.watch(
        "one that asks for 20 lists and lets no byte of them come",
        || {
            let mut peer = Peer::greeted_with(address, &[(4, 0)]);
            peer.send(&lists(20));
            vec![peer.into_stream()]
        },
    );
    near.watch(
        "one that pings 20 times a second and lets no byte of its answers come",
        || {
            let mut peer = Peer::greeted_with(address, &[(4, 0)]);
            peer.send(&lists(20));
            let stream = peer.into_stream();
            let mut pinging = stream.try_clone().unwrap();
            // Until the daemon has ended the connection.
            std::thread::spawn(move || {
                while pinging.write_all(&frame(PING, 0, 0, b"still up")).is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            vec![stream]
        },
    );
    near.watch("100 that ask for a list each and read nothing", || {
        let ask = [PREFACE.to_vec(), settings_frame(&[]), lists(1)].concat();
        crowd(address, 100, &ask)
    });
    let get = b"GET /pf-admin-api/v1/keyPairs/signing?numberPerPage=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    near.watch(
        "100 over HTTP/1.1 that ask for 50 lists each and read nothing",
        || crowd(address, 100, &get.repeat(50)),
    );
    let id = near
        .client
        .list(ListSigningKeyPairsRequest::default())
        .await
        .unwrap()
        .key_pairs[0]
        .id
        .clone();
    near.watch(
        "20 of SignStream that send what they can and read nothing",
        || sign_streams(address, &id, 20),
    );
    near.watch(
        "500 of WatchKeyPairs with 300 events that read nothing",
        || {
            let watch = call(1, "/keypaird.v1.EventService/WatchKeyPairs", b"");
            let ask = [PREFACE.to_vec(), settings_frame(&[(4, 0)]), watch].concat();
            let watchers = crowd(address, 500, &ask);
            let client = near.client.clone();
            let events = async move {
                for _ in 0..150 {
                    let view = client
                        .generate(settings(CryptoProvider::Unspecified))
                        .await
                        .unwrap();
                    client.delete(&view.id).await.unwrap();
                }
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(events));
            watchers
        },
    );
    println!();
}

impl Neighbourhood {
    /// Lets somebody be slow, signs meanwhile, and waits for the end of it.
    fn watch(&self, name: &str, begin: impl FnOnce() -> Vec<TcpStream>) {
        let (before, descriptors) = (self.memory(), self.daemon.descriptors());
        let begun = Instant::now();
        let mut most = before;
        let slow = begin();
        let mut beside = String::new();
        for _ in 0..4 {
            beside = self.signs(Duration::from_secs(1));
            most = most.max(self.memory());
        }
        // They go without having read.
        while self.daemon.descriptors() > descriptors {
            assert!(begun.elapsed() < Duration::from_secs(150), "{name} stay");
            std::thread::sleep(Duration::from_millis(100));
            most = most.max(self.memory());
        }
        drop(slow);
        println!(
            "| {name} | {before:.0} MiB | {most:.0} MiB | {:.0?} | {beside} |",
            begun.elapsed()
        );
    }
}

/// Sends requests to sign for as long as they are taken.
fn sign_streams(address: SocketAddr, id: &str, count: usize) -> Vec<TcpStream> {
    let request = SignStreamRequest {
        correlation_id: "1".into(),
        request: Some(sign(id)),
    };
    let mut message = vec![0];
    message.extend(u32::try_from(request.encoded_len()).unwrap().to_be_bytes());
    message.extend(request.encode_to_vec());
    let many = message.repeat(100);
    let begin = [
        PREFACE.to_vec(),
        settings_frame(&[(4, 0)]),
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &grpc("/keypaird.v1.SigningService/SignStream"),
        ),
    ];
    let mut streams = crowd(address, count, &begin.concat());
    for stream in &mut streams {
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        // As much as there is window for.
        for _ in 0..7 {
            if stream.write_all(&frame(DATA, 0, 1, &many)).is_err() {
                break;
            }
        }
    }
    streams
}

/// Begins what makes the daemon keep something, and keeps the connections.
type Begin = fn(SocketAddr) -> Vec<TcpStream>;

/// Clients that make the daemon keep more than they send, each kind on a fresh daemon.
async fn memory() {
    println!("| what is kept | memory before | at most | connections that were ended |");
    println!("|---|---|---|---|");
    let kinds: [(&str, Begin); 6] = [
        (
            "heads of HTTP/1.1 of 400 KB, on 4,000 connections",
            |address| hoarding::endless_heads(address, 4000),
        ),
        (
            "1,000 heads with 460 fields, on 60 connections",
            |address| hoarding::many_fields(address, 60),
        ),
        (
            "1,000 idle streams of `SignStream`, on 100 connections",
            |address| hoarding::idle_streams(address, 100, 1000),
        ),
        (
            "1,000 errors that the client does not read, on 60 connections",
            |address| hoarding::unread_errors(address, 60, 1000),
        ),
        ("full windows of 1,000 `SignStream`", |address| {
            hoarding::full_windows(address, 1000)
        }),
        (
            "a million chunks of one byte, on 60 connections",
            |address| hoarding::small_chunks(address, 60, 1_000_000),
        ),
    ];
    for (name, begin) in kinds {
        let near = Neighbourhood::new(Home::local()).await;
        let (before, address) = (near.memory(), near.daemon.address());
        let mut beginning = Some(std::thread::spawn(move || begin(address)));
        let mut connections = Vec::new();
        let (mut most, mut seconds) = (before, 0);
        // Until all is sent, and as long again as it takes to see that it stands still.
        while seconds < 15 {
            near.signs(Duration::from_secs(1));
            most = most.max(near.memory());
            match beginning.take_if(|beginning| beginning.is_finished()) {
                Some(begun) => connections = begun.join().unwrap(),
                None if beginning.is_none() => seconds += 1,
                None => {}
            }
        }
        let ended = connections
            .iter()
            .filter(|connection| hoarding::is_closed(connection));
        let ended = ended.count();
        println!("| {name} | {before:.0} MiB | {most:.0} MiB | {ended} |");
        assert!(most < 300.0, "{name}: {most} MiB");
    }
    println!();
    posters_beside_lists().await;
}

/// A thousand clients that each send a part of a request, and three large answers beside them.
async fn posters_beside_lists() {
    let near = Neighbourhood::new(Home::local()).await;
    let names: Vec<_> = (0..1000)
        .map(|number| format!("name-{number}.{}.example.com", "x".repeat(40)))
        .collect();
    for _ in 0..130 {
        let large = NewKeyPairSettings {
            subject_alternative_names: names.clone(),
            ..settings(CryptoProvider::Unspecified)
        };
        near.client.generate(large).await.unwrap();
    }
    let posters = hoarding::slow_posters(near.daemon.address(), 1090, 244_000);
    let list = ListSigningKeyPairsRequest {
        page_size: 1000,
        ..ListSigningKeyPairsRequest::default()
    };
    for _ in 0..3 {
        let answer = near.client.list(list.clone()).await.unwrap().encoded_len();
        println!(
            "Beside 1,090 requests of 244 of 4,000 KB that stand still, a list of {} KiB came as a whole.",
            answer / 1024
        );
    }
    let ended = posters
        .iter()
        .filter(|connection| hoarding::is_closed(connection));
    println!("{} of the 1,090 were ended.", ended.count());
    println!();
}

/// Streams that are opened and reset.
async fn resets() {
    let near = Neighbourhood::new(Home::local()).await;
    println!(
        "| resets | for | reset | connections that were ended | memory before, after | signatures one by one: rate, median, p99 | before |"
    );
    println!("|---|---|---|---|---|---|---|");
    let before = near.signs(Duration::from_secs(5));
    for (name, rate, duration) in [
        ("1,000 a second, steadily", Some((1, 1)), 60),
        ("1,000 a second, 100 at a time", Some((100, 100)), 60),
        ("as many as can be sent", None, 20),
    ] {
        let memory = near.memory();
        let address = near.daemon.address();
        let duration = Duration::from_secs(duration);
        let resetting = std::thread::spawn(move || reset_for(address, rate, duration));
        let beside = near.signs(duration);
        let (reset, ended) = resetting.join().unwrap();
        println!(
            "| {name} | {duration:?} | {reset} | {ended} | {memory:.0}, {:.0} MiB | {beside} | {before} |",
            near.memory()
        );
    }
    println!();
}

/// Opens and resets streams: so many, each time after so many milliseconds. Begins anew where a connection is ended.
fn reset_for(address: SocketAddr, rate: Option<(u32, u64)>, duration: Duration) -> (u32, u32) {
    let (at_once, pause) = rate.unwrap_or((1000, 0));
    let begun = Instant::now();
    let (mut reset, mut ended) = (0, 0);
    while begun.elapsed() < duration {
        let mut peer = Peer::greeted(address);
        for stream in (1..100_000_000).step_by(2) {
            let mut out = frame(
                HEADERS,
                END_HEADERS,
                stream,
                &grpc("/keypaird.v1.SigningService/Sign"),
            );
            out.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            if stream / 2 % at_once == at_once - 1 {
                if begun.elapsed() > duration {
                    break;
                }
                let due = Duration::from_millis(pause * u64::from(stream / 2 / at_once));
                std::thread::sleep(
                    due.saturating_sub(begun.elapsed())
                        .min(Duration::from_millis(pause)),
                );
            }
            reset += 1;
            if !peer.try_send(&out, Duration::from_secs(1)) {
                break;
            }
        }
        if !matches!(peer.outcome(), Outcome::Ignored) {
            ended += 1;
        }
    }
    (reset, ended)
}

/// The store on a disk of two megabytes.
async fn full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |arguments: &[&str]| {
        let mounted = Command::new("mount").args(arguments).arg(&disk).status();
        assert!(
            mounted.unwrap().success(),
            "a disk can be mounted by root only"
        );
    };
    mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"]);
    let token = Token::fresh();
    let home = Home::hybrid(&token).replacing(
        "store.url",
        &format!("store.url = \"sqlite://{}/keypaird.db\"", disk.display()),
    );
    let daemon = home.start();
    let client = daemon.client().await;
    let mut made = Vec::new();
    for provider in [CryptoProvider::Hsm, CryptoProvider::Local] {
        made.push(client.generate(settings(provider)).await.unwrap());
    }
    // The last byte is taken.
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}
    let (mut kept, mut refused) = (0, 0);
    for number in 0..40 {
        let provider = [CryptoProvider::Hsm, CryptoProvider::Local][number % 2];
        match client.generate(settings(provider)).await {
            // The log of the store may have room left in itself.
            Ok(view) => {
                made.push(view);
                kept += 1;
            }
            Err(status) => {
                let unavailable = (Code::Unavailable, "STORE_UNAVAILABLE".into());
                assert_eq!(reason(&status), unavailable);
                refused += 1;
            }
        }
    }
    for view in &made {
        client.get(&view.id).await.unwrap();
        client.signs(view).await;
    }
    assert_eq!(client.list_all().await.len(), made.len());
    fs::remove_file(disk.join("filler")).unwrap();
    let begun = Instant::now();
    made.push(
        client
            .generate(settings(CryptoProvider::Hsm))
            .await
            .unwrap(),
    );
    let recovered = begun.elapsed();
    let (keys, on_token) = (
        made.iter()
            .filter(|view| view.crypto_provider() == CryptoProvider::Hsm)
            .count(),
        token.count("privkey"),
    );
    println!(
        "Full disk (ENOSPC): of 40 key pairs {kept} were made and {refused} refused as STORE_UNAVAILABLE; all {} could be read and signed. With room again, the next was made in {recovered:.0?}. Private keys on the token: {on_token}, recorded: {keys}.",
        made.len()
    );
    assert_eq!(keys, on_token);
    daemon.stop();

    mount(&["-o", "remount,ro"]);
    let output = home.run(&["serve"]);
    println!(
        "Read-only: `serve` ends with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .last()
            .unwrap_or_default()
    );
    assert_eq!(output.status.code(), Some(69));
    assert!(
        Command::new("umount")
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
}

/// Reads until the daemon closes the connection.
fn wait_for_end(connection: &mut TcpStream, patience: Duration) {
    connection.set_read_timeout(Some(patience)).unwrap();
    let mut read = [0; 4096];
    loop {
        match connection.read(&mut read) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it stays"),
            Err(_) => return,
        }
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sign(id: &str) -> SignRequest {
    SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(vec![7; 64].into())),
        ..SignRequest::default()
    }
}

/// Watchers that catch up with a history, all at once.
async fn watchers() {
    let home = Home::local();
    let daemon = home.start();
    let client = daemon.client().await;
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let client = client.clone();
        making.spawn(async move {
            let view = client.generate(settings(CryptoProvider::Unspecified)).await;
            let id = view.unwrap().id;
            client.rotate(&id, false).await.unwrap();
            id
        });
    }
    let ids = making.join_all().await;
    daemon.stop();
    // After a restart no key is in memory.
    let daemon = home.start();
    let address = daemon.address();
    println!(
        "| 2,000 watchers from the first of 600 events, on 2 connections | Get: median, slowest | uncached Sign: median, slowest | memory before, at most, after they went |"
    );
    println!("|---|---|---|---|");
    let watch = WatchKeyPairsRequest {
        since: "e0".into(),
        ..WatchKeyPairsRequest::default()
    };
    let watch = watch.encode_to_vec();
    let calls: Vec<u8> = (0..1000)
        .flat_map(|n| call(2 * n + 1, "/keypaird.v1.EventService/WatchKeyPairs", &watch))
        .collect();
    let mut fresh = ids.iter();
    for (name, reads) in [("that read nothing", false), ("that read all", true)] {
        let client = daemon.client().await;
        let before = resident_mib(daemon.pid());
        let connections: Vec<_> = (0..2)
            .map(|_| {
                let window = if reads { 1 << 30 } else { 65_535 };
                let mut peer = Peer::greeted_with(address, &[(4, window)]);
                if reads {
                    peer.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
                }
                peer.send(&calls);
                let stream = peer.into_stream();
                let reader = reads.then(|| {
                    let mut stream = stream.try_clone().unwrap();
                    std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()))
                });
                (stream, reader)
            })
            .collect();
        let (mut gets, mut signs) = (Samples::default(), Samples::default());
        let mut most = before;
        for id in fresh.by_ref().take(100) {
            let begun = Instant::now();
            client.get(id).await.unwrap();
            gets.add(begun.elapsed());
            let begun = Instant::now();
            client.sign(sign(id)).await.unwrap();
            signs.add(begun.elapsed());
            most = most.max(resident_mib(daemon.pid()));
        }
        for (stream, reader) in connections {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            drop(stream);
            reader.map(std::thread::JoinHandle::join);
        }
        std::thread::sleep(Duration::from_secs(2));
        println!(
            "| {name} | {}, {} | {}, {} | {before:.0}, {most:.0}, {:.0} MiB |",
            ms(gets.median()),
            ms(gets.quantile(1.0)),
            ms(signs.median()),
            ms(signs.quantile(1.0)),
            resident_mib(daemon.pid())
        );
        for slowest in [gets.quantile(1.0), signs.quantile(1.0)] {
            assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        }
    }
    println!();
}
