//! Calls that are made again when the daemon says that waiting helps (`google.rpc.RetryInfo`).

use std::error::Error;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic_types::StatusExt;
use tower::{Service, ServiceExt};

use super::say_aside;

/// A connection over which refused calls are made again.
#[derive(Clone, Debug)]
pub(super) struct Retrying {
    channel: Channel,
    /// How long calls are made again; not at all when absent.
    until: Option<Instant>,
}

impl Retrying {
    pub(super) fn new(channel: Channel, until: Option<Instant>) -> Self {
        Self { channel, until }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Request<Body>> for Retrying {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.channel.clone();
        match self.until {
            // What a stream of requests has in it is not known beforehand.
            Some(until) if request.uri().path() != SIGN_STREAM => {
                Box::pin(call_again(channel, request, until))
            }
            _ => Box::pin(async move { Ok(channel.oneshot(request).await?) }),
        }
    }
}

async fn call_again(
    channel: Channel,
    request: Request<Body>,
    until: Instant,
) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let message = body.collect().await?.to_bytes();
    loop {
        let body = Body::new(Full::new(message.clone()));
        let request = Request::from_parts(parts.clone(), body);
        let response = channel.clone().oneshot(request).await?;
        // A call that fails has its status in the head of the answer.
        let refused = Status::from_header_map(response.headers());
        let delay = refused.as_ref().and_then(retry_delay);
        match (refused, delay) {
            (Some(refused), Some(delay)) if Instant::now() + delay < until => {
                say(refused.message(), delay);
                sleep(delay).await;
            }
            _ => return Ok(response),
        }
    }
}

fn retry_delay(refused: &Status) -> Option<Duration> {
    let retry = refused.get_details_retry_info()?;
    Some(retry.retry_delay.unwrap_or_default().max(DELAY_MIN))
}

/// Says what is waited for.
pub(super) fn say(why: &str, delay: Duration) {
    let delay = humantime::format_duration(delay);
    say_aside(&format!("{why}; trying again in {delay}"));
}

const SIGN_STREAM: &str = "/keypaird.v1.SigningService/SignStream";
const DELAY_MIN: Duration = Duration::from_millis(100);
