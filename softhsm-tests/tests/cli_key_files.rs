//! keypairctl with keys and certificates from elsewhere, as an operator uses it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use softhsm_tests::daemon::{Daemon, Home, binary};
use softhsm_tests::keypairctl::{SUBJECT, command, err, in_terminal, json, out, run, succeeded};
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};
use tempfile::TempDir;

fn generate(daemon: &Daemon, id: &str, provider: &str) {
    let arguments = [
        &["generate", "--id", id, "--crypto-provider", provider],
        &SUBJECT[..],
    ]
    .concat();
    succeeded(daemon, &arguments);
}

#[test]
fn a_key_pair_is_certified_exported_imported_migrated_and_linked() {
    let token = Token::fresh();
    token.make_foreign_key("EC:prime256v1", "old", "0a");
    let home = Home::hybrid(&token).env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true");
    let daemon = home.start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    generate(&daemon, "payments", "LOCAL");
    succeeded(&daemon, &["csr", "payments", "--out", &path("x.csr")]);
    shell(
        folder.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 9 2>/dev/null
         openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days 9 -out x.crt 2>/dev/null; cat ca.crt x.crt > bundle.pem",
    );
    let said = succeeded(&daemon, &["csr-response", "payments", &path("bundle.pem")]);
    assert!(said.contains("CN=CA"), "{said}");
    let chain = succeeded(&daemon, &["certificate", "payments", "--chain"]);
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);

    fs::write(path("password"), "correct horse\n").unwrap();
    let password = ["--password-file", &path("password")];
    let p12 = path("x.p12");
    succeeded(
        &daemon,
        &[&["export", "payments", "--out", &p12], &password[..]].concat(),
    );
    assert_eq!(
        fs::metadata(&p12).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = run(
        &daemon,
        &[&["export", "payments", "--out", &p12], &password[..]].concat(),
    );
    assert!(
        err(&again).contains("--force replaces it"),
        "{}",
        err(&again)
    );
    let imported = command(
        &daemon,
        &[
            "import",
            &p12,
            "--id",
            "partner",
            "--crypto-provider",
            "HSM",
            "--password-env",
            "P12",
            "--output",
            "json",
        ],
    )
    .env("P12", "correct horse")
    .output()
    .unwrap();
    assert!(
        out(&imported).contains("\"keyOrigin\": \"IMPORTED\""),
        "{}",
        err(&imported)
    );
    let wrong = command(&daemon, &["import", &p12, "--password-env", "P12"])
        .env("P12", "battery staple")
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        err(&wrong).contains("password (--password-file): does not open the file"),
        "{}",
        err(&wrong)
    );
    let unset = run(
        &daemon,
        &["import", &p12, "--password-env", "NO_SUCH_VARIABLE"],
    );
    assert_eq!(unset.status.code(), Some(2));
    let nobody = run(&daemon, &["export", "payments", "--out", &path("y.p12")]);
    assert!(
        err(&nobody).contains("--password-file or --password-env"),
        "{}",
        err(&nobody)
    );
    let hsm = run(
        &daemon,
        &[
            &["export", "partner", "--out", &path("y.p12")],
            &password[..],
        ]
        .concat(),
    );
    assert!(err(&hsm).contains("never leaves"), "{}", err(&hsm));

    let moved = json(
        &daemon,
        &["migrate", "payments", "--to", "HSM", "--output", "json"],
    );
    assert_eq!(moved["keyPair"]["cryptoProvider"], "HSM");
    let message = path("message");
    fs::write(&message, "message").unwrap();
    succeeded(
        &daemon,
        &[
            "sign",
            "payments",
            "--message",
            &message,
            "--out",
            &path("signature"),
        ],
    );
    succeeded(
        &daemon,
        &[
            "verify",
            "payments",
            "--message",
            &message,
            "--signature",
            &path("signature"),
        ],
    );

    let linked = [
        "link",
        "--private-key-label",
        "old",
        "--id",
        "old",
        "--common-name",
        "Old",
        "--organization",
        "Acme",
        "--country",
        "US",
        "--valid-days",
        "9",
        "--label",
        "team=pay",
        "--label",
        "stage=",
        "--output",
        "json",
    ];
    let linked = json(&daemon, &linked);
    assert_eq!(linked["keyPair"]["keyOrigin"], "LINKED");
    let labels = serde_json::json!({"stage": "", "team": "pay"});
    assert_eq!(linked["keyPair"]["labels"], labels);
    succeeded(&daemon, &["delete", "old", "--yes"]);
    assert!(pkcs11_tool(&token, &["--list-objects"]).contains("label:      old"));
}

/// A daemon with a key pair that may be exported, a folder, and what exports it.
fn exporting() -> (Daemon, TempDir, String) {
    let home = Home::local().env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true");
    let daemon = home.start();
    succeeded(
        &daemon,
        &[&["generate", "--id", "a"], &SUBJECT[..]].concat(),
    );
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "correct horse\n").unwrap();
    let password = password.to_str().unwrap().to_owned();
    (daemon, folder, password)
}

