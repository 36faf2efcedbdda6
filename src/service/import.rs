//! Imports key pairs from files.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use secrecy::SecretString;
use time::OffsetDateTime;

use super::create::{Creation, Made, stored_precision};
use super::{Adopted, CertificateNotes, Service, ServiceError};
use crate::certs::{self, Certified};
use crate::domain::{
    Clock, HeldKey, KeyOrigin, KeyPair, KeyPairGeneration, KeyPairId, Labels, PrivateKey,
    ProviderKind, Refusal, Violations,
};
use crate::keyfiles::{self, KeyFile, KeyFileFormat};
use crate::providers::{CryptoProvider, KeyName, Lane, Operation};

/// A key pair in a file, as a caller handed it in. It has no `Debug`: the file may hold the key in the clear.
pub struct ImportRequest {
    /// `id`.
    pub id: Option<String>,
    /// `fileData`.
    pub file_data: Bytes,
    /// `format`.
    pub format: Option<KeyFileFormat>,
    /// `password`; empty for none.
    pub password: SecretString,
    /// `cryptoProvider`.
    pub crypto_provider: Option<ProviderKind>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
}

impl Service {
    /// Imports a private key with its certificate. What is returned is durable, and the key has signed what
    /// its public key verifies.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::FileUnreadable`];
    /// [`ServiceError::KeyPairExists`]; [`ServiceError::Overloaded`]; [`ServiceError::Provider`]; [`ServiceError::Store`].
    pub async fn import(self: &Arc<Self>, request: ImportRequest) -> Result<Adopted, ServiceError> {
        let (id, provider, labels) = self.check_import(&request)?;
        self.running(provider, Operation::Import)?;
        if let Some(id) = &id {
            self.refuse_taken(id).await?;
        }
        let (file, certified) = self.read_key_file(request).await?;
        let ignored = certified.ignored.clone();
        let making = Making {
            certified,
            private_key: file.private_key,
            labels,
            clock: Arc::clone(&self.clock),
        };
        self.refuse_unsupported("fileData", provider, making.private_key.public_key())?;
        let created = self.create(Creation {
            provider,
            id,
            operation: Operation::Import,
            lane: Lane::Manage,
            make: Box::new(|provider, name| making.make(provider, name)),
            named: None,
        });
        let key_pair = created.await?;
        let notes = CertificateNotes::of(None, &key_pair.current, ignored);
        notes.log(&key_pair.id);
        let view = self.shown(key_pair).await;
        view.say_shared_key();
        Ok(Adopted { view, notes })
    }

    fn check_import(
        &self,
        request: &ImportRequest,
    ) -> Result<(Option<KeyPairId>, ProviderKind, Labels), ServiceError> {
        let mut violations = Violations::new();
        let id = request.id.as_deref();
        let id = id.and_then(|id| violations.check("id", KeyPairId::parse(id)));
        let provider = self.registry.policy().resolve(request.crypto_provider);
        let provider = violations.check("cryptoProvider", provider);
        if request.file_data.is_empty() {
            violations.add("fileData", Refusal::new("is required"));
        }
        let labels = Labels::check(request.labels.clone(), &mut violations);
        match provider {
            Some(provider) if violations.is_empty() => Ok((id, provider, labels)),
            _ => Err(ServiceError::Invalid(violations)),
        }
    }

    /// Reads a file, which takes up to seconds for the derivation of the key of its encryption, and
    /// verifies the certificates in it.
    async fn read_key_file(
        &self,
        request: ImportRequest,
    ) -> Result<(KeyFile, Certified), ServiceError> {
        let clock = Arc::clone(&self.clock);
        let read = move || {
            let file = keyfiles::read(&request.file_data, request.format, &request.password)?;
            let certified = certified(&file, clock.now())
                .map_err(|refusal| ServiceError::invalid("fileData", refusal))?;
            Ok((file, certified))
        };
        self.file_work(read).await
    }
}

/// Finds the certificate of the key, and its chain.
///
/// That it is expired is shown by its status, and does not keep it out: it was relied on once.
fn certified(file: &KeyFile, now: OffsetDateTime) -> Result<Certified, Refusal> {
    let public_key = file.private_key.public_key();
    certs::certify_even_expired(public_key, file.certificates.clone(), now)
}

/// All that the import of a key needs, so that it can be one job on a provider's thread.
struct Making {
    private_key: PrivateKey,
    certified: Certified,
    labels: Labels,
    clock: Arc<dyn Clock>,
}

impl Making {
    fn make(self, provider: &dyn CryptoProvider, name: KeyName) -> Result<Made, ServiceError> {
        let imported = provider.import(&name, &self.private_key)?;
        let key = HeldKey {
            number: name.generation,
            provider: provider.kind(),
            origin: KeyOrigin::Imported,
            key_ref: name.key_ref,
            token_attributes: imported.token_attributes,
        };
        Ok(Made {
            key_pair: KeyPair::new(
                name.id,
                self.labels,
                stored_precision(self.clock.now()),
                KeyPairGeneration::new(key, self.certified.leaf, self.certified.chain),
            ),
            sealed_key: imported.sealed,
        })
    }
}
