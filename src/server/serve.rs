//! One connection: HTTP/1.1 and 2 on it, watched for what [`Connection`] has to know.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tracing::debug;

use super::accounts::{Answer, Asked, CallUnderWay};
use super::connections::{CONNECTION_WINDOW, Connection, STREAM_WINDOW};
use super::dates::Dates;
use super::eviction::SLOW;
use super::front::{Answered, Front, Transport};
use super::gate::Gate;
use super::lifetime::{Lifetime, Over};
use crate::domain::{Client, Clock};
use crate::service::ServiceError;

/// How HTTP is spoken, and who answers.
#[derive(Clone, Debug)]
pub(super) struct Http {
    protocol: Arc<Builder<TokioExecutor>>,
    front: Front,
    turns: Turns,
    dates: Dates,
    /// How long the calls of a connection may take that has reached its greatest age.
    old_calls_max: Duration,
}

impl Http {
    /// Has a front answer, whose calls take no longer than `request_timeout`. Answers are dated by
    /// the clock.
    pub(super) fn new(front: Front, clock: Arc<dyn Clock>, request_timeout: Duration) -> Self {
        let mut protocol = Builder::new(TokioExecutor::new());
        let window = |bytes: usize| u32::try_from(bytes).ok();
        protocol
            .http1()
            .timer(TokioTimer::new())
            .max_buf_size(HEAD_BYTES_MAX)
            .header_read_timeout(HEAD_MAX);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_MAX)
            .initial_stream_window_size(window(STREAM_WINDOW))
            .initial_connection_window_size(window(CONNECTION_WINDOW))
            .max_pending_accept_reset_streams(CANCELLED_AT_ONCE_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        Self {
            protocol: Arc::new(protocol),
            front,
            turns: Turns::new(),
            dates: Dates::by(clock),
            old_calls_max: request_timeout.saturating_add(ANSWER_MAX),
        }
    }

    /// Answers the calls of a connection until it ends, has to end, or, after `stop`, has no call under way.
    pub(super) async fn serve<Io>(
        &self,
        io: Io,
        gate: Gate,
        client: Arc<Client>,
        connection: &Arc<Connection>,
        lifetime: &Lifetime,
        stop: &CancellationToken,
    ) where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let watched = Watched {
            io,
            connection: Arc::clone(connection),
            preface: PREFACE,
            is_http1: false,
        };
        let leaves = stop.child_token();
        let answering = self.answering(gate, client, connection, &leaves, stop);
        let refuses = Arc::clone(&answering.refuses);
        let closes = Arc::clone(&answering.closes);
        let serving = self
            .protocol
            .serve_connection(TokioIo::new(watched), answering);
        let mut serving = std::pin::pin!(serving);
        let (makes_room, is_old) = tokio::select! {
            served = serving.as_mut() => {
                tell(&served);
                return;
            }
            () = stop.cancelled() => (false, false),
            () = connection.ended() => (true, false),
            why = lifetime.over() => {
                debug!("a connection is asked to go: {why}");
                (false, why == Over::Old)
            }
        };
        leaves.cancel();
        // A stop does not wait for a peer that does not say goodbye; others have longer.
        let stopped = || async {
            stop.cancelled().await;
            sleep(STOP_GOODBYE_MAX).await;
        };
        if connection.is_http1() && !makes_room {
            // hyper closes an HTTP/1.1 connection at once when it has no call, and the next one
            // may be on its way. So the next answer says goodbye, which closes it too.
            closes.store(true, Ordering::Relaxed);
            tokio::select! {
                served = serving.as_mut() => {
                    tell(&served);
                    return;
                }
                () = connection.ended() => {}
                _ = lifetime.refused() => {}
                () = sleep(connection.goodbye_max()) => {}
                () = stopped() => {}
            }
        }
        serving.as_mut().graceful_shutdown();
        let leaving = async {
            tokio::select! {
                served = serving.as_mut() => return Some(served),
                () = sleep(connection.goodbye_max()) => {}
                () = stopped() => {}
            }
            while !connection.is_idle() {
                // A call was quicker than the goodbye.
                if let Ok(served) = timeout(LOOK_INTERVAL, serving.as_mut()).await {
                    return Some(served);
                }
            }
            None
        };
        let refusing = async {
            // A peer that does not say goodbye may go on to call.
            if is_old {
                tokio::select! {
                    () = sleep(connection.goodbye_max()) => {}
                    () = stopped() => {}
                }
                refuses.store(true, Ordering::Relaxed);
            }
            stopped().await;
            refuses.store(true, Ordering::Relaxed);
            // One that goes on with nothing does not hold up the stop.
            sleep(SLOW).await;
            while !connection.only_waits_for_peer() {
                sleep(LOOK_INTERVAL).await;
            }
        };
        let closing = async {
            lifetime.refused().await;
            sleep(REFUSED_CALLS_MAX).await;
        };
        let calls_max = match (makes_room, is_old) {
            (true, _) => LAST_CALLS_MAX,
            (false, true) => self.old_calls_max,
            // A client that is not let in any more has a time limit, and so has the stop.
            (false, false) => Duration::MAX,
        };
        tokio::select! {
            biased;
            () = connection.cut_off() => {}
            () = closing => {}
            () = refusing => {}
            served = timeout(calls_max, leaving) => {
                if let Ok(Some(served)) = served {
                    tell(&served);
                }
            }
        }
    }

    /// Returns what answers the calls of a connection: its streams end by `leaves`, and all by
    /// `stop`.
    fn answering(
        &self,
        gate: Gate,
        client: Arc<Client>,
        connection: &Arc<Connection>,
        leaves: &CancellationToken,
        stop: &CancellationToken,
    ) -> Answering {
        let front = &self.front;
        Answering {
            front: front.of_connection(&client, gate, leaves.clone(), stop.clone()),
            client,
            refuses: Arc::default(),
            closes: Arc::default(),
            turns: self.turns,
            dates: self.dates,
            connection: Arc::clone(connection),
        }
    }
}

