//! When and into what key pairs are rotated: shows, changes and ends their rotation settings, and plans with them.

use std::sync::Arc;

use tracing::info;

use super::{KeyPairView, Service, ServiceError};
use crate::certs;
use crate::domain::{
    DueStep, EventKind, KeyPair, KeySpec, Lifecycle, ProviderKind, Refusal, RotatedFrom, Rotation,
    RotationSettings, Violations,
};

/// Rotation settings as a caller wants them.
#[derive(Clone, Debug, Default)]
pub struct UpdateRotationRequest {
    /// `id`.
    pub id: String,
    /// `rotationSettings`.
    pub settings: RotationSettings,
    /// `etag`; empty for any.
    pub etag: String,
}

/// A plan as a caller asked for it.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest {
    /// `id`.
    pub id: String,
    /// `steps`; zero for the default.
    pub steps: i32,
    /// `rotationSettings`, instead of those of the key pair.
    pub settings: Option<RotationSettings>,
}

impl Service {
    /// Returns a key pair that has rotation settings.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::NoRotation`]; [`ServiceError::ProviderOff`].
    pub async fn rotation(&self, id: &str) -> Result<KeyPairView, ServiceError> {
        let view = self.get(id).await?;
        match view.key_pair.rotation {
            Some(_) => Ok(view),
            None => Err(ServiceError::NoRotation(id.to_owned())),
        }
    }

    /// Says when and into what a key pair is rotated from now on.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::KeyPairNotFound`];
    /// [`ServiceError::NotSelfSigned`]; [`ServiceError::EtagMismatch`]; [`ServiceError::ProviderOff`];
    /// [`ServiceError::Provider`] when the next key is of another kind and its provider is away.
    pub async fn update_rotation(
        self: &Arc<Self>,
        request: UpdateRotationRequest,
    ) -> Result<KeyPairView, ServiceError> {
        let UpdateRotationRequest { id, settings, etag } = request;
        self.set_rotation(&id, &etag, |service, key_pair| {
            service.check_rotation(key_pair, &settings).map(Some)
        })
        .await
    }

    /// Ends the rotation of a key pair. What is pending stays so.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::NoRotation`]; [`ServiceError::EtagMismatch`];
    /// [`ServiceError::ProviderOff`].
    pub async fn delete_rotation(
        self: &Arc<Self>,
        id: &str,
        etag: &str,
    ) -> Result<KeyPairView, ServiceError> {
        self.set_rotation(id, etag, |_, key_pair| match key_pair.rotation {
            Some(_) => Ok(None),
            None => Err(ServiceError::NoRotation(id.to_owned())),
        })
        .await
    }

    /// Returns the next steps of a key pair, at the times at which they would be done if nothing got in the way.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairNotFound`]; [`ServiceError::NotSelfSigned`].
    pub async fn plan_rotation(&self, request: PlanRequest) -> Result<Vec<DueStep>, ServiceError> {
        let steps = match request.steps {
            0 => PLANNED_DEFAULT,
            steps => usize::try_from(steps)
                .ok()
                .filter(|steps| *steps <= PLANNED_MAX)
                .ok_or_else(|| {
                    let refusal = Refusal::new(format!("must be 0 to {PLANNED_MAX}"));
                    ServiceError::invalid("steps", refusal)
                })?,
        };
        let mut key_pair = self.get(&request.id).await?.key_pair;
        if let Some(settings) = request.settings {
            key_pair.rotation = Some(self.check_rotation(&key_pair, &settings).map_err(
                |error| match error {
                    ServiceError::Invalid(found) => {
                        let mut violations = Violations::new();
                        violations.extend_under("rotationSettings.", found);
                        ServiceError::Invalid(violations)
                    }
                    other => other,
                },
            )?);
        }
        Ok(Lifecycle::of(&key_pair).plan(self.clock.now(), steps))
    }

    async fn set_rotation(
        self: &Arc<Self>,
        id: &str,
        etag: &str,
        decide: impl Fn(&Self, &KeyPair) -> Result<Option<Rotation>, ServiceError>,
    ) -> Result<KeyPairView, ServiceError> {
        let changed = self.change_found(id, etag, |service, was| {
            let decided = decide(&service, &was);
            async move {
                let becomes = KeyPair {
                    rotation: decided?,
                    revision: was.revision + 1,
                    ..was.clone()
                };
                let change = service.change(Some(EventKind::Updated));
                service.record_replaced(&was, &becomes, change).await?;
                info!(key_pair = %becomes.id, rotates = becomes.rotation.is_some(), "changed rotation settings");
                Ok::<_, ServiceError>(becomes)
            }
        });
        Ok(self.shown(changed.await?).await)
    }

    /// Checks settings for a key pair, also against what their provider can do.
    fn check_rotation(
        &self,
        key_pair: &KeyPair,
        settings: &RotationSettings,
    ) -> Result<Rotation, ServiceError> {
        certifies_itself(key_pair)?;
        let from = RotatedFrom::key_pair(key_pair);
        let checked = settings.check(
            &from,
            self.registry.policy(),
            |provider, spec, violations| {
                self.refuse_incapable(provider, spec, violations);
            },
        );
        let rotation = checked.map_err(ServiceError::Invalid)?;
        self.refuse_unknown(from.provider, from.spec, &rotation)?;
        Ok(rotation)
    }

    /// Refuses another kind of key, or one in another place, while its provider is away and cannot say whether it can do it:
    /// that shall turn out now, and not when the rotation is due.
    pub(super) fn refuse_unknown(
        &self,
        provider: ProviderKind,
        spec: KeySpec,
        rotation: &Rotation,
    ) -> Result<(), ServiceError> {
        let next = &rotation.next;
        if (next.provider, next.spec) != (provider, spec)
            && let Some(handle) = self.registry.provider(next.provider)
        {
            handle.provider().capabilities()?;
        }
        Ok(())
    }
}

/// Refuses a key pair that keypaird cannot make the next certificate of.
pub(super) fn certifies_itself(key_pair: &KeyPair) -> Result<(), ServiceError> {
    let certificate = &key_pair.current.certificate;
    if !certs::is_self_signed(certificate) {
        return Err(ServiceError::NotSelfSigned(key_pair.id.to_string()));
    }
    if certs::subject_and_names(certificate).is_none() {
        let refusal = "names a key pair whose certificate has a subject or alternative names that a next one cannot have: the subject must have one CN, O and C, at most one OU, L and ST, in this order, and the names must be DNS names, addresses and URIs";
        return Err(ServiceError::invalid("id", Refusal::new(refusal)));
    }
    Ok(())
}

const PLANNED_DEFAULT: usize = 10;
const PLANNED_MAX: usize = 1000;
