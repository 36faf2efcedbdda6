//! Files: keys with their certificates, and the answers of CAs.

use aws_lc_rs::{digest, hmac};
use keypaird::certs::{self, CsrProfile};
use keypaird::keyfiles::{self, KeyFileFormat};
use secrecy::SecretString;
use time::OffsetDateTime;

/// Reads a PKCS#12 file, and one of which the bytes are all that its MAC protects: with a MAC that is right, so that
/// what stands behind it is reached.
pub(super) fn pkcs12(bytes: &[u8]) {
    let read = |file: &[u8]| {
        let password = SecretString::from(PASSWORD);
        let _ = keyfiles::read(file, Some(KeyFileFormat::Pkcs12), &password);
    };
    read(bytes);
    read(&with_mac(bytes));
}

/// Reads a PEM file with a key.
pub(super) fn pem(bytes: &[u8]) {
    let password = SecretString::from(PASSWORD);
    let _ = keyfiles::read(bytes, Some(KeyFileFormat::Pem), &password);
}

/// Reads the answer of a CA, orders it for each of its keys, and makes a request for each.
pub(super) fn csr_answer(bytes: &[u8]) {
    let Ok(certificates) = certs::read_certificates(bytes) else {
        return;
    };
    let now = OffsetDateTime::from_unix_timestamp(1_795_435_200).unwrap();
    for certificate in &certificates {
        let _ = certs::is_self_signed(certificate);
        let _ = certs::subject_and_names(certificate);
        let Ok(issued) = certs::read(certificate) else {
            continue;
        };
        let _ = certs::certify(&issued.public_key, certificates.clone(), now);
        let _ = CsrProfile {
            certificate: certificate.clone(),
            subject: None,
            names: None,
            public_key: issued.public_key,
        }
        .build();
    }
}

/// Writes a PKCS#12 file of the password `x` around an `AuthenticatedSafe` (RFC 7292 section 4).
pub fn with_mac(authenticated_safe: &[u8]) -> Vec<u8> {
    // The key is derived as appendix B.2 says, with one iteration and a salt of eight zeros.
    let mut derived = vec![3; 64];
    derived.extend([0; 64]);
    let password: Vec<_> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    derived.extend(password.iter().chain(&[0, 0]).cycle().take(64));
    let key = digest::digest(&digest::SHA256, &derived);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_ref());
    let mac = hmac::sign(&key, authenticated_safe);
    let data = [DATA, &tlv(0xa0, &tlv(0x04, authenticated_safe))].concat();
    let digest_info = [SHA256, &tlv(0x04, mac.as_ref())].concat();
    let mac_data = [tlv(0x30, &digest_info), tlv(0x04, &[0; 8])].concat();
    let parts = [
        b"\x02\x01\x03".to_vec(),
        tlv(0x30, &data),
        tlv(0x30, &mac_data),
    ];
    tlv(0x30, &parts.concat())
}

/// Writes a value in DER.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length: Vec<_> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut written = vec![tag];
    match value.len() {
        0 => written.push(0),
        1..128 => written.extend(&length),
        _ => {
            written.push(0x80 | u8::try_from(length.len()).unwrap());
            written.extend(&length);
        }
    }
    written.extend(value);
    written
}

/// Of every file.
pub(super) const PASSWORD: &str = "x";
/// The object identifier id-data, in DER.
const DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
/// An `AlgorithmIdentifier` of SHA-256, in DER.
const SHA256: &[u8] = b"\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00";
