//! Tests that load the PKCS#11 module themselves.
//!
//! `C_Initialize` and `SOFTHSM2_CONF` belong to a process, so each such test runs in one of its own: the
//! test starts its own binary again, with the token in the environment, for that one test.

use std::process::Command;

use crate::faults::FaultyModule;
use crate::token::Token;
use crate::tools::succeeded;

/// Runs the body of a test named `name` in a process of its own, with a fresh token.
pub fn with_token(name: &str, body: impl FnOnce(&TokenHere)) {
    match TokenHere::of_process() {
        Some(here) => body(&here),
        None => run_again(name, |_| {}),
    }
}

/// Runs the body of a test as [`with_token`] does, where [`crate::token::module`] is one that fails when told.
pub fn with_faulty_token(name: &str, body: impl FnOnce(&TokenHere, &FaultyModule)) {
    if let Some(here) = TokenHere::of_process() {
        return body(&here, &FaultyModule::of_process());
    }
    let module = FaultyModule::new();
    run_again(name, |test| {
        test.env("KEYPAIRD_TEST_MODULE", module.library())
            .env("FAULT_FILE", module.orders());
    });
}

/// Starts this program again for one test.
fn run_again(name: &str, prepare: impl FnOnce(&mut Command)) {
    let token = Token::fresh();
    let program = std::env::current_exe().unwrap();
    let mut test = Command::new(&program);
    test.args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", token.conf())
        .env(CHILD, token.pin_file());
    prepare(&mut test);
    let said = succeeded(program.as_os_str(), &test.output().unwrap());
    assert!(said.contains("1 passed"), "there is no test {name}: {said}");
    println!("{said}");
}

/// The token that `SOFTHSM2_CONF` of this process points to.
#[derive(Debug)]
pub struct TokenHere {
    /// The file with its PIN.
    pub pin_file: std::path::PathBuf,
}

impl TokenHere {
    fn of_process() -> Option<Self> {
        let pin_file = std::env::var_os(CHILD)?.into();
        Some(Self { pin_file })
    }
}

const CHILD: &str = "KEYPAIRD_TEST_PIN_FILE";
