//! What is known of TLS at the port: the room `server` notes it, and `Diagnose` and the metrics
//! tell it.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use time::OffsetDateTime;

/// What is known of TLS at the port.
#[derive(Debug, Default)]
pub struct TlsStatus {
    not_after: Mutex<Option<OffsetDateTime>>,
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client showed no certificate, and must.
    NoClientCertificate,
    /// The client showed a certificate that is not accepted.
    ClientCertificateRefused,
    /// What came is not TLS, such as plain HTTP.
    NotTls,
    /// The client does not speak TLS 1.3, or has no algorithm in common with the daemon.
    NotCompatible,
    /// The client refused the certificate of the daemon.
    ServerCertificateRefused,
    /// The client closed the connection before the end of the handshake.
    Closed,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::NoClientCertificate,
        Self::ClientCertificateRefused,
        Self::NotTls,
        Self::NotCompatible,
        Self::ServerCertificateRefused,
        Self::Closed,
        Self::Other,
    ];

    /// Returns its name for monitoring and the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoClientCertificate => "no_client_certificate",
            Self::ClientCertificateRefused => "client_certificate_refused",
            Self::NotTls => "not_tls",
            Self::NotCompatible => "not_compatible",
            Self::ServerCertificateRefused => "server_certificate_refused",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }

    /// Returns its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::NoClientCertificate => 0,
            Self::ClientCertificateRefused => 1,
            Self::NotTls => 2,
            Self::NotCompatible => 3,
            Self::ServerCertificateRefused => 4,
            Self::Closed => 5,
            Self::Other => 6,
        }
    }
}

impl TlsStatus {
    /// Notes when the certificate in use expires; none when that cannot be read.
    pub fn use_certificate(&self, not_after: Option<OffsetDateTime>) {
        *self.not_after.lock() = not_after;
    }

    /// Returns when the certificate in use expires; none without TLS.
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        *self.not_after.lock()
    }

    /// Counts a handshake that failed.
    pub fn count(&self, failure: HandshakeFailure) {
        if let Some(count) = self.failures.get(failure.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many handshakes failed for a reason since the start.
    pub fn failures(&self, failure: HandshakeFailure) -> u64 {
        let count = self.failures.get(failure.index());
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself() {
        let status = TlsStatus::default();
        for (index, failure) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure.index(), index);
            for _ in 0..=index {
                status.count(failure);
            }
        }
        for (index, failure) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(status.failures(failure)), Ok(index + 1));
        }
    }
}
