//! Files of certificates, such as the answer of a CA: in whatever form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::Decode;

use super::read::Parsed;
use crate::domain::ber::{CONTEXT_0, Elements, OBJECT_IDENTIFIER, SEQUENCE};
use crate::domain::{Certificate, Refusal};

/// Reads the certificates of a file: PEM or DER, one or many, or PKCS#7 (RFC 5652), in DER or BER, of which only they are
/// taken. Of PEM, armour and line ends may be lost.
pub fn read_certificates(file: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    if file.len() > FILE_LEN_MAX {
        return Err(too_long(file.len()));
    }
    let certificates = match file.first() {
        Some(0x30) => from_der(file)?,
        _ => from_text(file)?,
    };
    match certificates.len() {
        0 => Err(Refusal::new("has no certificate")),
        1..=CERTIFICATES_MAX => Ok(certificates),
        count => Err(too_many(count)),
    }
}

/// Refuses more than [`read_certificates`] reads: certificates come out of key files and tokens too.
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

/// Reads DER: a certificate, or PKCS#7, which may be BER as well.
fn from_der(der: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    if Parsed::from_der(der).is_ok() {
        return Ok(vec![Certificate::from_der(der)]);
    }
    from_pkcs7(der)
        .ok_or_else(|| Refusal::new("is neither a certificate nor PKCS#7, or is damaged"))
}

/// Takes the certificates out of a `SignedData` (RFC 5652 section 5.1): in a `ContentInfo` that names it, they
/// are the part tagged 0 behind version, digest algorithms and content. A walk over the tags does: the cms
/// crate for this version of der is not released yet, and reads no BER.
fn from_pkcs7(file: &[u8]) -> Option<Vec<Certificate>> {
    let mut elements = Elements::of(file);
    let content_info = elements.take(SEQUENCE).filter(|_| elements.is_empty())?;
    let mut parts = content_info.parts();
    if parts.take(OBJECT_IDENTIFIER)?.contents != SIGNED_DATA {
        return None;
    }
    let signed_data = parts.take(CONTEXT_0)?.parts().take(SEQUENCE)?;
    let mut parts = signed_data.parts();
    while !parts.is_empty() {
        let part = parts.next()?;
        if part.tag != CONTEXT_0 {
            continue;
        }
        let mut found = Vec::new();
        let mut certificates = part.parts();
        while !certificates.is_empty() {
            found.push(Certificate::from_der(certificates.next()?.whole));
        }
        return Some(found);
    }
    None
}

/// Reads PEM, or base64 that has lost its armour.
fn from_text(file: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    let neither = || Refusal::new("is neither PEM, DER nor base64, or is damaged");
    let text = std::str::from_utf8(file).map_err(|_| neither())?;
    // Line ends are lost on the way through JSON by hand.
    let text = text.replace("\\r", "").replace("\\n", "\n");
    if !text.contains(BEGIN) {
        let inner = decode(&text).ok_or_else(neither)?;
        return match inner.first() {
            Some(0x30) => from_der(&inner),
            // Base64 of PEM.
            _ if inner
                .windows(BEGIN.len())
                .any(|part| part == BEGIN.as_bytes()) =>
            {
                from_text(&inner)
            }
            _ => Err(neither()),
        };
    }
    let mut certificates = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (label, rest) = block.split_once("-----").ok_or_else(neither)?;
        let (body, _) = rest.split_once("-----END ").ok_or_else(neither)?;
        match label {
            "CERTIFICATE" | "X509 CERTIFICATE" | "PKCS7" | "CMS" => {
                certificates.extend(from_der(&decode(body).ok_or_else(neither)?)?);
            }
            label if label.contains("PRIVATE KEY") => {
                return Err(Refusal::new(
                    "has a private key, which stays where it is; give certificates only",
                ));
            }
            other => {
                return Err(Refusal::of(
                    other,
                    "is a kind of block that is not expected here",
                ));
            }
        }
    }
    Ok(certificates)
}

/// Decodes base64, with blanks and line ends anywhere.
fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(compact).ok()
}

const BEGIN: &str = "-----BEGIN ";
const FILE_LEN_MAX: usize = 256 * 1024;
const CERTIFICATES_MAX: usize = 32;
/// The object identifier id-signedData, in DER.
const SIGNED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
