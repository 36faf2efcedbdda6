//! The way to the daemon, step by step: its name, TCP or a Unix socket, TLS, and whether gRPC is
//! spoken there.
//!
//! Each step that fails has its own sentence and remedy.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, ProtocolVersion};

use super::address::Address;
use super::wire::{Greeted, Wire};

/// Where the daemon is, and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    /// Where TLS is spoken.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Whether `--ca` was given.
    pub(super) has_ca: bool,
    /// Whether `--client-cert` was given.
    pub(super) has_identity: bool,
    /// How long all of it may take.
    pub(super) time_limit: Duration,
}

/// A step that succeeded, for `doctor`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// `name`, `TCP`, `socket`, `TLS` or `gRPC`.
    pub(super) subject: &'static str,
    /// How it is.
    pub(super) message: String,
}

/// Why the daemon cannot be reached.
#[derive(Clone, Debug)]
pub(super) struct Unreachable {
    /// The step that failed.
    pub(super) subject: &'static str,
    /// What is wrong, in a sentence.
    pub(super) message: String,
    /// What to do.
    pub(super) remedy: String,
    /// Whether to wait may help, as for a daemon that is being started.
    pub(super) may_pass: bool,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

impl Error for Unreachable {}

impl Unreachable {
    pub(super) fn new(
        subject: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            message: message.into(),
            remedy: remedy.into(),
            may_pass: false,
        }
    }

    fn for_now(self) -> Self {
        Self {
            may_pass: true,
            ..self
        }
    }
}

