//! What keypairctl shows: help, tables and lists on a terminal of 80 columns, and the same for
//! programs.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use softhsm_tests::daemon::{Daemon, Home, binary};
use softhsm_tests::keypairctl::{SUBJECT, command, err, in_terminal, json, out, run, succeeded};
use softhsm_tests::token::Token;
use softhsm_tests::tools::tools;

/// Runs a command line without a daemon, with lines of 80 columns.
fn alone(arguments: &[&str]) -> std::process::Output {
    Command::new(binary("keypairctl"))
        .args(arguments)
        .env("COLUMNS", "80")
        .output()
        .unwrap()
}

fn generate(daemon: &Daemon, id: &str, more: &[&str]) {
    succeeded(
        daemon,
        &[&["generate", "--id", id], more, &SUBJECT].concat(),
    );
}

#[test]
fn the_help_of_a_list_fits_80_columns() {
    let shown = out(&alone(&["list", "--help"]));
    // clap leaves blanks behind some lines.
    let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert_eq!(lines.join("\n") + "\n", include_str!("list-help.txt"));
    assert!(lines.iter().all(|line| line.chars().count() <= 80));
}

#[test]
fn no_line_of_any_help_is_wider_than_80_columns() {
    let commands = out(&alone(&["--help"]));
    let commands: Vec<_> = commands
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))
        })
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let shown = out(&alone(&["help", command]));
        let wide = shown.lines().find(|line| {
            // The line of the usage is not broken by clap.
            line.chars().count() > 80 && !line.starts_with("Usage: ")
        });
        assert_eq!(wide, None, "{command}");
        assert!(
            command == "help" || shown.contains("\nConnection options:\n"),
            "{command}"
        );
        assert!(
            command == "help" || shown.contains("\nExamples:\n"),
            "{command}"
        );
    }
}

#[test]
fn a_row_of_a_list_fits_the_terminal() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    generate(&daemon, "payments", &["--crypto-provider", "hsm"]);
    let long = ["--crypto-provider", "LOCAL", "--label", "team=pay"];
    generate(
        &daemon,
        "an-id-that-has-as-many-characters-as-there-may-be-in-all-of-them",
        &long,
    );
    // A terminal of its own, as wide as they were once.
    let list = format!("{} list", binary("keypairctl").display());
    let shown = Command::new("script")
        .args([
            "-qec",
            &format!("stty rows 24 cols 80; {list}; {list} -o wide"),
            "/dev/null",
        ])
        .env("KEYPAIRCTL_ADDRESS", daemon.address().to_string())
        .env("NO_COLOR", "1")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = out(&shown).replace('\r', "").replace("20 days", "19 days");
    let lines: Vec<_> = shown.lines().collect();
    let expected = [
        "ID                                 CN       KEY     PROVIDER  STATUS  EXPIRES",
        "payments                           Example  EC-256  HSM       VALID   in 19 days",
        "an-id-that-has-as-many-character…  Example  EC-256  LOCAL     VALID   in 19 days",
    ];
    assert_eq!(lines[..3], expected, "{shown}");
    let wide = lines[5];
    assert!(wide.starts_with("an-id-that-has-as-many-characters-as-there-may-be-in-all-of-them  "));
    assert!(wide.ends_with("  no       team=pay"), "{wide}");
    // What reads a pipe gets all of it.
    let piped = succeeded(
        &daemon,
        &[
            "list",
            "--columns",
            "ID,labels,CN",
            "--no-headers",
            "--order-by",
            "ID",
        ],
    );
    assert_eq!(
        piped,
        "an-id-that-has-as-many-characters-as-there-may-be-in-all-of-them  team=pay  Example\n\
         payments                                                                    Example\n"
    );
}

