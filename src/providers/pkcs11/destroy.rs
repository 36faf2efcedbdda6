//! Destroys keys in the token.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::connection::Connection;
use super::error::Failure;
use super::find;
use crate::domain::KeyRef;

/// Destroys every object with a `CKA_ID` (`C_DestroyObject`), the private key first, and makes sure that
/// none is left: a module may report a failure of what it has done, and success of what it has not.
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

fn is_private_key(session: &Session, handle: ObjectHandle) -> bool {
    session
        .get_attributes(handle, &[AttributeType::Class])
        .is_ok_and(|stated| stated.contains(&Attribute::Class(ObjectClass::PRIVATE_KEY)))
}
