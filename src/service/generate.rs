//! Generates key pairs.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::create::{Creation, Made, Named};
use super::generation::NewGeneration;
use super::{KeyPairPreview, KeyPairView, Service, ServiceError};
use crate::certs::SerialNumber;
use crate::domain::{
    KeyPair, KeyPairTemplate, NewKeyPairSettings, RequestId, SettingsDigest, Validity, Violations,
};
use crate::providers::Operation;

/// A key pair as a caller asked for it.
#[derive(Clone, Debug, Default)]
pub struct GenerateRequest {
    /// `settings`.
    pub settings: NewKeyPairSettings,
    /// `requestId`; empty for none.
    pub request_id: String,
    /// `validateOnly`.
    pub validate_only: bool,
}

/// What came of a [`GenerateRequest`].
#[derive(Clone, Debug)]
pub enum GenerateOutcome {
    /// A key pair.
    Made(Box<KeyPairView>),
    /// What would be made.
    WouldMake(Box<KeyPairPreview>),
}

impl Service {
    /// Generates a key pair with a self-signed certificate. What is returned is durable.
    ///
    /// A caller that goes away before the end has the work undone, unless it named the request and so
    /// means to come back for it.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::KeyPairExists`];
    /// [`ServiceError::RequestIdReused`]; [`ServiceError::Provider`]; [`ServiceError::Store`].
    pub async fn generate(
        self: &Arc<Self>,
        request: GenerateRequest,
    ) -> Result<GenerateOutcome, ServiceError> {
        let digest = request.settings.digest();
        let (template, request_id) = self.check(request.settings, &request.request_id)?;
        if request.validate_only {
            return self.preview(template).await;
        }
        let named = match request_id {
            None => None,
            Some(request_id) => {
                let lock = self.request_locks.lock(request_id.clone()).await;
                let now = self.request_time().await?;
                if let Some(answered) = self.answered(&request_id, digest, now).await? {
                    return Ok(GenerateOutcome::Made(Box::new(answered)));
                }
                Some(Named {
                    request_id,
                    settings: digest,
                    made_at: now,
                    _lock: lock,
                })
            }
        };
        let KeyPairTemplate {
            id,
            subject,
            names,
            first: template,
            signing_algorithm,
            rotation,
            labels,
        } = template;
        let first = NewGeneration {
            template,
            signing_algorithm,
            subject,
            names,
            serial_number: SerialNumber::from_random(self.entropy.bits_128()?),
            clock: Arc::clone(&self.clock),
        };
        let created = self.create(Creation {
            provider: template.provider,
            id,
            operation: Operation::Generate,
            lane: first.lane(),
            make: Box::new(move |provider, name| {
                let made = first.make(provider, &name)?;
                let key_pair = KeyPair::new(name.id, labels, made.time, made.generation);
                Ok(Made {
                    key_pair: KeyPair {
                        rotation,
                        ..key_pair
                    },
                    sealed_key: made.sealed_key,
                })
            }),
            named,
        });
        Ok(GenerateOutcome::Made(Box::new(self.view(created.await?))))
    }

    /// Checks all of a request at once.
    fn check(
        &self,
        settings: NewKeyPairSettings,
        request_id: &str,
    ) -> Result<(KeyPairTemplate, Option<RequestId>), ServiceError> {
        let mut violations = Violations::new();
        let request_id = match request_id {
            "" => None,
            text => violations.check("requestId", RequestId::parse(text)),
        };
        match self.check_settings(settings) {
            Ok(template) if violations.is_empty() => {
                if let Some(rotation) = &template.rotation {
                    self.refuse_unknown(template.first.provider, template.first.spec, rotation)?;
                }
                Ok((template, request_id))
            }
            Ok(_) => Err(ServiceError::Invalid(violations)),
            Err(found) => {
                violations.extend(found);
                Err(ServiceError::Invalid(violations))
            }
        }
    }

    /// Checks settings, also against what their provider can do.
    pub(super) fn check_settings(
        &self,
        settings: NewKeyPairSettings,
    ) -> Result<KeyPairTemplate, Violations> {
        settings.check(self.registry.policy(), |provider, spec, violations| {
            self.refuse_incapable(provider, spec, violations);
        })
    }

    async fn preview(&self, template: KeyPairTemplate) -> Result<GenerateOutcome, ServiceError> {
        if let Some(id) = &template.id {
            self.refuse_taken(id).await?;
        }
        Ok(GenerateOutcome::WouldMake(Box::new(KeyPairPreview {
            validity: Validity::days_from(self.clock.now(), template.first.valid_days),
            crypto_provider: self.registry.policy().shown(template.first.provider),
            template,
        })))
    }

    /// Returns the key pair that an earlier request of this name made.
    async fn answered(
        &self,
        request_id: &RequestId,
        digest: SettingsDigest,
        now: OffsetDateTime,
    ) -> Result<Option<KeyPairView>, ServiceError> {
        let since = now.saturating_sub(Duration::days(1));
        let Some((answered, key_pair)) = self.store.answered_request(request_id, since).await?
        else {
            return Ok(None);
        };
        if answered.settings != digest {
            return Err(ServiceError::RequestIdReused);
        }
        match key_pair {
            Some(key_pair) => Ok(Some(self.view(key_pair))),
            None => Err(ServiceError::KeyPairNotFound(answered.key_pair.to_string())),
        }
    }
}
