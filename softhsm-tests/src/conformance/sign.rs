//! Signing.

use keypaird::domain::{Curve, Hash, KeySpec, SignatureAlgorithm, SigningInput};
use keypaird::providers::{CryptoProvider, ProviderErrorKind};

use super::{a_message, generate_key, new_name, specs};
use crate::tools::OpensslVerifier;

/// Signatures of every kind of key and every algorithm, over messages and digests, verify with OpenSSL.
pub fn signs_what_openssl_verifies(provider: &dyn CryptoProvider) {
    for spec in specs() {
        let (generated, stored) = generate_key(provider, spec);
        let verifier = OpensslVerifier::new(&generated.public_key.pem());
        for algorithm in spec.algorithm().signing_algorithms() {
            let mut inputs = vec![a_message()];
            if let Some(hash) = algorithm.hash() {
                let digest = a_message().digest(hash).into_owned();
                inputs.push(SigningInput::Digest(digest.into()));
            }
            for input in inputs {
                let made = provider.sign(&stored, *algorithm, &input).unwrap();
                verifier.accepts(*algorithm, b"a message", &made);
            }
        }
    }
}

/// An algorithm of another kind of key is refused, and does no harm.
pub fn refuses_algorithms_of_other_keys(provider: &dyn CryptoProvider) {
    let (generated, stored) = generate_key(provider, KeySpec::Ec(Curve::P256));
    let rsa = SignatureAlgorithm::RsaPkcs1(Hash::Sha256);
    let refused = provider.sign(&stored, rsa, &a_message()).unwrap_err();
    assert_eq!(refused.kind, ProviderErrorKind::Unsupported);
    let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256);
    let signature = provider.sign(&stored, ecdsa, &a_message()).unwrap();
    generated
        .public_key
        .verify(ecdsa, &a_message(), &signature)
        .unwrap();
}

/// A key that is not there is said to be missing.
pub fn tells_of_a_missing_key(provider: &dyn CryptoProvider) {
    let (_, mut stored) = generate_key(provider, KeySpec::Ed25519);
    stored.name = new_name();
    stored.sealed = None;
    let missing = provider
        .sign(&stored, SignatureAlgorithm::Ed25519, &a_message())
        .unwrap_err();
    assert_eq!(missing.kind, ProviderErrorKind::KeyMissing);
}
