//! The use cases, one file each, for every transport alike.
//!
//! A use case takes values of the domain, decides, and calls the store and the providers; it knows neither
//! gRPC nor HTTP. What it returns as an error is put into the caller's terms in one place, [`report`].

mod connect;
mod create;
mod csr;
mod delete;
mod error;
mod export;
mod export_certificate;
mod generate;
mod get;
mod import;
mod issue;
mod key_algorithms;
mod link;
mod list;
mod migrate;
mod public_keys;
mod reconcile;
mod replace;
pub mod report;
mod request_lock;
mod sign;
mod signing_keys;
mod verify;
mod view;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use csr::CsrRequest;
pub use delete::DeleteRequest;
pub use error::ServiceError;
pub use generate::{GenerateOutcome, GenerateRequest};
pub use import::ImportRequest;
pub use key_algorithms::AvailableAlgorithm;
pub use link::LinkRequest;
pub use list::{KeyPairPage, ListRequest};
pub use public_keys::{PublicKeysPage, PublicKeysRequest, PublishedKey};
pub use sign::{SignRequest, Signed};
pub use verify::{GenerationState, Verified, VerifyRequest};
pub use view::{KeyPairPreview, KeyPairView};

pub use crate::keyfiles::KeyFileFormat;

use crate::domain::{Clock, Entropy, KeyPair, ProviderKind, PublicKey, Violations};
use crate::providers::{ProviderHandle, Registry};
use crate::store::MetadataStore;
use request_lock::RequestLocks;
use signing_keys::SigningKeys;

/// What an operator permits.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceConfig {
    /// Whether software keys may be exported.
    pub allow_export: bool,
}

/// The use cases, over the store, the providers, time and chance that `app` gives them.
#[derive(Debug)]
pub struct Service {
    store: Arc<dyn MetadataStore>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    request_locks: RequestLocks,
    signing_keys: SigningKeys,
    config: ServiceConfig,
    file_work: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Service {
    /// Puts the use cases together.
    pub fn new(
        store: Arc<dyn MetadataStore>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        config: ServiceConfig,
    ) -> Self {
        Self {
            store,
            registry,
            clock,
            entropy,
            request_locks: RequestLocks::default(),
            signing_keys: SigningKeys::default(),
            config,
            file_work: Arc::new(Semaphore::new(FILES_AT_ONCE)),
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

    /// Refuses a key that a provider cannot use, as far as that is known.
    fn refuse_unsupported(
        &self,
        provider: ProviderKind,
        public_key: &PublicKey,
    ) -> Result<(), ServiceError> {
        let mut violations = Violations::new();
        if let Some(handle) = self.registry.provider(provider)
            && let Ok(capabilities) = handle.provider().capabilities()
        {
            let spec = public_key.spec();
            let signature = spec.algorithm().default_signature_algorithm();
            capabilities.check(provider, spec, signature, &mut violations);
        }
        violations.into_result().map_err(ServiceError::Invalid)
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

/// How many key files are read or written at once: a key derived from a password takes a processor for a second.
const FILES_AT_ONCE: usize = 2;

#[cfg(test)]
mod tests;
