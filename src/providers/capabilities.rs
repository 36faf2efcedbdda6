//! What a provider can do, kind of key by kind of key.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::{KeyAlgorithm, KeySpec, ProviderKind, Refusal, SignatureAlgorithm, Violations};

/// Which kinds of key a provider can generate and sign with, and why not the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    lacking: BTreeMap<KeySpec, String>,
    lacking_signatures: BTreeMap<SignatureAlgorithm, String>,
}

/// What a provider cannot do of all that keypaird can, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The key algorithm.
    pub algorithm: KeyAlgorithm,
    /// The kinds of key that it cannot do.
    pub specs: Vec<KeySpec>,
    /// The signature algorithms that it cannot do with the others. When there are none, it can do nothing with the kinds of key.
    pub signatures: Vec<SignatureAlgorithm>,
    /// Why: `has no CKM_EDDSA to sign`.
    pub reason: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &*self.signatures {
            [] => {
                let sizes: Vec<_> = self
                    .specs
                    .iter()
                    .map(|spec| spec.bits().to_string())
                    .collect();
                format!("{} {}", self.algorithm.name(), sizes.join(", "))
            }
            signatures => {
                let names: Vec<_> = signatures.iter().map(|one| one.name()).collect();
                names.join(", ")
            }
        };
        write!(f, "{what} cannot be done: the token {}", self.reason)
    }
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

    /// Notes that the provider cannot make a kind of signature, and why: `has no CKM_RSA_PKCS_PSS to sign`.
    pub fn lacks_signature(&mut self, algorithm: SignatureAlgorithm, reason: String) {
        self.lacking_signatures.insert(algorithm, reason);
    }

    /// Returns what the provider cannot do, reason by reason.
    pub fn missing(&self) -> Vec<Missing> {
        let mut missing: Vec<Missing> = Vec::new();
        let mut add = |algorithm: KeyAlgorithm,
                       spec: Option<KeySpec>,
                       signature: Option<SignatureAlgorithm>,
                       reason: &str| {
            let known = missing.iter_mut().find(|known| {
                known.algorithm == algorithm
                    && known.reason == reason
                    && known.specs.is_empty() == spec.is_none()
            });
            match known {
                Some(known) => {
                    known.specs.extend(spec);
                    known.signatures.extend(signature);
                }
                None => missing.push(Missing {
                    algorithm,
                    specs: spec.into_iter().collect(),
                    signatures: signature.into_iter().collect(),
                    reason: reason.to_owned(),
                }),
            }
        };
        for (spec, reason) in &self.lacking {
            add(spec.algorithm(), Some(*spec), None, reason);
        }
        for (signature, reason) in &self.lacking_signatures {
            // Where there are no keys, nobody misses their signatures.
            for algorithm in KeyAlgorithm::ALL {
                let signs = algorithm.signing_algorithms().contains(signature);
                if signs && self.specs(algorithm).next().is_some() {
                    add(algorithm, None, Some(*signature), reason);
                }
            }
        }
        missing
    }

    /// Returns the kinds of key of an algorithm that the provider can do.
    pub fn specs(&self, algorithm: KeyAlgorithm) -> impl Iterator<Item = KeySpec> {
        let specs = algorithm.specs().iter().copied();
        specs.filter(|spec| !self.lacking.contains_key(spec))
    }

    /// Refuses what the provider cannot do, on the field that would have to change.
    pub fn check(&self, provider: ProviderKind, spec: KeySpec, violations: &mut Violations) {
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
