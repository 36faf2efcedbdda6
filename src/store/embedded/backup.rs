//! Backups of the database, and how one is put back.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use super::{StoreError, inspect, lineage, open, rows};
use crate::domain::{Generation, KeyPairId, KeyRef, SealedKey};

/// Copies the database of a store to a file, whether a daemon uses the store or not, and returns
/// how many key pairs the copy has.
///
/// The copy is of one moment. The file is readable by its owner only, is checked, and gets its name
/// when it is whole and durable.
///
/// # Errors
/// [`BackupError::IsStore`] for the files of the store; [`BackupError::Exists`] unless `overwrite`,
/// and then [`BackupError::NoBackup`] for whatever is no backup; [`BackupError::Store`] for a store
/// that is missing, damaged or too new; and when the file cannot be written.
pub fn back_up(store: &Path, file: &Path, overwrite: bool) -> Result<u64, BackupError> {
    refuse_files_of_store(store, file)?;
    if file.symlink_metadata().is_ok() {
        match overwrite {
            _ if file.is_dir() => return Err(BackupError::IsFolder(file.to_owned())),
            false => return Err(BackupError::Exists(file.to_owned())),
            true if is_backup(file) => {}
            true => return Err(BackupError::NoBackup(file.to_owned())),
        }
    }
    let connection = open_store(store)?;
    // A name that nothing else has: it is removed if this fails.
    let name = lineage::random(&connection).map_err(StoreError::from)?;
    let new = open::beside(file, &format!(".{name}.new"));
    let copied = copy(&connection, &new).and_then(|()| {
        let key_pairs = check_copy(&new)?;
        give_name(&new, file)?;
        Ok(key_pairs)
    });
    if copied.is_err() {
        // It may not be there. The first error counts.
        let _ = fs::remove_file(&new);
    }
    copied
}

/// A backup that can be put in the place of a store.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    connection: Connection,
    /// How many key pairs it has.
    pub key_pairs: u64,
    /// What tells the key encryption key that its software keys are encrypted with.
    pub key_encryption_check: Option<SealedKey>,
}

/// What became of a store that a backup was put in the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many key pairs the store has now.
    pub key_pairs: u64,
    /// Where the former store is. None if there was none.
    pub former: Option<PathBuf>,
}

