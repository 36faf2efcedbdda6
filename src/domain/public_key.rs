//! Public keys: how they are encoded, and whether a signature is theirs.

use std::fmt;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use der::asn1::{Any, BitString, ObjectIdentifier, UintRef};
use der::{Decode, Encode, Sequence};
use serde::{Deserialize, Serialize};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::certificate::pem;
use super::{
    Curve, Hash, KeyAlgorithm, KeySpec, Refusal, RsaSize, SignatureAlgorithm, SigningInput,
};

/// A public key with its kind.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    spec: KeySpec,
    #[serde(with = "serde_bytes")]
    bits: Box<[u8]>,
}

impl PublicKey {
    /// Takes a key by the contents of its subjectPublicKey: an `RSAPublicKey` in DER (RFC 8017 appendix
    /// A.1.1), an uncompressed point (SEC 1 section 2.3.3), or the 32 bytes of RFC 8032.
    pub fn new(spec: KeySpec, bits: impl Into<Box<[u8]>>) -> Self {
        Self {
            spec,
            bits: bits.into(),
        }
    }

    /// Makes an RSA key of its modulus and public exponent, big-endian.
    pub fn rsa(spec: KeySpec, modulus: &[u8], public_exponent: &[u8]) -> Option<Self> {
        let key = RsaPublicKey {
            modulus: UintRef::new(modulus).ok()?,
            public_exponent: UintRef::new(public_exponent).ok()?,
        };
        Some(Self::new(spec, key.to_der().ok()?))
    }

    /// Reads a SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7).
    ///
    /// # Errors
    /// A sentence about the key, such as `is an RSA key of 8192 bits; ...`, when it is of a kind that keypaird
    /// does not keep, or damaged.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, Refusal> {
        let damaged = || Refusal::new("is damaged");
        let spki = SubjectPublicKeyInfoOwned::from_der(der).map_err(|_| damaged())?;
        let bits = spki.subject_public_key.as_bytes().ok_or_else(damaged)?;
        let parameters = || spki.algorithm.parameters.as_ref();
        let spec = match spki.algorithm.oid {
            RSA_ENCRYPTION => {
                let key = RsaPublicKey::from_der(bits).map_err(|_| damaged())?;
                let exponent_bits = significant_bits(key.public_exponent.as_bytes());
                if exponent_bits > EXPONENT_BITS_MAX {
                    return Err(Refusal::new(format!(
                        "is an RSA key with a public exponent of {exponent_bits} bits; FIPS 186-5 allows {EXPONENT_BITS_MAX}"
                    )));
                }
                let bits = significant_bits(key.modulus.as_bytes());
                KeyAlgorithm::Rsa.known_spec(bits).ok_or_else(|| {
                    Refusal::new(format!(
                        "is an RSA key of {bits} bits; it must have 2048, 3072 or 4096"
                    ))
                })?
            }
            EC_PUBLIC_KEY => {
                let curve = parameters().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
                let known = [Curve::P256, Curve::P384, Curve::P521];
                known
                    .into_iter()
                    .find(|known| Some(curve_oid(*known)) == curve)
                    .map(KeySpec::Ec)
                    .ok_or_else(|| {
                        Refusal::new("is on another curve than P-256, P-384 and P-521")
                    })?
            }
            ID_ED25519 => KeySpec::Ed25519,
            other => {
                return Err(Refusal::new(format!(
                    "is of another kind ({other}) than RSA, EC and Ed25519"
                )));
            }
        };
        let fits = match spec {
            KeySpec::Rsa(_) => true,
            KeySpec::Ec(curve) => {
                bits.len() == 1 + 2 * curve.field_len() && bits.first() == Some(&UNCOMPRESSED)
            }
            KeySpec::Ed25519 => bits.len() == 32,
        };
        match fits {
            true => Ok(Self::new(spec, bits)),
            false => Err(Refusal::new("is damaged, or not written in full")),
        }
    }

    /// Returns the kind of key.
    pub const fn spec(&self) -> KeySpec {
        self.spec
    }

    /// Returns the contents of the subjectPublicKey.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Returns modulus and public exponent, big-endian without leading zeros; none when this is no RSA key.
    pub fn rsa_numbers(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let KeySpec::Rsa(_) = self.spec else {
            return None;
        };
        let key = RsaPublicKey::from_der(&self.bits).ok()?;
        Some((
            key.modulus.as_bytes().to_vec(),
            key.public_exponent.as_bytes().to_vec(),
        ))
    }

    /// Returns the SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7).
    pub fn spki_der(&self) -> Vec<u8> {
        let (oid, parameters) = match self.spec {
            KeySpec::Rsa(_) => (RSA_ENCRYPTION, Some(Any::null())),
            KeySpec::Ec(curve) => (EC_PUBLIC_KEY, Some(Any::from(curve_oid(curve)))),
            KeySpec::Ed25519 => (ID_ED25519, None),
        };
        // Neither step fails: the lengths are those of keys.
        BitString::from_bytes(&self.bits)
            .and_then(|subject_public_key| {
                SubjectPublicKeyInfoOwned {
                    algorithm: AlgorithmIdentifierOwned { oid, parameters },
                    subject_public_key,
                }
                .to_der()
            })
            .unwrap_or_default()
    }

    /// Returns the SubjectPublicKeyInfo in PEM (RFC 7468 section 13).
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki_der())
    }

    /// Checks a signature. ECDSA signatures are in DER (RFC 3279 section 2.2.3).
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
        signature: &[u8],
    ) -> Result<(), SignatureMismatch> {
        let verification = verification(self.spec, algorithm).ok_or(SignatureMismatch)?;
        let key = UnparsedPublicKey::new(verification, &self.bits);
        let verified = match (input, algorithm.hash()) {
            (SigningInput::Message(message), _) => key.verify(message, signature),
            (SigningInput::Digest(bytes), Some(hash)) => {
                Digest::import_less_safe(bytes, digest_algorithm(hash))
                    .and_then(|digest| key.verify_digest(&digest, signature))
            }
            (SigningInput::Digest(_), None) => return Err(SignatureMismatch),
        };
        verified.map_err(|_| SignatureMismatch)
    }

    /// Checks a signature of an RSA key with SHA-1, by which old certificates are recognised. Nothing else relies on it.
    pub fn verify_sha_1(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let KeySpec::Rsa(_) = self.spec else {
            return None;
        };
        UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, &self.bits)
            .verify(message, signature)
            .ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.spec)
    }
}

