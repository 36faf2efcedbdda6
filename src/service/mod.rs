//! The use cases, one file each, for every transport alike.
//!
//! A use case takes values of the domain, decides, and calls the store and the providers; it knows neither
//! gRPC nor HTTP. What it returns as an error is put into the caller's terms in one place, [`report`].

mod connect;
mod delete;
mod error;
mod export_certificate;
mod generate;
mod get;
mod issue;
mod key_algorithms;
mod list;
mod public_keys;
mod reconcile;
pub mod report;
mod request_lock;
mod sign;
mod signing_keys;
mod verify;
mod view;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

pub use error::ServiceError;
pub use generate::{GenerateOutcome, GenerateRequest};
pub use key_algorithms::AvailableAlgorithm;
pub use list::{KeyPairPage, ListRequest};
pub use public_keys::{PublicKeysPage, PublicKeysRequest, PublishedKey};
pub use sign::{SignRequest, Signed};
pub use verify::{GenerationState, Verified, VerifyRequest};
pub use view::{KeyPairPreview, KeyPairView};

use crate::domain::{Clock, Entropy, KeyPair, ProviderKind};
use crate::providers::{ProviderHandle, Registry};
use crate::store::MetadataStore;
use request_lock::RequestLocks;
use signing_keys::SigningKeys;

/// The use cases, over the store, the providers, time and chance that `app` gives them.
#[derive(Debug)]
pub struct Service {
    store: Arc<dyn MetadataStore>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    request_locks: RequestLocks,
    signing_keys: SigningKeys,
    tasks: TaskTracker,
}

impl Service {
    /// Puts the use cases together.
    pub fn new(
        store: Arc<dyn MetadataStore>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            store,
            registry,
            clock,
            entropy,
            request_locks: RequestLocks::default(),
            signing_keys: SigningKeys::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Returns the providers that run.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns how many key pairs a provider has in the store, whether it runs or not.
    pub async fn count(&self, provider: ProviderKind) -> Result<u64, ServiceError> {
        Ok(self.store.count(provider).await?)
    }

    /// Waits for all work that goes on behind answered or abandoned calls.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns the provider of a key pair, or says that it is off in this mode.
    fn provider_of(&self, key_pair: &KeyPair) -> Result<&Arc<ProviderHandle>, ServiceError> {
        self.registry
            .provider(key_pair.provider)
            .ok_or_else(|| ServiceError::ProviderOff {
                id: key_pair.id.to_string(),
                provider: key_pair.provider,
                mode: self.registry.policy().mode,
            })
    }
}

#[cfg(test)]
mod tests;
