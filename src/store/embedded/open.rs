//! Opens the database file.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::StoreError;
use crate::store::SchemaVersion;

/// Keeps other daemons from a database for as long as it exists: by a file beside the database,
/// which stays when the database is replaced, and by the database itself, since the lock file may
/// be removed.
#[derive(Debug)]
pub(super) struct Lock {
    _place: File,
    /// POSIX drops the locks of a process with the first descriptor of a file that it closes, those
    /// of SQLite too. So it is closed after the connections.
    _database: File,
}

/// Makes sure that no other daemon uses the database, and makes it if it is missing.
pub(super) fn lock(path: &Path) -> Result<Lock, StoreError> {
    let place = lock_place(path)?;
    // Made here so that the database, and with it the files SQLite puts beside it, are private.
    let database = private_file(path).map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(Lock {
        _place: place,
        _database: locked(database, path)?,
    })
}

/// Makes sure that no daemon uses a database, whether it is there or not.
pub(super) fn lock_place(path: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Open {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder_of(path))
        .map_err(failed)?;
    let lock = private_file(&beside(path, ".lock")).map_err(failed)?;
    let lock = locked(lock, path)?;
    // A daemon whose lock file was removed still holds the database.
    match File::open(path) {
        Ok(database) => locked(database, path).map(|_| lock),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(lock),
        Err(source) => Err(failed(source)),
    }
}

/// Locks a file of a database by `flock`, which does not meet the locks of SQLite.
fn locked(file: File, database: &Path) -> Result<File, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(database.to_owned())),
        Err(TryLockError::Error(source)) => Err(StoreError::Open {
            path: database.to_owned(),
            source,
        }),
    }
}

/// Opens a connection.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What was deleted is overwritten, encrypted keys above all.
    connection.pragma_update(None, "secure_delete", true)?;
    // What a savepoint would restore is kept in memory, not in a file.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Reads the whole database, and refuses one that is damaged.
///
/// `quick_check` of SQLite reads every page and row; `integrity_check` compares the indexes as
/// well, and takes several times as long.
pub(super) fn check_pages(
    path: &Path,
    connection: &Connection,
    check: &str,
) -> Result<(), StoreError> {
    let damaged = |finding: String| StoreError::Damaged {
        path: path.to_owned(),
        finding,
    };
    let found = connection.query_row(&format!("PRAGMA {check}(1)"), (), |row| {
        row.get::<_, String>(0)
    });
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(damaged(found.replace('\n', ": "))),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Err(damaged(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Brings the schema up to date, each step in a transaction of its own.
pub(super) fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    migrate_to(path, connection, MIGRATIONS.len())
}

/// Brings the schema up to a version.
pub(super) fn migrate_to(
    path: &Path,
    connection: &mut Connection,
    version: usize,
) -> Result<(), StoreError> {
    let schema = schema_version(path, connection)?;
    let steps = MIGRATIONS.iter().enumerate().take(version);
    for (index, migration) in steps.skip(schema.found) {
        let step = connection.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(
            None,
            "user_version",
            i64::try_from(index + 1).unwrap_or(i64::MAX),
        )?;
        step.commit()?;
    }
    Ok(())
}

/// Returns the version of the schema, unless it is a later one than is known here.
pub(super) fn schema_version(
    path: &Path,
    connection: &Connection,
) -> Result<SchemaVersion, StoreError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    let known = MIGRATIONS.len();
    if found > known {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(SchemaVersion { found, known })
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes durable that a file has its name.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}

/// Returns the folder of a file, which may be named without one.
pub(super) fn folder_of(file: &Path) -> &Path {
    let folder = file.parent();
    let named = folder.filter(|folder| !folder.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// Returns the path of a file beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The steps of the schema, oldest first. A step is never changed once it was released.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_key_pairs.sql"),
    include_str!("../migrations/0002_certified_key_pairs.sql"),
    include_str!("../migrations/0003_rotation.sql"),
    // 0004 changes nothing; its number was reserved.
    "",
    include_str!("../migrations/0005_intents.sql"),
    include_str!("../migrations/0006_snapshots.sql"),
    include_str!("../migrations/0007_signing_algorithm.sql"),
    include_str!("../migrations/0008_labels.sql"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_later_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let mut connection = open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(
            migrate(&path, &mut connection),
            Err(StoreError::TooNew { found: 99, .. })
        ));
    }

    #[test]
    fn a_store_is_used_by_one_daemon_and_private_to_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/store.db");
        let held = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(StoreError::InUse(_))));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        // An operator who removes the lock file does not let a second daemon in.
        std::fs::remove_file(beside(&path, ".lock")).unwrap();
        assert!(matches!(lock(&path), Err(StoreError::InUse(_))));
        drop(held);
        assert!(lock(&path).is_ok());
    }
}
