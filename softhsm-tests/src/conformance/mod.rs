//! What every provider must do, whatever it is made of. One file for each operation.

pub mod destroy;
pub mod generate;
pub mod sign;

use keypaird::domain::{Generation, KeyPairId, KeyRef, KeySpec, SigningInput};
use keypaird::providers::{CryptoProvider, GeneratedKey, KeyName, StoredKey};

/// Returns a name that no key has yet.
pub fn new_name() -> KeyName {
    KeyName {
        id: KeyPairId::from_random(rand::random()),
        generation: Generation::FIRST,
        key_ref: KeyRef::from_random(rand::random()),
    }
}

/// Generates a key, ready to be used.
pub fn generate_key(provider: &dyn CryptoProvider, spec: KeySpec) -> (GeneratedKey, StoredKey) {
    let name = new_name();
    let generated = provider.generate(&name, spec).unwrap();
    let stored = StoredKey {
        name,
        public_key: generated.public_key.clone(),
        sealed: generated.sealed.clone(),
    };
    (generated, stored)
}

/// Returns every kind of key.
pub fn specs() -> impl Iterator<Item = KeySpec> {
    keypaird::domain::KeyAlgorithm::ALL
        .into_iter()
        .flat_map(|algorithm| algorithm.specs().iter().copied())
}

/// The message that is signed.
pub fn a_message() -> SigningInput {
    SigningInput::Message(b"a message"[..].into())
}
