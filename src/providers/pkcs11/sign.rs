//! Signs with keys in the token.

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use der::asn1::UintRef;
use der::{Encode, Sequence};

use super::connection::Connection;
use super::error::Failure;
use super::{find, mechanism};
use crate::domain::{Curve, KeySpec, SignatureAlgorithm};
use crate::providers::StoredKey;

/// Signs a message (`C_SignInit`, `C_Sign`), hashed on our side.
pub(super) fn sign(
    connection: &Connection,
    session: &Session,
    key: &StoredKey,
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    let key_ref = key.name.key_ref;
    let handle = find::private_key(connection, session, key_ref)?;
    match sign_with(session, handle, key.spec, algorithm, message) {
        Err(failure) if failure.is_stale_handle() => {
            // Somebody made the object anew, or destroyed it. The next search tells.
            connection.forget_private_key(key_ref);
            let handle = find::private_key(connection, session, key_ref)?;
            sign_with(session, handle, key.spec, algorithm, message)
        }
        result => result,
    }
}

fn sign_with(
    session: &Session,
    handle: ObjectHandle,
    spec: KeySpec,
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    let mechanism = mechanism::sign(algorithm.key_algorithm());
    match (spec, algorithm) {
        (KeySpec::Rsa(_), SignatureAlgorithm::RsaPkcs1(hash)) => {
            let mut input = mechanism::digest_info(hash).to_vec();
            input.extend_from_slice(&hash.digest(message));
            Ok(session.sign(&mechanism, handle, &input)?)
        }
        (KeySpec::Ec(curve), SignatureAlgorithm::Ecdsa(hash)) => {
            let raw = session.sign(&mechanism, handle, &hash.digest(message))?;
            ecdsa_der(curve, &raw).ok_or(Failure::Untrustworthy(
                "returned an ECDSA signature of a wrong length",
            ))
        }
        (KeySpec::Ed25519, SignatureAlgorithm::Ed25519) => {
            Ok(session.sign(&mechanism, handle, message)?)
        }
        _ => Err(Failure::Unsupported),
    }
}

/// Turns the token's r and s, side by side, into DER (`Ecdsa-Sig-Value`, RFC 3279 section 2.2.3).
fn ecdsa_der(curve: Curve, raw: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = raw.split_at_checked(curve.field_len())?;
    if s.len() != curve.field_len() {
        return None;
    }
    let signature = EcdsaSignature {
        r: UintRef::new(r).ok()?,
        s: UintRef::new(s).ok()?,
    };
    signature.to_der().ok()
}

#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_signatures_become_der() {
        let mut raw = [0; 64];
        raw[31] = 1;
        raw[32] = 0x80;
        let der = ecdsa_der(Curve::P256, &raw).unwrap();
        assert_eq!(der[..7], [0x30, 38, 0x02, 1, 1, 0x02, 33]);
        assert_eq!(der[7..9], [0, 0x80]);
        // Two integers of 67 bytes need the long form of the length.
        let der = ecdsa_der(Curve::P521, &[0xff; 132]).unwrap();
        assert_eq!(der[..5], [0x30, 0x81, 138, 0x02, 67]);
        for len in [0, 63, 65, 128] {
            assert_eq!(ecdsa_der(Curve::P256, &vec![1; len]), None);
        }
    }
}
