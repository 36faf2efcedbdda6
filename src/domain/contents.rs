//! What a part of a file is. Its contents decide: labels are written by hand, by old programs, and
//! are missing in DER. A label helps where the contents are damaged, or look like two things.

use super::Certificate;
use super::ber::{
    BIT_STRING, CONTEXT_0, Element, Elements, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE,
};
use super::pem::Part;

/// What a part of a file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// A certificate, with what is appended to it; or those of PKCS#7 (RFC 5652).
    Certificates(Vec<Certificate>),
    /// A private key, in the clear or not.
    PrivateKey(KeyForm),
    /// The curve that an EC key is on, as an OBJECT IDENTIFIER.
    Curve,
    /// PKCS#12 (RFC 7292).
    Pkcs12,
    /// Something that says nothing about keys and certificates, or not enough: parameters,
    /// requests, revocation lists, public keys.
    Other,
    /// What is named as a key or a certificate, and cannot be decoded.
    Damaged,
}

/// The forms of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyForm {
    /// `PrivateKeyInfo` or `OneAsymmetricKey` (RFC 5958).
    Pkcs8,
    /// `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
    Encrypted,
    /// `RSAPrivateKey` (RFC 8017 appendix A.1.2).
    Pkcs1,
    /// `ECPrivateKey` (RFC 5915).
    Sec1,
    /// Encrypted by OpenSSL in its old way, with headers in the block.
    EncryptedByHeaders,
    /// Of DSA, as OpenSSL writes it.
    Dsa,
    /// Of OpenSSH.
    OpenSsh,
    /// Named as a private key, of a kind that is not known.
    Unknown,
}

impl Contents {
    /// Tells what a part is.
    pub(crate) fn of(part: &Part) -> Self {
        let names_key = part.label.ends_with("PRIVATE KEY");
        if names_key && part.is_encrypted {
            return Self::PrivateKey(KeyForm::EncryptedByHeaders);
        }
        let names_certificate = CERTIFICATE_LABELS.contains(&&*part.label);
        let named = names_key || names_certificate;
        let Some(bytes) = &part.bytes else {
            return match named || PKCS7_LABELS.contains(&&*part.label) {
                true => Self::Damaged,
                false => Self::Other,
            };
        };
        if bytes.starts_with(OPENSSH_MAGIC) {
            return Self::PrivateKey(KeyForm::OpenSsh);
        }
        match (Self::of_der(bytes, &part.label), names_certificate) {
            (Some(contents), _) => contents,
            // What is wrong with it is said where it is parsed.
            (None, true) => Self::Certificates(vec![Certificate::from_der(&***bytes)]),
            (None, false) if names_key => Self::PrivateKey(KeyForm::Unknown),
            (None, false) => Self::Other,
        }
    }

    /// Tells what a value is by its outer parts. None when it is nothing that is known.
    fn of_der(bytes: &[u8], label: &str) -> Option<Self> {
        let mut elements = Elements::of(bytes);
        let first = elements.next()?;
        if first.tag == OBJECT_IDENTIFIER && elements.is_empty() {
            return Some(Self::Curve);
        }
        if first.tag != SEQUENCE {
            return None;
        }
        if is_certificate(first) {
            // OpenSSL's trusted certificates have what it is trusted for behind it.
            let alone = elements.is_empty() || label == TRUSTED;
            return alone.then(|| Self::Certificates(vec![Certificate::from_der(first.whole)]));
        }
        if !elements.is_empty() {
            return None;
        }
        let tags = tags(first);
        let version = first.parts().take(INTEGER).and_then(Element::number);
        Some(match &*tags {
            [SEQUENCE, OCTET_STRING] => Self::PrivateKey(KeyForm::Encrypted),
            [INTEGER, SEQUENCE, OCTET_STRING, ..] => Self::PrivateKey(KeyForm::Pkcs8),
            [INTEGER, OCTET_STRING, ..] if version == Some(1) => Self::PrivateKey(KeyForm::Sec1),
            [INTEGER, SEQUENCE] | [INTEGER, SEQUENCE, SEQUENCE] if version == Some(3) => {
                Self::Pkcs12
            }
            [INTEGER, INTEGER, INTEGER, INTEGER, ..] if matches!(version, Some(0 | 1)) => {
                // Six numbers are a key of DSA, or one of RSA that lacks three.
                Self::PrivateKey(match tags.len() == 6 && label != "RSA PRIVATE KEY" {
                    true => KeyForm::Dsa,
                    false => KeyForm::Pkcs1,
                })
            }
            [OBJECT_IDENTIFIER, CONTEXT_0] => Self::Certificates(in_pkcs7(first)?),
            // A request, a list, parameters, a public key.
            [SEQUENCE, SEQUENCE | BIT_STRING, ..] | [INTEGER, ..] => Self::Other,
            _ => return None,
        })
    }
}

