//! Time, chance, limits and environment as the system gives them: the one place that asks for them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use rustix::process::{Resource, getrlimit};
use time::OffsetDateTime;

use super::StartError;
use crate::config::Environment;
use crate::domain::{Clock, END_OF_TIME, Entropy, EntropyError};
use crate::providers::wait_for_turn_when_woken;
use crate::server;

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> OffsetDateTime {
        time_of(SystemTime::now())
    }
}

/// Brings a time of the system into the years that can be written. A clock that is beyond them
/// stands still.
fn time_of(time: SystemTime) -> OffsetDateTime {
    let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    let (nanos, limit) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (nanos(since), END_OF_TIME),
        Err(before) => (-nanos(before.duration()), OffsetDateTime::UNIX_EPOCH),
    };
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(limit)
}

/// Refuses a clock by which nothing can be dated.
pub(super) fn refuse_wrong_clock() -> Result<(), StartError> {
    let now = SystemClock.now();
    match is_datable(now) {
        true => Ok(()),
        false => Err(StartError::Clock(now.date().to_string())),
    }
}

/// Tells whether HTTP, TLS and X.509 can all write a time.
fn is_datable(time: OffsetDateTime) -> bool {
    (OffsetDateTime::UNIX_EPOCH..END_OF_TIME).contains(&time)
}

/// Prepares a thread of the runtime, before it answers its first call.
pub fn prepare_thread() {
    wait_for_turn_when_woken();
    // By another clock, nothing is answered.
    if is_datable(SystemClock.now()) {
        server::prepare_thread();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_beyond_the_year_9999_stands_at_its_end() {
        let seconds = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let end = u64::try_from(END_OF_TIME.unix_timestamp()).unwrap();
        assert_eq!(time_of(seconds(end)), END_OF_TIME);
        assert_eq!(time_of(seconds(end + 1)), END_OF_TIME);
        assert_eq!(time_of(seconds(1_000_000_000_000)), END_OF_TIME);
        assert_eq!(time_of(UNIX_EPOCH), OffsetDateTime::UNIX_EPOCH);
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(time_of(before).unix_timestamp(), -1);
        let datable = [before, UNIX_EPOCH, seconds(end - 1), seconds(end)]
            .map(|time| is_datable(time_of(time)));
        assert_eq!(datable, [false, true, true, false]);
    }
}
