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
use der::{Decode, Encode};
use serde::{Deserialize, Serialize};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::certificate::pem;
use super::spki::{self, RsaPublicKey};
use super::{
    Curve, Hash, KeySpec, PssParameters, Refusal, RsaSize, SignatureAlgorithm, SigningInput,
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

    /// Reads a SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7). One key has one value, in
    /// whichever form it is written: RSA without the NULL parameter or as an RSASSA-PSS key, EC
    /// with explicit parameters or a short point.
    ///
    /// # Errors
    /// A sentence about the key, such as `is an RSA key of 8192 bits; ...`, when it is of a kind that keypaird
    /// does not keep, or damaged.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, Refusal> {
        spki::read(der)
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

    /// Checks a signature of RSASSA-PSS with a salt of a length, or of any. MGF1 has the hash of
    /// the message.
    pub fn verify_pss(
        &self,
        hash: Hash,
        salt_len: Option<usize>,
        input: &SigningInput,
        signature: &[u8],
    ) -> Result<(), SignatureMismatch> {
        let (modulus, exponent) = self.rsa_numbers().ok_or(SignatureMismatch)?;
        let parameters = PssParameters {
            salt_len,
            ..PssParameters::any_salt(hash.into())
        };
        parameters.verify(&modulus, &exponent, &input.digest(hash), signature)
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

pub(super) const fn curve_oid(curve: Curve) -> ObjectIdentifier {
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

/// RFC 3279 section 2.3.1.
pub(super) const RSA_ENCRYPTION: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 5480 section 2.1.1.
pub(super) const EC_PUBLIC_KEY: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 8410 section 3.
pub(super) const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

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
    fn a_key_has_one_value_in_whichever_form_it_is_written() {
        use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyCompressedBin};
        use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
        let tlv = |tag: u8, parts: &[&[u8]]| {
            let contents = parts.concat();
            let len = u16::try_from(contents.len()).unwrap().to_be_bytes();
            let head = match contents.len() {
                0..0x80 => vec![tag, len[1]],
                0x80..0x100 => vec![tag, 0x81, len[1]],
                _ => vec![tag, 0x82, len[0], len[1]],
            };
            [head, contents].concat()
        };
        let spki = |algorithm: &[&[u8]], bits: &[u8]| {
            tlv(0x30, &[&tlv(0x30, algorithm), &tlv(0x03, &[&[0], bits])])
        };
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let bits = pair.public_key().as_ref();
        let rsa = PublicKey::new(KeySpec::Rsa(RsaSize::Bits2048), bits);
        let rsa_encryption = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
        let rsassa_pss = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
        for form in [
            rsa.spki_der(),
            spki(&[rsa_encryption], bits),
            spki(&[rsassa_pss], bits),
            spki(&[rsassa_pss, b"\x30\x00"], bits),
        ] {
            assert_eq!(PublicKey::from_spki_der(&form).as_ref(), Ok(&rsa));
        }

        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let ec = PublicKey::new(KeySpec::Ec(Curve::P384), pair.public_key().as_ref());
        let short: EcPublicKeyCompressedBin<'_> = pair.public_key().as_be_bytes().unwrap();
        let ec_public_key = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
        let named = b"\x06\x05\x2b\x81\x04\x00\x22";
        let explicit = explicit_p_384(&tlv);
        for (name, parameters, bits) in [
            ("short", &named[..], short.as_ref()),
            ("explicit", &explicit, ec.bits()),
            ("explicit and short", &explicit, short.as_ref()),
        ] {
            let form = spki(&[ec_public_key, parameters], bits);
            assert_eq!(PublicKey::from_spki_der(&form).as_ref(), Ok(&ec), "{name}");
        }
        // Another curve that looks much like it.
        let mut other = explicit.clone();
        *other.last_mut().unwrap() = 2;
        let form = spki(&[ec_public_key, &other], ec.bits());
        assert!(PublicKey::from_spki_der(&form).is_err());
    }

    /// Writes an element of a tag and parts.
    type Tlv = dyn Fn(u8, &[&[u8]]) -> Vec<u8>;

    /// Writes the parameters of P-384 one by one, with the seed (RFC 3279 section 2.3.5, SP
    /// 800-186).
    fn explicit_p_384(tlv: &Tlv) -> Vec<u8> {
        let hex = |digits: &str| -> Vec<u8> {
            let pairs = digits.as_bytes().chunks(2);
            pairs
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        };
        let prime = hex(
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
        );
        let mut a = prime.clone();
        *a.last_mut().unwrap() -= 3;
        let b = hex(
            "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
        );
        let x = hex(
            "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
        );
        let order = hex(
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        );
        let seed = hex("00a335926aa319a27a1d00896a6773a4827acdac73");
        let prime_field = b"\x06\x07\x2a\x86\x48\xce\x3d\x01\x01";
        tlv(
            0x30,
            &[
                b"\x02\x01\x01",
                &tlv(0x30, &[prime_field, &tlv(0x02, &[&[0], &prime])]),
                &tlv(
                    0x30,
                    &[&tlv(0x04, &[&a]), &tlv(0x04, &[&b]), &tlv(0x03, &[&seed])],
                ),
                &tlv(0x04, &[&[3], &x]),
                &tlv(0x02, &[&[0], &order]),
                b"\x02\x01\x01",
            ],
        )
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
