//! Looks at everything on the token.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use tracing::warn;

use super::connection::Connection;
use super::error::Failure;
use crate::domain::{Certificate, KeyRef};
use crate::providers::{TokenObject, TokenObjectClass};

/// A look at everything that is under way.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    left: Vec<ObjectHandle>,
    /// The private keys that were seen. None where two have the same `CKA_ID`: then neither is used.
    private_keys: HashMap<KeyRef, Option<ObjectHandle>>,
}

/// Lists the handles of all objects, to be looked at by [`next`].
pub(super) fn begin(connection: &Connection, session: &Session) -> Result<(), Failure> {
    *connection.inventory.lock() = Inventory {
        left: session.find_objects(&[])?,
        ..Inventory::default()
    };
    Ok(())
}

/// Looks at some more objects. When there are none left, the handles of private keys are known.
pub(super) fn next(connection: &Connection, session: &Session) -> Vec<TokenObject> {
    // No lock is held across a call of the module.
    let mut inventory = std::mem::take(&mut *connection.inventory.lock());
    let kept = inventory.left.len().saturating_sub(SLICE);
    let slice = inventory.left.split_off(kept);
    let objects: Vec<_> = slice
        .into_iter()
        .map(|handle| {
            let object = look_at(session, handle);
            if object.class == TokenObjectClass::PrivateKey
                && let Some(key_ref) = KeyRef::from_slice(&object.id)
            {
                let seen = inventory.private_keys.entry(key_ref);
                seen.and_modify(|other| *other = None)
                    .or_insert(Some(handle));
            }
            object
        })
        .collect();
    if inventory.left.is_empty() {
        for (key_ref, handle) in inventory.private_keys.drain() {
            match handle {
                Some(handle) => connection.remember_private_key(key_ref, handle),
                None => connection.forget_private_key(key_ref),
            }
        }
    }
    *connection.inventory.lock() = inventory;
    objects
}

/// Destroys half-made objects, and returns how many they were.
///
/// What we make in a session only is gone before anything else is done in this lane. So an object that denies to lie on the token, or
/// that answers `C_GetAttributeValue` with an error which that function does not have, is one whose
/// creation was broken off: ours when we just failed at one, or when we crashed during one. Somebody else's
/// program might be at one just now, so only what is still half-made a second later is destroyed.
pub(super) fn sweep_half_made(session: &Session) -> Result<usize, Failure> {
    let mut half_made = session.find_objects(&[])?;
    half_made.retain(|handle| is_half_made(session, *handle));
    if half_made.is_empty() {
        return Ok(0);
    }
    thread::sleep(CREATION_TIME_MAX);
    half_made.retain(|handle| is_half_made(session, *handle));
    for handle in &half_made {
        warn!(handle = %handle, "destroying a half-made object on the token");
        session.destroy_object(*handle)?;
    }
    Ok(half_made.len())
}

fn look_at(session: &Session, handle: ObjectHandle) -> TokenObject {
    let mut object = TokenObject {
        class: TokenObjectClass::Other,
        id: Vec::new(),
        label: String::new(),
        fingerprint: None,
    };
    // A class that cryptoki does not know must not hide the rest, so it is asked for by itself.
    let class = session.get_attributes(handle, &[AttributeType::Class]);
    if let Ok([Attribute::Class(class)]) = class.as_deref() {
        object.class = match *class {
            ObjectClass::CERTIFICATE => TokenObjectClass::Certificate,
            ObjectClass::PUBLIC_KEY => TokenObjectClass::PublicKey,
            ObjectClass::PRIVATE_KEY => TokenObjectClass::PrivateKey,
            _ => TokenObjectClass::Other,
        };
    }
    let rest = [
        AttributeType::Token,
        AttributeType::Id,
        AttributeType::Label,
    ];
    let stated = session.get_attributes(handle, &rest);
    if denies_token(&stated) || is_unreadable(&class) {
        object.class = TokenObjectClass::HalfMade;
    }
    for attribute in stated.unwrap_or_default() {
        match attribute {
            Attribute::Id(id) => object.id = id,
            Attribute::Label(label) => object.label = String::from_utf8_lossy(&label).into_owned(),
            _ => {}
        }
    }
    if object.class == TokenObjectClass::Certificate {
        let value = session.get_attributes(handle, &[AttributeType::Value]);
        if let Some(Attribute::Value(der)) = value.ok().and_then(|mut stated| stated.pop()) {
            object.fingerprint = Some(Certificate::from_der(der).sha256_fingerprint());
        }
    }
    object
}

fn is_half_made(session: &Session, handle: ObjectHandle) -> bool {
    let class = session.get_attributes(handle, &[AttributeType::Class]);
    is_unreadable(&class) || denies_token(&session.get_attributes(handle, &[AttributeType::Token]))
}

fn denies_token(stated: &Result<Vec<Attribute>, Error>) -> bool {
    let stated = stated.as_deref().unwrap_or_default();
    stated.contains(&Attribute::Token(false))
}

fn is_unreadable(stated: &Result<Vec<Attribute>, Error>) -> bool {
    matches!(
        stated,
        Err(Error::Pkcs11(RvError::AttributeValueInvalid, _))
    )
}

/// How many objects are looked at in one go: about 20 ms of SoftHSM2.
const SLICE: usize = 256;
/// How long a creation by somebody else may last. SoftHSM2 takes some tens of milliseconds.
const CREATION_TIME_MAX: Duration = Duration::from_secs(1);
