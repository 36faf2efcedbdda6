//! What `keypaird check-config --connect` and `keypairctl doctor` say of setups that are broken.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keypaird::proto::CryptoProvider;
use softhsm_tests::client::settings;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::keypairctl;
use softhsm_tests::token::{LABEL, PIN, Token};

/// Runs `check-config --connect`, and returns the exit code and what it says of what it tried, without what differs from run to run.
fn check_with(home: &Home, arguments: &[&str]) -> (i32, String) {
    let arguments = [&["check-config", "--connect"], arguments].concat();
    let output = home.run(&arguments);
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let said = out.lines().skip_while(|line| !line.starts_with("trying"));
    let said = said.collect::<Vec<_>>().join("\n");
    (
        output.status.code().unwrap(),
        filtered(&format!("{said}\n{err}"), &home.path("")),
    )
}

fn check(home: &Home) -> (i32, String) {
    check_with(home, &[])
}

/// Puts words in the place of folders, serial numbers and ports.
fn filtered(text: &str, home: &Path) -> String {
    let mut text = text.replace(&*home.to_string_lossy(), "HOME/");
    for (before, word) in [("serial number ", "SERIAL"), ("127.0.0.1:", "PORT")] {
        let mut parts = text.split(before);
        let mut new = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
            new.extend([before, word, rest]);
        }
        text = new;
    }
    let words = text.split_inclusive(' ').map(|word| {
        // Modules of ours are in folders of their own.
        match word.strip_suffix("/faulty.so ") {
            Some(_) => "FAULTY.so ",
            None => word,
        }
    });
    words.collect()
}

/// Returns the lines about a subject.
fn about<'a>(said: &'a str, subject: &str) -> Vec<&'a str> {
    let mut lines = said.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line.split_whitespace().nth(1) == Some(subject) {
            found.push(line.trim());
            found.extend(
                lines
                    .next_if(|next| next.trim().starts_with("->"))
                    .map(str::trim),
            );
        }
    }
    found
}

#[track_caller]
fn says(checked: &(i32, String), exit_code: i32, subject: &str, lines: &[&str]) {
    let (code, said) = checked;
    let squeezed: Vec<_> = about(said, subject)
        .iter()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(squeezed, lines, "{said}");
    assert_eq!(*code, exit_code, "{said}");
}

const SOFTHSM: &str =
    "OK module /usr/lib/softhsm/libsofthsm2.so is loaded, by a process of its own";

#[test]
fn all_is_well_before_the_first_start_and_nothing_is_made_by_looking() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let (code, said) = check(&home);
    let expected = "\
trying all that it names; the PIN is sent to the token once
  OK    store        HOME/keypaird.db is not there; serve makes it
  OK    key file     HOME/key-encryption-key is not there; serve makes it
  OK    address      127.0.0.1:PORT is free
  OK    module       /usr/lib/softhsm/libsofthsm2.so is loaded, by a process of its own
  OK    token        \"tests\", serial number SERIAL, model SoftHSM v2
  OK    PIN          the token accepts it
  OK    signature    made by a trial key (EC-256), which is gone again, and verified
