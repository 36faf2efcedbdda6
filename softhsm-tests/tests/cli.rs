//! keypairctl, as a person and as a script meet it.

#[path = "cli/shown.rs"]
mod shown;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;
use softhsm_tests::daemon::{Daemon, Home, binary};
use softhsm_tests::keypairctl::{SUBJECT, command, err, in_terminal, json, out, run, succeeded};
use softhsm_tests::token::Token;
use softhsm_tests::tools::self_signed_tls;

#[test]
fn a_key_pair_is_made_shown_listed_and_deleted() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    for (id, provider) in [("h", "HSM"), ("l", "LOCAL")] {
        let flags = [
            "generate",
            "--id",
            id,
            "--crypto-provider",
            provider,
            "--san",
            "a.example",
        ];
        let made = succeeded(&daemon, &[&flags[..], &SUBJECT].concat());
        for expected in [
            "subject               CN=Example, O=Acme, C=US",
            "status                VALID",
        ] {
            assert!(made.contains(expected), "{made}");
        }
        assert!(
            made.contains("(20 days left)") || made.contains("(19 days left)"),
            "{made}"
        );
        // A second later, one day less is left.
        let shown = |text: &str| text.replace("(20 days left)", "(19 days left)");
        assert_eq!(shown(&succeeded(&daemon, &["get", id])), shown(&made));
    }
    let listed = succeeded(&daemon, &["list", "--order-by", "id desc"]);
    let rows: Vec<Vec<_>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0][0], "ID");
    assert_eq!((rows[1][0], rows[2][0]), ("l", "h"));
    let one = json(
        &daemon,
        &["list", "--crypto-provider", "hsm", "--output", "json"],
    );
    assert_eq!(one["totalSize"], 1);
    assert_eq!(one["keyPairs"][0]["id"], "h");
    let page = run(&daemon, &["list", "--page-size", "1"]);
    assert_eq!(out(&page).lines().count(), 2, "{}", out(&page));
    let next = err(&page);
    assert!(
        next.starts_with("1 of 2 key pairs. The next: --page-token "),
        "{next}"
    );
    let next_token = next.split(' ').nth(8).unwrap().trim_end_matches(',');
    let second = succeeded(
        &daemon,
        &["list", "--page-size", "1", "--page-token", next_token],
    );
    assert!(second.lines().nth(1).unwrap().starts_with("l "), "{second}");
    let all = json(&daemon, &["--output", "json", "list", "--all"]);
    assert_eq!(all["keyPairs"].as_array().unwrap().len(), 2);

    let etag = json(&daemon, &["get", "h", "--output", "json"])["keyPair"]["etag"].clone();
    let stale = run(&daemon, &["delete", "h", "--yes", "--etag", "00"]);
    assert_eq!(stale.status.code(), Some(1));
    assert!(
        err(&stale).contains("read it again and decide anew"),
        "{}",
        err(&stale)
    );
    let deleted = succeeded(
        &daemon,
        &["delete", "h", "--yes", "--etag", etag.as_str().unwrap()],
    );
    assert_eq!(deleted, "deleted h; its private key is destroyed\n");
    let gone = run(&daemon, &["get", "h"]);
    assert_eq!(gone.status.code(), Some(3));
    assert_eq!(err(&gone), "keypairctl: there is no key pair \"h\"\n");
    assert_eq!(token.count("Private Key"), 0);
}

