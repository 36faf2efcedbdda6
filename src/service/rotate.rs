//! Rotates key pairs: makes the next generation, has it sign, and retires the former.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::{info, warn};

use super::generation::{MadeGeneration, NewGeneration};
use super::rotation::certifies_itself;
use super::{KeyPairView, Service, ServiceError};
use crate::certs::{self, SerialNumber};
use crate::domain::{
    CertificateValidity, DueStep, EventKind, GENERATIONS_MAX, Generation, GenerationTemplate,
    KeyPair, KeyPairGeneration, KeyRef, Lifecycle, RotatedFrom, RotationAction, RotationSettings,
    SigningNow, Violations,
};
use crate::providers::{KeyName, Operation, ProviderHandle};
use crate::store::Change;

/// A rotation as a caller asked for it.
#[derive(Clone, Debug, Default)]
pub struct RotateRequest {
    /// `id`.
    pub id: String,
    /// `activate`.
    pub activate: bool,
    /// `etag`; empty for any.
    pub etag: String,
}

impl Service {
    /// Makes the next generation of a key pair now, unless one is pending, and has it sign if asked to. What is
    /// returned is durable.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::NotSelfSigned`]; [`ServiceError::EtagMismatch`];
    /// [`ServiceError::Invalid`]; [`ServiceError::ProviderOff`]; [`ServiceError::Provider`];
    /// [`ServiceError::TooManyGenerations`].
    pub async fn rotate(
        self: &Arc<Self>,
        request: RotateRequest,
    ) -> Result<KeyPairView, ServiceError> {
        let RotateRequest { id, activate, etag } = request;
        let rotated = self.change_found(&id, &etag, |service, was| async move {
            service.rotate_found(was, activate).await
        });
        Ok(self.shown(rotated.await?).await)
    }

    async fn rotate_found(
        &self,
        mut key_pair: KeyPair,
        activate: bool,
    ) -> Result<KeyPair, ServiceError> {
        certifies_itself(&key_pair)?;
        let now = self.clock.now();
        if let Some(pending) = &key_pair.pending
            && pending.validity.at(now) == CertificateValidity::Expired
        {
            // It is no longer shown, although nobody has retired it yet, and would never be of use.
            let number = pending.number;
            key_pair = self.retire(&key_pair, number).await?;
        }
        if key_pair.pending.is_none() {
            key_pair = self.make_room(key_pair, now).await?;
            key_pair = self.create_pending(&key_pair).await?;
        }
        match activate {
            true => self.activate_pending(key_pair).await,
            false => Ok(key_pair),
        }
    }

    /// Retires former generations that have expired when there is no room for another generation.
    async fn make_room(
        &self,
        mut key_pair: KeyPair,
        now: OffsetDateTime,
    ) -> Result<KeyPair, ServiceError> {
        while let Some(until) = Lifecycle::of(&key_pair).room() {
            let expired = key_pair
                .previous
                .iter()
                .find(|one| one.validity.at(now) == CertificateValidity::Expired);
            let Some(number) = expired.map(|one| one.number) else {
                let id = key_pair.id.to_string();
                return Err(ServiceError::TooManyGenerations { id, until });
            };
            key_pair = self.retire(&key_pair, number).await?;
        }
        Ok(key_pair)
    }

    /// Has the generation sign that is pending, whatever else is changed of the key pair meanwhile.
    async fn activate_pending(&self, mut key_pair: KeyPair) -> Result<KeyPair, ServiceError> {
        let number = |generation: &KeyPairGeneration| generation.number;
        let wanted = key_pair.pending.as_ref().map(number);
        loop {
            match self.activate(&key_pair).await {
                Err(ServiceError::EtagMismatch(id)) => key_pair = self.find(&id).await?,
                activated => return activated,
            }
            // The rotation was faster, or the generation is gone.
            match key_pair.pending.as_ref().map(number) {
                pending if pending == wanted => {}
                _ if Some(key_pair.current.number) == wanted => return Ok(key_pair),
                _ => return Err(ServiceError::EtagMismatch(key_pair.id.to_string())),
            }
        }
    }

    /// Does a step of a key pair, and returns what the key pair is then.
    pub(super) async fn take_step(
        &self,
        key_pair: &KeyPair,
        step: DueStep,
    ) -> Result<KeyPair, ServiceError> {
        match step.action {
            RotationAction::CreatePending => self.create_pending(key_pair).await,
            RotationAction::Activate => self.activate(key_pair).await,
            RotationAction::Retire => self.retire(key_pair, step.generation).await,
        }
    }