impl BackupFile {
    /// Opens a backup and reads all of it.
    ///
    /// # Errors
    /// [`BackupError::Unusable`] for a file that is damaged, or no store of keypaird;
    /// [`BackupError::TooNew`].
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let unusable = |finding: String| BackupError::Unusable {
            path: path.to_owned(),
            finding,
        };
        fs::File::open(path).map_err(failed(path))?;
        let looked_at = inspect::open_to_read(path, false)
            .map_err(StoreError::from)
            .and_then(|connection| {
                open::check_pages(path, &connection, "integrity_check")?;
                let schema = open::schema_version(path, &connection)?;
                Ok((connection, schema.found))
            });
        let (connection, schema) = match looked_at {
            Ok(looked_at) => looked_at,
            Err(StoreError::Damaged { finding, .. }) => {
                return Err(unusable(format!("it is damaged ({finding})")));
            }
            Err(StoreError::Database(error))
                if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) =>
            {
                return Err(unusable(NO_STORE.to_owned()));
            }
            Err(error @ StoreError::TooNew { .. }) => return Err(BackupError::TooNew(error)),
            Err(error) => return Err(unusable(error.to_string())),
        };
        if schema == 0 {
            return Err(unusable(NO_STORE.to_owned()));
        }
        // Other programs use SQLite too.
        let key_pairs = count_key_pairs(&connection).map_err(|_| unusable(NO_STORE.to_owned()))?;
        let key_encryption_check =
            rows::key_encryption_check(&connection).map_err(|_| unusable(NO_STORE.to_owned()))?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            key_pairs,
            key_encryption_check,
        })
    }

    /// Shows each encrypted software key to `opens`, with the key pair, generation and key that it
    /// belongs to.
    ///
    /// # Errors
    /// [`BackupError::UnreadableKey`] for the first one that does not open.
    pub fn check_software_keys(
        &self,
        opens: impl Fn(&KeyPairId, Generation, KeyRef, &SealedKey) -> bool,
    ) -> Result<(), BackupError> {
        let checked = || {
            let mut statement = self.connection.prepare(
                "SELECT key_pairs.id, generations.number, generations.key_ref, generations.sealed_key
                 FROM generations JOIN key_pairs ON key_pairs.sequence = generations.key_pair
                 WHERE generations.sealed_key IS NOT NULL",
            )?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let id = rows::id(row, 0)?;
                let generation = rows::generation_number(row.get(1)?)?;
                let sealed = SealedKey::from_bytes(row.get::<_, Vec<u8>>(3)?);
                if !opens(&id, generation, rows::key_ref(row, 2)?, &sealed) {
                    return Ok(Some(id));
                }
            }
            Ok::<_, StoreError>(None)
        };
        match checked()? {
            None => Ok(()),
            Some(id) => Err(BackupError::UnreadableKey {
                path: self.path.clone(),
                id,
            }),
        }
    }

    /// Puts a copy of the backup in the place of a store that no daemon uses.
    ///
    /// The former database and its log are kept beside it under a name with the time. Wherever this
    /// is interrupted, the next start finds the former store or the new one whole, as a restored
    /// copy, or refuses the log that is still there.
    ///
    /// # Errors
    /// [`StoreError::InUse`] in [`BackupError::Store`]; and when a file cannot be written.
    pub fn restore(self, store: &Path, time: OffsetDateTime) -> Result<Restored, BackupError> {
        refuse_same_file(store, &self.path)?;
        let _lock = open::lock_place(store)?;
        let owner = fs::metadata(store)
            .or_else(|_| fs::metadata(open::folder_of(store)))
            .map_err(failed(store))?;
        let new = open::beside(store, ".restoring");
        remove_if_there(&new)?;
        copy(&self.connection, &new)?;
        check_copy(&new)?;
        hand_over(&new, &owner)?;

        lineage::mark_as_copy(store, &self.connection)?;
        for file in [".lineage", ".lock"] {
            hand_over(&open::beside(store, file), &owner)?;
        }
        let former = keep_former(store, time)?;
        give_name(&new, store)?;
        for left in ["-wal", "-shm"] {
            remove_if_there(&open::beside(store, left))?;
        }
        open::sync_folder(store).map_err(failed(store))?;
        Ok(Restored {
            key_pairs: self.key_pairs,
            former,
        })
    }
}

/// Why a store is not backed up, or a backup not put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is there already.
    #[error("{0} exists; choose another name, or replace it by --force")]
    Exists(PathBuf),
    /// A folder has the name.
    #[error("{0} is a folder; name a file in it")]
    IsFolder(PathBuf),
    /// The file is there, and no backup: it may be anything that is needed.
    #[error("{0} is not a backup of keypaird, so --force does not replace it; choose another name")]
    NoBackup(PathBuf),
    /// The file is the store, or belongs to it.
    #[error("{0} is a file of the store itself; choose another name")]
    IsStore(PathBuf),
    /// The file is no backup that can be put back.
    #[error("{path} cannot be restored: {finding}; name a file that keypaird backup made")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        finding: String,
    },
    /// A software key in it does not open.
    #[error(
        "{path} has a private key of the key pair {id} that does not decrypt under the key encryption key: the file was damaged or changed; use another backup"
    )]
    UnreadableKey {
        /// The file.
        path: PathBuf,
        /// The key pair.
        id: KeyPairId,
    },
    /// A later version of keypaird made the backup.
    #[error("the backup cannot be restored by this version")]
    TooNew(#[source] StoreError),
    /// The database cannot be copied.
    #[error("the database cannot be copied to {path}")]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file cannot be read or written.
    #[error("{path} cannot be used")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens a store to be copied, beside a daemon that may use it.
///
/// For writing, since SQLite then removes with the last connection what it puts beside the
/// database.
fn open_store(store: &Path) -> Result<Connection, StoreError> {
    fs::File::open(store).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(store.to_owned()),
        _ => StoreError::Open {
            path: store.to_owned(),
            source,
        },
    })?;
    if !inspect::is_in_use(store) {
        lineage::refuse_foreign_log(store)?;
    }
    let connection = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    open::schema_version(store, &connection)?;
    Ok(connection)
}