#[test]
fn lists_page_by_themselves_and_their_footers_are_on_standard_error() {
    let daemon = Home::local().start();
    let none = run(&daemon, &["list"]);
    assert_eq!(
        (out(&none), err(&none)),
        (String::new(), "there are no key pairs\n".into())
    );
    for id in ["a", "b", "c"] {
        generate(&daemon, id, &[]);
    }
    generate(&daemon, "r", &["--rotate"]);
    let unmatched = run(&daemon, &["list", "--query", "zzz"]);
    assert_eq!(unmatched.status.code(), Some(0));
    assert_eq!(
        (out(&unmatched), err(&unmatched)),
        (String::new(), "no key pairs match\n".into())
    );
    let names = |arguments: &[&str]| {
        let output = run(
            &daemon,
            &[&["list", "-o", "name", "--order-by", "id"], arguments].concat(),
        );
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        (out(&output).replace('\n', " "), err(&output))
    };
    let (shown, footer) = names(&["--limit", "3"]);
    assert_eq!(shown, "a b c ");
    assert!(
        footer.starts_with("3 of 4 key pairs. The next: --page-token "),
        "{footer}"
    );
    for (arguments, expected) in [
        (&["--limit", "4"][..], "a b c r "),
        (&["--limit", "2000"], "a b c r "),
        (&["--limit", "0"], ""),
        (&["--all"], "a b c r "),
        (&["--not-rotating"], "a b c "),
        (&["--not-rotating", "--limit", "2"], "a b "),
        (&["--expires-within", "21d"], "a b c r "),
        (&["--expires-within", "12h"], ""),
        (&["--status", "EXPIRED"], ""),
    ] {
        assert_eq!(names(arguments).0, expected, "{arguments:?}");
    }
    let deleted = succeeded(&daemon, &["delete", "a", "--yes", "-o", "name"]);
    assert_eq!(deleted, "a\n");
    let nameless = run(&daemon, &["algorithms", "-o", "name"]);
    assert_eq!(nameless.status.code(), Some(2), "{}", err(&nameless));
}

#[test]
fn yaml_is_read_as_the_same_values_as_json() {
    let daemon = Home::local().start();
    let odd = [
        "--label",
        "on=no",
        "--label",
        "n=1.0",
        "--san",
        "192.0.2.1",
        "--organization-unit",
        "a: b #c",
    ];
    generate(&daemon, "x", &odd);
    generate(&daemon, "y", &["--rotate"]);
    for arguments in [
        &["get", "x"][..],
        &["list"],
        &["algorithms"],
        &["public-keys"],
        &["doctor"],
        &["version"],
    ] {
        let yaml = succeeded(&daemon, &[arguments, &["-o", "yaml"]].concat());
        let convert = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
        let mut python = Command::new(tools().join("venv/bin/python"))
            .args(["-c", convert])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut python.stdin.take().unwrap(), yaml.as_bytes()).unwrap();
        let read = python.wait_with_output().unwrap();
        let read: Value = serde_json::from_slice(&read.stdout).unwrap_or_else(|_| panic!("{yaml}"));
        let mut expected = json(&daemon, &[arguments, &["-o", "json"]].concat());
        let mut read = read;
        if arguments == ["doctor"] {
            // The last signature and the free space are of their moment.
            expected["findings"].take();
            read["findings"].take();
        }
        assert_eq!(read, expected, "{yaml}");
    }
}

#[test]
fn versions_are_those_of_the_client_and_of_the_daemon() {
    let daemon = Home::local().start();
    let shown = json(&daemon, &["version", "-o", "json"]);
    assert_eq!(shown["daemon"]["api"], "keypaird.v1");
    assert_eq!(shown["daemon"]["version"], shown["client"]["version"]);
    assert_eq!(shown["daemon"]["revision"], shown["client"]["revision"]);
    let version = succeeded(&daemon, &["version"]);
    assert!(
        version.starts_with("keypairctl            0.1.0"),
        "{version}"
    );
    assert!(
        version.contains("\nkeypaird              0.1.0"),
        "{version}"
    );
    // What is known is shown, also when no daemon answers.
    let away = alone(&["version", "--address", "127.0.0.1:1"]);
    assert_eq!(away.status.code(), Some(4));
    assert!(
        out(&away).starts_with("keypairctl            0.1.0"),
        "{}",
        out(&away)
    );
    let client = alone(&["version", "--client"]);
    assert_eq!(
        (client.status.code(), err(&client)),
        (Some(0), String::new())
    );
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let written = alone(&["man", pages.to_str().unwrap()]);
    assert_eq!(written.status.code(), Some(0), "{}", err(&written));
    for name in [
        "keypairctl.1",
        "keypairctl-list.1",
        "keypairctl-rotation-set.1",
    ] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(
            page.contains(".SH SYNOPSIS") || page.contains(".SH NAME"),
            "{page}"
        );
    }
}

