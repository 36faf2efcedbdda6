//! Keys of which this store does not know whether they are ours to destroy. An operator decides.

use std::sync::Arc;

use tracing::{Instrument, info, warn};

use super::issue::on_token;
use super::link::decode_hex;
use super::{Service, ServiceError};
use crate::domain::{Generation, KeyPairId, KeyRef, ProviderKind, Refusal};
use crate::providers::{CryptoProvider, KeySearch, Lane, Operation, ProviderHandle};
use crate::store::{Intent, IntentState};
use crate::telemetry::Call;

/// A key on the token that the store has an intent of, and that may belong to a key pair which the
/// store does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoubtfulKey {
    /// Its `CKA_ID`.
    pub key_ref: KeyRef,
    /// The key pair it was or should be of.
    pub key_pair: KeyPairId,
    /// Its number within that key pair.
    pub generation: Generation,
    /// The provider.
    pub provider: ProviderKind,
    /// Whether it was linked: another program made it.
    pub is_linked: bool,
    /// Whether it can be told from other keys with its `CKA_ID`.
    can_be_told: bool,
}

impl From<Intent> for DoubtfulKey {
    fn from(intent: Intent) -> Self {
        Self {
            key_ref: intent.key_ref,
            key_pair: intent.id,
            generation: intent.generation,
            provider: intent.provider,
            is_linked: intent.linked.is_some() || !intent.key_ref.may_be_chosen_here(),
            can_be_told: intent.linked.is_some() || intent.key_ref.may_be_chosen_here(),
        }
    }
}

impl Service {
    /// Returns the doubtful keys. Reaches no device.
    pub async fn doubtful_keys(&self) -> Result<Vec<DoubtfulKey>, ServiceError> {
        let intents = self.store.intents().await?.into_iter();
        let doubtful = intents.filter(|intent| intent.state == IntentState::Doubtful);
        Ok(doubtful.map(DoubtfulKey::from).collect())
    }

    /// Returns the intent of a key if it is doubtful.
    pub(super) async fn doubtful_intent(
        &self,
        key_ref: KeyRef,
    ) -> Result<Option<Intent>, ServiceError> {
        let mut intents = self.store.intents().await?.into_iter();
        Ok(intents
            .find(|intent| intent.key_ref == key_ref && intent.state == IntentState::Doubtful))
    }

    /// Destroys a doubtful key, because an operator says that no key pair has it: by its `CKA_ID`,
    /// in hexadecimal digits.
    ///
    /// A linked key whose public key is not known is not destroyed. This ends its doubt when the
    /// token has no private key with its `CKA_ID` any more.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::DoubtfulKeyNotFound`]; [`ServiceError::ProviderOff`];
    /// [`ServiceError::Provider`]: then the destruction goes on when the token is back.
    pub async fn destroy_doubtful_key(
        self: &Arc<Self>,
        private_key_id: &str,
    ) -> Result<(), ServiceError> {
        let not_found =
            || ServiceError::DoubtfulKeyNotFound(private_key_id.chars().take(128).collect());
        let key_ref = decode_hex(private_key_id).and_then(|id| KeyRef::from_slice(&id));
        let key_ref = key_ref.ok_or_else(not_found)?;
        let doubtful = self.doubtful_keys().await?;
        let key = doubtful.into_iter().find(|key| key.key_ref == key_ref);
        let key = key.ok_or_else(not_found)?;
        self.serving(&key.key_pair, key.provider)?;
        let service = Arc::clone(self);
        let work = async move { service.destroy_found_doubtful(&key).await };
        let destroyed = self.tasks.spawn(work.instrument(Call::current_span()));
        match destroyed.await?? {
            true => Ok(()),
            false => Err(not_found()),
        }
    }

    /// Returns false when the key is not doubtful any more.
    async fn destroy_found_doubtful(&self, key: &DoubtfulKey) -> Result<bool, ServiceError> {
        let handle = self.serving(&key.key_pair, key.provider)?;
        if !key.can_be_told {
            refuse_present(handle, key.key_ref).await?;
            return Ok(self.store.end_doubt(key.key_ref).await?);
        }
        let Some(intent) = self.store.schedule_destruction(key.key_ref).await? else {
            return Ok(false);
        };
        info!(key_pair = %key.key_pair, cka_id = %key.key_ref, "an operator has a doubtful key destroyed");
        self.finish_intent(handle, &intent).await?;
        Ok(true)
    }

    /// Says which keys are doubtful, so that an operator decides.
    pub(super) async fn log_doubtful_keys(&self) {
        let doubtful = match self.doubtful_keys().await {
            Ok(doubtful) => doubtful,
            Err(error) => return warn!(%error, "doubtful keys cannot be listed"),
        };
        for key in doubtful.iter().take(LOGGED_MAX) {
            warn!(
                key_pair = %key.key_pair, cka_id = %key.key_ref, remedy = REMEDY,
                "a key is doubtful, and is neither used nor destroyed"
            );
        }
        if doubtful.len() > LOGGED_MAX {
            let more = doubtful.len() - LOGGED_MAX;
            warn!(
                more,
                remedy = REMEDY,
                "more keys are doubtful than have a line each"
            );
        }
    }
}

/// Refuses a key as long as the token has a private key with its `CKA_ID`.
async fn refuse_present(handle: &ProviderHandle, key_ref: KeyRef) -> Result<(), ServiceError> {
    let find = on_token(Operation::Inventory, move |token| {
        token.find_keys(&KeySearch::Id(key_ref.as_bytes().to_vec()))
    });
    let found = handle.run(Lane::Manage, Operation::Inventory, find).await?;
    if !found.is_empty() {
        let sentence = "names a linked key whose public key is not known, so it is not destroyed; remove it by the token's own tools and try again, or keep it by keypairctl link";
        return Err(ServiceError::invalid(
            "privateKeyId",
            Refusal::new(sentence),
        ));
    }
    // A token that is gone shows nothing either, and has the key when it is back.
    let probe = |provider: &dyn CryptoProvider| provider.probe();
    Ok(handle
        .run(Lane::Manage, Operation::Inventory, probe)
        .await?)
}

const REMEDY: &str = "the store was restored, or the token changed: see keypairctl doubtful-keys list; keep a key by keypairctl link, or destroy it by keypairctl doubtful-keys destroy";
/// How many doubtful keys have a line of their own in the log.
const LOGGED_MAX: usize = 20;
