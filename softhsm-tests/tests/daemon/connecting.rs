//! What keypairctl and the daemon say when the way between them is not in order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use softhsm_tests::daemon::{Home, binary};
use softhsm_tests::keypairctl::{err, out};
use softhsm_tests::tools::run;

use super::{certificates, sign, with_tls};

/// Runs a command line without a daemon of the environment.
fn keypairctl(arguments: &[&str]) -> Output {
    Command::new(binary("keypairctl"))
        .args(arguments)
        .env_remove("KEYPAIRCTL_ADDRESS")
        .output()
        .unwrap()
}

/// Listens, and answers each connection with these bytes when it has heard something.
fn answers(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut heard = [0; 1024];
            let _ = client.read(&mut heard);
            let _ = client.write_all(bytes);
            // What is still sent is heard, so that the connection is closed and not reset.
            let _ = client.shutdown(std::net::Shutdown::Write);
            while matches!(client.read(&mut heard), Ok(1..)) {}
        }
    });
    address
}

/// Has the CA of a folder issue a certificate for these names.
fn issue(folder: &Path, name: &str, names: &str) {
    let path = |ending: &str| {
        folder
            .join(format!("{name}.{ending}"))
            .display()
            .to_string()
    };
    let request = "req -subj /CN=x -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -addext";
    let (names, key, csr) = (format!("subjectAltName={names}"), path("key"), path("csr"));
    let files = [&*names, "-keyout", &key, "-out", &csr];
    run("openssl", request.split(' ').chain(files));
    sign(folder, name);
}

/// Listens, and answers each call over HTTP/2 with this block of header fields (RFC 7541).
fn http2_answers(fields: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            std::thread::spawn(move || answer_calls(client.unwrap(), fields));
        }
    });
    address
}

/// Answers until the client is gone.
fn answer_calls(mut client: TcpStream, fields: &[u8]) -> std::io::Result<()> {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
    let mut preface = [0; 24];
    client.read_exact(&mut preface)?;
    client.write_all(SETTINGS)?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        client.read_exact(&mut payload)?;
        match (head[3], head[4]) {
            // SETTINGS that are no acknowledgement.
            (4, 0) => client.write_all(SETTINGS_ACK)?,
            // HEADERS: answered by such that end headers and stream.
            (1, _) => {
                let length = u8::try_from(fields.len()).unwrap();
                let head = [0, 0, length, 1, 5, head[5], head[6], head[7], head[8]];
                client.write_all(&[&head, fields].concat())?;
            }
            _ => {}
        }
    }
}

/// `:status: 404`.
const NOT_FOUND: &[u8] = b"\x8d";
/// `:status: 200`, and the status UNIMPLEMENTED of gRPC.
const UNIMPLEMENTED: &[u8] = b"\x88\0\x0ccontent-type\x10application/grpc\0\x0bgrpc-status\x0212";