/// Asks what a shell would: what the last word of a line may become.
fn completed(daemon: &Daemon, words: &[&str]) -> Vec<String> {
    let output = command(daemon, &[])
        .arg("--")
        .args(words)
        .env("KEYPAIRCTL_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    out(&output).lines().map(str::to_owned).collect()
}

#[test]
fn completions_know_values_and_ask_the_daemon_for_ids() {
    let daemon = Home::local().start();
    for id in ["payments", "payroll", "other"] {
        generate(&daemon, id, &[]);
    }
    let script = out(&alone(&["completions", "bash"]));
    assert!(script.contains("KEYPAIRCTL_COMPLETE="), "{script}");
    for (words, expected) in [
        (
            &["keypairctl", "get", "pay"][..],
            &["payments", "payroll"][..],
        ),
        (&["keypairctl", "rotation", "set", "payr"], &["payroll"]),
        (&["keypairctl", "list", "--status", "ex"], &["expired"]),
        (
            &["keypairctl", "generate", "--key-algorithm", "E"],
            &["EC", "ED25519"],
        ),
        (&["keypairctl", "list", "--output", "w"], &["wide"]),
        (&["keypairctl", "vers"], &["version"]),
    ] {
        assert_eq!(completed(&daemon, words), expected, "{words:?}");
    }
    // The address on the line counts, and a daemon that is away completes nothing.
    let away = ["keypairctl", "--address", "127.0.0.1:1", "get", "pay"];
    assert_eq!(completed(&daemon, &away), Vec::<String>::new());
}

#[test]
fn calls_are_made_again_for_as_long_as_was_asked_for() {
    let token = Token::none();
    let daemon = Home::hybrid(&token).start_without_token();
    let begun = Instant::now();
    let hsm = ["generate", "--crypto-provider", "HSM", "--retry", "3s"];
    let refused = run(&daemon, &[&hsm[..], &SUBJECT].concat());
    let said = err(&refused);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    let again = "keypairctl: the provider HSM is not available at the moment; try again; trying again in 1s\n";
    assert!(said.starts_with(again), "{said}");

    // A daemon that is being started is waited for.
    let home = Home::local();
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let mut waiting = Command::new(binary("keypairctl"))
        .args(["list", "--retry", "60s", "--address", &address.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(waiting.stderr.take().unwrap()));
    let first = said.next().unwrap().unwrap();
    assert!(first.ends_with("; trying again in 1s"), "{first}");
    let line = format!("server.listen = \"{address}\"");
    let _daemon = home.replacing("server.listen", &line).start();
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn a_signature_does_not_replace_its_message() {
    let daemon = Home::local().start();
    generate(&daemon, "x", &[]);
    let folder = tempfile::tempdir().unwrap();
    let message = folder.path().join("m");
    fs::write(&message, "message").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&message, &link).unwrap();
    for out in [&message, &link] {
        let paths = [message.to_str().unwrap(), out.to_str().unwrap()];
        let refused = run(
            &daemon,
            &[
                "sign",
                "x",
                "--message",
                paths[0],
                "--out",
                paths[1],
                "--force",
            ],
        );
        assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
        assert!(
            err(&refused).contains("is the file of --message"),
            "{}",
            err(&refused)
        );
        assert_eq!(fs::read(&message).unwrap(), b"message");
    }
}

#[test]
fn a_watch_without_a_daemon_fails_and_what_is_no_cka_id_is_refused() {
    let away = alone(&["watch", "--address", "127.0.0.1:1"]);
    assert_eq!(away.status.code(), Some(4), "{}", err(&away));
    assert!(
        err(&away).contains("is keypaird running there?"),
        "{}",
        err(&away)
    );
    let no_hex = alone(&["doubtful-keys", "destroy", "nothex", "--yes"]);
    assert_eq!(no_hex.status.code(), Some(2), "{}", err(&no_hex));
    assert!(
        err(&no_hex).contains("must be a CKA_ID in hexadecimal"),
        "{}",
        err(&no_hex)
    );
}

#[test]
fn a_schedule_shows_first_what_nothing_rotates() {
    let daemon = Home::local().start();
    generate(&daemon, "rotates", &["--rotate"]);
    generate(&daemon, "expires", &[]);
    let entries = json(&daemon, &["schedule", "--days", "60", "-o", "json"]);
    let entries = entries["entries"].as_array().unwrap();
    assert_eq!(entries[0]["id"], "expires");
    assert_eq!(entries[0]["what"], "expires, and nothing rotates it");
    // Two steps for each generation of 20 days, and more than are asked for at first.
    assert!(entries.len() > 8, "{}", entries.len());
    assert!(in_terminal(&daemon, &["schedule"], "").contains("GEN"));
}
