//! `grpc.health.v1`: the daemon as a whole, its services, and each provider by itself.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response};
use tonic_health::server::{HealthReporter, HealthService};

use super::streams::StreamLimits;
use crate::domain::ProviderKind;
use crate::proto::{event_service_server, key_pair_service_server, signing_service_server};
use crate::service::{ProviderState, Service};

/// What the health service answers.
#[derive(Clone, Debug, Default)]
pub struct Health(HealthReporter);

impl Health {
    /// Makes a health service that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn server(&self) -> HealthServer<HealthGrpc> {
        HealthServer::new(HealthGrpc(HealthService::from_health_reporter(
            self.0.clone(),
        )))
    }

    /// Follows the providers and the rotation for as long as it is polled.
    ///
    /// The empty service name stands for the daemon: it serves while one of its providers does. Nothing
    /// serves when the store can no longer be written.
    pub async fn follow(&self, service: Arc<Service>) {
        let mut last = Vec::new();
        loop {
            let now = Self::statuses(&service);
            for (name, serving) in &now {
                if !last.contains(&(*name, *serving)) {
                    self.set(name, *serving).await;
                }
            }
            last = now;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Returns what serves now, by the names that are asked for.
    pub fn statuses(service: &Service) -> Vec<(&'static str, bool)> {
        let mut statuses: Vec<_> = service
            .provider_states()
            .into_iter()
            .map(|(provider, state)| (service_name(provider), state == ProviderState::Serving))
            .collect();
        let any = statuses.iter().any(|(_, serves)| *serves);
        statuses.extend([
            ("", any),
            (signing_service_server::SERVICE_NAME, any),
            (key_pair_service_server::SERVICE_NAME, true),
            (event_service_server::SERVICE_NAME, true),
            (ROTATION, service.rotation_metrics().overdue() == 0),
        ]);
        if service.store_failure().is_cancelled() {
            for (_, serves) in &mut statuses {
                *serves = false;
            }
        }
        statuses
    }

    /// Says that the daemon stops.
    pub async fn stop(&self, service: &Service) {
        for (name, _) in Self::statuses(service) {
            self.set(name, false).await;
        }
    }

    async fn set(&self, name: &str, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.0.set_service_status(name, status).await;
    }
}

/// The service of tonic, whose streams end as ours do.
#[derive(Debug)]
pub(super) struct HealthGrpc(HealthService);

#[tonic::async_trait]
impl health_server::Health for HealthGrpc {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let limits = StreamLimits::of(&request);
        let statuses = self.0.watch(request).await?.into_inner();
        Ok(Response::new(limits.limit_with_last(statuses, || {
            Some(HealthCheckResponse {
                status: i32::from(health_check_response::ServingStatus::NotServing),
            })
        })))
    }
}

/// Returns the name under which the health of a provider is asked for.
pub const fn service_name(kind: ProviderKind) -> &'static str {
    match kind {
        ProviderKind::Local => "provider/LOCAL",
        ProviderKind::Hsm => "provider/HSM",
    }
}

/// The name under which it is asked whether a rotation is overdue.
const ROTATION: &str = "rotation";
const INTERVAL: Duration = Duration::from_millis(50);
