//! The ids there are, in a table of their own: whether one is taken is decided there and nowhere else.

use rusqlite::Connection;

use super::{IntentState, StoreError, intents};
use crate::domain::{KeyOrigin, KeyPair, KeyPairId, KeyRef};

/// Takes an id, as the database alone can.
pub(super) fn take_id(db: &Connection, id: &KeyPairId) -> Result<(), StoreError> {
    let taken = db
        .prepare_cached("INSERT INTO ids (id) VALUES (?1)")?
        .execute([id.as_str()]);
    match taken {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.code == rusqlite::ErrorCode::ConstraintViolation =>
        {
            Err(refused_id(db, id)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Says what has an id.
fn refused_id(db: &Connection, id: &KeyPairId) -> Result<StoreError, StoreError> {
    if intents::has_key_pair(db, id)? {
        return Ok(StoreError::IdTaken);
    }
    Ok(match intents::holder(db, id)? {
        None => StoreError::IdTaken,
        Some(IntentState::Doubtful) => StoreError::IdDoubtful,
        Some(IntentState::Creating | IntentState::Aborted | IntentState::Destroying) => {
            StoreError::IdUnfinished
        }
    })
}

/// Takes the id of a new key pair, whose key no intent was recorded for. The key is looked at
/// first: it may be one that is being destroyed.
pub(super) fn take_key_and_id(db: &Connection, pair: &KeyPair) -> Result<(), StoreError> {
    let key_ref = pair.current.key_ref;
    let has_id = match pair.current.origin {
        KeyOrigin::Linked => intents::keep_doubtful(db, key_ref, &pair.id)?,
        KeyOrigin::Generated | KeyOrigin::Imported => false,
    };
    if intents::find(db, key_ref)?.is_some() {
        return Err(StoreError::KeyUnfinished);
    }
    if is_of_generation(db, key_ref)? {
        return Err(StoreError::KeyTaken);
    }
    match has_id {
        true => Ok(()),
        false => take_id(db, &pair.id),
    }
}

/// Frees an id that nothing has any more.
pub(super) fn free_id(db: &Connection, id: &str) -> Result<(), StoreError> {
    db.prepare_cached(
        "DELETE FROM ids WHERE id = ?1
         AND NOT EXISTS (SELECT 1 FROM key_pairs WHERE key_pairs.id = ids.id)
         AND NOT EXISTS (SELECT 1 FROM intents WHERE intents.id = ids.id)",
    )?
    .execute([id])?;
    Ok(())
}

/// Tells whether a key belongs to a key pair, or did.
fn is_of_generation(db: &Connection, key_ref: KeyRef) -> Result<bool, StoreError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM generations WHERE key_ref = ?1)")?
        .query_row([key_ref.as_bytes()], |row| row.get(0))?)
}
