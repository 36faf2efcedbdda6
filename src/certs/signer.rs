//! Keys as rcgen wants them, where the private ones are elsewhere.

use std::cell::Cell;

use bytes::Bytes;
use rcgen::{PublicKeyData, SigningKey};

use crate::domain::{Curve, Hash, KeySpec, PublicKey, SignatureAlgorithm};

/// The subject's public key.
pub(super) struct SubjectKey<'a>(pub(super) &'a PublicKey);

impl PublicKeyData for SubjectKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.bits()
    }

    /// Only the key type and curve are taken from this.
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        of_key(self.0.spec())
    }
}

/// Stands where rcgen expects a private key: takes what is to be signed, and gives a signature made
/// elsewhere.
pub(super) struct Signer {
    public_key: PublicKey,
    algorithm: &'static rcgen::SignatureAlgorithm,
    signature: Vec<u8>,
    /// What the signature is over; none when it stands for one to come.
    signed: Option<Bytes>,
    seen: Cell<Vec<u8>>,
}

impl Signer {
    /// Makes one that remembers what it is to sign.
    pub(super) fn capturing(
        public_key: &PublicKey,
        algorithm: &'static rcgen::SignatureAlgorithm,
    ) -> Self {
        Self {
            public_key: public_key.clone(),
            algorithm,
            signature: vec![0; 64],
            signed: None,
            seen: Cell::default(),
        }
    }

    /// Makes one that has signed.
    pub(super) fn with_signature(
        public_key: &PublicKey,
        algorithm: &'static rcgen::SignatureAlgorithm,
        signed: Bytes,
        signature: Vec<u8>,
    ) -> Self {
        Self {
            signature,
            signed: Some(signed),
            ..Self::capturing(public_key, algorithm)
        }
    }

    /// Returns what it was to sign.
    pub(super) fn captured(self) -> Bytes {
        self.seen.into_inner().into()
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.bits()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Signer {
    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.signed {
            None => self.seen.set(to_be_signed.to_vec()),
            // What was linted and signed is what stands in the document, to the byte.
            Some(signed) if signed != to_be_signed => return Err(rcgen::Error::RemoteKeyError),
            Some(_) => {}
        }
        Ok(self.signature.clone())
    }
}

/// Returns what rcgen calls a kind of key, with the hash that it ties to it.
pub(super) fn of_key(spec: KeySpec) -> &'static rcgen::SignatureAlgorithm {
    match spec {
        KeySpec::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
        KeySpec::Ec(Curve::P256) => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeySpec::Ec(Curve::P384) => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeySpec::Ec(Curve::P521) => &rcgen::PKCS_ECDSA_P521_SHA512,
        KeySpec::Ed25519 => &rcgen::PKCS_ED25519,
    }
}

/// Returns what rcgen calls a signature algorithm: for ECDSA, the hash counts whatever the curve.
pub(super) fn signature(algorithm: SignatureAlgorithm) -> &'static rcgen::SignatureAlgorithm {
    match algorithm {
        // RSASSA-PSS is not offered for certificates: the linter would refuse what comes of it.
        SignatureAlgorithm::RsaPkcs1(Hash::Sha256) | SignatureAlgorithm::RsaPss(_) => {
            &rcgen::PKCS_RSA_SHA256
        }
        SignatureAlgorithm::RsaPkcs1(Hash::Sha384) => &rcgen::PKCS_RSA_SHA384,
        SignatureAlgorithm::RsaPkcs1(Hash::Sha512) => &rcgen::PKCS_RSA_SHA512,
        SignatureAlgorithm::Ecdsa(Hash::Sha256) => &rcgen::PKCS_ECDSA_P256_SHA256,
        SignatureAlgorithm::Ecdsa(Hash::Sha384) => &rcgen::PKCS_ECDSA_P384_SHA384,
        SignatureAlgorithm::Ecdsa(Hash::Sha512) => &rcgen::PKCS_ECDSA_P521_SHA512,
        SignatureAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
    }
}
