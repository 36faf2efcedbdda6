//! Connections that end at their time: the client CA was replaced, the client's certificate
//! expired, or they are old.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use keypaird::proto::CryptoProvider;
use softhsm_tests::client::{Client, OpenStream, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::frames::{self, GOAWAY, Peer};
use softhsm_tests::http::BASE;
use softhsm_tests::tools::run;
use tonic::Code;

use super::{certificates, with_tls};

/// A connection of OpenSSL with a client certificate, on which HTTP/1.1 is spoken.
struct Connection {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Connection {
    /// Connects with the certificate of `name` in a folder.
    fn open(daemon: &Daemon, folder: &Path, name: &str, options: &[&str]) -> Self {
        let path = |name: String| folder.join(name).display().to_string();
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-alpn", "http/1.1", "-connect"])
            .arg(daemon.address().to_string())
            .args(["-cert", &path(format!("{name}.pem"))])
            .args(["-key", &path(format!("{name}.key"))])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            to: child.stdin.take(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn send(&mut self, bytes: &str) {
        let to = self.to.as_mut().unwrap();
        to.write_all(bytes.as_bytes()).unwrap();
        to.flush().unwrap();
    }

    /// Asks, and returns the status line; none when the connection is gone.
    fn ask(&mut self) -> Option<String> {
        let to = self.to.as_mut().unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        to.write_all(request).and_then(|()| to.flush()).ok()?;
        self.answer()
    }

    /// Reads the head of an answer and the body of three bytes that `/healthz` has, and returns the
    /// status line.
    fn answer(&mut self) -> Option<String> {
        let mut status = String::new();
        let mut line = String::new();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            if self.from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if status.is_empty() {
                status.push_str(line.trim_end());
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim_end().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).ok()?;
        Some(status)
    }

    /// Waits until the daemon closes the connection.
    fn closed(&mut self) {
        let mut rest = Vec::new();
        self.from.read_to_end(&mut rest).unwrap();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a certificate of the CA that expires in so many seconds, and returns when that is.
fn short_lived(folder: &Path, seconds: u64) -> SystemTime {
    let path = |name: &str| folder.join(name).display().to_string();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let until = now.as_secs() + seconds;
    let stamp = |seconds: u64| {
        let stamp = run(
            "date",
            ["-u", "-d", &format!("@{seconds}"), "+%y%m%d%H%M%SZ"],
        );
        stamp.trim().to_owned()
    };
    fs::write(folder.join("index"), "").unwrap();
    fs::write(folder.join("serial"), "1000\n").unwrap();
    fs::write(
        folder.join("ca.conf"),
        format!(
            "[ca]\ndefault_ca=x\n[x]\ndatabase={}\nserial={}\nnew_certs_dir={}\ndefault_md=sha256\npolicy=p\nunique_subject=no\nx509_extensions=v\n[p]\ncommonName=supplied\n[v]\nbasicConstraints=CA:FALSE\n",
            path("index"),
            path("serial"),
            folder.display()
        ),
    )
    .unwrap();
    fs::copy(folder.join("client.key"), folder.join("short.key")).unwrap();
    let arguments = ["ca", "-batch", "-notext", "-config"].map(str::to_owned);
    run(
        "openssl",
        arguments.into_iter().chain([
            path("ca.conf"),
            "-cert".into(),
            path("ca.pem"),
            "-keyfile".into(),
            path("ca.key"),
            "-in".into(),
            path("client.csr"),
            "-out".into(),
            path("short.pem"),
            "-startdate".into(),
            stamp(until - 3600),
            "-enddate".into(),
            stamp(until),
        ]),
    );
    SystemTime::UNIX_EPOCH + Duration::from_secs(until)
}

/// Puts another CA into the file that the daemon reads.
fn replace_ca(folder: &Path) {
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    fs::copy(other.path().join("ca.pem"), folder.join("new.pem")).unwrap();
    fs::rename(folder.join("new.pem"), folder.join("ca.pem")).unwrap();
}

/// Connects with gRPC and a client certificate.
async fn grpc(daemon: &Daemon, folder: &Path, name: &str) -> Client {
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
    let read = |name: String| fs::read(folder.join(name)).unwrap();
    let identity = Identity::from_pem(read(format!("{name}.pem")), read(format!("{name}.key")));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem".into())))
        .identity(identity);
    let endpoint = Endpoint::from_shared(format!("https://{}", daemon.address())).unwrap();
    Client::of(endpoint.tls_config(tls).unwrap().connect().await.unwrap())
}

const WATCH: &str = "/keypaird.v1.EventService/WatchKeyPairs";

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_client_ca_that_was_replaced_end_and_new_ones_are_not_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder);
    let daemon = with_tls(folder, true).start();
    let mut idle = Connection::open(&daemon, folder, "client", &[]);
    assert_eq!(idle.ask().as_deref(), Some("HTTP/1.1 200 OK"));
    let session = folder.join("session");
    let session = session.to_str().unwrap();
    let mut resumable = Connection::open(&daemon, folder, "client", &["-sess_out", session]);
    assert!(resumable.ask().is_some());
    drop(resumable);
    let client = grpc(&daemon, folder, "client").await;
    let mut stream = OpenStream::open(client.channel(), WATCH, Vec::new())
        .await
        .unwrap();
    stream.next().await.unwrap().unwrap();
    // Two calls are under way: one will be done soon, and one never.
    let begin = |connection: &mut Connection| {
        connection.send(&format!(
            "POST {BASE}/keyPairs/signing/generate HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{"
        ));
    };
    let mut quick = Connection::open(&daemon, folder, "client", &[]);
    let mut never = Connection::open(&daemon, folder, "client", &[]);
    for connection in [&mut quick, &mut never] {
        assert!(connection.ask().is_some());
        begin(connection);
    }

    // The same content, written anew, changes nothing.
    let ca = fs::read(folder.join("ca.pem")).unwrap();
    fs::write(folder.join("ca.pem"), [&b"# a comment\n"[..], &ca].concat()).unwrap();
    daemon.wait_for_log("the TLS files changed and are in use");
    assert!(idle.ask().is_some());

    replace_ca(folder);
    daemon.wait_for_log("the client CA changed; connections of the former one end");
    let begun = Instant::now();
    idle.closed();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    let status = loop {
        match stream.next().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status), (Code::Unavailable, "SHUTTING_DOWN".into()));
    quick.send("}");
    assert!(quick.answer().unwrap().starts_with("HTTP/1.1 "));
    quick.closed();
    never.closed();
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(9)).contains(&took),
        "{took:?}"
    );
    // No client comes back, not with a session of before either.
    assert_eq!(Connection::open(&daemon, folder, "client", &[]).ask(), None);
    let mut resumed = Connection::open(&daemon, folder, "client", &["-sess_in", session]);
    assert_eq!(resumed.ask(), None);
    let told = client.generate(settings(CryptoProvider::Unspecified)).await;
    assert!(told.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_the_certificate_of_its_client_expires() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder);
    let daemon = with_tls(folder, true).start();
    let expires = short_lived(folder, 5);
    let mut idle = Connection::open(&daemon, folder, "short", &[]);
    assert_eq!(idle.ask().as_deref(), Some("HTTP/1.1 200 OK"));
    let session = folder.join("session");
    let session = session.to_str().unwrap();
    let mut resumable = Connection::open(&daemon, folder, "short", &["-sess_out", session]);
    assert!(resumable.ask().is_some());
    drop(resumable);
    // That it can be resumed at all.
    let mut resumed = Connection::open(&daemon, folder, "short", &["-sess_in", session]);
    assert!(resumed.ask().is_some());
    let client = grpc(&daemon, folder, "short").await;
    let mut stream = OpenStream::open(client.channel(), WATCH, Vec::new())
        .await
        .unwrap();
    stream.next().await.unwrap().unwrap();
    let mut lasting = Connection::open(&daemon, folder, "client", &[]);
    assert!(lasting.ask().is_some());

    idle.closed();
    let late = SystemTime::now()
        .duration_since(expires)
        .expect("not before it expired");
    assert!(late < Duration::from_secs(3), "{late:?}");
    let status = loop {
        match stream.next().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status), (Code::Unavailable, "SHUTTING_DOWN".into()));
    assert_eq!(Connection::open(&daemon, folder, "short", &[]).ask(), None);
    // The session that was made before does not check the certificate anew; we do.
    let mut resumed = Connection::open(&daemon, folder, "short", &["-sess_in", session]);
    assert_eq!(resumed.ask(), None);
    assert!(lasting.ask().is_some());
}

