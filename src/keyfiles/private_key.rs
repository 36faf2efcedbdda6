//! Private keys in all their encodings, made one.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use der::Decode;
use der::asn1::ObjectIdentifier;
use zeroize::Zeroizing;

use super::KeyFileError;
use super::rsa::from_pkcs1;
use crate::domain::ber::{
    BIT_STRING, CONTEXT_0, Element, Elements, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE,
};
use crate::domain::{Curve, KeySpec, PrivateKey, PublicKey, Refusal};

/// Reads a `PrivateKeyInfo` or `OneAsymmetricKey` (RFC 5958), whatever version it says that it is.
pub(super) fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let info = Info::read(der).ok_or_else(|| KeyFileError::damaged("the private key"))?;
    match info.algorithm {
        RSA_ENCRYPTION | RSASSA_PSS => from_pkcs1(info.private_key),
        EC_PUBLIC_KEY => {
            let curve = info.curve.and_then(curve_of).ok_or_else(other_curve)?;
            let pair = EcdsaKeyPair::from_pkcs8(algorithm_of(curve), der);
            ec(curve, pair.ok()).or_else(|_| from_ec_private_key(curve, info.private_key))
        }
        ID_ED25519 => ed25519(info.private_key, info.public_key),
        other => Err(other_kind(other)),
    }
}

/// What a `OneAsymmetricKey` has in it.
struct Info<'a> {
    algorithm: ObjectIdentifier,
    curve: Option<ObjectIdentifier>,
    private_key: &'a [u8],
    /// The contents of the subjectPublicKey, where it is there.
    public_key: Option<&'a [u8]>,
}

impl<'a> Info<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut elements = Elements::of(der);
        let whole = elements.take(SEQUENCE).filter(|_| elements.is_empty())?;
        let mut parts = whole.parts();
        parts.take(INTEGER)?.number()?;
        let mut algorithm = parts.take(SEQUENCE)?.parts();
        let oid = algorithm.take(OBJECT_IDENTIFIER)?;
        let private_key = parts.take(OCTET_STRING)?.contents;
        let mut public_key = None;
        while !parts.is_empty() {
            let part = parts.next()?;
            public_key = match part.tag {
                0x81 => part.contents.strip_prefix(&[0]),
                // As ring wrote it: a BIT STRING in the tag, rather than in its place.
                CONTEXT_1 => part
                    .parts()
                    .take(BIT_STRING)
                    .and_then(|bits| bits.contents.strip_prefix(&[0])),
                _ => public_key,
            };
        }
        Some(Self {
            algorithm: ObjectIdentifier::from_der(oid.whole).ok()?,
            curve: algorithm
                .next()
                .and_then(|any| ObjectIdentifier::from_der(any.whole).ok()),
            private_key,
            public_key,
        })
    }
}

/// Reads a private key of Ed25519: an OCTET STRING of 32 bytes in another one (RFC 8410 section 7),
/// or only in that, as some programs write it; with its public key behind it, as others do.
fn ed25519(private_key: &[u8], public_key: Option<&[u8]>) -> Result<PrivateKey, KeyFileError> {
    let mut elements = Elements::of(private_key);
    let inner = elements.take(OCTET_STRING).filter(|_| elements.is_empty());
    let bytes = match inner {
        Some(inner) if matches!(inner.contents.len(), 32 | 64) => inner.contents,
        _ => private_key,
    };
    let (seed, behind) = match bytes.len() {
        32 => (bytes, None),
        64 => (&bytes[..32], Some(&bytes[32..])),
        len => {
            return Err(KeyFileError::file(format!(
                "has an Ed25519 key of {len} bytes, and must have one of 32"
            )));
        }
    };
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| not_a_key())?;
    let derived = pair.public_key().as_ref();
    for stated in [behind, public_key].into_iter().flatten() {
        if stated != derived {
            return Err(not_a_key());
        }
    }
    let pkcs8 = pair.to_pkcs8v1().map_err(|_| not_a_key())?;
    let public_key = PublicKey::new(KeySpec::Ed25519, derived);
    Ok(PrivateKey::new(public_key, wiped(pkcs8.as_ref())))
}

/// Reads an `ECPrivateKey` (RFC 5915) that names its curve itself, or stands behind it.
pub(super) fn from_sec1(der: &[u8], before: Option<&[u8]>) -> Result<PrivateKey, KeyFileError> {
    let key = Sec1::read(der).ok_or_else(|| KeyFileError::damaged("the private key (SEC 1)"))?;
    let named = match key.parameters {
        // Explicit parameters are no object identifier.
        Some(parameters) => Some(parameters),
        None => before,
    };
    let named = named.ok_or_else(|| {
        KeyFileError::file(
            "has an EC key that does not name its curve; convert it with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`".to_owned(),
        )
    })?;
    let curve = ObjectIdentifier::from_der(named).ok().and_then(curve_of);
    from_ec_private_key(curve.ok_or_else(other_curve)?, der)
}

/// What an `ECPrivateKey` has in it.
struct Sec1<'a> {
    private_key: &'a [u8],
    parameters: Option<&'a [u8]>,
    public_key: Option<&'a [u8]>,
}