all is well
";
    assert_eq!(said, expected);
    assert_eq!(code, 0);
    for name in ["keypaird.db", "keypaird.db.lock", "key-encryption-key"] {
        assert!(!home.path(name).exists(), "{name}");
    }
    assert_eq!(token.count("Private Key") + token.count("Public Key"), 0);
    // In local mode there is nothing else to try.
    let (code, said) = check(&Home::local());
    assert_eq!((code, said.contains("PIN")), (0, false), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_runs_is_noticed_and_not_disturbed() {
    let token = Token::fresh();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let home = Home::hybrid(&token).replacing(
        "server.listen",
        &format!("server.listen = \"127.0.0.1:{port}\""),
    );
    let daemon = home.start();
    let client = daemon.client().await;
    let view = client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap();
    let checked = check(&home);
    says(
        &checked,
        0,
        "store",
        &[
            "WARN store HOME/keypaird.db, with one key pair; a keypaird runs with it, and a second one would not start",
        ],
    );
    says(
        &checked,
        0,
        "key",
        &["OK key file HOME/key-encryption-key is the one of the store"],
    );
    says(
        &checked,
        0,
        "address",
        &["WARN address 127.0.0.1:PORT is in use, as the store is"],
    );
    assert!(
        checked.1.ends_with("\nit works, with 2 warnings\n"),
        "{}",
        checked.1
    );
    says(
        &checked,
        0,
        "signature",
        &["OK signature made by a trial key (EC-256), which is gone again, and verified"],
    );
    client.signs(&view).await;
    assert_eq!(token.count("Private Key"), 1);
    // Somebody else's listener is in the way.
    drop(daemon);
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    says(
        &check(&home),
        69,
        "address",
        &[
            "FAIL address cannot listen on 127.0.0.1:PORT: Address already in use (os error 98)",
            "-> end what listens there (ss -ltnp shows it), or change server.listen",
        ],
    );
}

#[test]
fn a_module_that_is_missing_or_none_is_told_apart() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let with = |path: &str| {
        check(
            &home
                .clone()
                .replacing("module", &format!("module = \"{path}\"")),
        )
    };
    says(
        &with("/nowhere/vendor.so"),
        1,
        "module",
        &[
            "FAIL module the file of the PKCS#11 module is not there",
            "-> install the module, or correct crypto.pkcs11.module; it is looked for again and again",
        ],
    );
    let text = home.path("text.so");
    fs::write(&text, "no library at all ".repeat(10)).unwrap();
    says(
        &with(text.to_str().unwrap()),
        1,
        "module",
        &[
            "FAIL module the PKCS#11 module cannot be loaded: invalid ELF header",
            "-> see that the module is for this machine, and that what it needs is installed and may be read",
        ],
    );
    let other = home.path("other.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(&other)
        .status();
    assert!(compiled.unwrap().success());
    says(
        &with(other.to_str().unwrap()),
        1,
        "module",
        &[
            "FAIL module the file that should be the PKCS#11 module is another library: it has no C_GetFunctionList",
            "-> set crypto.pkcs11.module to the PKCS#11 library of the token's vendor",
        ],
    );
}

#[test]
fn a_module_that_crashes_or_hangs_takes_only_its_own_process_with_it() {
    let (token, module) = (Token::fresh(), FaultyModule::new());
    // In-process or not: here it is in a process of its own.
    let home = module
        .given_to(Home::hybrid(&token).in_process())
        .env("KEYPAIRD__CRYPTO__PKCS11__OPERATION_TIMEOUT", "1s");
    module.tell("C_Initialize 0 0 crash");
    says(
        &check(&home),
        1,
        "module",
        &[
            "FAIL module the PKCS#11 module crashed, or ended the process that it was loaded in",
            "-> tell the module's vendor; meanwhile see that its own configuration and its way to the token are in order",
        ],
    );
    module.tell("C_Initialize 0 0 block");
    says(
        &check(&home),
        1,
        "module",
        &[
            "FAIL module a call does not come back from the PKCS#11 module",
            "-> look at the way to the token: its network, its cable, the vendor's service on this machine",
        ],
    );
    module.tell("C_Initialize 0 0 return 0x5");
    says(
        &check(&home),
        1,
        "module",
        &[
            "FAIL module C_Initialize of the PKCS#11 module returned GeneralError",
            "-> see what the module's vendor says of this return value, and look at the token and at the module's own configuration",
        ],
    );
}

#[test]
fn a_token_that_is_not_there_is_told_with_those_that_are() {
    const REMEDY: &str = "-> correct crypto.pkcs11.token_label or token_serial, bring the token, or make one by keypaird init-token; it is looked for again and again";
    let none = Token::none();
    let checked = check(&Home::hybrid(&none));
    says(&checked, 1, "module", &[SOFTHSM]);
    says(
        &checked,
        1,
        "token",
        &[
            "FAIL token there is no token with label \"tests\"; the PKCS#11 module shows none at all",
            REMEDY,
        ],
    );
    none.initialise("one");
    none.initialise("two");
    let (code, said) = check(&Home::hybrid(&none));
    let said = about(&said, "token").join("\n");
    assert!(
        said.contains("there is no token with label \"tests\"; the PKCS#11 module shows \""),
        "{said}"
    );
    for label in ["one", "two"] {
        let seen = format!("\"{label}\" (serial number SERIAL)");
        assert!(said.contains(&seen), "{said}");
    }
    assert_eq!(code, 1);

    let twice = Token::fresh();
    twice.initialise(LABEL);
    says(
        &check(&Home::hybrid(&twice)),
        1,
        "token",
        &[
            "FAIL token there are 2 tokens with label \"tests\": \"tests\" (serial number SERIAL), \"tests\" (serial number SERIAL)",
            "-> choose one by crypto.pkcs11.token_serial in place of token_label",
        ],
    );
}

#[test]
fn a_wrong_pin_is_tried_once_and_told_with_the_tries_that_are_left() {
    const REMEDY: &str = "-> put the right PIN into crypto.pkcs11.pin_file; it is read again, and this one is not tried again (with pin_env, set it and start anew)";
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let home = module.given_to(Home::hybrid(&token));
    token.write_pin("wrong-pin-1");
    // The first two calls look at the slots, the third is after the login.
    for (orders, tries) in [
        (
            "",
            "it says that some tries are used up, and not how many are left",
        ),
        (
            "C_GetTokenInfo 2 0 flags 0x20000",
            "one more wrong PIN locks it",
        ),
        (
            "C_GetTokenInfo 2 0 flags 0x40000",
            "no try is left: it is locked now",
        ),
    ] {
        let before = module.called("C_Login");
        module.tell(orders);
        let checked = check(&home);
        says(
            &checked,
            1,
            "PIN",
            &[
                &format!("FAIL PIN the token refused the PIN; {tries}"),
                REMEDY,
            ],
        );
        says(&checked, 1, "token", &["OK token it is there"]);
        assert_eq!(module.called("C_Login"), before + 1);
        assert!(!checked.1.contains("wrong-pin"));
    }
    token.write_pin(softhsm_tests::token::PIN);
    for (flags, said, remedy) in [
        (
            "0x40000",
            "FAIL PIN the token is locked after too many wrong PINs, and takes none",
            "-> have the token's security officer unlock it; the daemon notices, and until then tries no PIN",
        ),
        (
            "0x20000",
            "FAIL PIN the token says that one more wrong PIN locks it, so the PIN was not tried",
            "-> see that the right PIN is in crypto.pkcs11.pin_file, and run keypaird check-config --connect --last-try: a login that succeeds gives all tries back, and the daemon notices",
        ),
    ] {
        let before = module.called("C_Login");
        module.tell(&format!("C_GetTokenInfo 0 0 flags {flags}"));
        says(&check(&home), 1, "PIN", &[said, remedy]);
        assert_eq!(module.called("C_Login"), before);
    }
    says(
        &check_with(&home, &["--last-try"]),
        0,
        "PIN",
        &["OK PIN the token accepts it"],
    );
}

#[test]
fn a_pin_file_that_cannot_be_used_is_told_before_the_token_is_asked() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    token.write_pin("");
    says(
        &check(&home),
        1,
        "PIN",
        &[
            "FAIL PIN the file with the PIN has nothing in its first line",
            "-> put the PIN into the first line of crypto.pkcs11.pin_file",
        ],
    );
    token.write_pin(&format!("\u{feff}{PIN}\r"));
    says(
        &check(&home),
        1,
        "PIN",
        &[
            "FAIL PIN the PIN begins with a byte order mark, as editors on Windows write it, which is not part of it",
            "-> write the PIN as plain text, without a byte order mark, as by printf %s PIN > FILE; it is read again, and nothing was sent to the token",
        ],
    );
    fs::set_permissions(token.pin_file(), fs::Permissions::from_mode(0o644)).unwrap();
    says(
        &check(&home),
        1,
        "PIN",
        &[
            "FAIL PIN the file with the PIN is accessible to everybody (mode 644), and so is not used",
            "-> run chmod o= on crypto.pkcs11.pin_file",
        ],
    );
    fs::remove_file(token.pin_file()).unwrap();
    says(
        &check(&home),
        1,
        "PIN",
        &[
            "FAIL PIN the file with the PIN cannot be read: entity not found",
            "-> put the PIN into crypto.pkcs11.pin_file, which the daemon's user must be able to read; it is read again and again",
        ],
    );
}

