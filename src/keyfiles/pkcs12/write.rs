//! Writes PKCS#12 files, by the p12-keystore crate.

use p12_keystore::{
    Certificate as P12Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm,
    PrivateKey as P12PrivateKey, PrivateKeyChain,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::check_password;
use crate::domain::{Certificate, PrivateKey};
use crate::keyfiles::{ITERATIONS, KeyFileError};

/// Writes a file: PBES2 with AES-256-CBC and PBKDF2 with HMAC-SHA-256, and a MAC with HMAC-SHA-256.
pub fn write_pkcs12(
    private_key: &PrivateKey,
    certificate: &Certificate,
    chain: &[Certificate],
    friendly_name: &str,
    password: &SecretString,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    check_password(password.expose_secret())?;
    let key = P12PrivateKey::from_der(private_key.pkcs8())
        .map_err(|_| KeyFileError::Failed("the private key"))?;
    let certificates = std::iter::once(certificate)
        .chain(chain)
        .map(|certificate| P12Certificate::from_der(certificate.der()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| KeyFileError::Failed("a certificate"))?;
    let local_key_id = certificate.sha1_fingerprint();
    let chain = PrivateKeyChain::new(local_key_id.as_bytes(), key, certificates);
    let mut store = KeyStore::new();
    store.add_entry(friendly_name, KeyStoreEntry::PrivateKeyChain(chain));
    let written = store
        .writer(password.expose_secret())
        .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
        .encryption_iterations(ITERATIONS)
        .mac_algorithm(MacAlgorithm::HmacSha256)
        .mac_iterations(ITERATIONS)
        .write();
    written
        .map(Zeroizing::new)
        .map_err(|_| KeyFileError::Failed("PKCS#12"))
}
