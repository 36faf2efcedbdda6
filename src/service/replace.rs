//! Puts a changed key pair in the place of what it was, and its certificates on the token.

use std::sync::Arc;

use tracing::{Instrument, warn};

use super::create::stored_precision;
use super::{Service, ServiceError, issue};
use crate::domain::{EventKind, KeyPair, KeyPairId, KeyRef};
use crate::providers::{KeyName, Lane, Operation, ProviderHandle};
use crate::store::Change;
use crate::telemetry::Call;

impl Service {
    /// Has a key pair changed that a caller named: what it is now, or only what it was when the caller saw its etag. When
    /// somebody else changes it meanwhile, such as the rotation, and the caller named no etag, it is changed anew.
    ///
    /// A change is a task of its own, which goes on when its caller hangs up.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::EtagMismatch`]; [`ServiceError::ProviderOff`]; those of `change`.
    pub(super) async fn change_found<T, Changing>(
        self: &Arc<Self>,
        id: &str,
        etag: &str,
        change: impl Fn(Arc<Self>, KeyPair) -> Changing,
    ) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        Changing: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let was = self.changeable(id, etag).await?;
            let changing = change(Arc::clone(self), was);
            let changing = changing.instrument(Call::current_span());
            match self.tasks.spawn(changing).await? {
                Err(ServiceError::EtagMismatch(_)) if attempts < ATTEMPTS_MAX => {}
                changed => return changed,
            }
        }
    }

    /// Finds a key pair that is to be changed: what it is now, or only what it was when the caller saw its etag.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::EtagMismatch`]; [`ServiceError::ProviderOff`].
    pub(super) async fn changeable(&self, id: &str, etag: &str) -> Result<KeyPair, ServiceError> {
        let found = self.find(id).await?;
        if !found.is_still(etag) {
            return Err(ServiceError::EtagMismatch(id.to_owned()));
        }
        self.provider_of(&found)?;
        Ok(found)
    }

    /// Records a changed key pair, and tells the token of its certificates.
    pub(super) async fn replace(
        &self,
        was: &KeyPair,
        becomes: &KeyPair,
        change: Change,
    ) -> Result<(), ServiceError> {
        self.record_replaced(was, becomes, change).await?;
        self.publish_replaced(&becomes.id).await;
        Ok(())
    }

    /// Records a changed key pair, unless somebody else has changed or deleted it since it was read.
    pub(super) async fn record_replaced(
        &self,
        was: &KeyPair,
        becomes: &KeyPair,
        change: Change,
    ) -> Result<(), ServiceError> {
        let replaced = self.store.replace(was, becomes, change).await;
        // Whatever came of it: what is kept must be true.
        self.signing_keys.forget(&was.id);
        match replaced {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.changed_or_gone(was).await?),
            Err(failure) => {
                let is_replaced = |now: Option<&KeyPair>| now == Some(becomes);
                Ok(self.recorded(&was.id, failure, is_replaced).await?)
            }
        }
    }

    /// Says what happens now to a key pair.
    pub(super) fn change(&self, event: Option<EventKind>) -> Change {
        Change {
            time: stored_precision(self.clock.now()),
            event,
            sealed_key: None,
        }
    }

    /// Puts the certificates of a changed key pair on the token. When that fails it is done later: the record
    /// is what counts, and the token has a copy for other programs.
    pub(super) async fn publish_replaced(&self, id: &KeyPairId) {
        let published = async {
            for (_, key_ref) in self.store.unpublished(Some(id)).await? {
                self.publish_again(id, key_ref).await?;
            }
            Ok::<_, ServiceError>(())
        };
        if let Err(error) = published.await {
            warn!(key_pair = %id, %error, "a new certificate is put on the token later");
        }
    }

    /// Puts the certificates on the token that it lacks since they are new. One that it refuses
    /// does not stop the others.
    ///
    /// # Errors
    /// The first failure, when all were tried.
    pub(super) async fn publish_unpublished(
        &self,
        handle: &ProviderHandle,
    ) -> Result<(), ServiceError> {
        let mut all = Ok(());
        for (id, key_ref) in self.store.unpublished(None).await? {
            let Some(key_pair) = self.store.key_pair(&id).await? else {
                continue;
            };
            let generation = key_pair.generation_of(key_ref);
            if generation.is_some_and(|generation| generation.provider == handle.kind()) {
                all = all.and(self.publish_again(&id, key_ref).await);
            }
            handle.availability()?;
        }
        all
    }

    /// Puts the certificate that a key has now on the token, in the place of those it has there,
    /// unless it is there.
    ///
    /// The record is read while no other task changes the token, so that of two certificates the
    /// later one stays, and none is put beside a key that was deleted meanwhile.
    pub(super) async fn publish_again(
        &self,
        id: &KeyPairId,
        key_ref: KeyRef,
    ) -> Result<(), ServiceError> {
        let in_order = self.token_changes.lock().await;
        let key_pair = self.store.key_pair(id).await?;
        let generation = key_pair
            .as_ref()
            .and_then(|key_pair| key_pair.generation_of(key_ref));
        let Some(generation) = generation else {
            return Ok(());
        };
        if generation.has_certificate_on_token() {
            let operation = Operation::PublishCertificate;
            let handle = self.running(generation.provider, operation)?;
            let name = KeyName::of(id, generation);
            let certificate = generation.certificate.clone();
            let replace = issue::on_token(operation, move |token| {
                token.replace_certificate(&name, &certificate)
            });
            handle.run(Lane::Manage, operation, replace).await?;
        }
        drop(in_order);
        let certificate = &generation.certificate;
        Ok(self.store.note_published(key_ref, certificate).await?)
    }
}

/// How often a change is tried that somebody else keeps getting in the way of.
const ATTEMPTS_MAX: u32 = 5;