#[test]
fn what_the_token_cannot_do_is_told() {
    let token = Token::fresh();
    token.configure(
        "slots.mechanisms = CKM_EC_KEY_PAIR_GEN,CKM_ECDSA,CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_RSA_PKCS",
    );
    says(
        &check(&Home::hybrid(&token)),
        0,
        "mechanisms",
        &[
            "OK mechanisms ED25519 255 cannot be done: the token has no CKM_EC_EDWARDS_KEY_PAIR_GEN to generate key pairs",
            "OK mechanisms SHA256withRSAandMGF1, SHA384withRSAandMGF1, SHA512withRSAandMGF1 cannot be done: the token has no CKM_RSA_PKCS_PSS to sign",
        ],
    );
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let home = module.given_to(Home::hybrid(&token));
    module.tell("C_GetTokenInfo 0 0 flags 0x2");
    let checked = check(&home);
    assert_eq!(about(&checked.1, "token").len(), 3, "{}", checked.1);
    assert!(
        about(&checked.1, "token")[1].ends_with(
            "the token says that it is write-protected: no key can be made, or destroyed"
        )
    );
    assert_eq!(checked.0, 1);
    module.tell("C_OpenSession 0 0 return 0xe2");
    says(
        &check(&home),
        1,
        "token",
        &[
            "FAIL token the token is write-protected",
            "-> take the write protection off the token by its own tools",
        ],
    );
}

