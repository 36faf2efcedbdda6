//! The use cases, one file each, for every transport alike.
//!
//! A use case takes values of the domain, decides, and calls the store and the providers; it knows neither
//! gRPC nor HTTP. What it returns as an error is put into the caller's terms in one place, [`report`].

mod canary;
mod certificate_notes;
mod clock_watch;
mod connect;
mod create;
mod csr;
mod delete;
mod diagnose;
mod doubtful;
mod error;
mod events;
mod export;
mod export_certificate;
mod generate;
mod generation;
mod get;
mod health;
mod import;
mod intents;
mod issue;
mod keep_rotating;
mod key_algorithms;
mod labels;
mod link;
mod list;
mod migrate;
mod name_lock;
mod public_keys;
mod recent_events;
mod reconcile;
mod recorded;
mod replace;
pub mod report;
mod request_time;
mod rotate;
mod rotation;
mod share;
mod sign;
mod signing_keys;
mod tls_status;
mod verify;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};
use tokio_util::task::TaskTracker;

pub use certificate_notes::{Adopted, CertificateNotes};
pub use csr::{CaCertified, CsrRequest};
pub use delete::{DeleteRequest, PrivateKeyFate};
pub use diagnose::{Diagnosis, Severity};
pub use doubtful::DoubtfulKey;
pub use error::ServiceError;
pub use events::{Told, ToldEvent, WatchRequest};
pub use generate::{GenerateOutcome, GenerateRequest};
pub use health::{ProviderHealth, ProviderState};
pub use import::ImportRequest;
pub use keep_rotating::RotationMetrics;
pub use key_algorithms::AvailableAlgorithm;
pub use labels::UpdateLabelsRequest;
pub use link::LinkRequest;
pub use list::{KeyPairPage, ListRequest};
pub use public_keys::{PublicKeysPage, PublicKeysRequest, PublishedKey};
pub use rotate::RotateRequest;
pub use rotation::{PlanRequest, UpdateRotationRequest};
pub use sign::{SignRequest, Signed};
pub use tls_status::{HandshakeFailure, TlsStatus};
pub use verify::{Verified, VerifyRequest};
pub use view::{KeyPairPreview, KeyPairView};

pub use crate::certs::IgnoredCertificate;
pub use crate::keyfiles::KeyFileFormat;
pub use crate::providers::Missing;

use crate::domain::{
    Clock, Entropy, KeyPair, KeyPairId, KeyRef, KeySpec, ProviderKind, ProviderMode, PublicKey,
    Refusal, RequestId, Violations,
};
use crate::providers::{ProviderHandle, Registry};
use crate::store::{IntentState, MetadataStore};
use events::EventHub;
use health::HealthBoard;
use name_lock::NameLocks;
use request_time::RequestTime;
use share::{Shares, Turns};
use signing_keys::SigningKeys;

/// What an operator permits.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Whether software keys may be exported.
    pub allow_export: bool,
    /// Whether keys may be imported and linked that are too weak for anything new.
    pub import_weak_keys: bool,
    /// How long a provider that signs for nobody is left alone, before it is tried by a signature.
    pub canary_interval: Duration,
    /// How key pairs rotate, and what is told of their expiry.
    pub rotation: RotationConfig,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            allow_export: false,
            import_weak_keys: false,
            canary_interval: Duration::from_secs(10),
            rotation: RotationConfig::default(),
        }
    }
}

/// How key pairs rotate, and what is told of their expiry.
#[derive(Clone, Debug)]
pub struct RotationConfig {
    /// Whether they rotate by themselves.
    pub enabled: bool,
    /// How often it is looked at what is due.
    pub check_interval: Duration,
    /// At how many days before the expiry of a certificate those are told who watch.
    pub expiry_warning_days: Vec<u16>,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            check_interval: Duration::from_secs(60),
            expiry_warning_days: vec![30, 7, 1],
        }
    }
}

