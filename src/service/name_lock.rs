//! Lets work with the same name go on one at a time: requests with one `request_id`, creations with
//! one id.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Locks<Name> = Arc<Mutex<HashMap<Name, Arc<AsyncMutex<()>>>>>;

/// The names of the work that is under way.
#[derive(Debug)]
pub(super) struct NameLocks<Name: Eq + Hash>(Locks<Name>);

impl<Name: Eq + Hash> Default for NameLocks<Name> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The right to do the work of one name. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct NameLock<Name: Eq + Hash> {
    locks: Locks<Name>,
    name: Name,
    guard: Option<OwnedMutexGuard<()>>,
    has_waited: bool,
}

impl<Name: Clone + Eq + Hash> NameLocks<Name> {
    /// Waits until no other work of this name is under way.
    pub(super) async fn lock(&self, name: Name) -> NameLock<Name> {
        let lock = Arc::clone(self.0.lock().entry(name.clone()).or_default());
        // Before the wait, so that one which is given up is forgotten too.
        let mut waiting = NameLock {
            guard: None,
            locks: Arc::clone(&self.0),
            name,
            has_waited: false,
        };
        waiting.guard = Some(match Arc::clone(&lock).try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                waiting.has_waited = true;
                lock.lock_owned().await
            }
        });
        waiting
    }
}

impl<Name: Eq + Hash> NameLock<Name> {
    /// Tells whether other work of this name was under way when this was asked for.
    pub(super) const fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl<Name: Eq + Hash> Drop for NameLock<Name> {
    fn drop(&mut self) {
        let mut locks = self.locks.lock();
        self.guard = None;
        // Only the map has it: no call waits for it, and none can begin to while the map is locked.
        if locks
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::domain::RequestId;

    #[tokio::test]
    async fn one_request_of_a_name_goes_on_at_a_time_and_none_is_remembered() {
        let locks = Arc::new(NameLocks::default());
        let id = RequestId::parse("r").unwrap();
        let first = locks.lock(id.clone()).await;
        let second = tokio::spawn({
            let (locks, id) = (Arc::clone(&locks), id.clone());
            async move { locks.lock(id).await.has_waited() }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        assert!(!first.has_waited());
        drop(first);
        assert!(second.await.unwrap());
        assert!(locks.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_after_the_holder_has_ended_is_not_remembered() {
        let locks = NameLocks::default();
        let id = RequestId::parse("r").unwrap();
        let first = locks.lock(id.clone()).await;
        let mut second = Box::pin(locks.lock(id));
        let polled = std::future::poll_fn(|context| Poll::Ready(second.as_mut().poll(context)));
        assert!(polled.await.is_pending());
        drop(first);
        drop(second);
        assert!(locks.0.lock().is_empty());
    }
}