#[test]
fn each_fault_on_the_way_has_its_own_sentence_remedy_and_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let stranger = tempfile::tempdir().unwrap();
    certificates(stranger.path());
    issue(folder.path(), "other", "DNS:kms.example,IP:192.0.2.7");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let strange = |name: &str| stranger.path().join(name).display().to_string();
    let (ca, pem, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let encrypted = path("encrypted.key");
    let encrypt = "pkey -aes-256-cbc -passout pass:x -in";
    let files = [&*key, "-out", &encrypted];
    run("openssl", encrypt.split(' ').chain(files));

    let mutual = with_tls(folder.path(), true).start();
    let plain = Home::local().start();
    let other = Home::local()
        .with(&format!(
            "server.tls.certificate = \"{}\"\nserver.tls.private_key = \"{}\"",
            path("other.pem"),
            path("other.key")
        ))
        .start();
    let https = |address: SocketAddr| format!("https://{address}");
    let http = |address: SocketAddr| format!("http://{address}");
    let tls = https(mutual.address());
    let bare = mutual.address().to_string();
    let (strange_pem, strange_key) = (strange("client.pem"), strange("client.key"));
    let identified = |certificate, key| {
        let daemon = ["--address", &*tls, "--ca", &*ca];
        let client = ["--client-cert", certificate, "--client-key", key];
        [daemon, client].concat()
    };
    let cases: &[(&str, &[&str], i32, &str)] = &[
        (
            "no client certificate",
            &["--address", &tls, "--ca", &ca],
            4,
            "wants a client certificate; --client-cert and --client-key name",
        ),
        (
            "another CA's client",
            &identified(&strange_pem, &strange_key),
            4,
            "does not accept the client certificate",
        ),
        (
            "no CA",
            &["--address", &tls],
            4,
            "was not issued by a CA that this system trusts; --ca",
        ),
        (
            "a CA of another name",
            &["--address", &tls, "--ca", &path("other.pem")],
            4,
            "was not issued by a CA in --ca; name the PEM file",
        ),
        (
            "another CA",
            &["--address", &tls, "--ca", &strange("ca.pem")],
            4,
            "was not issued by a CA in --ca, but by one of the same name with another key; name the PEM",
        ),
        (
            "another name",
            &["--address", &https(other.address()), "--ca", &ca],
            4,
            "is for another name; it has kms.example, 192.0.2.7",
        ),
        (
            "plaintext to TLS",
            &["--address", &http(mutual.address())],
            4,
            "speaks TLS; write https://127.0.0.1:",
        ),
        (
            "no scheme to TLS",
            &["--address", &bare],
            4,
            "speaks TLS; write https://127.0.0.1:",
        ),
        (
            "TLS to plaintext",
            &["--address", &https(plain.address()), "--ca", &ca],
            4,
            "does not speak TLS; write http://127.0.0.1:",
        ),
        (
            "no scheme with --ca is TLS",
            &["--address", &plain.address().to_string(), "--ca", &ca],
            4,
            "does not speak TLS",
        ),
        (
            "http with --ca",
            &["--address", &http(plain.address()), "--ca", &ca],
            2,
            "is without TLS, and --ca is for TLS; write https://",
        ),
        (
            "key of another",
            &identified(&pem, &strange_key),
            2,
            "do not belong together",
        ),
        (
            "swapped",
            &identified(&key, &pem),
            2,
            "holds a private key and no certificate; is it swapped with --client-key?",
        ),
        (
            "two certificates",
            &identified(&pem, &pem),
            2,
            "holds a certificate and no private key; is it swapped with --client-cert?",
        ),
        (
            "encrypted key",
            &identified(&pem, &encrypted),
            2,
            "holds an encrypted private key; openssl pkey",
        ),
        (
            "CA without certificate",
            &["--address", &tls, "--ca", &key],
            2,
            "holds a private key and no certificate; name the PEM file of the CA",
        ),
        (
            "CA that is missing",
            &["--address", &tls, "--ca", "/nowhere.pem"],
            2,
            "--ca /nowhere.pem cannot be read: No such file",
        ),
        (
            "certificate alone",
            &["--address", &tls, "--cert", &pem],
            2,
            "--client-key <FILE>",
        ),
        (
            "unknown scheme",
            &["--address", "ftp://x"],
            2,
            "--address \"ftp://x\" has the unknown scheme \"ftp\"; write http://HOST:PORT",
        ),
        (
            "nothing listens",
            &["--address", "127.0.0.1:1"],
            4,
            "no daemon answers at http://127.0.0.1:1 (Connection refused",
        ),
        (
            "unknown name",
            &["--address", "nowhere.invalid:1"],
            4,
            "the name nowhere.invalid cannot be resolved",
        ),
        (
            "no socket",
            &["--address", "unix:///nowhere.sock"],
            4,
            "(No such file or directory (os error 2)); is keypaird running, and is server.unix_socket this path?",
        ),
        (
            "HTTP/1",
            &[
                "--address",
                &http(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            ],
            4,
            "is not keypaird: it speaks HTTP/1, and not HTTP/2",
        ),
        (
            "SSH",
            &["--address", &http(answers(b"SSH-2.0-OpenSSH_9.6\r\n"))],
            4,
            "is not keypaird: it begins with \"SSH-2.0-O\"",
        ),
        (
            "silence",
            &["--address", &http(answers(b""))],
            4,
            "closed the connection without an answer; is it keypaird",
        ),
        (
            "proxy",
            &["--address", &http(http2_answers(NOT_FOUND))],
            4,
            "is not keypaird: it answered with HTTP status 404, and not in gRPC",
        ),
        (
            "another server of gRPC",
            &["--address", &http(http2_answers(UNIMPLEMENTED))],
            4,
            "is not keypaird: it speaks gRPC, and does not know keypaird.v1",
        ),
    ];
    for (name, options, exit_code, expected) in cases {
        let output = keypairctl(&[&["get", "x"], *options].concat());
        let said = err(&output);
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!(output.status.code(), Some(*exit_code), "{name}: {said}");
    }
    let known = [
        "--address",
        &bare,
        "--ca",
        &ca,
        "--cert",
        &pem,
        "--key",
        &key,
    ];
    let listed = keypairctl(&[&["list"], &known[..]].concat());
    assert_eq!(listed.status.code(), Some(0), "{}", err(&listed));

    let failed = mutual.wait_for_log("a TLS handshake failed: the client showed no certificate, and server.tls.client_ca asks for one");
    assert_eq!(
        (&failed["level"], &failed["peer"]),
        (&"INFO".into(), &"127.0.0.1".into())
    );
    assert_eq!(
        (&failed["reason"], &failed["count"]),
        (&"no_client_certificate".into(), &1.into())
    );
    for message in [
        "a TLS handshake failed: the client's certificate is not accepted; it must be valid and issued by server.tls.client_ca",
        "a TLS handshake failed: the client refused the daemon's certificate; it must trust its CA, and call it by a name of the certificate",
        "a TLS handshake failed: the client does not speak TLS; it must use https",
    ] {
        mutual.wait_for_log(message);
    }
}

#[test]
fn handshakes_that_fail_are_counted_and_told_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let socket = folder.path().join("k.sock");
    let daemon = with_tls(folder.path(), false)
        .with(&format!("server.unix_socket = \"{}\"", socket.display()))
        .start();
    let message = "a TLS handshake failed: the client does not speak TLS; it must use https";
    let plain = format!("http://{}", daemon.address());
    for _ in 0..3 {
        keypairctl(&["--address", &plain, "get", "x"]);
    }
    daemon.wait_for_log(message);
    assert_eq!(daemon.log().matches(message).count(), 1, "{}", daemon.log());
    let counted = run(
        "curl",
        [
            "-s",
            "--unix-socket",
            &socket.display().to_string(),
            "http://localhost/metrics",
        ],
    );
    let line = "keypaird_tls_handshake_failures_total{reason=\"not_tls\"} 3";
    assert!(counted.contains(line), "{counted}");
}

