//! A key pair as it is kept: what the store holds of it and the views show.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use time::OffsetDateTime;

use super::{
    Certificate, Generation, KeyPairId, KeyRef, Labels, ProviderKind, PssOnly, PublicKey, Rotation,
    SignatureAlgorithm, Validity,
};

/// A key pair with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Its identifier, the same over all rotations.
    pub id: KeyPairId,
    /// What its makers wrote on it.
    pub labels: Labels,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// How often it was changed since.
    pub revision: u32,
    /// When and into what it is rotated. None when it does not rotate by itself.
    pub rotation: Option<Rotation>,
    /// The generation that signs.
    pub current: KeyPairGeneration,
    /// The one that will sign next. It is published already.
    pub pending: Option<KeyPairGeneration>,
    /// Those that signed before and are still published, the last one first.
    pub previous: Vec<KeyPairGeneration>,
    /// The highest number that a generation of it ever had.
    pub last_number: Generation,
}

impl KeyPair {
    /// Makes a key pair of its first generation.
    pub fn new(
        id: KeyPairId,
        labels: Labels,
        create_time: OffsetDateTime,
        mut current: KeyPairGeneration,
    ) -> Self {
        current.activate_time = Some(create_time);
        Self {
            id,
            labels,
            create_time,
            revision: 0,
            rotation: None,
            last_number: current.number,
            current,
            pending: None,
            previous: Vec::new(),
        }
    }

    /// Returns where the private key lives that signs.
    pub const fn provider(&self) -> ProviderKind {
        self.current.provider
    }

    /// Returns how that private key came there.
    pub const fn origin(&self) -> KeyOrigin {
        self.current.origin
    }

    /// Returns the generations there are, with what each of them is: the current one first, then the pending one,
    /// then the previous ones.
    pub fn generations(&self) -> impl Iterator<Item = (GenerationState, &KeyPairGeneration)> {
        let pending = self.pending.iter();
        let previous = self.previous.iter();
        std::iter::once((GenerationState::Current, &self.current))
            .chain(pending.map(|one| (GenerationState::Pending, one)))
            .chain(previous.map(|one| (GenerationState::Previous, one)))
    }

    /// Returns the generation of a key.
    pub fn generation_of(&self, key_ref: KeyRef) -> Option<&KeyPairGeneration> {
        let mut generations = self.generations().map(|(_, generation)| generation);
        generations.find(|generation| generation.key_ref == key_ref)
    }

    /// Returns about how many bytes an answer has with all of its generations, and rather too many
    /// than too few.
    pub fn size_estimate(&self) -> usize {
        let labels = self.labels.as_map().iter();
        let labels: usize = labels.map(|(key, value)| key.len() + value.len() + 8).sum();
        let generations = self.generations().map(|(_, one)| one.size_estimate());
        labels + generations.sum::<usize>()
    }

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
    /// Where its private key lives.
    pub provider: ProviderKind,
    /// How the private key came there.
    pub origin: KeyOrigin,
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
    /// What it signs with when a request names no algorithm. It never changes, whatever the
    /// certificate says.
    pub signing_algorithm: SignatureAlgorithm,
    /// When it began to sign. None for one that does not yet.
    pub activate_time: Option<OffsetDateTime>,
}

impl KeyPairGeneration {
    /// Tells whether its certificate is to lie on the token. What lies beside a linked key is not ours.
    pub fn has_certificate_on_token(&self) -> bool {
        self.provider == ProviderKind::Hsm && self.origin != KeyOrigin::Linked
    }

    /// Returns about how many bytes an answer has with the generation.
    fn size_estimate(&self) -> usize {
        let chain = self.chain.iter().map(|one| one.der().len() + 64);
        let certificates = self.certificate.der().len() + chain.sum::<usize>();
        let names = self.subject_alternative_names.iter();
        let names: usize = names.map(|name| name.len() + 8).sum();
        // In PEM, three bytes are four characters, and each line has one more.
        certificates * 11 / 8
            + names
            + self.subject_dn.len()
            + self.issuer_dn.len()
            + REST_OF_GENERATION
    }

    /// Puts a key and its certificate together. The key signs with the certificate's algorithm
    /// where it can, and else with the default of its kind.
    pub fn new(key: HeldKey, issued: IssuedCertificate, chain: Vec<Certificate>) -> Self {
        let signing_algorithm = issued.signing_algorithm();
        Self {
            number: key.number,
            provider: key.provider,
            origin: key.origin,
            key_ref: key.key_ref,
            public_key: issued.public_key,
            token_attributes: key.token_attributes,
            certificate: issued.certificate,
            chain,
            certificate_signature_algorithm: issued.signature_algorithm,
            serial_number: issued.serial_number,
            subject_dn: issued.subject_dn,
            issuer_dn: issued.issuer_dn,
            subject_alternative_names: issued.subject_alternative_names,
            validity: issued.validity,
            signing_algorithm,
            activate_time: None,
        }
    }

    /// Chooses what it signs with when a request names no algorithm.
    pub const fn signing_with(mut self, algorithm: SignatureAlgorithm) -> Self {
        self.signing_algorithm = algorithm;
        self
    }

    /// Puts another certificate of the same key in the place of its own. How the key signs stays as
    /// it is.
    pub fn recertified(self, issued: IssuedCertificate, chain: Vec<Certificate>) -> Self {
        let key = HeldKey {
            number: self.number,
            provider: self.provider,
            origin: self.origin,
            key_ref: self.key_ref,
            token_attributes: self.token_attributes,
        };
        Self {
            activate_time: self.activate_time,
            signing_algorithm: self.signing_algorithm,
            ..Self::new(key, issued, chain)
        }
    }

    /// Returns the certificate and those of its issuers in PEM.
    pub fn chain_pem(&self) -> String {
        let mut pem = self.certificate.pem();
        pem.extend(self.chain.iter().map(Certificate::pem));
        pem
    }
}

/// How many bytes the other fields have at most: a public key of RSA-4096 in PEM, numbers, times,
/// fingerprints.
const REST_OF_GENERATION: usize = 1536;

/// A private key in its provider.
#[derive(Clone, Copy, Debug)]
pub struct HeldKey {
    /// Its number within the key pair.
    pub number: Generation,
    /// Where it lives.
    pub provider: ProviderKind,
    /// How it came there.
    pub origin: KeyOrigin,
    /// What it is called there.
    pub key_ref: KeyRef,
    /// What the token states of it. None for software keys.
    pub token_attributes: Option<TokenAttributes>,
}

/// What a generation of a key pair is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationState {
    /// The one that signs.
    Current,
    /// The one that will sign next.
    Pending,
    /// One that signed before, and is still published.
    Previous,
}

impl GenerationState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Current, Self::Pending, Self::Previous];
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
    /// What it restricts the key to, if it does.
    pub pss_only: Option<PssOnly>,
}

impl IssuedCertificate {
    /// Returns the algorithm of the certificate's own signature where the key can sign with it too,
    /// and else the default of the key.
    fn signing_algorithm(&self) -> SignatureAlgorithm {
        let spec = self.public_key.spec();
        let default = self.pss_only.map(PssOnly::default_algorithm);
        spec.signing_algorithm(&self.signature_algorithm)
            .ok()
            .filter(|algorithm| self.pss_only.is_none_or(|only| only.allows(*algorithm)))
            .or(default)
            .unwrap_or_else(|| spec.default_signing_algorithm())
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
