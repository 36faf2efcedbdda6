//! keypairctl signs, verifies, publishes and measures; OpenSSL judges.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keypaird::domain::{Hash, SignatureAlgorithm};
use serde_json::Value;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::keypairctl::{SUBJECT, err, in_terminal, json, out, run, run_with, succeeded};
use softhsm_tests::token::Token;
use softhsm_tests::tools::OpensslVerifier;
use tempfile::TempDir;

const MESSAGE: &[u8] = b"17 barrels of stroopwafels\n";

/// A daemon with key pairs, and a folder for what is signed.
struct Desk {
    daemon: Daemon,
    folder: TempDir,
    _token: Option<Token>,
}

impl Desk {
    fn local() -> Self {
        let daemon = Home::local().start();
        Self::new(daemon, None)
    }

    fn hsm() -> Self {
        let token = Token::fresh();
        let daemon = Home::hsm(&token).start();
        Self::new(daemon, Some(token))
    }

    fn new(daemon: Daemon, token: Option<Token>) -> Self {
        Self {
            daemon,
            folder: tempfile::tempdir().unwrap(),
            _token: token,
        }
    }

    fn key(self, id: &str, algorithm: &str) -> Self {
        let generate = ["generate", "--id", id, "--key-algorithm", algorithm];
        succeeded(&self.daemon, &[&generate[..], &SUBJECT[..8]].concat());
        self
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn public_key(&self, id: &str) -> String {
        succeeded(&self.daemon, &["public-keys", id, "--format", "pem"])
    }

    fn succeeded(&self, arguments: &[&str]) -> String {
        succeeded(&self.daemon, arguments)
    }
}

/// `openssl dgst -verify`, by which people check.
fn dgst_accepts(public_key: &Path, message: &str, signature: &str) {
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(public_key)
        .args(["-signature", signature, message])
        .output()
        .unwrap();
    assert_eq!(out(&output), "Verified OK\n", "{}", err(&output));
}

#[test]
fn openssl_accepts_what_is_signed_from_a_file_from_standard_input_and_from_a_digest() {
    for desk in [Desk::local(), Desk::hsm()] {
        let desk = desk.key("x", "EC");
        let public_key = desk.path("x.pem");
        desk.write("x.pem", desk.public_key("x").as_bytes());
        let message = desk.write("message", MESSAGE);
        let signature = desk.path("signature").display().to_string();
        let to_file = ["sign", "x", "--message", &message, "--out", &signature];
        assert_eq!(desk.succeeded(&to_file), "");
        dgst_accepts(&public_key, &message, &signature);
        let again = run(&desk.daemon, &to_file);
        assert_eq!(again.status.code(), Some(2));
        assert!(err(&again).contains("the file is there; --force replaces it"));

        for arguments in [&["sign", "x"][..], &["sign", "x", "--message", "-"]] {
            let signed = run_with(&desk.daemon, arguments, MESSAGE);
            assert_eq!(signed.status.code(), Some(0), "{}", err(&signed));
            let signature = desk.write("piped", &signed.stdout);
            dgst_accepts(&public_key, &message, &signature);
        }
        let digest = Hash::Sha256.digest(MESSAGE);
        let digest: String = digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        let by_digest = ["sign", "x", "--digest", &digest, "--out", &signature];
        desk.succeeded(&[&by_digest[..], &["--force"]].concat());
        dgst_accepts(&public_key, &message, &signature);
    }
}

#[test]
fn a_signature_is_base64_for_a_terminal_and_where_asked_and_json_for_programs() {
    let desk = Desk::local().key("x", "ED25519");
    let message = desk.write("message", MESSAGE);
    let sign = ["sign", "x", "--message", &message];
    let line = desk.succeeded(&[&sign[..], &["--base64"]].concat());
    assert_eq!((line.len(), line.lines().count()), (89, 1), "{line}");
    // Ed25519 makes the same signature each time.
    let shown = in_terminal(&desk.daemon, &sign, "");
    assert_eq!(shown.trim_end(), line.trim_end());
    let answer = json(&desk.daemon, &[&sign[..], &["--output", "json"]].concat());
    assert_eq!(answer["signature"], line.trim_end());
    assert_eq!(answer["signatureAlgorithm"], "Ed25519");
    assert_eq!(answer["generation"], 1);
    let raw = run(&desk.daemon, &sign).stdout;
    OpensslVerifier::new(&desk.public_key("x")).accepts(SignatureAlgorithm::Ed25519, MESSAGE, &raw);
}

#[test]
fn verify_says_valid_or_not_valid_and_so_does_its_exit_code() {
    let desk = Desk::local().key("x", "EC");
    let message = desk.write("message", MESSAGE);
    let other = desk.write("other", b"18 barrels");
    let digest = "00".repeat(32);
    for encoding in ["der", "p1363"] {
        let raw = desk.path(encoding).display().to_string();
        let encoded = ["--encoding", encoding];
        let sign = ["sign", "x", "--message", &message];
        desk.succeeded(&[&sign[..], &["--out", &raw], &encoded].concat());
        let text = desk.succeeded(&[&sign[..], &["--base64"], &encoded].concat());
        let text = desk.write("text", text.as_bytes());
        for signature in [&raw, &text] {
            let verify = |input: &[&str]| {
                let flags = [&["verify", "x", "--signature", signature], &encoded[..]].concat();
                run_with(&desk.daemon, &[&flags[..], input].concat(), MESSAGE)
            };
            for input in [&["--message", &*message][..], &[]] {
                let valid = verify(input);
                assert_eq!(out(&valid), "valid, by generation 1 (current)\n");
                assert_eq!(valid.status.code(), Some(0), "{}", err(&valid));
            }
            for input in [["--message", &*other], ["--digest", &*digest]] {
                let not_valid = verify(&input);
                assert_eq!(out(&not_valid), "not valid\n");
                assert_eq!(not_valid.status.code(), Some(5));
                assert_eq!(err(&not_valid), "");
            }
            let program = ["--output", "json"];
            let valid = verify(&[&program[..], &["--message", &message]].concat());
            let valid: Value = serde_json::from_slice(&valid.stdout).unwrap();
            assert_eq!(valid["valid"], true);
            assert_eq!(valid["generationState"], "CURRENT");
            let not_valid = verify(&[&program[..], &["--message", &other]].concat());
            assert_eq!(not_valid.status.code(), Some(5));
            let not_valid: Value = serde_json::from_slice(&not_valid.stdout).unwrap();
            assert_eq!(not_valid, serde_json::json!({"valid": false}));
        }
    }
    let both = run(&desk.daemon, &["verify", "x", "--signature", "-"]);
    assert_eq!(both.status.code(), Some(2));
    assert!(err(&both).contains("cannot both come from standard input"));
}

#[test]
fn what_cannot_be_signed_is_told_by_the_flag() {
    let desk = Desk::local().key("x", "EC");
    for (arguments, code, expected) in [
        (
            &["--digest", "00ff"][..],
            1,
            "  digest (--digest): must be 32 bytes, a SHA-256 digest, for SHA256withECDSA, and has 2\n",
        ),
        (
            &["--digest", "0g"],
            2,
            "must be hexadecimal, two digits for each byte",
        ),
        (
            &["--digest", "00", "--message", "x"],
            2,
            "cannot be used with",
        ),
        (
            &["--message", "/nowhere"],
            2,
            "keypairctl: --message /nowhere: No such file",
        ),
        (
            &["--signature-algorithm", "SHA256withRSA"],
            1,
            "  signatureAlgorithm (--signature-algorithm): ",
        ),
    ] {
        let refused = run(&desk.daemon, &[&["sign", "x"], arguments].concat());
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}");
        let said = err(&refused);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(refused.stdout.is_empty());
    }
    let unknown = run(&desk.daemon, &["sign", "nobody"]);
    assert_eq!(unknown.status.code(), Some(3));
}

