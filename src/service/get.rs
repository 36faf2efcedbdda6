//! Shows a key pair.

use super::{KeyPairView, Service, ServiceError};
use crate::domain::{KeyPair, KeyPairId, Refusal};
use crate::telemetry::Call;

impl Service {
    /// Returns a key pair. The token is not asked.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::ProviderOff`].
    pub async fn get(&self, id: &str) -> Result<KeyPairView, ServiceError> {
        let key_pair = self.find(id).await?;
        self.provider_of(&key_pair)?;
        Ok(self.view(key_pair))
    }

    pub(super) fn view(&self, key_pair: KeyPair) -> KeyPairView {
        let exportable = self.is_exportable(&key_pair);
        KeyPairView::new(key_pair, *self.registry.policy(), &*self.clock, exportable)
    }

    /// Finds a key pair by the id a caller wrote. What cannot be an id is not found.
    pub(super) async fn find(&self, id: &str) -> Result<KeyPair, ServiceError> {
        let not_found = || ServiceError::KeyPairNotFound(id.chars().take(64).collect());
        let parsed = parse_id(id)?.ok_or_else(not_found)?;
        self.store.key_pair(&parsed).await?.ok_or_else(not_found)
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