#[test]
fn a_trial_signature_is_made_and_verified() {
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let home = module.given_to(Home::hybrid(&token));
    module.tell("C_Sign 0 0 return 0x6");
    says(
        &check(&home),
        1,
        "signature",
        &[
            "FAIL signature the trial signature failed: C_Sign of the PKCS#11 module returned FunctionFailed",
            "-> see what the module's vendor says of this return value, and look at the token and at the module's own configuration",
        ],
    );
    module.tell("C_Sign 0 0 corrupt");
    says(
        &check(&home),
        1,
        "signature",
        &[
            "FAIL signature the trial signature failed: it does not verify with the public key",
            "-> look at the token and its module: none of its signatures would be handed out",
        ],
    );
    module.tell("C_GenerateKeyPair 0 0 return 0xd1");
    says(
        &check(&home),
        0,
        "signature",
        &[
            "WARN signature not tried: the token makes no key for a trial (C_GenerateKeyPair returned TemplateInconsistent); serve tries with the keys of the store",
        ],
    );
}

#[test]
fn the_key_encryption_key_and_the_store_are_looked_at() {
    let (home, other) = (Home::local(), Home::local());
    drop(home.start());
    drop(other.start());
    says(
        &check(&home),
        0,
        "key",
        &["OK key file HOME/key-encryption-key is the one of the store"],
    );
    let file = home.path("key-encryption-key");
    let own = fs::read(&file).unwrap();
    fs::copy(other.path("key-encryption-key"), &file).unwrap();
    says(
        &check(&home),
        77,
        "key",
        &[
            "FAIL key file the key encryption key HOME/key-encryption-key is not the one that the store was made with",
            "-> put the right file back, or point store.url at the store that belongs to it",
        ],
    );
    fs::write(&file, own).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    says(
        &check(&home),
        77,
        "key",
        &[
            "FAIL key file the key encryption key HOME/key-encryption-key is accessible to others (mode 644)",
            "-> run chmod 600 on it",
        ],
    );
    fs::remove_file(&file).unwrap();
    says(
        &check(&home),
        77,
        "key",
        &[
            "FAIL key file the key encryption key HOME/key-encryption-key is missing, but the store was made with one",
            "-> put the file back, or point crypto.local.key_encryption_key_file at it (a new one is never made over old data)",
        ],
    );

    let store = other.path("keypaird.db");
    let database = rusqlite::Connection::open(&store).unwrap();
    let known: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    says(
        &check(&other),
        69,
        "store",
        &[
            &format!(
                "FAIL store HOME/keypaird.db has schema version 99, and this keypaird knows {known} at most; run a later version"
            ),
            "-> or point store.url at another store",
        ],
    );
    for beside in ["keypaird.db-wal", "keypaird.db-shm"] {
        let _ = fs::remove_file(other.path(beside));
    }
    fs::write(&store, vec![b'x'; 8192]).unwrap();
    says(
        &check(&other),
        69,
        "store",
        &[
            "FAIL store HOME/keypaird.db cannot be read as a database: file is not a database",
            "-> see that store.url names a database of keypaird, or restore it from a backup",
        ],
    );
}