#[test]
fn refusals_name_the_flags_and_are_json_for_programs() {
    let daemon = Home::local().start();
    let wrong = [
        "generate",
        "--common-name",
        "",
        "--organization",
        "A",
        "--country",
        "USA",
        "--valid-days",
        "0",
        "--key-algorithm",
        "EC",
        "--key-size",
        "1",
        "--san",
        "a b",
        "--crypto-provider",
        "HSM",
    ];
    let refused = run(&daemon, &wrong);
    assert_eq!(refused.status.code(), Some(1));
    let said = err(&refused);
    for expected in [
        "keypairctl: the request is refused because of these:\n",
        "  commonName (--common-name): is required; ",
        "  country (--country): must be two letters, ",
        "  validDays (--valid-days): must be 1 to 36500\n",
        "  keySize (--key-size): must be 256, 384 or 521 for EC\n",
        "  subjectAlternativeNames[0] (--san): \"a b\" is not a DNS name",
        "  cryptoProvider (--crypto-provider): is applicable in hybrid mode only",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    let refused = run(&daemon, &[&["--output", "json"], &wrong[..]].concat());
    let error: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(
        (&error["code"], &error["reason"]),
        (&"INVALID_ARGUMENT".into(), &"VALIDATION_FAILED".into())
    );
    assert_eq!(error["fieldViolations"].as_array().unwrap().len(), 6);
    assert!(refused.stdout.is_empty());
}

#[test]
fn a_repeated_request_and_a_dry_run_do_what_they_say() {
    let daemon = Home::local().start();
    let named = [
        &["--output", "json", "generate", "--request-id", "r1"],
        &SUBJECT[..],
    ]
    .concat();
    assert_eq!(json(&daemon, &named), json(&daemon, &named));
    let dry = [&["generate", "--validate-only"], &SUBJECT[..]].concat();
    let preview = succeeded(&daemon, &dry);
    assert!(
        preview.contains("key                   EC-256"),
        "{preview}"
    );
    assert!(!preview.contains("fingerprint"), "{preview}");
    assert_eq!(json(&daemon, &["--output", "json", "list"])["totalSize"], 1);
}

#[test]
fn a_certificate_goes_to_standard_output_or_to_a_new_file() {
    let daemon = Home::local().start();
    succeeded(
        &daemon,
        &[&["generate", "--id", "x"], &SUBJECT[..]].concat(),
    );
    let printed = succeeded(&daemon, &["certificate", "x"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pem");
    let to_file = ["certificate", "x", "--out", path.to_str().unwrap()];
    assert_eq!(succeeded(&daemon, &to_file), "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed);
    softhsm_tests::tools::openssl_verifies(&path);
    let again = run(&daemon, &to_file);
    assert_eq!(again.status.code(), Some(2));
    assert!(
        err(&again).contains("the file is there; --force replaces it"),
        "{}",
        err(&again)
    );
    succeeded(&daemon, &[&to_file[..], &["--force"]].concat());
}

#[test]
fn what_cannot_be_reached_is_told_with_the_remedy() {
    let output = Command::new(binary("keypairctl"))
        .args(["--address", "127.0.0.1:1", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = err(&output);
    assert!(
        said.starts_with("keypairctl: no daemon answers at http://127.0.0.1:1 (Connection refused"),
        "{said}"
    );
    assert!(
        said.contains("--address or KEYPAIRCTL_ADDRESS names another place"),
        "{said}"
    );
    for (address, expected) in [
        (
            "nonsense://",
            "has the unknown scheme \"nonsense\"; write http://HOST:PORT",
        ),
        ("unix:///nowhere.sock", "No such file or directory"),
    ] {
        let output = Command::new(binary("keypairctl"))
            .args(["--address", address, "list"])
            .output()
            .unwrap();
        assert!(
            err(&output).contains(expected),
            "{address}: {}",
            err(&output)
        );
    }
    let token = Token::none();
    let daemon = Home::hybrid(&token).start_without_token();
    let away = run(
        &daemon,
        &[&["generate", "--crypto-provider", "HSM"], &SUBJECT[..]].concat(),
    );
    assert_eq!(away.status.code(), Some(4));
    assert_eq!(
        err(&away),
        "keypairctl: the provider HSM is not available at the moment; try again\nIt may be tried again in 1s.\n"
    );
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let daemon = Home::local().start();
    let mut child = command(&daemon, &["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), err(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn people_at_a_terminal_are_asked_shown_colours_and_a_spinner() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let slow = [
        "--key-algorithm",
        "RSA",
        "--key-size",
        "4096",
        "--crypto-provider",
        "HSM",
        "--id",
        "x",
    ];
    let shown = in_terminal(&daemon, &[&["generate"], &SUBJECT[..8], &slow].concat(), "");
    assert!(
        shown.contains("generating a key pair, RSA-4096 in HSM … "),
        "{shown}"
    );
    let piped = [&["generate"], &SUBJECT[..8], &slow[..6]].concat();
    assert!(err(&run(&daemon, &piped)).is_empty());

    // 20 days are few: yellow.
    assert!(in_terminal(&daemon, &["list"], "").contains("\u{1b}[38;5;11m"));
    assert!(!succeeded(&daemon, &["list"]).contains('\u{1b}'));

    let unsure = in_terminal(&daemon, &["delete", "x"], "n\n");
    assert!(
        unsure.contains("Delete x and destroy its private key? This cannot be undone. [y/N]"),
        "{unsure}"
    );
    assert!(
        unsure.contains("keypairctl: nothing was deleted"),
        "{unsure}"
    );
    let sure = in_terminal(&daemon, &["delete", "x"], "y\n");
    assert!(
        sure.contains("deleted x; its private key is destroyed"),
        "{sure}"
    );
    let nobody = run(&daemon, &["delete", "x"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        err(&nobody).contains("--yes confirms it"),
        "{}",
        err(&nobody)
    );
}

#[test]
fn a_deletion_says_what_becomes_of_the_private_key() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    for label in ["old", "older", "oldest"] {
        token.make_foreign_key("EC:prime256v1", label, &format!("0{}", label.len()));
        let link = ["link", "--private-key-label", label, "--id", label];
        succeeded(&daemon, &[&link[..], &SUBJECT[..8]].concat());
    }
    let kept = in_terminal(&daemon, &["delete", "old"], "y\n");
    for expected in [
        "Delete old? Its private key stays on the token. [y/N]",
        "deleted old; its private key stays on the token",
    ] {
        assert!(kept.contains(expected), "{kept}");
    }
    let kept = ["delete", "older", "--yes", "--output", "json"];
    assert_eq!(json(&daemon, &kept)["privateKey"], "LEFT_ON_TOKEN");
    let destroyed = ["delete", "oldest", "--destroy-linked-key"];
    let destroyed = in_terminal(&daemon, &destroyed, "y\n");
    for expected in [
        "Delete oldest and destroy its private key? This cannot be undone. [y/N]",
        "deleted oldest; its private key is destroyed",
    ] {
        assert!(destroyed.contains(expected), "{destroyed}");
    }
    assert_eq!(token.count("Private Key"), 2);

    let made = [&["generate", "--id", "x"], &SUBJECT[..]].concat();
    succeeded(&daemon, &made);
    let deleted = ["delete", "x", "--yes", "--output", "json"];
    assert_eq!(json(&daemon, &deleted)["privateKey"], "DESTROYED");
    // What is not there is not asked about.
    let gone = in_terminal(&daemon, &["delete", "x"], "y\n");
    assert!(gone.contains("there is no key pair \"x\""), "{gone}");
    assert!(!gone.contains("[y/N]"), "{gone}");
}

#[test]
fn a_deletion_that_is_not_confirmed_fails_and_writes_no_answer() {
    let daemon = Home::local().start();
    let made = [&["generate", "--id", "x"], &SUBJECT[..]].concat();
    succeeded(&daemon, &made);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (output, expected) in [
        ("table", "keypairctl: nothing was deleted"),
        ("json", "\"reason\": \"NOT_CONFIRMED\""),
    ] {
        let (out, err) = (path("out"), path("err"));
        let line = ["delete", "x", "--output", output, ">", &out, "2>", &err];
        let ended = in_terminal(&daemon, &[&line[..], &["; echo code $?"]].concat(), "n\n");
        assert!(ended.contains("code 1"), "{ended}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "");
        let said = std::fs::read_to_string(&err).unwrap();
        assert!(said.contains(expected), "{said}");
    }
    succeeded(&daemon, &["get", "x"]);
}

#[test]
fn a_peer_that_says_nothing_is_not_waited_for_without_an_end() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    self_signed_tls(folder.path());
    let ca = folder.path().join("server.pem");
    for (scheme, expected) in [
        (
            "http",
            "does not answer: the greeting of HTTP/2 did not end within 1s; is keypaird",
        ),
        (
            "https",
            "does not answer: the TLS handshake did not end within 1s; is keypaird",
        ),
    ] {
        let mut command = Command::new(binary("keypairctl"));
        command
            .args(["--address", &format!("{scheme}://{address}")])
            .args(["--timeout", "1s", "get", "x"])
            .env("SSL_CERT_FILE", &ca)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{scheme}: {}", err(&output));
        assert!(err(&output).contains(expected), "{}", err(&output));
    }
}

/// Passes on what comes, until it falls silent.
fn relay(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if !silent.load(Ordering::SeqCst) && to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
}

/// Answers for a daemon, until its first connection falls silent. Later ones are as usual.
fn proxy(daemon: &Daemon, first_is_silent: &Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (daemon, mut silent) = (daemon.address(), Arc::clone(first_is_silent));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(daemon).unwrap());
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let silent = Arc::clone(&silent);
                std::thread::spawn(move || relay(from, to, &silent));
            }
            silent = Arc::default();
        }
    });
    address
}

#[test]
fn a_watch_whose_connection_falls_silent_goes_on_over_another_and_misses_nothing() {
    let daemon = Home::local().start();
    let is_silent: Arc<AtomicBool> = Arc::default();
    let address = proxy(&daemon, &is_silent).to_string();
    let mut watch = Command::new(binary("keypairctl"))
        .args(["--address", &address, "watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines();
    let mut next_said = || said.next().unwrap().unwrap();
    let watching =
        format!("keypairctl: watching all key pairs at http://{address}; Ctrl-C ends it");
    let (shown, events) = mpsc::channel();
    let stdout = BufReader::new(watch.stdout.take().unwrap());
    std::thread::spawn(move || {
        stdout
            .lines()
            .try_for_each(|line| shown.send(line.unwrap()))
    });
    let generate = |id: &str| {
        succeeded(&daemon, &[&["generate", "--id", id], &SUBJECT[..]].concat());
    };
    assert_eq!(next_said(), watching);
    generate("before");
    let patience = Duration::from_secs(20);
    assert!(
        events
            .recv_timeout(patience)
            .unwrap()
            .contains("before, CN=Example")
    );
    is_silent.store(true, Ordering::SeqCst);
    generate("meanwhile");
    let later = events.recv_timeout(Duration::from_secs(60));
    let lost = next_said();
    assert!(
        lost.starts_with("keypairctl: the connection is lost ("),
        "{lost}"
    );
    let again = "keypairctl: connected again; what happened meanwhile follows";
    assert_eq!(next_said(), again);
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(later.unwrap().contains("meanwhile, CN=Example"));
}

#[test]
fn a_time_that_is_too_long_or_none_is_refused_by_name() {
    const LONG: &str = "at most 365days";
    for (flag, bound, arguments) in [
        (
            "--timeout",
            LONG,
            &["--timeout", "20000years", "get", "x"][..],
        ),
        (
            "--timeout",
            "longer than 0s",
            &["--timeout", "0s", "get", "x"],
        ),
        ("--timeout", LONG, &["--timeout", "9999999h", "get", "x"]),
        (
            "--duration",
            LONG,
            &["bench", "x", "--duration", "20000years"],
        ),
    ] {
        let output = Command::new(binary("keypairctl"))
            .args(["--address", "127.0.0.1:1"])
            .args(arguments)
            .output()
            .unwrap();
        let said = err(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(flag) && said.contains(bound), "{said}");
    }
}

#[test]
fn every_command_has_examples_and_every_shell_completions() {
    let help = |arguments: &[&str]| {
        let output = Command::new(binary("keypairctl"))
            .args(arguments)
            .arg("--help")
            .output()
            .unwrap();
        out(&output)
    };
    assert!(help(&[]).contains("Exit codes:"));
    for command in [
        "generate",
        "get",
        "list",
        "delete",
        "algorithms",
        "certificate",
        "sign",
        "verify",
        "public-keys",
        "bench",
        "completions",
    ] {
        assert!(help(&[command]).contains("Examples:\n"), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(binary("keypairctl"))
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(out(&output).contains("KEYPAIRCTL_COMPLETE"), "{shell}");
    }
}
