//! What happened, and what key pairs were after it.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};
use time::{Duration, OffsetDateTime};

use super::StoreError;
use super::rows::{self, from_micros, provider, provider_number, to_micros};
use super::snapshots::{self, Parts, Unfinished};
use crate::domain::{
    Event, EventKind, EventSubject, KeyPair, KeyPairGeneration, KeyPairId, ProviderKind,
};

/// Records what happened to a key pair.
pub(super) fn insert(
    db: &Connection,
    kind: EventKind,
    time: OffsetDateTime,
    id: &KeyPairId,
    after: Option<&KeyPair>,
) -> Result<(), StoreError> {
    let number = after
        .map(|pair| snapshots::number(db, &pair.id))
        .transpose()?;
    db.prepare_cached(
        "INSERT INTO events (time, kind, key_pair_id, revision, key_pair) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        to_micros(time),
        kind_number(kind),
        id.as_str(),
        after.map(|pair| pair.revision),
        number
    ])?;
    Ok(())
}

/// Records what happened to a provider, unless that is what its last event says. One without events
/// serves. Returns whether it was recorded.
pub(super) fn insert_of_provider(
    db: &Connection,
    kind: EventKind,
    time: OffsetDateTime,
    provider: ProviderKind,
) -> Result<bool, StoreError> {
    let (kind, provider) = (kind_number(kind), provider_number(provider));
    let last: Option<i32> = db
        .prepare_cached("SELECT kind FROM provider_states WHERE provider = ?1")?
        .query_row([provider], |row| row.get(0))
        .optional()?;
    if kind == last.unwrap_or(kind_number(EventKind::ProviderRecovered)) {
        return Ok(false);
    }
    db.prepare_cached("INSERT OR REPLACE INTO provider_states (provider, kind) VALUES (?1, ?2)")?
        .execute(params![provider, kind])?;
    db.prepare_cached("INSERT INTO events (time, kind, provider) VALUES (?1, ?2, ?3)")?
        .execute(params![to_micros(time), kind, provider])?;
    Ok(true)
}

/// Reads the events after one, in their order: up to `limit`, and fewer when they are large.
pub(super) fn after(db: &Connection, sequence: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
    let mut statement = db.prepare_cached(AFTER)?;
    let mut rows = statement.query(params![sequence, limit])?;
    let mut parts = Parts::default();
    let (mut events, mut bytes) = (Vec::new(), 0);
    let mut last: Option<Reading> = None;
    while let Some(row) = rows.next()? {
        let sequence: i64 = row.get(0)?;
        let reading = match last.take() {
            Some(reading) if reading.sequence == sequence => last.insert(reading),
            other => {
                events.extend(other.map(Reading::finish).transpose()?);
                if bytes >= READ_BYTES_MAX {
                    return Ok(events);
                }
                // The key pair is of the same moment as the rows, while there are any left to read.
                last.insert(Reading::begin(db, row)?)
            }
        };
        bytes += match &mut reading.after {
            None => 0,
            Some(After::Now(pair)) => size_of(pair),
            Some(After::Snapshot(after)) => match row.get_ref(6)? {
                // Its only generation is within it.
                ValueRef::Null => row.get_ref(5)?.as_str().map_or(0, str::len),
                _ => parts.add(after, row, 6)?,
            },
        };
    }
    events.extend(last.map(Reading::finish).transpose()?);
    Ok(events)
}

/// Events with their snapshots: a row for each generation of each.
const AFTER: &str = "
    SELECT events.sequence, events.time, events.kind, events.key_pair_id, events.provider, snapshots.value,
           snapshot_generations.number, snapshot_generations.state, snapshot_generations.activate_time,
           snapshot_parts.part, snapshot_parts.value, events.key_pair, events.revision
    FROM events
    LEFT JOIN snapshots USING (key_pair, revision)
    LEFT JOIN snapshot_generations USING (key_pair, revision)
    LEFT JOIN snapshot_parts USING (part)
    WHERE events.sequence > ?1
      AND events.sequence <= (SELECT max(sequence) FROM
              (SELECT sequence FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2))
    ORDER BY events.sequence";

