//! keypairctl, run as a person and as a script run it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::daemon::{Daemon, binary};

/// Options of `generate` for an EC key.
pub const SUBJECT: [&str; 10] = [
    "--common-name",
    "Example",
    "--organization",
    "Acme",
    "--country",
    "US",
    "--valid-days",
    "20",
    "--key-algorithm",
    "EC",
];

/// Prepares a command line.
pub fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("keypairctl"));
    command
        .args(arguments)
        .env("KEYPAIRCTL_ADDRESS", daemon.address().to_string())
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

/// Runs a command line to its end, with nothing on standard input.
pub fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    command(daemon, arguments).output().unwrap()
}

/// Returns what a command wrote to standard output.
pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns what a command wrote to standard error.
pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command line that succeeds, and returns what it wrote.
pub fn succeeded(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = run(daemon, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        err(&output)
    );
    out(&output)
}

/// Runs a command line that succeeds, and reads the JSON that it wrote.
pub fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeded(daemon, arguments)).unwrap()
}

/// Runs a command line to its end, with this on standard input.
pub fn run_with(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(daemon, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs a command line in a terminal of its own, and returns what that shows.
pub fn in_terminal(daemon: &Daemon, arguments: &[&str], typed: &str) -> String {
    let line = std::iter::once(binary("keypairctl").display().to_string())
        .chain(arguments.iter().map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(" ");
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("KEYPAIRCTL_ADDRESS", daemon.address().to_string())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(typed.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    out(&output)
}
