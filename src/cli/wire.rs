//! A connection whose first bytes are looked at: a server of HTTP/2 greets with SETTINGS, and by
//! what comes instead it is known what answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;

/// A connection to what may be the daemon.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    greeting: Arc<Greeting>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// How what answers has begun.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    heard: Mutex<Heard>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    first: Vec<u8>,
    end: Option<io::Result<()>>,
}

/// What the first bytes are.
#[derive(Debug)]
pub(super) enum Greeted {
    /// The SETTINGS of HTTP/2.
    Http2,
    /// An answer of HTTP/1.
    Http1,
    /// A record of TLS.
    Tls,
    /// Anything else: the beginning of it.
    Other(Vec<u8>),
    /// Nothing: the connection was closed.
    Closed,
    /// Nothing: the connection broke.
    Broke(io::Error),
}

impl Wire {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self::new(Stream::Plain(stream))
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::new(Stream::Tls(Box::new(stream)))
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            greeting: Arc::default(),
        }
    }

    /// Reads what the peer sent before a write failed, since it says why, and hyper reads nothing
    /// more after a failed write. The failure is passed on when that was read, which is soon: a
    /// connection that cannot be written has ended.
    fn hear_the_rest<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if matches!(written, Poll::Ready(Err(_))) {
            let mut bytes = [0; FRAME_HEAD_LEN];
            let mut buffer = ReadBuf::new(&mut bytes);
            while !self.greeting.is_known() && buffer.remaining() > 0 {
                let before = buffer.filled().len();
                let read = ready!(self.stream.poll_read(context, &mut buffer));
                let heard = buffer.filled().get(before..).unwrap_or_default();
                self.greeting.hear(heard, &read);
            }
        }
        written
    }

    /// Returns where it is told how what answers has begun.
    pub(super) fn greeting(&self) -> Arc<Greeting> {
        Arc::clone(&self.greeting)
    }
}

impl Greeting {
    /// Waits until it is known what answers.
    pub(super) async fn wait(&self) -> Greeted {
        loop {
            let changed = self.changed.notified();
            if let Some(greeted) = self.heard.lock().greeted() {
                return greeted;
            }
            changed.await;
        }
    }

    fn is_known(&self) -> bool {
        self.heard.lock().is_enough()
    }

    fn hear(&self, bytes: &[u8], result: &io::Result<()>) {
        let mut heard = self.heard.lock();
        if heard.is_enough() {
            return;
        }
        let missing = FRAME_HEAD_LEN.saturating_sub(heard.first.len());
        heard.first.extend(bytes.iter().take(missing));
        match result {
            Ok(()) if bytes.is_empty() => heard.end = Some(Ok(())),
            Ok(()) => {}
            Err(error) => heard.end = Some(Err(copy(error))),
        }
        drop(heard);
        // One waits, and may not do so yet.
        self.changed.notify_one();
    }
}

impl Heard {
    fn is_enough(&self) -> bool {
        // No frame that a server may send begins as a record of TLS does: it would be too long.
        let is_tls = matches!(&*self.first, [20..=23, 3, ..]);
        is_tls || self.first.len() >= FRAME_HEAD_LEN || self.end.is_some()
    }

    fn greeted(&mut self) -> Option<Greeted> {
        if !self.is_enough() {
            return None;
        }
        Some(match (&*self.first, self.end.take()) {
            ([], Some(Err(error))) => Greeted::Broke(error),
            ([], _) => Greeted::Closed,
            // RFC 9113, sections 3.4, 4.1 and 6.5.
            ([_, _, _, 4, _, 0, 0, 0, 0], _) => Greeted::Http2,
            // RFC 8446, section 5.1.
            ([20..=23, 3, ..], _) => Greeted::Tls,
            (first, _) if first.starts_with(b"HTTP/") => Greeted::Http1,
            (first, _) => Greeted::Other(first.to_vec()),
        })
    }
}

/// Copies an error with what it says of TLS.
fn copy(error: &io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls {
        Some(tls) => io::Error::new(error.kind(), tokio_rustls::rustls::Error::clone(tls)),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Stream {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    fn as_write(&mut self) -> &mut (dyn AsyncWrite + Unpin) {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Nothing else will be heard.
        self.greeting.hear(&[], &Ok(()));
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(self.stream.poll_read(context, buffer));
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        self.greeting.hear(bytes, &read);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.stream.as_write()).poll_write(context, bytes);
        self.hear_the_rest(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.stream.as_write()).poll_write_vectored(context, slices);
        self.hear_the_rest(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(self.stream.as_write()).poll_flush(context);
        self.hear_the_rest(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(self.stream.as_write()).poll_shutdown(context);
        self.hear_the_rest(context, shut)
    }
}

/// How long the head of a frame of HTTP/2 is.
const FRAME_HEAD_LEN: usize = 9;
