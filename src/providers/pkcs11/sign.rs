//! Signs with keys in the token.

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::connection::Connection;
use super::error::Failure;
use super::{VerifySignatures, find, mechanism};
use crate::domain::{KeySpec, SignatureAlgorithm, SigningInput, ecdsa_der};
use crate::providers::StoredKey;

/// Signs (`C_SignInit`, `C_Sign`). A message is hashed on our side, so that the token sees a digest.
///
/// The first signature made with a handle is always verified with the key pair's public key, which binds
/// the handle to it. Later ones are verified as `verify` says. What does not verify is not returned, and
/// the handle is forgotten.
pub(super) fn sign(
    connection: &Connection,
    session: &Session,
    key: &StoredKey,
    algorithm: SignatureAlgorithm,
    input: &SigningInput,
    verify: VerifySignatures,
) -> Result<Vec<u8>, Failure> {
    let key_ref = key.name.key_ref;
    // Signing and verifying both want the digest.
    let input = &*input.hashed(algorithm);
    let mut found = find::private_key(connection, session, key_ref)?;
    let spec = key.public_key.spec();
    let mut signed = sign_with(session, found.handle, spec, algorithm, input);
    if signed.as_ref().is_err_and(Failure::is_stale_handle) {
        // Somebody made the object anew, or destroyed it. The next search tells.
        connection.forget_private_key(key_ref);
        found = find::private_key(connection, session, key_ref)?;
        signed = sign_with(session, found.handle, spec, algorithm, input);
    }
    let signature = signed?;
    connection.note_use();
    if found.proved && !connection.is_due(verify) {
        return Ok(signature);
    }
    if key.public_key.verify(algorithm, input, &signature).is_err() {
        connection.forget_private_key(key_ref);
        return Err(Failure::WrongSignature);
    }
    if !found.proved {
        connection.prove_private_key(key_ref, found.handle);
    }
    Ok(signature)
}

/// Signs with an object that is a key of this kind.
pub(super) fn sign_with(
    session: &Session,
    handle: ObjectHandle,
    spec: KeySpec,
    algorithm: SignatureAlgorithm,
    input: &SigningInput,
) -> Result<Vec<u8>, Failure> {
    let mechanism = mechanism::sign(algorithm);
    match (spec, algorithm) {
        (KeySpec::Rsa(_), SignatureAlgorithm::RsaPkcs1(hash)) => {
            let mut digest_info = mechanism::digest_info(hash).to_vec();
            digest_info.extend_from_slice(&input.digest(hash));
            Ok(session.sign(&mechanism, handle, &digest_info)?)
        }
        (KeySpec::Rsa(_), SignatureAlgorithm::RsaPss(hash)) => {
            Ok(session.sign(&mechanism, handle, &input.digest(hash))?)
        }
        (KeySpec::Ec(curve), SignatureAlgorithm::Ecdsa(hash)) => {
            let raw = session.sign(&mechanism, handle, &input.digest(hash))?;
            ecdsa_der(curve, &raw).ok_or(Failure::WrongSignature)
        }
        (KeySpec::Ed25519, SignatureAlgorithm::Ed25519) => {
            let message = input.message().ok_or(Failure::Unsupported)?;
            Ok(session.sign(&mechanism, handle, message)?)
        }
        _ => Err(Failure::Unsupported),
    }
}
