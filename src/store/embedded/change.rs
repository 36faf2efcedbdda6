//! Changes of a key pair, generation by generation.

use rusqlite::{Connection, OptionalExtension, params};
use time::OffsetDateTime;

use super::generation::{GenerationRow, RETIRED};
use super::{Incarnation, Intent, IntentState, StoreError, events, ids, intents, rows, snapshots};
use crate::domain::{EventKind, KeyOrigin, KeyPair, KeyPairGeneration, SealedKey};

/// What becomes of the keys of a key pair that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is deleted: they are destroyed, and linked ones too if that was asked for.
    Deletion {
        /// Whether it was.
        destroy_linked: bool,
    },
    /// Its creation failed after it was recorded: they are what is left of that. A linked one was
    /// there before.
    TakeBack,
}

/// Puts a key pair in the place of what it was. Returns false when it was changed since.
pub(super) fn replace(
    db: &Connection,
    was: &KeyPair,
    becomes: &KeyPair,
    sealed_key: Option<&SealedKey>,
    owner: Incarnation,
) -> Result<bool, StoreError> {
    let Some(sequence) = rows::update_key_pair(db, was, becomes)? else {
        return Ok(false);
    };
    snapshots::keep(db, sequence, was)?;
    // There is one current and one pending generation at most, at any moment within the transaction too.
    db.prepare_cached("UPDATE generations SET state = 3 WHERE key_pair = ?1 AND state < 3")?
        .execute([sequence])?;
    for (_, generation) in was.generations() {
        let mut remaining = becomes.generations().map(|(_, one)| one);
        match remaining.find(|one| one.number == generation.number) {
            Some(one) if one.key_ref == generation.key_ref => {}
            // Its key moved elsewhere.
            Some(_) => {
                db.prepare_cached("DELETE FROM generations WHERE key_ref = ?1")?
                    .execute([generation.key_ref.as_bytes()])?;
            }
            None => retire(db, was, generation, owner)?,
        }
    }
    for (state, generation) in becomes.generations() {
        let mut known = was.generations().map(|(_, one)| one);
        let known = known.find(|one| one.key_ref == generation.key_ref);
        let sealed_key = match known {
            Some(_) => None,
            None => {
                if generation.provider.keeps_keys() {
                    intents::complete(db, generation.key_ref, &becomes.id, owner)?;
                }
                sealed_key
            }
        };
        GenerationRow::new(state, generation)?.write(db, sequence, sealed_key)?;
        if generation.has_certificate_on_token()
            && known.is_none_or(|known| known.certificate != generation.certificate)
        {
            db.prepare_cached("INSERT OR IGNORE INTO unpublished (key_ref) VALUES (?1)")?
                .execute([generation.key_ref.as_bytes()])?;
        }
    }
    Ok(true)
}

/// Keeps the public part of a generation, and schedules the destruction of its key, unless it was
/// linked.
fn retire(
    db: &Connection,
    pair: &KeyPair,
    generation: &KeyPairGeneration,
    owner: Incarnation,
) -> Result<(), StoreError> {
    let key_ref = generation.key_ref;
    db.prepare_cached("UPDATE generations SET state = ?2, sealed_key = NULL WHERE key_ref = ?1")?
        .execute(params![key_ref.as_bytes(), RETIRED])?;
    db.prepare_cached("DELETE FROM unpublished WHERE key_ref = ?1")?
        .execute([key_ref.as_bytes()])?;
    match generation.origin {
        KeyOrigin::Linked => Ok(()),
        KeyOrigin::Generated | KeyOrigin::Imported => {
            intents::give_up(db, pair, generation, None, IntentState::Destroying, owner)
        }
    }
}

/// Takes back a key pair that was just made, with the answer to its request. Its doubtful intent is
/// in doubt again.
pub(super) fn take_back(
    db: &Connection,
    pair: &KeyPair,
    doubtful: Option<&Intent>,
    owner: Incarnation,
    time: OffsetDateTime,
) -> Result<bool, StoreError> {
    let sequence: Option<i64> = db
        .prepare_cached("SELECT sequence FROM key_pairs WHERE id = ?1")?
        .query_row([pair.id.as_str()], |row| row.get(0))
        .optional()?;
    let removed = delete(db, pair, Removal::TakeBack, owner, time)?;
    if removed {
        db.prepare_cached("DELETE FROM requests WHERE key_pair = ?1")?
            .execute([sequence])?;
        if let Some(intent) = doubtful {
            intents::doubt_again(db, intent)?;
        }
    }
    Ok(removed)
}

/// Removes a key pair, records what is to be done with its keys, and adds the event for watchers.
/// Returns false, and does nothing, when the key pair has changed since it was read.
pub(super) fn delete(
    db: &Connection,
    pair: &KeyPair,
    removal: Removal,
    owner: Incarnation,
    time: OffsetDateTime,
) -> Result<bool, StoreError> {
    let removed: Option<i64> = db
        .prepare_cached(
            "DELETE FROM key_pairs WHERE id = ?1 AND revision = ?2
               AND EXISTS (SELECT 1 FROM generations WHERE key_pair = sequence AND key_ref = ?3)
             RETURNING sequence",
        )?
        .query_row(
            params![
                pair.id.as_str(),
                pair.revision,
                pair.current.key_ref.as_bytes()
            ],
            |row| row.get(0),
        )
        .optional()?;
    let Some(sequence) = removed else {
        return Ok(false);
    };
    snapshots::keep(db, sequence, pair)?;
    for (_, generation) in pair.generations() {
        let is_linked = generation.origin == KeyOrigin::Linked;
        let state = match removal {
            Removal::Deletion { destroy_linked } if !is_linked || destroy_linked => {
                IntentState::Destroying
            }
            Removal::TakeBack if !is_linked => IntentState::Aborted,
            Removal::Deletion { .. } | Removal::TakeBack => continue,
        };
        let linked = is_linked.then(|| generation.public_key.clone());
        intents::give_up(db, pair, generation, linked, state, owner)?;
    }
    ids::free_id(db, pair.id.as_str())?;
    events::insert(db, EventKind::Deleted, time, &pair.id, None)?;
    Ok(true)
}
