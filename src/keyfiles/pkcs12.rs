//! PKCS#12 (RFC 7292), by the p12-keystore crate.

use der::{Decode, Reader, SliceReader};
use p12_keystore::error::Error;
use p12_keystore::{
    Certificate as P12Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm,
    Pkcs12Archive, PrivateKey as P12PrivateKey, PrivateKeyChain,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::private_key::from_pkcs8;
use super::{Contents, ITERATIONS, ITERATIONS_MAX, KeyFileError};
use crate::domain::{Certificate, PrivateKey, Refusal};

/// Reads a file, whose integrity is protected by the password (section 4, `macData`).
pub(super) fn read(file: &[u8], password: &str) -> Result<Contents, KeyFileError> {
    match has_mac(file) {
        Err(_) => return Err(KeyFileError::damaged("it is not PKCS#12")),
        Ok(false) => {
            return Err(KeyFileError::file(
                "has no MAC, so that nobody can tell whether it was changed; make it anew with `openssl pkcs12 -export`".to_owned(),
            ));
        }
        Ok(true) => {}
    }
    check_password(password)?;
    let encryptions = PBE_OIDS.iter().map(|oid| occurrences(file, oid));
    if encryptions.sum::<usize>() > ENCRYPTIONS_MAX {
        return Err(KeyFileError::file(format!(
            "is encrypted in more than {ENCRYPTIONS_MAX} parts"
        )));
    }
    let archive = Pkcs12Archive::from_pkcs12(file, password).map_err(|error| match error {
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => KeyFileError::password(),
        Error::InvalidParameters => KeyFileError::file(format!(
            "asks for too much work to be opened: at most {ITERATIONS_MAX} iterations are done; make it anew with `openssl pkcs12 -export`"
        )),
        Error::UnsupportedEncryptionScheme | Error::UnsupportedMacAlgorithm => KeyFileError::file(
            "is encrypted in a way that is not read; convert it with `openssl pkcs12 -legacy -in OLD -nodes | openssl pkcs12 -export -out NEW`".to_owned(),
        ),
        _ => KeyFileError::damaged("it cannot be decoded"),
    })?;
    let keys = archive.keys.iter();
    let certificates = archive.certs.iter();
    Ok(Contents {
        keys: keys
            .map(|bag| from_pkcs8(bag.key.as_der()))
            .collect::<Result<_, _>>()?,
        certificates: certificates
            .map(|bag| Certificate::from_der(bag.cert.as_der()))
            .collect(),
    })
}

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

/// A password of PKCS#12 is a `BMPString` (appendix B.1).
fn check_password(password: &str) -> Result<(), KeyFileError> {
    match password.chars().all(|c| u32::from(c) <= 0xffff) {
        true => Ok(()),
        false => Err(KeyFileError::Refused(
            "password",
            Refusal::new("must have no characters beyond U+FFFF, such as emoji, in PKCS#12"),
        )),
    }
}

/// Tells whether the third part of a `PFX`, the MAC, is there.
fn has_mac(file: &[u8]) -> der::Result<bool> {
    let pfx = der::AnyRef::from_der(file)?;
    let mut parts = SliceReader::new(pfx.value())?;
    let mut count = 0;
    while !parts.is_finished() {
        parts.tlv_bytes()?;
        count += 1;
    }
    Ok(count > 2)
}

fn occurrences(file: &[u8], oid: &[u8]) -> usize {
    file.windows(oid.len()).filter(|part| *part == oid).count()
}

/// PBKDF2, scrypt, and the older schemes of PKCS#12, as they stand in DER.
const PBE_OIDS: [&[u8]; 3] = [
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c",
    b"\x2b\x06\x01\x04\x01\xda\x47\x04\x0b",
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01",
];
/// The keys and the certificates of a file are two.
const ENCRYPTIONS_MAX: usize = 8;
