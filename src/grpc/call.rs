//! What every call passes on its way in and out: a request id for the log, a deadline, and for errors that
//! tonic made by itself, the details that ours have.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{HeaderName, HeaderValue, Request, Response};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Level, debug, enabled, error};

use super::status::{complete, compressed_stream, internal, to_status};
use super::streams::StreamLimits;
use crate::domain::{Client, Origin};
use crate::service::ServiceError;
use crate::telemetry::{Call, CallIds};

/// Puts [`CallService`] around the routes.
#[derive(Clone, Debug)]
pub struct CallLayer {
    request_timeout: Duration,
    max_message_bytes: usize,
    ids: CallIds,
    /// The right to read a compressed message.
    compressed: Arc<Semaphore>,
}

impl CallLayer {
    pub(super) fn new(request_timeout: Duration, max_message_bytes: usize, ids: CallIds) -> Self {
        Self {
            request_timeout,
            max_message_bytes,
            ids,
            compressed: Arc::new(Semaphore::new(compressed_at_once(max_message_bytes))),
        }
    }
}

/// Returns how many calls with compressed messages are read at once: each may take as much as the
/// largest message, whatever it has on the wire. Others wait their turn.
fn compressed_at_once(max_message_bytes: usize) -> usize {
    (COMPRESSED_BYTES_MAX / max_message_bytes.max(1)).clamp(2, COMPRESSED_CALLS_MAX)
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService {
            inner,
            layer: self.clone(),
            stop: None,
            daemon_stop: None,
            client: Arc::default(),
        }
    }
}

/// Answers one call after the other.
#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
    layer: CallLayer,
    /// Cancelled when the connection of the calls has to end.
    stop: Option<Arc<CancellationToken>>,
    /// Cancelled when the daemon stops.
    daemon_stop: Option<Arc<CancellationToken>>,
    /// The client that makes the calls, for the access log.
    client: Arc<Client>,
}

impl<S> CallService<S> {
    /// Has the calls be those of a client.
    pub fn made_by(mut self, client: Arc<Client>) -> Self {
        self.client = client;
        self
    }

    /// Ends streams when `stop` is cancelled, as when the daemon stops, which `daemon_stop` tells.
    pub fn ended_by(
        mut self,
        stop: Arc<CancellationToken>,
        daemon_stop: Arc<CancellationToken>,
    ) -> Self {
        self.stop = Some(stop);
        self.daemon_stop = Some(daemon_stop);
        self
    }
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let given = request.headers().get(X_REQUEST_ID);
        let given = given.map(HeaderValue::as_bytes);
        let call = self.layer.ids.begin(request.uri().path(), given);
        let client = call.has_line().then(|| Arc::clone(&self.client));
        let asked = request.headers().get(GRPC_TIMEOUT).and_then(parse_timeout);
        // Of a stream, only the beginning passes here.
        if is_stream(request.uri().path()) {
            let limits = StreamLimits {
                deadline: asked.map(|asked| Instant::now() + asked),
                stop: self.stop.as_deref().cloned(),
                daemon_stop: self.daemon_stop.as_deref().cloned(),
            };
            request.extensions_mut().insert(limits);
        }
        let timeout = asked.map_or(self.layer.request_timeout, |asked| {
            asked.min(self.layer.request_timeout)
        });
        let max_message_bytes = self.layer.max_message_bytes;
        let encoding = request.headers().get(GRPC_ENCODING);
        let is_compressed = encoding.is_some_and(|encoding| encoding == "gzip");
        let answer = match is_compressed {
            false => Either::Left(self.inner.call(request)),
            true => Either::Right(read_in_turn(
                self.inner.clone(),
                Arc::clone(&self.layer.compressed),
                request,
            )),
        };
        let answer = AssertUnwindSafe(answer).catch_unwind();
        Box::pin(Arc::clone(&call).answer(async move {
            let begun = Instant::now();
            let mut response = match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(Ok(response))) => completed(response, max_message_bytes),
                Ok(Err(panic)) => lost(&*panic, &call),
                Err(_) => to_status(&ServiceError::DeadlineExceeded).into_http(),
            };
            if enabled!(Level::DEBUG) {
                let took = begun.elapsed();
                call.span()
                    .in_scope(|| debug!(code = %grpc_code(&response), ?took, "answered"));
            }
            if let Some(client) = client {
                let (subject, code) = (client.certificate_subject.as_deref(), grpc_code(&response));
                let took = begun.elapsed();
                call.log_access(&client.address, subject, &code_name(code), took);
            }
            if let Some(id) = call
                .known_id()
                .and_then(|id| HeaderValue::from_str(id).ok())
            {
                response.headers_mut().insert(X_REQUEST_ID, id);
            }
            Ok(response)
        }))
    }
}

/// Has a call with compressed messages answered when it is its turn.
///
/// A stream of requests is refused: how much its messages take is only known when they were read,
/// and many of them are under way at once.
async fn read_in_turn<S>(
    mut inner: S,
    turns: Arc<Semaphore>,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    if request.uri().path() == SIGN_STREAM {
        return Ok(compressed_stream().into_http());
    }
    // It is never closed.
    let _turn = turns.acquire().await;
    inner.call(request).await
}

/// Tells whether a method answers by a stream, for which it must be in [`STREAMS`].
fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Returns from where a call came: what the server put into its extensions, if anything.
pub(super) fn origin<T>(request: &tonic::Request<T>) -> Option<Origin> {
    request.extensions().get().copied()
}

/// Adds details to an error that has none.
fn completed(response: Response<Body>, max_message_bytes: usize) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(GRPC_STATUS) || headers.contains_key(GRPC_STATUS_DETAILS) {
        return response;
    }
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => {
            complete(&status, max_message_bytes).into_http()
        }
        _ => response,
    }
}

/// Answers for a handler that panicked.
fn lost(panic: &(dyn Any + Send), call: &Call) -> Response<Body> {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("a panic without a message");
    call.span().in_scope(|| error!(said, "a call panicked"));
    internal().into_http()
}

fn grpc_code(response: &Response<Body>) -> Code {
    response
        .headers()
        .get(GRPC_STATUS)
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// Returns the name of a code in the specification of gRPC.
pub(super) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Reads `grpc-timeout`: up to 8 digits and a unit, one of `HMSmun` (gRPC over HTTP/2, Requests).
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The methods that answer by a stream.
const STREAMS: [&str; 5] = [
    "/keypaird.v1.SigningService/SignStream",
    "/keypaird.v1.EventService/WatchKeyPairs",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const SIGN_STREAM: &str = "/keypaird.v1.SigningService/SignStream";
/// How many bytes compressed messages may take that are being read.
const COMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;
const COMPRESSED_CALLS_MAX: usize = 64;
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_that_answers_by_a_stream_is_known() {
        let described = [
            crate::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut streams = Vec::new();
        for set in described {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    let answering = service.method.iter().filter(|one| one.server_streaming());
                    streams.extend(answering.map(|method| {
                        let (package, service) = (file.package(), service.name());
                        format!("/{package}.{service}/{}", method.name())
                    }));
                }
            }
        }
        let mut known = STREAMS.map(str::to_owned);
        known.sort_unstable();
        streams.sort_unstable();
        assert_eq!(streams, known);
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let parse = |text| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("150m"), Some(Duration::from_millis(150)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1 S"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
