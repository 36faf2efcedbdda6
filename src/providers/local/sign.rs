//! Signs with software keys.

use std::borrow::Cow;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RsaKeyPair, RsaSignatureEncoding,
};

use crate::domain::{Curve, Hash, KeySpec, SignatureAlgorithm};

/// Why a software key did not sign.
#[derive(Debug)]
pub(super) enum Failure {
    /// The bytes are not a key of the kind.
    NotAKey,
    /// The algorithm does not go with the key.
    Unsupported,
    /// aws-lc failed.
    Failed,
}

/// Signs a message. ECDSA signatures are in DER.
pub(super) fn sign(
    spec: KeySpec,
    pkcs8: &[u8],
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    match (spec, algorithm) {
        (KeySpec::Rsa(_), SignatureAlgorithm::RsaPkcs1(hash)) => {
            let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| Failure::NotAKey)?;
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(
                rsa_encoding(hash),
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .map_err(|_| Failure::Failed)?;
            Ok(signature)
        }
        (KeySpec::Ec(curve), SignatureAlgorithm::Ecdsa(hash)) => {
            let pair = EcdsaKeyPair::from_pkcs8(ecdsa_signing(curve), pkcs8)
                .map_err(|_| Failure::NotAKey)?;
            let digest = digest_for(curve, &hash.digest(message)).ok_or(Failure::Failed)?;
            let signature = pair.sign_digest(&digest).map_err(|_| Failure::Failed)?;
            Ok(signature.as_ref().to_vec())
        }
        (KeySpec::Ed25519, SignatureAlgorithm::Ed25519) => {
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| Failure::NotAKey)?;
            Ok(pair.sign(message).as_ref().to_vec())
        }
        _ => Err(Failure::Unsupported),
    }
}

/// The one signing algorithm of aws-lc-rs that is used for a curve, whatever the hash.
pub(super) const fn ecdsa_signing(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
    }
}

/// Makes a digest of any hash acceptable to the signing algorithm of a curve, which expects its own.
///
/// ECDSA signs the leftmost bits of the digest, as many as the curve's order has, read as a number (FIPS
/// 186-5 section 6.4.1). So a longer digest may be cut to the length expected, which is no less than that,
/// and a shorter one filled up with zeros on the left, which leaves the number as it is.
fn digest_for(curve: Curve, digest: &[u8]) -> Option<Digest> {
    let algorithm = match curve {
        Curve::P256 => &digest::SHA256,
        Curve::P384 => &digest::SHA384,
        Curve::P521 => &digest::SHA512,
    };
    let len = algorithm.output_len();
    let fitting: Cow<'_, [u8]> = match digest.get(..len) {
        Some(leftmost) => leftmost.into(),
        None => {
            let mut filled = vec![0; len - digest.len()];
            filled.extend_from_slice(digest);
            filled.into()
        }
    };
    Digest::import_less_safe(&fitting, algorithm).ok()
}

const fn rsa_encoding(hash: Hash) -> &'static RsaSignatureEncoding {
    match hash {
        Hash::Sha256 => &RSA_PKCS1_SHA256,
        Hash::Sha384 => &RSA_PKCS1_SHA384,
        Hash::Sha512 => &RSA_PKCS1_SHA512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::KeyAlgorithm;
    use crate::providers::local::generate::generate;

    #[test]
    fn every_kind_of_key_signs_with_every_hash_what_its_public_key_verifies() {
        for algorithm in KeyAlgorithm::ALL {
            for spec in algorithm.specs() {
                let (public_key, pkcs8) = generate(*spec).unwrap();
                for signature in algorithm.signature_algorithms() {
                    let signed = sign(*spec, &pkcs8, *signature, b"message").unwrap();
                    assert_eq!(
                        public_key.verify(*signature, b"message", &signed),
                        Ok(()),
                        "{spec} {signature}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_algorithm_of_another_kind_of_key_is_unsupported() {
        let (_, pkcs8) = generate(KeySpec::Ed25519).unwrap();
        let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256);
        assert!(matches!(
            sign(KeySpec::Ed25519, &pkcs8, ecdsa, b"message"),
            Err(Failure::Unsupported)
        ));
        assert!(matches!(
            sign(KeySpec::Ec(Curve::P256), &pkcs8, ecdsa, b"message"),
            Err(Failure::NotAKey)
        ));
    }
}
