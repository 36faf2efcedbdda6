//! What a call has kept for it: its request until there is an answer, and its answer until that is taken.
//!
//! The bodies that pass are counted here, and [`Connection`] adds up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::connections::Connection;
use super::messages::Messages;

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
    /// Its reader waits for bytes of the body, and has read a part of a message.
    is_within: bool,
    /// The connection counts it as a request with more to come.
    is_unfinished: bool,
}

impl Request {
    /// Tells whether its call waits for the peer, to send the rest or to take the answer.
    const fn waits_for_peer(&self) -> bool {
        self.answered || self.is_unfinished
    }
}

impl CallUnderWay {
    /// Begins a call.
    pub(super) fn begin(connection: &Arc<Connection>, head: &HeaderMap) -> Arc<Self> {
        connection.call_begins();
        let call = Arc::new(Self {
            connection: Arc::clone(connection),
            request: Mutex::default(),
        });
        // A small head is in the price of the call.
        let head = head_len(head);
        if head > SMALL_HEAD {
            call.asks(head, 0);
        }
        call
    }

    /// Notes that there is an answer. Of the request, only what its reader holds is kept from now on.
    pub(super) fn is_answered(&self) {
        let mut request = self.request.lock();
        let waited = request.waits_for_peer();
        request.answered = true;
        self.let_go(&mut request);
        let is_finished = !request.is_within;
        self.finish(&mut request, is_finished);
        if !waited {
            self.connection.call_waits_for_peer();
        }
    }

    /// Notes that the reader of its request waits for more of it, within a message or between two.
    ///
    /// A stream that has its answer owes nothing between two messages. Any other request does.
    fn waits_for_more(&self, is_within: bool) {
        let mut request = self.request.lock();
        request.is_within = is_within;
        let is_finished = request.answered && !is_within;
        self.come_to(&mut request, is_finished);
    }

    /// Notes that no more of its request is to come.
    fn has_come(&self) {
        let mut request = self.request.lock();
        request.is_within = false;
        self.come_to(&mut request, true);
    }

    /// Notes whether a request is at its end, and whose turn it is.
    fn come_to(&self, request: &mut Request, is_finished: bool) {
        let waited = request.waits_for_peer();
        self.finish(request, is_finished);
        match (waited, request.waits_for_peer()) {
            (false, true) => self.connection.call_waits_for_peer(),
            (true, false) => self.connection.call_waits_for_us(),
            _ => {}
        }
    }

    fn finish(&self, request: &mut Request, is_finished: bool) {
        if request.is_unfinished == is_finished {
            request.is_unfinished = !is_finished;
            match is_finished {
                true => self.connection.request_is_finished(),
                false => self.connection.request_is_unfinished(),
            }
        }
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
    fn answers(self: &Arc<Self>, bytes: Bytes) -> Untaken {
        self.connection.is_given(bytes.len());
        Untaken {
            bytes,
            call: Arc::clone(self),
        }
    }

    /// Counts the head or the trailers of an answer as kept until they are taken.
    ///
    /// HTTP/2 keeps them in a queue of its own and does not tell when they go. But it drops them
    /// when it has written them. So the longest value is given an owner that notices: as a value
    /// that is sensitive, which no table for compression keeps (RFC 7541, section 7.1.3).
    pub(super) fn answers_head(self: &Arc<Self>, head: &mut HeaderMap) {
        let len = head_len(head);
        let Some(value) = head.values_mut().max_by_key(|value| value.len()) else {
            return;
        };
        self.connection.is_given(len);
        let untaken = UntakenHead {
            value: Bytes::copy_from_slice(value.as_bytes()),
            len,
            call: Arc::clone(self),
        };
        // A value that was valid is.
        if let Ok(mut owned) = HeaderValue::from_maybe_shared(Bytes::from_owner(untaken)) {
            owned.set_sensitive(true);
            *value = owned;
        }
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        let request = self.request.get_mut();
        if request.counted > 0 {
            self.connection.is_answered(request.counted);
        }
        if request.waits_for_peer() {
            self.connection.call_waits_for_us();
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
    call: Arc<CallUnderWay>,
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
        self.call.connection.takes(count);
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let rest = self.bytes.len();
        if rest > 0 {
            self.call.connection.loses(rest);
        }
    }
}

/// The head or the trailers of an answer that the client has not taken.
#[derive(Debug)]
struct UntakenHead {
    value: Bytes,
    len: usize,
    call: Arc<CallUnderWay>,
}

impl AsRef<[u8]> for UntakenHead {
    fn as_ref(&self) -> &[u8] {
        &self.value
    }
}

impl Drop for UntakenHead {
    fn drop(&mut self) {
        self.call.connection.takes(self.len);
    }
}

/// Returns what a head takes in memory, roughly: its names and values, and their places in a map.
fn head_len(head: &HeaderMap) -> usize {
    head.iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_LEN)
        .sum()
}

/// The body of a request, whose bytes are counted.
#[derive(Debug)]
pub(super) struct Asked<B = Incoming> {
    body: B,
    call: Arc<CallUnderWay>,
    /// Those of gRPC.
    messages: Option<Messages>,
    patience: Patience,
    /// How long a stream may say nothing between two messages.
    silence_max: Duration,
    /// It was found not to be at its end.
    is_open: bool,
}

impl<B> Asked<B> {
    /// Counts the body of a call of gRPC, which may be a stream and say nothing for so long.
    pub(super) fn messages(body: B, call: Arc<CallUnderWay>, silence_max: Duration) -> Self {
        let messages = Messages::new(call.connection.message_max());
        let mut asked = Self::whole(body, call);
        asked.messages = Some(messages);
        asked.silence_max = silence_max;
        asked
    }