impl Target {
    /// Connects, and adds each step that succeeds.
    pub(super) async fn dial(&self, steps: &mut Vec<Step>) -> Result<Wire, Unreachable> {
        match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.map_err(|error| socket_failed(path, &error))?;
                steps.push(step(
                    "socket",
                    format!("{} accepts connections", path.display()),
                ));
                Ok(Wire::unix(stream))
            }
            Address::Tcp { host, port, .. } => {
                let addresses = self.resolve(host, *port, steps).await?;
                let stream = self.connect(&addresses).await?;
                let peer = stream.peer_addr().map(|peer| peer.to_string());
                let peer = peer.unwrap_or_else(|_| self.address.authority());
                steps.push(step("TCP", format!("{peer} accepts connections")));
                // Requests are small, and wait for their answers.
                let _ = stream.set_nodelay(true);
                match &self.tls {
                    None => Ok(Wire::plain(stream)),
                    Some(config) => self.shake_hands(stream, host, config, steps).await,
                }
            }
        }
    }

    async fn resolve(
        &self,
        host: &str,
        port: u16,
        steps: &mut Vec<Step>,
    ) -> Result<Vec<SocketAddr>, Unreachable> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        let found = match timeout(self.time_limit, lookup_host((host, port))).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => return Err(name_failed(host, &error.to_string())),
            Err(_) => return Err(name_failed(host, "the name servers do not answer in time")),
        };
        if found.is_empty() {
            return Err(name_failed(host, "it has no address"));
        }
        let addresses: Vec<_> = found.iter().map(|found| found.ip().to_string()).collect();
        steps.push(step("name", format!("{host} is {}", addresses.join(", "))));
        Ok(found)
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Unreachable> {
        match timeout(self.time_limit, TcpStream::connect(addresses)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.tcp_failed(&error)),
            Err(_) => Err(Unreachable::new(
                "TCP",
                format!(
                    "no daemon answers at {}: nothing came back within {}",
                    self.address,
                    humantime::format_duration(self.time_limit)
                ),
                "does a firewall drop the packets, or is the host down? --address or KEYPAIRCTL_ADDRESS names another place",
            )
            .for_now()),
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        host: &str,
        config: &Arc<ClientConfig>,
        steps: &mut Vec<Step>,
    ) -> Result<Wire, Unreachable> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let message = format!("{host:?} is no name that a certificate can have");
            Unreachable::new(
                "TLS",
                message,
                "name the daemon by its DNS name or IP address",
            )
        })?;
        let shaking = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let stream = match timeout(self.time_limit, shaking).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.tls_failed(&error)),
            Err(_) => return Err(self.silent("TLS", "the TLS handshake")),
        };
        let state = stream.get_ref().1;
        if state.alpn_protocol() != Some(b"h2") {
            return Err(self.not_keypaird("it speaks TLS, and not HTTP/2"));
        }
        let version = match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            _ => "TLS 1.2",
        };
        let by = if self.has_ca { "--ca" } else { "this system" };
        let message = format!("{version}, and its certificate is trusted by {by}");
        steps.push(step("TLS", message));
        Ok(Wire::tls(stream))
    }

    /// Says that what answers is something else.
    pub(super) fn not_keypaird(&self, what: &str) -> Unreachable {
        Unreachable::new(
            "gRPC",
            format!("what answers at {} is not keypaird: {what}", self.address),
            "--address or KEYPAIRCTL_ADDRESS names another place; a proxy in between must pass on HTTP/2 and gRPC",
        )
    }

    /// Says that the daemon accepts connections and then says nothing.
    pub(super) fn silent(&self, subject: &'static str, awaited: &str) -> Unreachable {
        Unreachable::new(
            subject,
            format!(
                "what listens at {} accepts connections and does not answer: {awaited} did not end within {}",
                self.address,
                humantime::format_duration(self.time_limit)
            ),
            "is keypaird running there, and not stopped or overloaded?",
        )
        .for_now()
    }

    /// Says what answers, by the bytes that came in the place of HTTP/2.
    pub(super) fn not_greeted(&self, greeted: &Greeted) -> Unreachable {
        let address = &self.address;
        match greeted {
            Greeted::Http1 => self.not_keypaird("it speaks HTTP/1, and not HTTP/2"),
            Greeted::Tls => Unreachable::new(
                "gRPC",
                format!("what listens at {address} speaks TLS"),
                format!("write https://{}", address.authority()),
            ),
            Greeted::Http2 => self.not_keypaird("it broke off"),
            Greeted::Other(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                self.not_keypaird(&format!("it begins with {text:?}"))
            }
            Greeted::Broke(error) if self.tls.is_some() => self.tls_failed(error),
            Greeted::Closed | Greeted::Broke(_) if self.tls.is_some() => Unreachable::new(
                "TLS",
                format!("what listens at {address} closed the connection after the TLS handshake"),
                "is the client certificate still valid, and issued by the daemon's server.tls.client_ca? the daemon's log says why",
            )
            .for_now(),
            Greeted::Closed | Greeted::Broke(_) => Unreachable::new(
                "gRPC",
                format!("what listens at {address} closed the connection without an answer"),
                match address {
                    Address::Unix(_) => "is it keypaird, and not about to stop?".to_owned(),
                    Address::Tcp { .. } => format!(
                        "is it keypaird, and not about to stop? if TLS is spoken there, write https://{}",
                        address.authority()
                    ),
                },
            )
            .for_now(),
        }
    }

    fn tcp_failed(&self, error: &io::Error) -> Unreachable {
        let remedy = match error.kind() {
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                "is this machine connected to the daemon's network? --address or KEYPAIRCTL_ADDRESS names another place"
            }
            _ => "is keypaird running there? --address or KEYPAIRCTL_ADDRESS names another place",
        };
        let message = format!("no daemon answers at {} ({error})", self.address);
        Unreachable::new("TCP", message, remedy).for_now()
    }

    /// Says why a TLS handshake failed, or what ended the connection after it.
    pub(super) fn tls_failed(&self, error: &io::Error) -> Unreachable {
        let of = |message: String, remedy: &str| Unreachable::new("TLS", message, remedy);
        let address = &self.address;
        let tls = error.get_ref().and_then(|error| error.downcast_ref());
        match tls {
            Some(rustls::Error::InvalidCertificate(refused)) => self.certificate_refused(refused),
            Some(rustls::Error::InvalidMessage(_)) => of(
                format!("what listens at {address} does not speak TLS"),
                &format!(
                    "write http://{}, if it may be without TLS",
                    address.authority()
                ),
            ),
            Some(rustls::Error::AlertReceived(alert)) => self.alerted(*alert),
            Some(rustls::Error::PeerIncompatible(why)) => of(
                format!(
                    "the daemon at {address} and this client have no TLS version or algorithm in common ({why:?})"
                ),
                "keypaird speaks TLS 1.3; is a proxy in between?",
            ),
            Some(error) => of(
                format!("the TLS handshake with {address} failed ({error})"),
                "keypairctl doctor looks at each step",
            ),
            None => of(
                format!("the TLS handshake with {address} was broken off ({error})"),
                "does it speak TLS? the daemon's log says why handshakes fail",
            )
            .for_now(),
        }
    }

    fn certificate_refused(&self, refused: &CertificateError) -> Unreachable {
        let address = &self.address;
        let (message, remedy) = match refused {
            CertificateError::BadSignature if self.has_ca => (
                format!("the certificate of {address} was not issued by a CA in --ca, but by one of the same name with another key"),
                "name the PEM file of the CA that issued it; it may have been made anew".to_owned(),
            ),
            CertificateError::UnknownIssuer if self.has_ca => (
                format!("the certificate of {address} was not issued by a CA in --ca"),
                "name the PEM file of the CA that issued it; openssl s_client -connect HOST:PORT shows the issuer".to_owned(),
            ),
            CertificateError::UnknownIssuer => (
                format!("the certificate of {address} was not issued by a CA that this system trusts"),
                "--ca or KEYPAIRCTL_CA names the PEM file of the CA that issued it".to_owned(),
            ),
            CertificateError::NotValidForName => (
                format!("the certificate of {address} is for another name"),
                "use a name of the certificate in --address, or give the daemon a certificate with this one".to_owned(),
            ),
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names = presented.iter().map(|name| plain_name(name));
                let names: Vec<_> = names.collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                (
                    format!("the certificate of {address} is for another name; it has {names}"),
                    "use a name of the certificate in --address, or give the daemon a certificate with this one".to_owned(),
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                format!("the certificate of {address} has expired"),
                "give the daemon a new one, and see that the clock of this machine is right".to_owned(),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                format!("the certificate of {address} is not valid yet"),
                "see that the clock of this machine is right".to_owned(),
            ),
            refused if format!("{refused:?}").contains("CaUsedAsEndEntity") => (
                format!("the certificate of {address} is that of a CA, and must be that of a server"),
                "have the CA issue one, or make a self-signed one by openssl req -x509 with -addext basicConstraints=critical,CA:FALSE".to_owned(),
            ),
            refused => (
                format!("the certificate of {address} is not accepted ({refused})"),
                "give the daemon a certificate of an end entity that the CA in --ca issued".to_owned(),
            ),
        };
        Unreachable::new("TLS", message, remedy)
    }

    fn alerted(&self, alert: rustls::AlertDescription) -> Unreachable {
        use rustls::AlertDescription as Alert;
        let address = &self.address;
        let (message, remedy) = match alert {
            Alert::CertificateRequired => (
                format!("the daemon at {address} wants a client certificate"),
                "--client-cert and --client-key name the certificate and its key",
            ),
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::AccessDenied
                if self.has_identity =>
            {
                (
                    format!(
                        "the daemon at {address} does not accept the client certificate ({alert:?})"
                    ),
                    "--client-cert must be a certificate for clients that a CA in the daemon's server.tls.client_ca issued",
                )
            }
            Alert::CertificateExpired if self.has_identity => (
                format!("the daemon at {address} says that the client certificate has expired"),
                "renew the certificate of --client-cert; see also that the clocks agree",
            ),
            // What servers of TLS 1.2 say where a client certificate is missing.
            Alert::HandshakeFailure | Alert::BadCertificate if !self.has_identity => (
                format!("the daemon at {address} refused the TLS handshake ({alert:?})"),
                "it may want a client certificate, which --client-cert and --client-key name",
            ),
            Alert::NoApplicationProtocol => {
                return self.not_keypaird("it speaks TLS, and not HTTP/2");
            }
            alert => (
                format!("the daemon at {address} refused the TLS handshake ({alert:?})"),
                "its log says why",
            ),
        };
        Unreachable::new("TLS", message, remedy)
    }
}

