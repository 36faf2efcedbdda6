//! Deletes key pairs.

use std::sync::Arc;

use tracing::{Instrument, info, warn};

use super::create::stored_precision;
use super::get::parse_id;
use super::intents::several_keys;
use super::name_lock::NameLock;
use super::{Service, ServiceError};
use crate::domain::{KeyOrigin, KeyPair, KeyPairGeneration, KeyPairId, KeyRef};
use crate::providers::{Lane, LinkedKey, Operation, ProviderHandle};
use crate::store::{Intent, IntentState, StoreError};
use crate::telemetry::Call;

/// A deletion as a caller asked for it.
#[derive(Clone, Debug, Default)]
pub struct DeleteRequest {
    /// `id`.
    pub id: String,
    /// `etag`; empty for any.
    pub etag: String,
    /// `destroyLinkedKey`.
    pub destroy_linked_key: bool,
}

/// What became of the private keys of a deleted key pair: of several, the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrivateKeyFate {
    /// One could not be destroyed now. It is destroyed as soon as that is possible.
    Pending,
    /// One was on the token before it was linked, and stays there.
    LeftOnToken,
    /// All are destroyed.
    Destroyed,
}

impl Service {
    /// Deletes a key pair and destroys its private key in its provider.
    ///
    /// The record goes first, and the destruction of its keys is scheduled with it. So a key pair
    /// that is shown always has its key, and a key whose destruction is interrupted is destroyed
    /// later, or when the call is repeated. The key of a linked key pair stays on the token, unless
    /// the request says otherwise; then it is destroyed with the public key and the certificates
    /// that are its own, and nothing else.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`], also for a second delete, and for all but one of several
    /// at once; [`ServiceError::EtagMismatch`] when `etag` is not empty and not the key pair's;
    /// [`ServiceError::Invalid`] when a linked key cannot be told from another one;
    /// [`ServiceError::ProviderOff`]; [`ServiceError::Provider`].
    pub async fn delete(
        self: &Arc<Self>,
        request: DeleteRequest,
    ) -> Result<PrivateKeyFate, ServiceError> {
        let DeleteRequest {
            id,
            etag,
            destroy_linked_key,
        } = request;
        let turn = match parse_id(&id)? {
            Some(id) => Some(self.deletions.lock(id).await),
            None => None,
        };
        let deleted = self.change_found(&id, &etag, |service, was| async move {
            service.delete_found(&was, destroy_linked_key).await
        });
        match deleted.await {
            // Another call has deleted it while this one waited: that one is told what became of
            // it.
            Err(not_found @ ServiceError::KeyPairNotFound(_))
                if turn.as_ref().is_some_and(NameLock::has_waited) =>
            {
                Err(not_found)
            }
            Err(ServiceError::KeyPairNotFound(_)) => {
                let service = Arc::clone(self);
                let work = async move { service.finish_deletion(&id).await };
                self.tasks
                    .spawn(work.instrument(Call::current_span()))
                    .await?
            }
            deleted => deleted,
        }
    }

    /// Says why a key pair is not what it was when it was read.
    pub(super) async fn changed_or_gone(
        &self,
        key_pair: &KeyPair,
    ) -> Result<ServiceError, ServiceError> {
        let id = key_pair.id.to_string();
        Ok(match self.store.key_pair(&key_pair.id).await? {
            Some(_) => ServiceError::EtagMismatch(id),
            None => ServiceError::KeyPairNotFound(id),
        })
    }

    async fn delete_found(
        &self,
        key_pair: &KeyPair,
        destroy_linked: bool,
    ) -> Result<PrivateKeyFate, ServiceError> {
        let mut otherwise = PrivateKeyFate::Destroyed;
        for (_, generation) in key_pair.generations() {
            if generation.origin == KeyOrigin::Linked && !destroy_linked {
                otherwise = PrivateKeyFate::LeftOnToken;
            } else if let Some(handle) = self.registry.provider(generation.provider) {
                handle.availability()?;
                if generation.origin == KeyOrigin::Linked {
                    self.refuse_ambiguous(handle, generation).await?;
                }
            }
        }
        self.record_deletion(key_pair, destroy_linked).await?;
        self.forget_software_keys(key_pair.generations().map(|(_, one)| one))
            .await;
        let fate = self.destroy_now(&key_pair.id, otherwise).await;
        info!(
            key_pair = %key_pair.id,
            provider = %key_pair.provider(),
            private_key = ?fate,
            "deleted a key pair"
        );
        Ok(fate)
    }

    /// Destroys the keys of a deleted key pair as far as that is possible now, and says what became
    /// of them: if none is left, `otherwise`.
    async fn destroy_now(&self, id: &KeyPairId, otherwise: PrivateKeyFate) -> PrivateKeyFate {
        let left = async {
            self.destroy_keys_of(id).await?;
            self.fate_of_keys_left(id).await
        };
        match left.await {
            Ok(left) => left.unwrap_or(otherwise),
            Err(error) => match self.fate_of_keys_left(id).await {
                Ok(Some(PrivateKeyFate::LeftOnToken)) => PrivateKeyFate::LeftOnToken,
                Ok(_) | Err(_) => {
                    warn!(key_pair = %id, %error, "the private key of a deleted key pair is destroyed later");
                    PrivateKeyFate::Pending
                }
            },
        }
    }

