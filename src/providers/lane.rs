//! The threads of a provider: a bounded queue, and those who work it off.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{Span, error, warn};

use super::order::{PORTION, SigningOrder, sign_all};
use super::scheduling::interrupt_as_usual;
use super::{CryptoProvider, Lanes, Operation, ProviderError, ProviderErrorKind};
use crate::domain::ProviderKind;

/// Where a job is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// With the quick work.
    Sign,
    /// With the work that may take long.
    Manage,
}

impl Lane {
    /// Returns its name, for the names of threads.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Manage => "manage",
        }
    }

    /// Has the thread of a lane give way to those of more urgent ones: a token in software takes the
    /// processor for seconds to find the primes of an RSA key.
    pub(super) fn yield_to_others(self) {
        if self == Self::Manage
            && let Err(error) = rustix::process::nice(MANAGE_NICE)
        {
            warn!(%error, "key generation runs with the same priority as signing");
        }
    }

    /// Returns how long one job may last, where a quick one may last for `quick`: to find the primes of an RSA key takes
    /// some devices minutes.
    pub(super) fn patience(self, quick: Duration) -> Duration {
        match self {
            Self::Sign => quick,
            Self::Manage => quick * SLOW_FACTOR,
        }
    }
}

/// What is queued.
pub(super) enum Job {
    /// Signatures.
    Sign(SignJob),
    /// Anything else.
    Work(Work),
}

pub(super) type Work = Box<dyn FnOnce(&dyn CryptoProvider) + Send>;

/// Signatures to be made for somebody.
pub(super) struct SignJob {
    pub(super) orders: Vec<SigningOrder>,
    pub(super) reply: oneshot::Sender<Vec<Result<Vec<u8>, ProviderError>>>,
    pub(super) span: Span,
}

impl SignJob {
    fn effort(&self) -> usize {
        self.orders.iter().map(SigningOrder::effort).sum()
    }
}

/// Those who work off the jobs of one lane, and their queue. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Crew {
    provider: Arc<dyn CryptoProvider>,
    lane: Lane,
    queue: Sender<Job>,
    jobs: Receiver<Job>,
    /// How many of them there are to be.
    count: usize,
    /// The threads; none where tasks do the work.
    threads: Mutex<Vec<Arc<Post>>>,
    /// How long a job may last before its thread is given up.
    patience: Duration,
}

impl Crew {
    /// Starts those who work: threads, or, where a provider signs without holding a thread, tasks.
    pub(super) fn start(
        provider: Arc<dyn CryptoProvider>,
        lane: Lane,
        count: usize,
        lanes: &Lanes,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = async_channel::bounded(lanes.queue_length);
        let crew = Self {
            lane,
            queue,
            jobs,
            count,
            threads: Mutex::default(),
            patience: lane.patience(lanes.operation_timeout) + GRACE,
            provider,
        };
        let portion_max = Arc::new(AtomicUsize::new(PORTION));
        for _ in 0..count {
            match crew.has_tasks() {
                true => drop(tokio::spawn(sign_together(
                    Arc::clone(&crew.provider),
                    crew.jobs.clone(),
                    count,
                    Arc::clone(&portion_max),
                ))),
                false => crew.add_thread()?,
            }
        }
        Ok(crew)
    }

    /// Tells whether the work is done by tasks, which no call can hold up.
    fn has_tasks(&self) -> bool {
        self.lane == Lane::Sign && self.provider.async_signer().is_some()
    }

    fn add_thread(&self) -> std::io::Result<()> {
        let post = Arc::new(Post::default());
        let mut threads = self.threads.lock();
        let kind = self.provider.kind().name().to_ascii_lowercase();
        let name = format!("{kind}-{}-{}", self.lane.name(), threads.len() + 1);
        thread::Builder::new().name(name).spawn({
            let (provider, jobs) = (Arc::clone(&self.provider), self.jobs.clone());
            let (lane, post) = (self.lane, Arc::clone(&post));
            move || {
                interrupt_as_usual();
                lane.yield_to_others();
                work(&*provider, &jobs, &post);
            }
        })?;
        threads.push(post);
        Ok(())
    }

