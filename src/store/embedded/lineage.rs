//! Tells the store that the daemon last wrote from a copy of it that was put in its place.
//!
//! A copy is older than the token: a key that its intents name may have become the key of a key
//! pair since, so it must not be destroyed; and its events went another way.
//!
//! Each opening of a store is an *incarnation* with a random name, and each committed batch of
//! writes counts as one *change*. The database has both, and so has its [`Companion`]. The database
//! is a copy when the companion is missing, was copied itself, is of another incarnation, counted
//! more changes, or is of a database file with another inode number. A store of a release that knew
//! no incarnations has neither, and is no copy.
//!
//! The order of writing leaves no moment at which a killed daemon would find a copy at its next
//! start: the companion names the next incarnation before the database has it, and counts a change
//! after it was committed. A companion that is behind is no sign of a copy. What it may miss, after
//! a kill, is the one batch that no caller was answered; after a power cut, the last seconds.
//!
//! A snapshot of a whole file system or machine includes the companion, and is not noticed. A copy
//! of the folder is, when it is put back a minute or more after the last change that it has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use tracing::warn;

use super::companion::{Companion, CompanionFile, Progress};
use super::writer::Writer;
use super::{Incarnation, StoreError, inspect, intents, open, snapshots};

/// What a store that is open knows of itself.
#[derive(Debug)]
pub(super) struct Lineage {
    database: PathBuf,
    companion: CompanionFile,
    progress: Progress,
    /// The jobs since the log was last copied to the database file as a whole.
    jobs: usize,
    /// Whether the companion could not be written last time.
    fails: bool,
    /// The inode numbers of the database file and its log (`-wal`). None before there is a log.
    files: Option<[u64; 2]>,
}

/// The database file or its log was removed or replaced while it was open. What is written goes to
/// a file without a name, and is lost when the daemon ends.
#[derive(Debug, thiserror::Error)]
#[error("{} or its log (-wal) was removed or replaced while the daemon uses it", .0.display())]
pub(super) struct FilesReplaced(PathBuf);

/// A store that is locked and up to date.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Writer,
    pub(super) incarnation: Incarnation,
    /// The name of the line of events. Empty for one that a former release began.
    pub(super) history: Arc<str>,
    pub(super) lock: open::Lock,
}

/// Opens a database, makes it if it is missing, brings its schema up to date, and begins a new
/// incarnation.
pub(super) fn open(database: &Path) -> Result<Opened, StoreError> {
    let lock = open::lock(database)?;
    refuse_foreign_log(database)?;
    let mut connection = open::open(database)?;
    open::check_pages(database, &connection, "quick_check")?;
    let is_new = open::schema_version(database, &connection)?.found == 0;
    open::migrate(database, &mut connection)?;
    snapshots::rewrite_old_events(&mut connection)?;
    let (lineage, incarnation, history) = begin(database, &mut connection, is_new)?;
    let writer = Writer::start(connection, lineage).map_err(|source| StoreError::Open {
        path: database.to_owned(),
        source,
    })?;
    Ok(Opened {
        writer,
        incarnation,
        history: history.into(),
        lock,
    })
}

/// Begins a new incarnation, and returns its name and that of the line of events with it. `is_new` says that
/// the database was made just now.
///
/// If the database is a copy, its events begin a new history, and its intents become doubtful:
/// their keys are left alone. Otherwise the creations that were under way have ended.
fn begin(
    database: &Path,
    connection: &mut Connection,
    is_new: bool,
) -> Result<(Lineage, Incarnation, String), StoreError> {
    let failed = |source| StoreError::Open {
        path: Companion::path(database),
        source,
    };
    let facts = Facts::read(connection)?;
    let inode = fs::metadata(database).map_err(failed)?.ino();
    let found = Companion::read(database).map_err(failed)?;
    let was_copied = Companion::was_copied(database).map_err(failed)?;
    let is_copy = !is_new && (was_copied || facts.are_of_a_copy(found.as_ref(), inode));
    let next = random(connection)?;
    let mut companion = Companion {
        // Of a copy there is none, so that it is noticed again if this is interrupted.
        incarnation: facts.incarnation.filter(|_| !is_copy),
        next: Some(next),
        inode,
        progress: Progress {
            changes: facts.changes,
            checkpointed: 0,
        },
    };
    companion.write(database).map_err(failed)?;

    let progress = &mut companion.progress;
    progress.changes = facts.changes.saturating_add(1);
    let history = match is_copy || is_new {
        true => random(connection)?.to_string(),
        false => facts.history,
    };
    let step = connection.transaction()?;
    set_fact(&step, INCARNATION, next.as_bytes())?;
    set_fact(&step, CHANGES, &progress.changes.to_be_bytes())?;
    set_fact(&step, HISTORY, history.as_bytes())?;
    intents::take_over(&step, is_copy)?;
    step.commit()?;
    if is_copy {
        report_copy(database, connection)?;
    }

    // From here on the log is copied by `after_batch`, which knows how far.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    if checkpoint(connection, "TRUNCATE")? {
        progress.checkpointed = progress.changes;
    }
    let progress = *progress;
    (companion.incarnation, companion.next) = (Some(next), None);
    let lineage = Lineage {
        database: database.to_owned(),
        companion: companion.write(database).map_err(failed)?,
        progress,
        jobs: 0,
        fails: false,
        files: files_of(database),
    };
    Ok((lineage, next, history))
}

