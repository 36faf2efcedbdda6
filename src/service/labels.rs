//! Changes the labels of a key pair.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::info;

use super::{KeyPairView, Service, ServiceError};
use crate::domain::{EventKind, KeyPair, Labels, Violations};

/// Labels as a caller wants them.
#[derive(Clone, Debug, Default)]
pub struct UpdateLabelsRequest {
    /// `id`.
    pub id: String,
    /// `labels`: all that the key pair has from then on.
    pub labels: BTreeMap<String, String>,
    /// `etag`; empty for any.
    pub etag: String,
}

impl Service {
    /// Replaces all labels of a key pair. When they are the same, nothing changes.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::KeyPairNotFound`];
    /// [`ServiceError::EtagMismatch`]; [`ServiceError::ProviderOff`].
    pub async fn update_labels(
        self: &Arc<Self>,
        request: UpdateLabelsRequest,
    ) -> Result<KeyPairView, ServiceError> {
        let UpdateLabelsRequest { id, labels, etag } = request;
        let mut violations = Violations::new();
        let labels = Labels::check(labels, &mut violations);
        violations.into_result().map_err(ServiceError::Invalid)?;
        let changed = self.change_found(&id, &etag, |service, was| {
            let labels = labels.clone();
            async move {
                if was.labels == labels {
                    return Ok(was);
                }
                let becomes = KeyPair {
                    labels,
                    revision: was.revision + 1,
                    ..was.clone()
                };
                let change = service.change(Some(EventKind::Updated));
                service.record_replaced(&was, &becomes, change).await?;
                info!(key_pair = %becomes.id, "changed the labels of a key pair");
                Ok::<_, ServiceError>(becomes)
            }
        });
        Ok(self.shown(changed.await?).await)
    }
}
