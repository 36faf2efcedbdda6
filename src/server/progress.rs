//! Whether bytes that are waited for move, and for how long they have not.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The progress of bytes in one direction of a connection.
#[derive(Debug)]
pub(super) struct Progress(Mutex<(Instant, usize)>);

impl Progress {
    /// Begins with no bytes moved.
    pub(super) fn new() -> Self {
        Self(Mutex::new((Instant::now(), 0)))
    }

    /// Returns for how long there was no progress, at a look that finds so many bytes moved in all.
    ///
    /// Fewer than [`PROGRESS_MIN`] bytes since the last progress are none: bytes that trickle keep
    /// memory as well as bytes that stand still. Where nothing is pending, there is nothing to wait
    /// for, and that counts as progress.
    pub(super) fn still_for(&self, moved: usize, is_pending: bool) -> Duration {
        let mut last = self.0.lock();
        if !is_pending || moved.wrapping_sub(last.1) >= PROGRESS_MIN {
            *last = (Instant::now(), moved);
        }
        last.0.elapsed()
    }
}

/// How many bytes are progress.
const PROGRESS_MIN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_that_trickle_are_no_progress() {
        let progress = Progress::new();
        let second = Duration::from_secs(1);
        for looks in 1..=10 {
            tokio::time::advance(second).await;
            assert_eq!(progress.still_for(1, true), second * looks);
        }
        assert_eq!(progress.still_for(PROGRESS_MIN, true), Duration::ZERO);
        tokio::time::advance(second).await;
        assert_eq!(progress.still_for(PROGRESS_MIN + 1, true), second);
        assert_eq!(progress.still_for(PROGRESS_MIN + 1, false), Duration::ZERO);
    }
}
