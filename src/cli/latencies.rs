//! Durations, counted in classes: as little memory for an hour as for a second.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long things took. Quantiles are at most 1/64 too high; the longest is exact.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    /// How many there are of each class, by the most microseconds that belong to it.
    classes: BTreeMap<u64, u64>,
    count: u64,
    max: Duration,
}

impl Latencies {
    /// Adds one.
    pub(super) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        *self.classes.entry(class(micros)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the longest, zero when there is none.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// Returns what so many of a hundred do not exceed.
    pub(super) fn percentile(&self, percent: u64) -> Duration {
        let rank = self.count.saturating_mul(percent).div_ceil(100).max(1);
        let mut counted = 0;
        for (most, count) in &self.classes {
            counted += count;
            if counted >= rank {
                return Duration::from_micros(*most).min(self.max);
            }
        }
        self.max
    }
}

/// Returns the most microseconds of a class: the seven highest bits count, those below are all set.
fn class(micros: u64) -> u64 {
    let low_bits = (u64::BITS - micros.leading_zeros()).saturating_sub(CLASS_BITS);
    micros | ((1 << low_bits) - 1)
}

const CLASS_BITS: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_a_64th_too_high() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50), Duration::ZERO);
        for micros in 1..=100_000 {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!(latencies.count(), 100_000);
        for (percent, exact) in [(50, 50_000), (90, 90_000), (99, 99_000), (100, 100_000)] {
            let shown = latencies.percentile(percent);
            let (low, high) = (exact, exact + exact / 64);
            assert!(
                (Duration::from_micros(low)..=Duration::from_micros(high)).contains(&shown),
                "{percent}: {shown:?}"
            );
        }
        assert_eq!(latencies.max(), Duration::from_millis(100));
        assert!(latencies.classes.len() < 1000);
    }

    #[test]
    fn short_and_endless_ones_have_a_class_too() {
        for micros in [0, 1, 127] {
            assert_eq!(class(micros), micros);
        }
        assert_eq!((class(128), class(129), class(130)), (129, 129, 131));
        assert_eq!(class(u64::MAX), u64::MAX);
    }
}
