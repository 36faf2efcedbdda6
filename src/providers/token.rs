//! What only a token can do: hold certificates beside its keys, and tell what it holds.

use serde::{Deserialize, Serialize};

use super::{KeyName, ProviderError};
use crate::domain::{Certificate, PublicKey, TokenAttributes};

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

    /// Begins to look at all objects of the token anew.
    fn begin_inventory(&self) -> Result<(), ProviderError>;

    /// Looks at some more objects, few enough not to hold up other work. Returns none after the last.
    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError>;

    /// Destroys what a broken-off creation left behind and what belongs to no key yet, and returns how
    /// many objects that were. What somebody is only just creating is spared.
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

/// One object of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenObject {
    /// What it is.
    pub class: TokenObjectClass,
    /// `CKA_ID`; empty when there is none.
    pub id: Vec<u8>,
    /// `CKA_LABEL`, as far as it is UTF-8.
    pub label: String,
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
