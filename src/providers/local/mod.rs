//! The software provider: keys are generated, used and encrypted here, and kept by the store.
//!
//! What is stored of a key is its PKCS#8 form, encrypted under the [`KeyEncryptionKey`] and bound to the
//! key's name. Plain keys exist only in memory: as bytes in buffers that are wiped, and, for the keys last
//! used, ready to sign, in memory that aws-lc wipes.

mod generate;
mod key_encryption_key;
mod sign;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
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
    destroyed: Mutex<Destroyed>,
}

/// The keys that were destroyed last. A signature that was begun before may still have the encrypted
/// form of one, and must not put it among those that are ready.
#[derive(Debug, Default)]
struct Destroyed {
    keys: HashSet<KeyRef>,
    oldest_first: VecDeque<KeyRef>,
}

impl Destroyed {
    fn add(&mut self, key_ref: KeyRef) {
        if self.keys.insert(key_ref) {
            self.oldest_first.push_back(key_ref);
        }
        if self.oldest_first.len() > DESTROYED_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

impl LocalProvider {
    /// Makes a provider whose keys are encrypted under a key encryption key.
    pub fn new(key_encryption_key: KeyEncryptionKey) -> Self {
        Self {
            key_encryption_key,
            ready: Cache::new(READY_MAX),
            destroyed: Mutex::default(),
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
        // Under the lock, so that it is not destroyed in between.
        let destroyed = self.destroyed.lock();
        if !destroyed.keys.contains(&key.name.key_ref) {
            self.ready.insert(key.name.key_ref, Arc::clone(&ready));
        }
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
        let mut destroyed = self.destroyed.lock();
        destroyed.add(key_ref);
        self.ready.remove(&key_ref);
        Ok(())
    }
}

fn error(operation: Operation, kind: ProviderErrorKind, why: &'static str) -> ProviderError {
    ProviderError::new(ProviderKind::Local, operation, kind).because(why)
}

/// How many keys are kept ready: a few kilobytes each.
const READY_MAX: usize = 4096;
/// How many destroyed keys are remembered, of a hundred bytes each: more than are destroyed while a
/// signature waits for its turn.
const DESTROYED_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Generation, KeyPairId};

    #[test]
    fn a_key_that_was_destroyed_does_not_come_back_into_memory() {
        let folder = tempfile::tempdir().unwrap();
        let kek = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
        let provider = LocalProvider::new(kek);
        let name = KeyName {
            id: KeyPairId::parse("x").unwrap(),
            generation: Generation::FIRST,
            key_ref: KeyRef::from_random([7; 16]),
        };
        let made = provider.generate(&name, KeySpec::Ed25519).unwrap();
        let key = StoredKey {
            name: name.clone(),
            public_key: made.public_key,
            sealed: made.sealed,
        };
        let algorithm = SignatureAlgorithm::Ed25519;
        let sign = || {
            let message = SigningInput::Message(b"message"[..].into());
            provider.sign(&key, algorithm, &message).unwrap()
        };
        sign();
        assert_eq!(provider.ready.len(), 1);
        // One that is under way has the key, and makes its signature.
        provider.destroy(name.key_ref).unwrap();
        sign();
        assert_eq!(provider.ready.len(), 0);
    }

    #[test]
    fn the_keys_destroyed_last_are_remembered() {
        let key = |number: usize| KeyRef::from_slice(&number.to_be_bytes()).unwrap();
        let mut destroyed = Destroyed::default();
        for number in 0..=DESTROYED_MAX {
            destroyed.add(key(number));
            destroyed.add(key(number));
        }
        assert_eq!(destroyed.keys.len(), DESTROYED_MAX);
        assert!(!destroyed.keys.contains(&key(0)));
        assert!(destroyed.keys.contains(&key(1)) && destroyed.keys.contains(&key(DESTROYED_MAX)));
    }
}
