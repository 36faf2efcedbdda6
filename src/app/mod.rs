//! Puts the daemon together, runs it, and ends it. The only room that knows all the others.

mod ask_health;
mod backup;
mod connect_check;
mod error;
mod module_process;
mod shutdown;
mod system;

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use ask_health::ask_health;
pub use backup::{back_up, restore};
pub use connect_check::{Check, NotWell, Verdict, check_connections, conclude};
pub use error::StartError;
pub use module_process::{PKCS11_MODULE, serve_module};
pub use shutdown::{outlive_full_files, stop_signal};
pub use system::{environment, prepare_thread};

use crate::config::{Config, Isolation};
use crate::domain::{Clock, Entropy, KeyPairId, ProviderKind, ProviderMode};
use crate::grpc::{self, GrpcConfig, Health};
use crate::providers::isolated::IsolatedPkcs11Provider;
use crate::providers::local::{KeyEncryptionKey, KeyEncryptionKeyError, LocalProvider};
use crate::providers::pkcs11::Pkcs11Provider;
use crate::providers::{CryptoProvider, Lanes, ProviderHandle, Registry};
use crate::rest::{self, RestConfig};
use crate::server::{Addresses, Front, Listeners};
use crate::service::{RotationConfig, Service, ServiceConfig};
use crate::store::{EmbeddedStore, MetadataStore};
use crate::telemetry::{AccessLog, CallIds};
use system::{SystemClock, SystemEntropy};

/// A daemon that is ready to answer.
#[derive(Debug)]
pub struct App {
    store: Arc<EmbeddedStore>,
    service: Arc<Service>,
    listeners: Listeners,
    grpc: GrpcConfig,
    rest: RestConfig,
    shutdown_grace: Duration,
    access_log: AccessLog,
}

impl App {
    /// Opens the store, prepares the providers, and takes the addresses. Does not wait for the token.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        system::refuse_wrong_clock()?;
        let store = Arc::new(EmbeddedStore::open(&config.store.path)?);
        let app = Self::over(Arc::clone(&store), config).await;
        if app.is_err() {
            close(&store).await;
        }
        app
    }

    async fn over(store: Arc<EmbeddedStore>, config: Config) -> Result<Self, StartError> {
        let registry = registry(&config, &*store).await?;
        let metadata: Arc<dyn MetadataStore> = Arc::<EmbeddedStore>::clone(&store);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let service = Arc::new(Service::new(
            metadata,
            registry,
            Arc::clone(&clock),
            Arc::new(SystemEntropy),
            ServiceConfig {
                allow_export: config.crypto.allow_export,
                import_weak_keys: config.crypto.import_weak_keys,
                canary_interval: config.crypto.canary_interval,
                rotation: RotationConfig {
                    enabled: config.rotation.enabled,
                    check_interval: config.rotation.check_interval,
                    expiry_warning_days: config.rotation.expiry_warning_days,
                },
            },
        ));
        tell_of_hidden_key_pairs(&service, config.crypto.policy.mode).await;
        let listeners = Listeners::bind(
            &config.server,
            config.rest.cors_origins,
            system::descriptors_max(),
            service.tls_status(),
            &clock,
        )?;
        Ok(Self {
            store,
            service,
            listeners,
            grpc: GrpcConfig {
                max_message_bytes: config.server.max_message_bytes,
                request_timeout: config.server.request_timeout,
            },
            rest: RestConfig {
                base_path: config.server.rest_base_path,
                max_message_bytes: config.server.max_message_bytes,
                request_timeout: config.server.request_timeout,
            },
            shutdown_grace: config.server.shutdown_grace,
            access_log: config.access_log,
        })
    }

    /// Returns where calls are answered.
    pub fn addresses(&self) -> &Addresses {
        self.listeners.addresses()
    }

    /// Answers calls until `stop`, then lets those under way end, up to the grace period. Does so also
    /// when the store can no longer be written, which is then the error: only a new start helps.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), StartError> {
        let health = Health::new();
        let routes = grpc::routes(Arc::clone(&self.service), &self.grpc, &health)
            .map_err(StartError::Reflection)?;
        let ids = call_ids().with_access_log(self.access_log);
        let calls = grpc::call_layer(&self.grpc, ids.clone());
        let rest = rest::routes(Arc::clone(&self.service), &self.rest, ids);
        let front = Front::new(&calls, routes, rest);
        let background = CancellationToken::new();
        let connecting = tokio::spawn(Arc::clone(&self.service).keep_connected(background.clone()));
        let trying = tokio::spawn(Arc::clone(&self.service).keep_trying(background.clone()));
        let telling = tokio::spawn(Arc::clone(&self.service).keep_telling(background.clone()));
        let rotating = tokio::spawn(Arc::clone(&self.service).keep_rotating(background.clone()));
        let following = tokio::spawn({
            let (health, service) = (health.clone(), Arc::clone(&self.service));
            let background = background.clone();
            async move { background.run_until_cancelled(health.follow(service)).await }
        });

        info!(
            address = %self.listeners.addresses(),
            mode = %self.service.registry().policy().mode,
            version = crate::VERSION,
            revision = crate::REVISION,
            "serving"
        );
        shutdown::notify_ready();
        let watchdog = tokio::spawn(shutdown::feed_watchdog());
        let reading = tokio::spawn(shutdown::read_again_at_hangup(self.listeners.tls_reload()));
        let mut serving = tokio::spawn(self.listeners.serve(
            front,
            Arc::new(SystemClock),
            stop.clone(),
        ));
        let store_failure = self.service.store_failure();
        let mut store_failed = false;
        let ended_early = tokio::select! {
            () = stop.cancelled() => None,
            () = store_failure.cancelled() => {
                error!("the store can no longer be written; the daemon ends, to be started anew");
                store_failed = true;
                stop.cancel();
                None
            }
            ended = &mut serving => Some(ended),
        };

        info!("stopping");
        shutdown::notify_stopping();
        background.cancel();
        let _ = (
            connecting.await,
            trying.await,
            telling.await,
            rotating.await,
            following.await,
        );
        health.stop(&self.service).await;
        let drained = async {
            let ended = match ended_early {
                None => serving.await,
                Some(ended) => ended,
            };
            self.service.finish().await;
            ended.map_err(StartError::Ended)
        };
        let drained = tokio::time::timeout(self.shutdown_grace, drained).await;
        watchdog.abort();
        reading.abort();
        disconnect(&self.service).await;
        close(&self.store).await;
        if store_failed {
            return Err(StartError::StoreFailed);
        }
        match drained {
            Ok(ended) => {
                info!("stopped");
                ended
            }
            Err(_) => {
                warn!(grace = ?self.shutdown_grace, "stopped before all calls under way had ended");
                Ok(())
            }
        }
    }
}

