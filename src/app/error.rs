//! Why the daemon did not start, and with which exit code it ends.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::providers::local::KeyEncryptionKeyError;
use crate::store::StoreError;

/// Why the daemon did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// The key encryption key cannot be used.
    #[error(transparent)]
    KeyEncryptionKey(#[from] KeyEncryptionKeyError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The files of TLS cannot be used.
    #[error("cannot use {path} for TLS: {why}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system gives no threads.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The descriptors of our own protos are damaged.
    #[error("cannot read the descriptors of the services")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The server ended by itself.
    #[error("the server failed")]
    Server(#[source] tokio::task::JoinError),
    /// Log lines cannot be written.
    #[error("cannot start logging: {0}")]
    Logging(String),
}

impl StartError {
    /// Returns the exit code (those of `sysexits.h`): 64 for a bad configuration, 69 for what is in use or
    /// away, 77 for the key encryption key, 70 for anything else.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 64,
            Self::Store(_) | Self::Listen { .. } | Self::Tls { .. } => 69,
            Self::KeyEncryptionKey(_) => 77,
            Self::Threads(_) | Self::Reflection(_) | Self::Server(_) | Self::Logging(_) => 70,
        }
    }
}
