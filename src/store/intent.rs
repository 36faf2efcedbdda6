//! Keys that a provider may have, in whole or in part, without a key pair that has them.

use std::fmt;

use crate::domain::{Generation, KeyPairId, KeyRef, ProviderKind, PublicKey, RequestId};

/// A key that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIntent {
    /// Its name in the provider.
    pub key_ref: KeyRef,
    /// The id that it shall be known by.
    pub id: KeyPairId,
    /// Its number within the key pair.
    pub generation: Generation,
    /// The provider, which keeps it.
    pub provider: ProviderKind,
    /// The caller's name for the request that it is made for.
    pub request: Option<RequestId>,
}

/// The record of a key in a provider that does not, or not yet, or no longer, belong to a key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its name in the provider: the `CKA_ID`.
    pub key_ref: KeyRef,
    /// The id it was or shall be known by.
    pub id: KeyPairId,
    /// Its number within the key pair.
    pub generation: Generation,
    /// The provider.
    pub provider: ProviderKind,
    /// The opening of the store that recorded it. Only that one completes it.
    pub owner: Incarnation,
    /// The caller's name for the request that it was made for.
    pub request: Option<RequestId>,
    /// How far it is.
    pub state: IntentState,
    /// The public key of a linked key. The `CKA_ID` of such a key is not ours alone, and it is
    /// known by its public key. None for a key that was made or imported here.
    pub linked: Option<PublicKey>,
}

/// How far an [`Intent`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentState {
    /// The key is being made.
    Creating,
    /// Its creation has ended without a key pair. Half-made objects may be left that do not have
    /// the `CKA_ID`, so that only a sweep of the token ends it.
    Aborted,
    /// The store is a copy, or the token has something else than was recorded: the key may belong
    /// to a key pair that this store does not know. The daemon leaves it alone, and an operator
    /// decides.
    Doubtful,
    /// The key of a key pair that was deleted, or of a generation that was retired, is being
    /// destroyed.
    Destroying,
}

/// What tells one opening of a store from all others: 128 random bits, written as 32 digits of
/// lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Incarnation([u8; Incarnation::LEN]);

impl Incarnation {
    /// How long it is, in bytes.
    pub const LEN: usize = 16;

    /// Takes 128 random bits.
    pub const fn from_random(bits: [u8; Self::LEN]) -> Self {
        Self(bits)
    }

    /// Reads the digits. None for anything else.
    pub fn parse(hex: &str) -> Option<Self> {
        let digits = hex.len() == 2 * Self::LEN && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(hex, 16).ok().filter(|_| digits)?;
        Some(Self(number.to_be_bytes()))
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}