#[test]
fn what_serve_cannot_make_is_told_and_looking_makes_nothing() {
    let home = Home::local();
    let elsewhere = |file: &str| {
        let file = home.path(file);
        let line = format!(
            "crypto.local.key_encryption_key_file = \"{}\"",
            file.display()
        );
        check(&home.clone().replacing("crypto.local.key", &line))
    };
    says(
        &elsewhere("nowhere/key"),
        77,
        "key",
        &[
            "FAIL key file HOME/nowhere/key is not there, and cannot be made: No such file or directory (os error 2)",
            "-> have the daemon's user own its folder, or change crypto.local.key_encryption_key_file",
        ],
    );
    let (status, _) = home.start().stop();
    assert!(status.success());
    let files = || {
        let entries = fs::read_dir(home.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.collect::<BTreeSet<_>>()
    };
    let before = files();
    says(
        &check(&home),
        0,
        "store",
        &["OK store HOME/keypaird.db, with 0 key pairs"],
    );
    assert_eq!(files(), before);
}

#[test]
fn tls_files_and_sockets_that_cannot_be_used_are_told() {
    let home = Home::local();
    let path = |name: &str| home.path(name).display().to_string();
    let lines = format!(
        "server.tls.certificate = \"{}\"\nserver.tls.private_key = \"{}\"\nserver.unix_socket = \"{}\"",
        path("server.pem"),
        path("server.key"),
        path("file"),
    );
    fs::write(home.path("file"), "").unwrap();
    // Somebody's socket, whom no connection can be made to.
    let _datagrams = UnixDatagram::bind(home.path("datagrams")).unwrap();
    let line = format!("server.unix_socket = \"{}\"", path("datagrams"));
    let (code, said) = check(&home.clone().with(&line));
    let socket = about(&said, "socket");
    assert!(
        socket[0].contains("it cannot be seen whether HOME/datagrams is free: "),
        "{said}"
    );
    assert_eq!(code, 69, "{said}");
    let checked = check(&home.clone().with(&lines));
    let tls = about(&checked.1, "TLS");
    assert!(
        tls[0].contains("FAIL") && tls[0].contains("cannot use HOME/server.pem for TLS: "),
        "{tls:?}"
    );
    assert_eq!(
        tls[1],
        "-> put a certificate and its private key in PEM there, which the daemon's user must be able to read"
    );
    says(
        &checked,
        69,
        "socket",
        &[
            "FAIL socket at HOME/file there is a file that is no socket",
            "-> remove it, or change server.unix_socket",
        ],
    );
    assert!(
        checked.1.ends_with("keypaird: 2 failures\n"),
        "{}",
        checked.1
    );
}

/// Runs `keypairctl doctor` until it says something, and returns the exit code and what it says.
fn doctor(daemon: &Daemon, expected: &str) -> (i32, String) {
    let begun = Instant::now();
    loop {
        let output = keypairctl::run(daemon, &["doctor"]);
        let said = filtered(&keypairctl::out(&output), Path::new("/nowhere"));
        if said.contains(expected) {
            return (output.status.code().unwrap(), said);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{said}\n{}",
            keypairctl::err(&output)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the lines of the doctor without what differs from run to run.
fn timeless(said: &str) -> Vec<String> {
    let lines = said.lines().map(|line| {
        let line = match line.split_once(" (it last signed at ") {
            Some((before, _)) => format!("{before} (it last signed at TIME)"),
            None => line.to_owned(),
        };
        for (before, word) in [("version", "VERSION"), ("store disk", "FREE")] {
            if let Some((head, rest)) = line.split_once(before) {
                let blanks = rest.len() - rest.trim_start().len();
                return format!("{head}{before}{:blanks$}{word}", "");
            }
        }
        line
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_is_well() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in [CryptoProvider::Local, CryptoProvider::Hsm] {
        let mut settings = settings(provider);
        settings.valid_days = 365;
        let view = client.generate(settings).await.unwrap();
        client.signs(&view).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (code, said) = doctor(&daemon, "All is well");
    assert_eq!(code, 0);
    let expected = [
        "    WHAT                        HOW IT IS",
        "OK  TCP                         127.0.0.1:PORT accepts connections",
        "OK  gRPC                        HTTP/2 is spoken",
        "OK  version                     VERSION",
        "OK  daemon                      serves",
        "OK  keypaird.v1.KeyPairService  serves",
        "OK  keypaird.v1.SigningService  serves",
        "OK  keypaird.v1.EventService    serves",
        "OK  rotation                    serves",
        "OK  LOCAL                       signs (it last signed at TIME)",
        "OK  HSM                         signs (it last signed at TIME)",
        "OK  key pairs                   there are 2, and none has expired",
        "OK  expiry                      every key pair that expires within 30 days rotates",
        "OK  store disk                  FREE",
        "",
        "All is well.",
    ];
    assert_eq!(timeless(&said), expected);
    let json = keypairctl::json(&daemon, &["doctor", "--output", "json"]);
    assert_eq!(
        (&json["well"], &json["warnings"]),
        (&true.into(), &0.into())
    );
    let hsm = json["findings"].as_array().unwrap().iter();
    let hsm = hsm
        .clone()
        .find(|finding| finding["subject"] == "HSM")
        .unwrap();
    assert_eq!(hsm["verdict"], "OK");
}

#[test]
fn the_doctor_says_what_is_wrong_with_a_token() {
    let token = Token::none();
    token.initialise("other");
    let daemon = Home::hybrid(&token).start_without_token();
    let (code, said) = doctor(&daemon, "there is no token");
    assert_eq!(code, 1);
    let expected = "\
FAIL  HSM                         there is no token with label \"tests\"; the PKCS#11 module shows \"other\" (serial number SERIAL)
                                  -> correct crypto.pkcs11.token_label or token_serial, bring the token, or make one by keypaird init-token; it is looked for again and again
";
    assert!(said.contains(expected), "{said}");
    assert!(said.contains("\n1 failure"), "{said}");
    drop(daemon);

    let token = Token::fresh();
    token.write_pin("wrong-pin-1");
    token.configure("slots.mechanisms = CKM_EC_KEY_PAIR_GEN,CKM_ECDSA");
    let daemon = Home::hsm(&token).start_without_token();
    let (code, said) = doctor(&daemon, "refused the PIN");
    assert_eq!(code, 1);
    let expected = "\
FAIL  HSM                         the token refused the PIN; it says that some tries are used up, and not how many are left
                                  -> put the right PIN into crypto.pkcs11.pin_file; it is read again, and this one is not tried again (with pin_env, set it and start anew)
";
    assert!(said.contains(expected), "{said}");
    assert!(said.contains("FAIL  daemon                      does not serve\n                                  -> none of the providers below signs\n"), "{said}");
    let json = keypairctl::run(&daemon, &["doctor", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["well"], false);

    token.write_pin(softhsm_tests::token::PIN);
    // The health follows a moment later.
    let (code, said) = doctor(&daemon, "daemon                      serves");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("no key pair yet"), "{said}");
    assert!(said.contains("HSM                         cannot do RSA 2048, 3072, 4096: its token has no CKM_RSA_PKCS_KEY_PAIR_GEN to generate key pairs\n"), "{said}");
    assert!(said.contains("HSM                         cannot do ED25519 255: its token has no CKM_EC_EDWARDS_KEY_PAIR_GEN to generate key pairs\n"), "{said}");
}

#[test]
fn the_doctor_shows_its_table_when_the_first_question_is_refused() {
    let daemon = Home::local().start();
    // To the system an address, and to the daemon a host that is not its own.
    let address = format!("http://127.1:{}", daemon.address().port());
    let doctor = ["doctor", "--address", &address];
    let output = keypairctl::run(&daemon, &doctor);
    let said = filtered(&keypairctl::out(&output), Path::new("/nowhere"));
    assert_eq!(output.status.code(), Some(4), "{said}");
    let rows: Vec<Vec<_>> = said
        .lines()
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(
        rows[..5],
        [
            vec!["WHAT", "HOW"],
            vec!["OK", "name"],
            vec!["OK", "TCP"],
            vec!["OK", "gRPC"],
            vec!["FAIL", "gRPC"],
        ],
        "{said}"
    );
    assert!(said.contains("server.hosts"), "{said}");
    assert!(said.contains("\n1 failure"), "{said}");
    let output = keypairctl::run(&daemon, &[&doctor[..], &["--output", "json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["well"], &json["failures"]),
        (&false.into(), &1.into())
    );
    let last = json["findings"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["verdict"], &last["subject"]),
        (&"FAIL".into(), &"gRPC".into())
    );
}
