//! The software provider: keys are generated, used and encrypted here, and kept by the store.
//!
//! What is stored of a key is its PKCS#8 form, encrypted under the [`KeyEncryptionKey`] and bound to the
//! key's name. Plain keys exist only in memory: as bytes in buffers that are wiped, and, for the keys last
//! used, ready to sign, in memory that aws-lc wipes.

mod generate;
mod key_encryption_key;
mod sign;

use std::sync::Arc;

use quick_cache::sync::Cache;
use zeroize::Zeroizing;

pub use key_encryption_key::{KeyEncryptionKey, KeyEncryptionKeyError};
use sign::SoftwareKey;

use super::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, Operation, ProviderError,
    ProviderErrorKind, StoredKey,
};
use crate::domain::{
    Curve, KeyRef, KeySpec, PrivateKey, ProviderKind, SignatureAlgorithm, SigningInput,
};

/// The software provider, on aws-lc-rs.
#[derive(Debug)]
pub struct LocalProvider {
    key_encryption_key: KeyEncryptionKey,
    /// Keys that were used lately.
    ready: Cache<KeyRef, Arc<SoftwareKey>>,
}

impl LocalProvider {
    /// Makes a provider whose keys are encrypted under a key encryption key.
    pub fn new(key_encryption_key: KeyEncryptionKey) -> Self {
        Self {
            key_encryption_key,
            ready: Cache::new(READY_MAX),
        }
    }

    /// Returns a key ready to sign: decrypted and checked at its first use.
    fn key(&self, key: &StoredKey) -> Result<Arc<SoftwareKey>, ProviderError> {
        if let Some(ready) = self.ready.get(&key.name.key_ref) {
            return Ok(ready);
        }
        let pkcs8 = self.open(Operation::Sign, key)?;
        let ready = SoftwareKey::from_pkcs8(key.public_key.spec(), &pkcs8).map_err(|_| {
            error(
                Operation::Sign,
                ProviderErrorKind::KeyUnreadable,
                "it is not a key of its kind",
            )
        })?;
        let ready = Arc::new(ready);
        self.ready.insert(key.name.key_ref, Arc::clone(&ready));
        Ok(ready)
    }

    /// Decrypts a key.
    fn open(
        &self,
        operation: Operation,
        key: &StoredKey,
    ) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let sealed = key.sealed.as_ref().ok_or_else(|| {
            let kind = ProviderErrorKind::KeyMissing;
            error(operation, kind, "no encrypted key is stored")
        })?;
        self.key_encryption_key
            .open(&key.name, sealed)
            .map_err(|_| {
                error(
                    operation,
                    ProviderErrorKind::KeyUnreadable,
                    "it does not decrypt under the key encryption key",
                )
            })
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

    fn import(&self, name: &KeyName, key: &PrivateKey) -> Result<GeneratedKey, ProviderError> {
        let failed = |why: &'static str| error(Operation::Import, ProviderErrorKind::Failed, why);
        let public_key = key.public_key();
        let ready = SoftwareKey::from_pkcs8(public_key.spec(), key.pkcs8())
            .map_err(|_| failed("it is not a key of its kind"))?;
        let algorithm = public_key.spec().algorithm().default_signature_algorithm();
        let challenge = SigningInput::Message(name.key_ref.as_bytes().to_vec().into());
        let signature = ready
            .sign(algorithm, &challenge)
            .map_err(|_| failed("it does not sign"))?;
        public_key
            .verify(algorithm, &challenge, &signature)
            .map_err(|_| failed("it is not the one of its public key"))?;
        let sealed = self
            .key_encryption_key
            .seal(name, key.pkcs8())
            .map_err(|_| failed("the key could not be encrypted"))?;
        Ok(GeneratedKey {
            public_key: public_key.clone(),
            sealed: Some(sealed),
            token_attributes: None,
        })
    }

    fn export(&self, key: &StoredKey) -> Result<PrivateKey, ProviderError> {
        let pkcs8 = self.open(Operation::Export, key)?;
        Ok(PrivateKey::new(key.public_key.clone(), pkcs8))
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, ProviderError> {
        self.key(key)?
            .sign(algorithm, input)
            .map_err(|failure| match failure {
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

    /// P-256 and Ed25519 take 10 to 25 µs; to wake a thread for them takes longer.
    fn signs_at_once(&self, key: &StoredKey, input: &SigningInput) -> bool {
        matches!(
            key.public_key.spec(),
            KeySpec::Ec(Curve::P256) | KeySpec::Ed25519
        ) && !input.is_large()
    }

    /// Forgets the key. It ends when the store deletes what it has of it.
    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        self.ready.remove(&key_ref);
        Ok(())
    }
}

fn error(operation: Operation, kind: ProviderErrorKind, why: &'static str) -> ProviderError {
    ProviderError::new(ProviderKind::Local, operation, kind).because(why)
}

/// How many keys are kept ready: a few kilobytes each.
const READY_MAX: usize = 4096;
