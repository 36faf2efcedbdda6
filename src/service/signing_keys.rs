//! The keys that signatures are made with, kept in memory from their first use on.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::sign::Signing;
use super::{Service, ServiceError};
use crate::domain::{
    Generation, GenerationState, KeyPair, KeyPairGeneration, KeyPairId, PublicKey, Validity,
};
use crate::providers::{KeyName, ProviderHandle, StoredKey};
use crate::telemetry::Call;

/// What signing needs to know of a key pair.
#[derive(Debug)]
pub(super) struct SigningKey {
    /// The key of the generation that signs.
    pub(super) stored: Arc<StoredKey>,
    /// Its provider.
    pub(super) provider: Arc<ProviderHandle>,
    /// How it signs.
    pub(super) signing: Signing,
    /// The certificate's validity.
    pub(super) validity: Validity,
    /// The certificate's SHA-256 fingerprint.
    pub(super) fingerprint: Arc<str>,
    /// All generations whose signatures are accepted, as far as they are not expired: the one that signs first.
    pub(super) published: Vec<VerifyingKey>,
}

/// What verifying needs to know of a generation.
#[derive(Clone, Debug)]
pub(super) struct VerifyingKey {
    pub(super) number: Generation,
    pub(super) state: GenerationState,
    pub(super) public_key: PublicKey,
    /// How it signs.
    pub(super) signing: Signing,
    pub(super) validity: Validity,
    pub(super) fingerprint: Arc<str>,
}

/// Keys that were used lately.
///
/// What is kept is true: whoever changes or deletes a key pair calls [`SigningKeys::forget`] after that is
/// recorded and before it is answered.
#[derive(Debug)]
pub(super) struct SigningKeys {
    kept: Cache<KeyPairId, Arc<SigningKey>>,
    /// How often something was forgotten: what was read from the store before is not kept after.
    forgotten: Mutex<u64>,
}

impl Default for SigningKeys {
    fn default() -> Self {
        Self {
            kept: Cache::new(KEPT_MAX),
            forgotten: Mutex::default(),
        }
    }
}

impl SigningKeys {
    /// Forgets a key pair.
    pub(super) fn forget(&self, id: &KeyPairId) {
        let mut forgotten = self.forgotten.lock();
        *forgotten += 1;
        self.kept.remove(id);
    }

    fn keep(&self, id: KeyPairId, key: &Arc<SigningKey>, forgotten_before: u64) {
        let forgotten = self.forgotten.lock();
        if *forgotten == forgotten_before {
            self.kept.insert(id, Arc::clone(key));
        }
    }
}

impl Service {
    /// Returns the key of a key pair by the id a caller wrote.
    pub(super) async fn signing_key(&self, id: &str) -> Result<Arc<SigningKey>, ServiceError> {
        if let Some(kept) = self.signing_keys.kept.get(id) {
            Call::concerns(id);
            return Ok(kept);
        }
        let forgotten_before = *self.signing_keys.forgotten.lock();
        let (key_pair, stored) = self.find_with_key(id).await?;
        let provider = Arc::clone(self.provider_of(&key_pair)?);
        let published = key_pair.generations().map(|(state, one)| VerifyingKey {
            number: one.number,
            state,
            public_key: one.public_key.clone(),
            signing: Signing::of(one),
            validity: one.validity,
            fingerprint: one.certificate.sha256_fingerprint().into(),
        });
        let key = Arc::new(SigningKey {
            published: published.collect(),
            signing: Signing::of(&key_pair.current),
            validity: key_pair.current.validity,
            fingerprint: key_pair.current.certificate.sha256_fingerprint().into(),
            provider,
            stored: Arc::new(stored),
        });
        self.signing_keys.keep(key_pair.id, &key, forgotten_before);
        Ok(key)
    }

    /// Finds a key pair by the id a caller wrote, with the key that signs: both as they were at one moment.
    pub(super) async fn find_with_key(
        &self,
        id: &str,
    ) -> Result<(KeyPair, StoredKey), ServiceError> {
        let found = self.find_by(id, async |id| self.store.signing_key(id).await);
        let (key_pair, sealed) = found.await?;
        let key = StoredKey {
            name: KeyName::of(&key_pair.id, &key_pair.current),
            public_key: key_pair.current.public_key.clone(),
            sealed,
        };
        Ok((key_pair, key))
    }

    /// Returns the key of a generation as its provider wants it.
    pub(super) async fn stored_key(
        &self,
        id: &KeyPairId,
        generation: &KeyPairGeneration,
    ) -> Result<StoredKey, ServiceError> {
        Ok(StoredKey {
            name: KeyName::of(id, generation),
            public_key: generation.public_key.clone(),
            sealed: self.store.sealed_key(generation.key_ref).await?,
        })
    }
}

/// How many keys are kept, of less than a kilobyte each.
const KEPT_MAX: usize = 16 * 1024;
