//! Destroying.

use keypaird::domain::{KeySpec, SignatureAlgorithm};
use keypaird::providers::{CryptoProvider, ProviderErrorKind};

use super::{a_message, generate_key, new_name};

/// What is not there is destroyed already.
pub fn destroying_nothing_is_no_error(provider: &dyn CryptoProvider) {
    provider.destroy(new_name().key_ref).unwrap();
}

/// A destroyed key no longer signs, whether it was used before or not, and others are untouched.
pub fn destroys_one_key_and_no_other(provider: &dyn CryptoProvider) {
    let (_, kept) = generate_key(provider, KeySpec::Ed25519);
    let (_, mut gone) = generate_key(provider, KeySpec::Ed25519);
    provider
        .sign(&gone, SignatureAlgorithm::Ed25519, &a_message())
        .unwrap();
    provider.destroy(gone.name.key_ref).unwrap();
    provider.destroy(gone.name.key_ref).unwrap();
    // The store forgets the encrypted key of a software provider.
    gone.sealed = None;
    let missing = provider
        .sign(&gone, SignatureAlgorithm::Ed25519, &a_message())
        .unwrap_err();
    assert_eq!(missing.kind, ProviderErrorKind::KeyMissing);
    provider
        .sign(&kept, SignatureAlgorithm::Ed25519, &a_message())
        .unwrap();
}
