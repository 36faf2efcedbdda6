//! Ends intents: destroys keys that no key pair has, as far as they are ours beyond doubt.

use tracing::{info, warn};

use super::issue::on_token;
use super::{Service, ServiceError};
use crate::domain::{KeyRef, PublicKey, RequestId};
use crate::providers::{Lane, LinkedKey, Operation, ProviderHandle};
use crate::store::{Intent, IntentState};

/// What came of the intents of a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Keys of which nothing is left.
    pub(super) destroyed: usize,
    /// Half-made objects that were destroyed.
    pub(super) swept: usize,
}

impl Service {
    /// Destroys all keys of a provider that are to be destroyed. One that cannot be destroyed does
    /// not keep the others from it.
    ///
    /// # Errors
    /// The first failure, when all were tried.
    pub(super) async fn settle(&self, handle: &ProviderHandle) -> Result<Settled, ServiceError> {
        let mut settled = Settled::default();
        let mut all = Ok(());
        let mut aborted = Vec::new();
        for intent in self.intents_of(handle).await? {
            let done = match intent.state {
                IntentState::Creating | IntentState::Doubtful => continue,
                IntentState::Aborted => {
                    let destroyed = self.destroy(handle, &intent).await;
                    destroyed.map(|()| aborted.push(intent))
                }
                IntentState::Destroying => {
                    let finished = self.finish_intent(handle, &intent).await;
                    finished.map(|()| settled.note(&intent))
                }
            };
            if let Err(failure) = done {
                handle.availability()?;
                all = all.and(Err(failure));
            }
        }
        if !aborted.is_empty() {
            // Before the intents end, so that a crash in between leaves the reason to look for what
            // has no CKA_ID.
            settled.swept = sweep(handle).await?;
            for intent in aborted {
                self.store.end_intent(intent.key_ref).await?;
                settled.note(&intent);
            }
        }
        all.map(|()| settled)
    }

    /// Destroys the key of one intent with all that was made for it, and ends the intent.
    pub(super) async fn finish_intent(
        &self,
        handle: &ProviderHandle,
        intent: &Intent,
    ) -> Result<(), ServiceError> {
        let sweeps = intent.state == IntentState::Aborted;
        self.end_key(handle, intent, sweeps).await
    }

    /// Does the same, and looks for half-made objects only when told.
    pub(super) async fn end_key(
        &self,
        handle: &ProviderHandle,
        intent: &Intent,
        sweeps: bool,
    ) -> Result<(), ServiceError> {
        self.destroy(handle, intent).await?;
        if sweeps {
            sweep(handle).await?;
        }
        Ok(self.store.end_intent(intent.key_ref).await?)
    }

    /// Destroys what a provider has of a key.
    ///
    /// A linked key that shares its `CKA_ID` with another private key by now is left, and becomes
    /// doubtful.
    async fn destroy(&self, handle: &ProviderHandle, intent: &Intent) -> Result<(), ServiceError> {
        let key_ref = intent.key_ref;
        let _in_order = self.token_changes.lock().await;
        // The intent was read before: the key may have been linked or ended since.
        if self.store.intent(key_ref).await?.as_ref() != Some(intent) {
            return Ok(());
        }
        let Some(public_key) = intent.linked.clone() else {
            let destroy = handle.run(Lane::Manage, Operation::Destroy, move |provider| {
                provider.destroy(key_ref)
            });
            return Ok(destroy.await?);
        };
        let destroy = on_token(Operation::Destroy, move |token| {
            token.destroy_linked_key(key_ref, &public_key)
        });
        match handle
            .run(Lane::Manage, Operation::Destroy, destroy)
            .await?
        {
            LinkedKey::Present | LinkedKey::Missing => Ok(()),
            LinkedKey::Replaced => {
                warn!(
                    key_pair = %intent.id, cka_id = %key_ref,
                    "a linked key was to be destroyed, and another private key has its CKA_ID now; that one is left alone"
                );
                Ok(())
            }
            LinkedKey::Ambiguous => {
                self.store.doubt(key_ref).await?;
                warn!(
                    key_pair = %intent.id, cka_id = %key_ref, remedy = SEVERAL_KEYS_REMEDY,
                    "a linked key was to be destroyed, and several private keys have its CKA_ID; none is destroyed"
                );
                Err(several_keys("id"))
            }
        }
    }

