//! Generating.

use keypaird::providers::CryptoProvider;

use super::{generate_key, specs};

/// Every kind of key is generated as asked, and no two are the same.
pub fn makes_every_kind_of_key(provider: &dyn CryptoProvider) {
    for spec in specs() {
        let (one, _) = generate_key(provider, spec);
        assert_eq!(one.public_key.spec(), spec);
        let (other, _) = generate_key(provider, spec);
        assert_ne!(one.public_key, other.public_key, "{spec}");
    }
}

/// What the provider says it can do is all there is.
pub fn claims_everything(provider: &dyn CryptoProvider) {
    let capabilities = provider.capabilities().unwrap();
    for algorithm in keypaird::domain::KeyAlgorithm::ALL {
        let specs: Vec<_> = capabilities.specs(algorithm).collect();
        assert_eq!(specs, algorithm.specs(), "{algorithm:?}");
    }
}
