//! The one door from tasks to providers: bounded queues, and threads of their own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender, TrySendError};
use tokio::sync::oneshot;
use tracing::{Span, error};

use super::{CryptoProvider, Operation, ProviderError, ProviderErrorKind};
use crate::domain::ProviderKind;

/// A provider with the threads that call it.
///
/// Work is queued in lanes, so that what takes long does not stand before what is quick. A full queue
/// answers at once. A job whose caller went away while it was queued is dropped unbegun. A panic in a job
/// becomes an error, and the thread lives on. The threads end when the handle is dropped.
#[derive(Debug)]
pub struct ProviderHandle {
    provider: Arc<dyn CryptoProvider>,
    sign: Sender<Job>,
    manage: Sender<Job>,
    operation_timeout: Duration,
}

/// How many threads a provider gets, how much work may wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// Threads that sign.
    pub sign_threads: usize,
    /// Threads that generate, destroy and look around. One for a token: modules are least reliable when
    /// objects are created side by side.
    pub manage_threads: usize,
    /// How many jobs may wait in each lane.
    pub queue_length: usize,
    /// How long a caller waits for one job.
    pub operation_timeout: Duration,
}

/// Where a job is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// With the quick work.
    Sign,
    /// With the work that may take long.
    Manage,
}

type Job = Box<dyn FnOnce(&dyn CryptoProvider) + Send>;

impl ProviderHandle {
    /// Starts the threads of a provider.
    pub fn start(provider: Arc<dyn CryptoProvider>, lanes: &Lanes) -> std::io::Result<Self> {
        let kind = provider.kind().name().to_ascii_lowercase();
        let start = |lane: &str, threads: usize| -> std::io::Result<Sender<Job>> {
            let (sender, receiver) = async_channel::bounded(lanes.queue_length);
            for number in 1..=threads {
                let (provider, receiver) = (Arc::clone(&provider), receiver.clone());
                thread::Builder::new()
                    .name(format!("{kind}-{lane}-{number}"))
                    .spawn(move || work(&*provider, &receiver))?;
            }
            Ok(sender)
        };
        Ok(Self {
            sign: start("sign", lanes.sign_threads)?,
            manage: start("manage", lanes.manage_threads)?,
            operation_timeout: lanes.operation_timeout,
            provider,
        })
    }

    /// Returns which provider it is.
    pub fn kind(&self) -> ProviderKind {
        self.provider.kind()
    }

    /// Returns the provider, for questions that it answers at once.
    pub fn provider(&self) -> &dyn CryptoProvider {
        &*self.provider
    }

    /// Runs a job and waits for its result, up to the operation timeout.
    ///
    /// After [`ProviderErrorKind::TimedOut`] the job still runs, and may have any outcome.
    pub async fn run<T, E>(
        &self,
        lane: Lane,
        operation: Operation,
        job: impl FnOnce(&dyn CryptoProvider) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ProviderError> + Send + 'static,
    {
        let result = self.enqueue(lane, operation, job)?;
        match tokio::time::timeout(self.operation_timeout, result).await {
            Ok(done) => done.unwrap_or_else(|_| Err(self.lost(operation).into())),
            Err(_) => Err(self.error(operation, ProviderErrorKind::TimedOut).into()),
        }
    }

    /// Runs a job and waits for its result, however long that takes.
    pub async fn run_to_end<T, E>(
        &self,
        lane: Lane,
        operation: Operation,
        job: impl FnOnce(&dyn CryptoProvider) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ProviderError> + Send + 'static,
    {
        let result = self.enqueue(lane, operation, job)?.await;
        result.unwrap_or_else(|_| Err(self.lost(operation).into()))
    }

    fn enqueue<T, E>(
        &self,
        lane: Lane,
        operation: Operation,
        job: impl FnOnce(&dyn CryptoProvider) -> Result<T, E> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, E>>, ProviderError>
    where
        T: Send + 'static,
        E: From<ProviderError> + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        let kind = self.kind();
        let span = Span::current();
        let job: Job = Box::new(move |provider| {
            if reply.is_closed() {
                return;
            }
            let _entered = span.entered();
            let done = catch_unwind(AssertUnwindSafe(|| job(provider))).unwrap_or_else(|panic| {
                let said = panic_message(panic.as_ref());
                error!(provider = %kind, %operation, said, "a job panicked");
                let failed = ProviderError::new(kind, operation, ProviderErrorKind::Failed);
                Err(failed.because(said).into())
            });
            // The caller may have left meanwhile; what the job did is its own business then.
            let _ = reply.send(done);
        });
        let queue = match lane {
            Lane::Sign => &self.sign,
            Lane::Manage => &self.manage,
        };
        match queue.try_send(job) {
            Ok(()) => Ok(result),
            Err(TrySendError::Full(_)) => Err(self.error(operation, ProviderErrorKind::Busy)),
            Err(TrySendError::Closed(_)) => Err(self.lost(operation)),
        }
    }

    fn error(&self, operation: Operation, kind: ProviderErrorKind) -> ProviderError {
        ProviderError::new(self.kind(), operation, kind)
    }

    /// Says that a thread ended, which it never does while the handle lives.
    fn lost(&self, operation: Operation) -> ProviderError {
        self.error(operation, ProviderErrorKind::Failed)
            .because("the job was lost with its thread")
    }
}

/// The life of a thread: one job after the other, until the handle is gone.
fn work(provider: &dyn CryptoProvider, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv_blocking() {
        job(provider);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
