//! Lets requests with the same `request_id` in one at a time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::domain::RequestId;

type Locks = Arc<Mutex<HashMap<RequestId, Arc<AsyncMutex<()>>>>>;

/// The requests that are under way.
#[derive(Debug, Default)]
pub(super) struct RequestLocks(Locks);

/// The right to answer one request. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct RequestLock {
    locks: Locks,
    request_id: RequestId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl RequestLocks {
    /// Waits until no other request of this name is under way.
    pub(super) async fn lock(&self, request_id: RequestId) -> RequestLock {
        let lock = Arc::clone(self.0.lock().entry(request_id.clone()).or_default());
        // Before the wait, so that one which is given up is forgotten too.
        let mut waiting = RequestLock {
            guard: None,
            locks: Arc::clone(&self.0),
            request_id,
        };
        waiting.guard = Some(lock.lock_owned().await);
        waiting
    }
}

impl Drop for RequestLock {
    fn drop(&mut self) {
        let mut locks = self.locks.lock();
        self.guard = None;
        // Only the map knows of it: nobody waits, and nobody can begin to while the map is locked.
        if locks
            .get(&self.request_id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.request_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn one_request_of_a_name_goes_on_at_a_time_and_none_is_remembered() {
        let locks = Arc::new(RequestLocks::default());
        let id = RequestId::parse("r").unwrap();
        let first = locks.lock(id.clone()).await;
        let second = tokio::spawn({
            let (locks, id) = (Arc::clone(&locks), id.clone());
            async move { drop(locks.lock(id).await) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(locks.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_after_the_holder_has_ended_is_not_remembered() {
        let locks = RequestLocks::default();
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