    /// Queues a job.
    pub(super) fn enqueue(&self, operation: Operation, job: Job) -> Result<(), ProviderError> {
        let error = |kind| ProviderError::new(self.provider.kind(), operation, kind);
        self.queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => error(ProviderErrorKind::Busy),
            TrySendError::Closed(_) => error(ProviderErrorKind::Failed),
        })
    }

    /// Puts other threads in the place of those whose job does not end, until there are twice as many as in the beginning,
    /// and tells whether there is one that works.
    ///
    /// A thread cannot be taken out of a module. It ends by itself if its job ever does.
    pub(super) fn replace_lost_threads(&self) -> bool {
        if self.has_tasks() {
            return true;
        }
        let lost = |post: &Arc<Post>| post.is_lost(self.patience);
        let (newly_lost, all, at_work) = {
            let mut threads = self.threads.lock();
            threads.retain(|post| !post.has_ended());
            let newly_lost = threads
                .iter()
                .filter(|post| lost(post) && !post.given_up.swap(true, Ordering::AcqRel))
                .count();
            let at_work = threads.iter().filter(|post| !lost(post)).count();
            (newly_lost, threads.len(), at_work)
        };
        let room = (2 * self.count).saturating_sub(all);
        let added = self.count.saturating_sub(at_work).min(room);
        if newly_lost > 0 {
            error!(
                provider = %self.provider.kind(), lane = self.lane.name(), lost = newly_lost, replaced = added,
                "calls do not come back; their threads are given up"
            );
        }
        let mut started = 0;
        for _ in 0..added {
            match self.add_thread() {
                Ok(()) => started += 1,
                Err(error) => error!(%error, "no thread can be started in the place of a lost one"),
            }
        }
        at_work + started > 0
    }
}

/// What is known of a thread.
#[derive(Debug, Default)]
struct Post {
    /// Since when it is at its job.
    busy_since: Mutex<Option<Instant>>,
    /// Nobody waits for it any more: it ends after its job.
    given_up: AtomicBool,
    ended: AtomicBool,
}

impl Post {
    fn is_lost(&self, patience: Duration) -> bool {
        let since = *self.busy_since.lock();
        since.is_some_and(|since| since.elapsed() > patience)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// The life of a thread: one job after the other, until the crew is gone or the thread given up.
fn work(provider: &dyn CryptoProvider, jobs: &Receiver<Job>, post: &Post) {
    while let Ok(job) = jobs.recv_blocking() {
        *post.busy_since.lock() = Some(Instant::now());
        match job {
            Job::Work(work) => work(provider),
            Job::Sign(job) => sign(provider, job),
        }
        *post.busy_since.lock() = None;
        if post.given_up.load(Ordering::Acquire) {
            warn!("a call came back that was given up");
            break;
        }
    }
    post.ended.store(true, Ordering::Release);
}

fn sign(provider: &dyn CryptoProvider, job: SignJob) {
    if job.reply.is_closed() {
        return;
    }
    let _entered = job.span.entered();
    let done = guarded(provider.kind(), Operation::Sign, || {
        sign_all(provider, &job.orders)
    });
    // When it panicked, the caller finds the other end gone.
    if let Ok(signed) = done {
        // The caller may have left meanwhile.
        let _ = job.reply.send(signed);
    }
}

/// The life of a task: what is queued, as much as is its share, in one go. What one of them learns of how much that may be
/// at most, all know.
async fn sign_together(
    provider: Arc<dyn CryptoProvider>,
    jobs: Receiver<Job>,
    count: usize,
    portion_max: Arc<AtomicUsize>,
) {
    let mut next = None;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Ok(job) => job,
                Err(_) => return,
            },
        };
        let first = match job {
            Job::Sign(first) => first,
            Job::Work(work) => {
                let provider = Arc::clone(&provider);
                let worked = tokio::task::spawn_blocking(move || work(&*provider));
                if let Err(error) = worked.await {
                    error!(%error, "a job was lost");
                }
                continue;
            }
        };
        // Twice its share: not all of the others come for theirs now.
        let room = (2 * jobs.len() / count).min(portion_max.load(Ordering::Relaxed));
        let (portion, other) = gather(first, &jobs, room);
        next = other;
        let effort: usize = portion.iter().map(SignJob::effort).sum();
        if effort == 0 {
            continue;
        }
        let (mut orders, mut waiting) = (Vec::new(), Vec::new());
        for job in portion {
            waiting.push((job.orders.len(), job.reply));
            orders.extend(job.orders);
        }
        let Some(signer) = provider.async_signer() else {
            return;
        };
        let (begun, asked) = (Instant::now(), orders.len());
        let answered = signer.sign_all(orders).await;
        let mut signatures = counted(provider.kind(), asked, answered).into_iter();
        portion_max.store(affordable(effort, begun.elapsed()), Ordering::Relaxed);
        for (count, reply) in waiting {
            // The caller may have left meanwhile.
            let _ = reply.send(signatures.by_ref().take(count).collect());
        }
    }
}

