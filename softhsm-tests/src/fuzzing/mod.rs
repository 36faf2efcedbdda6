//! What a hostile caller can send, put through the doors of the daemon: the bodies of the fuzz targets.
//!
//! Each target takes any bytes, and panics when something happens that never may: a panic, an answer that says that
//! something went wrong inside, or one that is not of the form of the contract. A fuzzer calls them with bytes of its own
//! making (`fuzz/`); a test calls them with the seeds, and with all that was found once.

mod calls;
mod files;
mod seeds;
mod stage;

use std::collections::HashMap;
use std::fs;

use keypaird::config::{Config, Environment};

pub use files::with_mac;
pub use seeds::seeds;

/// A target: its name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("protobuf", calls::protobuf),
    ("json", calls::json),
    ("page_token", calls::page_token),
    ("pkcs12", files::pkcs12),
    ("pem", files::pem),
    ("csr_answer", files::csr_answer),
    ("configuration", configuration),
];

/// Puts bytes through a target.
pub fn try_target(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    target(bytes);
}

/// Loads a configuration: the file, and behind a zero byte the environment, a variable on each line.
fn configuration(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keypaird.toml");
    fs::write(&file, parts.next().unwrap_or_default()).unwrap();
    let variables = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let variables: HashMap<_, _> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let environment = Environment {
        variables,
        state_folder: folder.path().to_owned(),
    };
    if let Err(error) = Config::load(Some(&file), &environment) {
        assert!(!error.to_string().is_empty());
    }
}
