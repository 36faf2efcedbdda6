//! Connections that read beside the writer.
//!
//! Each kind of read has connections of its own, so no kind can keep another one waiting: signing
//! goes on while clients list key pairs and watchers read what happened weeks ago.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::{StoreError, open};

/// The connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    /// Keys that calls wait for to sign.
    signing_keys: Pool,
    /// What is small.
    single: Pool,
    /// Pages of lists.
    lists: Pool,
    /// Pages of events.
    history: Pool,
}

impl Readers {
    /// Opens the connection for signing keys, and the others when they are first needed.
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let signing_keys = Pool::new(path, 1);
        // Signing shall not fail because there are no more descriptors when a key is read for the
        // first time.
        signing_keys.idle.lock().push(open::open(path)?);
        Ok(Self {
            signing_keys,
            single: Pool::new(path, SINGLE_MAX),
            lists: Pool::new(path, LISTS_MAX),
            history: Pool::new(path, 1),
        })
    }

    /// Reads what is small: see [`Pool::read`].
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.single.read(work).await
    }

    /// Reads a key to sign with.
    pub(super) async fn read_signing_key<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.signing_keys.read(work).await
    }

    /// Reads a page of a list.
    pub(super) async fn read_list<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.lists.read(work).await
    }

    /// Reads a page of events.
    pub(super) async fn read_history<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.history.read(work).await
    }

    /// Waits for the reads that were asked for, refuses later ones, and closes the connections.
    pub(super) async fn close(&self) {
        let Self {
            signing_keys,
            single,
            lists,
            history,
        } = self;
        for pool in [signing_keys, single, lists, history] {
            pool.close().await;
        }
    }
}

/// A few connections, lent to blocking tasks in the order in which they are asked for.
#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    connections_max: u32,
}

impl Pool {
    fn new(path: &Path, connections_max: u8) -> Self {
        Self {
            path: path.to_owned(),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(connections_max.into())),
            connections_max: connections_max.into(),
        }
    }

    /// Waits for the reads that were asked for, refuses later ones, and closes the connections.
    async fn close(&self) {
        let permits = self.permits.acquire_many(self.connections_max).await;
        self.permits.close();
        drop(permits);
        self.idle.lock().clear();
    }

    /// Runs `work` on a connection, in its own view of the database.
    ///
    /// It is done by a task of its own. A caller may stop to poll, as the answer to a client does that takes nothing; if it had its
    /// turn then, it would keep the connection from all others.
    async fn read<T: Send + 'static>(
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

const SINGLE_MAX: u8 = 3;
const LISTS_MAX: u8 = 2;
