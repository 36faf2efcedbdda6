//! TLS handshakes that failed: counted, and told in the log once a minute for each reason.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_rustls::rustls::{AlertDescription, Error};
use tracing::info;

use crate::service::{HandshakeFailure, TlsStatus};
use crate::telemetry::Seldom;

/// Handshakes that failed.
#[derive(Debug)]
pub(super) struct FailedHandshakes {
    status: Arc<TlsStatus>,
    reasons: [Reason; HandshakeFailure::ALL.len()],
}

/// What is said of a reason.
#[derive(Debug)]
struct Reason {
    limiter: Seldom,
    /// The last one: its client, and why it failed.
    last: Mutex<Option<(IpAddr, String)>>,
}

impl FailedHandshakes {
    /// Has them counted in a status.
    pub(super) fn new(status: Arc<TlsStatus>) -> Self {
        let reason = |_| Reason {
            limiter: Seldom::new(INTERVAL),
            last: Mutex::default(),
        };
        Self {
            status,
            reasons: HandshakeFailure::ALL.map(reason),
        }
    }

    /// Notes one that failed by an error.
    pub(super) fn note(&self, peer: IpAddr, error: &io::Error) {
        self.note_as(reason(error), peer, error.to_string());
    }

    /// Notes one for a reason.
    pub(super) fn note_as(&self, failure: HandshakeFailure, peer: IpAddr, why: String) {
        self.status.count(failure);
        if let Some(reason) = self.reasons.get(failure.index()) {
            *reason.last.lock() = Some((peer, why));
            reason.limiter.count();
            reason.tell(failure);
        }
    }

    /// Tells of those that came after the last line, as far as a minute has passed.
    pub(super) fn tell_of_the_rest(&self) {
        for (failure, reason) in HandshakeFailure::ALL.into_iter().zip(&self.reasons) {
            reason.tell(failure);
        }
    }
}

impl Reason {
    fn tell(&self, failure: HandshakeFailure) {
        let Some(count) = self.limiter.due() else {
            return;
        };
        if let Some((peer, error)) = &*self.last.lock() {
            let reason = failure.name();
            info!(reason, %peer, count, %error, "{}", sentence(failure));
        }
    }
}

/// Says what failed, and what helps.
const fn sentence(failure: HandshakeFailure) -> &'static str {
    match failure {
        HandshakeFailure::NoClientCertificate => {
            "a TLS handshake failed: the client showed no certificate, and server.tls.client_ca asks for one"
        }
        HandshakeFailure::ClientCertificateRefused => {
            "a TLS handshake failed: the client's certificate is not accepted; it must be valid and issued by server.tls.client_ca"
        }
        HandshakeFailure::NotTls => {
            "a TLS handshake failed: the client does not speak TLS; it must use https"
        }
        HandshakeFailure::NotCompatible => {
            "a TLS handshake failed: the client and the daemon have no version or algorithm in common; the daemon speaks TLS 1.3"
        }
        HandshakeFailure::ServerCertificateRefused => {
            "a TLS handshake failed: the client refused the daemon's certificate; it must trust its CA, and call it by a name of the certificate"
        }
        HandshakeFailure::Closed => {
            "a TLS handshake failed: the client closed the connection; a load balancer that only connects does so"
        }
        HandshakeFailure::Other => "a TLS handshake failed",
    }
}

fn reason(error: &io::Error) -> HandshakeFailure {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls {
        Some(Error::NoCertificatesPresented) => HandshakeFailure::NoClientCertificate,
        Some(Error::InvalidCertificate(_)) => HandshakeFailure::ClientCertificateRefused,
        Some(Error::InvalidMessage(_)) => HandshakeFailure::NotTls,
        Some(Error::PeerIncompatible(_)) => HandshakeFailure::NotCompatible,
        Some(Error::AlertReceived(alert)) => match alert {
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity => HandshakeFailure::NotCompatible,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA => HandshakeFailure::ServerCertificateRefused,
            AlertDescription::CloseNotify | AlertDescription::UserCanceled => {
                HandshakeFailure::Closed
            }
            _ => HandshakeFailure::Other,
        },
        Some(_) => HandshakeFailure::Other,
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => HandshakeFailure::Closed,
            _ => HandshakeFailure::Other,
        },
    }
}

/// How often a reason is told.
const INTERVAL: Duration = Duration::from_secs(60);
