//! Tests that load the PKCS#11 module themselves.
//!
//! `C_Initialize` and `SOFTHSM2_CONF` belong to a process, so each such test runs in one of its own: the
//! test starts its own binary again, with the token in the environment, for that one test.

use std::process::Command;

use crate::token::Token;
use crate::tools::succeeded;

/// Runs the body of a test named `name` in a process of its own, with a fresh token.
pub fn with_token(name: &str, body: impl FnOnce(&TokenHere)) {
    if let Some(pin_file) = std::env::var_os(CHILD) {
        body(&TokenHere {
            pin_file: pin_file.into(),
        });
        return;
    }
    let token = Token::fresh();
    let test = std::env::current_exe().unwrap();
    let output = Command::new(&test)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", token.conf())
        .env(CHILD, token.pin_file())
        .output()
        .unwrap();
    let said = succeeded(test.as_os_str(), &output);
    assert!(said.contains("1 passed"), "there is no test {name}: {said}");
}

/// The token that `SOFTHSM2_CONF` of this process points to.
#[derive(Debug)]
pub struct TokenHere {
    /// The file with its PIN.
    pub pin_file: std::path::PathBuf,
}

const CHILD: &str = "KEYPAIRD_TEST_PIN_FILE";
