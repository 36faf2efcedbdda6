//! Finds objects by `CKA_ID`.

use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::connection::{Connection, KeyHandle};
use super::error::Failure;
use crate::domain::KeyRef;

/// Returns all objects with a `CKA_ID`, of whatever class.
pub(super) fn all(session: &Session, key_ref: KeyRef) -> Result<Vec<ObjectHandle>, Failure> {
    Ok(session.find_objects(&[id(key_ref)])?)
}

/// Returns the objects of a class with a `CKA_ID`.
pub(super) fn of_class(
    session: &Session,
    class: ObjectClass,
    key_ref: KeyRef,
) -> Result<Vec<ObjectHandle>, Failure> {
    Ok(session.find_objects(&[Attribute::Class(class), id(key_ref)])?)
}

/// Returns the one private key with a `CKA_ID`, from memory if it was found before.
///
/// The specification lets two keys share a `CKA_ID`. Then neither is used.
pub(super) fn private_key(
    connection: &Connection,
    session: &Session,
    key_ref: KeyRef,
) -> Result<KeyHandle, Failure> {
    if let Some(known) = connection.known_private_key(key_ref) {
        return Ok(known);
    }
    let found = of_class(session, ObjectClass::PRIVATE_KEY, key_ref)?;
    match *found {
        [] => Err(Failure::KeyMissing),
        [one] => {
            connection.remember_private_key(key_ref, one);
            Ok(KeyHandle {
                handle: one,
                proved: false,
            })
        }
        _ => Err(Failure::AmbiguousKey(found.len())),
    }
}

fn id(key_ref: KeyRef) -> Attribute {
    Attribute::Id(key_ref.as_bytes().to_vec())
}
