//! All open connections: bounded in number and in what is kept for them, and ended when nothing comes of them.
//!
//! HTTP has time limits of its own for what was begun: a head that does not end, a ping that is not answered. Here is
//! what it has none for: who says nothing at all, who takes no answers, and who is one too many. What one call has kept
//! for it is counted in `server::accounts`. When that is too much in all, `server::eviction` chooses which ones go.

mod ending;
mod room;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::eviction::{Candidate, SLOW, rank};
use super::progress::Progress;
use crate::domain::{Origin, Peer};
use crate::telemetry::Seldom;
use ending::Ending;
use room::Room;

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    kept_max: usize,
    /// How many bytes a request may have.
    message_max: usize,
    begun: Instant,
    open: Mutex<Open>,
    opened: AtomicU64,
    /// Bytes that are kept: what they were when they were last summed up, and about what came since.
    kept: AtomicUsize,
    summed_up: Mutex<Instant>,
    /// A connection is gone.
    freed: Notify,
    gone: Seldom,
}

/// The connections, and what is known of room among them.
#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Arc<Connection>>,
    /// How many were asked to make room and are still there.
    leaving: usize,
    /// When room was last looked for, and whether any was found.
    looked: Option<(Instant, Room)>,
}

impl Connections {
    /// Allows so many at once, with requests of up to so many bytes.
    pub(super) fn new(max: usize, max_message_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            kept_max: KEPT_MAX.max(max_message_bytes.saturating_mul(2)),
            message_max: max_message_bytes,
            begun: Instant::now(),
            open: Mutex::default(),
            opened: AtomicU64::new(0),
            kept: AtomicUsize::new(0),
            summed_up: Mutex::new(Instant::now()),
            freed: Notify::new(),
            gone: Seldom::new(SAY_INTERVAL),
        })
    }

    /// Gives a new connection its place, if there is one. Clients of the Unix socket have some
    /// more: an operator on the machine gets in while clients of the network have taken all places.
    pub(super) fn place(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let places = match peer {
            Peer::User(_) | Peer::Unknown => self.max.saturating_add(UNIX_PLACES),
            Peer::Certificate(_) | Peer::Address(_) => self.max,
        };
        let mut open = self.open.lock();
        if open.connections.len() >= places {
            return None;
        }
        let cut = CancellationToken::new();
        let connection = Arc::new(Connection {
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            address: peer,
            identity: OnceLock::new(),
            all: Arc::clone(self),
            opened: Instant::now(),
            greeted: AtomicBool::new(false),
            is_http1: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            unanswered: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            come: AtomicUsize::new(0),
            head: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            open_bodies: AtomicUsize::new(0),
            calls_told: AtomicUsize::new(0),
            sending: Progress::new(),
            receiving: Progress::new(),
            makes_room: AtomicBool::new(false),
            end: cut.child_token(),
            cut,
        });
        open.connections
            .insert(connection.number, Arc::clone(&connection));
        Some(Place(connection))
    }

    /// Ends those that nothing comes of. Does not return.
    pub(super) async fn look_after(&self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let open = {
                let open = self.open.lock();
                for connection in open.connections.values() {
                    if let Some(why) = connection.fault() {
                        connection.end(why);
                    }
                }
                open.connections.len()
            };
            self.sum_up();
            if let Some(count) = self.gone.due() {
                warn!(
                    count,
                    open,
                    "connections were ended or refused; the debug level has each with its reason"
                );
            }
        }
    }

    /// Counts bytes that are kept, and sums all up when they may be too many.
    fn keep(&self, bytes: usize) {
        let before = self.kept.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.kept_max {
            self.sum_up();
        }
    }

    /// Sums up what is kept, unless that was done just now, and has those end that most is kept for as long as it is too
    /// much.
    fn sum_up(&self) {
        let Some(mut summed_up) = self.summed_up.try_lock() else {
            return;
        };
        if summed_up.elapsed() < LOOK_AGAIN {
            return;
        }
        *summed_up = Instant::now();
        let open = self.open.lock();
        // What is kept for those that were cut off is about to go.
        let staying = || open.connections.values().filter(|other| !other.is_cut());
        let mut sum: usize = staying().map(|connection| connection.price()).sum();
        if sum > self.kept_max {
            let mut candidates: Vec<_> = staying()
                .map(|connection| connection.candidate())
                .filter(|candidate| candidate.bytes > 0)
                .collect();
            rank(&mut candidates, self.kept_max / SHARE_OF_PEER);
            while sum > self.kept_max
                && let Some(candidate) = candidates.pop()
            {
                candidate.connection.end(Ending::TooMuchKept);
                sum = sum.saturating_sub(candidate.bytes);
            }
        }
        self.kept.store(sum, Ordering::Relaxed);
    }

    /// Notes what became of a connection that was ended or refused.
    pub(super) fn count(&self, what: &dyn fmt::Display) {
        debug!("a connection was {what}");
        self.gone.count();
    }

    /// Returns the time since so many milliseconds after the start.
    fn since_ms(&self, ms: u64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(ms))
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
        let mut open = connection.all.open.lock();
        open.connections.remove(&connection.number);
        if connection.makes_room.load(Ordering::Relaxed) {
            open.leaving -= 1;
        }
        drop(open);
        connection.all.freed.notify_waiters();
    }
}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    /// The peer by its address, and by its client certificate when it has shown one.
    address: Peer,
    identity: OnceLock<Peer>,
    all: Arc<Connections>,
    opened: Instant,
    /// It has begun to speak HTTP, and HTTP has its own time limits.
    greeted: AtomicBool,
    /// It speaks HTTP/1.1, which has no word for a goodbye between two calls.
    is_http1: AtomicBool,
    calls: AtomicUsize,
    /// How many of them wait for the rest of their request, or have an answer.
    waiting: AtomicUsize,
    /// Milliseconds from the start to the end of its last call, and 0 before that.
    idle_since: AtomicU64,
    /// Bytes of requests that were not answered.
    unanswered: AtomicUsize,
    /// Bytes of answers, ever: all, those that were taken, and those that were given up untaken.
    given: AtomicUsize,
    taken: AtomicUsize,
    lost: AtomicUsize,
    /// Bytes of requests, ever.
    come: AtomicUsize,
    /// Bytes of the head of an HTTP/1.1 request that is not whole yet.
    head: AtomicUsize,
    /// How many requests have more to come, and how many bodies are not at their end: those and
    /// streams between two messages.
    unfinished: AtomicUsize,
    open_bodies: AtomicUsize,
    /// Up to how many calls all know of.
    calls_told: AtomicUsize,
    /// Whether it takes its answers, and sends its requests.
    sending: Progress,
    receiving: Progress,
    /// It was asked to go because another has no place.
    makes_room: AtomicBool,
    /// It is to end, by itself if it was not cut off.
    end: CancellationToken,
    cut: CancellationToken,
}

