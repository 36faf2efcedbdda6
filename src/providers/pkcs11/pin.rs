//! Where the user PIN comes from, and that a refused one is not tried again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::providers::ProviderErrorKind;

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

/// The PIN, unless it is the one that the token refused: a few tries lock the token.
#[derive(Debug)]
pub(in crate::providers) struct Login {
    source: PinSource,
    refused: Mutex<Option<SecretString>>,
}

impl Login {
    /// Takes the source of the PIN, of which none was refused yet.
    pub(in crate::providers) const fn new(source: PinSource) -> Self {
        Self {
            source,
            refused: Mutex::new(None),
        }
    }

    /// Returns the PIN to log in with.
    pub(in crate::providers) fn pin(&self) -> Result<SecretString, LoginError> {
        let pin = self.source.read()?;
        let mut refused = self.refused.lock();
        let is_refused = refused
            .as_ref()
            .is_some_and(|refused| refused.expose_secret() == pin.expose_secret());
        if is_refused {
            return Err(LoginError::RefusedBefore);
        }
        *refused = None;
        Ok(pin)
    }

    /// Notes that the token refused a PIN.
    pub(in crate::providers) fn refuse(&self, pin: SecretString) {
        *self.refused.lock() = Some(pin);
    }

    /// Says why there is no connection, as far as the login has to do with it.
    pub(in crate::providers) fn kind_when_unconnected(&self) -> ProviderErrorKind {
        match *self.refused.lock() {
            Some(_) => ProviderErrorKind::LoginRefused,
            None => ProviderErrorKind::Unavailable,
        }
    }
}

/// Why a login is not tried.
#[derive(Debug, thiserror::Error)]
pub(in crate::providers) enum LoginError {
    /// The PIN cannot be read.
    #[error("read the PIN")]
    Pin(#[from] PinError),
    /// The token refused this PIN before.
    #[error(
        "the token refused this PIN before, and a few tries lock it; it is tried again when the PIN changes"
    )]
    RefusedBefore,
}

impl LoginError {
    /// Returns what this means outside.
    pub(in crate::providers) const fn kind(&self) -> ProviderErrorKind {
        match self {
            Self::Pin(_) => ProviderErrorKind::Unavailable,
            Self::RefusedBefore => ProviderErrorKind::LoginRefused,
        }
    }
}

const PIN_FILE_LEN_MAX: usize = 4096;
