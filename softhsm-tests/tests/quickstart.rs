//! `deploy/quickstart.sh` and the commands of the README: what a newcomer runs first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
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

/// The quickstart as it stays in the foreground. Ended when dropped.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it, and waits until it has shown its key pairs.
    fn start(home: &Path) -> Self {
        let child = quickstart(home).stdout(Stdio::null()).spawn().unwrap();
        let running = Self {
            child,
            log: home.join("log"),
        };
        let begun = Instant::now();
        while !running.logged("key=RSA-2048") {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "no key pair was made"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        running
    }

    fn logged(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    /// Returns the address that the daemon listens on.
    fn address(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap();
        let (_, rest) = log.split_once("serving address=").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Interrupts it as Ctrl-C does, and waits for its end.
    fn interrupt(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.interrupt();
        }
    }
}

#[test]
fn it_stays_until_it_is_interrupted_and_takes_the_daemon_along() {
    let home = tempfile::tempdir().unwrap();
    let mut running = Running::start(home.path());
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        running.child.try_wait().unwrap().is_none(),
        "it did not stay"
    );
    assert!(running.interrupt().success());
    assert!(running.logged("stopped"), "the daemon was left running");
}

/// A command of the README, and what it prints there.
struct Shown {
    command: String,
    output: Vec<String>,
}

/// Returns the commands of a page that begin with `$`, in their order.
fn commands(page: &str) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    let mut goes_on = false;
    for line in page.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            continue;
        };
        match line.strip_prefix("$ ") {
            Some(command) => commands.push(Shown {
                command: command.to_owned(),
                output: Vec::new(),
            }),
            None => match commands.last_mut() {
                Some(last) if goes_on => last.command.extend(["\n", line]),
                Some(last) => last.output.push(line.to_owned()),
                None => {}
            },
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

#[test]
fn each_command_of_the_readme_does_what_it_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    // What comes after belongs to a clone of the repository.
    let (first_key, _) = readme.split_once("## What it promises").unwrap();
    let home = tempfile::tempdir().unwrap();
    let running = Running::start(home.path());
    let address = running.address();
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::join_paths([
        softhsm_tests::daemon::binary("keypairctl")
            .parent()
            .unwrap()
            .to_owned(),
        root.join(".tools/venv/bin"),
    ]);
    let path = path.unwrap().into_string().unwrap() + ":" + &std::env::var("PATH").unwrap();
    let mut ran = 0;
    for Shown { command, output } in commands(first_key) {
        if command.starts_with("export PATH=") {
            continue;
        }
        let mut script = command.replace("127.0.0.1:9443", &address);
        if script.starts_with("keypairctl watch") {
            // It ends with Ctrl-C only.
            script = format!("timeout 1 {script} || test $? = 124");
        }
        let done = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env("KEYPAIRCTL_ADDRESS", format!("http://{address}"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = succeeded(command.as_ref(), &done);
        for shown in output.iter().filter(|line| !line.trim().is_empty()) {
            // Times, numbers and fingerprints differ. What names them does not.
            let shown = shown.split("  ").next().unwrap();
            assert!(said.contains(shown), "{command}: {shown} is not in {said}");
        }
        ran += 1;
    }
    assert!(ran >= 17, "{ran} commands");
}

#[test]
fn the_container_image_serves_tls_at_the_port_that_it_exposes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dockerfile = fs::read_to_string(root.join("deploy/Dockerfile")).unwrap();
    let after = |word: &str| dockerfile.split_once(word).unwrap().1;
    let port = after("\nEXPOSE ").lines().next().unwrap();
    let settings = after("\nENV ");
    let end = settings
        .lines()
        .position(|line| !line.ends_with('\\'))
        .unwrap();
    let settings: Vec<_> = settings
        .lines()
        .take(end + 1)
        .map(|line| line.trim().trim_end_matches([' ', '\\']))
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let check = Command::new(softhsm_tests::daemon::binary("keypaird"))
        .arg("check-config")
        .env_clear()
        .envs(settings)
        .output()
        .unwrap();
    let said = succeeded("check-config".as_ref(), &check);
    assert!(
        said.contains(&format!("listen    0.0.0.0:{port} with TLS")),
        "{said}"
    );
}
