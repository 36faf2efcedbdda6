//! Why the daemon did not start, and with which exit code it ends.

use std::io;

use crate::config::ConfigError;
use crate::providers::local::KeyEncryptionKeyError;
use crate::server::ServerError;
use crate::store::{BackupError, StoreError};

/// Why the daemon did not start, or stopped unasked, or why a backup was not made or restored.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// A backup cannot be made, or put back.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The key encryption key cannot be used.
    #[error(transparent)]
    KeyEncryptionKey(#[from] KeyEncryptionKeyError),
    /// Nobody can connect.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The system gives no threads.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The descriptors of our own protos are damaged.
    #[error("cannot read the descriptors of the services")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The store can no longer be written.
    #[error("the store can no longer be written; start the daemon anew")]
    StoreFailed,
    /// The server ended by itself.
    #[error("the server failed")]
    Ended(#[source] tokio::task::JoinError),
    /// The system clock shows a time by which nothing can be dated.
    #[error(
        "the system clock shows {0}, and certificates and answers can be dated from 1970 to 9999 only; set the clock, and start again"
    )]
    Clock(String),
    /// Log lines cannot be written.
    #[error("cannot start logging: {0}")]
    Logging(String),
}

impl StartError {
    /// Returns the exit code (those of `sysexits.h`): 64 for a bad configuration, 69 for what is in use or
    /// away, 77 for the key encryption key, 1 for a file of a backup, 70 for anything else.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 64,
            Self::Store(_) | Self::Server(_) | Self::Backup(BackupError::Store(_)) => 69,
            Self::Backup(_) => 1,
            Self::KeyEncryptionKey(_) => 77,
            Self::Threads(_)
            | Self::Reflection(_)
            | Self::StoreFailed
            | Self::Ended(_)
            | Self::Clock(_)
            | Self::Logging(_) => 70,
        }
    }
}
