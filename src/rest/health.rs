//! Whether the daemon lives, and whether its providers can be used: for load balancers and supervisors.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::api_result::Refused;
use crate::service::{ProviderState, Service};

/// Answers as long as the daemon does.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 200 when every provider signs, and 503 otherwise, with those that do not, why, and what to do.
pub(super) async fn readyz(State(service): State<Arc<Service>>) -> Result<&'static str, Refused> {
    let health = service.health();
    let away: Vec<_> = health
        .iter()
        .filter(|health| health.state != ProviderState::Serving)
        .map(|health| {
            let (provider, message) = (health.provider, &health.message);
            match health.remedy {
                Some(remedy) => format!("{provider}: {message}; {remedy}"),
                None => format!("{provider}: {message}"),
            }
        })
        .collect();
    match &*away {
        [] => Ok("ready\n"),
        away => Err(Refused::Http(
            StatusCode::SERVICE_UNAVAILABLE,
            away.join(". "),
        )),
    }
}