impl Connection {
    /// Notes the identity that the peer has proved in the handshake of TLS.
    pub(super) fn identify(&self, peer: Peer) {
        // There is one handshake.
        let _ = self.identity.set(peer);
    }

    /// Returns where the calls of this connection come from.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            connection: self.number,
            peer: *self.identity.get().unwrap_or(&self.address),
        }
    }

    /// Returns how many bytes a request may have.
    pub(super) fn message_max(&self) -> usize {
        self.all.message_max
    }

    /// Notes that it speaks HTTP.
    pub(super) fn greets(&self) {
        self.greeted.store(true, Ordering::Relaxed);
    }

    /// Notes that it speaks HTTP/1.1.
    pub(super) fn speaks_http1(&self) {
        self.is_http1.store(true, Ordering::Relaxed);
    }

    /// Tells whether it speaks HTTP/1.1.
    pub(super) fn is_http1(&self) -> bool {
        self.is_http1.load(Ordering::Relaxed)
    }

    /// Notes that bytes of an HTTP/1.1 request came. Before its call begins, they are of its head.
    pub(super) fn head_comes(&self, bytes: usize) {
        if self.calls.load(Ordering::Relaxed) == 0 {
            let before = self.head.fetch_add(bytes, Ordering::Relaxed);
            self.keep_more(before, bytes);
        }
    }

    /// Notes that a call begins.
    pub(super) fn call_begins(&self) {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.head.load(Ordering::Relaxed) > 0 {
            self.head.store(0, Ordering::Relaxed);
        }
        // All know of some more than there are, so that not each of many has to be told.
        if before >= self.calls_told.load(Ordering::Relaxed) {
            let more = 1 + before / 4;
            self.calls_told.store(before + more, Ordering::Relaxed);
            self.all.keep(more * CALL_PRICE);
        }
    }

    /// Notes that a request has more to come.
    pub(super) fn request_is_unfinished(&self) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that such a request has come to its end, or is not read any more.
    pub(super) fn request_is_finished(&self) {
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that it is the peer's turn in a call: to send the rest of it, or to take its answer.
    pub(super) fn call_waits_for_peer(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that it is not, or that such a call has ended.
    pub(super) fn call_waits_for_us(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells whether its calls only wait for the peer, and have for so long that it is seen to make
    /// no progress.
    pub(super) fn only_waits_for_peer(&self) -> bool {
        let still = self.sending().max(self.receiving());
        still >= SLOW && self.calls.load(Ordering::Relaxed) <= self.waiting.load(Ordering::Relaxed)
    }

    /// Notes that the body of a request is not at its end.
    pub(super) fn body_opens(&self) {
        self.open_bodies.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that such a body is at its end, or is not read any more.
    pub(super) fn body_closes(&self) {
        self.open_bodies.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that bytes of a request came.
    pub(super) fn request_comes(&self, bytes: usize) {
        self.come.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that a call has ended.
    pub(super) fn call_ends(&self) {
        if self.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            let now = self.all.now_ms().max(1);
            self.idle_since.store(now, Ordering::Relaxed);
        }
    }

    /// Counts bytes of a request as kept.
    pub(super) fn asks(&self, bytes: usize) {
        let before = self.unanswered.fetch_add(bytes, Ordering::Relaxed);
        self.keep_more(before, bytes);
    }

    /// Lets go of bytes that were counted by [`Connection::asks`].
    pub(super) fn is_answered(&self, bytes: usize) {
        self.unanswered.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of an answer as kept.
    pub(super) fn is_given(&self, bytes: usize) {
        let before = self.given.fetch_add(bytes, Ordering::Relaxed);
        self.keep_more(before, bytes);
    }

    /// Notes that it took bytes of an answer.
    pub(super) fn takes(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that bytes of an answer are gone and were not taken.
    pub(super) fn loses(&self, bytes: usize) {
        self.lost.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Has all know of what is kept more, by the step: a small call has no part in what all share.
    fn keep_more(&self, before: usize, bytes: usize) {
        let steps = before.saturating_add(bytes) / STEP - before / STEP;
        if steps > 0 {
            self.all.keep(steps * STEP);
        }
    }

    /// Returns when it is to end, by itself or not.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Returns when it is to end without a word.
    pub(super) async fn cut_off(&self) {
        self.cut.cancelled().await;
    }

    /// Tells whether it owes nothing and is owed nothing, and so may be asked to go.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0 && self.kept() == 0
    }

    /// Returns what is known of it when too much is kept in all.
    fn candidate(self: &Arc<Self>) -> Candidate<&Arc<Self>> {
        Candidate {
            connection: self,
            peer: self.origin().peer,
            bytes: self.price(),
            is_upload: self.has_more_to_send()
                && self.unanswered.load(Ordering::Relaxed) >= self.untaken(),
            still: self.sending().max(self.receiving()),
        }
    }

    /// Returns for how long answers lay ready and were not taken.
    fn sending(&self) -> Duration {
        let taken = self.taken.load(Ordering::Relaxed);
        self.sending.still_for(taken, self.untaken() > 0)
    }

    /// Returns for how long requests had more to come that did not.
    pub(super) fn receiving(&self) -> Duration {
        let come = self.come.load(Ordering::Relaxed);
        self.receiving.still_for(come, self.has_more_to_send())
    }

    /// Tells whether requests, or the head of one, have more to come.
    fn has_more_to_send(&self) -> bool {
        self.unfinished.load(Ordering::Relaxed) > 0 || self.head.load(Ordering::Relaxed) > 0
    }

    /// Returns what is kept for it in bytes: messages and heads, and what calls take as such.
    fn price(&self) -> usize {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls_told.store(calls, Ordering::Relaxed);
        // A stream whose answers are not taken is not read. What its client sends fills the window.
        let unread = match self.open_bodies.load(Ordering::Relaxed) {
            0 => 0,
            _ if self.sending() < SLOW => 0,
            streams => CONNECTION_WINDOW.min(streams.saturating_mul(STREAM_WINDOW)),
        };
        self.kept()
            .saturating_add(self.head.load(Ordering::Relaxed))
            .saturating_add(calls.saturating_mul(CALL_PRICE))
            .saturating_add(unread)
    }

    /// Returns the bytes of messages that are kept for it.
    pub(super) fn kept(&self) -> usize {
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        unanswered.saturating_add(self.untaken())
    }

    /// Returns the bytes of answers that are ready and were not taken.
    fn untaken(&self) -> usize {
        let [given, taken, lost] =
            [&self.given, &self.taken, &self.lost].map(|count| count.load(Ordering::Relaxed));
        given.saturating_sub(taken).saturating_sub(lost)
    }

    fn is_ending(&self) -> bool {
        self.end.is_cancelled()
    }

    fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }
}

/// What a call takes as such, with its stream and its task, from its begin until its answer is
/// taken. An idle stream of `SignStream` was measured to take 8 KiB, and an error with its details
/// that waits to be sent 10 KiB.
const CALL_PRICE: usize = 12 * 1024;
/// How many bytes of a body a client of HTTP/2 may send before they are read, and how many of all
/// bodies of its connection.
///
/// Half of the latter is what h2 has for small frames that are still unread, at up to 256 bytes
/// each. A quarter of a mebibyte would end the connection of a client with 600 calls at once.
pub(super) const STREAM_WINDOW: usize = 256 * 1024;
pub(super) const CONNECTION_WINDOW: usize = 1024 * 1024;
/// How many bytes may be kept in all, of requests and of answers; or twice the largest request, if that is more.
const KEPT_MAX: usize = 256 * 1024 * 1024;
/// Which part of it may be kept for one peer before its connections are ended first.
const SHARE_OF_PEER: usize = 4;
/// How much more may be kept for a connection before all are told.
const STEP: usize = 16 * 1024;
/// How many connections of the Unix socket may be open beyond `server.max_connections`.
const UNIX_PLACES: usize = 16;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long what was found by a look at all connections stands.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const SAY_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_most_is_kept_for_is_cut_off_however_small_its_pieces_are() {
        let all = Connections::new(2, 0);
        let (small, large) = (
            all.place(Peer::Unknown).unwrap(),
            all.place(Peer::Unknown).unwrap(),
        );
        small.connection().asks(KEPT_MAX / 4);
        std::thread::sleep(2 * LOOK_AGAIN);
        for _ in 0..KEPT_MAX / 1024 {
            large.connection().is_given(1024);
        }
        assert!(large.connection().is_cut());
        assert!(!small.connection().is_ending());
    }

    #[test]
    fn calls_have_a_price_although_they_have_no_body() {
        let all = Connections::new(3, 0);
        let (few, many) = (
            all.place(Peer::User(1)).unwrap(),
            all.place(Peer::User(2)).unwrap(),
        );
        few.connection().call_begins();
        std::thread::sleep(2 * LOOK_AGAIN);
        for _ in 0..=KEPT_MAX / CALL_PRICE {
            many.connection().call_begins();
        }
        // All may have been summed up just before the last of them.
        std::thread::sleep(2 * LOOK_AGAIN);
        all.sum_up();
        assert!(many.connection().is_cut());
        assert!(!few.connection().is_ending());
    }

    #[test]
    fn the_head_of_a_request_counts_until_its_call_begins() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let connection = place.connection();
        connection.head_comes(60_000);
        assert_eq!(connection.price(), 60_000);
        connection.call_begins();
        assert_eq!(connection.price(), CALL_PRICE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_that_is_taken_outlives_many_requests_that_stand_still() {
        let all = Connections::new(2000, 0);
        let place = || all.place(Peer::Unknown).unwrap();
        let slow: Vec<_> = (0..1090).map(|_| place()).collect();
        for connection in slow.iter().map(Place::connection) {
            connection.call_begins();
            connection.request_comes(230_000);
            connection.asks(230_000);
            connection.request_is_unfinished();
        }
        let honest = place();
        honest.connection().call_begins();
        tokio::time::advance(LOOK_AGAIN).await;
        honest.connection().is_given(19_800_000);
        all.sum_up();
        assert!(!honest.connection().is_cut());
        let ended = slow.iter().filter(|slow| slow.connection().is_cut());
        let ended = ended.count();
        assert!((1..200).contains(&ended), "{ended}");
    }

    #[test]
    fn twice_the_largest_request_may_be_kept() {
        let all = Connections::new(1, KEPT_MAX);
        let one = all.place(Peer::Unknown).unwrap();
        one.connection().asks(2 * KEPT_MAX);
        std::thread::sleep(2 * LOOK_AGAIN);
        all.sum_up();
        assert!(!one.connection().is_ending());
        one.connection().asks(STEP);
        std::thread::sleep(2 * LOOK_AGAIN);
        all.sum_up();
        assert!(one.connection().is_cut());
    }
}
