//! Whether the daemon lives, and whether its providers can be used: for load balancers and supervisors.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::api_result::Refused;
use super::request::{Nothing, Query};
use crate::service::{ProviderState, Service};

/// Answers 200 as long as the daemon does, and 503 when it can only be helped by a new start.
pub(super) async fn healthz(
    State(service): State<Arc<Service>>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<&'static str, Refused> {
    can_write(&service).map(|()| "ok\n")
}

/// Refuses when the store can no longer be written.
fn can_write(service: &Service) -> Result<(), Refused> {
    match service.store_failure().is_cancelled() {
        false => Ok(()),
        true => Err(Refused::Http(
            StatusCode::SERVICE_UNAVAILABLE,
            "the store can no longer be written; the daemon ends, and has to be started anew"
                .to_owned(),
        )),
    }
}

/// Answers 200 when every provider signs, and 503 otherwise, with those that do not, why, and what to do.
pub(super) async fn readyz(
    State(service): State<Arc<Service>>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<&'static str, Refused> {
    can_write(&service)?;
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
