//! What a call has kept for it: its request until there is an answer, and its answer until that is taken.
//!
//! The bodies that pass are counted here, and [`Connection`] adds up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::connections::Connection;

/// A call of a connection, until its answer is given away.
#[derive(Debug)]
pub(super) struct CallUnderWay {
    connection: Arc<Connection>,
    request: Mutex<Request>,
}

/// What is kept of a request.
#[derive(Debug, Default)]
struct Request {
    /// Bytes that are counted.
    counted: usize,
    /// How many of them are kept although there is an answer.
    staying: usize,
    answered: bool,
}

impl CallUnderWay {
    /// Begins a call.
    pub(super) fn begin(connection: &Arc<Connection>) -> Arc<Self> {
        connection.call_begins();
        Arc::new(Self {
            connection: Arc::clone(connection),
            request: Mutex::default(),
        })
    }

    /// Notes that there is an answer. Of the request, only what its reader holds is kept from now on.
    pub(super) fn is_answered(&self) {
        let mut request = self.request.lock();
        request.answered = true;
        self.let_go(&mut request);
    }

    /// Counts bytes of its request: all of them until there is an answer, and then what its reader holds.
    fn asks(&self, bytes: usize, held: usize) {
        let mut request = self.request.lock();
        request.staying = held;
        let more = match request.answered {
            true => held.saturating_sub(request.counted),
            false => bytes,
        };
        if more > 0 {
            self.connection.asks(more);
            request.counted += more;
        }
    }

    /// Notes that its request is not read any more, and so its reader holds nothing.
    fn is_read(&self) {
        let mut request = self.request.lock();
        request.staying = 0;
        if request.answered {
            self.let_go(&mut request);
        }
    }

    fn has_answer(&self) -> bool {
        self.request.lock().answered
    }

    fn let_go(&self, request: &mut Request) {
        let rest = request.counted.saturating_sub(request.staying);
        if rest > 0 {
            request.counted -= rest;
            self.connection.is_answered(rest);
        }
    }

    /// Counts bytes of its answer as kept until they are taken.
    fn answers(&self, bytes: Bytes) -> Untaken {
        self.connection.is_given(bytes.len());
        Untaken {
            bytes,
            connection: Arc::clone(&self.connection),
        }
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        let counted = self.request.get_mut().counted;
        if counted > 0 {
            self.connection.is_answered(counted);
        }
        self.connection.call_ends();
    }
}

/// Bytes of an answer that nobody has taken.
///
/// HTTP/1.1 goes forward in them by what the system took of them. So does HTTP/2, where flow control permits to send
/// them; a frame of less than a kilobyte, and as little of the beginning of a larger one, counts as taken when it is
/// copied to the frames that are written next, which have room for 16 KiB and are written before there are others.
#[derive(Debug)]
pub(super) struct Untaken {
    bytes: Bytes,
    connection: Arc<Connection>,
}

impl Buf for Untaken {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.connection.takes(count);
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let rest = self.bytes.len();
        if rest > 0 {
            self.connection.loses(rest);
        }
    }
}

/// The body of a request, whose bytes are counted.
#[derive(Debug)]
pub(super) struct Asked {
    body: Incoming,
    call: Arc<CallUnderWay>,
    /// Those of gRPC.
    messages: Option<Messages>,
    patience: Patience,
}

impl Asked {
    /// Counts the body of a call.
    pub(super) fn new(body: Incoming, call: Arc<CallUnderWay>, is_grpc: bool) -> Self {
        Self {
            body,
            call,
            messages: is_grpc.then(Messages::default),
            patience: Patience::default(),
        }
    }

    fn held(&self) -> usize {
        self.messages.as_ref().map_or(0, Messages::held)
    }

    fn comes(&mut self, bytes: &[u8]) {
        if let Some(messages) = &mut self.messages
            && messages.pass(bytes)
        {
            self.patience.renew();
        }
        self.call.asks(bytes.len(), self.held());
    }

    /// Tells whether the rest of a message was waited for too long.
    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        let is_within = self.messages.as_ref().is_some_and(Messages::is_within);
        is_within && self.patience.is_over(context, || self.call.has_answer())
    }
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return match self.is_overdue(context) {
                true => Poll::Ready(Some(Err(Status::deadline_exceeded(OVERDUE)))),
                false => Poll::Pending,
            };
        };
        if let Some(data) = frame.iter().flatten().find_map(Frame::data_ref) {
            self.comes(data);
        }
        let failed = |error: hyper::Error| Status::from_error(Box::new(error));
        Poll::Ready(frame.map(|frame| frame.map_err(failed)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.held() > 0 {
            self.call.is_read();
        }
    }
}

/// How long the rest of a message is waited for.
#[derive(Debug, Default)]
struct Patience {
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Notes that the message has come, so that another may take its time.
    fn renew(&mut self) {
        self.since = None;
    }

    /// Waits on, and tells whether it was long enough. Until there is an answer, it is not: a call has its own deadline.
    fn is_over(&mut self, context: &mut Context<'_>, has_answer: impl Fn() -> bool) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = since + MESSAGE_MAX;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while alarm.as_mut().poll(context).is_ready() {
            let next = if alarm.deadline() < due {
                // It was set for an earlier message.
                due
            } else if has_answer() {
                return true;
            } else {
                Instant::now() + MESSAGE_MAX
            };
            alarm.as_mut().reset(next);
        }
        false
    }
}

/// Where messages begin and end in the body of a request (gRPC over HTTP/2, Length-Prefixed-Message).
#[derive(Debug, Default)]
struct Messages {
    /// Bytes of the message that came, with its prefix.
    come: usize,
    /// Bytes of it that are to come, as far as its prefix says it.
    rest: usize,
    largest: usize,
}