/// Copies a database to a new file, durably.
///
/// `VACUUM INTO` copies rows and not pages, so that nothing of what was deleted comes along.
fn copy(from: &Connection, to: &Path) -> Result<(), BackupError> {
    // Made here so that it is private.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(failed(to))?;
    // An absolute path is never taken for a URI.
    let absolute = std::path::absolute(to).map_err(failed(to))?;
    let name = absolute.to_str().ok_or_else(|| {
        let source = io::Error::new(io::ErrorKind::InvalidFilename, "its name is not UTF-8");
        failed(to)(source)
    })?;
    from.execute("VACUUM INTO ?1", [name])
        .map_err(|source| BackupError::Copy {
            path: to.to_owned(),
            source,
        })?;
    file.sync_all().map_err(failed(to))
}

/// Reads a whole copy, and returns how many key pairs it has.
fn check_copy(path: &Path) -> Result<u64, BackupError> {
    let connection = inspect::open_without_log(path).map_err(StoreError::from)?;
    open::check_pages(path, &connection, "quick_check")?;
    Ok(count_key_pairs(&connection).map_err(StoreError::from)?)
}

fn count_key_pairs(connection: &Connection) -> rusqlite::Result<u64> {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM key_pairs", (), |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Keeps the database and its log under another name as well, and returns that.
fn keep_former(store: &Path, time: OffsetDateTime) -> Result<Option<PathBuf>, BackupError> {
    if fs::metadata(store).map_or(0, |store| store.len()) == 0 {
        return Ok(None);
    }
    let stamp = time
        .format(STAMP)
        .map_err(|error| failed(store)(io::Error::other(error)))?;
    let former = open::beside(store, &format!(".before-restore-{stamp}"));
    fs::hard_link(store, &former).map_err(failed(&former))?;
    let (log, former_log) = (open::beside(store, "-wal"), open::beside(&former, "-wal"));
    match fs::hard_link(log, &former_log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&former_log)(error)),
        _ => Ok(Some(former)),
    }
}

fn give_name(new: &Path, name: &Path) -> Result<(), BackupError> {
    fs::rename(new, name).map_err(failed(name))?;
    open::sync_folder(name).map_err(failed(name))
}

/// Gives a file to the user that the store belongs to, if that is another one.
fn hand_over(file: &Path, owner: &Metadata) -> Result<(), BackupError> {
    let found = fs::metadata(file).map_err(failed(file))?;
    match found.uid() == owner.uid() {
        true => Ok(()),
        false => chown(file, Some(owner.uid()), Some(owner.gid())).map_err(failed(file)),
    }
}

/// Refuses the database and what stands beside it: its log, the lock, the companion.
fn refuse_files_of_store(store: &Path, file: &Path) -> Result<(), BackupError> {
    for suffix in [
        "",
        "-wal",
        "-shm",
        "-journal",
        ".lock",
        ".lineage",
        ".restoring",
    ] {
        let member = open::beside(store, suffix);
        refuse_same_file(&member, file)?;
        // It may not be there yet.
        if member.file_name() == file.file_name() {
            let (folder, other) = (open::folder_of(store), open::folder_of(file));
            refuse_same_file(folder, other).map_err(|_| BackupError::IsStore(file.to_owned()))?;
        }
    }
    Ok(())
}

/// Tells whether a file, or what a link leads to, is a store of keypaird.
fn is_backup(file: &Path) -> bool {
    let is_file = fs::metadata(file).is_ok_and(|found| found.is_file());
    let opened = is_file
        .then(|| inspect::open_without_log(file).ok())
        .flatten();
    opened.is_some_and(|connection| {
        let schema = open::schema_version(file, &connection);
        schema.is_ok_and(|schema| schema.found > 0) && count_key_pairs(&connection).is_ok()
    })
}

fn refuse_same_file(store: &Path, file: &Path) -> Result<(), BackupError> {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (inode(store), inode(file)) {
        (Ok(store), Ok(same)) if store == same => Err(BackupError::IsStore(file.to_owned())),
        _ => Ok(()),
    }
}

fn remove_if_there(file: &Path) -> Result<(), BackupError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(file)(error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::File {
        path: path.clone(),
        source,
    }
}

const NO_STORE: &str = "it is no store of keypaird";
const STAMP: &[FormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
