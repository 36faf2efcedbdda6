//! One connection: HTTP/1.1 and 2 on it, watched for what [`Connection`] has to know.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;
use tracing::debug;

use super::connections::{CallUnderWay, Connection};
use super::front::Front;

/// How HTTP is spoken, and who answers.
#[derive(Clone, Debug)]
pub(super) struct Http {
    protocol: Arc<Builder<TokioExecutor>>,
    front: Front,
    turns: Turns,
}

impl Http {
    /// Has a front answer.
    pub(super) fn new(front: Front) -> Self {
        let mut protocol = Builder::new(TokioExecutor::new());
        protocol
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
            .max_pending_accept_reset_streams(CANCELLED_AT_ONCE_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        Self {
            protocol: Arc::new(protocol),
            front,
            turns: Turns::default(),
        }
    }

    /// Answers the calls of a connection until it ends, has to end, or, after `stop`, has no call under way.
    pub(super) async fn serve<Io>(
        &self,
        io: Io,
        connection: &Arc<Connection>,
        stop: &CancellationToken,
    ) where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let watched = Watched {
            io,
            connection: Arc::clone(connection),
            preface: PREFACE,
        };
        let answering = Answering {
            front: self.front.clone(),
            turns: self.turns.clone(),
            connection: Arc::clone(connection),
        };
        let serving = self
            .protocol
            .serve_connection(TokioIo::new(watched), answering);
        let mut serving = std::pin::pin!(serving);
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                tokio::select! {
                    served = serving.as_mut() => served,
                    () = connection.ended() => return,
                }
            }
            () = connection.ended() => {
                if !connection.is_idle() {
                    return;
                }
                serving.as_mut().graceful_shutdown();
                match tokio::time::timeout(GOODBYE_MAX, serving.as_mut()).await {
                    Ok(served) => served,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = served {
            debug!(%error, "a connection ended in an error");
        }
    }
}

/// Answers the calls of one connection.
struct Answering {
    front: Front,
    turns: Turns,
    connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let call = Arc::new(self.connection.call());
        let mut front = self.front.clone();
        let turn = self.turns.wait();
        async move {
            let response = match turn {
                Some(turn) => {
                    // The call begins.
                    drop(turn);
                    let asked = |body| Asked {
                        body,
                        call: Arc::clone(&call),
                    };
                    front
                        .call(request.map(|body| Body::new(asked(body))))
                        .await?
                }
                None => Front::refuse(&request),
            };
            call.is_answered();
            Ok(response.map(|body| Answer::new(body, call)))
        }
        .boxed()
    }
}

/// Counts the calls that came in and were not begun: the queue before all other queues, which is bounded as they are.
///
/// A token's queue fills while processors are idle. This one fills when they are not, as with keys in software.
#[derive(Clone, Debug, Default)]
struct Turns(Arc<AtomicUsize>);

impl Turns {
    /// Waits for its turn, unless too many do.
    fn wait(&self) -> Option<Turn> {
        let waiting = self.0.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(Arc::clone(&self.0));
        (waiting < UNBEGUN_MAX).then_some(turn)
    }
}

/// A call that was not begun.
#[derive(Debug)]
struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a request, whose bytes are counted until it is answered.
#[derive(Debug)]
struct Asked {
    body: Incoming,
    call: Arc<CallUnderWay>,
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.iter().flatten().find_map(Frame::data_ref) {
            self.call.asks(data.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, whose bytes are counted until they are on their way.
#[derive(Debug)]
struct Answer {
    body: Body,
    /// What was ready at once, and is counted although flow control may not let it be asked for.
    ready: Poll<Option<Result<Frame<Bytes>, Status>>>,
    call: Arc<CallUnderWay>,
}

impl Answer {
    fn new(body: Body, call: Arc<CallUnderWay>) -> Self {
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

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let call = &self.call;
        let counted = |frame: Frame<Bytes>| frame.map_data(|bytes| call.untaken(bytes));
        Poll::Ready(frame.map(|frame| frame.map(counted)))
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
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
        let ready = frame.data_ref().map_or(0, Bytes::len);
        let ready = u64::try_from(ready).unwrap_or(u64::MAX);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ready));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ready));
        }
        hint
    }
}

/// A connection that is listened to while it is used.
struct Watched<Io> {
    io: Io,
    connection: Arc<Connection>,
    /// What the peer has yet to send of the preface of HTTP/2, while it may be one.
    preface: &'static [u8],
}

impl<Io> Watched<Io> {
    /// Has a look at what came first.
    fn heard(&mut self, bytes: &[u8]) {
        if self.preface.is_empty() {
            return;
        }
        let common = bytes.len().min(self.preface.len());
        let (expected, rest) = self.preface.split_at(common);
        self.preface = if bytes.starts_with(expected) {
            rest
        } else {
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
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        self.connection.takes(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, slices))?;
        self.connection.takes(written);
        Poll::Ready(Ok(written))
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
/// How long a connection that is asked to go may take for it.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_wait_to_be_begun_and_no_more() {
        let turns = Turns::default();
        let mut waiting: Vec<_> = (0..UNBEGUN_MAX).map(|_| turns.wait().unwrap()).collect();
        assert!(turns.wait().is_none());
        assert!(turns.wait().is_none());
        drop(waiting.pop().unwrap());
        let one = turns.wait();
        assert!(one.is_some());
        assert!(turns.wait().is_none());
    }
}
