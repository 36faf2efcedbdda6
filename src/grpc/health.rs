//! `grpc.health.v1`: the daemon as a whole, its services, and each provider by itself.

use std::sync::Arc;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::domain::ProviderKind;
use crate::proto::{key_pair_service_server, signing_service_server};
use crate::service::Service;

/// What the health service answers.
#[derive(Clone, Debug, Default)]
pub struct Health(HealthReporter);

impl Health {
    /// Makes a health service that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn server(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.0.clone()))
    }

    /// Follows the providers for as long as it is polled.
    ///
    /// The empty service name stands for the daemon: it serves while one of its providers does.
    pub async fn follow(&self, service: Arc<Service>) {
        let mut last = Vec::new();
        loop {
            let now: Vec<_> = service
                .registry()
                .iter()
                .map(|handle| (handle.kind(), handle.provider().availability().is_ok()))
                .collect();
            if now != last {
                for (kind, available) in &now {
                    self.set(service_name(*kind), *available).await;
                }
                let any = now.iter().any(|(_, available)| *available);
                self.set("", any).await;
                self.set(key_pair_service_server::SERVICE_NAME, true).await;
                self.set(signing_service_server::SERVICE_NAME, any).await;
                last = now;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Says that the daemon stops.
    pub async fn stop(&self) {
        for kind in ProviderKind::ALL {
            self.set(service_name(kind), false).await;
        }
        self.set("", false).await;
        self.set(key_pair_service_server::SERVICE_NAME, false).await;
        self.set(signing_service_server::SERVICE_NAME, false).await;
    }

    async fn set(&self, name: &str, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.0.set_service_status(name, status).await;
    }
}

/// Returns the name under which the health of a provider is asked for.
pub const fn service_name(kind: ProviderKind) -> &'static str {
    match kind {
        ProviderKind::Local => "provider/LOCAL",
        ProviderKind::Hsm => "provider/HSM",
    }
}

const INTERVAL: Duration = Duration::from_millis(100);
