//! How the daemon is reached.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::health_client::HealthClient;

use super::error::Failure;
use crate::proto::event_service_client::EventServiceClient;
use crate::proto::key_pair_service_client::KeyPairServiceClient;
use crate::proto::signing_service_client::SigningServiceClient;

/// Options that say how the daemon is reached.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Where the daemon answers: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` (without TLS), or
    /// `unix:///PATH`.
    #[arg(
        long,
        global = true,
        env = "KEYPAIRCTL_ADDRESS",
        default_value = "http://127.0.0.1:9443"
    )]
    address: String,
    /// PEM file with the CA of the daemon's certificate. Needed for https.
    #[arg(long, global = true, env = "KEYPAIRCTL_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with this client's certificate, where the daemon wants one.
    #[arg(
        long,
        global = true,
        env = "KEYPAIRCTL_CERT",
        value_name = "FILE",
        requires = "key"
    )]
    cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(
        long,
        global = true,
        env = "KEYPAIRCTL_KEY",
        value_name = "FILE",
        requires = "cert"
    )]
    key: Option<PathBuf>,
    /// How long to wait for an answer, such as 500ms, 30s or 5m.
    #[arg(long, global = true, default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

impl Connection {
    /// Connects to the daemon.
    pub(super) async fn open(&self) -> Result<Daemon, Failure> {
        let address = self.normal_address();
        let failed = |cause: Box<dyn Error + Send + Sync>| Failure::Connect {
            address: address.clone(),
            cause,
        };
        let mut endpoint = Endpoint::from_shared(address.clone()).map_err(|_| {
            Failure::Usage(format!(
                "--address {:?} is none: write http://HOST:PORT, https://HOST:PORT or unix:///PATH",
                self.address
            ))
        })?;
        if address.starts_with("https://") {
            let with_tls = endpoint.tls_config(self.tls()?);
            endpoint = with_tls.map_err(|error| failed(error.into()))?;
        }
        // A peer that went away without a word is noticed while an answer is waited for.
        let endpoint = endpoint
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let time_limit = CONNECT_TIMEOUT.min(self.timeout);
        // The endpoint's own limit ends before the TLS handshake begins.
        match tokio::time::timeout(time_limit, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(Daemon { channel }),
            Ok(Err(error)) => Err(failed(error.into())),
            Err(elapsed) => Err(failed(elapsed.into())),
        }
    }

    /// Makes a request that ends with the deadline.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        self.request_lasting(Duration::ZERO, message)
    }

    /// Makes a request that goes on for a while before the deadline begins to count.
    pub(super) fn request_lasting<T>(&self, duration: Duration, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout.saturating_add(duration));
        request
    }

    fn normal_address(&self) -> String {
        match self.address.contains("://") {
            true => self.address.clone(),
            false => format!("http://{}", self.address),
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let Some(ca) = &self.ca else {
            return Err(Failure::Usage(
                "https needs --ca: the PEM file of the CA that issued the daemon's certificate"
                    .into(),
            ));
        };
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca, "--ca")?));
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(
                read(cert, "--cert")?,
                read(key, "--key")?,
            ));
        }
        Ok(tls)
    }
}

/// A daemon that is connected. Its clients share one connection.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    channel: Channel,
}

impl Daemon {
    /// Returns a client of `KeyPairService`.
    pub(super) fn key_pairs(&self) -> KeyPairServiceClient<Channel> {
        KeyPairServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// Returns a client of `EventService`.
    pub(super) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// Returns a client of `grpc.health.v1.Health`.
    pub(super) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// Returns a client of `SigningService`.
    pub(super) fn signing(&self) -> SigningServiceClient<Channel> {
        SigningServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }
}

/// Reads a duration. One that is longer than a deadline of gRPC can be is refused.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration <= DURATION_MAX {
        true => Ok(duration),
        false => Err("must be at most 365days".to_owned()),
    }
}

fn read(path: &Path, flag: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::Usage(format!("{flag} {}: {error}", path.display())))
}

const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A page of 1000 key pairs with a thousand names each.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_scheme_is_one_without_tls() {
        let normal = |address: &str| {
            Connection {
                address: address.into(),
                ca: None,
                cert: None,
                key: None,
                timeout: Duration::from_secs(1),
            }
            .normal_address()
        };
        assert_eq!(normal("127.0.0.1:9443"), "http://127.0.0.1:9443");
        assert_eq!(
            normal("https://kms.example:9443"),
            "https://kms.example:9443"
        );
        assert_eq!(normal("unix:///run/k.sock"), "unix:///run/k.sock");
    }
}
