//! What callers share: places and turns, of which each connection and each peer has a bounded number.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{Origin, Peer};

/// Which part of all one holder may have at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// How many there are.
    pub(super) in_all: usize,
    /// How many of them one peer may have.
    pub(super) for_peer: usize,
    /// How many of them one connection may have.
    pub(super) for_connection: usize,
}

impl Shares {
    const fn of(&self, holder: Holder) -> usize {
        match holder {
            Holder::Connection(_) => self.for_connection,
            Holder::Peer(_) => self.for_peer,
        }
    }
}

/// One that has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Connection(u64),
    Peer(Peer),
}

impl Holder {
    /// Returns the holders that a call counts for: none where its origin is not known, so that only
    /// the bound for all holds.
    fn of(origin: Option<Origin>) -> impl Iterator<Item = Self> + Clone {
        origin
            .into_iter()
            .flat_map(|origin| [Self::Connection(origin.connection), Self::Peer(origin.peer)])
    }
}

/// A number of places, a share of them for each connection and each peer.
#[derive(Debug)]
pub(super) struct Places {
    shares: Shares,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_holder: HashMap<Holder, usize>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    origin: Option<Origin>,
}

impl Places {
    pub(super) fn new(shares: Shares) -> Arc<Self> {
        Arc::new(Self {
            shares,
            taken: Mutex::default(),
        })
    }

    /// Takes a place. None when all are taken, or all that the connection or the peer may have.
    pub(super) fn take(self: &Arc<Self>, origin: Option<Origin>) -> Option<Place> {
        let mut taken = self.taken.lock();
        let holders = Holder::of(origin);
        let is_full = |holder| {
            let of_holder = taken.by_holder.get(&holder).copied().unwrap_or_default();
            of_holder >= self.shares.of(holder)
        };
        if taken.in_all >= self.shares.in_all || holders.clone().any(is_full) {
            return None;
        }
        for holder in holders {
            *taken.by_holder.entry(holder).or_default() += 1;
        }
        taken.in_all += 1;
        Some(Place {
            places: Arc::clone(self),
            origin,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.in_all -= 1;
        for holder in Holder::of(self.origin) {
            if let Some(of_holder) = taken.by_holder.get_mut(&holder) {
                *of_holder -= 1;
                if *of_holder == 0 {
                    taken.by_holder.remove(&holder);
                }
            }
        }
    }
}

/// A few turns at a time. A connection or a peer that has its share of them waits for one of its own
/// to end, so that all take turns however many calls each of them makes.
#[derive(Debug)]
pub(super) struct Turns {
    shares: Shares,
    in_all: Arc<Semaphore>,
    by_holder: Mutex<HashMap<Holder, Weak<Semaphore>>>,
}

/// A turn that lasts until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _in_all: Option<OwnedSemaphorePermit>,
    _of_holders: Vec<OfHolder>,
}

#[derive(Debug)]
struct OfHolder {
    _permit: Option<OwnedSemaphorePermit>,
    /// As long as there is one, other calls of the holder find it.
    _semaphore: Arc<Semaphore>,
}

impl Turns {
    pub(super) fn new(shares: Shares) -> Self {
        Self {
            shares,
            in_all: Arc::new(Semaphore::new(shares.in_all)),
            by_holder: Mutex::default(),
        }
    }

    /// Waits for a turn: first among the calls of the connection, then of the peer, then of all.
    pub(super) async fn turn(&self, origin: Option<Origin>) -> Turn {
        let mut of_holders = Vec::new();
        for holder in Holder::of(origin) {
            let semaphore = self.of_holder(holder);
            of_holders.push(OfHolder {
                // These semaphores are never closed.
                _permit: Arc::clone(&semaphore).acquire_owned().await.ok(),
                _semaphore: semaphore,
            });
        }
        Turn {
            _in_all: Arc::clone(&self.in_all).acquire_owned().await.ok(),
            _of_holders: of_holders,
        }
    }

    fn of_holder(&self, holder: Holder) -> Arc<Semaphore> {
        let mut by_holder = self.by_holder.lock();
        if let Some(known) = by_holder.get(&holder).and_then(Weak::upgrade) {
            return known;
        }
        if by_holder.len() >= FORGOTTEN_ABOVE {
            by_holder.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(self.shares.of(holder)));
        by_holder.insert(holder, Arc::downgrade(&semaphore));
        semaphore
    }
}

/// From how many holders on those are looked for that wait for nothing any more.
const FORGOTTEN_ABOVE: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHARES: Shares = Shares {
        in_all: 6,
        for_peer: 4,
        for_connection: 2,
    };

    fn origin(connection: u64, user: u32) -> Origin {
        Origin {
            connection,
            peer: Peer::User(user),
        }
    }

    #[test]
    fn connections_and_peers_have_their_shares_of_the_places_and_give_them_back() {
        let places = Places::new(SHARES);
        let first = [
            places.take(Some(origin(1, 1))),
            places.take(Some(origin(1, 1))),
        ];
        assert!(first.iter().all(Option::is_some));
        assert!(
            places.take(Some(origin(1, 1))).is_none(),
            "its connection has two"
        );
        let second = [
            places.take(Some(origin(2, 1))),
            places.take(Some(origin(2, 1))),
        ];
        assert!(second.iter().all(Option::is_some));
        assert!(
            places.take(Some(origin(3, 1))).is_none(),
            "its peer has four"
        );
        let others = [places.take(Some(origin(4, 2))), places.take(None)];
        assert!(others.iter().all(Option::is_some));
        assert!(places.take(Some(origin(9, 9))).is_none(), "six are taken");
        assert!(places.take(None).is_none());
        drop(first);
        assert!(places.take(Some(origin(3, 1))).is_some());
        drop((second, others));
        assert_eq!(places.taken.lock().in_all, 0);
        assert!(places.taken.lock().by_holder.is_empty());
    }

    /// Has a peer ask for a thousand turns, on as many connections or on one, and wait for them.
    async fn wait_for_many(turns: &Arc<Turns>, connections: u64) {
        let held = turns.turn(Some(origin(0, 1))).await;
        let waiting: Vec<_> = (0..1000)
            .map(|number| {
                let turns = Arc::clone(turns);
                tokio::spawn(async move {
                    drop(turns.turn(Some(origin(number % connections, 1))).await);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let other = tokio::time::timeout(Duration::from_secs(1), turns.turn(Some(origin(2000, 2))));
        let other = other.await.expect("another peer has its turn");
        drop((held, other));
        for one in waiting {
            one.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_one_connection_nor_one_peer_has_all_turns() {
        let turns = Arc::new(Turns::new(Shares {
            in_all: 2,
            for_peer: 1,
            for_connection: 1,
        }));
        wait_for_many(&turns, 1).await;
        wait_for_many(&turns, 1000).await;
        for connection in 0..1000 {
            turns.turn(Some(origin(connection, 1))).await;
        }
        assert!(turns.by_holder.lock().len() <= FORGOTTEN_ABOVE + 1);
    }
}