/// A signature is not one of the key, or not over the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify with the public key")]
pub struct SignatureMismatch;

/// RFC 8017 appendix A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

const fn curve_oid(curve: Curve) -> ObjectIdentifier {
    match curve {
        Curve::P256 => ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
        Curve::P384 => ObjectIdentifier::new_unwrap("1.3.132.0.34"),
        Curve::P521 => ObjectIdentifier::new_unwrap("1.3.132.0.35"),
    }
}

fn verification(
    spec: KeySpec,
    algorithm: SignatureAlgorithm,
) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (spec, algorithm) {
        (KeySpec::Rsa(RsaSize::Bits1024), _) => match algorithm {
            SignatureAlgorithm::RsaPkcs1(Hash::Sha256) => {
                &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
            }
            SignatureAlgorithm::RsaPkcs1(Hash::Sha512) => {
                &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
            }
            _ => return None,
        },
        (KeySpec::Rsa(_), SignatureAlgorithm::RsaPkcs1(hash)) => match hash {
            Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
        },
        (KeySpec::Rsa(_), SignatureAlgorithm::RsaPss(hash)) => match hash {
            Hash::Sha256 => &RSA_PSS_2048_8192_SHA256,
            Hash::Sha384 => &RSA_PSS_2048_8192_SHA384,
            Hash::Sha512 => &RSA_PSS_2048_8192_SHA512,
        },
        (KeySpec::Ec(curve), SignatureAlgorithm::Ecdsa(hash)) => match (curve, hash) {
            (Curve::P256, Hash::Sha256) => &ECDSA_P256_SHA256_ASN1,
            (Curve::P256, Hash::Sha384) => &ECDSA_P256_SHA384_ASN1,
            (Curve::P256, Hash::Sha512) => &ECDSA_P256_SHA512_ASN1,
            (Curve::P384, Hash::Sha256) => &ECDSA_P384_SHA256_ASN1,
            (Curve::P384, Hash::Sha384) => &ECDSA_P384_SHA384_ASN1,
            (Curve::P384, Hash::Sha512) => &ECDSA_P384_SHA512_ASN1,
            (Curve::P521, Hash::Sha256) => &ECDSA_P521_SHA256_ASN1,
            (Curve::P521, Hash::Sha384) => &ECDSA_P521_SHA384_ASN1,
            (Curve::P521, Hash::Sha512) => &ECDSA_P521_SHA512_ASN1,
        },
        (KeySpec::Ed25519, SignatureAlgorithm::Ed25519) => &ED25519,
        _ => return None,
    })
}

/// Returns what aws-lc calls a hash.
pub(crate) const fn digest_algorithm(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    }
}

/// Returns how many bits a number has, which is written without leading zero bytes.
fn significant_bits(number: &[u8]) -> i32 {
    let leading = number.first().map_or(0, |byte| byte.leading_zeros());
    let bits = u64::try_from(number.len())
        .unwrap_or(u64::MAX)
        .saturating_mul(8);
    i32::try_from(bits.saturating_sub(leading.into())).unwrap_or(i32::MAX)
}

/// FIPS 186-5 appendix A.1.1: a public exponent is less than 2^256.
const EXPONENT_BITS_MAX: i32 = 256;
/// SEC 1 section 2.3.3.
const UNCOMPRESSED: u8 = 4;
/// RFC 3279 section 2.3.1.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 5480 section 2.1.1.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 8410 section 3.
const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::{
        ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    };

    use super::*;

    #[test]
    fn the_subject_public_key_info_is_what_another_encoder_writes() {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let expected: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let ours = PublicKey::new(KeySpec::Ec(Curve::P384), key.public_key().as_ref());
        assert_eq!(ours.spki_der(), expected.as_ref());
        assert_eq!(PublicKey::from_spki_der(expected.as_ref()), Ok(ours));

        let key = Ed25519KeyPair::generate().unwrap();
        let expected: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let ours = PublicKey::new(KeySpec::Ed25519, key.public_key().as_ref());
        assert_eq!(ours.spki_der(), expected.as_ref());
    }

    #[test]
    fn a_signature_over_another_message_or_of_another_scheme_is_refused() {
        let key = Ed25519KeyPair::generate().unwrap();
        let public = PublicKey::new(KeySpec::Ed25519, key.public_key().as_ref());
        let signature = key.sign(b"message");
        let verify = |algorithm, message: &'static [u8]| {
            let message = SigningInput::Message(message.into());
            public.verify(algorithm, &message, signature.as_ref())
        };
        assert_eq!(verify(SignatureAlgorithm::Ed25519, b"message"), Ok(()));
        assert_eq!(
            verify(SignatureAlgorithm::Ed25519, b"other"),
            Err(SignatureMismatch)
        );
        assert_eq!(
            verify(SignatureAlgorithm::Ecdsa(Hash::Sha256), b"message"),
            Err(SignatureMismatch)
        );
    }
}