fn name_failed(host: &str, why: &str) -> Unreachable {
    Unreachable::new(
        "name",
        format!("the name {host} cannot be resolved ({why})"),
        "is it spelled right? --address or KEYPAIRCTL_ADDRESS names another place",
    )
    .for_now()
}

fn socket_failed(path: &Path, error: &io::Error) -> Unreachable {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "is keypaird running, and is server.unix_socket this path? --address or KEYPAIRCTL_ADDRESS names another place"
        }
        io::ErrorKind::PermissionDenied => {
            "this user must be the owner of the socket, or in the group that owns it"
        }
        _ => "is keypaird running? the socket may be left over from a daemon that was killed",
    };
    let message = format!("no daemon answers at unix://{} ({error})", path.display());
    let failed = Unreachable::new("socket", message, remedy);
    match error.kind() {
        io::ErrorKind::PermissionDenied => failed,
        _ => failed.for_now(),
    }
}

/// Returns the name in `DnsName("kms.example")` or `IpAddress(192.0.2.7)`, as rustls writes it.
fn plain_name(name: &str) -> String {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'));
    inner
        .map_or(name, |(inner, _)| inner.trim_matches('"'))
        .to_owned()
}

fn step(subject: &'static str, message: String) -> Step {
    Step { subject, message }
}
