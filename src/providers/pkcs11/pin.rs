//! Where the user PIN comes from.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Where a PIN comes from. It is read anew for each connection, so that a changed file takes effect.
#[derive(Clone, Debug)]
pub enum PinSource {
    /// The first line of a file that others cannot read.
    File(PathBuf),
    /// A value that came from the environment.
    Value(SecretString),
}

impl PinSource {
    /// Reads the PIN.
    pub fn read(&self) -> Result<SecretString, PinError> {
        let path = match self {
            Self::Value(pin) => return Ok(pin.clone()),
            Self::File(path) => path,
        };
        let io = |source| PinError::Read {
            path: path.clone(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(PinError::Exposed {
                path: path.clone(),
                mode,
            });
        }
        // One allocation of fixed size, so that no copy of the PIN is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(PIN_FILE_LEN_MAX + 1));
        let limit = u64::try_from(PIN_FILE_LEN_MAX).unwrap_or(u64::MAX);
        file.take(limit).read_to_string(&mut text).map_err(io)?;
        let pin = text.lines().next().unwrap_or_default();
        if pin.is_empty() {
            return Err(PinError::Empty(path.clone()));
        }
        Ok(SecretString::from(pin))
    }
}

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file cannot be read.
    #[error("read the PIN file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everybody can read the file.
    #[error("the PIN file {path} is accessible to everybody (mode {mode:03o}); run chmod o= on it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is empty.
    #[error("the PIN file {0} is empty")]
    Empty(PathBuf),
}

/// Tells whether two PINs are the same.
pub(super) fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

const PIN_FILE_LEN_MAX: usize = 4096;
