//! How long a connection may last, however busy it is: as long as its client would be let in, and
//! no longer than `server.max_connection_age`.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::pending;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use ::time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::domain::Clock;

/// How long a connection may last.
#[derive(Debug, Default)]
pub(super) struct Lifetime {
    client: Option<ClientCertificate>,
    old: Option<Instant>,
}

/// What let a client in that showed a certificate.
#[derive(Clone, Debug)]
pub(super) struct ClientCertificate {
    /// Cancelled when the client CA is another one.
    pub(super) ca_replaced: CancellationToken,
    /// When it expires.
    pub(super) not_after: OffsetDateTime,
    /// By which clock.
    pub(super) clock: Arc<dyn Clock>,
}

/// Why a connection has lasted long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    CaReplaced,
    CertificateExpired,
    Old,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CaReplaced => "the client CA that admitted it was replaced",
            Self::CertificateExpired => "its client certificate expired",
            Self::Old => "it reached server.max_connection_age",
        })
    }
}

impl Lifetime {
    /// Begins the life of a connection, which ends at 90 to 100 % of the greatest age: those that
    /// came together do not all come back together.
    pub(super) fn new(age_max: Option<Duration>) -> Self {
        let old = age_max.and_then(|age| {
            let share = RandomState::new().hash_one(()) % (JITTER_STEPS + 1);
            let share = u32::try_from(share).unwrap_or_default();
            let early = age / 10 / u32::try_from(JITTER_STEPS).unwrap_or(1) * share;
            Instant::now().checked_add(age.saturating_sub(early))
        });
        Self { client: None, old }
    }

    /// Ends it also when a client that showed a certificate would not be let in any more.
    pub(super) fn with_client(self, client: Option<ClientCertificate>) -> Self {
        Self { client, ..self }
    }

    /// Returns when it is over.
    pub(super) async fn over(&self) -> Over {
        let old = async {
            match self.old {
                Some(old) => sleep_until(old).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            why = self.refused() => why,
            () = old => Over::Old,
        }
    }

    /// Returns when its client would not be let in any more.
    pub(super) async fn refused(&self) -> Over {
        match &self.client {
            Some(client) => client.refused().await,
            None => pending().await,
        }
    }
}

impl ClientCertificate {
    /// Tells whether the client would not be let in now.
    pub(super) fn is_refused(&self) -> bool {
        self.ca_replaced.is_cancelled() || self.left().is_none()
    }

    async fn refused(&self) -> Over {
        tokio::select! {
            biased;
            () = self.ca_replaced.cancelled() => Over::CaReplaced,
            () = self.expired() => Over::CertificateExpired,
        }
    }

    /// Returns when it has expired, by a clock that may be set meanwhile.
    async fn expired(&self) {
        while let Some(left) = self.left() {
            sleep(left.min(CLOCK_INTERVAL)).await;
        }
    }

    fn left(&self) -> Option<Duration> {
        let left = Duration::try_from(self.not_after - self.clock.now()).ok()?;
        (!left.is_zero()).then_some(left)
    }
}

/// In how many steps the greatest age varies.
const JITTER_STEPS: u64 = 1000;
/// How often the clock is looked at.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use ::time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

    #[derive(Debug)]
    struct FixedClock;

    impl Clock for FixedClock {
        fn now(&self) -> OffsetDateTime {
            NOW
        }
    }

    fn certificate(not_after: OffsetDateTime) -> ClientCertificate {
        ClientCertificate {
            ca_replaced: CancellationToken::new(),
            not_after,
            clock: Arc::new(FixedClock),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ages_differ_by_a_tenth_and_never_exceed_the_greatest() {
        let now = Instant::now();
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..200)
            .map(|_| Lifetime::new(Some(age)).old.unwrap() - now)
            .collect();
        assert!(ages.iter().all(|each| (age * 9 / 10..=age).contains(each)));
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        let spread = most.saturating_sub(*least);
        assert!(spread > age / 20, "{least:?} to {most:?}");
        assert_eq!(Lifetime::new(Some(age)).over().await, Over::Old);
        assert!(Lifetime::new(None).old.is_none());
        // No overflow.
        drop(Lifetime::new(Some(Duration::MAX)));
    }

    #[tokio::test]
    async fn a_certificate_ends_with_its_ca_and_at_its_time() {
        let valid = certificate(NOW + Duration::from_secs(3600));
        assert!(!valid.is_refused());
        let lifetime = Lifetime::new(None).with_client(Some(valid.clone()));
        valid.ca_replaced.cancel();
        assert!(valid.is_refused());
        assert_eq!(lifetime.over().await, Over::CaReplaced);
        let expired = certificate(NOW);
        assert!(expired.is_refused());
        let lifetime = Lifetime::new(None).with_client(Some(expired));
        assert_eq!(lifetime.over().await, Over::CertificateExpired);
    }
}
