//! keypairctl with keys and certificates from elsewhere, as an operator uses it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::keypairctl::{SUBJECT, command, err, in_terminal, json, out, run, succeeded};
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};

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
        "--output",
        "json",
    ];
    assert_eq!(json(&daemon, &linked)["keyPair"]["keyOrigin"], "LINKED");
    succeeded(&daemon, &["delete", "old", "--yes"]);
    assert!(pkcs11_tool(&token, &["--list-objects"]).contains("label:      old"));
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
