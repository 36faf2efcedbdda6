//! All open connections: bounded in number and in what is kept for them, and ended when nothing comes of them.
//!
//! HTTP has time limits of its own for what was begun: a head that does not end, a ping that is not answered. Here is
//! what it has none for: who says nothing at all, who takes no answers, and who is one too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    begun: Instant,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    opened: AtomicU64,
    /// Bytes of requests that were not answered, and of answers that were not taken.
    kept: AtomicUsize,
    /// A connection is gone.
    freed: Notify,
    /// How many were ended or refused since it was last said.
    unsaid: AtomicUsize,
}

impl Connections {
    /// Allows so many at once.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            begun: Instant::now(),
            open: Mutex::default(),
            opened: AtomicU64::new(0),
            kept: AtomicUsize::new(0),
            freed: Notify::new(),
            unsaid: AtomicUsize::new(0),
        })
    }

    /// Gives a new connection its place. Where there is none, those make room that have no call under way: first who
    /// never made one, then who made none for longest. Where all have, the new one is refused.
    pub(super) async fn admit(self: &Arc<Self>) -> Option<Place> {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.place() {
                return Some(place);
            }
            let making_room = self.make_room();
            if !making_room || tokio::time::timeout(ROOM_MAX, freed).await.is_err() {
                self.count("refused: there are too many, and all have calls under way");
                return None;
            }
        }
    }

    fn place(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock();
        if open.len() >= self.max {
            return None;
        }
        let connection = Arc::new(Connection {
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            all: Arc::clone(self),
            opened: Instant::now(),
            greeted: AtomicBool::new(false),
            called: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now_ms()),
            unanswered: AtomicUsize::new(0),
            untaken: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            progress: Mutex::new((Instant::now(), 0)),
            end: CancellationToken::new(),
        });
        open.insert(connection.number, Arc::clone(&connection));
        Some(Place(connection))
    }

    /// Ends some that have no call under way. Tells whether any is about to go.
    fn make_room(&self) -> bool {
        let open = self.open.lock();
        if open.values().any(|connection| connection.is_ending()) {
            return true;
        }
        let idle = open.values().filter(|connection| connection.is_idle());
        let mut idle: Vec<_> = idle
            .map(|connection| {
                let called = connection.called.load(Ordering::Relaxed);
                let since = connection.idle_since.load(Ordering::Relaxed);
                (called, since, connection)
            })
            .collect();
        idle.sort_unstable_by_key(|(called, since, _)| (*called, *since));
        for (_, _, connection) in idle.iter().take(1 + self.max / ENDED_SHARE) {
            connection.end("it makes room for another");
        }
        !idle.is_empty()
    }

    /// Ends those that nothing comes of. Does not return.
    pub(super) async fn look_after(&self) {
        let mut said = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            for connection in self.open.lock().values() {
                if connection.is_ending() {
                    continue;
                }
                if !connection.greeted.load(Ordering::Relaxed)
                    && connection.opened.elapsed() > GREETING_MAX
                {
                    connection.end("it said nothing");
                } else if connection.is_stalled() {
                    connection.end("it does not take its answers");
                }
            }
            let due = said.is_none_or(|said: Instant| said.elapsed() > SAY_INTERVAL);
            if due && self.unsaid.load(Ordering::Relaxed) > 0 {
                said = Some(Instant::now());
                let count = self.unsaid.swap(0, Ordering::Relaxed);
                let open = self.open.lock().len();
                warn!(
                    count,
                    open,
                    "connections were ended or refused; the debug level has each with its reason"
                );
            }
        }
    }

    /// Counts bytes that are kept, and has the connection end that they are most for when they are too many.
    fn keep(&self, bytes: usize) {
        if self.kept.fetch_add(bytes, Ordering::Relaxed) + bytes <= KEPT_MAX {
            return;
        }
        let open = self.open.lock();
        let staying = open.values().filter(|connection| !connection.is_ending());
        let (mut sum, mut most) = (0, None);
        for (bytes, connection) in staying.map(|connection| (connection.kept(), connection)) {
            sum += bytes;
            if most.is_none_or(|(other, _)| bytes > other) {
                most = Some((bytes, connection));
            }
        }
        // What is kept for those that are ending is about to go.
        if let Some((_, connection)) = most.filter(|_| sum > KEPT_MAX) {
            connection.end("of all, it has most kept for it");
        }
    }

    fn let_go(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes that a connection was ended or refused.
    pub(super) fn count(&self, why: &str) {
        debug!("a connection is {why}");
        self.unsaid.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the milliseconds since the start.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The place of a connection among all. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Connection>);

impl Place {
    /// Returns what is known of the connection.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self(connection) = self;
        connection.all.open.lock().remove(&connection.number);
        connection.all.freed.notify_waiters();
    }
}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    all: Arc<Connections>,
    opened: Instant,
    /// It has begun to speak HTTP, and HTTP has its own time limits.
    greeted: AtomicBool,
    /// It made a call, ever.
    called: AtomicBool,
    calls: AtomicUsize,
    /// Milliseconds from the start to the end of its last call.
    idle_since: AtomicU64,
    /// Bytes of requests that were not answered.
    unanswered: AtomicUsize,
    /// Bytes of answers that are ready and were not taken.
    untaken: AtomicUsize,
    written: AtomicUsize,
    /// When it last took answers, and what was written by then.
    progress: Mutex<(Instant, usize)>,
    end: CancellationToken,
}

