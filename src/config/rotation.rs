//! What `[rotation]` means.

use std::time::Duration;

use super::checked::Faults;
use super::raw::{self, Days};

/// How key pairs rotate, and what is told of their expiry.
#[derive(Clone, Debug)]
pub struct RotationConfig {
    /// Whether they rotate by themselves.
    pub enabled: bool,
    /// How often it is looked at what is due.
    pub check_interval: Duration,
    /// At how many days before the expiry of a certificate those are told who watch, each 1 to 36500.
    pub expiry_warning_days: Vec<u16>,
}

impl Faults {
    pub(super) fn rotation(&mut self, raw: raw::Rotation) -> RotationConfig {
        let enabled = self.given("rotation.enabled", raw.enabled);
        let check_interval = self.duration(
            "rotation.check_interval",
            raw.check_interval,
            Duration::from_secs(60),
        );
        if check_interval > CHECK_INTERVAL_MAX {
            self.add("rotation.check_interval", "must be at most \"30m\"");
        }
        let key = "rotation.expiry_warning_days";
        let expiry_warning_days = match self.given(key, raw.expiry_warning_days) {
            None => vec![30, 7, 1],
            Some(days) => warning_days(days).unwrap_or_else(|| {
                let expected = format!(
                    "must be at most {WARNINGS_MAX} numbers of days, each 1 to 36500, such as [30, 7, 1]"
                );
                self.add(key, expected);
                Vec::new()
            }),
        };
        RotationConfig {
            enabled: enabled.unwrap_or(true),
            check_interval,
            expiry_warning_days,
        }
    }
}

/// Reads numbers of days, none of them if one is wrong.
fn warning_days(days: Days) -> Option<Vec<u16>> {
    let days: Vec<i64> = match days {
        Days::List(days) => days,
        Days::Text(text) if text.trim().is_empty() => Vec::new(),
        Days::Text(text) => {
            let numbers = text.split(',').map(|number| number.trim().parse().ok());
            numbers.collect::<Option<_>>()?
        }
    };
    let checked = days.iter().map(|days| {
        let days = u16::try_from(*days).ok()?;
        (1..=36_500).contains(&days).then_some(days)
    });
    checked
        .collect::<Option<_>>()
        .filter(|days: &Vec<u16>| days.len() <= WARNINGS_MAX)
}

/// So that a key signs before its predecessor expires, also when it does so at the last moment.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(30 * 60);
/// How many warnings there are of one expiry at most.
const WARNINGS_MAX: usize = 16;
