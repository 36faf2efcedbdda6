//! Changes of a key pair, generation by generation.

use rusqlite::{Connection, params};

use super::generation::{GenerationRow, RETIRED};
use super::{Intent, StoreError, delete_intent, rows};
use crate::domain::{KeyOrigin, KeyPair, KeyPairGeneration, SealedKey};

/// Puts a key pair in the place of what it was. Returns false when it was changed since.
pub(super) fn replace(
    db: &Connection,
    was: &KeyPair,
    becomes: &KeyPair,
    sealed_key: Option<&SealedKey>,
) -> Result<bool, StoreError> {
    let Some(sequence) = rows::update_key_pair(db, was, becomes)? else {
        return Ok(false);
    };
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
            None => retire(db, was, generation)?,
        }
    }
    for (state, generation) in becomes.generations() {
        let mut known = was.generations().map(|(_, one)| one);
        let known = known.find(|one| one.key_ref == generation.key_ref);
        let sealed_key = match known {
            Some(_) => None,
            None => {
                delete_intent(db, generation.key_ref)?;
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

/// Keeps the public part of a generation, and condemns its key.
fn retire(
    db: &Connection,
    pair: &KeyPair,
    generation: &KeyPairGeneration,
) -> Result<(), StoreError> {
    let key_ref = generation.key_ref;
    db.prepare_cached("UPDATE generations SET state = ?2, sealed_key = NULL WHERE key_ref = ?1")?
        .execute(params![key_ref.as_bytes(), RETIRED])?;
    db.prepare_cached("DELETE FROM unpublished WHERE key_ref = ?1")?
        .execute([key_ref.as_bytes()])?;
    condemn(db, pair, generation, false)
}

/// Removes a key pair that is still what it was when it was read, and condemns its keys. Returns false when it is not.
pub(super) fn delete(
    db: &Connection,
    pair: &KeyPair,
    destroy_linked: bool,
) -> Result<bool, StoreError> {
    let removed = db
        .prepare_cached(
            "DELETE FROM key_pairs WHERE id = ?1 AND revision = ?2
               AND EXISTS (SELECT 1 FROM generations WHERE key_pair = sequence AND key_ref = ?3)",
        )?
        .execute(params![
            pair.id.as_str(),
            pair.revision,
            pair.current.key_ref.as_bytes()
        ])?;
    if removed == 0 {
        return Ok(false);
    }
    for (_, generation) in pair.generations() {
        condemn(db, pair, generation, destroy_linked)?;
    }
    Ok(true)
}

/// Notes that a key is to be destroyed, unless it was on the token before we knew of it.
fn condemn(
    db: &Connection,
    pair: &KeyPair,
    generation: &KeyPairGeneration,
    destroy_linked: bool,
) -> Result<(), StoreError> {
    if generation.origin == KeyOrigin::Linked && !destroy_linked {
        return Ok(());
    }
    rows::insert_intent(db, &Intent::of(pair, generation), true)
}
