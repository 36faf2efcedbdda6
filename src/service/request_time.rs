//! The time by which named requests are remembered.
//!
//! A request with a `request_id` that comes again within a day gets the same answer. A clock may be
//! wrong for a while: before NTP has set it, or when somebody mistypes a year. By such a clock the
//! day would be over at once, and the repeated request would make a second key pair. So the day is
//! one of this time, which goes on as `CLOCK_MONOTONIC` does while the daemon runs. The store keeps
//! it over restarts. While the daemon is stopped, it stands: nothing tells how long that was but a
//! clock that may be wrong. A request is thus remembered for a day or longer, never for less.

use time::{Duration, OffsetDateTime};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::warn;

use super::Service;
use crate::domain::END_OF_TIME;
use crate::store::StoreError;

/// What the time was at a moment of this run of the daemon.
#[derive(Debug, Default)]
pub(super) struct RequestTime(OnceCell<(OffsetDateTime, Instant)>);

impl Service {
    /// Returns the time of named requests. It begins by the clock, in a store that has none.
    pub(super) async fn request_time(&self) -> Result<OffsetDateTime, StoreError> {
        let begin = async || {
            let known = self.store.request_time().await?;
            let begun = known.unwrap_or_else(|| self.clock.now());
            Ok::<_, StoreError>((begun, Instant::now()))
        };
        let (start, at) = self.request_time.0.get_or_try_init(begin).await?;
        let passed = Duration::try_from(at.elapsed()).unwrap_or(Duration::MAX);
        Ok(start.saturating_add(passed).min(END_OF_TIME))
    }

    /// Forgets the requests that were answered more than a day ago.
    pub(super) async fn forget_old_requests(&self) {
        let forgotten = match self.request_time().await {
            Ok(now) => self.store.forget_requests(now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            warn!(%error, "old requests could not be forgotten");
        }
    }
}