impl Connection {
    /// Notes that it speaks HTTP.
    pub(super) fn greets(&self) {
        self.greeted.store(true, Ordering::Relaxed);
    }

    /// Notes that so much went out.
    pub(super) fn takes(&self, bytes: usize) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Begins a call.
    pub(super) fn call(self: &Arc<Self>) -> CallUnderWay {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.called.store(true, Ordering::Relaxed);
        CallUnderWay {
            connection: Arc::clone(self),
            asked: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
        }
    }

    /// Returns when it is to end.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Tells whether it owes nothing and is owed nothing, and so may be asked to go.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0 && self.kept() == 0
    }

    fn kept(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed) + self.untaken.load(Ordering::Relaxed)
    }

    fn is_ending(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Tells whether answers lie ready, and it has not taken any to speak of for long.
    fn is_stalled(&self) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        let mut progress = self.progress.lock();
        let took_some = written.wrapping_sub(progress.1) >= PROGRESS_MIN;
        if took_some || self.untaken.load(Ordering::Relaxed) == 0 {
            *progress = (Instant::now(), written);
        }
        progress.0.elapsed() > STALL_MAX
    }

    fn end(&self, why: &'static str) {
        self.all.count(why);
        self.end.cancel();
    }
}

/// A call of a connection, until its answer is given away.
#[derive(Debug)]
pub(super) struct CallUnderWay {
    connection: Arc<Connection>,
    asked: AtomicUsize,
    answered: AtomicBool,
}

impl CallUnderWay {
    /// Counts bytes of its request as kept, until it is answered. What comes later, in a stream, is not for long.
    pub(super) fn asks(&self, bytes: usize) {
        if !self.answered.load(Ordering::Relaxed) {
            self.asked.fetch_add(bytes, Ordering::Relaxed);
            let connection = &self.connection;
            connection.unanswered.fetch_add(bytes, Ordering::Relaxed);
            connection.all.keep(bytes);
        }
    }

    /// Notes that there is an answer.
    pub(super) fn is_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
        let bytes = self.asked.swap(0, Ordering::Relaxed);
        let connection = &self.connection;
        connection.unanswered.fetch_sub(bytes, Ordering::Relaxed);
        connection.all.let_go(bytes);
    }

    /// Counts bytes of its answer as kept, until they are dropped.
    pub(super) fn untaken(&self, bytes: Bytes) -> Bytes {
        let (connection, len) = (&self.connection, bytes.len());
        connection.untaken.fetch_add(len, Ordering::Relaxed);
        let counted = Bytes::from_owner(Untaken {
            bytes,
            connection: Arc::clone(connection),
        });
        connection.all.keep(len);
        counted
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.is_answered();
        let connection = &self.connection;
        let now = connection.all.now_ms();
        connection.idle_since.store(now, Ordering::Relaxed);
        connection.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that nobody has taken.
struct Untaken {
    bytes: Bytes,
    connection: Arc<Connection>,
}

impl AsRef<[u8]> for Untaken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let len = self.bytes.len();
        self.connection.untaken.fetch_sub(len, Ordering::Relaxed);
        self.connection.all.let_go(len);
    }
}

/// How long a connection may say nothing: TLS handshake and HTTP/2 preface, or the first byte of HTTP/1.1.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// How long answers may lie ready of which less than [`PROGRESS_MIN`] is taken.
const STALL_MAX: Duration = Duration::from_secs(60);
const PROGRESS_MIN: usize = 16 * 1024;
/// How many bytes may be kept in all, of requests and of answers.
const KEPT_MAX: usize = 256 * 1024 * 1024;
/// Which part of all go when there is no room, so that not each new one has to look for another.
const ENDED_SHARE: usize = 64;
/// How long a new one waits for those to go.
const ROOM_MAX: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const SAY_INTERVAL: Duration = Duration::from_secs(60);