/// The use cases, over the store, the providers, time and chance that `app` gives them.
#[derive(Debug)]
pub struct Service {
    store: Arc<dyn MetadataStore>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    request_locks: NameLocks<RequestId>,
    request_time: RequestTime,
    /// One creation under an id goes on at a time.
    id_locks: NameLocks<KeyPairId>,
    /// One deletion of an id goes on at a time.
    deletions: NameLocks<KeyPairId>,
    signing_keys: SigningKeys,
    events: EventHub,
    /// The right to have a page of a list in memory.
    lists: Turns,
    health: HealthBoard,
    tls_status: Arc<TlsStatus>,
    rotation_metrics: RotationMetrics,
    /// Told whenever a provider was connected.
    provider_came: Notify,
    /// Keys of creations that have ended without a key pair, as long as the store could not be
    /// told, with what may be left of each.
    untold: Mutex<HashMap<KeyRef, IntentState>>,
    /// Held while a certificate is put on the token or a key is destroyed there, so that the two
    /// come in the order of their records.
    token_changes: AsyncMutex<()>,
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
            request_locks: NameLocks::default(),
            request_time: RequestTime::default(),
            id_locks: NameLocks::default(),
            deletions: NameLocks::default(),
            signing_keys: SigningKeys::default(),
            events: EventHub::default(),
            lists: Turns::new(LISTS),
            health: HealthBoard::default(),
            tls_status: Arc::default(),
            rotation_metrics: RotationMetrics::default(),
            provider_came: Notify::new(),
            untold: Mutex::default(),
            token_changes: AsyncMutex::default(),
            config,
            file_work: Arc::new(Semaphore::new(FILES_AT_ONCE)),
            tasks: TaskTracker::new(),
        }
    }

    /// Returns the providers that run.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns the time.
    pub fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Returns which providers are configured.
    pub fn mode(&self) -> ProviderMode {
        self.registry.policy().mode
    }

    /// Returns how the rotation goes.
    pub fn rotation_metrics(&self) -> &RotationMetrics {
        &self.rotation_metrics
    }

    /// Returns where what is known of TLS at the port is noted.
    pub fn tls_status(&self) -> &Arc<TlsStatus> {
        &self.tls_status
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

    /// Refuses a key from elsewhere, which a field named, that may not come in or that a provider cannot use, as far as
    /// that is known.
    fn refuse_unsupported(
        &self,
        field: &'static str,
        provider: ProviderKind,
        public_key: &PublicKey,
    ) -> Result<(), ServiceError> {
        let mut violations = Violations::new();
        let spec = public_key.spec();
        if spec.is_weak() {
            let bits = spec.bits();
            let refusal = match (self.config.import_weak_keys, provider) {
                (true, ProviderKind::Hsm) => return Ok(()),
                (true, ProviderKind::Local) => format!(
                    "has an RSA key of {bits} bits, which software does not sign with; import it into the HSM"
                ),
                (false, _) => format!(
                    "has an RSA key of {bits} bits, and must have one of 2048, 3072 or 4096, unless an operator permits weak ones by crypto.import_weak_keys"
                ),
            };
            return Err(ServiceError::invalid(field, Refusal::new(refusal)));
        }
        self.refuse_incapable(provider, spec, &mut violations);
        violations.into_result().map_err(ServiceError::Invalid)
    }

    /// Refuses a kind of key that a provider cannot do. A token that is away is not the caller's fault;
    /// it is reported when it is needed.
    fn refuse_incapable(&self, provider: ProviderKind, spec: KeySpec, violations: &mut Violations) {
        if let Some(handle) = self.registry.provider(provider)
            && let Ok(capabilities) = handle.provider().capabilities()
        {
            capabilities.check(provider, spec, violations);
        }
    }

    /// Returns the provider of a key pair, or says that it is off in this mode.
    fn provider_of(&self, key_pair: &KeyPair) -> Result<&Arc<ProviderHandle>, ServiceError> {
        self.registry
            .provider(key_pair.provider())
            .ok_or_else(|| self.provider_off(&key_pair.id, key_pair.provider()))
    }

    /// Says that a provider is off in this mode which a key pair needs.
    fn provider_off(&self, id: &KeyPairId, provider: ProviderKind) -> ServiceError {
        ServiceError::ProviderOff {
            id: id.to_string(),
            provider,
            mode: self.registry.policy().mode,
        }
    }
}

/// How many key files are read or written at once: a key derived from a password takes a processor for a second.
const FILES_AT_ONCE: usize = 2;
/// How many pages of lists are read and written at once, of about 4 MiB each.
const LISTS: Shares = Shares {
    in_all: 4,
    for_peer: 2,
    for_connection: 1,
};

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod events_tests;
#[cfg(test)]
mod rotation_bound_tests;
#[cfg(test)]
mod rotation_race_tests;
#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod tests;
