//! Tells what key algorithms there are.

use super::{Service, ServiceError};
use crate::domain::{KeyAlgorithm, KeySpec, ProviderKind, SignatureAlgorithm};
use crate::providers::ProviderHandle;

/// A key algorithm with what one provider can do with it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableAlgorithm {
    /// The algorithm.
    pub algorithm: KeyAlgorithm,
    /// The kinds of key, the smallest first.
    pub specs: Vec<KeySpec>,
    /// The kind used when a request names no size.
    pub default_spec: KeySpec,
    /// The signature algorithms.
    pub signature_algorithms: &'static [SignatureAlgorithm],
    /// The signature algorithm used when a request names none.
    pub default_signature_algorithm: SignatureAlgorithm,
    /// The provider, where that is shown.
    pub crypto_provider: Option<ProviderKind>,
}

impl Service {
    /// Returns what the providers can do now, or one of them. A provider that is away at the moment is
    /// left out, unless it is the one that was asked for, or the only one there is.
    pub fn key_algorithms(
        &self,
        asked: Option<ProviderKind>,
    ) -> Result<Vec<AvailableAlgorithm>, ServiceError> {
        let asked = self
            .registry
            .policy()
            .narrow(asked)
            .map_err(|refusal| ServiceError::invalid("cryptoProvider", refusal))?;
        let providers: Vec<_> = self
            .registry
            .iter()
            .filter(|handle| asked.is_none_or(|asked| handle.kind() == asked))
            .collect();
        let mut algorithms = Vec::new();
        for handle in &providers {
            match self.algorithms_of(handle) {
                Ok(available) => algorithms.extend(available),
                Err(error) if providers.len() == 1 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(algorithms)
    }

    fn algorithms_of(
        &self,
        handle: &ProviderHandle,
    ) -> Result<Vec<AvailableAlgorithm>, ServiceError> {
        let capabilities = handle.provider().capabilities()?;
        let available = KeyAlgorithm::ALL.into_iter().filter_map(|algorithm| {
            let specs: Vec<_> = capabilities.specs(algorithm).collect();
            let default_spec = match specs.contains(&algorithm.default_spec()) {
                true => algorithm.default_spec(),
                false => *specs.first()?,
            };
            Some(AvailableAlgorithm {
                algorithm,
                specs,
                default_spec,
                signature_algorithms: algorithm.signature_algorithms(),
                default_signature_algorithm: algorithm.default_signature_algorithm(),
                crypto_provider: self.registry.policy().shown(handle.kind()),
            })
        });
        Ok(available.collect())
    }
}
