//! Keys that several key pairs have: a key may be imported twice, or be in software and on a token.

use std::collections::HashSet;

use rusqlite::{Connection, ToSql, params_from_iter};
use time::OffsetDateTime;

use super::list::Conditions;
use super::{StoreError, rows};
use crate::domain::{KeyPair, KeyPairId, KeyRef, ListFilter};
use crate::store::SharedKey;

/// Finds a key pair with the others that have a key of it too.
pub(super) fn with_others(
    db: &Connection,
    id: &KeyPairId,
) -> Result<Option<(KeyPair, Vec<KeyPairId>)>, StoreError> {
    let view = db.unchecked_transaction()?;
    let Some(pair) = rows::find_key_pair(&view, id)? else {
        return Ok(None);
    };
    let others = others(&view, id)?;
    Ok(Some((pair, others)))
}

/// Returns for each of some key pairs the others that have a key of it too. See [`others`].
pub(super) fn others_of_all(
    db: &Connection,
    key_pairs: &[KeyPair],
) -> Result<Vec<Vec<KeyPairId>>, StoreError> {
    // Most have none: one question finds that out for all of them.
    let ids: Vec<_> = key_pairs.iter().map(|pair| pair.id.as_str()).collect();
    let sql = format!(
        "SELECT asked.id FROM json_each(?) CROSS JOIN key_pairs AS asked ON asked.id = value
         WHERE EXISTS (SELECT 1 FROM generations AS own {SAME_KEY}
                       WHERE own.key_pair = asked.sequence AND own.state < 4
                         AND other.key_pair <> own.key_pair)"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map([rows::to_json(&ids)?], |row| row.get(0))?;
    let with_others = found.collect::<Result<HashSet<String>, _>>()?;
    let each = key_pairs
        .iter()
        .map(|pair| match with_others.contains(pair.id.as_str()) {
            true => names_of_others(db, &pair.id),
            false => Ok(Vec::new()),
        });
    each.collect()
}

/// Returns the key pairs that have a key of this one too, in the order of their making.
pub(super) fn others(db: &Connection, id: &KeyPairId) -> Result<Vec<KeyPairId>, StoreError> {
    // Most have none, which is quicker to find out than which they are.
    let sql = format!("SELECT EXISTS (SELECT 1 {})", from_others_of_one());
    let mut statement = db.prepare_cached(&sql)?;
    match statement.query_row([id.as_str()], |row| row.get(0))? {
        true => names_of_others(db, id),
        false => Ok(Vec::new()),
    }
}

fn names_of_others(db: &Connection, id: &KeyPairId) -> Result<Vec<KeyPairId>, StoreError> {
    let sql = format!(
        "SELECT sequence, id FROM key_pairs
         WHERE sequence IN (SELECT other.key_pair {} LIMIT {GENERATIONS_MAX})
         ORDER BY sequence LIMIT {OTHERS_MAX}",
        from_others_of_one()
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([id.as_str()])?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(rows::id(row, 1)?);
    }
    Ok(ids)
}

/// Finds the generations of other key pairs that have a key of the one with this id.
fn from_others_of_one() -> String {
    format!(
        "FROM key_pairs AS asked CROSS JOIN generations AS own
         ON own.key_pair = asked.sequence AND own.state < 4 {SAME_KEY}
         WHERE asked.id = ? AND other.key_pair <> own.key_pair"
    )
}

/// Returns which of some keys are published by several key pairs of a list.
pub(super) fn shared_keys(
    db: &Connection,
    filter: &ListFilter,
    keys: &[KeyRef],
    now: OffsetDateTime,
) -> Result<Vec<SharedKey>, StoreError> {
    // One view of the database for all keys.
    let view = db.unchecked_transaction()?;
    let mut conditions = Conditions::of_all(filter, now);
    conditions.leave_the_index_to_others();
    let mut shared = Vec::new();
    for key_ref in keys {
        if !has_others(&view, *key_ref)? {
            continue;
        }
        let search = Search {
            key_ref: *key_ref,
            now: now.unix_timestamp(),
            conditions: &conditions,
        };
        let is_repeated = search.has_earlier(&view)?;
        shared.push(SharedKey {
            key_ref: *key_ref,
            is_repeated,
            later: match is_repeated {
                true => Vec::new(),
                false => search.later(&view)?,
            },
        });
    }
    Ok(shared)
}

/// Tells whether another key pair has a key, whatever it is.
fn has_others(db: &Connection, key_ref: KeyRef) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM generations AS own {SAME_KEY}
                        WHERE own.key_ref = ? AND other.key_pair <> own.key_pair)"
    );
    let mut statement = db.prepare_cached(&sql)?;
    Ok(statement.query_row([key_ref.as_bytes()], |row| row.get(0))?)
}

