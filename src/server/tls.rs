//! TLS: its files, read anew when they change.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::time::OffsetDateTime;
use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConnection;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::ServerError;
use super::handshakes::FailedHandshakes;
use super::hosts::Hosts;
use super::lifetime::ClientCertificate;
use crate::certs;
use crate::config::TlsConfig;
use crate::domain::Clock;
use crate::service::TlsStatus;

/// Accepts TLS 1.3 connections with the newest files that were in order.
#[derive(Debug)]
pub struct Tls {
    config: TlsConfig,
    hosts: Arc<Hosts>,
    status: Arc<TlsStatus>,
    failed: Arc<FailedHandshakes>,
    clock: TlsClock,
    current: ArcSwap<Files>,
    /// Told when the files are to be read again, changed or not.
    reload: Arc<Notify>,
}

/// The files as they were read.
#[derive(Clone, Debug)]
pub(super) struct Files {
    server: Arc<ServerConfig>,
    /// The DNS names of our certificate.
    names: Vec<String>,
    /// When our certificate expires; none when that cannot be read.
    not_after: Option<OffsetDateTime>,
    client_ca: Option<ClientCa>,
}

/// The CAs whose clients are let in.
#[derive(Clone, Debug)]
struct ClientCa {
    /// Their certificates, DER.
    roots: BTreeSet<Vec<u8>>,
    /// Cancelled when they are others.
    replaced: CancellationToken,
}

impl Tls {
    /// Reads the files, and has the names of our certificate be ours.
    pub(super) fn load(
        config: TlsConfig,
        hosts: Arc<Hosts>,
        status: Arc<TlsStatus>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServerError> {
        let clock = TlsClock(clock);
        let files = read(&config, Some(&clock))?;
        hosts.use_certificate(files.names.clone());
        status.use_certificate(files.not_after);
        let current = ArcSwap::from_pointee(files);
        Ok(Self {
            config,
            hosts,
            failed: Arc::new(FailedHandshakes::new(Arc::clone(&status))),
            status,
            clock,
            current,
            reload: Arc::default(),
        })
    }

    /// Returns what has the files read again when it is told.
    pub(super) fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Reads the files, and does no more.
    pub fn check(config: &TlsConfig) -> Result<(), ServerError> {
        read(config, None).map(drop)
    }

    /// Returns what accepts the next connection.
    pub(super) fn current(&self) -> Arc<Files> {
        self.current.load_full()
    }

    /// Returns where handshakes are noted that failed.
    pub(super) fn failed_handshakes(&self) -> Arc<FailedHandshakes> {
        Arc::clone(&self.failed)
    }

    /// Reads the files again whenever one of them changes, or on request. What is not in order is
    /// not used.
    pub(super) async fn follow_files(&self) {
        let mut seen = self.stamps();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(INTERVAL) => false,
                () = self.reload.notified() => true,
            };
            self.failed.tell_of_the_rest();
            let now = self.stamps();
            if now == seen && !asked {
                continue;
            }
            let what = match asked {
                true => "the TLS files were read again",
                false => "the TLS files changed",
            };
            match read(&self.config, Some(&self.clock)) {
                Ok(files) => {
                    self.replace(files, what);
                    seen = now;
                }
                // Perhaps only one of two files was replaced yet.
                Err(error) if asked || self.stamps() == now => {
                    error!(%error, "{what} and cannot be used; the former ones stay in use");
                    seen = now;
                }
                Err(_) => {}
            }
        }
    }

    /// Uses other files. If their client CA is another one, connections that the former one
    /// admitted end.
    fn replace(&self, mut files: Files, what: &str) {
        let former = self.current.load().client_ca.clone();
        let mut replaced = None;
        if let (Some(former), Some(new)) = (former, &mut files.client_ca) {
            match former.roots == new.roots {
                true => *new = former,
                false => replaced = Some(former.replaced),
            }
        }
        self.hosts.use_certificate(files.names.clone());
        self.status.use_certificate(files.not_after);
        self.current.store(Arc::new(files));
        info!("{what} and are in use");
        if let Some(replaced) = replaced {
            info!("the client CA changed; connections of the former one end");
            replaced.cancel();
        }
    }

    /// Returns by what a changed file is noticed.
    fn stamps(&self) -> Vec<Option<[i64; 4]>> {
        let config = &self.config;
        [
            Some(&config.certificate),
            Some(&config.private_key),
            config.client_ca.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|path| {
            let metadata = fs::metadata(path).ok()?;
            // Not the time of the last write, which a copy may keep.
            Some([
                metadata.ino().cast_signed(),
                metadata.ctime(),
                metadata.ctime_nsec(),
                metadata.size().cast_signed(),
            ])
        })
        .collect()
    }
}

impl Files {
    /// Returns what accepts a connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.server))
    }

    /// Returns what let the client of a connection in, if it had to show a certificate. That of a
    /// session which is resumed is not verified anew, and may have expired by the clock.
    pub(super) fn client(
        &self,
        connection: &ServerConnection,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<ClientCertificate>, &'static str> {
        let Some(client_ca) = &self.client_ca else {
            return Ok(None);
        };
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let not_after = shown.and_then(|certificate| certs::not_after(certificate));
        let client = ClientCertificate {
            ca_replaced: client_ca.replaced.clone(),
            not_after: not_after.ok_or("the client certificate cannot be read")?,
            clock: Arc::clone(clock),
        };
        match client.is_refused() {
            true => Err("the client certificate expired, or its CA was replaced"),
            false => Ok(Some(client)),
        }
    }
}

/// The clock as TLS reads it, which has no time before 1970: rustls panics there by its own clock.
#[derive(Clone, Debug)]
struct TlsClock(Arc<dyn Clock>);

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Reads the files. Without a clock, what is read accepts no connections.
fn read(config: &TlsConfig, clock: Option<&TlsClock>) -> Result<Files, ServerError> {
    let chain = certificates(&config.certificate)?;
    let names = chain.first().map(|first| certs::dns_names(first));
    let not_after = chain.first().and_then(|first| certs::not_after(first));
    let mut client_ca = None;
    let key = PrivateKeyDer::from_pem_file(&config.private_key)
        .map_err(|error| refused(&config.private_key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| refused(&config.certificate, error.to_string()))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let mut known = BTreeSet::new();
            for certificate in certificates(path)? {
                known.insert(certificate.to_vec());
                let added = roots.add(certificate);
                added.map_err(|error| refused(path, error.to_string()))?;
            }
            client_ca = Some(ClientCa {
                roots: known,
                replaced: CancellationToken::new(),
            });
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::new(default_provider()),
            )
            .build()
            .map_err(|error| refused(path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|error| refused(&config.certificate, error.to_string()))?;
    if let Some(clock) = clock {
        server.time_provider = Arc::new(clock.clone());
    }
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Files {
        server: Arc::new(server),
        names: names.unwrap_or_default(),
        not_after,
        client_ca,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| refused(path, error.to_string()));
    let certificates = certificates?;
    if certificates.is_empty() {
        return Err(refused(path, "it has no certificate in PEM"));
    }
    Ok(certificates)
}

fn refused(path: &Path, why: impl Into<String>) -> ServerError {
    ServerError::Tls {
        path: path.to_owned(),
        why: why.into(),
    }
}

const INTERVAL: Duration = Duration::from_secs(2);
