//! What callers share: places, and turns, of which each connection has a bounded number.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From where a call came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The number of its connection. None where that is not known: then only the bounds for all
    /// hold.
    pub connection: Option<u64>,
}

/// A number of places, some of them for each connection.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    max_for_connection: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_connection: HashMap<u64, usize>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    caller: Caller,
}

impl Places {
    pub(super) fn new(max: usize, max_for_connection: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_for_connection,
            taken: Mutex::default(),
        })
    }

    /// Takes a place. None when there is no more, or none for this connection.
    pub(super) fn take(self: &Arc<Self>, caller: Caller) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.in_all >= self.max {
            return None;
        }
        if let Some(connection) = caller.connection {
            let of_connection = taken.by_connection.entry(connection).or_default();
            if *of_connection >= self.max_for_connection {
                return None;
            }
            *of_connection += 1;
        }
        taken.in_all += 1;
        Some(Place {
            places: Arc::clone(self),
            caller,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.in_all -= 1;
        let Some(connection) = self.caller.connection else {
            return;
        };
        if let Some(of_connection) = taken.by_connection.get_mut(&connection) {
            *of_connection -= 1;
            if *of_connection == 0 {
                taken.by_connection.remove(&connection);
            }
        }
    }
}

/// A few turns at a time. A connection has one of them, or waits for one, at a time, so that
/// connections take turns however many calls each of them makes.
#[derive(Debug)]
pub(super) struct Turns {
    in_all: Arc<Semaphore>,
    by_connection: Mutex<HashMap<u64, Weak<Semaphore>>>,
}

/// A turn that lasts until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _in_all: Option<OwnedSemaphorePermit>,
    _of_connection: Option<OfConnection>,
}

#[derive(Debug)]
struct OfConnection {
    _permit: Option<OwnedSemaphorePermit>,
    /// As long as there is one, others find it.
    _semaphore: Arc<Semaphore>,
}

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            in_all: Arc::new(Semaphore::new(at_once)),
            by_connection: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, caller: Caller) -> Turn {
        let of_connection = match caller.connection {
            None => None,
            Some(connection) => {
                let semaphore = self.of_connection(connection);
                // Nobody closes these semaphores.
                let permit = Arc::clone(&semaphore).acquire_owned().await.ok();
                Some(OfConnection {
                    _permit: permit,
                    _semaphore: semaphore,
                })
            }
        };
        Turn {
            _in_all: Arc::clone(&self.in_all).acquire_owned().await.ok(),
            _of_connection: of_connection,
        }
    }

    fn of_connection(&self, connection: u64) -> Arc<Semaphore> {
        let mut by_connection = self.by_connection.lock();
        if let Some(known) = by_connection.get(&connection).and_then(Weak::upgrade) {
            return known;
        }
        if by_connection.len() >= FORGOTTEN_ABOVE {
            by_connection.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(1));
        by_connection.insert(connection, Arc::downgrade(&semaphore));
        semaphore
    }
}

/// From how many connections on those are looked for that wait for nothing any more.
const FORGOTTEN_ABOVE: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(connection: u64) -> Caller {
        Caller {
            connection: Some(connection),
        }
    }

    #[test]
    fn a_connection_has_its_share_of_the_places_and_gives_them_back() {
        let places = Places::new(5, 2);
        let first = [places.take(caller(1)), places.take(caller(1))];
        assert!(first.iter().all(Option::is_some));
        assert!(places.take(caller(1)).is_none());
        let others: Vec<_> = (2..5)
            .map(|connection| places.take(caller(connection)).unwrap())
            .collect();
        assert!(places.take(caller(9)).is_none(), "five are taken");
        assert!(places.take(Caller::default()).is_none());
        drop(first);
        assert!(places.take(caller(1)).is_some());
        drop(others);
        assert_eq!(places.taken.lock().in_all, 0);
        assert!(places.taken.lock().by_connection.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_does_not_have_all_turns() {
        let turns = Arc::new(Turns::new(2));
        let held = turns.turn(caller(1)).await;
        // A thousand calls of the same connection wait for it, and none of them for a turn of all.
        let waiting: Vec<_> = (0..1000)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move { drop(turns.turn(caller(1)).await) })
            })
            .collect();
        tokio::task::yield_now().await;
        let other = tokio::time::timeout(Duration::from_secs(1), turns.turn(caller(2)));
        let other = other.await.expect("another connection has its turn");
        drop((held, other));
        for one in waiting {
            one.await.unwrap();
        }
        for connection in 0..1000 {
            turns.turn(caller(connection)).await;
        }
        assert!(turns.by_connection.lock().len() <= FORGOTTEN_ABOVE);
    }
}
