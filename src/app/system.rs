//! Time, chance, limits and environment as the system gives them: the one place that asks for them.

use std::collections::HashMap;
use std::path::PathBuf;

use aws_lc_rs::rand;
use rustix::process::{Resource, getrlimit};
use time::OffsetDateTime;

use crate::config::Environment;
use crate::domain::{Clock, Entropy, EntropyError};

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// aws-lc's generator, which is seeded by the system's.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits_128(&self) -> Result<[u8; 16], EntropyError> {
        let mut bits = [0; 16];
        rand::fill(&mut bits).map_err(|_| EntropyError)?;
        Ok(bits)
    }
}

/// Returns how many descriptors the process may have open at once, if that is limited.
pub(super) fn descriptors_max() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    usize::try_from(limit).ok()
}

/// Reads the environment of the process.
///
/// The state folder is the first of `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/keypaird`,
/// `$HOME/.local/state/keypaird`, and `keypaird-state` in the working folder.
pub fn environment() -> Environment {
    // Variables that are not UTF-8 are none of ours.
    let variables: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let folder = |name: &str| {
        let value = variables.get(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let state_folder = folder("STATE_DIRECTORY")
        .or_else(|| folder("XDG_STATE_HOME").map(|home| home.join("keypaird")))
        .or_else(|| folder("HOME").map(|home| home.join(".local/state/keypaird")))
        .unwrap_or_else(|| "keypaird-state".into());
    Environment {
        variables,
        state_folder,
    }
}
