//! Does what is due: rotates key pairs, and tells of those that expire.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::clock_watch::ClockWatch;
use super::{Service, ServiceError};
use crate::domain::{DueStep, KeyPairId, Lifecycle, ProviderKind, RotationAction};
use crate::telemetry::chain;

/// How the rotation of key pairs goes.
#[derive(Debug, Default)]
pub struct RotationMetrics {
    overdue: AtomicU64,
    failures: AtomicU64,
    created: AtomicU64,
    activated: AtomicU64,
    retired: AtomicU64,
}

impl RotationMetrics {
    /// Returns with how many key pairs something should have been done by now, and was not.
    pub fn overdue(&self) -> u64 {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Returns how many steps have failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns how many steps of a kind were done since the start.
    pub fn done(&self, action: RotationAction) -> u64 {
        self.counter(action).load(Ordering::Relaxed)
    }

    fn counter(&self, action: RotationAction) -> &AtomicU64 {
        match action {
            RotationAction::CreatePending => &self.created,
            RotationAction::Activate => &self.activated,
            RotationAction::Retire => &self.retired,
        }
    }
}

/// What came of catching up with a key pair.
#[derive(Debug, Default)]
struct CaughtUp {
    /// How many steps were taken.
    steps: usize,
    /// Whether a generation is to be retired, for which the clock cannot be trusted yet.
    waits: bool,
}

/// Key pairs with which something could not be done, and when it is tried again; and what ends the
/// work between two steps.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    by_id: HashMap<KeyPairId, Setback>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Setback {
    attempts: u32,
    /// Whose absence was the reason.
    missing: Option<ProviderKind>,
    again: Instant,
}

