//! Files of certificates, as CAs send them.

use crate::domain::contents::Contents;
use crate::domain::pem::{self, BLOCKS_MAX, PemError};
use crate::domain::{Certificate, Refusal};

/// Reads the certificates of a file: PEM or DER, one or many, or PKCS#7 (RFC 5652), in DER or BER,
/// of which only they are taken. Text may be in any encoding, and have lost its armour and line
/// ends; other blocks are passed over.
///
/// # Errors
/// When there is none, or a private key, which belongs into no such file.
pub fn read_certificates(file: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    if file.len() > FILE_LEN_MAX {
        return Err(too_long(file.len()));
    }
    let mut certificates = Vec::new();
    let mut others = Vec::new();
    for part in pem::parts(file).map_err(not_read)? {
        match Contents::of(&part) {
            Contents::Certificates(found) => certificates.extend(found),
            Contents::PrivateKey(_) | Contents::Pkcs12 => {
                return Err(Refusal::new(
                    "has a private key, which stays where it is; give certificates only",
                ));
            }
            Contents::Damaged => {
                return Err(Refusal::of(
                    &part.label,
                    "is a damaged block: it is not base64",
                ));
            }
            Contents::Other if part.label.is_empty() => {
                return Err(Refusal::new(
                    "is neither a certificate nor PKCS#7, or is damaged",
                ));
            }
            Contents::Curve | Contents::Other => others.push(part.label),
        }
    }
    match (certificates.len(), others.first()) {
        (0, None) => Err(Refusal::new("has no certificate")),
        (0, Some(other)) => Err(Refusal::of(
            other,
            "is all that it has; give the certificate that the CA issued",
        )),
        (1..=CERTIFICATES_MAX, _) => Ok(certificates),
        (count, _) => Err(too_many(count)),
    }
}

/// Refuses more than [`read_certificates`] reads: certificates come out of key files and tokens
/// too.
pub(super) fn refuse_too_much(certificates: &[Certificate]) -> Result<(), Refusal> {
    let count = certificates.len();
    if count > CERTIFICATES_MAX {
        return Err(too_many(count));
    }
    let bytes: usize = certificates.iter().map(|one| one.der().len()).sum();
    match bytes {
        ..=FILE_LEN_MAX => Ok(()),
        _ => Err(too_long(bytes)),
    }
}

fn too_many(count: usize) -> Refusal {
    Refusal::new(format!(
        "has {count} certificates, and may have {CERTIFICATES_MAX}"
    ))
}

fn too_long(bytes: usize) -> Refusal {
    Refusal::new(format!("has {bytes} bytes, and may have {FILE_LEN_MAX}"))
}

fn not_read(error: PemError) -> Refusal {
    match error {
        PemError::Neither => Refusal::new("is neither PEM, DER nor base64, or is damaged"),
        PemError::NotWhole => Refusal::new("is neither a certificate nor PKCS#7, or is damaged"),
        PemError::NoEnd => Refusal::new("is damaged: a block has no end"),
        PemError::TooManyBlocks => Refusal::new(format!(
            "has more than {BLOCKS_MAX} blocks; give only the certificates of the chain"
        )),
    }
}

const FILE_LEN_MAX: usize = 256 * 1024;
const CERTIFICATES_MAX: usize = 32;
