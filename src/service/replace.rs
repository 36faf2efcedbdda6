//! Puts a changed key pair in the place of what it was, and its certificate on the token.

use tracing::warn;

use super::issue;
use super::{Service, ServiceError};
use crate::domain::{KeyOrigin, KeyPair, ProviderKind};
use crate::providers::{KeyName, Lane, Operation, ProviderHandle};

impl Service {
    /// Records a changed key pair, and tells the token of its certificate.
    pub(super) async fn replace(
        &self,
        was: &KeyPair,
        becomes: &KeyPair,
    ) -> Result<(), ServiceError> {
        self.record_replaced(was, becomes).await?;
        self.publish_replaced(becomes).await;
        Ok(())
    }

    /// Records a changed key pair, unless somebody else has changed or deleted it since it was read.
    pub(super) async fn record_replaced(
        &self,
        was: &KeyPair,
        becomes: &KeyPair,
    ) -> Result<(), ServiceError> {
        let replaced = self.store.replace(was, becomes).await?;
        self.signing_keys.forget(&was.id);
        match replaced {
            true => Ok(()),
            false => Err(self.changed_or_gone(was).await?),
        }
    }

    /// Puts the certificate of a changed key pair on the token. When that fails it is done later: the record
    /// is what counts, and the token has a copy for other programs.
    pub(super) async fn publish_replaced(&self, key_pair: &KeyPair) {
        if let Err(error) = self.try_publish(key_pair).await {
            warn!(key_pair = %key_pair.id, %error, "the new certificate is put on the token later");
        }
    }

    /// Puts the certificates on the token that it lacks since they were replaced.
    pub(super) async fn publish_unpublished(
        &self,
        handle: &ProviderHandle,
    ) -> Result<(), ServiceError> {
        for id in self.store.unpublished().await? {
            let Some(key_pair) = self.store.key_pair(&id).await? else {
                continue;
            };
            if key_pair.provider == handle.kind() {
                self.try_publish(&key_pair).await?;
            }
        }
        Ok(())
    }

    async fn try_publish(&self, key_pair: &KeyPair) -> Result<(), ServiceError> {
        // What lies beside a linked key is not ours.
        if key_pair.provider == ProviderKind::Hsm && key_pair.origin != KeyOrigin::Linked {
            let handle = self.running(key_pair.provider, Operation::PublishCertificate)?;
            let (name, certificate) = (KeyName::of(key_pair), key_pair.current.certificate.clone());
            let operation = Operation::PublishCertificate;
            let replace = issue::on_token(operation, move |token| {
                token.replace_certificate(&name, &certificate)
            });
            handle.run(Lane::Manage, operation, replace).await?;
        }
        Ok(self.store.note_published(key_pair).await?)
    }
}
