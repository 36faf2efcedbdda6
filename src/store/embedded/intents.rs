//! Intents in their table: what is recorded of keys that no key pair has.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Incarnation, Intent, IntentState, NewIntent, StoreError, ids, rows};
use crate::domain::{KeyPair, KeyPairGeneration, KeyPairId, KeyRef, PublicKey, RequestId};

/// Takes over the intents of the daemon that had the store before. They are never completed.
///
/// A store that was restored does not know what came of them. The daemon that went on with the
/// original may have completed them, and callers may rely on the keys.
pub(super) fn take_over(db: &Connection, restored: bool) -> Result<(), StoreError> {
    let (update, state) = match restored {
        true => ("UPDATE intents SET state = ?1", IntentState::Doubtful),
        false => (
            "UPDATE intents SET state = ?1 WHERE state = 0",
            IntentState::Aborted,
        ),
    };
    db.execute(update, [state_number(state)])?;
    if restored {
        // The token may have a newer certificate than the one that was to be put there.
        db.execute("DELETE FROM unpublished", ())?;
    }
    Ok(())
}

/// Records that a key is about to be made.
pub(super) fn begin(
    db: &Connection,
    intent: NewIntent,
    owner: Incarnation,
) -> Result<(), StoreError> {
    let intent = Intent {
        key_ref: intent.key_ref,
        id: intent.id,
        generation: intent.generation,
        provider: intent.provider,
        owner,
        request: intent.request,
        state: IntentState::Creating,
        linked: None,
    };
    insert(db, &intent)
}

/// Records what is to be done with the key of a generation that a key pair no longer has. Nothing,
/// when its provider does not keep keys: it ended with its row.
pub(super) fn give_up(
    db: &Connection,
    pair: &KeyPair,
    generation: &KeyPairGeneration,
    linked: Option<PublicKey>,
    state: IntentState,
    owner: Incarnation,
) -> Result<(), StoreError> {
    if !generation.provider.keeps_keys() {
        return Ok(());
    }
    let intent = Intent {
        key_ref: generation.key_ref,
        id: pair.id.clone(),
        generation: generation.number,
        provider: generation.provider,
        owner,
        request: None,
        state,
        linked,
    };
    insert(db, &intent)
}

/// Ends an intent because its key has a key pair now. It must be one for the creation of a key of
/// this id, by this opening of the store.
pub(super) fn complete(
    db: &Connection,
    key_ref: KeyRef,
    id: &KeyPairId,
    owner: Incarnation,
) -> Result<(), StoreError> {
    let ended = db
        .prepare_cached(
            "DELETE FROM intents WHERE key_ref = ?1 AND id = ?2 AND owner = ?3 AND state = ?4",
        )?
        .execute(params![
            key_ref.as_bytes(),
            id.as_str(),
            owner.as_bytes(),
            state_number(IntentState::Creating),
        ])?;
    match ended {
        0 => Err(StoreError::IntentGone),
        _ => Ok(()),
    }
}

/// Notes that a creation has ended without a key pair, and returns the intent as it is then. None
/// when there is none, or when it is doubtful.
pub(super) fn abort(
    db: &Connection,
    key_ref: KeyRef,
    remains: IntentState,
) -> Result<Option<Intent>, StoreError> {
    db.prepare_cached("UPDATE intents SET state = ?2 WHERE key_ref = ?1 AND state = ?3")?
        .execute(params![
            key_ref.as_bytes(),
            state_number(remains),
            state_number(IntentState::Creating),
        ])?;
    let intent = find(db, key_ref)?;
    Ok(intent.filter(|intent| intent.state != IntentState::Doubtful))
}

/// Notes that a key that was to be destroyed may not be ours.
pub(super) fn doubt(db: &Connection, key_ref: KeyRef) -> Result<(), StoreError> {
    db.prepare_cached("UPDATE intents SET state = ?2 WHERE key_ref = ?1 AND state <> ?3")?
        .execute(params![
            key_ref.as_bytes(),
            state_number(IntentState::Doubtful),
            state_number(IntentState::Creating),
        ])?;
    Ok(())
}

/// Schedules the destruction of a doubtful key. What was left of a creation is swept; a linked key
/// had none here. None when it is not doubtful, or can only be told by a public key that is not
/// known.
pub(super) fn schedule_destruction(
    db: &Connection,
    key_ref: KeyRef,
) -> Result<Option<Intent>, StoreError> {
    let Some(mut intent) = find_doubtful(db, key_ref)? else {
        return Ok(None);
    };
    intent.state = match intent.linked {
        Some(_) => IntentState::Destroying,
        None if intent.key_ref.may_be_chosen_here() => IntentState::Aborted,
        None => return Ok(None),
    };
    db.prepare_cached("UPDATE intents SET state = ?2 WHERE key_ref = ?1")?
        .execute(params![key_ref.as_bytes(), state_number(intent.state)])?;
    Ok(Some(intent))
}

/// Ends the intent of a doubtful key that is gone from its provider, and tells whether there was
/// one.
pub(super) fn end_doubt(db: &Connection, key_ref: KeyRef) -> Result<bool, StoreError> {
    let Some(intent) = find_doubtful(db, key_ref)? else {
        return Ok(false);
    };
    db.prepare_cached("DELETE FROM intents WHERE key_ref = ?1")?
        .execute([key_ref.as_bytes()])?;
    ids::free_id(db, intent.id.as_str())?;
    Ok(true)
}

