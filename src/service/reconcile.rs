//! Brings the token in line with the store: what was broken off is cleared away, what is missing is told
//! or mended, and what is not ours is left alone.

use std::collections::HashMap;

use tracing::{error, info, warn};

use super::{Service, ServiceError, issue};
use crate::domain::{KeyPairId, KeyRef};
use crate::providers::{
    Lane, Operation, ProviderError, ProviderHandle, TokenObject, TokenObjectClass, TokenObjects,
};
use crate::store::Intent;

/// What a look at the token found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reconciled {
    /// Condemned keys that were destroyed.
    pub(super) destroyed: usize,
    /// Half-made objects that were destroyed.
    pub(super) swept: usize,
    /// Key pairs whose private key is not on the token.
    pub(super) missing: usize,
    /// Certificates that were put on the token again.
    pub(super) republished: usize,
    /// Objects that belong to nobody we know.
    pub(super) foreign: usize,
}

/// What the token has of one of our keys.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    private_key: bool,
    certificate: bool,
}

impl Service {
    /// Looks at all objects of a token, slice by slice, beside other work.
    ///
    /// A key pair whose key the token does not show is reported and kept: the token may be another one, or
    /// restored from an old copy.
    pub(super) async fn reconcile(
        &self,
        handle: &ProviderHandle,
    ) -> Result<Reconciled, ServiceError> {
        let mut done = Reconciled::default();
        if !self.condemned(handle).await?.is_empty() {
            // An object whose creation was broken off early has no CKA_ID yet. It goes before its intent is
            // ended, so that a crash in between leaves the reason to look for it.
            done.swept =
                token_call(handle, Operation::Destroy, |token| token.sweep_half_made()).await?;
            match self.settle_condemned(handle).await {
                Ok(destroyed) => done.destroyed = destroyed,
                Err(error) => warn!(%error, "condemned keys could not be destroyed yet"),
            }
        }
        let mut keys = HashMap::new();
        for (key_ref, id) in self.store.keys_of(handle.kind()).await? {
            keys.insert(key_ref, (id, Seen::default()));
        }
        let known = keys.len();
        token_call(handle, Operation::Inventory, |token| {
            token.begin_inventory()
        })
        .await?;
        loop {
            let slice = token_call(handle, Operation::Inventory, |token| {
                token.continue_inventory()
            })
            .await?;
            if slice.is_empty() {
                break;
            }
            for object in &slice {
                done.foreign += usize::from(!note(object, &mut keys));
            }
        }
        for (key_ref, (id, seen)) in keys {
            // Key pairs that were made or deleted meanwhile are not lacking anything.
            if seen.private_key && seen.certificate {
                continue;
            }
            let key_pair = self.store.key_pair(&id).await?;
            let generation = key_pair
                .as_ref()
                .and_then(|pair| pair.generation_of(key_ref));
            let (Some(key_pair), Some(generation)) = (&key_pair, generation) else {
                continue;
            };
            if !seen.private_key {
                done.missing += 1;
                if done.missing <= MISSING_TOLD_MAX {
                    warn!(key_pair = %id, %key_ref, "the token does not show the private key of a key pair");
                }
                continue;
            }
            if !generation.has_certificate_on_token() {
                continue;
            }
            // It may have been put there since it was looked for, so that it is looked for once more.
            match self.publish_again(key_pair, key_ref).await {
                Ok(()) => done.republished += 1,
                Err(error) => {
                    warn!(key_pair = %id, %error, "a certificate could not be put on the token again");
                }
            }
        }
        if done.missing > 0 && done.missing == known {
            error!(
                missing = done.missing,
                "the token shows none of our private keys: it was initialised anew, or is another one of the same name; put its copy back"
            );
        }
        let unpublished = !self.store.unpublished(None).await?.is_empty();
        if let Err(error) = self.publish_unpublished(handle).await {
            warn!(%error, "new certificates could not be put on the token yet");
        }
        if unpublished || done.republished > 0 {
            // The publishing was broken off, perhaps in the middle.
            done.swept +=
                token_call(handle, Operation::Destroy, |token| token.sweep_half_made()).await?;
        }
        info!(
            destroyed = done.destroyed,
            swept = done.swept,
            missing = done.missing,
            republished = done.republished,
            foreign = done.foreign,
            "the token and the store were compared"
        );
        Ok(done)
    }

    /// Destroys the keys of a provider that are condemned, and returns how many they were. One that cannot be destroyed is in
    /// nobody's way.
    ///
    /// # Errors
    /// The first failure, when all were tried.
    pub(super) async fn settle_condemned(
        &self,
        handle: &ProviderHandle,
    ) -> Result<usize, ServiceError> {
        let mut all = Ok(0);
        for intent in &self.condemned(handle).await? {
            match self.destroy_condemned(handle, intent.key_ref).await {
                Ok(()) => {
                    info!(key_pair = %intent.id, key_ref = %intent.key_ref, "cleared away what was broken off");
                    all = all.map(|destroyed| destroyed + 1);
                }
                Err(failure) => {
                    handle.availability()?;
                    all = all.and(Err(failure));
                }
            }
        }
        all
    }

    /// Returns the condemned keys of a provider, with those that the store could not condemn when they should have been.
    async fn condemned(&self, handle: &ProviderHandle) -> Result<Vec<Intent>, ServiceError> {
        let uncondemned: Vec<_> = self.uncondemned.lock().iter().copied().collect();
        for key_ref in uncondemned {
            self.store.condemn(key_ref).await?;
            self.uncondemned.lock().remove(&key_ref);
        }
        let mut condemned = self.store.condemned().await?;
        condemned.retain(|intent| intent.provider == handle.kind());
        Ok(condemned)
    }
}

/// Notes what an object is of, and tells whether it is one of ours.
fn note(object: &TokenObject, keys: &mut HashMap<KeyRef, (KeyPairId, Seen)>) -> bool {
    let key = KeyRef::from_slice(&object.id).and_then(|key_ref| keys.get_mut(&key_ref));
    match (object.class, key) {
        (TokenObjectClass::HalfMade, _) => {
            warn!(label = object.label, "the token has a half-made object");
            false
        }
        (class, Some((_, seen))) => {
            seen.private_key |= class == TokenObjectClass::PrivateKey;
            seen.certificate |= class == TokenObjectClass::Certificate;
            true
        }
        (_, None) => false,
    }
}

async fn token_call<T: Send + 'static>(
    handle: &ProviderHandle,
    operation: Operation,
    call: impl FnOnce(&dyn TokenObjects) -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ServiceError> {
    let job = issue::on_token(operation, call);
    Ok(handle.run_to_end(Lane::Manage, operation, job).await?)
}

/// Of how many missing keys each is told by itself.
const MISSING_TOLD_MAX: usize = 20;