/// Returns what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_file_with_a_private_key_takes_the_place_of_another_whole_and_is_private() {
    let (daemon, folder, password) = exporting();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let export = |to: &str, force: bool| {
        let arguments = ["export", "a", "--password-file", &password, "--out", to];
        let force: &[&str] = if force { &["--force"] } else { &[] };
        run(&daemon, &[&arguments[..], force].concat())
    };
    let mode = |name: &str| {
        let entry = fs::symlink_metadata(path(name)).unwrap();
        assert!(entry.is_file(), "{name}");
        entry.permissions().mode() & 0o777
    };
    // The mode of a file that is there is not kept.
    fs::write(path("a.p12"), "old").unwrap();
    fs::set_permissions(path("a.p12"), fs::Permissions::from_mode(0o644)).unwrap();
    let output = export(&path("a.p12"), true);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(mode("a.p12"), 0o600);
    // A link is replaced, and not followed.
    fs::write(path("target"), "old").unwrap();
    for (link, to) in [("link", "target"), ("dangling", "nowhere")] {
        symlink(path(to), path(link)).unwrap();
        let output = export(&path(link), false);
        assert_eq!(output.status.code(), Some(2), "{}", err(&output));
        assert!(err(&output).contains("--force replaces it"));
        let output = export(&path(link), true);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(mode(link), 0o600);
    }
    assert_eq!(fs::read_to_string(path("target")).unwrap(), "old");
    // A file that cannot be written to its end leaves the old one.
    for full in ["a.p12", "new.p12"] {
        let before = fs::read(path("a.p12")).unwrap();
        let mut limited = Command::new("sh");
        let line = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
        limited.args(["-c", line, "sh"]).arg(binary("keypairctl"));
        limited.args([
            "export",
            "a",
            "--password-file",
            &password,
            "--force",
            "--out",
        ]);
        limited.arg(path(full));
        limited.env("KEYPAIRCTL_ADDRESS", daemon.address().to_string());
        let output = limited.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        let expected = format!("keypairctl: --out {}: File too large", path(full));
        assert!(err(&output).starts_with(&expected), "{}", err(&output));
        assert_eq!(fs::read(path("a.p12")).unwrap(), before);
    }
    // Nothing is left beside them.
    let expected = ["a.p12", "dangling", "link", "password", "target"];
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn whether_a_file_may_be_written_is_asked_before_the_daemon_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("there"), "old").unwrap();
    for command in [
        &["export", "a", "--password-file", &path("there")][..],
        &["csr", "a"],
        &["certificate", "a"],
        &["sign", "a", "--message", &path("there")],
    ] {
        for (out, expected) in [
            (path("there"), "the file is there; --force replaces it"),
            (path(""), "is a folder"),
            (path("nowhere/file"), "there is no folder"),
        ] {
            let output = Command::new(binary("keypairctl"))
                .args(command)
                .args(["--address", "127.0.0.1:1", "--out", &out])
                .output()
                .unwrap();
            let said = err(&output);
            assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
            assert!(said.contains(expected), "{command:?}: {said}");
        }
    }
}

#[test]
fn what_is_no_file_is_written_to_and_not_replaced() {
    let (daemon, folder, password) = exporting();
    let path = |name: &str| folder.path().join(name);
    let export = [
        "export",
        "a",
        "--format",
        "pem",
        "--password-file",
        &password,
    ];
    let is_key = |written: &[u8]| {
        let written = String::from_utf8_lossy(written);
        assert!(written.starts_with("-----BEGIN "), "{written}");
        assert!(written.ends_with("-----\n"), "{written}");
        assert!(written.contains("BEGIN ENCRYPTED PRIVATE KEY"), "{written}");
    };
    for out in ["-", "/dev/stdout"] {
        let arguments = [&export[..], &["--out", out]].concat();
        // A pipe.
        is_key(succeeded(&daemon, &arguments).as_bytes());
        // A file, which keeps what it has.
        let file = path("appended");
        fs::write(&file, "before\n").unwrap();
        let append = fs::OpenOptions::new().append(true).open(&file).unwrap();
        let status = command(&daemon, &arguments).stdout(append).status();
        assert!(status.unwrap().success());
        let written = fs::read(&file).unwrap();
        is_key(written.strip_prefix(b"before\n").unwrap());
    }
    assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
    let fifo = path("fifo");
    shell(folder.path(), "mkfifo fifo");
    let reading = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    let to_fifo = [&export[..], &["--out", fifo.to_str().unwrap()]].concat();
    succeeded(&daemon, &to_fifo);
    is_key(&reading.join().unwrap());
}

#[test]
fn a_password_is_asked_for_twice_and_never_shown() {
    let daemon = Home::local()
        .env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true")
        .start();
    let mut arguments = vec!["generate", "--id", "a"];
    arguments.extend(SUBJECT);
    succeeded(&daemon, &arguments);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.p12");
    let path = path.to_str().unwrap();
    let said = in_terminal(
        &daemon,
        &["export", "a", "--out", path],
        "correct horse\nbattery staple\n",
    );
    assert!(said.contains("the passwords differ"), "{said}");
    let said = in_terminal(
        &daemon,
        &["export", "a", "--out", path],
        "correct horse\ncorrect horse\n",
    );
    assert!(said.contains("wrote"), "{said}");
    let said = in_terminal(&daemon, &["import", path], "correct horse\n");
    assert!(said.contains("fingerprint"), "{said}");
}
