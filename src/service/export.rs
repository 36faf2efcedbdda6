//! Exports software key pairs as encrypted files.

use std::sync::Arc;

use secrecy::SecretString;
use tracing::info;
use zeroize::Zeroizing;

use super::{FILES_AT_ONCE, Service, ServiceError};
use crate::domain::{KeyPair, ProviderKind, Violations};
use crate::keyfiles::{self, KeyFileFormat};
use crate::providers::{Lane, Operation};

impl Service {
    /// Returns a file with the private key, the certificate and its chain, encrypted under a password.
    ///
    /// # Errors
    /// [`ServiceError::KeyPairNotFound`]; [`ServiceError::ProviderOff`]; [`ServiceError::NotExportable`];
    /// [`ServiceError::Invalid`] for a password that is too short or too long; [`ServiceError::Overloaded`].
    pub async fn export(
        &self,
        id: &str,
        format: KeyFileFormat,
        password: SecretString,
    ) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let (key_pair, key) = self.find_with_key(id).await?;
        let handle = self.provider_of(&key_pair)?;
        if !self.is_exportable(&key_pair) {
            return Err(ServiceError::NotExportable {
                id: key_pair.id.to_string(),
                provider: key_pair.provider(),
            });
        }
        keyfiles::check_new_password(&password)
            .map_err(|refusal| ServiceError::Invalid(Violations::one("password", refusal)))?;
        let private_key = handle
            .run(Lane::Manage, Operation::Export, move |provider| {
                provider.export(&key)
            })
            .await?;
        info!(key_pair = %key_pair.id, "exported a private key");
        let write = move || {
            let KeyPair { id, current, .. } = key_pair;
            let (certificate, chain) = (&current.certificate, &*current.chain);
            let file = match format {
                KeyFileFormat::Pkcs12 => {
                    keyfiles::write_pkcs12(&private_key, certificate, chain, id.as_str(), &password)
                }
                KeyFileFormat::Pem => {
                    keyfiles::write_pem(&private_key, certificate, chain, &password)
                }
            };
            file.map_err(ServiceError::from)
        };
        self.file_work(write).await
    }

    /// Tells whether the private key may leave keypaird.
    pub(super) fn is_exportable(&self, key_pair: &KeyPair) -> bool {
        key_pair.provider() == ProviderKind::Local && self.config.allow_export
    }

    /// Does work on a file of a caller: it takes its time to derive a key from a password, and to verify
    /// the certificates of others. What is more than a machine can do at once waits, and what is more
    /// than may wait is refused.
    pub(super) async fn file_work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        // Each piece of work has a share of it, from when it begins to wait until it is done; and so has the service.
        if Arc::strong_count(&self.file_work) > FILES_AT_ONCE + FILES_WAITING_MAX {
            return Err(ServiceError::Overloaded);
        }
        let permit = Arc::clone(&self.file_work).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await?
    }
}

/// How much work on key files waits: the last of it for half a minute.
pub(super) const FILES_WAITING_MAX: usize = 64;
