//! Deletes key pairs.

use std::sync::Arc;

use tracing::{Instrument, info};

use super::get::parse_id;
use super::{Service, ServiceError};
use crate::domain::{KeyOrigin, KeyPair};
use crate::providers::{Lane, Operation, ProviderHandle};
use crate::store::Intent;
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

impl Service {
    /// Deletes a key pair and destroys its private key in its provider.
    ///
    /// The record goes first, and its key is condemned with it. So a key pair that is shown always has its
    /// key, and a key whose destruction is broken off is destroyed later, or when the call is repeated. The key
    /// of a linked key pair stays on the token, unless the request says otherwise.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`], also for a second delete; [`ServiceError::EtagMismatch`] when
    /// `etag` is not empty and not the key pair's; [`ServiceError::ProviderOff`];
    /// [`ServiceError::Provider`].
    pub async fn delete(self: &Arc<Self>, request: DeleteRequest) -> Result<(), ServiceError> {
        let DeleteRequest {
            id,
            etag,
            destroy_linked_key,
        } = request;
        let intent = match self.find(&id).await {
            Ok(key_pair) => {
                if !key_pair.is_still(&etag) {
                    return Err(ServiceError::EtagMismatch(id));
                }
                if key_pair.origin == KeyOrigin::Linked && !destroy_linked_key {
                    return self.unlink(&key_pair).await;
                }
                self.provider_of(&key_pair)?.provider().availability()?;
                Some(key_pair)
            }
            Err(ServiceError::KeyPairNotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let service = Arc::clone(self);
        let work = async move {
            match intent {
                Some(key_pair) => service.delete_found(&key_pair).await,
                None => service.finish_deletion(&id).await,
            }
        };
        self.tasks
            .spawn(work.instrument(Call::current_span()))
            .await?
    }

    /// Forgets a linked key pair, and leaves its key on the token as it was.
    async fn unlink(&self, key_pair: &KeyPair) -> Result<(), ServiceError> {
        self.provider_of(key_pair)?;
        if !self.store.forget(key_pair).await? {
            return Err(self.changed_or_gone(key_pair).await?);
        }
        self.signing_keys.forget(&key_pair.id);
        info!(key_pair = %key_pair.id, key_ref = %key_pair.current.key_ref, "unlinked a key of the token");
        Ok(())
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

    async fn delete_found(&self, key_pair: &KeyPair) -> Result<(), ServiceError> {
        let handle = self.provider_of(key_pair)?;
        if !self.store.begin_deletion(key_pair).await? {
            return Err(self.changed_or_gone(key_pair).await?);
        }
        self.signing_keys.forget(&key_pair.id);
        let intent = Intent {
            key_ref: key_pair.current.key_ref,
            id: key_pair.id.clone(),
            generation: key_pair.current.number,
            provider: key_pair.provider,
        };
        self.destroy_condemned(handle, &intent).await?;
        info!(key_pair = %key_pair.id, provider = %key_pair.provider, "deleted a key pair");
        Ok(())
    }

    /// Goes on with a deletion that was broken off.
    async fn finish_deletion(&self, id: &str) -> Result<(), ServiceError> {
        let not_found = || ServiceError::KeyPairNotFound(id.chars().take(64).collect());
        let parsed = parse_id(id)?.ok_or_else(not_found)?;
        let unfinished = self.store.unfinished_deletion(&parsed).await?;
        let intent = unfinished.ok_or_else(not_found)?;
        let handle = self
            .registry
            .provider(intent.provider)
            .ok_or_else(not_found)?;
        self.destroy_condemned(handle, &intent).await
    }

    /// Destroys a condemned key, and forgets it when that is done.
    pub(super) async fn destroy_condemned(
        &self,
        handle: &ProviderHandle,
        intent: &Intent,
    ) -> Result<(), ServiceError> {
        let key_ref = intent.key_ref;
        handle
            .run(Lane::Manage, Operation::Destroy, move |provider| {
                provider.destroy(key_ref)
            })
            .await?;
        Ok(self.store.end_intent(key_ref).await?)
    }
}
