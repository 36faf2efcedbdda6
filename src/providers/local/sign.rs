//! Signs with software keys.

use std::borrow::Cow;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};

use crate::domain::{Curve, Hash, KeySpec, SignatureAlgorithm, SigningInput, digest_algorithm};

/// A software key that is ready to sign. aws-lc wipes it when it is dropped.
#[derive(Debug)]
pub(super) enum SoftwareKey {
    /// An RSA key.
    Rsa(RsaKeyPair),
    /// A key on a NIST curve.
    Ec(Curve, EcdsaKeyPair),
    /// An Ed25519 key.
    Ed25519(Ed25519KeyPair),
}

/// Why a software key did not sign.
#[derive(Debug)]
pub(super) enum Failure {
    /// The algorithm does not go with the key.
    Unsupported,
    /// aws-lc failed.
    Failed,
}

impl SoftwareKey {
    /// Reads a key of a kind from its PKCS#8 form.
    pub(super) fn from_pkcs8(spec: KeySpec, pkcs8: &[u8]) -> Result<Self, KeyRejected> {
        Ok(match spec {
            KeySpec::Rsa(_) => Self::Rsa(RsaKeyPair::from_pkcs8(pkcs8)?),
            KeySpec::Ec(curve) => Self::Ec(
                curve,
                EcdsaKeyPair::from_pkcs8(ecdsa_signing(curve), pkcs8)?,
            ),
            KeySpec::Ed25519 => Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8)?),
        })
    }

    /// Signs. ECDSA signatures are in DER.
    pub(super) fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, Failure> {
        match (self, algorithm) {
            (Self::Rsa(pair), SignatureAlgorithm::RsaPkcs1(hash)) => {
                sign_rsa(pair, rsa_pkcs1(hash), hash, input)
            }
            (Self::Rsa(pair), SignatureAlgorithm::RsaPss(hash)) => {
                sign_rsa(pair, rsa_pss(hash), hash, input)
            }
            (Self::Ec(curve, pair), SignatureAlgorithm::Ecdsa(hash)) => {
                let digest = digest_for(*curve, &input.digest(hash)).ok_or(Failure::Failed)?;
                let signature = pair.sign_digest(&digest).map_err(|_| Failure::Failed)?;
                Ok(signature.as_ref().to_vec())
            }
            (Self::Ed25519(pair), SignatureAlgorithm::Ed25519) => {
                let message = input.message().ok_or(Failure::Unsupported)?;
                Ok(pair.sign(message).as_ref().to_vec())
            }
            _ => Err(Failure::Unsupported),
        }
    }
}

fn sign_rsa(
    pair: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    hash: Hash,
    input: &SigningInput,
) -> Result<Vec<u8>, Failure> {
    let digest = Digest::import_less_safe(&input.digest(hash), digest_algorithm(hash));
    let mut signature = vec![0; pair.public_modulus_len()];
    digest
        .and_then(|digest| pair.sign_digest(encoding, &digest, &mut signature))
        .map_err(|_| Failure::Failed)?;
    Ok(signature)
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

fn rsa_pkcs1(hash: Hash) -> &'static dyn RsaEncoding {
    match hash {
        Hash::Sha256 => &RSA_PKCS1_SHA256,
        Hash::Sha384 => &RSA_PKCS1_SHA384,
        Hash::Sha512 => &RSA_PKCS1_SHA512,
    }
}

/// The salt is as long as the hash.
fn rsa_pss(hash: Hash) -> &'static dyn RsaEncoding {
    match hash {
        Hash::Sha256 => &RSA_PSS_SHA256,
        Hash::Sha384 => &RSA_PSS_SHA384,
        Hash::Sha512 => &RSA_PSS_SHA512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::KeyAlgorithm;
    use crate::providers::local::generate::generate;

    #[test]
    fn every_kind_of_key_signs_with_every_algorithm_what_its_public_key_verifies() {
        for algorithm in KeyAlgorithm::ALL {
            for spec in algorithm.specs() {
                let (public_key, pkcs8) = generate(*spec).unwrap();
                let key = SoftwareKey::from_pkcs8(*spec, &pkcs8).unwrap();
                for signature in algorithm.signing_algorithms() {
                    let message = SigningInput::Message(b"message"[..].into());
                    let mut inputs = vec![message.clone()];
                    if let Some(hash) = signature.hash() {
                        inputs.push(SigningInput::Digest(
                            message.digest(hash).into_owned().into(),
                        ));
                    }
                    for input in &inputs {
                        let signed = key.sign(*signature, input).unwrap();
                        for same in &inputs {
                            assert_eq!(
                                public_key.verify(*signature, same, &signed),
                                Ok(()),
                                "{spec} {signature} {input:?} {same:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_of_another_kind_is_not_taken() {
        let (_, pkcs8) = generate(KeySpec::Ec(Curve::P256)).unwrap();
        for other in [KeySpec::Ec(Curve::P384), KeySpec::Ed25519] {
            assert!(SoftwareKey::from_pkcs8(other, &pkcs8).is_err());
        }
    }
}