impl<'a> Sec1<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut elements = Elements::of(der);
        let whole = elements.take(SEQUENCE).filter(|_| elements.is_empty())?;
        let mut parts = whole.parts();
        parts.take(INTEGER)?;
        let mut read = Self {
            private_key: parts.take(OCTET_STRING)?.contents,
            parameters: None,
            public_key: None,
        };
        while !parts.is_empty() {
            let part = parts.next()?;
            match part.tag {
                CONTEXT_0 => read.parameters = Some(part.contents),
                CONTEXT_1 => {
                    let bits = part
                        .parts()
                        .take(BIT_STRING)
                        .map(|bits: Element<'_>| bits.contents);
                    read.public_key = bits.and_then(|bits| bits.strip_prefix(&[0]));
                }
                _ => {}
            }
        }
        Some(read)
    }
}

fn from_ec_private_key(curve: Curve, der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let pair = EcdsaKeyPair::from_private_key_der(algorithm_of(curve), der).ok();
    ec(curve, pair.or_else(|| from_number(curve, der)))
}

/// Reads a key by its number alone, which some programs write shorter or longer than a field
/// element, or without anything around it. A public key that is there must belong to it.
fn from_number(curve: Curve, der: &[u8]) -> Option<EcdsaKeyPair> {
    let (number, stated) = match Sec1::read(der) {
        Some(key) => (key.private_key, key.public_key),
        None if der.len() == curve.field_len() => (der, None),
        None => return None,
    };
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    let missing = curve.field_len().checked_sub(number.len())?;
    // ECPrivateKey of version 1, without its optional parts; no length is above 127.
    let len = u8::try_from(curve.field_len()).ok()?;
    let mut whole = Zeroizing::new(Vec::with_capacity(curve.field_len() + 7));
    whole.extend([SEQUENCE, len + 5, INTEGER, 1, 1, OCTET_STRING, len]);
    whole.extend(std::iter::repeat_n(0, missing));
    whole.extend(number);
    let pair = EcdsaKeyPair::from_private_key_der(algorithm_of(curve), &whole).ok()?;
    let point = pair.public_key().as_ref();
    // SEC 1 section 2.3.3: a compressed point has the first coordinate, and whether the other one
    // is odd.
    let (first, last) = (point.get(1..=curve.field_len())?, point.last()?);
    let compressed = [&[2 + last % 2], first].concat();
    let belongs = stated.is_none_or(|stated| stated == point || stated == compressed);
    belongs.then_some(pair)
}

fn ec(curve: Curve, pair: Option<EcdsaKeyPair>) -> Result<PrivateKey, KeyFileError> {
    let pair = pair.ok_or_else(not_a_key)?;
    let public_key = PublicKey::new(KeySpec::Ec(curve), pair.public_key().as_ref());
    let pkcs8 = pair.to_pkcs8v1().map_err(|_| not_a_key())?;
    Ok(PrivateKey::new(public_key, wiped(pkcs8.as_ref())))
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

fn other_kind(oid: ObjectIdentifier) -> KeyFileError {
    let named = OTHER_KINDS.iter().find(|(other, _)| *other == oid);
    let name = named.map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned());
    KeyFileError::file(format!(
        "has a key of another kind ({name}) than RSA, EC and Ed25519"
    ))
}

pub(super) fn not_a_key() -> KeyFileError {
    KeyFileError::Unreadable(
        "fileData",
        Refusal::new("has a private key whose numbers do not belong together"),
    )
}

/// Takes key bytes into a buffer that is wiped. aws-lc-rs wipes its own when they are dropped.
pub(super) fn wiped(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.to_vec())
}

/// The tag 1 of a context, around another element.
const CONTEXT_1: u8 = 0xa1;
/// RFC 3279 section 2.3.1.
pub(super) const RSA_ENCRYPTION: ObjectIdentifier = oid("1.2.840.113549.1.1.1");
/// RFC 4055 section 1.2: an RSA key that is restricted to this scheme.
const RSASSA_PSS: ObjectIdentifier = oid("1.2.840.113549.1.1.10");
/// RFC 5480 section 2.1.1.
const EC_PUBLIC_KEY: ObjectIdentifier = oid("1.2.840.10045.2.1");
/// RFC 8410 section 3.
const ID_ED25519: ObjectIdentifier = oid("1.3.101.112");
/// RFC 5480 section 2.1.1.1.
const SECP256R1: ObjectIdentifier = oid("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = oid("1.3.132.0.34");
const SECP521R1: ObjectIdentifier = oid("1.3.132.0.35");
/// RFC 4055, RFC 3279, RFC 8410, RFC 9881.
const OTHER_KINDS: [(ObjectIdentifier, &str); 8] = [
    (oid("1.2.840.10040.4.1"), "DSA"),
    (oid("1.2.840.113549.1.3.1"), "Diffie-Hellman"),
    (oid("1.3.101.110"), "X25519"),
    (oid("1.3.101.111"), "X448"),
    (oid("1.3.101.113"), "Ed448"),
    (oid("2.16.840.1.101.3.4.3.17"), "ML-DSA-44"),
    (oid("2.16.840.1.101.3.4.3.18"), "ML-DSA-65"),
    (oid("2.16.840.1.101.3.4.3.19"), "ML-DSA-87"),
];

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}
