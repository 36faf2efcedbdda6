//! Which mechanisms stand for our algorithms.
//!
//! Messages are hashed on our side and the token signs digests: these mechanisms are there on every token,
//! and large messages need not go through it. Ed25519 alone takes the message.

use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};

use crate::domain::{Curve, Hash, KeyAlgorithm, SignatureAlgorithm};

/// Returns the mechanism that generates key pairs, by name.
pub(super) const fn key_pair_generation(algorithm: KeyAlgorithm) -> MechanismType {
    match algorithm {
        KeyAlgorithm::Rsa => MechanismType::RSA_PKCS_KEY_PAIR_GEN,
        KeyAlgorithm::Ec => MechanismType::ECC_KEY_PAIR_GEN,
        KeyAlgorithm::Ed25519 => MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
    }
}

/// Returns the mechanism that generates key pairs.
pub(super) const fn generate(algorithm: KeyAlgorithm) -> Mechanism<'static> {
    match algorithm {
        KeyAlgorithm::Rsa => Mechanism::RsaPkcsKeyPairGen,
        KeyAlgorithm::Ec => Mechanism::EccKeyPairGen,
        KeyAlgorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
    }
}

/// Returns the mechanism that signs, by name.
pub(super) const fn signature(algorithm: KeyAlgorithm) -> MechanismType {
    match algorithm {
        KeyAlgorithm::Rsa => MechanismType::RSA_PKCS,
        KeyAlgorithm::Ec => MechanismType::ECDSA,
        KeyAlgorithm::Ed25519 => MechanismType::EDDSA,
    }
}

/// Returns the mechanism that makes signatures of an algorithm.
pub(super) fn sign(algorithm: SignatureAlgorithm) -> Mechanism<'static> {
    match algorithm {
        SignatureAlgorithm::RsaPkcs1(_) => Mechanism::RsaPkcs,
        SignatureAlgorithm::RsaPss(hash) => {
            let (hash_alg, mgf, salt_len) = match hash {
                Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
                Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
                Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
            };
            Mechanism::RsaPkcsPss(PkcsPssParams {
                hash_alg,
                mgf,
                s_len: salt_len.into(),
            })
        }
        SignatureAlgorithm::Ecdsa(_) => Mechanism::Ecdsa,
        SignatureAlgorithm::Ed25519 => {
            Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure))
        }
    }
}

/// Returns `CKA_EC_PARAMS` of a curve: its object identifier in DER (RFC 5480 section 2.1.1).
pub(super) const fn ec_params(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        Curve::P521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
    }
}

/// `CKA_EC_PARAMS` of Ed25519: the curve's name as a PrintableString (PKCS#11 v3.0 section 2.3.10).
pub(super) const ED25519_PARAMS: &[u8] = b"\x13\x0cedwards25519";

/// Returns the `DigestInfo` that stands before a digest in RSASSA-PKCS1-v1_5 (RFC 8017 section 9.2).
pub(super) const fn digest_info(hash: Hash) -> &'static [u8; 19] {
    match hash {
        Hash::Sha256 => &[
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x01, 0x05, 0x00, 0x04, 0x20,
        ],
        Hash::Sha384 => &[
            0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x02, 0x05, 0x00, 0x04, 0x30,
        ],
        Hash::Sha512 => &[
            0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x03, 0x05, 0x00, 0x04, 0x40,
        ],
    }
}
