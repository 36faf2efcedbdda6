//! What happened, and what key pairs were after it.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::StoreError;
use super::generation::{self, GenerationRow};
use super::rows::{
    self, StoredRotation, from_micros, generation_number, json, provider, provider_number, to_json,
    to_micros,
};
use crate::domain::{
    Event, EventKind, EventSubject, GenerationState, KeyPair, KeyPairId, Labels, ProviderKind,
};

/// Records what happened to a key pair.
pub(super) fn insert(
    db: &Connection,
    kind: EventKind,
    time: OffsetDateTime,
    id: &KeyPairId,
    after: Option<&KeyPair>,
) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO events (time, kind, key_pair_id, revision) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        to_micros(time),
        kind_number(kind),
        id.as_str(),
        after.map(|pair| pair.revision)
    ])?;
    Ok(())
}

/// Writes what a key pair is into the events after which it is that, before it changes or goes.
pub(super) fn preserve(db: &Connection, pair: &KeyPair) -> Result<(), StoreError> {
    let told: bool = db
        .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM events {OF_NOW})"))?
        .query_row([pair.id.as_str()], |row| row.get(0))?;
    if told {
        let snapshot = to_json(&KeyPairJson::new(pair)?)?;
        db.prepare_cached(&format!("UPDATE events SET key_pair = ?2 {OF_NOW}"))?
            .execute(params![pair.id.as_str(), snapshot])?;
    }
    Ok(())
}

/// The events after which a key pair is what it is.
const OF_NOW: &str = "WHERE key_pair_id = ?1 AND revision IS NOT NULL AND key_pair IS NULL";

/// Records what happened to a provider.
pub(super) fn insert_of_provider(
    db: &Connection,
    kind: EventKind,
    time: OffsetDateTime,
    provider: ProviderKind,
) -> Result<(), StoreError> {
    db.prepare_cached("INSERT INTO events (time, kind, provider) VALUES (?1, ?2, ?3)")?
        .execute(params![
            to_micros(time),
            kind_number(kind),
            provider_number(provider)
        ])?;
    Ok(())
}

/// Reads the events after one, in their order.
pub(super) fn after(db: &Connection, sequence: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
    // One view of the database for the events and what the key pairs are.
    let view = db.unchecked_transaction()?;
    let mut statement = view.prepare_cached(
        "SELECT sequence, time, kind, key_pair_id, provider, revision, key_pair FROM events
         WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let mut rows = statement.query(params![sequence, limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let kind: i32 = row.get(2)?;
        let of_provider: Option<i64> = row.get(4)?;
        events.push(Event {
            sequence: row.get(0)?,
            time: from_micros(row.get(1)?)?,
            kind: EventKind::ALL
                .into_iter()
                .find(|known| kind_number(*known) == kind)
                .ok_or(StoreError::Corrupt("kind"))?,
            subject: match of_provider {
                Some(number) => EventSubject::Provider(provider(number)?),
                None => {
                    let id = rows::id(row, 3)?;
                    let after = snapshot(&view, &id, row.get(5)?, row.get(6)?)?;
                    EventSubject::KeyPair { id, after }
                }
            },
        });
    }
    Ok(events)
}

/// Reads what a key pair was after an event.
fn snapshot(
    db: &Connection,
    id: &KeyPairId,
    revision: Option<u32>,
    preserved: Option<String>,
) -> Result<Option<Box<KeyPair>>, StoreError> {
    let pair = match (revision, preserved) {
        (None, _) => return Ok(None),
        (_, Some(text)) => json::<KeyPairJson>(&text, "key_pair")?.key_pair()?,
        (Some(_), None) => rows::find_key_pair(db, id)?.ok_or(StoreError::Corrupt("revision"))?,
    };
    Ok(Some(Box::new(pair)))
}

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

/// A key pair in the types that JSON knows.
#[derive(Deserialize, Serialize)]
struct KeyPairJson {
    id: String,
    labels: serde_json::Value,
    create_time: i64,
    revision: u32,
    rotation: Option<StoredRotation>,
    last_number: u32,
    current: GenerationRow,
    others: Vec<GenerationRow>,
}

impl KeyPairJson {
    fn new(pair: &KeyPair) -> Result<Self, StoreError> {
        let others = pair.generations().skip(1);
        Ok(Self {
            id: pair.id.to_string(),
            labels: serde_json::to_value(pair.labels.as_map())
                .map_err(|_| StoreError::Corrupt("labels"))?,
            create_time: to_micros(pair.create_time),
            revision: pair.revision,
            rotation: pair.rotation.as_ref().map(StoredRotation::new),
            last_number: pair.last_number.number(),
            current: GenerationRow::new(GenerationState::Current, &pair.current)?,
            others: others
                .map(|(state, generation)| GenerationRow::new(state, generation))
                .collect::<Result<_, _>>()?,
        })
    }

    fn key_pair(self) -> Result<KeyPair, StoreError> {
        let labels = serde_json::from_value(self.labels);
        let (_, current) = self.current.generation()?;
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
        for other in self.others {
            let (state, generation) = other.generation()?;
            generation::place(&mut pair, state, generation);
        }
        Ok(pair)
    }
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
    }
}
