//! Looks at a database without changing anything, while a daemon uses it too.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, lineage, open, rows};
use crate::store::StoreInspection;

/// Looks at a store: whether it is there, in use, and one that this keypaird can read and write.
///
/// # Errors
/// [`StoreError::TooNew`]; [`StoreError::Damaged`]; [`StoreError::ForeignLog`];
/// [`StoreError::Open`]; [`StoreError::Database`] when it is no database, or none of keypaird.
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
    found.in_use = is_in_use(path);
    if !found.in_use {
        lineage::refuse_foreign_log(path)?;
    }
    let connection = open_to_read(path, found.in_use)?;
    open::check_pages(path, &connection, "quick_check")?;
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

/// Tells whether a daemon uses a database.
pub(super) fn is_in_use(path: &Path) -> bool {
    let is_locked = |file: &Path| {
        File::open(file)
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    };
    is_locked(&open::beside(path, ".lock")) || is_locked(path)
}

/// Opens a database for reading, and does not look at the log that may lie beside it.
pub(super) fn open_without_log(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(
        immutable(path),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
    )
}

/// Opens a database for reading.
///
/// SQLite puts an index (`-shm`) and a log (`-wal`) beside a database, also when it only reads, and leaves them there; unless it
/// is told that nobody changes the file. That may be said of a store at rest whose file has everything in it.
pub(super) fn open_to_read(path: &Path, in_use: bool) -> rusqlite::Result<Connection> {
    let is_there = |suffix| open::beside(path, suffix).exists();
    match in_use || is_there("-wal") || is_there("-journal") {
        true => Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY),
        false => open_without_log(path),
    }
}

/// Names a database that nobody changes, by a URI of SQLite.
fn immutable(path: &Path) -> OsString {
    let mut uri = b"file:".to_vec();
    if path.is_absolute() {
        // Else a second slash in the path would begin a host.
        uri.extend(b"//");
    }
    for byte in path.as_os_str().as_bytes() {
        match *byte {
            b'%' => uri.extend(b"%25"),
            b'?' => uri.extend(b"%3f"),
            b'#' => uri.extend(b"%23"),
            other => uri.push(other),
        }
    }
    uri.extend(b"?immutable=1");
    OsString::from_vec(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names of the files in a folder.
    fn files(folder: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn no_file_is_made_by_looking_at_a_store_at_rest() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["store.db", "100%3f of #1?.db"] {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let path = folder.join(name);
            let mut connection = open::open(&path).unwrap();
            open::migrate(&path, &mut connection).unwrap();
            drop(connection);
            assert_eq!(files(&folder), [name]);
            let found = inspect(&path).unwrap();
            let schema = found.schema.unwrap();
            assert_eq!(schema.found, schema.known);
            assert_eq!(found.key_pairs, 0);
            assert_eq!(files(&folder), [name]);
        }
    }

    #[test]
    fn what_is_not_in_the_database_itself_yet_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let connection = open::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(folder.path().join("store.db-wal").exists());
        assert!(matches!(
            inspect(&path),
            Err(StoreError::TooNew { found: 99, .. })
        ));
    }
}
