//! Moves software key pairs into the token.

use std::sync::Arc;

use tracing::info;

use super::create::intent;
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{KeyOrigin, KeyPair, KeyPairGeneration, KeyRef, ProviderKind, Refusal};
use crate::providers::{KeyName, Lane, Operation, ProviderHandle};

impl Service {
    /// Moves a software key pair into the token under the same id. A key pair that is there already is returned
    /// as it is.
    ///
    /// The token has proved the key by a signature before the record changes over, in one step, and with it
    /// the software copy is gone. What is broken off before leaves a condemned key on the token, which is
    /// cleared away like that of a broken-off generation.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairNotFound`]; [`ServiceError::EtagMismatch`];
    /// [`ServiceError::ProviderOff`]; [`ServiceError::Provider`].
    pub async fn migrate(
        self: &Arc<Self>,
        id: &str,
        to: Option<ProviderKind>,
        etag: &str,
    ) -> Result<KeyPairView, ServiceError> {
        self.check_destination(to)
            .map_err(|refusal| ServiceError::invalid("cryptoProvider", refusal))?;
        let becomes = self.change_found(id, etag, |service, was| async move {
            match was.provider() {
                ProviderKind::Hsm => Ok(was),
                ProviderKind::Local => service.move_to_token(was).await,
            }
        });
        Ok(self.view(becomes.await?))
    }

    fn check_destination(&self, to: Option<ProviderKind>) -> Result<(), Refusal> {
        match self.registry.policy().narrow(to)? {
            Some(ProviderKind::Hsm) => Ok(()),
            Some(ProviderKind::Local) => Err(Refusal::new(
                "must be HSM: a key does not come back from the token",
            )),
            None => Err(Refusal::new("is required, and must be HSM")),
        }
    }

    async fn move_to_token(&self, was: KeyPair) -> Result<KeyPair, ServiceError> {
        self.refuse_unsupported("id", ProviderKind::Hsm, &was.current.public_key)?;
        let token = self.running(ProviderKind::Hsm, Operation::Import)?;
        let name = KeyName {
            id: was.id.clone(),
            generation: was.current.number,
            key_ref: KeyRef::from_random(self.entropy.bits_128()?),
        };
        self.store.begin_succession(intent(token, &name)).await?;
        let moved = self.try_move(token, &name, &was).await;
        if moved.is_err() {
            self.undo(token, &name).await;
        }
        let becomes = moved?;
        // The record knows it no more, and the software provider forgets it.
        let (software, key_ref) = (self.provider_of(&was)?, was.current.key_ref);
        software
            .run(Lane::Sign, Operation::Destroy, move |provider| {
                provider.destroy(key_ref)
            })
            .await?;
        info!(key_pair = %becomes.id, key_ref = %name.key_ref, "moved a key pair into the token");
        self.publish_replaced(&becomes).await;
        Ok(becomes)
    }

    async fn try_move(
        &self,
        token: &ProviderHandle,
        name: &KeyName,
        was: &KeyPair,
    ) -> Result<KeyPair, ServiceError> {
        let key = self.stored_key(was).await?;
        let private_key = self
            .provider_of(was)?
            .run(Lane::Manage, Operation::Export, move |provider| {
                provider.export(&key)
            })
            .await?;
        let job_name = name.clone();
        let imported = token
            .run_to_end(Lane::Manage, Operation::Import, move |provider| {
                provider.import(&job_name, &private_key)
            })
            .await?;
        let becomes = KeyPair {
            revision: was.revision + 1,
            // The next one does not go back.
            rotation: was.rotation.map(|mut rotation| {
                rotation.next.provider = ProviderKind::Hsm;
                rotation
            }),
            current: KeyPairGeneration {
                provider: ProviderKind::Hsm,
                origin: KeyOrigin::Imported,
                key_ref: name.key_ref,
                token_attributes: imported.token_attributes,
                ..was.current.clone()
            },
            ..was.clone()
        };
        let change = self.change(None);
        self.record_replaced(was, &becomes, change).await?;
        Ok(becomes)
    }
}
