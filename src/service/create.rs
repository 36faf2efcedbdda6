//! Brings a new key pair into being: key, certificate and record, or nothing of them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};

use super::delete::forget_software_key;
use super::name_lock::NameLock;
use super::{Service, ServiceError, issue};
use crate::domain::{
    Generation, KeyPair, KeyPairId, KeyRef, ProviderKind, RequestId, SealedKey, SettingsDigest,
};
use crate::providers::{
    CryptoProvider, KeyName, Lane, Operation, ProviderError, ProviderErrorKind, ProviderHandle,
};
use crate::store::{AnsweredRequest, IntentState, NewIntent, NewKeyPair, StoreError};
use crate::telemetry::Call;

/// A key pair to be made.
pub(super) struct Creation {
    /// Where its key shall live.
    pub(super) provider: ProviderKind,
    /// Its id, when the caller chose one.
    pub(super) id: Option<KeyPairId>,
    /// What is done in the provider.
    pub(super) operation: Operation,
    /// With what other work it is queued there.
    pub(super) lane: Lane,
    /// Makes key and certificate. Blocks; runs in the provider.
    pub(super) make: Box<Make>,
    /// The request, when the caller named it.
    pub(super) named: Option<Named>,
}

type Make = dyn FnOnce(&dyn CryptoProvider, KeyName) -> Result<Made, ServiceError> + Send;

/// A key with its certificate, of which no record exists yet.
pub(super) struct Made {
    /// The key pair.
    pub(super) key_pair: KeyPair,
    /// Its private key, encrypted, when the provider does not keep it.
    pub(super) sealed_key: Option<SealedKey>,
}

/// The caller's name for a request.
pub(super) struct Named {
    pub(super) request_id: RequestId,
    pub(super) settings: SettingsDigest,
    /// When it was made, by the time of named requests.
    pub(super) made_at: OffsetDateTime,
    /// The right to answer it.
    pub(super) _lock: NameLock<RequestId>,
}

impl Service {
    /// Makes a key pair. What is returned is durable.
    ///
    /// A caller that goes away before the end has the work undone, unless it named the request and so
    /// means to come back for it.
    pub(super) async fn create(
        self: &Arc<Self>,
        creation: Creation,
    ) -> Result<KeyPair, ServiceError> {
        let caller = CancellationToken::new();
        let gone = caller.clone();
        let _gone_when_dropped = caller.drop_guard();
        let service = Arc::clone(self);
        // Half a key pair is worse than a late one: the work goes on without its caller.
        let work = async move { service.create_whole(creation, gone).await };
        let created = self.tasks.spawn(work.instrument(Call::current_span()));
        let created = created.await?;
        if let Ok(created) = &created {
            Call::concerns(created.id.as_str());
        }
        created
    }

    pub(super) async fn refuse_taken(&self, id: &KeyPairId) -> Result<(), ServiceError> {
        match self.store.key_pair(id).await? {
            Some(_) => Err(ServiceError::KeyPairExists(id.to_string())),
            None => Ok(()),
        }
    }

    /// Refuses an id that is held by what was made or deleted in a provider which is off in this
    /// mode. To try again does not help.
    async fn refuse_held_elsewhere(&self, id: &KeyPairId) -> Result<(), ServiceError> {
        for intent in self.store.intents().await? {
            if intent.id == *id
                && intent.state != IntentState::Doubtful
                && self.registry.provider(intent.provider).is_none()
            {
                return Err(ServiceError::HeldInProviderOff {
                    id: id.to_string(),
                    provider: intent.provider,
                    mode: self.registry.policy().mode,
                });
            }
        }
        Ok(())
    }

    /// Makes the key pair, or leaves nothing of it.
    async fn create_whole(
        &self,
        mut creation: Creation,
        gone: CancellationToken,
    ) -> Result<KeyPair, ServiceError> {
        let handle = self.running(creation.provider, creation.operation)?;
        // A repetition waits until all of this is over, the undoing too.
        let named = creation.named.take();
        if let Some(named) = &named {
            self.finish_attempts(&named.request_id).await?;
        }
        let _id_lock = match &creation.id {
            Some(id) => Some(self.lock_id(id, named.is_some(), &gone).await?),
            None => None,
        };
        let id = match &creation.id {
            Some(id) => {
                // Only spares work: whether an id is taken is decided by the store when it is taken.
                self.refuse_taken(id).await?;
                id.clone()
            }
            None => KeyPairId::from_random(self.entropy.bits_128()?),
        };
        let name = KeyName {
            id,
            generation: Generation::FIRST,
            key_ref: KeyRef::from_random(self.entropy.bits_128()?),
        };
        let work = async {
            self.begin_creation(handle, &name, named.as_ref()).await?;
            self.create_as(handle, &name, creation, named.as_ref(), gone)
                .await
        };
        let made = self.or_undo(handle, std::slice::from_ref(&name), work);
        let key_pair = match made.await {
            Err(error @ ServiceError::CreationUnfinished(_)) => {
                self.refuse_held_elsewhere(&name.id).await?;
                return Err(error);
            }
            made => made?,
        };
        info!(
            key_pair = %name.id,
            provider = %key_pair.provider(),
            origin = ?key_pair.origin(),
            key = %key_pair.current.public_key.spec(),
            certificate = key_pair.current.certificate.sha256_fingerprint(),
            "made a key pair"
        );
        Ok(key_pair)
    }

