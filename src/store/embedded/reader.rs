//! Connections that read beside the writer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::{StoreError, open};

/// A few connections for reading, lent to blocking tasks.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// Runs `work` on a connection, in its own view of the database.
    ///
    /// It is done by a task of its own. A caller may stop to poll, as the answer to a client does that takes nothing; if it had its
    /// turn then, it would keep the connection from all others.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let permits = Arc::clone(&self.permits);
        let task = tokio::spawn(async move {
            let permit = permits.acquire_owned().await;
            let permit = permit.map_err(|_| StoreError::Closed)?;
            let task = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let lent = idle.lock().pop();
                let connection = lent.map_or_else(|| open::open(&path), Ok)?;
                let done = work(&connection);
                idle.lock().push(connection);
                done
            });
            task.await.unwrap_or(Err(StoreError::Closed))
        });
        // Who goes away need not have its turn.
        let task = AbortOnDropHandle::new(task);
        task.await.unwrap_or(Err(StoreError::Closed))
    }
}

const CONNECTIONS: usize = 4;
