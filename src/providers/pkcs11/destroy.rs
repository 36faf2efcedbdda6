//! Destroys keys in the token.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::connection::Connection;
use super::error::Failure;
use super::find;
use super::{foreign, sign};
use crate::domain::{KeyRef, PublicKey, SigningInput};
use crate::providers::LinkedKey;

/// Destroys every object with a `CKA_ID` that is ours alone (`C_DestroyObject`), the private key
/// first, and makes sure that none is left: a module may report a failure of what it has done, and
/// success of what it has not.
pub(super) fn destroy_all(
    connection: &Connection,
    session: &Session,
    key_ref: KeyRef,
) -> Result<(), Failure> {
    connection.forget_private_key(key_ref);
    let mut handles = find::all(session, key_ref)?;
    if handles.is_empty() {
        // A token that is gone shows nothing either, and has the key when it is back.
        return connection.probe();
    }
    handles.sort_by_key(|handle| !is_private_key(session, *handle));
    let mut first_failure = None;
    for handle in handles {
        if let Err(error) = session.destroy_object(handle) {
            first_failure.get_or_insert(error);
        }
    }
    match (find::all(session, key_ref)?.is_empty(), first_failure) {
        (true, _) => Ok(()),
        (false, Some(error)) => Err(error.into()),
        (false, None) => Err(Failure::Untrustworthy(
            "still shows objects that it destroyed",
        )),
    }
}

/// Destroys a linked key and what is its own, and returns what was there before. The `CKA_ID` is
/// one that another program chose, `01` as often as not, so that it says little: an object is the
/// key's own when it proves it.
pub(super) fn destroy_linked(
    connection: &Connection,
    session: &Session,
    key_ref: KeyRef,
    public_key: &PublicKey,
) -> Result<LinkedKey, Failure> {
    let (linked, private_key) = find_linked(connection, session, key_ref, public_key)?;
    if linked == LinkedKey::Ambiguous {
        return Ok(linked);
    }
    connection.forget_private_key(key_ref);
    // The private key first: what else there is shows that the work is not done.
    if let Some(private_key) = private_key {
        session.destroy_object(private_key)?;
        let left = find::of_class(session, ObjectClass::PRIVATE_KEY, key_ref)?;
        if left.contains(&private_key) {
            return Err(Failure::Untrustworthy(
                "still shows a private key that it destroyed",
            ));
        }
    }
    for handle in find::of_class(session, ObjectClass::PUBLIC_KEY, key_ref)? {
        if foreign::is_public_key(session, handle, public_key) {
            session.destroy_object(handle)?;
        }
    }
    for handle in find::of_class(session, ObjectClass::CERTIFICATE, key_ref)? {
        if foreign::is_certificate_of(session, handle, public_key) {
            session.destroy_object(handle)?;
        }
    }
    Ok(linked)
}

/// Looks at what the token has of a linked key.
pub(super) fn look_at_linked(
    connection: &Connection,
    session: &Session,
    key_ref: KeyRef,
    public_key: &PublicKey,
) -> Result<LinkedKey, Failure> {
    find_linked(connection, session, key_ref, public_key).map(|(linked, _)| linked)
}

/// Finds the private key of a linked key, and has it prove that it is the one.
fn find_linked(
    connection: &Connection,
    session: &Session,
    key_ref: KeyRef,
    public_key: &PublicKey,
) -> Result<(LinkedKey, Option<ObjectHandle>), Failure> {
    let found = find::of_class(session, ObjectClass::PRIVATE_KEY, key_ref)?;
    match *found {
        [] => {
            // A token that is gone shows nothing either, and has the key when it is back.
            connection.probe()?;
            Ok((LinkedKey::Missing, None))
        }
        [one] if signs_for(connection, session, one, public_key)? => {
            Ok((LinkedKey::Present, Some(one)))
        }
        [_] => Ok((LinkedKey::Replaced, None)),
        _ => Ok((LinkedKey::Ambiguous, None)),
    }
}

/// Tells whether a private key signs what a public key verifies.
fn signs_for(
    connection: &Connection,
    session: &Session,
    private_key: ObjectHandle,
    public_key: &PublicKey,
) -> Result<bool, Failure> {
    if foreign::is_of_another_type(session, private_key, public_key) {
        return Ok(false);
    }
    let spec = public_key.spec();
    let algorithm = spec.algorithm().default_signature_algorithm();
    let challenge = SigningInput::Message(CHALLENGE.into())
        .hashed(algorithm)
        .into_owned();
    match sign::sign_with(session, private_key, spec, algorithm, &challenge) {
        Ok(signature) => {
            connection.note_use();
            Ok(public_key.verify(algorithm, &challenge, &signature).is_ok())
        }
        // It is of another kind.
        Err(failure) if failure.is_of_another_kind() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// What a private key signs to show which one it is. It says what it is, and means
/// nothing else.
const CHALLENGE: &[u8] = b"keypaird asks whether this key is the one that was linked";

fn is_private_key(session: &Session, handle: ObjectHandle) -> bool {
    session
        .get_attributes(handle, &[AttributeType::Class])
        .is_ok_and(|stated| stated.contains(&Attribute::Class(ObjectClass::PRIVATE_KEY)))
}
