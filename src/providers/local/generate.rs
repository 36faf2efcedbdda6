//! Generates software keys.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use zeroize::Zeroizing;

use super::sign::ecdsa_signing;
use crate::domain::{KeySpec, PublicKey, RsaSize};

/// Returns a new key: its public half, and the private one as PKCS#8 version 1 (RFC 5208), which, unlike
/// version 2, OpenSSL 3.0 reads for Ed25519 too.
pub(super) fn generate(spec: KeySpec) -> Result<(PublicKey, Zeroizing<Vec<u8>>), Unspecified> {
    let (public, pkcs8) = match spec {
        KeySpec::Rsa(size) => {
            let pair = RsaKeyPair::generate(match size {
                // No settings ask for it.
                RsaSize::Bits1024 => return Err(Unspecified),
                RsaSize::Bits2048 => KeySize::Rsa2048,
                RsaSize::Bits3072 => KeySize::Rsa3072,
                RsaSize::Bits4096 => KeySize::Rsa4096,
            })?;
            let der: Pkcs8V1Der<'_> = pair.as_der()?;
            (pair.public_key().as_ref().to_vec(), wiped(der.as_ref()))
        }
        KeySpec::Ec(curve) => {
            let pair = EcdsaKeyPair::generate(ecdsa_signing(curve))?;
            let document = pair.to_pkcs8v1()?;
            (
                pair.public_key().as_ref().to_vec(),
                wiped(document.as_ref()),
            )
        }
        KeySpec::Ed25519 => {
            let pair = Ed25519KeyPair::generate()?;
            let document = pair.to_pkcs8v1()?;
            (
                pair.public_key().as_ref().to_vec(),
                wiped(document.as_ref()),
            )
        }
    };
    Ok((PublicKey::new(spec, public), pkcs8))
}

/// Takes key bytes into a buffer that is wiped. aws-lc-rs wipes its own when they are dropped.
fn wiped(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.to_vec())
}