    /// Waits until no other creation under an id is under way. Then it is known whether the id is
    /// taken: a caller that came second is not told to try again.
    ///
    /// # Errors
    /// [`ServiceError::CallerGone`], unless the request has a name.
    async fn lock_id(
        &self,
        id: &KeyPairId,
        wanted: bool,
        gone: &CancellationToken,
    ) -> Result<NameLock<KeyPairId>, ServiceError> {
        let lock = self.id_locks.lock(id.clone());
        match wanted {
            true => Ok(lock.await),
            false => {
                let locked = gone.run_until_cancelled(lock).await;
                locked.ok_or(ServiceError::CallerGone)
            }
        }
    }

    /// Makes key, certificate and record. What fails on the way is for the caller of this to undo.
    async fn create_as(
        &self,
        handle: &ProviderHandle,
        name: &KeyName,
        creation: Creation,
        named: Option<&Named>,
        gone: CancellationToken,
    ) -> Result<KeyPair, ServiceError> {
        let Creation { make, .. } = creation;
        let wanted = named.is_some();
        let (job_name, job_gone) = (name.clone(), gone.clone());
        let made = handle.run_to_end(creation.lane, creation.operation, move |provider| {
            match job_gone.is_cancelled() && !wanted {
                true => Err(ServiceError::CallerGone),
                false => make(provider, job_name),
            }
        });
        let Made {
            key_pair,
            sealed_key,
        } = made.await?;
        if gone.is_cancelled() && !wanted {
            return Err(ServiceError::CallerGone);
        }
        let request = named.map(|named| AnsweredRequest {
            request_id: named.request_id.clone(),
            settings: named.settings,
            key_pair: name.id.clone(),
            made_at: named.made_at,
        });
        // Side by side: a certificate that a crash keeps from the token is put there at the next start.
        let (published, recorded) = tokio::join!(
            issue::publish(handle, name, &key_pair.current.certificate),
            self.store.complete_creation(NewKeyPair {
                key_pair: key_pair.clone(),
                sealed_key,
                request,
                intent: keeps_keys(handle).then_some(name.key_ref),
            })
        );
        let is_ours = |now: Option<&KeyPair>| {
            now.is_some_and(|now| now.generation_of(name.key_ref).is_some())
        };
        if let Err(failure) = recorded
            && let Err(error) = self.recorded(&name.id, failure, is_ours).await
        {
            // What may be left of the certificate counts more than what is wrong with the record.
            return Err(match published {
                Err(unpublished) if may_leave_half_made(&unpublished) => unpublished,
                _ => taken(error, &name.id),
            });
        }
        // A caller may have gone while the record was written. One that goes after this look has a
        // key pair that it does not know; only a request with a name is exact.
        let published = match gone.is_cancelled() && !wanted {
            true => published.and(Err(ServiceError::CallerGone)),
            false => published,
        };
        if let Err(error) = published {
            let Err(failure) = self.take_back(&key_pair, None).await else {
                return Err(error);
            };
            let now = self.store.key_pair(&name.id).await;
            if !now.is_ok_and(|now| is_ours(now.as_ref())) {
                return Err(error);
            }
            warn!(
                key_pair = %name.id, %error, %failure,
                "the new key pair could not be undone and is kept; its certificate is put on the token at the next connection"
            );
        }
        Ok(key_pair)
    }

    /// Records that the key of a new key pair is about to be made, where a provider keeps it.
    async fn begin_creation(
        &self,
        handle: &ProviderHandle,
        name: &KeyName,
        named: Option<&Named>,
    ) -> Result<(), ServiceError> {
        if keeps_keys(handle) {
            let request = named.map(|named| named.request_id.clone());
            let begun = self
                .store
                .begin_creation(intent(handle, name, request))
                .await;
            begun.map_err(|error| taken(error, &name.id))?;
        }
        Ok(())
    }

