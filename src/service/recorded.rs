//! Finds out what came of a write when the store did not say.

use tracing::warn;

use super::Service;
use crate::domain::{KeyPair, KeyPairId};
use crate::store::StoreError;

impl Service {
    /// Sees whether a write that is said to have failed was made all the same: the answer of a store may be lost after a commit.
    /// What is read then decides, so that the caller is told what is so.
    ///
    /// # Errors
    /// The failure, when it was not made, or when that cannot be read either.
    pub(super) async fn recorded(
        &self,
        id: &KeyPairId,
        failure: StoreError,
        is_made: impl FnOnce(Option<&KeyPair>) -> bool,
    ) -> Result<(), StoreError> {
        match self.store.key_pair(id).await {
            Ok(now) if is_made(now.as_ref()) => {
                warn!(key_pair = %id, error = %failure, "the store says that a write failed which it has made");
                Ok(())
            }
            _ => Err(failure),
        }
    }
}
