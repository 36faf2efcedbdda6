//! How the daemon is reached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use super::address::Address;
use super::error::Failure;
use super::reach::{Step, Target, Unreachable};
use super::retry::{self, Retrying};
use super::tls::client_config;
use super::wire::Greeted;
use crate::proto::event_service_client::EventServiceClient;
use crate::proto::key_pair_service_client::KeyPairServiceClient;
use crate::proto::signing_service_client::SigningServiceClient;

/// Options that say how the daemon is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(super) struct Connection {
    /// Where the daemon answers: HOST:PORT, `https://HOST:PORT`, `http://HOST:PORT` (without TLS)
    /// or `unix:///PATH`. Without a scheme, TLS is spoken if --ca or --client-cert is given.
    #[arg(
        long,
        global = true,
        env = "KEYPAIRCTL_ADDRESS",
        default_value = "127.0.0.1:9443",
        hide_env_values = true
    )]
    address: String,
    /// PEM file with the CA of the daemon's certificate. The CAs that the system trusts, when left
    /// out.
    #[arg(
        long,
        global = true,
        env = "KEYPAIRCTL_CA",
        value_name = "FILE",
        hide_env_values = true
    )]
    ca: Option<PathBuf>,
    /// PEM file with this client's certificate, where the daemon wants one.
    #[arg(
        long,
        alias = "cert",
        global = true,
        env = "KEYPAIRCTL_CERT",
        value_name = "FILE",
        hide_env_values = true,
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(
        long,
        alias = "key",
        global = true,
        env = "KEYPAIRCTL_KEY",
        value_name = "FILE",
        hide_env_values = true,
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
    /// How long to wait for an answer, such as 500ms, 30s or 5m.
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = parse_timeout
    )]
    timeout: Duration,
    /// Try again for so long, such as 30s, when the daemon says that waiting helps, or does not
    /// answer yet.
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    retry: Option<Duration>,
}

/// Reads a time limit, which is longer than none.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0s, such as 30s".to_owned()),
        read => read,
    }
}

impl Connection {
    /// Connects to the daemon.
    pub(super) async fn open(&self) -> Result<Daemon, Failure> {
        self.open_in_steps(&mut Vec::new()).await
    }

    /// Connects to the daemon, and adds each step that succeeds.
    pub(super) async fn open_in_steps(&self, steps: &mut Vec<Step>) -> Result<Daemon, Failure> {
        let target = self.target()?;
        let until = self.retry.map(|retry| Instant::now() + retry);
        loop {
            steps.clear();
            match open(&target, steps).await {
                Ok(channel) => {
                    return Ok(Daemon {
                        channel: Retrying::new(channel, until),
                    });
                }
                Err(failed)
                    if failed.may_pass
                        && until.is_some_and(|until| Instant::now() + RECONNECT_DELAY < until) =>
                {
                    retry::say(&failed.message, RECONNECT_DELAY);
                    sleep(RECONNECT_DELAY).await;
                }
                Err(failed) => return Err(Failure::Connect(Box::new(failed))),
            }
        }
    }

    /// Returns where the daemon is, as the options say.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let mut tls_options = Vec::new();
        for (option, file) in [
            ("--ca", &self.ca),
            ("--client-cert", &self.client_cert),
            ("--client-key", &self.client_key),
        ] {
            if file.is_some() {
                tls_options.push(option);
            }
        }
        let address = Address::parse(&self.address, &tls_options)
            .map_err(|why| Failure::Usage(format!("--address {:?} {why}", self.address)))?;
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => Some((&**certificate, &**key)),
            _ => None,
        };
        let tls = match &address {
            Address::Tcp { tls: true, .. } => Some(client_config(self.ca.as_deref(), identity)?),
            _ => None,
        };
        Ok(Target {
            address,
            tls: tls.map(Arc::new),
            has_ca: self.ca.is_some(),
            has_identity: identity.is_some(),
            time_limit: CONNECT_TIMEOUT.min(self.timeout),
        })
    }

    /// Returns how long to wait for an answer.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Says who answers that does not know a call: an older keypaird, or something else.
    pub(super) async fn explain_unknown_call(&self) -> Failure {
        let target = match self.target() {
            Ok(target) => target,
            Err(failure) => return failure,
        };
        let Ok(daemon) = self.open().await else {
            return Failure::Connect(Box::new(target.not_keypaird(UNKNOWN_CALL)));
        };
        let request = self.request(HealthCheckRequest {
            service: "keypaird.v1.KeyPairService".to_owned(),
        });
        match daemon.health().check(request).await {
            Ok(_) => Failure::Answer(format!(
                "the daemon at {} is older than this keypairctl ({}) and does not know this call; update the daemon",
                target.address,
                crate::VERSION
            )),
            Err(_) => Failure::Connect(Box::new(target.not_keypaird(UNKNOWN_CALL))),
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
}

/// Connects, and waits until what answers has begun to speak HTTP/2.
async fn open(target: &Target, steps: &mut Vec<Step>) -> Result<Channel, Unreachable> {
    let wire = target.dial(steps).await?;
    let greeting = wire.greeting();
    let first = Arc::new(Mutex::new(Some(wire)));
    let connector = {
        let target = target.clone();
        service_fn(move |_: Uri| {
            let (first, target) = (first.lock().take(), target.clone());
            async move {
                let wire = match first {
                    Some(wire) => wire,
                    // The first connection was lost.
                    None => target.dial(&mut Vec::new()).await?,
                };
                Ok::<_, Unreachable>(TokioIo::new(wire))
            }
        })
    };
    let broken = |error: tonic::transport::Error| {
        let message = format!("no daemon answers at {} ({error})", target.address);
        Unreachable::new("gRPC", message, "is keypaird running there?")
    };
    let authority = target.address.authority();
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(broken)?
        // A peer that went away without a word is noticed while an answer is waited for.
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let endpoint = match (&target.tls, format!("https://{authority}").parse()) {
        (Some(_), Ok(origin)) => endpoint.origin(origin),
        _ => endpoint,
    };
    let connected = timeout(target.time_limit, async {
        let channel = endpoint.connect_with_connector(connector).await;
        Ok((channel.map_err(broken)?, greeting.wait().await))
    });
    match connected.await {
        Ok(Ok((channel, Greeted::Http2))) => {
            steps.push(Step {
                subject: "gRPC",
                message: "HTTP/2 is spoken".to_owned(),
            });
            Ok(channel)
        }
        Ok(Ok((_, greeted))) => Err(target.not_greeted(&greeted)),
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(target.silent("gRPC", "the greeting of HTTP/2")),
    }
}

/// A daemon that is connected. Its clients share one connection.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    channel: Retrying,
}

impl Daemon {
    /// Returns a client of `KeyPairService`.
    pub(super) fn key_pairs(&self) -> KeyPairServiceClient<Retrying> {
        KeyPairServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// Returns a client of `EventService`.
    pub(super) fn events(&self) -> EventServiceClient<Retrying> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// Returns a client of `grpc.health.v1.Health`.
    pub(super) fn health(&self) -> HealthClient<Retrying> {
        HealthClient::new(self.channel.clone())
    }

    /// Returns a client of `SigningService`.
    pub(super) fn signing(&self) -> SigningServiceClient<Retrying> {
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

const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before a daemon is looked for again that does not answer.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
const UNKNOWN_CALL: &str = "it speaks gRPC, and does not know keypaird.v1";
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A page of 1000 key pairs with a thousand names each.
const ANSWER_MAX: usize = 256 * 1024 * 1024;
