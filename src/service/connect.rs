//! Keeps providers connected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Service;
use super::health::Said;
use crate::providers::{Lane, Operation, ProviderErrorKind, ProviderHandle};
use crate::telemetry::chain;

impl Service {
    /// Connects every provider, and connects it again whenever it is lost, until `stop`.
    ///
    /// A token that is away is tried again, after half a second at first and three at last. A PIN that was
    /// refused is not sent again before it changes. One that is lost more than 40 times in a minute is left alone for
    /// longer each time, two seconds at last.
    pub async fn keep_connected(self: Arc<Self>, stop: CancellationToken) {
        self.log_doubtful_keys().await;
        self.for_each_provider(stop, |service, handle| async move {
            tokio::join!(
                service.keep_provider_connected(&handle),
                look_for_lost_threads(&handle)
            );
        })
        .await;
    }

    /// Does something for every provider, side by side, until it ends or `stop`.
    pub(super) async fn for_each_provider<Work>(
        self: Arc<Self>,
        stop: CancellationToken,
        work: impl Fn(Arc<Self>, Arc<ProviderHandle>) -> Work,
    ) where
        Work: Future<Output = ()> + Send + 'static,
    {
        let providers = self.registry.iter().map(|handle| {
            let work = work(Arc::clone(&self), Arc::clone(handle));
            tokio::spawn(stop.clone().run_until_cancelled_owned(work))
        });
        for task in providers.collect::<Vec<_>>() {
            if let Err(error) = task.await {
                error!(%error, "a provider is no longer looked after");
            }
        }
    }

    async fn keep_provider_connected(&self, handle: &ProviderHandle) {
        let mut wait = RETRY_MIN;
        let mut reported = None;
        let mut losses = Vec::new();
        loop {
            match handle.connect().await {
                Ok(()) => {
                    self.health.of(handle.kind()).lock().unconnected = None;
                    reported = None;
                    wait = RETRY_MIN;
                    self.provider_came.notify_one();
                    self.look_after(handle).await;
                    self.tell_whether_it_serves(handle.kind(), false).await;
                    losses.retain(|at: &Instant| at.elapsed() < LOSSES_WINDOW);
                    losses.push(Instant::now());
                    let rest = rest_after(losses.len());
                    if rest == REST_STEP {
                        warn!(provider = %handle.kind(), "the provider is lost again and again; it is given a rest each time");
                    }
                    tokio::time::sleep(rest).await;
                }
                Err(failure) => {
                    self.tell_whether_it_serves(handle.kind(), false).await;
                    let to_operators = Said::of_connection(&failure);
                    let remedy = to_operators.remedy;
                    self.health.of(handle.kind()).lock().unconnected = Some(to_operators);
                    // Said once, not at every try.
                    let said = chain(&failure);
                    if reported.as_deref() != Some(&*said) {
                        let next = match failure.kind {
                            ProviderErrorKind::LoginRefused => "when the PIN changes",
                            _ => "again and again",
                        };
                        error!(
                            provider = %handle.kind(), cause = said, remedy,
                            "the provider is not available; it is tried {next}"
                        );
                        reported = Some(said);
                    }
                    tokio::time::sleep(wait).await;
                    // Until the PIN changes, to try again is to read it again.
                    let wait_max = match failure.kind {
                        ProviderErrorKind::LoginRefused => RETRY_REFUSED,
                        _ => RETRY_MAX,
                    };
                    wait = (wait * 2).min(wait_max);
                }
            }
        }
    }

    /// Stays as long as the provider is connected.
    async fn look_after(&self, handle: &ProviderHandle) {
        if handle.provider().token().is_none() {
            // Software needs no connection, and leaves nothing to be compared or destroyed.
            return std::future::pending().await;
        }
        let mut comparison = Comparison::default();
        let mut ticks = 0_u32;
        while handle.provider().availability().is_ok() {
            if comparison.is_due() {
                match self.reconcile(handle).await {
                    Ok(_) => comparison.succeed(),
                    Err(failure) => {
                        let again_in = comparison.put_off();
                        warn!(error = %failure, ?again_in, "the token and the store could not be compared");
                    }
                }
            }
            tokio::time::sleep(TICK).await;
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(TICKS_BETWEEN_PROBES) {
                // What it finds shows in the availability.
                let _ = handle
                    .run(Lane::Sign, Operation::Connect, |provider| provider.probe())
                    .await;
                if let Err(failure) = self.settle(handle).await {
                    warn!(error = %failure, "keys could not be destroyed yet");
                }
                if let Err(failure) = self.publish_unpublished(handle).await {
                    warn!(error = %failure, "new certificates could not be put on the token yet");
                }
            }
        }
    }
}

/// When the token and the store are to be compared: once for each connection, and again for as long
/// as that fails.
#[derive(Debug, Default)]
struct Comparison {
    succeeded: bool,
    /// How long it was put off the last time.
    wait: Duration,
    /// When it was, if it failed.
    failed: Option<Instant>,
}

impl Comparison {
    fn is_due(&self) -> bool {
        let waited = self.failed.is_none_or(|at| at.elapsed() >= self.wait);
        !self.succeeded && waited
    }

    fn succeed(&mut self) {
        self.succeeded = true;
    }

    /// Puts it off, longer each time, and returns for how long.
    fn put_off(&mut self) -> Duration {
        self.wait = (self.wait * 2).clamp(RECONCILE_RETRY_MIN, RECONCILE_RETRY_MAX);
        self.failed = Some(Instant::now());
        self.wait
    }
}

/// Puts others in the place of threads whose calls do not come back, whatever else goes on. Does not return.
async fn look_for_lost_threads(handle: &ProviderHandle) {
    loop {
        tokio::time::sleep(TICK).await;
        handle.look_for_lost_threads();
    }
}

/// Returns for how long a provider is left alone that was lost so often within a while.
fn rest_after(losses: usize) -> Duration {
    let beyond = u32::try_from(losses.saturating_sub(LOSSES_MAX)).unwrap_or(u32::MAX);
    REST_STEP.saturating_mul(beyond).min(REST_MAX)
}

const RETRY_MIN: Duration = Duration::from_millis(500);
/// However long a token was away, it is used again within five seconds when it is back.
const RETRY_MAX: Duration = Duration::from_secs(3);
const RETRY_REFUSED: Duration = Duration::from_secs(2);
/// How often a provider may be lost within a while and be connected again at once. That is more than canaries alone make it.
const LOSSES_MAX: usize = 40;
const LOSSES_WINDOW: Duration = Duration::from_secs(60);
/// By how much one that is lost oftener is left alone for longer, and for how long at most: it too is used again within five
/// seconds when it is well.
const REST_STEP: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(2);
/// How long a comparison of token and store that failed is put off: longer each time.
const RECONCILE_RETRY_MIN: Duration = Duration::from_millis(500);
const RECONCILE_RETRY_MAX: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(250);
const TICKS_BETWEEN_PROBES: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_that_fails_is_put_off_for_longer_each_time_and_is_over_when_it_succeeds() {
        let mut comparison = Comparison::default();
        assert!(comparison.is_due());
        let waits: Vec<_> = (0..8).map(|_| comparison.put_off().as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert!(!comparison.is_due());
        comparison.wait = Duration::ZERO;
        assert!(comparison.is_due());
        comparison.succeed();
        assert!(!comparison.is_due());
    }
}
