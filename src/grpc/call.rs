//! What every call passes on its way in and out: a request id, a deadline, a span, and for errors that
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
use http::{HeaderName, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, debug, error, info_span};

use super::status::{complete, internal, to_status};
use crate::domain::{Entropy, KeyPairId};
use crate::service::ServiceError;

/// Puts [`CallService`] around the routes.
#[derive(Clone, Debug)]
pub struct CallLayer {
    request_timeout: Duration,
    max_message_bytes: usize,
    entropy: Arc<dyn Entropy>,
}

impl CallLayer {
    pub(super) fn new(
        request_timeout: Duration,
        max_message_bytes: usize,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            request_timeout,
            max_message_bytes,
            entropy,
        }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService {
            inner,
            layer: self.clone(),
        }
    }
}

/// Answers one call after the other.
#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request_id = self.request_id(&request);
        let span =
            info_span!("call", request_id = %show(&request_id), method = request.uri().path());
        let asked = request.headers().get(GRPC_TIMEOUT).and_then(parse_timeout);
        let timeout = asked.map_or(self.layer.request_timeout, |asked| {
            asked.min(self.layer.request_timeout)
        });
        let max_message_bytes = self.layer.max_message_bytes;
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let work = async move {
            let begun = tokio::time::Instant::now();
            let mut response = match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(Ok(response))) => completed(response, max_message_bytes),
                Ok(Err(panic)) => lost(&*panic),
                Err(_) => to_status(&ServiceError::DeadlineExceeded).into_http(),
            };
            let took = begun.elapsed();
            debug!(code = %grpc_code(&response), ?took, "answered");
            response.headers_mut().insert(X_REQUEST_ID, request_id);
            Ok(response)
        };
        Box::pin(work.instrument(span))
    }
}

impl<S> CallService<S> {
    /// Takes the caller's `x-request-id` when it is of use in a log, or makes one.
    fn request_id(&self, request: &Request<Body>) -> HeaderValue {
        let given = request.headers().get(X_REQUEST_ID).filter(|id| {
            (1..=REQUEST_ID_LEN_MAX).contains(&id.len())
                && id.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        given.cloned().unwrap_or_else(|| {
            let made = KeyPairId::from_random(self.layer.entropy.bits_128().unwrap_or_default());
            HeaderValue::from_str(made.as_str()).unwrap_or(HeaderValue::from_static("unknown"))
        })
    }
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
fn lost(panic: &(dyn Any + Send)) -> Response<Body> {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    error!(
        said = said.unwrap_or("a panic without a message"),
        "a call panicked"
    );
    internal().into_http()
}

fn grpc_code(response: &Response<Body>) -> Code {
    response
        .headers()
        .get(GRPC_STATUS)
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

fn show(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
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

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const REQUEST_ID_LEN_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

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