/// Makes the providers of the mode.
async fn registry(config: &Config, store: &dyn MetadataStore) -> Result<Registry, StartError> {
    let mut handles = Vec::new();
    let cores = available_parallelism().map_or(1, usize::from);
    if let Some(local) = &config.crypto.local {
        let key = key_encryption_key(&local.key_encryption_key_file, store).await?;
        let lanes = Lanes {
            sign_threads: cores,
            manage_threads: cores,
            queue_length: LOCAL_QUEUE_LENGTH,
            operation_timeout: LOCAL_OPERATION_TIMEOUT,
        };
        let provider = Arc::new(LocalProvider::new(key));
        handles.push(ProviderHandle::start(provider, &lanes).map_err(StartError::Threads)?);
    }
    if let Some(token) = &config.crypto.token {
        let lanes = Lanes {
            sign_threads: token.sessions,
            manage_threads: 1,
            queue_length: token.queue_length,
            operation_timeout: token.operation_timeout,
        };
        let provider: Arc<dyn CryptoProvider> = match token.isolation {
            Isolation::InProcess => Arc::new(Pkcs11Provider::new(token.pkcs11.clone())),
            Isolation::Process => {
                let command = module_process::command(&config.telemetry);
                let (pkcs11, call_max) = (token.pkcs11.clone(), token.operation_timeout);
                Arc::new(IsolatedPkcs11Provider::new(pkcs11, command, call_max))
            }
        };
        handles.push(ProviderHandle::start(provider, &lanes).map_err(StartError::Threads)?);
    }
    let handles = handles.into_iter().map(Arc::new).collect();
    Ok(Registry::new(config.crypto.policy, handles))
}

/// Reads the key encryption key that the store was made with, or, for a new store, makes one.
async fn key_encryption_key(
    path: &std::path::Path,
    store: &dyn MetadataStore,
) -> Result<KeyEncryptionKey, StartError> {
    if let Some(check) = store.key_encryption_check().await? {
        let key = KeyEncryptionKey::read(path)?;
        if !key.recognises(&check) {
            return Err(KeyEncryptionKeyError::Wrong(path.to_owned()).into());
        }
        return Ok(key);
    }
    let key = match KeyEncryptionKey::read(path) {
        Err(KeyEncryptionKeyError::Missing(_)) => {
            info!(file = %path.display(), "made a new key encryption key; keep a copy of it in a safe place");
            KeyEncryptionKey::create(path)?
        }
        read => read?,
    };
    store
        .record_key_encryption_check(key.check_value()?)
        .await?;
    Ok(key)
}

/// Returns what tells the calls of this run of the daemon from those of others, in the log.
fn call_ids() -> CallIds {
    let run = KeyPairId::from_random(SystemEntropy.bits_128().unwrap_or_default());
    CallIds::new(run.as_str().get(..RUN_LEN).unwrap_or_default())
}

/// Says what the store has that this mode does not show.
async fn tell_of_hidden_key_pairs(service: &Service, mode: ProviderMode) {
    for kind in ProviderKind::ALL {
        if mode.serves(kind) {
            continue;
        }
        match service.count(kind).await {
            Ok(0) => {}
            Ok(count) => warn!(
                count,
                "key pairs in {kind} are kept in the store but not served in {mode} mode; set crypto.mode to hybrid to use them"
            ),
            Err(error) => warn!(%error, "the key pairs in {kind} cannot be counted"),
        }
    }
}

/// Logs out of the token, unless a call in it does not come back.
async fn disconnect(service: &Service) {
    for handle in service.registry().iter().map(Arc::clone) {
        let disconnected = tokio::task::spawn_blocking(move || handle.disconnect());
        let _ = tokio::time::timeout(DISCONNECT_TIMEOUT, disconnected).await;
    }
}

/// Closes the store, unless another task keeps it busy.
async fn close(store: &EmbeddedStore) {
    if tokio::time::timeout(CLOSE_TIMEOUT, store.close())
        .await
        .is_err()
    {
        warn!(
            "the store could not be closed in time; nothing is lost, and its log stays beside it"
        );
    }
}

/// How many characters tell one run of the daemon from another.
const RUN_LEN: usize = 8;
const LOCAL_QUEUE_LENGTH: usize = 1024;
const LOCAL_OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