/// Reads an answer of HTTP/1.1, and returns its head; nothing when there is none.
fn answer_head(from: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    from.read_exact(&mut body).ok()?;
    Some(head)
}

#[test]
fn no_post_of_a_busy_caller_over_http_1_goes_without_an_answer_at_the_greatest_age() {
    let home = Home::local().with("server.max_connection_age = \"1s\"");
    let daemon = home.start();
    let head = format!(
        "POST {BASE}/keyPairs/signing/generate HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    // Each connection goes on until an answer says that it is the last.
    let callers = (0..8).map(|number| {
        let (address, request) = (daemon.address(), head.clone());
        std::thread::spawn(move || {
            let mut to = std::net::TcpStream::connect(address).unwrap();
            let mut from = BufReader::new(to.try_clone().unwrap());
            let begun = Instant::now();
            loop {
                let sent = to.write_all(request.as_bytes());
                let answer = sent.ok().and_then(|()| answer_head(&mut from));
                let answer = answer.expect("a POST goes without an answer");
                if answer.contains("connection: close") {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "it is never old");
                // It is between two calls for the greater part of the time.
                std::thread::sleep(Duration::from_millis(5 + number));
            }
            assert!(begun.elapsed() > Duration::from_millis(800));
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_is_asked_to_go_and_its_calls_come_to_their_end() {
    let home = Home::local().with("server.max_connection_age = \"1s\"");
    let daemon = home.start();
    let client = daemon.client().await;
    let mut stream = OpenStream::open(client.channel(), WATCH, Vec::new())
        .await
        .unwrap();
    let begun = Instant::now();
    let status = loop {
        match stream.next().await {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status), (Code::Unavailable, "SHUTTING_DOWN".into()));
    assert!(begun.elapsed() < Duration::from_secs(3));
    // Until its peer has said that it knows, calls are answered.
    let mut peer = Peer::greeted(daemon.address());
    let goaway = loop {
        let frame = peer.receive().unwrap();
        if frame.kind == GOAWAY {
            break frame;
        }
    };
    assert_eq!(&goaway.payload[..4], (u32::MAX >> 1).to_be_bytes());
    let path = "/keypaird.v1.KeyPairService/ListKeyAlgorithms";
    peer.send(&frames::call(1, path, b""));
    assert!(peer.is_answered(1));
    // One that goes on to call, and has a call that does not end, is told to connect again.
    let half = frames::frame(frames::HEADERS, frames::END_HEADERS, 3, &frames::grpc(path));
    peer.send(&half);
    // A request that takes longer than the connection may last.
    let mut slow = std::net::TcpStream::connect(daemon.address()).unwrap();
    let head = format!(
        "POST {BASE}/keyPairs/signing/generate HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    slow.write_all(b"}").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    let refused = (5..31).step_by(2).any(|stream| {
        std::thread::sleep(Duration::from_millis(500));
        peer.send(&frames::call(stream, path, b""));
        let first = loop {
            let frame = peer.receive().unwrap();
            if frame.stream == stream {
                break frame;
            }
        };
        // An error has no message before its trailers.
        first.flags & frames::END_STREAM != 0
    });
    assert!(refused, "it may call for ever");
    assert!(
        answer.starts_with("HTTP/1.1 422") || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
}
