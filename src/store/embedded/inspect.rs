//! Looks at a database without changing anything, while a daemon uses it too.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, open, rows};
use crate::store::StoreInspection;

/// Looks at a store: whether it is there, in use, and one that this keypaird can read and write.
///
/// # Errors
/// [`StoreError::TooNew`]; [`StoreError::Open`]; [`StoreError::Database`] when it is no database, or none of keypaird.
pub fn inspect(path: &Path) -> Result<StoreInspection, StoreError> {
    let mut found = StoreInspection {
        in_use: false,
        schema: None,
        key_pairs: 0,
        key_encryption_check: None,
    };
    // Opened as `serve` does, to see whether that is permitted.
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(source) => {
            return Err(StoreError::Open {
                path: path.to_owned(),
                source,
            });
        }
    }
    found.in_use = File::open(open::beside(path, ".lock"))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)));
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let schema = open::schema_version(path, &connection)?;
    if schema.found > 0 {
        let count: i64 =
            connection.query_row("SELECT count(*) FROM key_pairs", (), |row| row.get(0))?;
        found.key_pairs = u64::try_from(count).unwrap_or_default();
        found.key_encryption_check = rows::key_encryption_check(&connection)?;
    }
    found.schema = Some(schema);
    Ok(found)
}
