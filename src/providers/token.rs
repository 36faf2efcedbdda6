//! What only a token can do: hold certificates beside its keys, and tell what it holds.

use serde::{Deserialize, Serialize};

use super::{KeyName, ProviderError};
use crate::domain::{Certificate, KeyRef, PublicKey, TokenAttributes};

/// What a token can do beside using keys.
pub trait TokenObjects {
    /// Puts a certificate beside its key, with the same `CKA_ID` and label. There must be none yet.
    fn publish_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError>;

    /// Puts a certificate in the place of those that its key has. When it is there already, and alone, nothing
    /// is done.
    fn replace_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError>;

    /// Finds private keys, whoever has made them.
    fn find_keys(&self, search: &KeySearch) -> Result<Vec<TokenKey>, ProviderError>;

    /// Returns the certificates with a `CKA_ID`.
    fn certificates_of(&self, id: &[u8]) -> Result<Vec<Certificate>, ProviderError>;

    /// Looks at what the token has of a linked key: whether the private key with its `CKA_ID` is
    /// still the one of its public key.
    fn look_at_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError>;

    /// Destroys a linked key: the private key that is proved to be the one of the public key, and
    /// the public keys and certificates with the same `CKA_ID` that are of this public key.
    /// Whatever else has the `CKA_ID` belongs to others, and stays. What is not there is no error.
    ///
    /// Returns what was there before. Of [`LinkedKey::Ambiguous`] nothing is destroyed.
    fn destroy_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError>;

    /// Begins to look at all objects of the token anew.
    fn begin_inventory(&self) -> Result<(), ProviderError>;

    /// Looks at some more objects, few enough not to hold up other work. Returns none after the last.
    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError>;

    /// Destroys what a creation that ended in the middle has left and what belongs to no key yet,
    /// and returns how many objects that were. What another program is only just creating is
    /// spared.
    fn sweep_half_made(&self) -> Result<usize, ProviderError>;
}

/// By what a private key is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeySearch {
    /// `CKA_LABEL`.
    Label(String),
    /// `CKA_ID`.
    Id(Vec<u8>),
}

/// A private key on a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// `CKA_ID`; empty when there is none.
    pub id: Vec<u8>,
    /// `CKA_LABEL`, as far as it is UTF-8.
    pub label: String,
    /// What it is, to be shown.
    pub kind: String,
    /// Its public half, when that is found on the token and of a kind that we use.
    pub public_key: Option<PublicKey>,
    /// What the token states of it.
    pub token_attributes: TokenAttributes,
    /// `CKA_SIGN`.
    pub can_sign: bool,
}

/// What a token has of a linked key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkedKey {
    /// One private key has its `CKA_ID`, and signs what its public key verifies.
    Present,
    /// No private key has its `CKA_ID`.
    Missing,
    /// One private key has its `CKA_ID`, and is another one.
    Replaced,
    /// Several private keys have its `CKA_ID`.
    Ambiguous,
}

/// One object of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenObject {
    /// What it is.
    pub class: TokenObjectClass,
    /// `CKA_ID`; empty when there is none.
    pub id: Vec<u8>,
    /// `CKA_LABEL`, as far as it is UTF-8.
    pub label: String,
    /// The SHA-256 fingerprint of a certificate: see [`Certificate::sha256_fingerprint`].
    pub fingerprint: Option<String>,
}

/// The kinds of token objects that matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenObjectClass {
    /// `CKO_CERTIFICATE`.
    Certificate,
    /// `CKO_PUBLIC_KEY`.
    PublicKey,
    /// `CKO_PRIVATE_KEY`.
    PrivateKey,
    /// Anything else.
    Other,
    /// What a broken-off creation left behind: it cannot be read, or denies that it lies on the token.
    HalfMade,
}
