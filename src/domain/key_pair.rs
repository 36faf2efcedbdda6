//! A key pair as it is kept: what the store holds of it and the views show.

use std::fmt;

use sha2::Digest as _;
use time::OffsetDateTime;

use super::{
    Certificate, Generation, KeyPairId, KeyRef, Labels, ProviderKind, PublicKey,
    SignatureAlgorithm, Validity,
};

/// A key pair with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Its identifier, the same over all rotations.
    pub id: KeyPairId,
    /// Where its private key lives.
    pub provider: ProviderKind,
    /// How the private key came there.
    pub origin: KeyOrigin,
    /// What its makers wrote on it.
    pub labels: Labels,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// How often it was changed since.
    pub revision: u32,
    /// The generation that signs.
    pub current: KeyPairGeneration,
}

impl KeyPair {
    /// Tells whether the key pair is the one that a caller saw: by its etag, which may be empty.
    pub fn is_still(&self, etag: &str) -> bool {
        etag.is_empty() || etag == self.etag()
    }

    /// Returns a text that differs after every change of the key pair, and after it was made anew under
    /// the same id: 16 hexadecimal digits.
    pub fn etag(&self) -> String {
        let mut hash = sha2::Sha256::new();
        hash.update(self.current.key_ref.as_bytes());
        hash.update(self.revision.to_be_bytes());
        let digest = hash.finalize();
        let digits: Vec<_> = digest
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        digits.concat()
    }
}

/// One of the keys that a key pair has over time, with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairGeneration {
    /// Its number.
    pub number: Generation,
    /// What its private key is called in the provider.
    pub key_ref: KeyRef,
    /// Its public key.
    pub public_key: PublicKey,
    /// What the token states of the private key. None for software keys.
    pub token_attributes: Option<TokenAttributes>,
    /// The certificate.
    pub certificate: Certificate,
    /// The certificates from the issuer of the certificate on, each followed by its own issuer's. Empty when
    /// the certificate is self-signed, or comes without them.
    pub chain: Vec<Certificate>,
    /// What the certificate is signed with, as it is shown.
    pub certificate_signature_algorithm: String,
    /// The certificate's serial number, in decimal digits.
    pub serial_number: String,
    /// The certificate's subject, as it is shown.
    pub subject_dn: String,
    /// The certificate's issuer, as it is shown.
    pub issuer_dn: String,
    /// The certificate's subject alternative names, as they are shown.
    pub subject_alternative_names: Vec<String>,
    /// The certificate's validity.
    pub validity: Validity,
}

impl KeyPairGeneration {
    /// Puts a key and its certificate together.
    pub fn new(
        number: Generation,
        key_ref: KeyRef,
        token_attributes: Option<TokenAttributes>,
        issued: IssuedCertificate,
        chain: Vec<Certificate>,
    ) -> Self {
        Self {
            number,
            key_ref,
            public_key: issued.public_key,
            token_attributes,
            certificate: issued.certificate,
            chain,
            certificate_signature_algorithm: issued.signature_algorithm,
            serial_number: issued.serial_number,
            subject_dn: issued.subject_dn,
            issuer_dn: issued.issuer_dn,
            subject_alternative_names: issued.subject_alternative_names,
            validity: issued.validity,
        }
    }

    /// Returns the certificate and those of its issuers in PEM.
    pub fn chain_pem(&self) -> String {
        let mut pem = self.certificate.pem();
        pem.extend(self.chain.iter().map(Certificate::pem));
        pem
    }

    /// Returns the algorithm of signatures for which none is asked: that of the certificate, unless another
    /// kind of key has signed it.
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        let algorithm = self.public_key.spec().algorithm();
        algorithm
            .signing_algorithm(&self.certificate_signature_algorithm)
            .unwrap_or_else(|_| algorithm.default_signature_algorithm())
    }
}

/// A certificate with what stands in it, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: Certificate,
    /// The subject's public key.
    pub public_key: PublicKey,
    /// What it is signed with: the name on the wire, or the dotted identifier of an algorithm without one.
    pub signature_algorithm: String,
    /// Its serial number, in decimal digits.
    pub serial_number: String,
    /// Its subject, the most specific part first.
    pub subject_dn: String,
    /// Its issuer, likewise.
    pub issuer_dn: String,
    /// Its subject alternative names, in their order.
    pub subject_alternative_names: Vec<String>,
    /// Its validity.
    pub validity: Validity,
}

/// How a private key came into its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// Generated there.
    Generated,
    /// Made elsewhere, and brought in.
    Imported,
    /// On the token before keypaird knew of it.
    Linked,
}

impl KeyOrigin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Generated, Self::Imported, Self::Linked];
}

/// What a token states of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are four flags of PKCS#11"
)]
pub struct TokenAttributes {
    /// `CKA_SENSITIVE`.
    pub sensitive: bool,
    /// `CKA_ALWAYS_SENSITIVE`.
    pub always_sensitive: bool,
    /// `CKA_NEVER_EXTRACTABLE`.
    pub never_extractable: bool,
    /// `CKA_LOCAL`: generated on the token.
    pub local: bool,
}

/// A software private key as it is stored: encrypted under the key encryption key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedKey(Box<[u8]>);

impl SealedKey {
    /// Takes an encrypted key.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the encrypted key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedKey(..)")
    }
}