    /// Looks at what the token has of a linked key.
    pub(super) async fn look_at_linked_key(
        &self,
        handle: &ProviderHandle,
        key_ref: KeyRef,
        public_key: PublicKey,
    ) -> Result<LinkedKey, ServiceError> {
        let look = on_token(Operation::Inventory, move |token| {
            token.look_at_linked_key(key_ref, &public_key)
        });
        Ok(handle.run(Lane::Manage, Operation::Inventory, look).await?)
    }

    /// Ends what earlier attempts of a request have left, before it is tried again.
    ///
    /// # Errors
    /// [`ServiceError::RequestUnfinished`] when that is not possible yet.
    pub(super) async fn finish_attempts(&self, request: &RequestId) -> Result<(), ServiceError> {
        self.tell_untold().await?;
        for intent in self.store.intents().await? {
            if intent.request.as_ref() != Some(request) || intent.state == IntentState::Doubtful {
                continue;
            }
            let finished = match self.registry.provider(intent.provider) {
                // It is of this request, which no other call answers now.
                _ if intent.state == IntentState::Creating => Err(ServiceError::RequestUnfinished),
                Some(handle) => self.finish_intent(handle, &intent).await,
                // What it left is undone when the mode has its provider again; it stops no other
                // work unless it has the id: see `refuse_held_elsewhere`.
                None => Ok(()),
            };
            if let Err(error) = finished {
                warn!(key_pair = %intent.id, cka_id = %intent.key_ref, %error, "an earlier attempt of a request is not undone yet");
                return Err(ServiceError::RequestUnfinished);
            }
        }
        Ok(())
    }

    /// Returns the intents of a provider.
    async fn intents_of(&self, handle: &ProviderHandle) -> Result<Vec<Intent>, ServiceError> {
        self.tell_untold().await?;
        let mut intents = self.store.intents().await?;
        intents.retain(|intent| intent.provider == handle.kind());
        Ok(intents)
    }

    /// Tells the store of creations that ended when it could not be told.
    async fn tell_untold(&self) -> Result<(), ServiceError> {
        let untold: Vec<_> = {
            let untold = self.untold.lock();
            untold
                .iter()
                .map(|(key_ref, remains)| (*key_ref, *remains))
                .collect()
        };
        for (key_ref, remains) in untold {
            self.store.abort_creation(key_ref, remains).await?;
            self.untold.lock().remove(&key_ref);
        }
        Ok(())
    }
}

impl Settled {
    /// Counts a key, and says so.
    fn note(&mut self, intent: &Intent) {
        self.destroyed += 1;
        info!(key_pair = %intent.id, cka_id = %intent.key_ref, "destroyed a key that no key pair has");
    }
}

/// Destroys half-made objects, which have no `CKA_ID` yet.
pub(super) async fn sweep(handle: &ProviderHandle) -> Result<usize, ServiceError> {
    let sweep = on_token(Operation::Destroy, |token| token.sweep_half_made());
    Ok(handle
        .run_to_end(Lane::Manage, Operation::Destroy, sweep)
        .await?)
}

/// Says that a linked key cannot be told from another one, and so is not destroyed.
pub(super) fn several_keys(field: &'static str) -> ServiceError {
    ServiceError::invalid(
        field,
        crate::domain::Refusal::new(
            "several private keys on the token now share this linked key's CKA_ID, so none was destroyed; remove the others with the token's own tools",
        ),
    )
}

const SEVERAL_KEYS_REMEDY: &str = "remove those that are not meant by the token's own tools, then run keypairctl doubtful-keys destroy";