impl Lineage {
    /// Counts the batch whose transaction has just begun.
    pub(super) fn count(&self, batch: &Connection) -> rusqlite::Result<()> {
        set_fact(
            batch,
            CHANGES,
            &self.progress.changes.saturating_add(1).to_be_bytes(),
        )
    }

    /// Notes that the batch was committed. The callers are answered after this.
    ///
    /// # Errors
    /// [`FilesReplaced`] when the batch is in a file that has lost its name. If only the log was
    /// lost, what it has is copied to the database file, so that the next start finds it.
    pub(super) fn note_committed(&mut self, connection: &Connection) -> Result<(), FilesReplaced> {
        self.progress.changes = self.progress.changes.saturating_add(1);
        self.note();
        let found = files_of(&self.database);
        if self.files.is_none() || found == self.files {
            self.files = found;
            return Ok(());
        }
        if let Err(error) = checkpoint(connection, "TRUNCATE") {
            warn!(%error, "the log of the database cannot be copied into it");
        }
        Err(FilesReplaced(self.database.clone()))
    }

    /// Copies the log to the database file when it has grown long.
    ///
    /// SQLite would do that within COMMIT, and not say how far it came.
    pub(super) fn after_batch(&mut self, connection: &Connection, jobs: usize) {
        self.jobs = self.jobs.saturating_add(jobs);
        if self.jobs < JOBS_MAX {
            return;
        }
        match checkpoint(connection, "PASSIVE") {
            Ok(true) => {
                self.jobs = 0;
                self.progress.checkpointed = self.progress.changes;
                self.note();
            }
            // A reader still sees an older state. It is tried after the next batch.
            Ok(false) => {}
            Err(error) => warn!(%error, "the log of the database cannot be copied into it yet"),
        }
    }

    /// Ends the incarnation: copies all of the log to the database file, so that none stays beside
    /// it.
    pub(super) fn end(mut self, connection: Connection) {
        match checkpoint(&connection, "TRUNCATE") {
            Ok(true) => self.progress.checkpointed = self.progress.changes,
            Ok(false) => {
                warn!("another process reads the database, so that its log stays beside it");
            }
            Err(error) => warn!(%error, "the log of the database cannot be copied into it"),
        }
        self.note();
        if let Err(error) = self.companion.sync() {
            warn!(%error, file = %Companion::path(&self.database).display(), "a file beside the store cannot be synced");
        }
        // SQLite removes the log with the last connection.
        if let Err((_, error)) = connection.close() {
            warn!(%error, "the database cannot be closed");
        }
    }

    fn note(&mut self) {
        let noted = self.companion.note(self.progress);
        if let (Err(error), false) = (&noted, self.fails) {
            warn!(%error, file = %Companion::path(&self.database).display(), "a file beside the store cannot be written; a restored copy of the store may not be noticed");
        }
        self.fails = noted.is_err();
    }
}

/// Has the next start take whatever database is there for a restored copy, and refuse a log
/// (`-wal`) beside it.
pub(super) fn mark_as_copy(database: &Path, connection: &Connection) -> Result<(), StoreError> {
    let mark = Companion {
        incarnation: Some(random(connection)?),
        next: None,
        inode: 0,
        progress: Progress {
            changes: u64::MAX,
            checkpointed: u64::MAX,
        },
    };
    let marked = mark.write(database);
    marked.map(|_| ()).map_err(|source| StoreError::Open {
        path: Companion::path(database),
        source,
    })
}

