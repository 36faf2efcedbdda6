//! Why the store could not do what it was asked.

use std::path::PathBuf;
use std::sync::Arc;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id belongs to a key pair.
    #[error("the id is taken")]
    IdTaken,
    /// The id belongs to no key pair, but to a key that is being made or destroyed.
    #[error("the id is held by a creation or a deletion that is not finished")]
    IdUnfinished,
    /// The id belongs to no key pair, but to a doubtful key.
    #[error("the id is held by a doubtful key")]
    IdDoubtful,
    /// There is no key pair of this id any more.
    #[error("the key pair is gone")]
    IdGone,
    /// The key in the provider belongs to a key pair.
    #[error("the key is taken")]
    KeyTaken,
    /// The key in the provider is being made or destroyed.
    #[error("the key is being made or destroyed")]
    KeyUnfinished,
    /// The intent of the key is not there any more, or not for its creation. Nothing was recorded.
    #[error("the intent of the key is gone")]
    IntentGone,
    /// The database failed.
    #[error("the database cannot be used")]
    Database(#[from] rusqlite::Error),
    /// The transaction failed that the work was part of.
    #[error("a transaction cannot be committed")]
    Commit(#[source] Arc<rusqlite::Error>),
    /// A row holds what was never written there.
    #[error("read a row: {0}")]
    Corrupt(&'static str),
    /// The work panicked, which is a fault of ours. It was rolled back.
    #[error("the work panicked")]
    Panicked,
    /// Too many writes are waiting.
    #[error("too many writes are waiting")]
    Busy,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// Another daemon uses the store.
    #[error("{0} is in use by another keypaird")]
    InUse(PathBuf),
    /// The store was written by a later version of keypaird.
    #[error(
        "{path} has schema version {found}, and this keypaird knows {known} at most; run a later version"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: usize,
        /// The latest known one.
        known: usize,
    },
    /// The database is damaged.
    #[error("{path} is damaged ({finding}); restore it from a backup by keypaird restore FILE")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        finding: String,
    },
    /// The log of another database lies beside the database.
    #[error(
        "{log} belongs to another database: {path} was replaced and its log was left behind; run keypaird restore FILE, which replaces both"
    )]
    ForeignLog {
        /// The database.
        path: PathBuf,
        /// The log.
        log: PathBuf,
    },
    /// There is no store where one is to be read.
    #[error("there is no store at {0}; is it the right --config?")]
    Missing(PathBuf),
    /// The file system failed.
    #[error("{path} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
