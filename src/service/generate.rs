//! Generates key pairs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};

use super::request_lock::RequestLock;
use super::{KeyPairPreview, KeyPairView, Service, ServiceError, issue};
use crate::certs::{Profile, SerialNumber};
use crate::domain::{
    Clock, Generation, KeyOrigin, KeyPair, KeyPairGeneration, KeyPairId, KeyPairTemplate, KeyRef,
    KeySpec, NewKeyPairSettings, RequestId, SealedKey, SettingsDigest, Validity, Violations,
};
use crate::providers::{
    CryptoProvider, KeyName, Lane, Operation, ProviderError, ProviderErrorKind, ProviderHandle,
    StoredKey,
};
use crate::store::{AnsweredRequest, Intent, NewKeyPair, StoreError};
use crate::telemetry::Call;

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

/// A checked request.
struct Order {
    template: KeyPairTemplate,
    named: Option<Named>,
    /// Cancelled when the caller goes away.
    caller: CancellationToken,
}

/// The caller's name for a request.
struct Named {
    request_id: RequestId,
    settings: SettingsDigest,
    /// The right to answer it.
    _lock: RequestLock,
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
        let caller = CancellationToken::new();
        let order = Order {
            template,
            named,
            caller: caller.clone(),
        };
        let _gone_when_dropped = caller.drop_guard();
        let service = Arc::clone(self);
        // Half a key pair is worse than a late one: the work goes on without its caller.
        let work = async move { service.make(order).await };
        let key_pair = self
            .tasks
            .spawn(work.instrument(Call::current_span()))
            .await??;
        Ok(GenerateOutcome::Made(Box::new(self.view(key_pair))))
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
        let checked = settings.check(
            self.registry.policy(),
            |provider, spec, signature, violations| {
                // A token that is away is not the settings' fault; it is reported when it is needed.
                if let Some(handle) = self.registry.provider(provider)
                    && let Ok(capabilities) = handle.provider().capabilities()
                {
                    capabilities.check(provider, spec, signature, violations);
                }
            },
        );
        match checked {
            Ok(template) if violations.is_empty() => Ok((template, request_id)),
            Ok(_) => Err(ServiceError::Invalid(violations)),
            Err(found) => {
                violations.extend(found);
                Err(ServiceError::Invalid(violations))
            }
        }
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

    async fn refuse_taken(&self, id: &KeyPairId) -> Result<(), ServiceError> {
        match self.store.key_pair(id).await? {
            Some(_) => Err(ServiceError::KeyPairExists(id.to_string())),
            None => Ok(()),
        }
    }

