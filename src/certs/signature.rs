//! Whether a certificate was signed by a key.

use der::asn1::ObjectIdentifier;
use der::{AnyRef, Decode, Encode, Reader, Sequence, SliceReader};
use rustls_pki_types::alg_id;
use x509_cert::spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

use super::read::{self, Parsed};
use crate::domain::{
    Certificate, PssHash, PssOnly, PssParameters, PublicKey, Refusal, SigningInput, rsa_numbers_of,
};

/// What is found out about the signature of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureCheck {
    /// The key made it.
    Good,
    /// The key did not make it.
    Wrong,
    /// keypaird does not verify signatures of this algorithm, or with such a key.
    Unknown,
}

/// Verifies the signature of a certificate once, with the key of another.
///
/// Our own code does so for the kinds of keys that we keep and for RSASSA-PSS, and webpki for all
/// others. webpki takes RSA keys of up to 8,192 bits with public exponents of up to 33.
pub(super) fn check(certificate: &Certificate, parsed: &Parsed, by: &Parsed) -> SignatureCheck {
    let algorithm = parsed.signature_algorithm();
    // RFC 5280 section 4.1.1.2.
    if algorithm != parsed.tbs_certificate().signature() {
        return SignatureCheck::Wrong;
    }
    let verified = match algorithm.oid {
        RSASSA_PSS => is_signed_by_pss(certificate, parsed, by, false),
        _ => is_signed_by(certificate, parsed, by),
    };
    match verified {
        Some(true) => SignatureCheck::Good,
        None if fits(algorithm.oid, by) => SignatureCheck::Unknown,
        Some(false) | None => SignatureCheck::Wrong,
    }
}

/// Tells whether an RSA key has certified itself with SHA-1, as old systems did. A link of a chain
/// is nothing like that.
pub(super) fn is_own_with_sha_1(certificate: &Certificate, parsed: &Parsed) -> bool {
    let check = || {
        let algorithm = parsed.signature_algorithm();
        if algorithm.oid == RSASSA_PSS {
            return is_signed_by_pss(certificate, parsed, parsed, true);
        }
        if read::signature_name(algorithm) != "SHA1withRSA" {
            return None;
        }
        let key = parsed.tbs_certificate().subject_public_key_info();
        let key = PublicKey::from_spki_der(&key.to_der().ok()?).ok()?;
        let signature = parsed.signature().as_bytes()?;
        let verified = key.verify_sha_1(&to_be_signed(certificate)?, signature);
        Some(verified.is_some())
    };
    check() == Some(true)
}

/// Returns the part of a certificate that is signed, as it was signed: an encoder of ours might
/// write it otherwise.
pub(super) fn to_be_signed(certificate: &Certificate) -> Option<Vec<u8>> {
    let sequence = AnyRef::from_der(certificate.der()).ok()?;
    let mut parts = SliceReader::new(sequence.value()).ok()?;
    Some(parts.tlv_bytes().ok()?.to_vec())
}

/// Tells whether a key may have made signatures of an algorithm, as far as their families are
/// known.
fn fits(algorithm: ObjectIdentifier, by: &Parsed) -> bool {
    let family = |oid: ObjectIdentifier| {
        let oid = oid.to_string();
        let mut families = FAMILIES.iter();
        families.position(|(start, key)| oid.starts_with(start) || oid == *key)
    };
    let key = by.tbs_certificate().subject_public_key_info();
    match (family(algorithm), family(key.algorithm.oid)) {
        (Some(signature), Some(key)) => signature == key,
        _ => true,
    }
}

fn is_signed_by(certificate: &Certificate, parsed: &Parsed, by: &Parsed) -> Option<bool> {
    let to_be_signed = to_be_signed(certificate)?;
    let signature = parsed.signature().as_bytes()?;
    let spki = by.tbs_certificate().subject_public_key_info();
    if spki.algorithm.oid == RSASSA_PSS {
        // Such a key makes no other signatures (RFC 4055 section 1.2).
        return Some(false);
    }
    let name = read::signature_name(parsed.signature_algorithm());
    if let Ok(key) = PublicKey::from_spki_der(&spki.to_der().ok()?) {
        let algorithm = key.spec().signing_algorithm(&name).ok()?;
        let message = SigningInput::Message(to_be_signed.into());
        return Some(key.verify(algorithm, &message, signature).is_ok());
    }
    let key_algorithm = contents(&spki.algorithm.to_der().ok()?)?;
    let key = spki.subject_public_key.as_bytes()?;
    let algorithm = contents(&parsed.signature_algorithm().to_der().ok()?)?;
    let fitting = webpki::ALL_VERIFICATION_ALGS.iter().find(|known| {
        known.signature_alg_id().as_ref() == algorithm
            && (known.public_key_alg_id().as_ref() == key_algorithm
                || is_rsa(known.public_key_alg_id().as_ref(), &key_algorithm))
    })?;
    let verified = fitting.verify_signature(key, &to_be_signed, signature);
    Some(verified.is_ok())
}

