//! The one thread that writes, and commits together what came in while it was busy.

use std::io;
use std::sync::Arc;
use std::thread;

use async_channel::{Receiver, Sender, TrySendError};
use rusqlite::Connection;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::StoreError;

/// Queues writes to the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Sender<Write>,
}

/// Does one caller's work within the open transaction, and returns what to call when it was committed, or
/// was not.
type Write = Box<dyn FnOnce(&mut Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Option<&Arc<rusqlite::Error>>) + Send>;

impl Writer {
    pub(super) fn start(mut connection: Connection) -> io::Result<Self> {
        let (queue, writes) = async_channel::bounded(QUEUE_LENGTH);
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                while let Ok(first) = writes.recv_blocking() {
                    write_batch(&mut connection, first, &writes);
                }
            })?;
        Ok(Self { queue })
    }

    /// Runs `work` in a transaction, and answers when that is durable. What fails leaves no trace.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, done) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let result = in_savepoint(connection, work);
            Box::new(move |failure| {
                let result = match failure {
                    None => result,
                    Some(failure) => Err(StoreError::Commit(Arc::clone(failure))),
                };
                // A caller that has gone does not need the answer.
                let _ = reply.send(result);
            })
        });
        self.queue
            .try_send(write)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => StoreError::Busy,
                TrySendError::Closed(_) => StoreError::Closed,
            })?;
        done.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// One transaction for all that is queued, so that many callers share one wait for the disk.
fn write_batch(connection: &mut Connection, first: Write, queue: &Receiver<Write>) {
    let mut answers = Vec::new();
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    let committed = begun.and_then(|()| {
        answers.push(first(connection));
        // A full disk makes SQLite roll the whole transaction back. What came after would be committed by
        // itself and yet be reported as lost, so the batch ends there, and COMMIT fails.
        while answers.len() < BATCH_MAX && !connection.is_autocommit() {
            let Ok(next) = queue.try_recv() else { break };
            answers.push(next(connection));
        }
        connection.execute_batch("COMMIT")
    });
    let failure = committed.err().map(|failure| {
        error!(error = %failure, "a transaction failed");
        if !connection.is_autocommit()
            && let Err(failure) = connection.execute_batch("ROLLBACK")
        {
            warn!(error = %failure, "a transaction cannot be rolled back");
        }
        Arc::new(failure)
    });
    for answer in answers {
        answer(failure.as_ref());
    }
}

/// Keeps the failure of one caller's work from the others in the transaction.
fn in_savepoint<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let savepoint = connection.savepoint()?;
    let done = work(&savepoint);
    match done {
        Ok(done) => {
            savepoint.commit()?;
            Ok(done)
        }
        // Dropping the savepoint rolls it back.
        Err(error) => Err(error),
    }
}

const QUEUE_LENGTH: usize = 4096;
const BATCH_MAX: usize = 128;