    /// Makes the key pair, or leaves nothing of it.
    async fn make(&self, order: Order) -> Result<KeyPair, ServiceError> {
        let handle = self
            .registry
            .provider(order.template.provider)
            .ok_or_else(|| {
                ProviderError::new(
                    order.template.provider,
                    Operation::Generate,
                    ProviderErrorKind::Unavailable,
                )
            })?;
        handle.provider().availability()?;
        let id = match &order.template.id {
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
        // The software provider keeps nothing by itself: its key comes to be with the record, or not at all.
        let keeps_keys = handle.provider().token().is_some();
        if keeps_keys {
            let intent = Intent {
                key_ref: name.key_ref,
                id: name.id.clone(),
                generation: name.generation,
                provider: handle.kind(),
            };
            self.store
                .begin_creation(intent)
                .await
                .map_err(|error| taken(error, &name))?;
        }
        // A panic must not keep the token from being cleared.
        let made = AssertUnwindSafe(self.make_named(handle, &name, order))
            .catch_unwind()
            .await
            .unwrap_or(Err(ServiceError::Panicked));
        match &made {
            Ok(key_pair) => info!(
                key_pair = %name.id,
                provider = %key_pair.provider,
                key = %key_pair.current.public_key.spec(),
                certificate = key_pair.current.certificate.sha256_fingerprint(),
                "generated a key pair"
            ),
            Err(_) if keeps_keys => self.undo(handle, &name).await,
            Err(_) => {}
        }
        made
    }

    /// Makes key, certificate and record. What fails on the way is for the caller of this to undo.
    async fn make_named(
        &self,
        handle: &ProviderHandle,
        name: &KeyName,
        order: Order,
    ) -> Result<KeyPair, ServiceError> {
        let wanted = order.named.is_some();
        let making = Making {
            name: name.clone(),
            template: order.template,
            serial_number: SerialNumber::from_random(self.entropy.bits_128()?),
            clock: Arc::clone(&self.clock),
        };
        let lane = generation_lane(handle, making.template.spec);
        let caller = order.caller.clone();
        let made = handle.run_to_end(lane, Operation::Generate, move |provider| {
            match caller.is_cancelled() && !wanted {
                true => Err(ServiceError::CallerGone),
                false => making.make(provider),
            }
        });
        let (key_pair, sealed_key) = made.await?;
        if order.caller.is_cancelled() && !wanted {
            return Err(ServiceError::CallerGone);
        }
        let request = order.named.as_ref().map(|named| AnsweredRequest {
            request_id: named.request_id.clone(),
            settings: named.settings,
            key_pair: name.id.clone(),
            made_at: key_pair.create_time,
        });
        // Side by side: a certificate that a crash keeps from the token is put there at the next start.
        let (published, recorded) = tokio::join!(
            issue::publish(handle, name, &key_pair.current.certificate),
            self.store.complete_creation(NewKeyPair {
                key_pair: key_pair.clone(),
                sealed_key,
                request,
            })
        );
        recorded.map_err(|error| taken(error, name))?;
        if let Err(error) = published {
            self.store.begin_deletion(&key_pair).await?;
            return Err(error);
        }
        Ok(key_pair)
    }

    /// Destroys what a failed generation may have left in the provider, now or when that is possible.
    async fn undo(&self, handle: &ProviderHandle, name: &KeyName) {
        let key_ref = name.key_ref;
        let condemned = self.store.condemn(key_ref).await;
        let destroyed = handle
            .run(Lane::Manage, Operation::Destroy, move |provider| {
                provider.destroy(key_ref)
            })
            .await;
        let undone = match (condemned, destroyed) {
            (_, Ok(())) => self
                .store
                .end_intent(key_ref)
                .await
                .map_err(ServiceError::Store),
            (Ok(()), Err(error)) => Err(error.into()),
            (Err(error), Err(_)) => Err(error.into()),
        };
        if let Err(error) = undone {
            warn!(key_pair = %name.id, %key_ref, %error, "a failed generation is undone later");
        }
    }
}

/// All that the making of a key pair needs, so that it can be one job on a provider's thread.
struct Making {
    name: KeyName,
    template: KeyPairTemplate,
    serial_number: SerialNumber,
    clock: Arc<dyn Clock>,
}

impl Making {
    /// Makes key and certificate.
    fn make(
        self,
        provider: &dyn CryptoProvider,
    ) -> Result<(KeyPair, Option<SealedKey>), ServiceError> {
        let Self {
            name,
            template,
            serial_number,
            clock,
        } = self;
        let generated = provider.generate(&name, template.spec)?;
        let create_time = stored_precision(clock.now());
        let validity = Validity::days_from(create_time, template.valid_days);
        let subject_dn = template.subject.to_string();
        let shown_names = template.names.iter().map(ToString::to_string).collect();
        let key = StoredKey {
            name: name.clone(),
            public_key: generated.public_key.clone(),
            sealed: generated.sealed,
        };
        let profile = Profile {
            subject: template.subject,
            names: template.names,
            validity,
            serial_number,
            public_key: generated.public_key.clone(),
            signature_algorithm: template.signature_algorithm,
        };
        let certificate = issue::self_signed(provider, &key, profile)?;
        let key_pair = KeyPair {
            id: name.id,
            provider: provider.kind(),
            origin: KeyOrigin::Generated,
            labels: template.labels,
            create_time,
            revision: 0,
            current: KeyPairGeneration {
                number: name.generation,
                key_ref: name.key_ref,
                public_key: generated.public_key,
                token_attributes: generated.token_attributes,
                certificate,
                chain: Vec::new(),
                certificate_signature_algorithm: template.signature_algorithm.name().to_owned(),
                serial_number: serial_number.decimal(),
                issuer_dn: subject_dn.clone(),
                subject_dn,
                subject_alternative_names: shown_names,
                validity,
            },
        };
        Ok((key_pair, key.sealed))
    }
}

/// Software RSA keys take seconds to find; what takes microseconds does not wait behind them.
fn generation_lane(handle: &ProviderHandle, spec: KeySpec) -> Lane {
    match (handle.provider().token(), spec) {
        (None, KeySpec::Ec(_) | KeySpec::Ed25519) => Lane::Sign,
        _ => Lane::Manage,
    }
}

/// Cuts a time to the microseconds that are stored, so that it is shown alike before and after.
fn stored_precision(now: OffsetDateTime) -> OffsetDateTime {
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}

fn taken(error: StoreError, name: &KeyName) -> ServiceError {
    match error {
        StoreError::IdTaken => ServiceError::KeyPairExists(name.id.to_string()),
        other => other.into(),
    }
}
