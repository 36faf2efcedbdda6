//! Signing.

use std::fs;

use keypaird::domain::{Curve, Hash, KeySpec, SignatureAlgorithm};
use keypaird::providers::{CryptoProvider, ProviderErrorKind};

use super::{generate_key, new_name, specs};
use crate::tools::run;

/// Signatures of every kind of key and every hash verify with OpenSSL.
pub fn signs_what_openssl_verifies(provider: &dyn CryptoProvider) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, message, signature) = (path("key.pem"), path("message"), path("signature"));
    fs::write(&message, "a message").unwrap();
    for spec in specs() {
        let (generated, stored) = generate_key(provider, spec);
        fs::write(&key, generated.public_key.pem()).unwrap();
        for algorithm in spec.algorithm().signature_algorithms() {
            let made = provider.sign(&stored, *algorithm, b"a message").unwrap();
            fs::write(&signature, made).unwrap();
            let mut arguments = vec!["pkeyutl", "-verify", "-pubin", "-inkey", &key, "-rawin"];
            arguments.extend(["-in", &message, "-sigfile", &signature]);
            let digest = match algorithm {
                SignatureAlgorithm::RsaPkcs1(hash) | SignatureAlgorithm::Ecdsa(hash) => {
                    match hash {
                        Hash::Sha256 => &["-digest", "sha256"][..],
                        Hash::Sha384 => &["-digest", "sha384"],
                        Hash::Sha512 => &["-digest", "sha512"],
                    }
                }
                SignatureAlgorithm::Ed25519 => &[],
            };
            arguments.extend(digest);
            let said = run("openssl", arguments);
            assert!(
                said.contains("Signature Verified Successfully"),
                "{spec} {algorithm}: {said}"
            );
        }
    }
}

/// An algorithm of another kind of key is refused, and does no harm.
pub fn refuses_algorithms_of_other_keys(provider: &dyn CryptoProvider) {
    let (generated, stored) = generate_key(provider, KeySpec::Ec(Curve::P256));
    let rsa = SignatureAlgorithm::RsaPkcs1(Hash::Sha256);
    let refused = provider.sign(&stored, rsa, b"a message").unwrap_err();
    assert_eq!(refused.kind, ProviderErrorKind::Unsupported);
    let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256);
    let signature = provider.sign(&stored, ecdsa, b"a message").unwrap();
    generated
        .public_key
        .verify(ecdsa, b"a message", &signature)
        .unwrap();
}

/// A key that is not there is said to be missing.
pub fn tells_of_a_missing_key(provider: &dyn CryptoProvider) {
    let (_, mut stored) = generate_key(provider, KeySpec::Ed25519);
    stored.name = new_name();
    stored.sealed = None;
    let missing = provider
        .sign(&stored, SignatureAlgorithm::Ed25519, b"a message")
        .unwrap_err();
    assert_eq!(missing.kind, ProviderErrorKind::KeyMissing);
}