#[test]
fn a_message_that_is_too_long_for_the_daemon_is_hashed_by_the_client() {
    let desk = Desk::local().key("x", "EC").key("e", "ED25519");
    let long: Vec<u8> = (0..=250).cycle().take(3 * 1024 * 1024).collect();
    let message = desk.write("message", &long);
    let signature = desk.path("signature").display().to_string();
    let verifier = OpensslVerifier::new(&desk.public_key("x"));
    for (flags, hash) in [
        (&[][..], Hash::Sha256),
        (&["--signature-algorithm", "SHA512withECDSA"], Hash::Sha512),
    ] {
        let sign = [
            "sign",
            "x",
            "--message",
            &message,
            "--out",
            &signature,
            "--force",
        ];
        desk.succeeded(&[&sign[..], flags].concat());
        let signed = fs::read(&signature).unwrap();
        verifier.accepts(SignatureAlgorithm::Ecdsa(hash), &long, &signed);
        let verify = [
            "verify",
            "x",
            "--message",
            &message,
            "--signature",
            &signature,
        ];
        let verified = desk.succeeded(&[&verify[..], flags].concat());
        assert_eq!(verified, "valid, by generation 1 (current)\n");
    }
    let refused = run(&desk.daemon, &["sign", "e", "--message", &message]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err(&refused).contains("message (--message): must have at most 1048576 bytes"),
        "{}",
        err(&refused)
    );
}