/// Tells a certificate from a request and a revocation list, which are signed as it is: by what is
/// signed (RFC 5280 section 4.1).
fn is_certificate(element: Element<'_>) -> bool {
    if tags(element) != [SEQUENCE, SEQUENCE, BIT_STRING] {
        return false;
    }
    let signed = element.parts().next();
    // A certificate of version 1 does not write its version.
    matches!(
        &*signed.map(tags).unwrap_or_default(),
        [CONTEXT_0, INTEGER, ..]
            | [
                INTEGER,
                SEQUENCE,
                SEQUENCE,
                SEQUENCE,
                SEQUENCE,
                SEQUENCE,
                ..
            ]
    )
}

/// Returns the tags of what an element consists of, at most [`TAGS_MAX`]; of a damaged one those
/// before the damage.
fn tags(element: Element<'_>) -> Vec<u8> {
    let mut parts = element.parts();
    std::iter::from_fn(|| parts.next())
        .take(TAGS_MAX)
        .map(|part| part.tag)
        .collect()
}

/// Takes the certificates out of a `SignedData` (RFC 5652 section 5.1): in a `ContentInfo` that
/// names it, they are the part tagged 0 behind version, digest algorithms and content. A walk over
/// the tags does: the cms crate for this version of der is not released yet, and reads no BER.
fn in_pkcs7(content_info: Element<'_>) -> Option<Vec<Certificate>> {
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
            // The other choices are attribute certificates, which certify no key.
            let one = certificates.next()?;
            if one.tag == SEQUENCE {
                found.push(Certificate::from_der(one.whole));
            }
        }
        return Some(found);
    }
    Some(Vec::new())
}

