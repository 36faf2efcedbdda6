//! The companion of a database: a small file beside it, which no copy of the database includes.
//!
//! It says which incarnation of the store was last at work, and how far that had come. See
//! [`super::lineage`] for what follows from it.
//!
//! A copied folder has the companion as well. So each write to it notes the time, by the clock of
//! the file system: a companion that was changed later than it says was itself copied. No tool can
//! set the time of that change (`ctime`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Incarnation;
use super::open::{beside, sync_folder};

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Companion {
    /// The incarnation that was last at work. None before the first one was recorded.
    pub(super) incarnation: Option<Incarnation>,
    /// The incarnation that is being recorded in the database, which may have it already.
    pub(super) next: Option<Incarnation>,
    /// The inode number of the database file.
    pub(super) inode: u64,
    /// What is known to be committed.
    pub(super) progress: Progress,
}

/// How far an incarnation has come. The numbers count committed batches of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The last batch that was committed.
    pub(super) changes: u64,
    /// The last batch that is known to be in the database file itself, and not only in its log
    /// (`-wal`). Zero when that is not known.
    pub(super) checkpointed: u64,
}

impl Companion {
    /// Returns the path of the companion of a database.
    pub(super) fn path(database: &Path) -> PathBuf {
        beside(database, ".lineage")
    }

    /// Reads the companion of a database. One that is damaged is as good as none.
    pub(super) fn read(database: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::path(database)) {
            Ok(bytes) => Ok(str::from_utf8(&bytes).ok().and_then(Self::parse)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells whether the companion was put in its place by something else than a daemon. A missing
    /// or damaged one was not.
    pub(super) fn was_copied(database: &Path) -> io::Result<bool> {
        let read = || {
            let mut file = File::open(Self::path(database))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok::<_, io::Error>((Self::time_noted(&text), file.metadata()?.ctime()))
        };
        match read() {
            Ok((noted, changed)) => {
                Ok(noted.is_some_and(|noted| changed.saturating_sub(noted) > CHANGED_LATER_MAX))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Writes the companion of a database durably, whole or not at all, readable by its owner only.
    pub(super) fn write(&self, database: &Path) -> io::Result<CompanionFile> {
        let (path, new) = (Self::path(database), beside(database, ".lineage.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let head = self.head();
        file.write_all(head.as_bytes())?;
        let changed = file.metadata()?.ctime();
        file.write_all(last_line(self.progress, changed).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_folder(&path)?;
        Ok(CompanionFile {
            file,
            head_len: u64::try_from(head.len()).map_err(io::Error::other)?,
            changed,
        })
    }

    /// Returns all lines but the last.
    fn head(&self) -> String {
        let name = |incarnation: Option<Incarnation>| match incarnation {
            Some(incarnation) => incarnation.to_string(),
            None => NONE.to_owned(),
        };
        format!(
            "{VERSION}\nincarnation {}\nnext {}\ninode {}\n",
            name(self.incarnation),
            name(self.next),
            self.inode
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let name = |text: &str| match text {
            NONE => Some(None),
            hex => Incarnation::parse(hex).map(Some),
        };
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != VERSION {
            return None;
        }
        let companion = Self {
            incarnation: name(lines.next()?.strip_prefix("incarnation ")?)?,
            next: name(lines.next()?.strip_prefix("next ")?)?,
            inode: lines.next()?.strip_prefix("inode ")?.parse().ok()?,
            progress: parse_last_line(lines.next()?)?.0,
        };
        lines.next().is_none().then_some(companion)
    }

    /// Returns the time of the last write, in seconds since 1970.
    fn time_noted(text: &str) -> Option<i64> {
        Self::parse(text)?;
        parse_last_line(text.lines().last()?).map(|(_, noted)| noted)
    }
}

/// Returns the last line of the file, which has the same length whatever the numbers are.
fn last_line(progress: Progress, time: i64) -> String {
    let Progress {
        changes,
        checkpointed,
    } = progress;
    format!("changes {changes:020} checkpointed {checkpointed:020} time {time:020}\n")
}

fn parse_last_line(line: &str) -> Option<(Progress, i64)> {
    let (changes, rest) = line
        .strip_prefix("changes ")?
        .split_once(" checkpointed ")?;
    let (checkpointed, time) = rest.split_once(" time ")?;
    let progress = Progress {
        changes: changes.parse().ok()?,
        checkpointed: checkpointed.parse().ok()?,
    };
    Some((progress, time.parse().ok()?))
}

/// The file, open for the line that changes.
#[derive(Debug)]
pub(super) struct CompanionFile {
    file: File,
    head_len: u64,
    /// The time that the line has, by the clock of the file system: that of a file server is not
    /// ours.
    changed: i64,
}

impl CompanionFile {
    /// Writes how far the store has come, in the place of the former line.
    ///
    /// The system has it when this returns, so that a killed process loses nothing. It is not
    /// synced, since each commit would then wait for the disk twice: after a power cut the file may
    /// be behind the database, and is never ahead of it.
    ///
    /// The line has the time at which the file was changed, which is known only when it was. So the
    /// first note of each second is written twice.
    pub(super) fn note(&mut self, progress: Progress) -> io::Result<()> {
        self.write_line(progress)?;
        let changed = self.file.metadata()?.ctime();
        if changed == self.changed {
            return Ok(());
        }
        self.changed = changed;
        self.write_line(progress)
    }

    fn write_line(&self, progress: Progress) -> io::Result<()> {
        let line = last_line(progress, self.changed);
        self.file.write_all_at(line.as_bytes(), self.head_len)
    }

    /// Makes durable what was noted.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

const VERSION: &str = "keypaird-lineage-v1";
const NONE: &str = "none";
/// How many seconds after the time that it notes a companion may have been changed: the system may
/// have been suspended in between.
const CHANGED_LATER_MAX: i64 = 60;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const COMPANION: Companion = Companion {
        incarnation: Some(Incarnation::from_random([7; 16])),
        next: None,
        inode: u64::MAX,
        progress: Progress {
            changes: 9,
            checkpointed: 0,
        },
    };

    #[test]
    fn what_is_noted_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("store.db");
        assert_eq!(Companion::read(&database).unwrap(), None);
        let mut file = COMPANION.write(&database).unwrap();
        assert_eq!(Companion::read(&database).unwrap(), Some(COMPANION));
        for changes in [10, 99_999, u64::MAX] {
            let progress = Progress {
                changes,
                checkpointed: changes - 1,
            };
            file.note(progress).unwrap();
            let read = Companion::read(&database).unwrap().unwrap();
            assert_eq!(
                read,
                Companion {
                    progress,
                    ..COMPANION
                }
            );
        }
        let mode = fs::metadata(Companion::path(&database)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_companion_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("store.db");
        COMPANION.write(&database).unwrap();
        let path = Companion::path(&database);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [0xff]).unwrap();
        assert!(!Companion::was_copied(&database).unwrap());
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(Companion::read(&database).unwrap(), None, "{len} bytes");
        }
        fs::write(&path, [&whole[..], b"x\n"].concat()).unwrap();
        assert_eq!(Companion::read(&database).unwrap(), None);
    }
}
