//! The configuration: what was written, and what it means.
//!
//! Read in two steps. [`raw`] is what stands in the file and the environment, field by field. [`Config`] is
//! what it means, with the defaults filled in; it comes about only when nothing is wrong, and otherwise
//! every fault is named with its key.

mod checked;
mod error;
mod raw;
mod rest;
mod rotation;
mod server;

pub use checked::{CryptoConfig, Isolation, LocalConfig, StoreConfig, TokenConfig};
pub use error::{ConfigError, Fault};
pub use rest::RestConfig;
pub use rotation::RotationConfig;
pub use server::{ServerConfig, TlsConfig};

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::telemetry::{AccessLog, TelemetryConfig};

/// A configuration in which nothing is wrong.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[rest]`.
    pub rest: RestConfig,
    /// `[crypto]`.
    pub crypto: CryptoConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[rotation]`.
    pub rotation: RotationConfig,
    /// `[telemetry]`.
    pub telemetry: TelemetryConfig,
    /// `telemetry.access_log`.
    pub access_log: AccessLog,
}

/// What the process was started with, as far as the configuration depends on it.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The environment variables.
    pub variables: HashMap<String, String>,
    /// Where the daemon keeps its state when the configuration names no place.
    pub state_folder: PathBuf,
}

impl Config {
    /// Reads the file, if there is one, and then the environment (`KEYPAIRD__SECTION__KEY`).
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let (raw, faults) = raw::Raw::read(file, environment)?;
        checked::check(raw, faults, environment)
    }
}