const TRUSTED: &str = "TRUSTED CERTIFICATE";
const CERTIFICATE_LABELS: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", TRUSTED];
const PKCS7_LABELS: [&str; 4] = ["PKCS7", "PKCS #7 SIGNED DATA", "CMS", "PKCS12"];
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";
/// The object identifier id-signedData, in DER.
const SIGNED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
/// One more than the numbers of an RSA key.
const TAGS_MAX: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pem::parts;

    fn sequence(parts: &[&[u8]]) -> Vec<u8> {
        let contents = parts.concat();
        let mut whole = vec![0x30, u8::try_from(contents.len()).unwrap()];
        whole.extend(contents);
        whole
    }

    fn contents(label: &str, bytes: &[u8]) -> Contents {
        Contents::of(&Part {
            label: label.into(),
            is_encrypted: false,
            bytes: Some(bytes.to_vec().into()),
        })
    }

    const EMPTY: &[u8] = b"\x30\x00";
    const ZERO: &[u8] = b"\x02\x01\x00";
    const ONE: &[u8] = b"\x02\x01\x01";
    const THREE: &[u8] = b"\x02\x01\x03";
    const OCTETS: &[u8] = b"\x04\x01x";
    const BITS: &[u8] = b"\x03\x02\x00x";

    /// Panics unless each value under its label is what is expected.
    fn check<const COUNT: usize>(rows: [(&str, Vec<u8>, Contents); COUNT]) {
        for (label, bytes, expected) in rows {
            assert_eq!(contents(label, &bytes), expected, "{label} {bytes:02x?}");
        }
    }

    fn certificate(der: &[u8]) -> Contents {
        Contents::Certificates(vec![Certificate::from_der(der.to_vec())])
    }

    #[test]
    fn certificates_are_told_from_all_else_that_is_signed() {
        let time: &[u8] = b"\x17\x00";
        let signed = |signed: &[&[u8]]| sequence(&[&sequence(signed), EMPTY, BITS]);
        let version = b"\xa0\x03\x02\x01\x02";
        let v3 = signed(&[version, ONE, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY]);
        let v1 = signed(&[ONE, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY]);
        let request = signed(&[ZERO, EMPTY, EMPTY, b"\xa0\x00"]);
        let list = signed(&[ONE, EMPTY, EMPTY, time, time]);
        let more = [&v3, EMPTY].concat();
        check([
            ("", v3.clone(), certificate(&v3)),
            ("PRIVATE KEY", v1.clone(), certificate(&v1)),
            ("X", request.clone(), Contents::Other),
            ("CERTIFICATE", request, Contents::Other),
            ("X509 CRL", list, Contents::Other),
            ("X509 CRL", signed(&[EMPTY, EMPTY, time]), Contents::Other),
            ("TRUSTED CERTIFICATE", more.clone(), certificate(&v3)),
            ("CERTIFICATE", more.clone(), certificate(&more)),
            (
                "CERTIFICATE",
                b"\x30\x01".to_vec(),
                certificate(b"\x30\x01"),
            ),
            ("X", b"\x30\x01".to_vec(), Contents::Other),
            ("X", Vec::new(), Contents::Other),
        ]);
    }

    #[test]
    fn private_keys_are_told_by_their_contents() {
        let key = Contents::PrivateKey;
        let curve = b"\x06\x01\x2a";
        check([
            (
                "RSA PRIVATE KEY",
                sequence(&[ZERO, EMPTY, OCTETS]),
                key(KeyForm::Pkcs8),
            ),
            (
                "CERTIFICATE",
                sequence(&[ONE, EMPTY, OCTETS, BITS]),
                key(KeyForm::Pkcs8),
            ),
            (
                "PRIVATE KEY",
                sequence(&[EMPTY, OCTETS]),
                key(KeyForm::Encrypted),
            ),
            ("PRIVATE KEY", sequence(&[ONE, OCTETS]), key(KeyForm::Sec1)),
            (
                "PRIVATE KEY",
                sequence(&[&ZERO.repeat(9)]),
                key(KeyForm::Pkcs1),
            ),
            (
                "PRIVATE KEY",
                sequence(&[&ZERO.repeat(4)]),
                key(KeyForm::Pkcs1),
            ),
            (
                "DSA PRIVATE KEY",
                sequence(&[&ZERO.repeat(6)]),
                key(KeyForm::Dsa),
            ),
            (
                "RSA PRIVATE KEY",
                sequence(&[&ZERO.repeat(6)]),
                key(KeyForm::Pkcs1),
            ),
            (
                "OPENSSH PRIVATE KEY",
                OPENSSH_MAGIC.to_vec(),
                key(KeyForm::OpenSsh),
            ),
            (
                "TSS2 PRIVATE KEY",
                sequence(&[curve, ONE]),
                key(KeyForm::Unknown),
            ),
            ("X", sequence(&[THREE, EMPTY, EMPTY]), Contents::Pkcs12),
            ("DH PARAMETERS", sequence(&[THREE, THREE]), Contents::Other),
            (
                "X9.42 DH PARAMETERS",
                sequence(&[&THREE.repeat(4)]),
                Contents::Other,
            ),
            ("PUBLIC KEY", sequence(&[EMPTY, BITS]), Contents::Other),
            ("RSA PUBLIC KEY", sequence(&[THREE, THREE]), Contents::Other),
            ("EC PARAMETERS", curve.to_vec(), Contents::Curve),
            (
                "EC PARAMETERS",
                sequence(&[ONE, EMPTY, EMPTY, OCTETS, ONE]),
                Contents::Other,
            ),
        ]);
    }

    #[test]
    fn what_is_not_base64_is_damage_where_its_label_matters() {
        for (label, expected) in [
            ("CERTIFICATE", Contents::Damaged),
            ("EC PRIVATE KEY", Contents::Damaged),
            ("PKCS7", Contents::Damaged),
            ("PGP PUBLIC KEY BLOCK", Contents::Other),
        ] {
            let file = format!("-----BEGIN {label}-----\n?\n-----END {label}-----");
            let parts = parts(file.as_bytes()).unwrap();
            assert_eq!(Contents::of(&parts[0]), expected, "{label}");
        }
    }
}
