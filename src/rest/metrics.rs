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
use crate::domain::RotationAction;
use crate::service::Service;

/// Returns all metrics.
pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Result<Response, Refused> {
    let mut registry = Registry::with_prefix("keypaird");
    rotation(&service, &mut registry);
    providers(&service, &mut registry);
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
    let available = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    for handle in service.registry().iter() {
        let is_there = handle.availability().is_ok();
        let gauge = available.get_or_create(&[("provider", handle.kind().name())]);
        gauge.set(is_there.into());
    }
    registry.register(
        "provider_available",
        "Whether a provider can be used: 1, or 0",
        available,
    );
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