    /// Records that another key of a key pair is about to be made, where a provider keeps it.
    pub(super) async fn begin_succession(
        &self,
        handle: &ProviderHandle,
        name: &KeyName,
    ) -> Result<(), ServiceError> {
        if keeps_keys(handle) {
            let intent = intent(handle, name, None);
            let begun = self.store.begin_succession(intent).await;
            begun.map_err(|error| match error {
                StoreError::IdGone => ServiceError::KeyPairNotFound(name.id.to_string()),
                other => other.into(),
            })?;
        }
        Ok(())
    }

    /// Does work that makes keys, and destroys what it has left of them when it fails, or panics. An intent may be recorded though
    /// the store says that it is not.
    pub(super) async fn or_undo<T>(
        &self,
        handle: &ProviderHandle,
        names: &[KeyName],
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let done = AssertUnwindSafe(work).catch_unwind().await;
        let done = done.unwrap_or(Err(ServiceError::Panicked));
        if let Err(error) = &done {
            let sweeps = may_leave_half_made(error);
            for name in names {
                match keeps_keys(handle) {
                    true => self.undo(handle, name, sweeps).await,
                    false => forget_software_key(handle, name.key_ref).await,
                }
            }
        }
        done
    }

    /// Destroys what a failed creation may have left in the provider, now or when that is possible.
    ///
    /// What is recorded is not touched, whatever the store said of the recording: first the store
    /// notes that the creation has ended, and it does so only as long as the key has no record.
    async fn undo(&self, handle: &ProviderHandle, name: &KeyName, sweeps: bool) {
        // Never as a key of a deleted key pair, whose id a repeated deletion would answer for.
        let aborted = IntentState::Aborted;
        let undone = match self.store.abort_creation(name.key_ref, aborted).await {
            Ok(Some(intent)) => self.end_key(handle, &intent, sweeps).await,
            Ok(None) => Ok(()),
            Err(error) => {
                self.untold.lock().insert(name.key_ref, aborted);
                Err(error.into())
            }
        };
        if let Err(error) = undone {
            warn!(key_pair = %name.id, key_ref = %name.key_ref, %error, "a failed creation is undone later");
        }
    }

    /// Returns the provider that a key pair needs, when it can be used now.
    pub(super) fn serving(
        &self,
        id: &KeyPairId,
        provider: ProviderKind,
    ) -> Result<&Arc<ProviderHandle>, ServiceError> {
        let handle = self.registry.provider(provider);
        let handle = handle.ok_or_else(|| self.provider_off(id, provider))?;
        handle.availability()?;
        Ok(handle)
    }

    /// Returns a provider that can be used now.
    pub(super) fn running(
        &self,
        provider: ProviderKind,
        operation: Operation,
    ) -> Result<&Arc<ProviderHandle>, ServiceError> {
        let unavailable =
            || ProviderError::new(provider, operation, ProviderErrorKind::Unavailable);
        let handle = self.registry.provider(provider).ok_or_else(unavailable)?;
        handle.availability()?;
        Ok(handle)
    }
}

/// Tells whether a provider keeps keys itself. One in software comes to be with its record, or not
/// at all.
fn keeps_keys(handle: &ProviderHandle) -> bool {
    handle.kind().keeps_keys()
}

/// What is recorded before a key is made in a provider that keeps it.
fn intent(handle: &ProviderHandle, name: &KeyName, request: Option<RequestId>) -> NewIntent {
    NewIntent {
        key_ref: name.key_ref,
        id: name.id.clone(),
        generation: name.generation,
        provider: handle.kind(),
        request,
    }
}

/// Tells whether a creation that ended with this error may have left objects that are not made to
/// the end, and so do not have the `CKA_ID` of the key.
///
/// A provider that answered has made the key, or has undone what it began: see
/// [`CryptoProvider::generate`].
fn may_leave_half_made(error: &ServiceError) -> bool {
    match error {
        // A job that panicked, or was lost with its thread, is told as one that failed.
        ServiceError::Provider(failure) => !matches!(
            failure.kind,
            ProviderErrorKind::Busy
                | ProviderErrorKind::Unsupported
                | ProviderErrorKind::NotPermitted
                | ProviderErrorKind::Untrustworthy
        ),
        ServiceError::Panicked | ServiceError::Lost(_) => true,
        _ => false,
    }
}

/// Says why an id cannot be had.
pub(super) fn taken(error: StoreError, id: &KeyPairId) -> ServiceError {
    match error {
        StoreError::IdTaken => ServiceError::KeyPairExists(id.to_string()),
        StoreError::IdUnfinished => ServiceError::CreationUnfinished(id.to_string()),
        StoreError::IdDoubtful => ServiceError::IdDoubtful(id.to_string()),
        other => other.into(),
    }
}

/// Cuts a time to the microseconds that are stored, so that it is shown alike before and after.
pub(super) fn stored_precision(now: OffsetDateTime) -> OffsetDateTime {
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}
