//! Whether the daemon lives, and whether its providers can be used: for load balancers and supervisors.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::api_result::Refused;
use crate::service::Service;

/// Answers as long as the daemon does.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 200 when every provider can be used, and 503 otherwise, with those that cannot.
pub(super) async fn readyz(State(service): State<Arc<Service>>) -> Result<&'static str, Refused> {
    let away: Vec<_> = service
        .registry()
        .iter()
        .filter(|handle| handle.availability().is_err())
        .map(|handle| handle.kind().name())
        .collect();
    match &*away {
        [] => Ok("ready\n"),
        away => Err(Refused::Http(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not available: {}", away.join(", ")),
        )),
    }
}