/// What is searched for: other key pairs of a list that publish a key.
struct Search<'a> {
    key_ref: KeyRef,
    now: i64,
    conditions: &'a Conditions,
}

impl Search<'_> {
    /// Tells whether an earlier key pair publishes the key.
    fn has_earlier(&self, db: &Connection) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM generations AS own {SAME_KEY}
             CROSS JOIN key_pairs ON key_pairs.sequence = other.key_pair
             WHERE own.key_ref = ? AND other.key_pair < own.key_pair AND {PUBLISHED}{})",
            self.and_conditions()
        );
        let mut statement = db.prepare_cached(&sql)?;
        let key_ref = self.key_ref.as_bytes();
        Ok(statement.query_row(params_from_iter(self.values(&key_ref)), |row| row.get(0))?)
    }

    /// Returns the first of the later key pairs that publish the key.
    fn later(&self, db: &Connection) -> Result<Vec<KeyPair>, StoreError> {
        let sql = format!(
            "{} WHERE key_pairs.sequence IN (
                 SELECT other.key_pair FROM generations AS own {SAME_KEY}
                 WHERE own.key_ref = ? AND other.key_pair > own.key_pair AND {PUBLISHED}){}
             ORDER BY key_pairs.sequence LIMIT {OTHERS_MAX}",
            rows::select_key_pair(),
            self.and_conditions()
        );
        let mut statement = db.prepare_cached(&sql)?;
        let key_ref = self.key_ref.as_bytes();
        let mut rows = statement.query(params_from_iter(self.values(&key_ref)))?;
        let mut later = Vec::new();
        while let Some(row) = rows.next()? {
            later.push(rows::key_pair(db, row)?);
        }
        Ok(later)
    }

    fn and_conditions(&self) -> String {
        match &*self.conditions.joined() {
            "" => String::new(),
            joined => format!(" AND {joined}"),
        }
    }

    fn values<'a>(&'a self, key_ref: &'a &'a [u8]) -> Vec<&'a dyn ToSql> {
        let of_list = self.conditions.values().iter();
        let of_list = of_list.map(|value| -> &dyn ToSql { value });
        let first: [&dyn ToSql; 2] = [key_ref, &self.now];
        first.into_iter().chain(of_list).collect()
    }
}

/// Joins the generations that have the key of one: `other` to `own`.
const SAME_KEY: &str = "CROSS JOIN generations AS other INDEXED BY generations_by_key
    ON substr(other.public_key, -32) = substr(own.public_key, -32) AND other.state < 4
    AND other.public_key = own.public_key AND other.key_algorithm = own.key_algorithm
    AND other.key_size = own.key_size";
/// The condition that a generation is published: it is current, or has not expired.
const PUBLISHED: &str = "(other.state = 1 OR other.not_after >= ?)";
/// How many other key pairs of a key are read at most.
const OTHERS_MAX: u32 = 100;
/// How many generations are looked through for them: a key pair may have the key in several.
const GENERATIONS_MAX: u32 = 4 * OTHERS_MAX;