    /// Says what becomes of the keys that a deletion has left. None when it has left none.
    async fn fate_of_keys_left(
        &self,
        id: &KeyPairId,
    ) -> Result<Option<PrivateKeyFate>, ServiceError> {
        let intents = self.store.intents().await?;
        let fates = intents.iter().filter(|intent| intent.id == *id);
        let fates = fates.filter_map(|intent| match intent.state {
            IntentState::Destroying => Some(PrivateKeyFate::Pending),
            // The token has something else under its CKA_ID than was linked.
            IntentState::Doubtful if intent.linked.is_some() => Some(PrivateKeyFate::LeftOnToken),
            IntentState::Creating | IntentState::Aborted | IntentState::Doubtful => None,
        });
        Ok(fates.min())
    }

    /// Refuses to destroy a linked key as long as several private keys have its `CKA_ID`: before
    /// anything is recorded, so that the caller can have it mended.
    async fn refuse_ambiguous(
        &self,
        handle: &ProviderHandle,
        generation: &KeyPairGeneration,
    ) -> Result<(), ServiceError> {
        let public_key = generation.public_key.clone();
        let found = self.look_at_linked_key(handle, generation.key_ref, public_key);
        match found.await? {
            LinkedKey::Ambiguous => Err(several_keys("destroyLinkedKey")),
            LinkedKey::Present | LinkedKey::Missing | LinkedKey::Replaced => Ok(()),
        }
    }

    /// Removes the record of a key pair, and schedules the destruction of its keys.
    async fn record_deletion(
        &self,
        key_pair: &KeyPair,
        destroy_linked: bool,
    ) -> Result<(), ServiceError> {
        let now = stored_precision(self.clock.now());
        let removed = self
            .store
            .begin_deletion(key_pair, destroy_linked, now)
            .await;
        self.judge_removal(key_pair, removed).await
    }

    /// Removes the record of a key pair whose creation failed after that. What is left of its key
    /// is for the caller of this to destroy; a linked key is left as it is, and doubtful if it was.
    pub(super) async fn take_back(
        &self,
        key_pair: &KeyPair,
        doubtful: Option<Intent>,
    ) -> Result<(), ServiceError> {
        let now = stored_precision(self.clock.now());
        let removed = self.store.take_back(key_pair, doubtful, now).await;
        self.judge_removal(key_pair, removed).await?;
        self.forget_software_keys(key_pair.generations().map(|(_, one)| one))
            .await;
        Ok(())
    }

    async fn judge_removal(
        &self,
        key_pair: &KeyPair,
        removed: Result<bool, StoreError>,
    ) -> Result<(), ServiceError> {
        // Whatever came of it: what is kept must be true.
        self.signing_keys.forget(&key_pair.id);
        match removed {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.changed_or_gone(key_pair).await?),
            Err(failure) => {
                let is_gone = |now: Option<&KeyPair>| now.is_none();
                Ok(self.recorded(&key_pair.id, failure, is_gone).await?)
            }
        }
    }

    /// Goes on with a deletion that was interrupted.
    async fn finish_deletion(&self, id: &str) -> Result<PrivateKeyFate, ServiceError> {
        let not_found = || ServiceError::KeyPairNotFound(id.chars().take(64).collect());
        let parsed = parse_id(id)?.ok_or_else(not_found)?;
        match self.fate_of_keys_left(&parsed).await? {
            Some(PrivateKeyFate::Pending) => {
                Ok(self.destroy_now(&parsed, PrivateKeyFate::Destroyed).await)
            }
            _ => Err(not_found()),
        }
    }

    /// Destroys the keys that key pairs of an id had, as far as their providers run in this mode,
    /// and returns how many these were.
    pub(super) async fn destroy_keys_of(&self, id: &KeyPairId) -> Result<usize, ServiceError> {
        let mut destroyed = 0;
        for intent in self.store.intents().await? {
            if intent.id == *id
                && intent.state == IntentState::Destroying
                && let Some(handle) = self.registry.provider(intent.provider)
            {
                self.finish_intent(handle, &intent).await?;
                destroyed += 1;
            }
        }
        Ok(destroyed)
    }

    /// Has the software provider forget keys that have ended with their rows, of which it may keep
    /// copies in memory.
    pub(super) async fn forget_software_keys(
        &self,
        generations: impl Iterator<Item = &KeyPairGeneration>,
    ) {
        for generation in generations {
            let handle = self.registry.provider(generation.provider);
            if let Some(handle) = handle.filter(|handle| !handle.kind().keeps_keys()) {
                forget_software_key(handle, generation.key_ref).await;
            }
        }
    }
}

/// Has the software provider forget a key of which it may keep a copy in memory.
pub(super) async fn forget_software_key(handle: &ProviderHandle, key_ref: KeyRef) {
    let forgotten = handle.run(Lane::Sign, Operation::Destroy, move |provider| {
        provider.destroy(key_ref)
    });
    if let Err(error) = forgotten.await {
        warn!(%key_ref, %error, "the software provider keeps an ended key in memory");
    }
}
