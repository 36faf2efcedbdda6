//! Generates key pairs.

use std::sync::Arc;

use time::Duration;

use super::create::{Creation, Made, Named, stored_precision};
use super::{KeyPairPreview, KeyPairView, Service, ServiceError, issue};
use crate::certs::{Profile, SerialNumber};
use crate::domain::{
    Clock, KeyOrigin, KeyPair, KeyPairGeneration, KeyPairTemplate, KeySpec, NewKeyPairSettings,
    ProviderKind, RequestId, SettingsDigest, Validity, Violations,
};
use crate::providers::{CryptoProvider, KeyName, Lane, Operation, StoredKey};

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
                if let Some(answered) = self.answered(&request_id, digest).await? {
                    return Ok(GenerateOutcome::Made(Box::new(answered)));
                }
                Some(Named {
                    request_id,
                    settings: digest,
                    _lock: lock,
                })
            }
        };
        let making = Making {
            serial_number: SerialNumber::from_random(self.entropy.bits_128()?),
            clock: Arc::clone(&self.clock),
            template: template.clone(),
        };
        let created = self.create(Creation {
            provider: template.provider,
            id: template.id,
            operation: Operation::Generate,
            lane: generation_lane(template.provider, template.spec),
            make: Box::new(|provider, name| making.make(provider, name)),
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
            Ok(template) if violations.is_empty() => Ok((template, request_id)),
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
        settings.check(
            self.registry.policy(),
            |provider, spec, signature, violations| {
                // A token that is away is not the settings' fault; it is reported when it is needed.
                if let Some(handle) = self.registry.provider(provider)
                    && let Ok(capabilities) = handle.provider().capabilities()
                {
                    capabilities.check(provider, spec, signature, violations);
                }
            },
        )
    }

    async fn preview(&self, template: KeyPairTemplate) -> Result<GenerateOutcome, ServiceError> {
        if let Some(id) = &template.id {
            self.refuse_taken(id).await?;
        }
        Ok(GenerateOutcome::WouldMake(Box::new(KeyPairPreview {
            validity: Validity::days_from(self.clock.now(), template.valid_days),
            crypto_provider: self.registry.policy().shown(template.provider),
            template,
        })))
    }

    /// Returns the key pair that an earlier request of this name made.
    async fn answered(
        &self,
        request_id: &RequestId,
        digest: SettingsDigest,
    ) -> Result<Option<KeyPairView>, ServiceError> {
        let since = self.clock.now() - Duration::days(1);
        let Some(answered) = self.store.answered_request(request_id, since).await? else {
            return Ok(None);
        };
        if answered.settings != digest {
            return Err(ServiceError::RequestIdReused);
        }
        let id = answered.key_pair.to_string();
        match self.store.key_pair(&answered.key_pair).await? {
            Some(key_pair) => Ok(Some(self.view(key_pair))),
            None => Err(ServiceError::KeyPairNotFound(id)),
        }
    }
}

/// All that the making of a key pair needs, so that it can be one job on a provider's thread.
struct Making {
    template: KeyPairTemplate,
    serial_number: SerialNumber,
    clock: Arc<dyn Clock>,
}

impl Making {
    /// Makes key and certificate.
    fn make(self, provider: &dyn CryptoProvider, name: KeyName) -> Result<Made, ServiceError> {
        let Self {
            template,
            serial_number,
            clock,
        } = self;
        let generated = provider.generate(&name, template.spec)?;
        let create_time = stored_precision(clock.now());
        let key = StoredKey {
            name: name.clone(),
            public_key: generated.public_key.clone(),
            sealed: generated.sealed,
        };
        let profile = Profile {
            subject: template.subject,
            names: template.names,
            validity: Validity::days_from(create_time, template.valid_days),
            serial_number,
            public_key: generated.public_key,
            signature_algorithm: template.signature_algorithm,
        };
        let issued = issue::self_signed(provider, &key, profile)?;
        let key_pair = KeyPair {
            id: name.id,
            provider: provider.kind(),
            origin: KeyOrigin::Generated,
            labels: template.labels,
            create_time,
            revision: 0,
            current: KeyPairGeneration::new(
                name.generation,
                name.key_ref,
                generated.token_attributes,
                issued,
                Vec::new(),
            ),
        };
        Ok(Made {
            key_pair,
            sealed_key: key.sealed,
        })
    }
}

/// Software RSA keys take seconds to find; what takes microseconds does not wait behind them.
const fn generation_lane(provider: ProviderKind, spec: KeySpec) -> Lane {
    match (provider, spec) {
        (ProviderKind::Local, KeySpec::Ec(_) | KeySpec::Ed25519) => Lane::Sign,
        _ => Lane::Manage,
    }
}
