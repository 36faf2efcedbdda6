//! What a provider can do, kind of key by kind of key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{KeyAlgorithm, KeySpec, ProviderKind, Refusal, SignatureAlgorithm, Violations};

/// Which kinds of key a provider can generate and sign with, and why not the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    lacking: BTreeMap<KeySpec, String>,
}

impl Capabilities {
    /// Makes the capabilities of a provider that can do everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Notes that the provider cannot do a kind of key, and why: `has no CKM_EDDSA`.
    pub fn lacks(&mut self, spec: KeySpec, reason: String) {
        self.lacking.insert(spec, reason);
    }

    /// Returns the kinds of key of an algorithm that the provider can do.
    pub fn specs(&self, algorithm: KeyAlgorithm) -> impl Iterator<Item = KeySpec> {
        let specs = algorithm.specs().iter().copied();
        specs.filter(|spec| !self.lacking.contains_key(spec))
    }

    /// Refuses what the provider cannot do, on the field that would have to change.
    pub fn check(
        &self,
        provider: ProviderKind,
        spec: KeySpec,
        _signature: SignatureAlgorithm,
        violations: &mut Violations,
    ) {
        // Hashing is done on our side, so what signs with one hash signs with all of them.
        let Some(reason) = self.lacking.get(&spec) else {
            return;
        };
        let algorithm = spec.algorithm();
        let sizes: Vec<_> = self
            .specs(algorithm)
            .map(|spec| spec.bits().to_string())
            .collect();
        if sizes.is_empty() {
            violations.add(
                "keyAlgorithm",
                Refusal::new(format!(
                    "{} is not available in {provider}, which {reason}; ListKeyAlgorithms tells what is",
                    algorithm.name()
                )),
            );
        } else {
            violations.add(
                "keySize",
                Refusal::new(format!(
                    "{} is not available for {} in {provider}, which {reason}; available: {}",
                    spec.bits(),
                    algorithm.name(),
                    sizes.join(", ")
                )),
            );
        }
    }
}
