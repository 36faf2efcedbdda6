//! The files of TLS that the options name, and what they come to.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore};

use super::error::Failure;

/// Reads the files, and has the client trust the given CA, or else those of the system.
///
/// # Errors
/// [`Failure::Usage`] that names the option and says what its file holds.
pub(super) fn client_config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, Failure> {
    let identity = match identity {
        None => None,
        Some((certificate, key)) => {
            let chain = certificates(CLIENT_CERT, certificate)?;
            Some((chain, private_key(key)?, certificate, key))
        }
    };
    let roots = match ca {
        Some(path) => given_roots(path)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Usage(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, private_key, certificate, key)) => {
            let with = builder.with_client_auth_cert(chain, private_key);
            with.map_err(|error| refused_identity(&error, certificate, key))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn given_roots(path: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA, path)? {
        let added = roots.add(certificate);
        added.map_err(|error| usage(CA, path, &format!("is not accepted: {error}")))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let (trusted, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match trusted {
        0 => Err(Failure::Usage(
            "this system has no CA certificates; --ca names the PEM file of the CA that issued the daemon's certificate"
                .to_owned(),
        )),
        _ => Ok(roots),
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(option, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let read = read.map_err(|error| usage(option, path, &format!("cannot be read: {error}")))?;
    if !read.is_empty() {
        return Ok(read);
    }
    let why = match (has_private_key(&pem), option) {
        (true, CLIENT_CERT) => {
            "holds a private key and no certificate; is it swapped with --client-key?"
        }
        (true, _) => "holds a private key and no certificate; name the PEM file of the CA",
        _ => "holds no certificate in PEM; openssl x509 -inform DER -in FILE makes PEM of DER",
    };
    Err(usage(option, path, why))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let pem = read(CLIENT_KEY, path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let holds = |label: &str| contains(&pem, label);
        let why = if holds("ENCRYPTED PRIVATE KEY-----") {
            "holds an encrypted private key; openssl pkey -in FILE -out NEW_FILE decrypts it"
        } else if holds("BEGIN CERTIFICATE-----") && !has_private_key(&pem) {
            "holds a certificate and no private key; is it swapped with --client-cert?"
        } else if has_private_key(&pem) {
            return usage(CLIENT_KEY, path, &format!("cannot be read: {error}"));
        } else {
            "holds no private key in PEM; openssl pkey -inform DER -in FILE makes PEM of DER"
        };
        usage(CLIENT_KEY, path, why)
    })
}

fn refused_identity(error: &Error, certificate: &Path, key: &Path) -> Failure {
    let (certificate, key) = (certificate.display(), key.display());
    Failure::Usage(match error {
        Error::InconsistentKeys(_) => format!(
            "--client-cert {certificate} and --client-key {key} do not belong together: \
             the key is not that of the first certificate in the file"
        ),
        error => {
            format!("--client-cert {certificate} and --client-key {key} cannot be used: {error}")
        }
    })
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| usage(option, path, &format!("cannot be read: {error}")))
}

fn has_private_key(pem: &[u8]) -> bool {
    contains(pem, "PRIVATE KEY-----")
}

fn contains(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|part| part == text.as_bytes())
}

fn usage(option: &str, path: &Path, why: &str) -> Failure {
    Failure::Usage(format!("{option} {} {why}", path.display()))
}

const CA: &str = "--ca";
const CLIENT_CERT: &str = "--client-cert";
const CLIENT_KEY: &str = "--client-key";