#[test]
fn an_empty_variable_is_as_if_it_were_not_set() {
    let daemon = Home::local().start();
    let output = Command::new(binary("keypairctl"))
        .arg("list")
        .env("KEYPAIRCTL_ADDRESS", daemon.address().to_string())
        .envs(["CA", "CERT", "KEY", "OUTPUT"].map(|name| (format!("KEYPAIRCTL_{name}"), "")))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(err(&output), "there are no key pairs\n");
}

#[test]
fn the_certificates_of_the_system_are_trusted_when_no_ca_is_given() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let daemon = with_tls(folder.path(), false).start();
    let list = |roots: &str| {
        Command::new(binary("keypairctl"))
            .args([
                "list",
                "--address",
                &format!("https://{}", daemon.address()),
            ])
            .env("SSL_CERT_FILE", folder.path().join(roots))
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap()
    };
    let trusted = list("ca.pem");
    assert_eq!(trusted.status.code(), Some(0), "{}", err(&trusted));
    let none = list("nowhere.pem");
    assert_eq!(none.status.code(), Some(2), "{}", err(&none));
    assert!(
        err(&none).contains("this system has no CA certificates; --ca"),
        "{}",
        err(&none)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_looks_at_the_way_first_and_stops_where_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    issue(folder.path(), "server", "DNS:localhost");
    let daemon = with_tls(folder.path(), false).start();
    let ca = folder.path().join("ca.pem").display().to_string();
    let localhost = format!("localhost:{}", daemon.address().port());
    let doctor = |arguments: &[&str]| {
        let output = keypairctl(&[&["doctor", "-o", "json"], arguments].concat());
        let code = output.status.code().unwrap();
        let said: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", err(&output)));
        (code, said)
    };
    let subjects = |said: &Value| {
        let findings = said["findings"].as_array().unwrap();
        let subject = |finding: &Value| {
            let word = |name: &str| finding[name].as_str().unwrap().to_owned();
            format!("{} {}", word("verdict"), word("subject"))
        };
        findings.iter().map(subject).collect::<Vec<_>>()
    };
    let (code, said) = doctor(&["--address", &localhost, "--ca", &ca]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        subjects(&said)[..5],
        ["OK name", "OK TCP", "OK TLS", "OK gRPC", "OK version"]
    );
    assert!(
        said["findings"][4]["message"]
            .as_str()
            .unwrap()
            .ends_with(", API keypaird.v1"),
        "{said}"
    );

    for (arguments, expected, remedy) in [
        (
            &["--address", "nowhere.invalid"][..],
            &["FAIL name"][..],
            "is it spelled right?",
        ),
        (
            &["--address", "127.0.0.1:1"],
            &["FAIL TCP"],
            "is keypaird running there?",
        ),
        (
            &["--address", &format!("https://{localhost}")],
            &["OK name", "OK TCP", "FAIL TLS"],
            "--ca or KEYPAIRCTL_CA names",
        ),
        (
            &["--address", &localhost],
            &["OK name", "OK TCP", "FAIL gRPC"],
            "write https://localhost:",
        ),
        (
            &[
                "--address",
                &format!("http://{}", http2_answers(UNIMPLEMENTED)),
            ],
            &["OK TCP", "OK gRPC", "FAIL gRPC"],
            "--address or KEYPAIRCTL_ADDRESS",
        ),
    ] {
        let (code, said) = doctor(arguments);
        assert_eq!(code, 4, "{said}");
        assert_eq!(subjects(&said), expected, "{said}");
        let last = said["findings"].as_array().unwrap().last().unwrap();
        assert!(last["remedy"].as_str().unwrap().contains(remedy), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_warns_of_what_only_the_daemon_knows() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let daemon = with_tls(folder.path(), false)
        .with("crypto.local.allow_export = true\nrotation.expiry_warning_days = [10, 40, 3]")
        .start();
    let (ca, address) = (
        folder.path().join("ca.pem"),
        format!("https://{}", daemon.address()),
    );
    let options = ["--address", &address, "--ca", ca.to_str().unwrap()];
    let with = |arguments: &[&str]| keypairctl(&[arguments, &options[..]].concat());
    for (id, days, rotates) in [
        ("soon", "39d", false),
        ("rotates", "39d", true),
        ("later", "1y", false),
    ] {
        let subject = "generate --common-name E --organization A --country US --key-algorithm ec --valid-days";
        let mut line: Vec<_> = subject.split(' ').chain([days, "--id", id]).collect();
        if rotates {
            line.push("--rotate");
        }
        let made = with(&line);
        assert_eq!(made.status.code(), Some(0), "{}", err(&made));
    }
    let output = with(&["doctor"]);
    let said = out(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let squeezed: Vec<_> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let lists = "keypairctl list --expires-within 40d --status valid --not-rotating";
    for expected in [
        "WARN expiry 1 key pair expires within 40 days, and nothing rotates it".to_owned(),
        format!("-> {lists} lists it; keypairctl rotation set ID has one rotate"),
        "WARN export crypto.local.allow_export is true: callers can take the private keys of 3 key pairs out of the daemon".to_owned(),
    ] {
        assert!(squeezed.contains(&expected), "{expected} is not in {said}");
    }
    // The certificates of these tests are valid for two days.
    assert!(said.contains("WARN  TLS certificate"), "{said}");
    assert!(said.contains("store disk"), "{said}");
    assert!(said.contains("\nIt works, with "), "{said}");
    let strict = with(&["doctor", "--strict"]);
    assert_eq!(strict.status.code(), Some(1), "{}", out(&strict));
    // The command that it names lists what it means.
    let named: Vec<_> = lists.split(' ').skip(1).chain(["-o", "name"]).collect();
    assert_eq!(out(&with(&named)), "soon\n");
}