/// Ends the intent of a key of which nothing is left, and frees its id. Only an ended creation or a
/// destruction ends like this.
pub(super) fn end(db: &Connection, key_ref: KeyRef) -> Result<(), StoreError> {
    let id: Option<String> = db
        .prepare_cached(
            "DELETE FROM intents WHERE key_ref = ?1 AND state IN (?2, ?3) RETURNING id",
        )?
        .query_row(
            params![
                key_ref.as_bytes(),
                state_number(IntentState::Aborted),
                state_number(IntentState::Destroying),
            ],
            |row| row.get(0),
        )
        .optional()?;
    id.map_or(Ok(()), |id| ids::free_id(db, &id))
}

/// Ends the intent of a key that gets a key pair of an id, if the key is doubtful, and tells
/// whether the id is taken by that: it is when other doubtful keys hold it, which were generations
/// of the same key pair.
pub(super) fn keep_doubtful(
    db: &Connection,
    key_ref: KeyRef,
    id: &KeyPairId,
) -> Result<bool, StoreError> {
    let Some(intent) = find_doubtful(db, key_ref)? else {
        return Ok(false);
    };
    db.prepare_cached("DELETE FROM intents WHERE key_ref = ?1")?
        .execute([key_ref.as_bytes()])?;
    ids::free_id(db, intent.id.as_str())?;
    let others = || holder(db, id);
    Ok(intent.id == *id && !has_key_pair(db, id)? && others()? == Some(IntentState::Doubtful))
}

/// Puts back the intent of a doubtful key that was not linked after all.
pub(super) fn doubt_again(db: &Connection, intent: &Intent) -> Result<(), StoreError> {
    db.prepare_cached("INSERT OR IGNORE INTO ids (id) VALUES (?1)")?
        .execute([intent.id.as_str()])?;
    insert(db, intent)
}

/// Tells whether a key pair has an id.
pub(super) fn has_key_pair(db: &Connection, id: &KeyPairId) -> Result<bool, StoreError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM key_pairs WHERE id = ?1)")?
        .query_row([id.as_str()], |row| row.get(0))?)
}

/// Returns the state of an intent that holds an id: of one that is not doubtful, if there is one.
pub(super) fn holder(db: &Connection, id: &KeyPairId) -> Result<Option<IntentState>, StoreError> {
    let state: Option<i64> = db
        .prepare_cached("SELECT state FROM intents WHERE id = ?1 ORDER BY state = ?2 LIMIT 1")?
        .query_row(
            params![id.as_str(), state_number(IntentState::Doubtful)],
            |row| row.get(0),
        )
        .optional()?;
    state.map(state_of).transpose()
}

/// Finds the intent of a key.
pub(super) fn find(db: &Connection, key_ref: KeyRef) -> Result<Option<Intent>, StoreError> {
    let mut statement = db.prepare_cached(&format!("{SELECT} WHERE key_ref = ?1"))?;
    let mut rows = statement.query([key_ref.as_bytes()])?;
    rows.next()?.map(read).transpose()
}

fn find_doubtful(db: &Connection, key_ref: KeyRef) -> Result<Option<Intent>, StoreError> {
    let intent = find(db, key_ref)?;
    Ok(intent.filter(|intent| intent.state == IntentState::Doubtful))
}

/// Returns all intents.
pub(super) fn all(db: &Connection) -> Result<Vec<Intent>, StoreError> {
    let mut statement = db.prepare_cached(&format!("{SELECT} ORDER BY key_ref"))?;
    let mut rows = statement.query(())?;
    let mut intents = Vec::new();
    while let Some(row) = rows.next()? {
        intents.push(read(row)?);
    }
    Ok(intents)
}

fn insert(db: &Connection, intent: &Intent) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO intents (key_ref, id, generation, provider, owner, request_id, state, linked_public_key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        intent.key_ref.as_bytes(),
        intent.id.as_str(),
        intent.generation.number(),
        rows::provider_number(intent.provider),
        intent.owner.as_bytes(),
        intent.request.as_ref().map(RequestId::as_str),
        state_number(intent.state),
        intent.linked.as_ref().map(PublicKey::spki_der),
    ])?;
    Ok(())
}

/// Reads a row of [`SELECT`].
fn read(row: &Row<'_>) -> Result<Intent, StoreError> {
    let (owner, request): (Vec<u8>, Option<String>) = (row.get(4)?, row.get(5)?);
    let linked: Option<Vec<u8>> = row.get(7)?;
    Ok(Intent {
        key_ref: rows::key_ref(row, 0)?,
        id: rows::id(row, 1)?,
        generation: rows::generation_number(row.get(2)?)?,
        provider: rows::provider(row.get(3)?)?,
        // Intents from before there were owners have an empty one, which no opening has.
        owner: Incarnation::from_random(owner.try_into().unwrap_or_default()),
        request: request
            .map(|text| RequestId::parse(&text).map_err(|_| StoreError::Corrupt("request_id")))
            .transpose()?,
        state: state_of(row.get(6)?)?,
        linked: linked
            .map(|der| {
                PublicKey::from_spki_der(&der).map_err(|_| StoreError::Corrupt("linked_public_key"))
            })
            .transpose()?,
    })
}

const fn state_number(state: IntentState) -> i64 {
    match state {
        IntentState::Creating => 0,
        IntentState::Aborted => 1,
        IntentState::Doubtful => 2,
        IntentState::Destroying => 3,
    }
}

fn state_of(number: i64) -> Result<IntentState, StoreError> {
    [
        IntentState::Creating,
        IntentState::Aborted,
        IntentState::Doubtful,
        IntentState::Destroying,
    ]
    .into_iter()
    .find(|state| state_number(*state) == number)
    .ok_or(StoreError::Corrupt("state of an intent"))
}

const SELECT: &str =
    "SELECT key_ref, id, generation, provider, owner, request_id, state, linked_public_key
                      FROM intents";
