//! A signature to be made, and how much work it is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CryptoProvider, ProviderError, StoredKey};
use crate::domain::{Curve, KeySpec, LARGE_LEN, SignatureAlgorithm, SigningInput};

/// A signature to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SigningOrder {
    /// With which key.
    pub key: Arc<StoredKey>,
    /// In what way.
    pub algorithm: SignatureAlgorithm,
    /// Of what.
    pub input: SigningInput,
}

impl SigningOrder {
    /// Has a provider sign.
    pub(super) fn sign(&self, provider: &dyn CryptoProvider) -> Result<Vec<u8>, ProviderError> {
        provider.sign(&self.key, self.algorithm, &self.input)
    }

    /// Tells how long it takes, in relation to others: about so many times 120 µs in SoftHSM2, and with a message of
    /// [`LARGE_LEN`].
    pub(super) fn effort(&self) -> usize {
        let signing = match self.key.public_key.spec() {
            KeySpec::Ec(Curve::P256) | KeySpec::Ed25519 => 1,
            KeySpec::Ec(Curve::P384 | Curve::P521) | KeySpec::Rsa(_) => PORTION,
        };
        signing + self.input.len() / LARGE_LEN
    }
}

/// Has a provider make signatures, one after the other.
pub(super) fn sign_all(
    provider: &dyn CryptoProvider,
    orders: &[SigningOrder],
) -> Vec<Result<Vec<u8>, ProviderError>> {
    orders.iter().map(|order| order.sign(provider)).collect()
}

/// Splits orders into portions of about two milliseconds.
pub(super) fn portions(orders: Vec<SigningOrder>) -> impl Iterator<Item = Vec<SigningOrder>> {
    let mut orders = orders.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut portion = Vec::new();
        let mut room = PORTION;
        while let Some(order) = orders.next_if(|order| portion.is_empty() || order.effort() <= room)
        {
            room = room.saturating_sub(order.effort());
            portion.push(order);
        }
        (!portion.is_empty()).then_some(portion)
    })
}

/// The effort of a portion.
pub(super) const PORTION: usize = 16;
