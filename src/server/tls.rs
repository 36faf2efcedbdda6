//! TLS: its files, read anew when they change.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tracing::{error, info};

use super::ServerError;
use crate::config::TlsConfig;

/// Accepts TLS 1.3 connections with the newest files that were in order.
#[derive(Debug)]
pub struct Tls {
    config: TlsConfig,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    pub fn load(config: TlsConfig) -> Result<Self, ServerError> {
        let current = ArcSwap::new(read(&config)?);
        Ok(Self { config, current })
    }

    /// Returns what accepts the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again whenever one of them changes. What is not in order is not used.
    pub(super) async fn follow_files(&self) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            match read(&self.config) {
                Ok(config) => {
                    self.current.store(config);
                    info!("the TLS files changed and are in use");
                    seen = now;
                }
                // Perhaps only one of two files was replaced yet.
                Err(error) if self.stamps() == now => {
                    error!(%error, "the TLS files changed and cannot be used; the former ones stay in use");
                    seen = now;
                }
                Err(_) => {}
            }
        }
    }

    /// Returns by what a changed file is noticed.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
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
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
    }
}

fn read(config: &TlsConfig) -> Result<Arc<ServerConfig>, ServerError> {
    let chain = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.private_key)
        .map_err(|error| refused(&config.private_key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| refused(&config.certificate, error.to_string()))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                let added = roots.add(certificate);
                added.map_err(|error| refused(path, error.to_string()))?;
            }
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
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
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
