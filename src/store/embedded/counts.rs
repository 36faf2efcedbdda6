//! How many key pairs there are of a kind.

use rusqlite::{Connection, params};
use time::OffsetDateTime;

use super::{StoreError, rows};
use crate::domain::ProviderKind;

/// Counts the key pairs of a provider, from the counters.
pub(super) fn count(db: &Connection, provider: ProviderKind) -> Result<u64, StoreError> {
    let count: i64 = db
        .prepare_cached("SELECT coalesce(sum(key_pairs), 0) FROM counts WHERE provider = ?1")?
        .query_row([rows::provider_number(provider)], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Counts the key pairs of which a step of a rotation is due.
pub(super) fn count_due(db: &Connection, before: OffsetDateTime) -> Result<u64, StoreError> {
    let count: i64 = db
        .prepare_cached("SELECT count(*) FROM key_pairs WHERE due < ?1")?
        .query_row([before.unix_timestamp()], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Counts certificates that expire within a span of time, by their index.
pub(super) fn count_expiring(
    db: &Connection,
    provider: Option<ProviderKind>,
    from: OffsetDateTime,
    before: OffsetDateTime,
    with_rotation: bool,
) -> Result<u64, StoreError> {
    let count: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM key_pairs WHERE not_after >= ?1 AND not_after < ?2 \
             AND (?3 IS NULL OR +provider = ?3) AND (?4 OR rotation IS NULL)",
        )?
        .query_row(
            params![
                from.unix_timestamp(),
                before.unix_timestamp(),
                provider.map(rows::provider_number),
                with_rotation
            ],
            |row| row.get(0),
        )?;
    Ok(u64::try_from(count).unwrap_or_default())
}
