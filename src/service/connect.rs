//! Keeps providers connected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Service;
use super::health::Said;
use crate::domain::EventKind::{ProviderRecovered, ProviderUnavailable};
use crate::providers::{Lane, Operation, ProviderErrorKind, ProviderHandle};
use crate::telemetry::chain;

impl Service {
    /// Connects every provider, and connects it again whenever it is lost, until `stop`.
    ///
    /// A token that is away is tried again, after half a second at first and three at last. A PIN that was
    /// refused is not sent again before it changes. One that is lost more than 60 times in a minute is left alone for ten
    /// seconds.
    pub async fn keep_connected(self: Arc<Self>, stop: CancellationToken) {
        let providers: Vec<_> = self.registry.iter().cloned().collect();
        let loops = providers.into_iter().map(|handle| {
            let (service, stop) = (Arc::clone(&self), stop.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(service.keep_provider_connected(&handle))
                    .await;
            })
        });
        for task in loops.collect::<Vec<_>>() {
            if let Err(error) = task.await {
                error!(%error, "a provider is no longer looked after");
            }
        }
    }

    async fn keep_provider_connected(&self, handle: &ProviderHandle) {
        let mut wait = RETRY_MIN;
        let mut reported = None;
        let mut lost = false;
        let mut losses = Vec::new();
        loop {
            let connected = handle
                .run_to_end(Lane::Manage, Operation::Connect, |provider| {
                    provider.connect()
                })
                .await;
            match connected {
                Ok(()) => {
                    self.health.of(handle.kind()).lock().unconnected = None;
                    reported = None;
                    wait = RETRY_MIN;
                    if lost {
                        self.tell_of_provider(ProviderRecovered, handle.kind())
                            .await;
                    }
                    self.provider_came.notify_one();
                    self.look_after(handle).await;
                    lost = true;
                    self.tell_of_provider(ProviderUnavailable, handle.kind())
                        .await;
                    losses.retain(|at: &Instant| at.elapsed() < LOSSES_WINDOW);
                    losses.push(Instant::now());
                    if losses.len() > LOSSES_MAX {
                        warn!(provider = %handle.kind(), "the provider is lost again and again; it is given a rest");
                        tokio::time::sleep(REST).await;
                    }
                }
                Err(failure) => {
                    if !lost {
                        lost = true;
                        self.tell_of_provider(ProviderUnavailable, handle.kind())
                            .await;
                    }
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
            loop {
                if let Err(failure) = self.settle_condemned(handle).await {
                    warn!(error = %failure, "condemned keys could not be destroyed yet");
                }
                tokio::time::sleep(TICK * TICKS_BETWEEN_PROBES).await;
            }
        }
        if let Err(failure) = self.reconcile(handle).await {
            warn!(error = %failure, "the token and the store could not be compared");
        }
        let mut ticks = 0_u32;
        while handle.provider().availability().is_ok() {
            tokio::time::sleep(TICK).await;
            handle.look_for_lost_threads();
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(TICKS_BETWEEN_PROBES) {
                // What it finds shows in the availability.
                let _ = handle
                    .run(Lane::Sign, Operation::Connect, |provider| provider.probe())
                    .await;
                if let Err(failure) = self.settle_condemned(handle).await {
                    warn!(error = %failure, "condemned keys could not be destroyed yet");
                }
                if let Err(failure) = self.publish_unpublished(handle).await {
                    warn!(error = %failure, "new certificates could not be put on the token yet");
                }
            }
        }
    }
}

const RETRY_MIN: Duration = Duration::from_millis(500);
/// However long a token was away, it is used again within five seconds when it is back.
const RETRY_MAX: Duration = Duration::from_secs(3);
const RETRY_REFUSED: Duration = Duration::from_secs(2);
/// How often a provider may be lost within a while and be connected again at once. That is more than canaries alone make it.
const LOSSES_MAX: usize = 60;
const LOSSES_WINDOW: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(250);
const TICKS_BETWEEN_PROBES: u32 = 20;
