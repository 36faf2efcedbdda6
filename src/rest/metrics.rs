//! What monitoring reads: `/metrics`, in the text format of `OpenMetrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::api_result::Refused;
use super::request::{Nothing, Query};
use crate::domain::RotationAction;
use crate::service::{HandshakeFailure, ProviderState, Service};
use crate::telemetry::lost_log_lines;

/// Returns all metrics.
pub(super) async fn metrics(
    State(service): State<Arc<Service>>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Refused> {
    let mut registry = Registry::with_prefix("keypaird");
    rotation(&service, &mut registry);
    providers(&service, &mut registry);
    handshakes(&service, &mut registry);
    registry.register(
        "log_lines_lost",
        "Log lines that were not read fast enough, or could not be written",
        ConstCounter::new(lost_log_lines()),
    );
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| {
        let message = "the metrics could not be written";
        Refused::Http(StatusCode::INTERNAL_SERVER_ERROR, message.to_owned())
    })?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

fn rotation(service: &Service, registry: &mut Registry) {
    let rotation = service.rotation_metrics();
    let overdue = i64::try_from(rotation.overdue()).unwrap_or(i64::MAX);
    registry.register(
        "rotation_overdue",
        "Key pairs whose rotation is late",
        ConstGauge::new(overdue),
    );
    registry.register(
        "rotation_failures",
        "Steps of a rotation that failed, and are tried again",
        ConstCounter::new(rotation.failures()),
    );
    let steps = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for (name, action) in [
        ("create_pending", RotationAction::CreatePending),
        ("activate", RotationAction::Activate),
        ("retire", RotationAction::Retire),
    ] {
        let counter = steps.get_or_create(&[("action", name)]);
        counter.inc_by(rotation.done(action));
    }
    registry.register("rotation_steps", "Steps of rotations that were done", steps);
}

fn providers(service: &Service, registry: &mut Registry) {
    type Provider = [(&'static str, &'static str); 1];
    let available = Family::<Provider, Gauge>::default();
    let states = Family::<[(&'static str, &'static str); 2], Gauge>::default();
    let last_signatures = Family::<Provider, Gauge>::default();
    let canaries = Family::<Provider, Counter>::default();
    let canary_failures = Family::<Provider, Counter>::default();
    for health in service.health() {
        let provider = ("provider", health.provider.name());
        let serves = health.state == ProviderState::Serving;
        available.get_or_create(&[provider]).set(serves.into());
        for state in ProviderState::ALL {
            let gauge = states.get_or_create(&[provider, ("state", state.name())]);
            gauge.set((health.state == state).into());
        }
        if let Some(time) = health.last_signature {
            let gauge = last_signatures.get_or_create(&[provider]);
            gauge.set(time.unix_timestamp());
        }
        canaries.get_or_create(&[provider]).inc_by(health.canaries);
        canary_failures
            .get_or_create(&[provider])
            .inc_by(health.canary_failures);
    }
    registry.register(
        "provider_available",
        "Whether a provider signs: 1, or 0",
        available,
    );
    registry.register(
        "provider_state",
        "How a provider is: 1 for the state that it is in",
        states,
    );
    registry.register(
        "provider_last_signature_timestamp_seconds",
        "When a provider was last known to sign",
        last_signatures,
    );
    registry.register(
        "provider_canaries",
        "Signatures that were made to see whether a provider signs",
        canaries,
    );
    registry.register(
        "provider_canary_failures",
        "Such signatures that failed",
        canary_failures,
    );
}

fn handshakes(service: &Service, registry: &mut Registry) {
    let failures = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for failure in HandshakeFailure::ALL {
        let counter = failures.get_or_create(&[("reason", failure.name())]);
        counter.inc_by(service.tls_status().failures(failure));
    }
    registry.register(
        "tls_handshake_failures",
        "TLS handshakes that failed",
        failures,
    );
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