fn tell(served: &Result<(), Box<dyn Error + Send + Sync>>) {
    if let Err(error) = served {
        debug!(%error, "a connection ended in an error");
    }
}

/// Answers the calls of one connection.
struct Answering {
    front: Front,
    client: Arc<Client>,
    turns: Turns,
    dates: Dates,
    connection: Arc<Connection>,
    /// Whether calls are told to connect again, since the daemon or the connection has to end.
    refuses: Arc<AtomicBool>,
    /// Whether the next answer over HTTP/1.1 closes the connection.
    closes: Arc<AtomicBool>,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Reply;

    fn call(&self, mut request: Request<Incoming>) -> Reply {
        let call = CallUnderWay::begin(&self.connection, request.headers());
        if request.headers().len() > FIELDS_MAX {
            return Reply {
                call,
                dates: self.dates,
                closes: None,
                unbegun: None,
                answer: Some(std::future::ready(Ok(too_many_fields())).boxed()),
            };
        }
        let transport = self.front.transport(&request);
        let turn = match self.refuses.load(Ordering::Relaxed) {
            true => Err(ServiceError::Stopping),
            false => self.turns.wait().ok_or(ServiceError::Overloaded),
        };
        request.extensions_mut().insert(self.connection.origin());
        if !transport.is_grpc() {
            request.extensions_mut().insert(Arc::clone(&self.client));
        }
        // HTTP/2 has no such field (RFC 9113, section 8.2.2).
        let is_http1 = request.version() <= Version::HTTP_11;
        Reply {
            call,
            dates: self.dates,
            closes: is_http1.then(|| Arc::clone(&self.closes)),
            unbegun: Some((request, transport, turn)),
            answer: None,
        }
    }
}

/// A call until there is an answer. Its work begins when it is first polled, which is its turn.
struct Reply {
    call: Arc<CallUnderWay>,
    dates: Dates,
    /// Over HTTP/1.1: whether the answer closes the connection.
    closes: Option<Arc<AtomicBool>>,
    unbegun: Option<(Request<Incoming>, Transport, Result<Turn, ServiceError>)>,
    answer: Option<Answered>,
}

impl Future for Reply {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        if let Some((request, transport, turn)) = me.unbegun.take() {
            me.answer = Some(match turn {
                Ok(turn) => {
                    drop(turn);
                    let call = Arc::clone(&me.call);
                    let silence_max = silence_max(request.uri().path());
                    let asked = |body| match transport.is_grpc() {
                        true => Body::new(Asked::messages(body, call, silence_max)),
                        false => Body::new(Asked::whole(body, call)),
                    };
                    let request = request.map(asked);
                    transport.answer(request)
                }
                Err(error) => std::future::ready(Ok(transport.refuse(&error))).boxed(),
            });
        }
        let Some(answer) = &mut me.answer else {
            return Poll::Pending;
        };
        let Ok(response) = ready!(answer.as_mut().poll(context));
        me.call.is_answered();
        let call = Arc::clone(&me.call);
        let (mut head, body) = response.into_parts();
        if let Some(date) = me.dates.now() {
            head.headers.insert(header::DATE, date);
        }
        let closes = me.closes.as_ref();
        if closes.is_some_and(|closes| closes.load(Ordering::Relaxed)) {
            let close = HeaderValue::from_static("close");
            head.headers.insert(header::CONNECTION, close);
        }
        if body.is_end_stream() {
            // Its head is all that there is, and else there is nothing that counts until it is taken.
            call.answers_head(&mut head.headers);
        }
        Poll::Ready(Ok(Response::from_parts(head, Answer::new(body, call))))
    }
}

