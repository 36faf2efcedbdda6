//! Whether the clock can be trusted with what cannot be undone.
//!
//! A clock may be wrong for a while: before NTP has set it, or when a virtual machine goes on after a
//! pause. What is done then by the wrong time stays done: a private key is destroyed, an expiry is
//! announced that has not come. So such steps wait until the clock has agreed with the time that passed
//! for an interval. They are none that have to be in time.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::warn;

/// Compares the clock with the time that passed, at each look.
///
/// The time that passed is that of `CLOCK_MONOTONIC`, which stands still while the machine is
/// suspended. A suspension is thus a jump of the clock like any other, and has the steps wait for an
/// interval more. So does the start of the daemon, before which nothing is known.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    last: Option<(OffsetDateTime, Instant)>,
    steady_since: Option<Instant>,
}

impl ClockWatch {
    /// Looks at the clock, and returns the time it shows if it has been steady for `interval`.
    pub(super) fn trusted(
        &mut self,
        now: OffsetDateTime,
        interval: Duration,
    ) -> Option<OffsetDateTime> {
        let at = Instant::now();
        let jump = self.last.map(|(then, since)| {
            let passed = time::Duration::try_from(at - since).unwrap_or(time::Duration::MAX);
            (now - then).saturating_sub(passed)
        });
        if let Some(jump) = jump.filter(|jump| jump.abs() > TOLERATED) {
            warn!(
                jump_seconds = jump.whole_seconds(),
                "the clock jumped; nothing is retired, announced as expired or forgotten until it has been steady for {interval:?}"
            );
            self.steady_since = None;
        }
        self.last = Some((now, at));
        let steady_since = *self.steady_since.get_or_insert(at);
        (at - steady_since >= interval).then_some(now)
    }
}

/// How far the clock may be set between two looks. NTP slews both clocks alike.
const TOLERATED: time::Duration = time::Duration::seconds(10);

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use tokio::time::advance;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-11-24 12:00:00 UTC);
    const INTERVAL: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_clock_is_trusted_when_it_has_been_steady_for_an_interval() {
        let mut watch = ClockWatch::default();
        let mut passed = time::Duration::ZERO;
        let mut ahead = time::Duration::ZERO;
        // By how many seconds the clock is set, how many pass then, and whether it is trusted.
        for (set, seconds, trusted) in [
            (0, 0, false),
            (0, 30, false),
            (0, 30, true),
            (9, 60, true),
            (-9, 60, true),
            // A year ahead, and back again.
            (31_536_000, 1, false),
            (0, 59, false),
            (-31_536_000, 1, false),
            (0, 59, false),
            (0, 1, true),
            // Suspended for an hour.
            (3_600, 60, false),
            (0, 59, false),
            (0, 1, true),
            (-60, 600, false),
            (0, 600, true),
        ] {
            advance(Duration::from_secs(seconds)).await;
            passed += Duration::from_secs(seconds);
            ahead += time::Duration::seconds(set);
            let now = START + passed + ahead;
            let shown = watch.trusted(now, INTERVAL);
            assert_eq!(shown, trusted.then_some(now), "set by {set} after {passed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_too_far_away() {
        let mut watch = ClockWatch::default();
        for now in [
            datetime!(-9999-01-01 00:00 UTC),
            datetime!(9999-12-31 23:59:59 UTC),
            datetime!(-9999-01-01 00:00 UTC),
        ] {
            assert_eq!(watch.trusted(now, INTERVAL), None);
        }
    }
}
