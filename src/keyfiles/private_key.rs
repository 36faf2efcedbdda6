//! Private keys in all their encodings, made one.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use der::asn1::{ObjectIdentifier, UintRef};
use der::{AnyRef, Decode, Encode, Reader, SliceReader};
use pkcs8::PrivateKeyInfoRef;
use zeroize::Zeroizing;

use super::KeyFileError;
use crate::domain::{Curve, KeyAlgorithm, KeySpec, PrivateKey, PublicKey, Refusal};

/// Reads a `PrivateKeyInfo` or `OneAsymmetricKey` (RFC 5958).
pub(super) fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let info =
        PrivateKeyInfoRef::from_der(der).map_err(|_| KeyFileError::damaged("the private key"))?;
    match info.algorithm.oid {
        RSA_ENCRYPTION | RSASSA_PSS => from_pkcs1(info.private_key.as_bytes()),
        EC_PUBLIC_KEY => {
            let parameters = info.algorithm.parameters;
            let curve = parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
            let curve = curve.and_then(curve_of).ok_or_else(other_curve)?;
            ec(
                curve,
                EcdsaKeyPair::from_pkcs8(algorithm_of(curve), der).ok(),
            )
            .or_else(|_| from_ec_private_key(curve, info.private_key.as_bytes()))
        }
        ID_ED25519 => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| not_a_key())?;
            let public_key = PublicKey::new(KeySpec::Ed25519, pair.public_key().as_ref());
            let pkcs8 = pair.to_pkcs8v1().map_err(|_| not_a_key())?;
            Ok(PrivateKey::new(public_key, wiped(pkcs8.as_ref())))
        }
        other => Err(KeyFileError::file(format!(
            "has a key of another kind ({other}) than RSA, EC and Ed25519"
        ))),
    }
}

/// Reads an `RSAPrivateKey` (RFC 8017 appendix A.1.2). aws-lc checks that its numbers belong together.
pub(super) fn from_pkcs1(der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    if let Some(bits) = rsa_bits(der) {
        let spec = KeyAlgorithm::Rsa.known_spec(bits).ok_or_else(|| {
            KeyFileError::file(format!(
                "has an RSA key of {bits} bits, and must have one of 2048, 3072 or 4096"
            ))
        })?;
        if spec.is_weak() {
            return weak(spec, der).ok_or_else(not_a_key);
        }
    }
    let pair = RsaKeyPair::from_der(der).map_err(|_| not_a_key())?;
    let bits = i32::try_from(pair.public_modulus_len() * 8).unwrap_or(i32::MAX);
    let spec = KeyAlgorithm::Rsa.spec(bits).map_err(|_| not_a_key())?;
    let public_key = PublicKey::new(spec, pair.public_key().as_ref());
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| not_a_key())?;
    Ok(PrivateKey::new(public_key, wiped(pkcs8.as_ref())))
}

/// Reads an RSA key that aws-lc does not take. Whether its numbers belong together is seen when it signs.
fn weak(spec: KeySpec, der: &[u8]) -> Option<PrivateKey> {
    let mut numbers = SliceReader::new(AnyRef::from_der(der).ok()?.value()).ok()?;
    let _version = numbers.tlv_bytes().ok()?;
    let mut next = || UintRef::from_der(numbers.tlv_bytes().ok()?).ok();
    let (modulus, exponent) = (next()?, next()?);
    let public_key = PublicKey::rsa(spec, modulus.as_bytes(), exponent.as_bytes())?;
    let info = PrivateKeyInfoRef::new(
        pkcs8::AlgorithmIdentifierRef {
            oid: RSA_ENCRYPTION,
            parameters: Some(AnyRef::NULL),
        },
        der::asn1::OctetStringRef::new(der).ok()?,
    );
    let pkcs8 = Zeroizing::new(info.to_der().ok()?);
    Some(PrivateKey::new(public_key, pkcs8))
}

/// Reads an `ECPrivateKey` that names its curve itself (RFC 5915).
pub(super) fn from_sec1(der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let curve = curve_in(der).map_err(|_| KeyFileError::damaged("the private key (SEC 1)"))?;
    let curve = curve.and_then(curve_of).ok_or_else(other_curve)?;
    from_ec_private_key(curve, der)
}

fn from_ec_private_key(curve: Curve, der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let pair = EcdsaKeyPair::from_private_key_der(algorithm_of(curve), der);
    ec(curve, pair.ok())
}

fn ec(curve: Curve, pair: Option<EcdsaKeyPair>) -> Result<PrivateKey, KeyFileError> {
    let pair = pair.ok_or_else(not_a_key)?;
    let public_key = PublicKey::new(KeySpec::Ec(curve), pair.public_key().as_ref());
    let pkcs8 = pair.to_pkcs8v1().map_err(|_| not_a_key())?;
    Ok(PrivateKey::new(public_key, wiped(pkcs8.as_ref())))
}

/// Returns the size of the modulus, to be named in a refusal.
fn rsa_bits(der: &[u8]) -> Option<i32> {
    let mut numbers = SliceReader::new(AnyRef::from_der(der).ok()?.value()).ok()?;
    numbers.tlv_bytes().ok()?;
    let modulus = UintRef::from_der(numbers.tlv_bytes().ok()?).ok()?;
    let leading = modulus.as_bytes().first()?.leading_zeros();
    let bits = modulus.as_bytes().len() * 8 - usize::try_from(leading).ok()?;
    i32::try_from(bits).ok()
}

/// Returns the curve that an `ECPrivateKey` names (RFC 5915 section 3): the part tagged 0 behind version and
/// private key.
fn curve_in(der: &[u8]) -> der::Result<Option<ObjectIdentifier>> {
    let mut parts = SliceReader::new(AnyRef::from_der(der)?.value())?;
    parts.tlv_bytes()?;
    parts.tlv_bytes()?;
    let parameters = AnyRef::from_der(parts.tlv_bytes()?)?;
    // Explicit parameters are no object identifier.
    Ok(ObjectIdentifier::from_der(parameters.value()).ok())
}

fn curve_of(oid: ObjectIdentifier) -> Option<Curve> {
    match oid {
        SECP256R1 => Some(Curve::P256),
        SECP384R1 => Some(Curve::P384),
        SECP521R1 => Some(Curve::P521),
        _ => None,
    }
}

const fn algorithm_of(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
    }
}

fn other_curve() -> KeyFileError {
    let sentence =
        "has a key on another curve than P-256, P-384 and P-521, or with explicit parameters";
    KeyFileError::file(sentence.to_owned())
}

fn not_a_key() -> KeyFileError {
    KeyFileError::Unreadable(
        "fileData",
        Refusal::new("has a private key whose numbers do not belong together"),
    )
}

/// Takes key bytes into a buffer that is wiped. aws-lc-rs wipes its own when they are dropped.
fn wiped(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.to_vec())
}

/// RFC 3279 section 2.3.1.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 4055 section 1.2: an RSA key that is restricted to this scheme.
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// RFC 5480 section 2.1.1.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 8410 section 3.
const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// RFC 5480 section 2.1.1.1.
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const SECP521R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
