//! What key pairs were after events.
//!
//! As long as a key pair is what it was after an event, the event has no snapshot: it is read from
//! the rows of the key pair. The snapshot is written with the change or the deletion. A snapshot is
//! named by the key pair and its revision and is never changed. What does not change of a
//! generation is stored once, however many snapshots have the generation, so a history of rotations
//! takes linear space. A key pair with one generation, as most are, has it within its snapshot:
//! that is one row to write instead of three.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::StoreError;
use super::generation::{self, GenerationRow};
use super::rows::{self, StoredRotation, from_micros, generation_number, json, to_json, to_micros};
use crate::domain::{GenerationState, KeyPair, KeyPairGeneration, KeyPairId, Labels};

/// Returns the number that names a key pair in snapshots: its place in the order of making.
pub(super) fn number(db: &Connection, id: &KeyPairId) -> Result<i64, StoreError> {
    Ok(db
        .prepare_cached("SELECT sequence FROM key_pairs WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))?)
}

/// Writes what a key pair was until this transaction, if there are events of that.
pub(super) fn keep(db: &Connection, number: i64, was: &KeyPair) -> Result<(), StoreError> {
    let has_events: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM events WHERE key_pair = ?1 AND revision = ?2)",
        )?
        .query_row(params![number, was.revision], |row| row.get(0))?;
    match has_events {
        true => write_as(db, number, was),
        false => Ok(()),
    }
}

fn write_as(db: &Connection, key_pair: i64, pair: &KeyPair) -> Result<(), StoreError> {
    let is_alone = pair.generations().count() == 1;
    let mut value = PairJson::new(pair)?;
    if is_alone {
        value.only = Some(GenerationRow::new(GenerationState::Current, &pair.current)?);
    }
    let value = to_json(&value)?;
    let is_new = db
        .prepare_cached(
            "INSERT OR IGNORE INTO snapshots (key_pair, revision, value) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![key_pair, pair.revision, value])?;
    if is_new == 0 || is_alone {
        return Ok(());
    }
    for (state, generation) in pair.generations() {
        let row = GenerationRow::new(state, generation)?;
        let part = write_part(db, &to_json(&row.unchanging())?)?;
        db.prepare_cached(
            "INSERT INTO snapshot_generations (key_pair, revision, number, state, activate_time, part)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            key_pair,
            pair.revision,
            generation.number.number(),
            generation::state_number(state),
            generation.activate_time.map(to_micros),
            part
        ])?;
    }
    Ok(())
}

/// Writes what does not change of a generation, unless it is written already, and returns its
/// number.
fn write_part(db: &Connection, value: &str) -> Result<i64, StoreError> {
    let digest: [u8; 32] = sha2::Sha256::digest(value).into();
    let known = db
        .prepare_cached("SELECT part FROM snapshot_parts WHERE digest = ?1")?
        .query_row([digest], |row| row.get(0))
        .optional()?;
    if let Some(part) = known {
        return Ok(part);
    }
    db.prepare_cached("INSERT INTO snapshot_parts (digest, value) VALUES (?1, ?2)")?
        .execute(params![digest, value])?;
    Ok(db.last_insert_rowid())
}

/// Generations that were read, each understood once.
#[derive(Default)]
pub(super) struct Parts(HashMap<i64, KeyPairGeneration>);

impl Parts {
    /// Begins a key pair from `snapshots.value`. Its generations follow in rows of their own.
    pub(super) fn begin(value: &str) -> Result<Unfinished, StoreError> {
        Ok(Unfinished {
            pair: json(value, "value")?,
            generations: Vec::new(),
        })
    }

    /// Reads `number, state, activate_time, part, value` of a generation, from the column at
    /// `first` on. Returns how many bytes it was written with.
    pub(super) fn add(
        &mut self,
        unfinished: &mut Unfinished,
        row: &Row<'_>,
        first: usize,
    ) -> Result<usize, StoreError> {
        let state = generation::state(row.get(first + 1)?)?;
        let part = row.get(first + 3)?;
        let value = row.get_ref(first + 4)?;
        let value = value.as_str().map_err(|_| StoreError::Corrupt("value"))?;
        let mut generation = if let Some(known) = self.0.get(&part) {
            known.clone()
        } else {
            let row: GenerationRow = json(value, "value")?;
            let (_, generation) = row.generation()?;
            self.0.insert(part, generation.clone());
            generation
        };
        let activate_time: Option<i64> = row.get(first + 2)?;
        generation.activate_time = activate_time.map(from_micros).transpose()?;
        unfinished.generations.push((state, generation));
        Ok(value.len())
    }
}

/// A key pair of which not all rows were read yet.
pub(super) struct Unfinished {
    pair: PairJson,
    generations: Vec<(GenerationState, KeyPairGeneration)>,
}

