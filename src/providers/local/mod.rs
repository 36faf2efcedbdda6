//! The software provider: keys are generated, used and encrypted here, and kept by the store.
//!
//! What is stored of a key is its PKCS#8 form, encrypted under the [`KeyEncryptionKey`] and bound to the
//! key's name. Plain key bytes exist only in memory, in buffers that are wiped.

mod generate;
mod key_encryption_key;
mod sign;

pub use key_encryption_key::{KeyEncryptionKey, KeyEncryptionKeyError};

use super::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, Operation, ProviderError,
    ProviderErrorKind, StoredKey,
};
use crate::domain::{KeyRef, KeySpec, ProviderKind, SignatureAlgorithm};

/// The software provider, on aws-lc-rs.
#[derive(Debug)]
pub struct LocalProvider {
    key_encryption_key: KeyEncryptionKey,
}

impl LocalProvider {
    /// Makes a provider whose keys are encrypted under a key encryption key.
    pub fn new(key_encryption_key: KeyEncryptionKey) -> Self {
        Self { key_encryption_key }
    }
}

impl CryptoProvider for LocalProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Local
    }

    fn availability(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn connect(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn disconnect(&self) {}

    fn probe(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn capabilities(&self) -> Result<Capabilities, ProviderError> {
        Ok(Capabilities::all())
    }

    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError> {
        let failed = |why: &'static str| error(Operation::Generate, ProviderErrorKind::Failed, why);
        let (public_key, pkcs8) = generate::generate(spec).map_err(|_| failed("aws-lc failed"))?;
        let sealed = self
            .key_encryption_key
            .seal(name, &pkcs8)
            .map_err(|_| failed("the key could not be encrypted"))?;
        Ok(GeneratedKey {
            public_key,
            sealed: Some(sealed),
            token_attributes: None,
        })
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, ProviderError> {
        let unreadable = |why| error(Operation::Sign, ProviderErrorKind::KeyUnreadable, why);
        let sealed = key.sealed.as_ref().ok_or_else(|| {
            error(
                Operation::Sign,
                ProviderErrorKind::KeyMissing,
                "no encrypted key is stored",
            )
        })?;
        let pkcs8 = self
            .key_encryption_key
            .open(&key.name, sealed)
            .map_err(|_| unreadable("it does not decrypt under the key encryption key"))?;
        sign::sign(key.spec, &pkcs8, algorithm, message).map_err(|failure| match failure {
            sign::Failure::NotAKey => unreadable("it is not a key of its kind"),
            sign::Failure::Unsupported => error(
                Operation::Sign,
                ProviderErrorKind::Unsupported,
                "the algorithm is not one of the key",
            ),
            sign::Failure::Failed => {
                error(Operation::Sign, ProviderErrorKind::Failed, "aws-lc failed")
            }
        })
    }

    /// Does nothing: the key ends when the store deletes what it has of it.
    fn destroy(&self, _key_ref: KeyRef) -> Result<(), ProviderError> {
        Ok(())
    }
}

fn error(operation: Operation, kind: ProviderErrorKind, why: &'static str) -> ProviderError {
    ProviderError::new(ProviderKind::Local, operation, kind).because(why)
}
