//! Named requests that were answered: what tells a repeated one from a new one.
//!
//! When they were made is told by the time of named requests, which the service keeps: see
//! [`MetadataStore::request_time`](crate::store::MetadataStore::request_time).

use rusqlite::{Connection, OptionalExtension, params};
use time::{Duration, OffsetDateTime};

use super::rows::{find_key_pair, from_seconds, id};
use super::{AnsweredRequest, StoreError};
use crate::domain::{KeyPair, RequestId};

/// Finds a request that was answered not before a time, with the key pair that it made.
pub(super) fn find(
    db: &Connection,
    request_id: RequestId,
    not_before: OffsetDateTime,
) -> Result<Option<(AnsweredRequest, Option<KeyPair>)>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT settings_digest, key_pair_id, made_at, key_pair FROM requests
         WHERE request_id = ?1 AND made_at >= ?2",
    )?;
    let mut rows = statement.query(params![request_id.as_str(), not_before.unix_timestamp()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let settings: Vec<u8> = row.get(0)?;
    let request = AnsweredRequest {
        request_id,
        settings: settings
            .try_into()
            .map_err(|_| StoreError::Corrupt("settings_digest"))?,
        key_pair: id(row, 1)?,
        made_at: from_seconds(row.get(2)?)?,
    };
    let made: Option<i64> = row.get(3)?;
    let found = find_key_pair(db, &request.key_pair)?;
    // Looked at last: the id may be given away anew while this reads.
    let is_it: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM key_pairs
                            WHERE id = ?1 AND sequence = coalesce(?2, sequence))",
        )?
        .query_row(params![request.key_pair.as_str(), made], |row| row.get(0))?;
    Ok(Some((request, found.filter(|_| is_it))))
}

/// Writes an answered request, over an outdated one of the same name.
pub(super) fn insert(db: &Connection, request: &AnsweredRequest) -> Result<(), StoreError> {
    let outdated = request.made_at.saturating_sub(KEPT).unix_timestamp();
    db.prepare_cached("DELETE FROM requests WHERE request_id = ?1 AND made_at < ?2")?
        .execute(params![request.request_id.as_str(), outdated])?;
    db.prepare_cached(
        "INSERT INTO requests (request_id, settings_digest, key_pair_id, made_at, key_pair)
         VALUES (?1, ?2, ?3, ?4, (SELECT sequence FROM key_pairs WHERE id = ?3))",
    )?
    .execute(params![
        request.request_id.as_str(),
        request.settings,
        request.key_pair.as_str(),
        request.made_at.unix_timestamp(),
    ])?;
    Ok(())
}

/// Forgets the requests that are outdated, and notes the time.
pub(super) fn forget(db: &Connection, now: OffsetDateTime) -> Result<(), StoreError> {
    let outdated = now.saturating_sub(KEPT).unix_timestamp();
    db.prepare_cached("DELETE FROM requests WHERE made_at < ?1")?
        .execute([outdated])?;
    db.prepare_cached(
        "INSERT INTO facts (name, value) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )?
    .execute(params![TIME, now.unix_timestamp().to_be_bytes()])?;
    Ok(())
}

/// Returns the latest time that was noted, or that a request was made at.
pub(super) fn time(db: &Connection) -> Result<Option<OffsetDateTime>, StoreError> {
    let noted: Option<[u8; 8]> = db
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")?
        .query_row([TIME], |row| row.get(0))
        .optional()?;
    let made: Option<i64> = db
        .prepare_cached("SELECT max(made_at) FROM requests")?
        .query_row((), |row| row.get(0))?;
    let latest = noted.map(i64::from_be_bytes).max(made);
    latest.map(from_seconds).transpose()
}

/// How long answered requests are kept.
const KEPT: Duration = Duration::days(1);
/// The name of the fact that has the time.
const TIME: &str = "request_time";
