//! Moves software key pairs into the token.

use std::sync::Arc;

use tracing::info;

use super::{KeyPairView, Service, ServiceError};
use crate::domain::{
    KeyOrigin, KeyPair, KeyPairGeneration, KeyRef, ProviderKind, Refusal, Violations,
};
use crate::providers::{KeyName, Lane, Operation, ProviderHandle};

impl Service {
    /// Moves a software key pair into the token under the same id, with the next generation if one is pending. A key pair
    /// that is there already is returned as it is.
    ///
    /// The token has proved each key by a signature before the record changes over, in one step,
    /// and with it the software copies are gone. What ends before that leaves keys on the token
    /// that are destroyed like that of any creation that ended.
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
        Ok(self.shown(becomes.await?).await)
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

    /// Moves the keys that sign, now and next. Those that did are destroyed where they are, when they expire.
    async fn move_to_token(&self, was: KeyPair) -> Result<KeyPair, ServiceError> {
        let moving: Vec<_> = std::iter::once(&was.current)
            .chain(&was.pending)
            .filter(|generation| generation.provider == ProviderKind::Local)
            .collect();
        for generation in &moving {
            self.refuse_unsupported("id", ProviderKind::Hsm, &generation.public_key)?;
        }
        if let Some(rotation) = &was.rotation {
            let mut violations = Violations::new();
            self.refuse_incapable(ProviderKind::Hsm, rotation.next.spec, &mut violations);
            if !violations.is_empty() {
                let refusal = format!(
                    "names a key pair whose rotation makes keys that the HSM cannot: {}; change its rotation settings first",
                    rotation.next.spec
                );
                return Err(ServiceError::invalid("id", Refusal::new(refusal)));
            }
        }
        let token = self.running(ProviderKind::Hsm, Operation::Import)?;
        let mut names = Vec::new();
        for generation in &moving {
            names.push(KeyName {
                id: was.id.clone(),
                generation: generation.number,
                key_ref: KeyRef::from_random(self.entropy.bits_128()?),
            });
        }
        let work = self.try_move(token, &names, &was);
        let becomes = self.or_undo(token, &names, work).await?;
        // The record knows them no more, and the software provider forgets them.
        self.forget_software_keys(moving.into_iter()).await;
        info!(key_pair = %becomes.id, keys = names.len(), "moved a key pair into the token");
        self.publish_replaced(&becomes.id).await;
        Ok(becomes)
    }

    async fn try_move(
        &self,
        token: &ProviderHandle,
        names: &[KeyName],
        was: &KeyPair,
    ) -> Result<KeyPair, ServiceError> {
        let mut becomes = KeyPair {
            revision: was.revision + 1,
            // The next one does not go back.
            rotation: was.rotation.map(|mut rotation| {
                rotation.next.provider = ProviderKind::Hsm;
                rotation
            }),
            ..was.clone()
        };
        let moving: Vec<_> = std::iter::once(&mut becomes.current)
            .chain(&mut becomes.pending)
            .filter(|generation| generation.provider == ProviderKind::Local)
            .collect();
        for (generation, name) in moving.into_iter().zip(names) {
            self.move_key(token, name, generation).await?;
        }
        let change = self.change(None);
        self.record_replaced(was, &becomes, change).await?;
        Ok(becomes)
    }

    /// Has the token take the key of a generation.
    async fn move_key(
        &self,
        token: &ProviderHandle,
        name: &KeyName,
        generation: &mut KeyPairGeneration,
    ) -> Result<(), ServiceError> {
        self.begin_succession(token, name).await?;
        let key = self.stored_key(&name.id, generation).await?;
        let software = self.running(generation.provider, Operation::Export)?;
        let private_key = software
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
        generation.provider = ProviderKind::Hsm;
        generation.origin = KeyOrigin::Imported;
        generation.key_ref = name.key_ref;
        generation.token_attributes = imported.token_attributes;
        Ok(())
    }
}