/// Refuses a log (`-wal`) that was left beside a database file to which it does not belong.
///
/// SQLite would replay it, and make one database of two. So the file is read without its log: it
/// must be of the last incarnation, and have all that was ever copied to it. A file that cannot be
/// read like this says nothing, since the daemon may have been killed while it copied the log.
///
/// No other process may use the database meanwhile.
pub(super) fn refuse_foreign_log(database: &Path) -> Result<(), StoreError> {
    let log = open::beside(database, "-wal");
    if fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        return Ok(());
    }
    let companion = Companion::read(database).map_err(|source| StoreError::Open {
        path: Companion::path(database),
        source,
    })?;
    let belongs = match companion {
        Some(companion) if companion.progress.checkpointed > 0 => {
            match inspect::open_without_log(database) {
                Ok(alone) => may_be_of(&companion, database, &alone),
                Err(_) => true,
            }
        }
        _ => true,
    };
    match belongs {
        true => Ok(()),
        false => Err(StoreError::ForeignLog {
            path: database.to_owned(),
            log,
        }),
    }
}

/// Tells whether a database file, read without its log, may be the one that its companion knows.
fn may_be_of(companion: &Companion, database: &Path, alone: &Connection) -> bool {
    let Ok(schema) = open::schema_version(database, alone) else {
        return true;
    };
    match Facts::read(alone) {
        Ok(Facts {
            incarnation: Some(incarnation),
            changes,
            ..
        }) => {
            companion.incarnation == Some(incarnation) && changes >= companion.progress.checkpointed
        }
        // A former release wrote it.
        Ok(_) => schema.found == schema.known,
        Err(_) => true,
    }
}

/// What the database says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    /// None in a store that a former release wrote.
    incarnation: Option<Incarnation>,
    changes: u64,
    history: String,
}

impl Facts {
    fn read(db: &Connection) -> Result<Self, StoreError> {
        let incarnation = fact(db, INCARNATION)?.map(|bytes| {
            let bytes = bytes.try_into();
            bytes.map_err(|_| StoreError::Corrupt(INCARNATION))
        });
        let changes = fact(db, CHANGES)?.map(|bytes| {
            let bytes = bytes.try_into();
            bytes.map_err(|_| StoreError::Corrupt(CHANGES))
        });
        let history = fact(db, HISTORY)?.unwrap_or_default();
        Ok(Self {
            incarnation: incarnation.transpose()?.map(Incarnation::from_random),
            changes: changes.transpose()?.map_or(0, u64::from_be_bytes),
            history: String::from_utf8(history).map_err(|_| StoreError::Corrupt(HISTORY))?,
        })
    }

    fn are_of_a_copy(&self, companion: Option<&Companion>, inode: u64) -> bool {
        match (self.incarnation, companion) {
            (None, None) => false,
            // A former release wrote the copy, and this one wrote the store.
            (None, Some(companion)) => companion.incarnation.is_some(),
            (Some(_), None) => true,
            (Some(incarnation), Some(companion)) => {
                let known = [companion.incarnation, companion.next].contains(&Some(incarnation));
                !known || companion.progress.changes > self.changes || companion.inode != inode
            }
        }
    }
}

/// Says that the store is a copy, and which keys it leaves on the token.
fn report_copy(database: &Path, connection: &Connection) -> Result<(), StoreError> {
    let doubtful = intents::all(connection)?;
    warn!(
        store = %database.display(),
        doubtful = doubtful.len(),
        "the store is a restored copy"
    );
    for intent in doubtful {
        warn!(
            key_pair = %intent.id,
            cka_id = %intent.key_ref,
            provider = %intent.provider,
            "a key may belong to a key pair that is newer than the restored store; it is left on the token"
        );
    }
    Ok(())
}

/// Returns the inode numbers of a database file and its log, if both are there.
fn files_of(database: &Path) -> Option<[u64; 2]> {
    let inode = |path: &Path| fs::metadata(path).ok().map(|found| found.ino());
    Some([inode(database)?, inode(&open::beside(database, "-wal"))?])
}

/// Copies the log to the database file, and tells whether all of it is there now.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<bool> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| {
        let (busy, frames, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && frames == copied)
    })
}

pub(super) fn random(connection: &Connection) -> rusqlite::Result<Incarnation> {
    connection
        .query_row("SELECT randomblob(16)", (), |row| row.get(0))
        .map(Incarnation::from_random)
}

fn fact(db: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT value FROM facts WHERE name = ?1", [name], |row| {
        row.get(0)
    })
    .optional()
}

fn set_fact(db: &Connection, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO facts (name, value) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET value = excluded.value",
    )?
    .execute(params![name, value])?;
    Ok(())
}

const INCARNATION: &str = "incarnation";
const CHANGES: &str = "changes";
const HISTORY: &str = "history";
/// About a thousand pages, at which SQLite itself would copy the log.
const JOBS_MAX: usize = 100;

#[cfg(test)]
mod tests;
