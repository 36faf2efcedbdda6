//! Shows a key pair.

use tracing::warn;

use super::{KeyPairView, Service, ServiceError};
use crate::domain::{KeyPair, KeyPairId, Refusal};
use crate::store::StoreError;
use crate::telemetry::Call;

impl Service {
    /// Returns a key pair. The token is not asked.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::ProviderOff`].
    pub async fn get(&self, id: &str) -> Result<KeyPairView, ServiceError> {
        let found = self.find_by(id, async |id| self.store.key_pair_and_sharers(id).await);
        let (key_pair, also_key_pair_ids) = found.await?;
        self.provider_of(&key_pair)?;
        Ok(KeyPairView {
            also_key_pair_ids,
            ..self.view(key_pair)
        })
    }

    /// Returns what a caller is shown of a key pair, with the others that have its key. When these
    /// cannot be looked up now, they are left out: what the caller asked for is done.
    pub(super) async fn shown(&self, key_pair: KeyPair) -> KeyPairView {
        let also_key_pair_ids = match self.store.sharing_a_key(&key_pair.id).await {
            Ok(others) => others,
            Err(error) => {
                warn!(key_pair = %key_pair.id, %error, "key pairs with the same key are not shown");
                Vec::new()
            }
        };
        KeyPairView {
            also_key_pair_ids,
            ..self.view(key_pair)
        }
    }

    pub(super) fn view(&self, key_pair: KeyPair) -> KeyPairView {
        let exportable = self.is_exportable(&key_pair);
        KeyPairView::new(key_pair, *self.registry.policy(), &*self.clock, exportable)
    }

    /// Finds a key pair by the id a caller wrote. What cannot be an id is not found.
    pub(super) async fn find(&self, id: &str) -> Result<KeyPair, ServiceError> {
        self.find_by(id, async |id| self.store.key_pair(id).await)
            .await
    }

    /// Does a search of the store by the id a caller wrote.
    pub(super) async fn find_by<T>(
        &self,
        id: &str,
        search: impl AsyncFnOnce(&KeyPairId) -> Result<Option<T>, StoreError>,
    ) -> Result<T, ServiceError> {
        let not_found = || ServiceError::KeyPairNotFound(id.chars().take(64).collect());
        let parsed = parse_id(id)?.ok_or_else(not_found)?;
        search(&parsed).await?.ok_or_else(not_found)
    }
}

/// Reads the id a caller wrote: none when it cannot be one.
pub(super) fn parse_id(id: &str) -> Result<Option<KeyPairId>, ServiceError> {
    Call::concerns(id);
    if id.is_empty() {
        return Err(ServiceError::invalid("id", Refusal::new("is required")));
    }
    Ok(KeyPairId::parse(id).ok())
}