impl Setbacks {
    /// Begins without any. Nothing new is begun after `stop`.
    pub(super) fn until(stop: &CancellationToken) -> Self {
        Self {
            by_id: HashMap::new(),
            stop: stop.clone(),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Returns how long nothing needs to be tried: an interval at most.
    fn patience(&self, interval: Duration) -> Duration {
        let soonest = self.by_id.values().map(|setback| setback.again).min();
        soonest.map_or(interval, |again| {
            let wait = again.saturating_duration_since(Instant::now());
            interval.min(wait.max(RETRY_MIN))
        })
    }
}

impl Service {
    /// Does what is due, over and over until `stop`: at every interval, and when what was put off may succeed.
    pub async fn keep_rotating(self: Arc<Self>, stop: CancellationToken) {
        let interval = self.config.rotation.check_interval;
        let work = async {
            let mut setbacks = Setbacks::until(&stop);
            let mut clock_watch = ClockWatch::default();
            // Nothing is forgotten in the first hour: what the clock was before the start is not
            // known.
            let mut events_forgotten = Instant::now();
            let mut requests_forgotten = Instant::now();
            loop {
                let trusted = clock_watch.trusted(self.clock.now(), interval);
                // A step is never left half done: only the waiting is broken off.
                let service = Arc::clone(&self);
                let pass = self.tasks.spawn(async move {
                    service.do_what_is_due(&mut setbacks, trusted).await;
                    setbacks
                });
                setbacks = pass.await.unwrap_or_else(|_| Setbacks::until(&stop));
                if let Some(trusted) = trusted
                    && events_forgotten.elapsed() > FORGET_INTERVAL
                {
                    self.forget_old_events(trusted).await;
                    events_forgotten = Instant::now();
                }
                // These do not go by the clock.
                if requests_forgotten.elapsed() > FORGET_INTERVAL {
                    self.forget_old_requests().await;
                    requests_forgotten = Instant::now();
                }
                tokio::select! {
                    () = tokio::time::sleep(setbacks.patience(interval)) => {}
                    () = self.provider_came.notified() => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Does what is due at this moment. What cannot be undone is done only if it is due by `trusted`, the
    /// time of a clock that is known to be steady.
    pub(super) async fn do_what_is_due(
        &self,
        setbacks: &mut Setbacks,
        trusted: Option<OffsetDateTime>,
    ) {
        if self.config.rotation.enabled
            && let Err(error) = self.rotate_due(setbacks, trusted).await
        {
            warn!(cause = chain(&error), "the rotation is put off");
        }
        if let Some(trusted) = trusted
            && let Err(error) = self.tell_of_expiry(setbacks, trusted).await
        {
            warn!(cause = chain(&error), "the telling of expiries is put off");
        }
    }

    async fn rotate_due(
        &self,
        setbacks: &mut Setbacks,
        trusted: Option<OffsetDateTime>,
    ) -> Result<(), ServiceError> {
        // Key pairs of which only a generation is to be retired, when the clock can be trusted.
        let mut waiting = HashSet::new();
        loop {
            let now = self.clock.now();
            let known = u32::try_from(setbacks.by_id.len() + waiting.len()).unwrap_or(u32::MAX);
            let due = self
                .store
                .due(now, AT_ONCE_MAX.saturating_add(known))
                .await?;
            let still_due: HashSet<_> = due.iter().collect();
            setbacks.by_id.retain(|id, _| still_due.contains(id));
            let mut done = 0;
            for id in due {
                if waiting.contains(&id) || !self.is_to_be_tried(setbacks, &id) {
                    continue;
                }
                if setbacks.is_stopping() {
                    return Ok(());
                }
                match self.catch_up(&id, setbacks, trusted).await {
                    Ok(caught_up) => {
                        setbacks.by_id.remove(&id);
                        done += caught_up.steps;
                        if caught_up.waits {
                            waiting.insert(id);
                        }
                    }
                    Err(error) => self.put_off(setbacks, &id, &error).await,
                }
            }
            // What was put off has its time; what was done may have made other things due.
            if done == 0 {
                break;
            }
        }
        let waiting = u64::try_from(waiting.len()).unwrap_or_default();
        if waiting > 0 {
            info!(
                key_pairs = waiting,
                "generations are retired when the clock has been steady for a while"
            );
        }
        let overdue = self.store.count_due(self.clock.now()).await?;
        self.rotation_metrics
            .overdue
            .store(overdue.saturating_sub(waiting), Ordering::Relaxed);
        Ok(())
    }

    /// Does all that is due with a key pair, in order. What is to be retired waits for a clock that can be
    /// trusted, and keeps nothing else waiting.
    async fn catch_up(
        &self,
        id: &KeyPairId,
        setbacks: &Setbacks,
        trusted: Option<OffsetDateTime>,
    ) -> Result<CaughtUp, ServiceError> {
        let mut caught_up = CaughtUp::default();
        let Some(mut key_pair) = self.store.key_pair(id).await? else {
            return Ok(caught_up);
        };
        while !setbacks.is_stopping() {
            let lifecycle = Lifecycle::of(&key_pair);
            let now = self.clock.now();
            let is_due = |step: &DueStep| step.time <= now;
            let next = lifecycle.next().filter(is_due);
            caught_up.waits = next.is_some_and(|step| {
                step.action == RotationAction::Retire
                    && trusted.is_none_or(|trusted| step.time > trusted)
            });
            let next = match caught_up.waits {
                false => next,
                true => lifecycle.next_without_retirement().filter(is_due),
            };
            let Some(step) = next else { break };
            key_pair = match self.take_step(&key_pair, step).await {
                // Somebody else was faster. What is due now is found anew.
                Err(ServiceError::EtagMismatch(_) | ServiceError::KeyPairNotFound(_)) => break,
                taken => taken?,
            };
            self.rotation_metrics
                .counter(step.action)
                .fetch_add(1, Ordering::Relaxed);
            caught_up.steps += 1;
        }
        Ok(caught_up)
    }

    fn is_to_be_tried(&self, setbacks: &Setbacks, id: &KeyPairId) -> bool {
        setbacks.by_id.get(id).is_none_or(|setback| {
            let back = setback.missing.is_some_and(|kind| self.is_there(kind));
            back || setback.again <= Instant::now()
        })
    }

    fn is_there(&self, kind: ProviderKind) -> bool {
        self.registry
            .provider(kind)
            .is_some_and(|handle| handle.availability().is_ok())
    }

    /// Notes when a step that failed is tried again, and says how much time is left.
    async fn put_off(&self, setbacks: &mut Setbacks, id: &KeyPairId, error: &ServiceError) {
        self.rotation_metrics
            .failures
            .fetch_add(1, Ordering::Relaxed);
        let missing = match error {
            ServiceError::Provider(error) if !self.is_there(error.provider) => Some(error.provider),
            _ => None,
        };
        let attempts = setbacks
            .by_id
            .get(id)
            .map_or(1, |before| before.attempts + 1);
        let wait = RETRY_MIN
            .saturating_mul(1 << attempts.min(16))
            .min(RETRY_MAX);
        setbacks.by_id.insert(
            id.clone(),
            Setback {
                attempts,
                missing,
                again: Instant::now() + wait,
            },
        );
        let days_left = match self.store.key_pair(id).await {
            Ok(Some(pair)) => (pair.current.validity.not_after - self.clock.now()).whole_days(),
            _ => 0,
        };
        warn!(
            key_pair = %id, days_left, attempts, again_in = ?wait, cause = chain(error),
            "a rotation is overdue; it is tried again"
        );
    }

    /// Tells of certificates that expire, or did.
    async fn tell_of_expiry(
        &self,
        setbacks: &Setbacks,
        now: OffsetDateTime,
    ) -> Result<(), ServiceError> {
        loop {
            let days = &self.config.rotation.expiry_warning_days;
            let unwarned = self.store.unwarned(now, days, AT_ONCE_MAX).await?;
            let mut told = 0;
            for (id, days) in unwarned {
                if setbacks.is_stopping() {
                    return Ok(());
                }
                let Some(key_pair) = self.store.key_pair(&id).await? else {
                    continue;
                };
                if self.store.note_warning(&key_pair, days, now).await? {
                    told += 1;
                    let expires = key_pair.current.validity.not_after;
                    let expires = expires.format(&Rfc3339).unwrap_or_default();
                    match days {
                        0 => warn!(key_pair = %id, expires, "a certificate expired"),
                        _ => info!(key_pair = %id, expires, "a certificate expires soon"),
                    }
                }
            }
            if told == 0 {
                return Ok(());
            }
        }
    }

    async fn forget_old_events(&self, now: OffsetDateTime) {
        let before = now.saturating_sub(EVENTS_KEPT);
        if let Err(error) = self.store.forget_events(before).await {
            warn!(%error, "old events could not be forgotten");
        }
    }
}

/// How many key pairs are looked at together.
const AT_ONCE_MAX: u32 = 200;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);
const EVENTS_KEPT: time::Duration = time::Duration::days(30);
