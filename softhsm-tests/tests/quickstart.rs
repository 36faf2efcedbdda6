//! `deploy/quickstart.sh`: what a newcomer runs first.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use softhsm_tests::tools::succeeded;

fn quickstart(home: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart.sh");
    let mut command = Command::new("env");
    command
        // Who runs the tests in the background has SIGINT ignored, and a shell cannot undo that.
        .arg("--default-signal=INT")
        .arg(script)
        .env("QUICKSTART_HOME", home)
        .env("QUICKSTART_LISTEN", "127.0.0.1:0")
        .env_remove("SOFTHSM2_CONF");
    command
}

#[test]
fn it_shows_a_key_pair_of_each_kind_and_goes_on_with_its_token_the_second_time() {
    let home = tempfile::tempdir().unwrap();
    let run = || {
        let output = quickstart(home.path()).arg("--once").output().unwrap();
        succeeded("quickstart.sh".as_ref(), &output)
    };
    let first = run();
    assert!(
        first.contains("initialised the token \"quickstart\""),
        "{first}"
    );
    for expected in [
        "provider              HSM",
        "provider              LOCAL",
        "grpcurl -plaintext 127.0.0.1:",
    ] {
        assert!(first.contains(expected), "{expected} is not in {first}");
    }
    let second = run();
    assert!(!second.contains("initialised the token"), "{second}");
    let listed = second
        .lines()
        .filter(|line| line.contains("VALID  "))
        .count();
    assert_eq!(listed, 4, "{second}");
}

#[test]
fn a_run_that_was_interrupted_while_it_made_the_token_is_put_right_by_the_next() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    fs::create_dir_all(path("tokens/half-made")).unwrap();
    fs::write(path("tokens/half-made/token.lock"), "").unwrap();
    // The log of the former run names another address.
    let former = "2026-11-30T00:00:00Z  INFO keypaird::app: serving address=127.0.0.1:1 mode=hybrid\n\
                  2026-11-30T00:00:00Z  INFO keypaird: connected to the token\n";
    fs::write(path("log"), former).unwrap();
    let output = quickstart(home.path()).arg("--once").output().unwrap();
    let said = succeeded("quickstart.sh".as_ref(), &output);
    assert!(
        said.contains("initialised the token \"quickstart\""),
        "{said}"
    );
    assert!(!said.contains("127.0.0.1:1 "), "{said}");
    assert!(!path("tokens/half-made").exists());
}

#[test]
fn it_stays_until_it_is_interrupted_and_takes_the_daemon_along() {
    let home = tempfile::tempdir().unwrap();
    let mut child = quickstart(home.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let log = home.path().join("log");
    let begun = Instant::now();
    let logged =
        |text: &str| std::fs::read_to_string(&log).is_ok_and(|log| log.matches(text).count() > 0);
    while !logged("key=RSA-2048") {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "no key pair was made"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it did not stay");
    kill_process(
        Pid::from_raw(child.id().try_into().unwrap()).unwrap(),
        Signal::INT,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(logged("stopped"), "the daemon was left running");
}
