//! What every request passes on its way in and out: a request id for the log, a deadline, and an answer whatever
//! happens inside.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tracing::{Level, debug, enabled, error};

use super::api_result::to_response;
use crate::domain::Client;
use crate::service::ServiceError;
use crate::telemetry::CallIds;

/// How requests are answered.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) ids: CallIds,
    pub(super) request_timeout: Duration,
}

/// Answers a request within its deadline.
pub(super) async fn answer(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    let given = request.headers().get(X_REQUEST_ID);
    let call = calls.ids.begin(
        &format!("{} {}", request.method(), request.uri().path()),
        given.map(HeaderValue::as_bytes),
    );
    let client = request.extensions().get::<Arc<Client>>().cloned();
    let answering = Arc::clone(&call);
    call.answer(async move {
        let begun = Instant::now();
        let work = AssertUnwindSafe(next.run(request)).catch_unwind();
        let mut response = match timeout(calls.request_timeout, work).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                answering.span().in_scope(|| error!("a request panicked"));
                to_response(&ServiceError::Panicked)
            }
            Err(_) => to_response(&ServiceError::DeadlineExceeded),
        };
        let took = begun.elapsed();
        if enabled!(Level::DEBUG) {
            let status = response.status().as_u16();
            let span = answering.span();
            span.in_scope(|| debug!(status, ?took, "answered"));
        }
        let client = client.unwrap_or_default();
        let (subject, code) = (client.certificate_subject.as_deref(), response.status());
        answering.log_access(&client.address, subject, &code.as_u16(), took);
        let id = answering.known_id();
        if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        guarded(response)
    })
    .await
}

/// Forbids caches to keep an answer that does not say otherwise, and browsers to guess its type.
pub(super) fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
