//! A private key outside its provider: on its way in, by import, or out, by export.

use std::fmt;

use zeroize::Zeroizing;

use super::PublicKey;

/// A private key in the clear, wiped when it is dropped. Nothing of it shows in `Debug`.
#[derive(Clone)]
pub struct PrivateKey {
    public_key: PublicKey,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// Takes a `PrivateKeyInfo` in DER (RFC 5208 section 5, version 0) and the public key that belongs to it.
    ///
    /// An EC key names its curve in the algorithm identifier, and its `ECPrivateKey` (RFC 5915) has a private
    /// key as long as a field element.
    pub const fn new(public_key: PublicKey, pkcs8: Zeroizing<Vec<u8>>) -> Self {
        Self { public_key, pkcs8 }
    }

    /// Returns its public half, which also tells its kind.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Returns the `PrivateKeyInfo` in DER.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public_key.spec())
    }
}