fn is_signed_by_pss(
    certificate: &Certificate,
    parsed: &Parsed,
    by: &Parsed,
    sha_1: bool,
) -> Option<bool> {
    let parameters = pss_parameters(parsed.signature_algorithm())?;
    if (parameters.hash == PssHash::Sha1) != sha_1 {
        return None;
    }
    let spki = by.tbs_certificate().subject_public_key_info();
    let (modulus, exponent) = rsa_numbers_of(&spki.to_der().ok()?)?;
    let digest = parameters.hash.digest(&to_be_signed(certificate)?);
    let signature = parsed.signature().as_bytes()?;
    let verified = parameters.verify(&modulus, &exponent, &digest, signature);
    Some(verified.is_ok())
}

/// Reads what a certificate restricts its key to.
///
/// # Errors
/// A sentence about the key, when keypaird makes no such signatures.
pub(super) fn pss_only(parsed: &Parsed) -> Result<Option<PssOnly>, Refusal> {
    let algorithm = &parsed.tbs_certificate().subject_public_key_info().algorithm;
    if algorithm.oid != RSASSA_PSS {
        return Ok(None);
    }
    if algorithm.parameters.is_none() {
        return Ok(Some(PssOnly { hash: None }));
    }
    let parameters = pss_parameters(algorithm)
        .ok_or_else(|| Refusal::new("is restricted to an unknown form of RSASSA-PSS"))?;
    PssOnly::with_parameters(parameters).map(Some)
}

/// Reads the parameters of RSASSA-PSS. None when they are damaged, or name a function that is not
/// known.
///
/// # Source
/// RFC 4055 section 3.1, with the defaults of what is left out.
pub(super) fn pss_parameters(algorithm: &AlgorithmIdentifierOwned) -> Option<PssParameters> {
    let Some(parameters) = &algorithm.parameters else {
        return None;
    };
    let der = parameters.to_der().ok()?;
    let found = Parameters::from_der(&der).ok()?;
    let hash = match &found.hash {
        None => PssHash::Sha1,
        Some(algorithm) => hash_of(algorithm.oid)?,
    };
    let mask_hash = match &found.mask {
        None => PssHash::Sha1,
        Some(mask) if mask.oid == MGF1 => {
            let hash = mask.parameters?.decode_as::<AlgorithmIdentifierRef<'_>>();
            hash_of(hash.ok()?.oid)?
        }
        Some(_) => return None,
    };
    if found.trailer.is_some_and(|trailer| trailer != 1) {
        return None;
    }
    Some(PssParameters {
        hash,
        mask_hash,
        salt_len: Some(found.salt_len.unwrap_or(20).into()),
    })
}

#[derive(Sequence)]
struct Parameters<'a> {
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", optional = "true", tag_mode = "EXPLICIT")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", optional = "true", tag_mode = "EXPLICIT")]
    salt_len: Option<u16>,
    #[asn1(context_specific = "3", optional = "true", tag_mode = "EXPLICIT")]
    trailer: Option<u8>,
}

fn hash_of(oid: ObjectIdentifier) -> Option<PssHash> {
    let found = HASHES.iter().find(|(known, _)| *known == oid);
    found.map(|(_, hash)| *hash)
}

/// webpki's RSA algorithms name the key with its NULL parameter, which some leave out.
fn is_rsa(known: &[u8], key: &[u8]) -> bool {
    let rsa = alg_id::RSA_ENCRYPTION;
    known == rsa.as_ref() && rsa.as_ref().starts_with(key)
}

/// Returns what is in a SEQUENCE.
fn contents(der: &[u8]) -> Option<Vec<u8>> {
    Some(AnyRef::from_der(der).ok()?.value().to_vec())
}

/// RFC 4055 section 3.1.
pub(super) const RSASSA_PSS: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// RFC 4055 section 2.2.
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
/// RFC 4055 section 2.1.
const HASHES: [(ObjectIdentifier, PssHash); 5] = [
    (ObjectIdentifier::new_unwrap("1.3.14.3.2.26"), PssHash::Sha1),
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.4"),
        PssHash::Sha224,
    ),
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"),
        PssHash::Sha256,
    ),
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
        PssHash::Sha384,
    ),
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
        PssHash::Sha512,
    ),
];
/// How the identifiers of signatures begin, and those of the keys that make them: RSA, ECDSA,
/// Ed25519, Ed448.
const FAMILIES: [(&str, &str); 4] = [
    ("1.2.840.113549.1.1.", "1.2.840.113549.1.1.1"),
    ("1.2.840.10045.4.", "1.2.840.10045.2.1"),
    ("1.3.101.112", "1.3.101.112"),
    ("1.3.101.113", "1.3.101.113"),
];
