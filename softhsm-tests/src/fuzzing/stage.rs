//! A service with real parts, software keys and a store in a temporary folder, that every input finds in the same state.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use keypaird::domain::{
    Clock, Entropy, EntropyError, NewKeyPairSettings, ProviderKind, ProviderMode, ProviderPolicy,
    RotationSettings,
};
use keypaird::grpc::{self, CallService, GrpcConfig, Health};
use keypaird::providers::local::{KeyEncryptionKey, LocalProvider};
use keypaird::providers::{Lanes, ProviderHandle, Registry};
use keypaird::rest::{self, RestConfig};
use keypaird::service::{GenerateRequest, ListRequest, Service, ServiceConfig};
use keypaird::store::EmbeddedStore;
use keypaird::telemetry::CallIds;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tonic::service::Routes;
use tower::Layer;

/// The key pairs that there are: the first rotates.
pub(super) const IDS: [&str; 2] = ["a", "b"];

/// A service, and the transports over it.
pub(super) struct Stage {
    pub(super) service: Arc<Service>,
    pub(super) grpc: CallService<Routes>,
    pub(super) rest: Router,
    state: Vec<(String, String)>,
    _folder: TempDir,
}

/// What outlives a stage.
struct House {
    runtime: Runtime,
    local: Arc<ProviderHandle>,
    stage: Mutex<Option<Stage>>,
}

static HOUSE: LazyLock<House> = LazyLock::new(House::new);

/// Does something on a stage that is as it was in the beginning.
pub(super) fn on_stage<T>(play: impl AsyncFnOnce(&Stage) -> T) -> T {
    // After a panic, the stage of that play is left as it is, since it is looked at before it is used again.
    let mut stage = HOUSE.stage.lock().unwrap_or_else(PoisonError::into_inner);
    HOUSE.runtime.block_on(async {
        let fresh = match stage.take() {
            Some(used) if used.state == state(&used.service).await => used,
            _ => Stage::new(&HOUSE.local).await,
        };
        play(stage.insert(fresh)).await
    })
}

impl House {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let key = KeyEncryptionKey::create(&folder.path().join("key")).unwrap();
        let lanes = Lanes {
            sign_threads: 1,
            manage_threads: 1,
            queue_length: 16,
            operation_timeout: PATIENCE,
        };
        let local = runtime
            .block_on(async { ProviderHandle::start(Arc::new(LocalProvider::new(key)), &lanes) });
        Self {
            local: Arc::new(local.unwrap()),
            runtime,
            stage: Mutex::default(),
        }
    }
}

impl Stage {
    async fn new(local: &Arc<ProviderHandle>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.db")).unwrap();
        // In hybrid mode, with the token away.
        let policy = ProviderPolicy {
            mode: ProviderMode::Hybrid,
            default: ProviderKind::Local,
        };
        let service = Arc::new(Service::new(
            Arc::new(store),
            Registry::new(policy, vec![Arc::clone(local)]),
            Arc::new(Noon),
            Arc::new(Counting),
            ServiceConfig {
                allow_export: true,
                import_weak_keys: true,
                ..ServiceConfig::default()
            },
        ));
        for id in IDS {
            generate(&service, id).await;
        }
        let grpc_config = GrpcConfig {
            max_message_bytes: MESSAGE_LEN_MAX,
            request_timeout: PATIENCE,
        };
        let rest_config = RestConfig {
            base_path: crate::http::BASE.to_owned(),
            max_message_bytes: MESSAGE_LEN_MAX,
            request_timeout: PATIENCE,
        };
        let ids = CallIds::new("fuzz");
        let routes = grpc::routes(Arc::clone(&service), &grpc_config, &Health::new()).unwrap();
        Self {
            grpc: grpc::call_layer(&grpc_config, ids.clone()).layer(routes),
            rest: rest::routes(Arc::clone(&service), &rest_config, ids),
            state: state(&service).await,
            service,
            _folder: folder,
        }
    }
}

async fn generate(service: &Arc<Service>, id: &str) {
    let rotation_settings = (id == IDS[0]).then(|| RotationSettings {
        creation_buffer_days: 30,
        activation_buffer_days: 10,
        ..RotationSettings::default()
    });
    let settings = NewKeyPairSettings {
        id: Some(id.into()),
        common_name: "Example".into(),
        organization: "Acme".into(),
        country: "US".into(),
        valid_days: 100,
        key_algorithm: "EC".into(),
        rotation_settings,
        ..NewKeyPairSettings::default()
    };
    let request = GenerateRequest {
        settings,
        ..GenerateRequest::default()
    };
    service.generate(request).await.unwrap();
}

/// Tells one state of the store from another.
async fn state(service: &Service) -> Vec<(String, String)> {
    let page = service.list(ListRequest::default()).await.unwrap();
    let pairs = page.key_pairs.into_iter().map(|view| view.key_pair);
    pairs
        .map(|pair| (pair.id.to_string(), pair.etag()))
        .collect()
}

/// A clock that stands still.
#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_435_200).unwrap()
    }
}

/// Bits that never come again: the provider, which outlives a stage, knows keys by them.
#[derive(Debug)]
struct Counting;

impl Entropy for Counting {
    fn bits_128(&self) -> Result<[u8; 16], EntropyError> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(u128::from(count).to_be_bytes())
    }
}

const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;
/// How long anything may take. A fuzzer looks after that itself, and may be stopped for a while.
pub(super) const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
