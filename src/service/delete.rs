//! Deletes key pairs.

use std::sync::Arc;

use tracing::{Instrument, info, warn};

use super::create::stored_precision;
use super::get::parse_id;
use super::{Service, ServiceError};
use crate::domain::{KeyOrigin, KeyPair, KeyPairId, KeyRef};
use crate::providers::{Lane, Operation, ProviderHandle};
use crate::store::StoreError;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The record goes first, and its key is condemned with it. So a key pair that is shown always has its
    /// key, and a key that cannot be destroyed now is destroyed later, or when the call is repeated. The key
    /// of a linked key pair stays on the token, unless the request says otherwise.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`], also for a second delete; [`ServiceError::EtagMismatch`] when
    /// `etag` is not empty and not the key pair's; [`ServiceError::ProviderOff`];
    /// [`ServiceError::Provider`].
    pub async fn delete(
        self: &Arc<Self>,
        request: DeleteRequest,
    ) -> Result<PrivateKeyFate, ServiceError> {
        let DeleteRequest {
            id,
            etag,
            destroy_linked_key,
        } = request;
        let deleted = self.change_found(&id, &etag, |service, was| async move {
            service.delete_found(&was, destroy_linked_key).await
        });
        match deleted.await {
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
            }
        }
        self.record_deletion(key_pair, destroy_linked).await?;
        let fate = self.destroy_now(&key_pair.id, otherwise).await;
        info!(
            key_pair = %key_pair.id,
            provider = %key_pair.provider(),
            private_key = ?fate,
            "deleted a key pair"
        );
        Ok(fate)
    }

    /// Destroys the keys of a deleted key pair as far as that is possible now, and says what became of
    /// them: if none is left to be destroyed, `otherwise`.
    async fn destroy_now(&self, id: &KeyPairId, otherwise: PrivateKeyFate) -> PrivateKeyFate {
        let none_left = async {
            self.destroy_all_condemned_of(id).await?;
            Ok::<_, ServiceError>(self.store.condemned_of(id).await?.is_empty())
        };
        match none_left.await {
            Ok(true) => otherwise,
            Ok(false) => PrivateKeyFate::Pending,
            Err(error) => {
                warn!(key_pair = %id, %error, "the private key of a deleted key pair is destroyed later");
                PrivateKeyFate::Pending
            }
        }
    }

    /// Removes the record of a key pair, and condemns its keys.
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

    /// Removes the record of a key pair whose creation failed after that, and condemns its keys.
    pub(super) async fn take_back(&self, key_pair: &KeyPair) -> Result<(), ServiceError> {
        let now = stored_precision(self.clock.now());
        let removed = self.store.take_back(key_pair, now).await;
        self.judge_removal(key_pair, removed).await
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

    /// Goes on with a deletion that was broken off.
    async fn finish_deletion(&self, id: &str) -> Result<PrivateKeyFate, ServiceError> {
        let not_found = || ServiceError::KeyPairNotFound(id.chars().take(64).collect());
        let parsed = parse_id(id)?.ok_or_else(not_found)?;
        match self.store.condemned_of(&parsed).await?.is_empty() {
            true => Err(not_found()),
            false => Ok(self.destroy_now(&parsed, PrivateKeyFate::Destroyed).await),
        }
    }

    /// Destroys the condemned keys of an id, as far as their providers run in this mode, and returns how many these
    /// were.
    pub(super) async fn destroy_all_condemned_of(
        &self,
        id: &KeyPairId,
    ) -> Result<usize, ServiceError> {
        let mut destroyed = 0;
        for intent in self.store.condemned_of(id).await? {
            if let Some(handle) = self.registry.provider(intent.provider) {
                self.destroy_condemned(handle, intent.key_ref).await?;
                destroyed += 1;
            }
        }
        Ok(destroyed)
    }

    /// Destroys a condemned key, and forgets it when that is done.
    pub(super) async fn destroy_condemned(
        &self,
        handle: &ProviderHandle,
        key_ref: KeyRef,
    ) -> Result<(), ServiceError> {
        handle
            .run(Lane::Manage, Operation::Destroy, move |provider| {
                provider.destroy(key_ref)
            })
            .await?;
        Ok(self.store.end_intent(key_ref).await?)
    }
}
