//! The places where keys live and work, behind one trait.
//!
//! [`CryptoProvider`] is plain blocking code. The rest of the daemon reaches it only through a
//! [`ProviderHandle`], which owns the threads it runs on. A provider knows nothing of the store: what must
//! be kept of a key is returned, and handed in again when the key is used.

mod capabilities;
mod error;
mod finding;
mod handle;
pub mod isolated;
mod lane;
pub mod local;
mod order;
pub mod pkcs11;
mod registry;
mod scheduling;
mod token;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use capabilities::{Capabilities, Missing};
pub use error::{Operation, ProviderError, ProviderErrorKind};
pub use finding::{Finding, TriesLeft};
pub use handle::{Lanes, ProviderHandle};
pub use lane::Lane;
pub use order::SigningOrder;
pub use registry::Registry;
pub use scheduling::wait_for_turn_when_woken;
pub use token::{KeySearch, LinkedKey, TokenKey, TokenObject, TokenObjectClass, TokenObjects};

use crate::domain::{
    Generation, KeyPairGeneration, KeyPairId, KeyRef, KeySpec, PrivateKey, ProviderKind, PublicKey,
    SealedKey, SignatureAlgorithm, SigningInput, TokenAttributes,
};

/// A place where keys live and work: a PKCS#11 token, or the software provider.
///
/// Calls block. They are made only by [`ProviderHandle`], on its own threads, but for
/// [`CryptoProvider::availability`], which answers at once, and for what
/// [`CryptoProvider::signs_at_once`].
pub trait CryptoProvider: fmt::Debug + Send + Sync {
    /// Returns which of the two it is.
    fn kind(&self) -> ProviderKind;

    /// Tells, from what is known and without asking the device, whether calls can succeed now.
    fn availability(&self) -> Result<(), ProviderError>;

    /// Makes the provider ready, or ready again. Idempotent.
    fn connect(&self) -> Result<(), ProviderError>;

    /// Ends the connection, once no call is under way in the device.
    fn disconnect(&self);

    /// Asks the device whether it is still there. A failure shows in [`CryptoProvider::availability`].
    fn probe(&self) -> Result<(), ProviderError>;

    /// Reports what can be done now, as the device said when it was connected.
    fn capabilities(&self) -> Result<Capabilities, ProviderError>;

    /// Generates a key.
    ///
    /// When this fails, nothing of the key is left, unless the error is of
    /// [`ProviderErrorKind::Unavailable`]: then [`CryptoProvider::destroy`] must be called later.
    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError>;

    /// Takes a key that was made elsewhere, and has it sign what its public key verifies.
    ///
    /// When this fails, the same holds as for [`CryptoProvider::generate`].
    fn import(&self, name: &KeyName, key: &PrivateKey) -> Result<GeneratedKey, ProviderError>;

    /// Gives a private key away.
    fn export(&self, key: &StoredKey) -> Result<PrivateKey, ProviderError>;

    /// Signs. A message is hashed by the provider, on our side; ECDSA signatures are in DER, as X.509 wants
    /// them.
    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, ProviderError>;

    /// Returns what signs without holding a thread, when the provider can. Signatures are asked for through it then.
    fn async_signer(&self) -> Option<&dyn AsyncSigner> {
        None
    }

    /// Tells whether to sign takes less time than to have another thread do it, and waits for no device.
    fn signs_at_once(&self, _key: &StoredKey, _input: &SigningInput) -> bool {
        false
    }

    /// Destroys everything the provider has under this name, which must be one that we made: see
    /// [`TokenObjects::destroy_linked_key`] for those of others. What is not there is no error.
    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError>;

    /// Returns what only a token can do, when this is one.
    fn token(&self) -> Option<&dyn TokenObjects> {
        None
    }
}

/// A provider that has signatures made elsewhere, and can wait for them without a thread.
#[async_trait]
pub trait AsyncSigner: Send + Sync {
    /// Makes many signatures in one go, in their order.
    async fn sign_all(&self, orders: Vec<SigningOrder>) -> Vec<Result<Vec<u8>, ProviderError>>;
}

/// What a key is called: by callers, over time, and inside its provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyName {
    /// The key pair it belongs to.
    pub id: KeyPairId,
    /// Its number within the key pair.
    pub generation: Generation,
    /// Its name in the provider.
    pub key_ref: KeyRef,
}

impl KeyName {
    /// Returns the name of the key of a generation.
    pub fn of(id: &KeyPairId, generation: &KeyPairGeneration) -> Self {
        Self {
            id: id.clone(),
            generation: generation.number,
            key_ref: generation.key_ref,
        }
    }
}

/// A key that is new to its provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GeneratedKey {
    /// Its public half.
    pub public_key: PublicKey,
    /// Its private half as it must be stored. None when the provider keeps it.
    #[serde(skip)]
    pub sealed: Option<SealedKey>,
    /// What the token states of it. None when it is not on a token.
    pub token_attributes: Option<TokenAttributes>,
}

/// A key as it is handed to its provider for use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredKey {
    /// What it is called.
    pub name: KeyName,
    /// Its public half.
    pub public_key: PublicKey,
    /// Its private half, when the provider does not keep it.
    #[serde(skip)]
    pub sealed: Option<SealedKey>,
}