    /// Counts the body of a call, which is read as a whole.
    pub(super) fn whole(body: B, call: Arc<CallUnderWay>) -> Self {
        Self {
            body,
            call,
            messages: None,
            patience: Patience::default(),
            silence_max: Duration::MAX,
            is_open: false,
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
        self.call.connection.request_comes(bytes.len());
        self.call.asks(bytes.len().max(FRAME_MIN), self.held());
    }

    /// Notes that it is not at its end.
    fn goes_on(&mut self) {
        if !self.is_open {
            self.is_open = true;
            self.call.connection.body_opens();
        }
        let is_within = self.messages.as_ref().is_some_and(Messages::is_within);
        self.call.waits_for_more(is_within);
    }

    /// Notes that it is at its end, or is not read any more.
    fn ends(&mut self) {
        if self.is_open {
            self.is_open = false;
            self.call.connection.body_closes();
            self.call.has_come();
        }
    }

    /// Tells why it is not waited any longer, if it was too long.
    fn overdue(&mut self, context: &mut Context<'_>) -> Option<&'static str> {
        let messages = self.messages.as_ref()?;
        let (max, why) = match messages.is_within() {
            true => (MESSAGE_MAX, OVERDUE),
            // Before there is an answer, it is no stream, or one that has not begun.
            false if self.call.has_answer() => (self.silence_max, IDLE),
            false => return None,
        };
        let is_over = self
            .patience
            .is_over(context, max, || self.call.has_answer());
        is_over.then_some(why)
    }
}

impl<B> http_body::Body for Asked<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.goes_on();
            return match self.overdue(context) {
                Some(why) => Poll::Ready(Some(Err(Status::deadline_exceeded(why)))),
                None => Poll::Pending,
            };
        };
        if let Some(data) = frame.iter().flatten().find_map(Frame::data_ref) {
            self.comes(data);
        }
        let has_more = matches!(frame, Some(Ok(_))) && !self.body.is_end_stream();
        match has_more {
            true => self.goes_on(),
            false => self.ends(),
        }
        let failed = |error: B::Error| Status::from_error(Box::new(error));
        Poll::Ready(frame.map(|frame| frame.map_err(failed)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Asked<B> {
    fn drop(&mut self) {
        self.ends();
        if self.held() > 0 {
            self.call.is_read();
        }
    }
}

/// How long the rest of a message is waited for, or the next one.
#[derive(Debug, Default)]
struct Patience {
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Notes that a message has come, so that another may take its time.
    fn renew(&mut self) {
        self.since = None;
    }

    /// Waits on, and tells whether it was long enough. Until there is an answer, it is not: a call has its own deadline.
    fn is_over(
        &mut self,
        context: &mut Context<'_>,
        max: Duration,
        has_answer: impl Fn() -> bool,
    ) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = since + max;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() > due {
            // It was set for a silence, which may last longer.
            alarm.as_mut().reset(due);
        }
        while alarm.as_mut().poll(context).is_ready() {
            let next = if alarm.deadline() < due {
                // It was set for an earlier message.
                due
            } else if has_answer() {
                return true;
            } else {
                Instant::now() + max
            };
            alarm.as_mut().reset(next);
        }
        false
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
        let counted = |mut frame: Frame<Bytes>| {
            if let Some(trailers) = frame.trailers_mut()
                && head_len(trailers) > SMALL_TRAILERS
            {
                self.call.answers_head(trailers);
            }
            frame.map_data(|bytes| self.call.answers(bytes))
        };
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

/// How long a message of a stream may take to come to its end.
const MESSAGE_MAX: Duration = Duration::from_secs(60);
/// As what a frame of a request counts at least: it takes that much in memory, however small it is.
const FRAME_MIN: usize = 64;
/// What a field takes in a map of headers, besides its name and its value.
const FIELD_LEN: usize = 128;
/// A head up to this is in the price of a call.
const SMALL_HEAD: usize = 4 * 1024;
/// Trailers up to this are not counted: those of a call that went well.
const SMALL_TRAILERS: usize = 2 * FIELD_LEN;
const IDLE: &str = "no message came for long; open another stream when there is one";
const OVERDUE: &str = "the message did not come to its end in time";

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::connections::Connections;
    use super::super::messages::PREFIX_LEN;
    use super::*;
    use crate::domain::Peer;

    /// Waits for so many seconds at most, and tells whether that was long enough.
    async fn wait(patience: &mut Patience, seconds: u64, has_answer: bool) -> bool {
        let over = std::future::poll_fn(|context| {
            match patience.is_over(context, MESSAGE_MAX, || has_answer) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
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
        let call = CallUnderWay::begin(connection, &HeaderMap::new());
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

        let unanswered = CallUnderWay::begin(connection, &HeaderMap::new());
        unanswered.asks(20_000, 0);
        drop(unanswered);
        assert!(connection.is_idle());
    }

    #[test]
    fn the_head_of_an_answer_counts_until_it_is_written() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let connection = place.connection();
        let call = CallUnderWay::begin(connection, &HeaderMap::new());
        let mut head = HeaderMap::new();
        head.insert("grpc-status", HeaderValue::from_static("3"));
        head.insert("details", HeaderValue::from_str(&"d".repeat(3000)).unwrap());
        let before = head.clone();
        call.answers_head(&mut head);
        drop(call);
        assert_eq!(head, before);
        assert!((3000..4000).contains(&connection.kept()));
        assert!(!connection.is_idle());
        drop(head);
        assert_eq!(connection.kept(), 0);
        assert!(connection.is_idle());
    }

    #[test]
    fn a_large_head_of_a_request_counts_until_there_is_an_answer() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let connection = place.connection();
        let mut head = HeaderMap::new();
        head.insert("cookie", HeaderValue::from_str(&"c".repeat(8000)).unwrap());
        let call = CallUnderWay::begin(connection, &head);
        assert!((8000..9000).contains(&connection.kept()));
        call.is_answered();
        assert_eq!(connection.kept(), 0);
    }

    /// Frames that came, and then nothing.
    #[derive(Default)]
    struct Coming(VecDeque<Bytes>);

    impl http_body::Body for Coming {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            }
        }
    }

    async fn next<B>(asked: &mut Asked<B>) -> Result<Frame<Bytes>, Status>
    where
        Asked<B>: http_body::Body<Data = Bytes, Error = Status> + Unpin,
    {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *asked).poll_frame(context));
        frame.await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_says_nothing_between_two_messages_is_ended_later_than_within_one() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let call = CallUnderWay::begin(place.connection(), &HeaderMap::new());
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let mut asked = Asked::messages(Coming::default(), Arc::clone(&call), minutes(5));
        // No answer yet: a call has a deadline of its own.
        let unanswered = tokio::time::timeout(minutes(60), next(&mut asked));
        assert!(unanswered.await.is_err());
        call.is_answered();
        let silent = tokio::time::timeout(
            minutes(5).saturating_sub(MESSAGE_MAX / 60),
            next(&mut asked),
        );
        assert!(silent.await.is_err());
        // A message, which gives it five minutes more.
        asked.body.0.push_back(Bytes::from_static(&[0; PREFIX_LEN]));
        assert!(next(&mut asked).await.is_ok());
        let silent = tokio::time::timeout(minutes(4), next(&mut asked));
        assert!(silent.await.is_err());
        let begun = Instant::now();
        let status = next(&mut asked).await.unwrap_err();
        assert_eq!(status.message(), IDLE);
        assert!((minutes(1)..minutes(2)).contains(&begun.elapsed()));
        // The begin of a message, whose rest is waited for a minute.
        asked.body.0.push_back(Bytes::from_static(&[0]));
        assert!(next(&mut asked).await.is_ok());
        asked.patience.renew();
        let begun = Instant::now();
        let status = next(&mut asked).await.unwrap_err();
        assert_eq!(status.message(), OVERDUE);
        assert!((minutes(1)..minutes(2)).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_only_waits_for_its_peer_when_no_call_waits_for_us() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let connection = place.connection();
        let waits = async || {
            connection.only_waits_for_peer();
            tokio::time::advance(Duration::from_secs(3)).await;
            connection.only_waits_for_peer()
        };
        let half = CallUnderWay::begin(connection, &HeaderMap::new());
        assert!(!waits().await, "its work has not begun");
        let mut asked = Asked::whole(Coming::default(), Arc::clone(&half));
        let second = Duration::from_secs(1);
        assert!(
            tokio::time::timeout(second, next(&mut asked))
                .await
                .is_err()
        );
        assert!(waits().await, "half a request");
        let whole = CallUnderWay::begin(connection, &HeaderMap::new());
        assert!(!waits().await, "another call is being answered");
        whole.is_answered();
        assert!(waits().await);
        drop(whole);
        assert!(waits().await);
        drop(asked);
        assert!(!waits().await, "the request is not read any more");
        half.is_answered();
        assert!(!waits().await, "nothing of an answer is ready");
        let untaken = half.answers(Bytes::from_static(&[7; 100]));
        assert!(waits().await, "an answer is not taken");
        drop(untaken);
        drop(half);
        assert!(connection.is_idle() && !waits().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_owes_more_within_a_message_and_before_its_answer_and_not_between_two() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let connection = place.connection();
        let call = CallUnderWay::begin(connection, &HeaderMap::new());
        let silence_max = Duration::from_secs(3600);
        let mut asked = Asked::messages(Coming::default(), Arc::clone(&call), silence_max);
        let still = async || {
            for _ in 0..3 {
                connection.receiving();
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            connection.receiving() >= Duration::from_secs(3)
        };
        let second = Duration::from_secs(1);
        assert!(
            tokio::time::timeout(second, next(&mut asked))
                .await
                .is_err()
        );
        assert!(still().await, "a call without an answer");
        call.is_answered();
        assert!(!still().await, "a stream before its first message");
        asked
            .body
            .0
            .push_back(Bytes::from_static(&[0; PREFIX_LEN + 1]));
        assert!(next(&mut asked).await.is_ok());
        assert!(
            tokio::time::timeout(second, next(&mut asked))
                .await
                .is_err()
        );
        assert!(still().await, "a stream within a message");
        let rest = Bytes::from_static(&[0; PREFIX_LEN - 1]);
        asked.body.0.push_back(rest);
        assert!(next(&mut asked).await.is_ok());
        assert!(
            tokio::time::timeout(second, next(&mut asked))
                .await
                .is_err()
        );
        assert!(!still().await, "a stream between two messages");
        drop(asked);
        assert!(!still().await);
    }

    #[tokio::test]
    async fn small_frames_count_for_what_they_take() {
        let all = Connections::new(1, 0);
        let place = all.place(Peer::Unknown).unwrap();
        let call = CallUnderWay::begin(place.connection(), &HeaderMap::new());
        let frames = (0..10).map(|_| Bytes::from_static(b" ")).collect();
        let mut asked = Asked::whole(Coming(frames), call);
        for _ in 0..10 {
            next(&mut asked).await.unwrap();
        }
        assert_eq!(place.connection().kept(), 10 * FRAME_MIN);
    }
}