/// Refuses signatures of which there are not as many as were asked for. They are dealt out by their
/// position, and callers would get those of others.
fn counted(
    kind: ProviderKind,
    asked: usize,
    signed: Vec<Result<Vec<u8>, ProviderError>>,
) -> Vec<Result<Vec<u8>, ProviderError>> {
    if signed.len() == asked {
        return signed;
    }
    let sentence = format!(
        "{} signatures were returned for {asked} orders",
        signed.len()
    );
    error!(provider = %kind, "{sentence}; none is handed out");
    let refused = || {
        let failed = ProviderErrorKind::Failed;
        Err(ProviderError::new(kind, Operation::Sign, failed).because(sentence.clone()))
    };
    (0..asked).map(|_| refused()).collect()
}

/// Returns how much may be signed together by a token that took so long for so much. On a slow one, nobody waits for the
/// signatures of others.
fn affordable(effort: usize, took: Duration) -> usize {
    let each = took.as_nanos() / u128::try_from(effort.max(1)).unwrap_or(1);
    let affordable = TOGETHER_MAX.as_nanos() / each.max(1);
    usize::try_from(affordable).map_or(PORTION, |effort| effort.min(PORTION))
}

/// Takes further signatures out of the queue, as many as there is `room` for; and what came in between.
fn gather(first: SignJob, jobs: &Receiver<Job>, mut room: usize) -> (Vec<SignJob>, Option<Job>) {
    let mut portion = Vec::new();
    let mut job = first;
    loop {
        // What nobody waits for any more is not made.
        if !job.reply.is_closed() {
            room = room.saturating_sub(job.effort());
            portion.push(job);
        }
        if room == 0 {
            return (portion, None);
        }
        match jobs.try_recv() {
            Ok(Job::Sign(another)) => job = another,
            Ok(other) => return (portion, Some(other)),
            Err(_) => return (portion, None),
        }
    }
}

/// Does something, and makes an error of a panic.
pub(super) fn guarded<T>(
    kind: ProviderKind,
    operation: Operation,
    work: impl FnOnce() -> T,
) -> Result<T, ProviderError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic_message(panic.as_ref());
        error!(provider = %kind, %operation, said, "a job panicked");
        ProviderError::new(kind, operation, ProviderErrorKind::Failed).because(said)
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// How long signatures that are made together may take.
const TOGETHER_MAX: Duration = Duration::from_millis(10);
/// How much longer slow work may take than quick.
const SLOW_FACTOR: u32 = 10;
/// How much later than its caller a thread is given up: a provider may have means of its own to end a call.
const GRACE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5000 });
/// How nice the threads are that take long (`nice(2)`, per thread on Linux).
const MANAGE_NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_dealt_out_only_if_there_are_as_many_as_orders() {
        let signed = |count: u8| (0..count).map(|one| Ok(vec![one])).collect::<Vec<_>>();
        let counted = |count| counted(ProviderKind::Hsm, 3, signed(count));
        assert!(counted(3).iter().all(Result::is_ok));
        for wrong in [0, 2, 4] {
            let refused = counted(wrong);
            assert_eq!(refused.len(), 3);
            assert!(refused.iter().all(Result::is_err), "{wrong}");
        }
    }
}