    /// Makes the next generation: key, certificate and record, or nothing of them.
    async fn create_pending(&self, was: &KeyPair) -> Result<KeyPair, ServiceError> {
        let template = self.next_template(was)?;
        let handle = self.serving(&was.id, template.provider)?;
        let name = KeyName {
            id: was.id.clone(),
            generation: was.last_number.next(),
            key_ref: KeyRef::from_random(self.entropy.bits_128()?),
        };
        let work = async {
            self.begin_succession(handle, &name).await?;
            self.try_create_pending(handle, &name, was, template).await
        };
        let becomes = self
            .or_undo(handle, std::slice::from_ref(&name), work)
            .await?;
        if let Some(pending) = &becomes.pending {
            info!(
                key_pair = %becomes.id,
                generation = %pending.number,
                provider = %pending.provider,
                key = %pending.public_key.spec(),
                certificate = pending.certificate.sha256_fingerprint(),
                "made the next generation of a key pair"
            );
        }
        if becomes.rotation.is_some()
            && let Some(until) = Lifecycle::of(&becomes).room()
        {
            warn!(
                key_pair = %becomes.id, %until, generations = GENERATIONS_MAX,
                "a key pair has as many published generations as it may have; its next rotation waits until one retires"
            );
        }
        self.publish_replaced(&becomes.id).await;
        Ok(becomes)
    }

    async fn try_create_pending(
        &self,
        handle: &ProviderHandle,
        name: &KeyName,
        was: &KeyPair,
        template: GenerationTemplate,
    ) -> Result<KeyPair, ServiceError> {
        let (subject, names) = certs::subject_and_names(&was.current.certificate)
            .ok_or_else(|| ServiceError::NotSelfSigned(was.id.to_string()))?;
        let next = NewGeneration {
            signing_algorithm: template.signing_algorithm(SigningNow::of(&was.current)),
            template,
            subject,
            names,
            serial_number: SerialNumber::from_random(self.entropy.bits_128()?),
            clock: Arc::clone(&self.clock),
        };
        let (lane, job_name) = (next.lane(), name.clone());
        let made = handle
            .run_to_end(lane, Operation::Generate, move |provider| {
                next.make(provider, &job_name)
            })
            .await?;
        let MadeGeneration {
            generation,
            sealed_key,
            time,
        } = made;
        let becomes = KeyPair {
            revision: was.revision + 1,
            last_number: generation.number,
            pending: Some(generation),
            ..was.clone()
        };
        let change = Change {
            time,
            event: Some(EventKind::PendingCreated),
            sealed_key,
        };
        self.record_replaced(was, &becomes, change).await?;
        Ok(becomes)
    }

    /// Has the pending generation sign from now on.
    async fn activate(&self, was: &KeyPair) -> Result<KeyPair, ServiceError> {
        let Some(mut current) = was.pending.clone() else {
            return Ok(was.clone());
        };
        // As long as it could not sign, its predecessor does.
        self.serving(&was.id, current.provider)?;
        let change = self.change(Some(EventKind::Activated));
        current.activate_time = Some(change.time);
        let mut previous = vec![was.current.clone()];
        previous.extend(was.previous.iter().cloned());
        let becomes = KeyPair {
            revision: was.revision + 1,
            current,
            pending: None,
            previous,
            ..was.clone()
        };
        self.record_replaced(was, &becomes, change).await?;
        info!(
            key_pair = %becomes.id,
            generation = %becomes.current.number,
            certificate = becomes.current.certificate.sha256_fingerprint(),
            "a new generation signs"
        );
        Ok(becomes)
    }

    /// Stops to publish a generation that does not sign, and destroys its private key.
    async fn retire(&self, was: &KeyPair, number: Generation) -> Result<KeyPair, ServiceError> {
        let mut becomes = KeyPair {
            revision: was.revision + 1,
            ..was.clone()
        };
        becomes
            .previous
            .retain(|generation| generation.number != number);
        becomes.pending = becomes
            .pending
            .filter(|generation| generation.number != number);
        let change = self.change(None);
        self.record_replaced(was, &becomes, change).await?;
        info!(key_pair = %becomes.id, generation = %number, "retired a generation");
        let retired = was.generations().map(|(_, one)| one);
        self.forget_software_keys(retired.filter(|one| one.number == number))
            .await;
        if let Err(error) = self.destroy_keys_of(&was.id).await {
            // Its destruction is scheduled, and goes on when its provider is there.
            warn!(key_pair = %was.id, generation = %number, %error, "a retired private key is destroyed later");
        }
        Ok(becomes)
    }

    /// Returns what the next generation shall be: as the settings say, or else as the current one is.
    fn next_template(&self, key_pair: &KeyPair) -> Result<GenerationTemplate, ServiceError> {
        if let Some(rotation) = &key_pair.rotation {
            return Ok(rotation.next);
        }
        let mut violations = Violations::new();
        let from = RotatedFrom::key_pair(key_pair);
        let settings = RotationSettings::default();
        settings
            .next(&from, self.registry.policy(), &mut violations)
            .ok_or(ServiceError::Invalid(violations))
    }
}