#[test]
fn public_keys_come_as_a_table_as_pem_and_as_a_jwk_set() {
    let desk = Desk::local()
        .key("e", "ED25519")
        .key("p", "EC")
        .key("r", "RSA");
    let table = desk.succeeded(&["public-keys"]);
    let rows: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(
        table.starts_with("ID  GENERATION  STATE    ALGORITHM    KID "),
        "{table}"
    );
    for (row, id, algorithm) in [
        (1, "e", "OKP Ed25519"),
        (2, "p", "EC P-256"),
        (3, "r", "RSA"),
    ] {
        assert_eq!(rows[row][0], id);
        assert!(rows[row].contains(&algorithm), "{table}");
        assert!(rows[row].contains(&"current"), "{table}");
    }
    let all = desk.succeeded(&["public-keys", "--format", "pem"]);
    assert_eq!(all.matches("-----BEGIN PUBLIC KEY-----").count(), 3);
    assert_eq!(desk.public_key("p").matches("BEGIN PUBLIC KEY").count(), 1);

    let set = json(&desk.daemon, &["public-keys", "--format", "jwks"]);
    let members: Vec<Vec<_>> = set["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_object().unwrap().keys().cloned().collect())
        .collect();
    assert_eq!(
        members,
        [
            &["alg", "crv", "kid", "kty", "use", "x"][..],
            &["alg", "crv", "kid", "kty", "use", "x", "y"],
            &["alg", "e", "kid", "kty", "n", "use"],
        ]
    );
    let answer = json(&desk.daemon, &["public-keys", "--output", "json"]);
    assert_eq!(answer["publicKeys"].as_array().unwrap().len(), 3);
    let by_two = ["public-keys", "--output", "json", "--page-size", "2"];
    assert_eq!(json(&desk.daemon, &by_two), answer);
    assert_eq!(answer["publicKeys"][1]["kid"], set["keys"][1]["kid"]);
}

#[test]
fn a_bench_counts_signatures_by_each_call() {
    let desk = Desk::local().key("x", "EC").key("e", "ED25519");
    for (id, mode) in [
        ("x", "unary"),
        ("x", "stream"),
        ("x", "batch"),
        ("e", "unary"),
    ] {
        let bench = ["bench", id, "--mode", mode, "--duration", "300ms"];
        let few = ["--in-flight", "8", "--batch-size", "4", "--output", "json"];
        let figures = json(&desk.daemon, &[&bench[..], &few].concat());
        assert_eq!(figures["errors"], 0, "{mode}: {figures}");
        assert!(figures["signatures"].as_u64().unwrap() >= 8, "{figures}");
        assert!(figures["signaturesPerSecond"].as_f64().unwrap() > 0.0);
        let latency = |name: &str| figures["latencyMs"][name].as_f64().unwrap();
        assert!(0.0 < latency("p50") && latency("p50") <= latency("p99"));
        assert!(latency("p99") <= latency("max"), "{figures}");
        assert!(figures["durationSeconds"].as_f64().unwrap() >= 0.3);
    }
    let table = desk.succeeded(&["bench", "x", "--duration", "100ms"]);
    assert!(table.starts_with("SIGNATURES  PER SECOND  P50 "), "{table}");
    assert!(table.ends_with("  none\n"), "{table}");
    let watched = in_terminal(&desk.daemon, &["bench", "x", "--duration", "500ms"], "");
    assert!(watched.contains(" signatures a second, p50 "), "{watched}");
    let unknown = run(&desk.daemon, &["bench", "nobody"]);
    assert_eq!(unknown.status.code(), Some(3));
}