/// Answers a request with more header fields than there may be, as HTTP/1.1 does by hyper, and HTTP/2
/// by h2 when they are too long (RFC 6585, section 5).
fn too_many_fields() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response
}

/// Returns how long a stream may say nothing between two messages.
fn silence_max(path: &str) -> Duration {
    match path.starts_with("/grpc.reflection.") {
        true => REFLECTION_SILENCE_MAX,
        false => STREAM_SILENCE_MAX,
    }
}

/// Counts the calls that came in and were not begun: the queue before all other queues, which is bounded as they are.
///
/// A token's queue fills while processors are idle. This one fills when they are not, as with keys in software. The count
/// lives as long as the process, so that no call has to count who refers to it.
#[derive(Clone, Copy, Debug)]
struct Turns(&'static AtomicUsize);

impl Turns {
    fn new() -> Self {
        Self(Box::leak(Box::new(AtomicUsize::new(0))))
    }

    /// Waits for its turn, unless too many do.
    fn wait(self) -> Option<Turn> {
        let waiting = self.0.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(self.0);
        (waiting < UNBEGUN_MAX).then_some(turn)
    }
}

/// A call that was not begun.
#[derive(Debug)]
struct Turn(&'static AtomicUsize);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is listened to while it is used.
struct Watched<Io> {
    io: Io,
    connection: Arc<Connection>,
    /// What the peer has yet to send of the preface of HTTP/2, while it may be one.
    preface: &'static [u8],
    is_http1: bool,
}

impl<Io> Watched<Io> {
    /// Has a look at what came first.
    fn heard(&mut self, bytes: &[u8]) {
        if self.preface.is_empty() {
            if self.is_http1 {
                self.connection.head_comes(bytes.len());
            }
            return;
        }
        let common = bytes.len().min(self.preface.len());
        let (expected, rest) = self.preface.split_at(common);
        self.preface = if bytes.starts_with(expected) {
            rest
        } else {
            self.is_http1 = true;
            self.connection.speaks_http1();
            self.connection.head_comes(bytes.len());
            &[]
        };
        if self.preface.is_empty() {
            self.connection.greets();
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.heard(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// How large the head of an HTTP/1.1 request may be, and what hyper reads in advance.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How large the head of an HTTP/2 request may be, as RFC 9113 counts it (section 6.5.2): a token of
/// eight kilobytes and as much of cookies.
const HEADER_LIST_MAX: u32 = 16 * 1024;
/// How many header fields a request may have. hyper has the same bound for HTTP/1.1, and keeps the
/// fields on the stack as long as it is not set.
const FIELDS_MAX: usize = 100;
/// How long a stream of messages may say nothing, and how long one of the reflection may, whose
/// clients ask all that they want to know at once.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(300);
const REFLECTION_SILENCE_MAX: Duration = Duration::from_secs(10);
/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long the head of an HTTP/1.1 request may take to come, and how long the connection may wait for another one.
const HEAD_MAX: Duration = Duration::from_secs(30);
const CONCURRENT_STREAMS_MAX: u32 = 1024;
/// How many calls may wait to be begun: what two connections may ask at once, and a tenth of a second of signatures in software.
const UNBEGUN_MAX: usize = 2048;
/// How many calls of one connection may be cancelled before they are looked at. One more ends the connection, with
/// all its calls, as a defence against floods (CVE-2023-44487): the default of 20 is met by clients with short deadlines.
const CANCELLED_AT_ONCE_MAX: usize = 256;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that is asked to go may take for it when it has calls under way after all.
const LAST_CALLS_MAX: Duration = Duration::from_secs(30);
/// How long the answers to the last calls may take to be taken at the greatest age.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long one may take whose client would not be let in any more.
const REFUSED_CALLS_MAX: Duration = Duration::from_secs(5);
/// How long after a stop a peer may take to say goodbye, and calls that it makes are answered.
const STOP_GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether the last call has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_wait_to_be_begun_and_no_more() {
        let turns = Turns::new();
        let mut waiting: Vec<_> = (0..UNBEGUN_MAX).map(|_| turns.wait().unwrap()).collect();
        assert!(turns.wait().is_none());
        assert!(turns.wait().is_none());
        drop(waiting.pop().unwrap());
        let one = turns.wait();
        assert!(one.is_some());
        assert!(turns.wait().is_none());
    }
}
