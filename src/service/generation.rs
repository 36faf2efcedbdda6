//! Makes a key with its self-signed certificate: what every generation of a key pair is, the first and the next.

use std::sync::Arc;

use time::OffsetDateTime;

use super::create::stored_precision;
use super::{ServiceError, issue};
use crate::certs::{Profile, SerialNumber};
use crate::domain::{
    Clock, GenerationTemplate, HeldKey, KeyOrigin, KeyPairGeneration, KeySpec, ProviderKind,
    SealedKey, SignatureAlgorithm, Subject, SubjectAlternativeName, Validity,
};
use crate::providers::{CryptoProvider, KeyName, Lane, StoredKey};

/// All that the making of a generation needs, so that it can be one job on a provider's thread.
pub(super) struct NewGeneration {
    /// Key, certificate and validity.
    pub(super) template: GenerationTemplate,
    /// What the key signs with when a request names no algorithm.
    pub(super) signing_algorithm: SignatureAlgorithm,
    /// Of the certificate.
    pub(super) subject: Subject,
    /// Of the certificate.
    pub(super) names: Vec<SubjectAlternativeName>,
    /// Of the certificate.
    pub(super) serial_number: SerialNumber,
    /// The validity begins when the key is there.
    pub(super) clock: Arc<dyn Clock>,
}

/// A generation of which no record exists yet.
pub(super) struct MadeGeneration {
    /// The generation.
    pub(super) generation: KeyPairGeneration,
    /// Its private key, encrypted, when the provider does not keep it.
    pub(super) sealed_key: Option<SealedKey>,
    /// When it was made.
    pub(super) time: OffsetDateTime,
}

impl NewGeneration {
    /// Makes key and certificate. Blocks; runs in the provider.
    pub(super) fn make(
        self,
        provider: &dyn CryptoProvider,
        name: &KeyName,
    ) -> Result<MadeGeneration, ServiceError> {
        let template = self.template;
        let generated = provider.generate(name, template.spec)?;
        let time = stored_precision(self.clock.now());
        let key = StoredKey {
            name: name.clone(),
            public_key: generated.public_key.clone(),
            sealed: generated.sealed,
        };
        let profile = Profile {
            subject: self.subject,
            names: self.names,
            validity: Validity::days_from(time, template.valid_days),
            serial_number: self.serial_number,
            public_key: generated.public_key,
            signature_algorithm: template.signature_algorithm,
        };
        let issued = issue::self_signed(provider, &key, profile)?;
        let held = HeldKey {
            number: name.generation,
            provider: provider.kind(),
            origin: KeyOrigin::Generated,
            key_ref: name.key_ref,
            token_attributes: generated.token_attributes,
        };
        Ok(MadeGeneration {
            generation: KeyPairGeneration::new(held, issued, Vec::new())
                .signing_with(self.signing_algorithm),
            sealed_key: key.sealed,
            time,
        })
    }

    /// Returns with what other work it is queued. Software RSA keys take seconds to find; what takes microseconds
    /// does not wait behind them.
    pub(super) const fn lane(&self) -> Lane {
        match (self.template.provider, self.template.spec) {
            (ProviderKind::Local, KeySpec::Ec(_) | KeySpec::Ed25519) => Lane::Sign,
            _ => Lane::Manage,
        }
    }
}
