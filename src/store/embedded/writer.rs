//! The one thread that writes, and commits together what came in while it was busy.
//!
//! A job that panics is rolled back like one that fails, and costs only its own caller an error. Should
//! the thread end all the same, [`Writer::failure`] says so, and no caller is left waiting.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::StoreError;
use super::lineage::{FilesReplaced, Lineage};

/// Queues writes to the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Sender<Write>,
    failure: CancellationToken,
    /// None when its end was waited for.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Does one caller's work within the open transaction, and returns what to call when it was committed, or
/// was not.
type Write = Box<dyn FnOnce(&mut Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Option<&Arc<rusqlite::Error>>) + Send>;

impl Writer {
    pub(super) fn start(mut connection: Connection, mut lineage: Lineage) -> io::Result<Self> {
        let (queue, writes) = async_channel::bounded(QUEUE_LENGTH);
        let failure = CancellationToken::new();
        let failed = failure.clone();
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    while let Ok(first) = writes.recv_blocking() {
                        let jobs = write_batch(&mut connection, &mut lineage, first, &writes)?;
                        lineage.after_batch(&connection, jobs);
                    }
                    Ok::<_, FilesReplaced>(())
                }));
                match ended {
                    Ok(Ok(())) => return lineage.end(connection),
                    Ok(Err(replaced)) => {
                        error!(error = %replaced, "nothing can be written any more; the last changes were not answered");
                    }
                    Err(panic) => {
                        let said = panic_message(&*panic);
                        error!(said, "the store's writer thread panicked; nothing can be written any more");
                    }
                }
                give_up(&writes, &failed);
            })?;
        Ok(Self {
            queue,
            failure,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Returns a token that is cancelled when the thread has ended although the store is open.
    pub(super) const fn failure(&self) -> &CancellationToken {
        &self.failure
    }

    /// Does what is queued, refuses what comes later, and closes the connection.
    pub(super) async fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A writer that panicked has ended as well.
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
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

/// So that the database is closed before its lock is given up.
impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take() {
            // A writer that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

/// One transaction for all that is queued, so that many callers share one wait for the disk.
/// Returns how many jobs it had.
fn write_batch(
    connection: &mut Connection,
    lineage: &mut Lineage,
    first: Write,
    queue: &Receiver<Write>,
) -> Result<usize, FilesReplaced> {
    let mut answers = Vec::new();
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    let committed = begun.and_then(|()| {
        // At the beginning, since a transaction that SQLite rolls back cannot be added to.
        lineage.count(connection)?;
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
    if failure.is_none() {
        // The callers of this batch learn with the others that the store is closed.
        lineage.note_committed(connection)?;
    }
    let jobs = answers.len();
    for answer in answers {
        answer(failure.as_ref());
    }
    Ok(jobs)
}

/// Says that the thread ends, and answers all callers whose writes are still queued.
fn give_up(writes: &Receiver<Write>, failed: &CancellationToken) {
    failed.cancel();
    writes.close();
    // To drop a write is to tell its caller that the store is closed.
    while let Ok(write) = writes.try_recv() {
        drop(write);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Keeps the failure of one caller's work from the others in the transaction, a panic included.
fn in_savepoint<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let savepoint = connection.savepoint()?;
    match catch_unwind(AssertUnwindSafe(|| work(&savepoint))) {
        Ok(Ok(done)) => {
            savepoint.commit()?;
            Ok(done)
        }
        // Dropping the savepoint rolls it back.
        Ok(Err(error)) => Err(error),
        Err(panic) => {
            let said = panic_message(&*panic);
            error!(said, "a write panicked; it is rolled back");
            Err(StoreError::Panicked)
        }
    }
}

const QUEUE_LENGTH: usize = 4096;
const BATCH_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::lineage;
    use super::*;

    fn start() -> (Writer, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE kept (name TEXT)")
            .unwrap();
        drop(connection);
        (lineage::open(&path).unwrap().writer, folder)
    }

    fn keep(db: &Connection, name: &str) -> Result<(), StoreError> {
        db.execute("INSERT INTO kept (name) VALUES (?1)", [name])?;
        Ok(())
    }

    async fn kept(writer: &Writer) -> String {
        let read = writer.write(|db| {
            let all = "SELECT coalesce(group_concat(name, ' ' ORDER BY name), '') FROM kept";
            Ok(db.query_row(all, (), |row| row.get(0))?)
        });
        read.await.unwrap()
    }

    #[tokio::test]
    async fn a_write_that_panics_leaves_nothing_and_the_others_of_its_batch_are_kept() {
        let (writer, _folder) = start();
        // Holds the thread until the others wait behind it, so that they come in one batch.
        let (go, wait) = mpsc::channel::<()>();
        let first = writer.write(move |db| {
            let _ = wait.recv();
            keep(db, "a")
        });
        let panics = writer.write(|db| -> Result<(), StoreError> {
            keep(db, "b")?;
            panic!("a job of the tests")
        });
        let last = writer.write(|db| keep(db, "c"));
        let (first, panicked, last, ()) = tokio::join!(biased; first, panics, last, async {
            drop(go);
        });
        first.unwrap();
        last.unwrap();
        let panicked = panicked.unwrap_err();
        assert!(matches!(panicked, StoreError::Panicked), "{panicked}");
        assert!(!writer.failure().is_cancelled());
        assert_eq!(kept(&writer).await, "a c");
    }

    #[tokio::test]
    async fn all_writes_of_a_batch_may_panic_and_the_next_is_made() {
        let (writer, _folder) = start();
        for _ in 0..3 {
            let panics = writer.write(|db| -> Result<(), StoreError> {
                keep(db, "x")?;
                panic!("a job of the tests")
            });
            panics.await.unwrap_err();
        }
        assert!(!writer.failure().is_cancelled());
        writer.write(|db| keep(db, "y")).await.unwrap();
        assert_eq!(kept(&writer).await, "y");
    }

    #[tokio::test]
    async fn a_thread_that_ends_says_so_and_leaves_no_caller_waiting() {
        let (writer, _folder) = start();
        // Not by a job, which is caught: what the thread itself does is at fault.
        let (go, wait) = mpsc::channel::<()>();
        let write: Write = Box::new(move |_| {
            let _ = wait.recv();
            panic!("the thread of the tests")
        });
        writer.queue.try_send(write).unwrap();
        let failure = writer.failure().clone();
        let queued = writer.write(|db| keep(db, "x"));
        let (queued, (), ()) = tokio::join!(
            biased;
            queued,
            async { drop(go) },
            failure.cancelled()
        );
        assert!(matches!(queued, Err(StoreError::Closed)), "{queued:?}");
        let late = writer.write(|db| keep(db, "y")).await;
        assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    }
}
