//! Asks a running daemon for its health, at the address of its own configuration.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::ServerConfig;

/// Tells whether a service of the daemon serves; the empty name stands for the daemon as a whole.
///
/// The Unix socket is preferred. With TLS it is the only way, since the daemon's own files do not say
/// whom to trust.
///
/// # Errors
/// A sentence, when there is no answer.
pub async fn ask_health(config: &ServerConfig, service: &str) -> Result<bool, String> {
    let channel = connect(config).await?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => Ok(response.into_inner().status() == ServingStatus::Serving),
        Err(status) if status.code() == tonic::Code::NotFound => {
            Err(format!("the daemon knows no service {service:?}"))
        }
        Err(status) => Err(format!("the daemon does not answer: {}", status.message())),
    }
}

async fn connect(config: &ServerConfig) -> Result<Channel, String> {
    let address = match (&config.unix_socket, &config.tls) {
        (Some(path), _) => format!("unix://{}", path.display()),
        (None, None) => format!("http://{}", config.listen),
        (None, Some(_)) => {
            return Err("with TLS, healthcheck needs server.unix_socket to ask on".to_owned());
        }
    };
    let endpoint = Endpoint::from_shared(address.clone())
        .map_err(|error| format!("{address} is no address: {error}"))?;
    endpoint
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT)
        .connect()
        .await
        .map_err(|_| format!("no daemon answers at {address}"))
}

const TIMEOUT: Duration = Duration::from_secs(5);
