//! Files that `--out` names: written whole or not at all, and private where they hold a private key.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::Context;
use super::error::Failure;
use super::input::is_dash;

/// Where an answer goes: checked before the daemon is asked for it.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    kind: Kind,
    mode: u32,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Standard output.
    StandardOutput,
    /// A pipe or a device, or what this process has open: written to as it is.
    Stream,
    /// No file as yet.
    New,
    /// A file, or a link, that is to be replaced.
    Replaced,
}

impl OutFile {
    /// Sees whether an answer may be written to a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] where the file is there and may not be replaced, or cannot be made.
    pub(super) fn new(path: &Path, force: bool) -> Result<Self, Failure> {
        Ok(Self {
            path: path.to_owned(),
            kind: Kind::of(path, force).map_err(|why| refused(path, &why))?,
            mode: READABLE_BY_ALL,
        })
    }

    /// As [`OutFile::new`], where a file is named.
    pub(super) fn optional(path: Option<&Path>, force: bool) -> Result<Option<Self>, Failure> {
        path.map(|path| Self::new(path, force)).transpose()
    }

    /// Sees whether an answer may be written to a file that its owner alone may read.
    ///
    /// # Errors
    /// As those of [`OutFile::new`].
    pub(super) fn private(path: &Path, force: bool) -> Result<Self, Failure> {
        Ok(Self {
            mode: READABLE_BY_OWNER,
            ..Self::new(path, force)?
        })
    }

    /// Tells whether it is standard output.
    pub(super) fn is_standard_output(&self) -> bool {
        self.kind == Kind::StandardOutput
    }

    /// Writes the answer. A file is there as a whole afterwards, or what was there before.
    pub(super) fn write(&self, bytes: &[u8], context: &mut Context<'_>) -> Result<(), Failure> {
        let written = match self.kind {
            Kind::StandardOutput => return Ok(context.out.write_all(bytes)?),
            Kind::Stream => OpenOptions::new()
                .append(true)
                .open(&self.path)
                .and_then(|mut stream| stream.write_all(bytes)),
            Kind::New | Kind::Replaced => self.put_in_place(bytes),
        };
        written.map_err(|error| match error.kind() {
            // It came while the daemon was asked.
            io::ErrorKind::AlreadyExists => refused(&self.path, IS_THERE),
            _ => Failure::File {
                path: self.path.clone(),
                error,
            },
        })
    }

    /// Writes a file beside it, and moves that to its place.
    fn put_in_place(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = folder_of(&self.path);
        let mut file = Builder::new()
            .prefix(".keypairctl-")
            .permissions(Permissions::from_mode(self.mode))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        let moved = match self.kind {
            Kind::Replaced => NamedTempFile::persist(file, &self.path),
            _ => file.persist_noclobber(&self.path),
        };
        moved.map_err(|failed| failed.error)?;
        // The file is in its place, whether or not its folder may be read and written out.
        drop(File::open(folder).and_then(|folder| folder.sync_all()));
        Ok(())
    }
}

impl Kind {
    fn of(path: &Path, force: bool) -> Result<Self, String> {
        if is_dash(path) || is_standard_output(path) {
            return Ok(Self::StandardOutput);
        }
        if is_stream(path) {
            return Ok(Self::Stream);
        }
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() => Err("is a folder".to_owned()),
            Ok(_) if force => Ok(Self::Replaced),
            Ok(_) => Err(IS_THERE.to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
            Err(_) => {
                let folder = folder_of(path);
                match folder.is_dir() {
                    true => Ok(Self::New),
                    false => Err(format!("there is no folder {}", folder.display())),
                }
            }
        }
    }
}

/// Tells whether a path is that of standard output (proc(5), fd(4)).
fn is_standard_output(path: &Path) -> bool {
    let paths = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    paths.iter().any(|known| path == Path::new(known))
}

/// Tells whether a path leads to what is no regular file, or to what a process has open.
fn is_stream(path: &Path) -> bool {
    let is_open = |path: &Path| path.starts_with("/proc") || path.starts_with("/dev/fd");
    let is_special = |there: fs::Metadata| !there.is_file() && !there.is_dir();
    is_open(path)
        || fs::read_link(path).is_ok_and(|to| is_open(&to))
        || fs::metadata(path).is_ok_and(is_special)
}

/// Returns the folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::Usage(format!("--out {}: {why}", path.display()))
}

const IS_THERE: &str = "the file is there; --force replaces it";
/// Less the umask.
const READABLE_BY_ALL: u32 = 0o666;
const READABLE_BY_OWNER: u32 = 0o600;