/// Returns a text that differs after every change of what is published, and never comes back: every
/// change is a write, and writes are counted, but for the expiry of a generation that no longer
/// signs, or does not yet.
pub(super) fn published_version(
    db: &Connection,
    history: &str,
    now: OffsetDateTime,
) -> Result<String, StoreError> {
    let (changes, expired): (String, i64) = db
        .prepare_cached(
            "SELECT coalesce((SELECT hex(value) FROM facts WHERE name = 'changes'), ''),
                    (SELECT count(*) FROM generations WHERE state IN (2, 3) AND not_after < ?1)",
        )?
        .query_row([now.unix_timestamp()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(format!("{history} {changes} {expired}"))
}

/// How many bytes of generations are read together, when it is more than one event.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Returns about how many bytes a key pair takes in memory.
fn size_of(pair: &KeyPair) -> usize {
    let certificates = |generation: &KeyPairGeneration| {
        let chain = generation.chain.iter().chain([&generation.certificate]);
        let names = generation.subject_alternative_names.iter();
        chain.map(|one| one.der().len()).sum::<usize>() + names.map(String::len).sum::<usize>()
    };
    pair.generations()
        .map(|(_, generation)| certificates(generation))
        .sum()
}

/// An event of which not all rows were read yet.
struct Reading {
    sequence: i64,
    time: OffsetDateTime,
    kind: EventKind,
    of: Of,
    after: Option<After>,
}

/// What a key pair was after an event.
enum After {
    /// What it is now.
    Now(Box<KeyPair>),
    Snapshot(Box<Unfinished>),
}

/// What an event is of.
enum Of {
    KeyPair(KeyPairId),
    Provider(ProviderKind),
}

impl Reading {
    fn begin(db: &Connection, row: &rusqlite::Row<'_>) -> Result<Self, StoreError> {
        let kind: i32 = row.get(2)?;
        let of_provider: Option<i64> = row.get(4)?;
        let value: Option<String> = row.get(5)?;
        let (number, revision): (Option<i64>, Option<u32>) = (row.get(11)?, row.get(12)?);
        let after = match (value, number) {
            (Some(value), _) => Some(After::Snapshot(Box::new(Parts::begin(&value)?))),
            (None, None) => None,
            (None, Some(_)) => rows::find_key_pair(db, &rows::id(row, 3)?)?
                .filter(|pair| Some(pair.revision) == revision)
                .map(|pair| After::Now(Box::new(pair))),
        };
        Ok(Self {
            sequence: row.get(0)?,
            time: from_micros(row.get(1)?)?,
            kind: EventKind::ALL
                .into_iter()
                .find(|known| kind_number(*known) == kind)
                .ok_or(StoreError::Corrupt("kind"))?,
            of: match of_provider {
                Some(number) => Of::Provider(provider(number)?),
                None => Of::KeyPair(rows::id(row, 3)?),
            },
            after,
        })
    }

    fn finish(self) -> Result<Event, StoreError> {
        let after = match self.after {
            None => None,
            Some(After::Now(pair)) => Some(pair),
            Some(After::Snapshot(unfinished)) => Some(Box::new(unfinished.finish()?)),
        };
        Ok(Event {
            sequence: self.sequence,
            time: self.time,
            kind: self.kind,
            subject: match self.of {
                Of::Provider(provider) => EventSubject::Provider(provider),
                Of::KeyPair(id) => EventSubject::KeyPair { id, after },
            },
        })
    }
}

/// Forgets some of the events before the first one that is not older than a time. Returns whether
/// there may be more.
///
/// Only ever a beginning, so that no watcher misses what is in between when the clock was wrong for
/// a while.
pub(super) fn forget_some(db: &Connection, before: OffsetDateTime) -> Result<bool, StoreError> {
    let forgotten = db
        .prepare_cached(
            "DELETE FROM events WHERE sequence IN (
                 SELECT sequence FROM events WHERE sequence <
                     coalesce((SELECT min(sequence) FROM events WHERE time >= ?1), 9223372036854775807)
                 ORDER BY sequence LIMIT ?2)",
        )?
        .execute(params![to_micros(before), FORGOTTEN_AT_ONCE])?;
    Ok(forgotten == usize::from(FORGOTTEN_AT_ONCE))
}

const FORGOTTEN_AT_ONCE: u16 = 500;

/// Returns the last event that was forgotten, and the last one there is.
pub(super) fn span(db: &Connection) -> Result<(i64, i64), StoreError> {
    let newest: i64 = db
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'")?
        .query_row((), |row| row.get(0))?;
    let oldest: Option<i64> = db
        .prepare_cached("SELECT min(sequence) FROM events")?
        .query_row((), |row| row.get(0))?;
    Ok((oldest.map_or(newest, |oldest| oldest - 1), newest))
}

/// Finds the key pairs that expire within one of the `days`, ascending, and were not warned of it.
pub(super) fn unwarned(
    db: &Connection,
    now: OffsetDateTime,
    days: &[u16],
    limit: u32,
) -> Result<Vec<(KeyPairId, u16)>, StoreError> {
    let mut found = Vec::new();
    // The most urgent warning stands for the others.
    for (warned_above, days) in
        std::iter::once((-1, 0)).chain(days.iter().map(|days| (i64::from(*days), *days)))
    {
        let mut statement = db.prepare_cached(
            "SELECT id FROM key_pairs WHERE warned >= 0 AND warned > ?1 AND not_after < ?2 LIMIT ?3",
        )?;
        let before = now.saturating_add(Duration::days(days.into()));
        let mut rows = statement.query(params![warned_above, before.unix_timestamp(), limit])?;
        while let Some(row) = rows.next()? {
            let id = rows::id(row, 0)?;
            if found.iter().all(|(known, _)| *known != id) {
                found.push((id, days));
            }
        }
    }
    Ok(found)
}

/// Records a warning.
pub(super) fn warn(
    db: &Connection,
    pair: &KeyPair,
    days: u16,
    time: OffsetDateTime,
) -> Result<bool, StoreError> {
    let (event, warned) = match days {
        0 => (EventKind::Expired, -1),
        days => (EventKind::Expiring, i64::from(days)),
    };
    let noted = db
        .prepare_cached(
            "UPDATE key_pairs SET warned = ?3 WHERE id = ?1 AND revision = ?2 AND warned > ?3
               AND EXISTS (SELECT 1 FROM generations WHERE key_pair = sequence AND key_ref = ?4)",
        )?
        .execute(params![
            pair.id.as_str(),
            pair.revision,
            warned,
            pair.current.key_ref.as_bytes()
        ])?;
    if noted == 1 {
        insert(db, event, time, &pair.id, Some(pair))?;
    }
    Ok(noted == 1)
}

const fn kind_number(kind: EventKind) -> i32 {
    match kind {
        EventKind::Created => 1,
        EventKind::Imported => 2,
        EventKind::CertificateUpdated => 3,
        EventKind::PendingCreated => 4,
        EventKind::Activated => 5,
        EventKind::Expiring => 6,
        EventKind::Expired => 7,
        EventKind::Deleted => 8,
        EventKind::ProviderUnavailable => 9,
        EventKind::ProviderRecovered => 10,
        EventKind::Updated => 11,
    }
}