impl Unfinished {
    /// Puts the key pair together.
    pub(super) fn finish(self) -> Result<KeyPair, StoreError> {
        let Self {
            mut pair,
            mut generations,
        } = self;
        if let Some(only) = pair.only.take() {
            let (_, only) = only.generation()?;
            return pair.key_pair(only, Vec::new());
        }
        // The last of the former generations comes first.
        generations.sort_by_key(|(_, generation)| std::cmp::Reverse(generation.number));
        let current = generations
            .iter()
            .position(|(state, _)| *state == GenerationState::Current)
            .ok_or(StoreError::Corrupt("snapshot"))?;
        let (_, current) = generations.remove(current);
        pair.key_pair(current, generations)
    }
}

/// A key pair without its generations, in the types that JSON knows.
#[derive(Deserialize, Serialize)]
struct PairJson {
    id: String,
    labels: serde_json::Value,
    create_time: i64,
    revision: u32,
    rotation: Option<StoredRotation>,
    last_number: u32,
    /// Its generation, if it has no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<GenerationRow>,
}

impl PairJson {
    fn new(pair: &KeyPair) -> Result<Self, StoreError> {
        Ok(Self {
            id: pair.id.to_string(),
            labels: serde_json::to_value(pair.labels.as_map())
                .map_err(|_| StoreError::Corrupt("labels"))?,
            create_time: to_micros(pair.create_time),
            revision: pair.revision,
            rotation: pair.rotation.as_ref().map(StoredRotation::new),
            last_number: pair.last_number.number(),
            only: None,
        })
    }

    fn key_pair(
        self,
        current: KeyPairGeneration,
        others: Vec<(GenerationState, KeyPairGeneration)>,
    ) -> Result<KeyPair, StoreError> {
        let labels = serde_json::from_value(self.labels);
        let mut pair = KeyPair {
            id: KeyPairId::parse(&self.id).map_err(|_| StoreError::Corrupt("id"))?,
            labels: Labels::from_stored(labels.map_err(|_| StoreError::Corrupt("labels"))?),
            create_time: from_micros(self.create_time)?,
            revision: self.revision,
            rotation: self.rotation.map(StoredRotation::rotation).transpose()?,
            current,
            pending: None,
            previous: Vec::new(),
            last_number: generation_number(self.last_number)?,
        };
        for (state, generation) in others {
            generation::place(&mut pair, state, generation);
        }
        Ok(pair)
    }
}

/// What events of stores before version 6 have of a key pair: all of it, with all generations.
#[derive(Deserialize)]
struct OldJson {
    #[serde(flatten)]
    pair: PairJson,
    current: GenerationRow,
    others: Vec<GenerationRow>,
}

impl OldJson {
    fn key_pair(self) -> Result<KeyPair, StoreError> {
        let (_, current) = self.current.generation()?;
        let others = self.others.into_iter().map(GenerationRow::generation);
        self.pair
            .key_pair(current, others.collect::<Result<_, _>>()?)
    }
}

/// Rewrites the events of a store from before version 6, which have a copy of the key pair each, or
/// none as long as the key pair is what it was. Does nothing when there are none.
///
/// Called whenever a store is opened, after the steps of the schema: it reads key pairs, and so
/// needs the last schema.
pub(super) fn rewrite_old_events(db: &mut Connection) -> Result<(), StoreError> {
    while rewrite_some(db)? {}
    Ok(())
}

fn rewrite_some(db: &mut Connection) -> Result<bool, StoreError> {
    let step = db.transaction()?;
    let mut old = step.prepare(
        "SELECT sequence, key_pair_id, revision, old_key_pair FROM events
         WHERE revision IS NOT NULL AND key_pair IS NULL ORDER BY sequence LIMIT ?1",
    )?;
    let mut rows = old.query([REWRITTEN_AT_ONCE])?;
    let mut any = false;
    while let Some(row) = rows.next()? {
        any = true;
        let sequence: i64 = row.get(0)?;
        let revision: u32 = row.get(2)?;
        let written: Option<String> = row.get(3)?;
        let snapshot = match written {
            Some(text) => {
                let pair = json::<OldJson>(&text, "old_key_pair")?.key_pair()?;
                // Which place the key pair had is not known, when it is gone.
                write_as(&step, -sequence, &pair)?;
                Some(-sequence)
            }
            None => match rows::find_key_pair(&step, &rows::id(row, 1)?)? {
                Some(pair) if pair.revision == revision => Some(number(&step, &pair.id)?),
                // Never written so. The event is told without a view, rather than that no daemon
                // starts.
                _ => None,
            },
        };
        step.execute(
            "UPDATE events SET key_pair = ?2, old_key_pair = NULL,
                    revision = CASE WHEN ?2 IS NULL THEN NULL ELSE revision END
             WHERE sequence = ?1",
            params![sequence, snapshot],
        )?;
    }
    drop(rows);
    drop(old);
    step.commit()?;
    Ok(any)
}

/// How many events are rewritten in a transaction.
const REWRITTEN_AT_ONCE: u32 = 500;