impl Messages {
    /// Follows what comes, and tells whether a message came to its end.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while let Some((first, behind)) = bytes.split_first() {
            if self.come < PREFIX_LEN {
                // A flag, then the length.
                self.rest = match self.come {
                    0 => 0,
                    _ => (self.rest << 8) | usize::from(*first),
                };
                self.come += 1;
                bytes = behind;
            } else {
                let part = self.rest.min(bytes.len());
                self.rest -= part;
                self.come += part;
                bytes = bytes.split_at(part).1;
            }
            self.largest = self.largest.max(self.come);
            if self.come >= PREFIX_LEN && self.rest == 0 {
                self.come = 0;
                ended = true;
            }
        }
        ended
    }

    fn is_within(&self) -> bool {
        self.come > 0
    }

    /// Returns the bytes that the reader holds: it makes room for the largest message and does not give it back. The
    /// room that every reader has from the start does not count.
    fn held(&self) -> usize {
        match self.largest {
            0..=READER_MIN => 0,
            largest => largest,
        }
    }
}

/// The body of an answer, whose bytes are counted until they are on their way.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// What was ready at once, and is counted although flow control may not let it be asked for.
    ready: Poll<Option<Result<Frame<Untaken>, Status>>>,
    call: Arc<CallUnderWay>,
}

impl Answer {
    /// Counts the answer to a call.
    pub(super) fn new(body: Body, call: Arc<CallUnderWay>) -> Self {
        let mut answer = Self {
            body,
            ready: Poll::Pending,
            call,
        };
        if !answer.body.is_end_stream() {
            // Who sends the body will poll it again.
            answer.ready = answer.poll(&mut Context::from_waker(Waker::noop()));
        }
        answer
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Untaken>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let counted = |frame: Frame<Bytes>| frame.map_data(|bytes| self.call.answers(bytes));
        Poll::Ready(frame.map(|frame| frame.map(counted)))
    }
}

impl http_body::Body for Answer {
    type Data = Untaken;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Untaken>, Status>>> {
        match std::mem::replace(&mut self.ready, Poll::Pending) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => self.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_pending() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        let Poll::Ready(Some(Ok(frame))) = &self.ready else {
            return rest;
        };
        let ready = frame.data_ref().map_or(0, Buf::remaining);
        let ready = u64::try_from(ready).unwrap_or(u64::MAX);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ready));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ready));
        }
        hint
    }
}

/// How many bytes stand before each message.
const PREFIX_LEN: usize = 5;
/// What the decoder of tonic has room for before it has read anything.
const READER_MIN: usize = 8 * 1024;
/// How long a message of a stream may take to come to its end.
const MESSAGE_MAX: Duration = Duration::from_secs(60);
const OVERDUE: &str = "the message did not come to its end in time";

#[cfg(test)]
mod tests {
    use super::super::connections::Connections;
    use super::*;
    use crate::domain::Peer;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let whole = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\0\x01d";
        for cut in 1..whole.len() {
            let mut messages = Messages::default();
            let ended = whole.chunks(cut).filter(|part| messages.pass(part)).count();
            assert!(ended > 0 && !messages.is_within(), "{cut}: {messages:?}");
            assert_eq!(messages.largest, 8, "{cut}");
            messages.pass(b"\0");
            assert!(messages.is_within(), "{cut}");
        }
    }

    #[test]
    fn a_reader_holds_as_much_as_its_largest_message() {
        let mut messages = Messages::default();
        messages.pass(&[0, 0, 0, 0x27, 0x10]);
        messages.pass(&[7; 5000]);
        assert_eq!(messages.held(), 0);
        messages.pass(&[7; 4999]);
        assert_eq!((messages.held(), messages.is_within()), (10_004, true));
        messages.pass(&[7, 0, 0, 0, 0, 1, 7]);
        assert_eq!((messages.held(), messages.is_within()), (10_005, false));
    }

    /// Waits for so many seconds at most, and tells whether that was long enough.
    async fn wait(patience: &mut Patience, seconds: u64, has_answer: bool) -> bool {
        let over = std::future::poll_fn(|context| match patience.is_over(context, || has_answer) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        let max = Duration::from_secs(seconds);
        tokio::time::timeout(max, over).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_message_is_waited_for_and_not_for_ever() {
        let mut patience = Patience::default();
        assert!(!wait(&mut patience, 59, true).await);
        patience.renew();
        assert!(!wait(&mut patience, 59, true).await);
        assert!(wait(&mut patience, 2, true).await);
        patience.renew();
        assert!(!wait(&mut patience, 600, false).await);
        assert!(wait(&mut patience, 61, true).await);
    }

    #[test]
    fn what_is_kept_for_a_call_is_let_go_when_it_is_not_kept_any_more() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let connection = place.connection();
        let call = CallUnderWay::begin(connection);
        call.asks(20_000, 9000);
        call.asks(10_000, 12_000);
        assert_eq!(connection.kept(), 30_000);
        call.is_answered();
        assert_eq!(connection.kept(), 12_000);
        call.asks(3000, 12_000);
        assert_eq!(connection.kept(), 12_000);
        call.asks(3000, 15_000);
        assert_eq!(connection.kept(), 15_000);
        let mut answer = call.answers(Bytes::from_static(&[7; 100]));
        assert_eq!(connection.kept(), 15_100);
        answer.advance(40);
        assert_eq!(connection.kept(), 15_060);
        drop(answer);
        call.is_read();
        assert_eq!(connection.kept(), 0);
        assert!(!connection.is_idle());
        call.asks(10, 0);
        drop(call);
        assert!(connection.is_idle());

        let unanswered = CallUnderWay::begin(connection);
        unanswered.asks(20_000, 0);
        drop(unanswered);
        assert!(connection.is_idle());
    }
}
