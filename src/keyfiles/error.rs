//! Why a key file was not read or written.

use crate::domain::Refusal;

/// Why a key file was not read or written. Neither key nor password is in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The password is wrong, or the file is damaged.
    #[error("{0}: {1}")]
    Unreadable(&'static str, Refusal),
    /// What the file is, or holds, is not taken.
    #[error("{0}: {1}")]
    Refused(&'static str, Refusal),
    /// A fault of ours.
    #[error("write a key file: {0}")]
    Failed(&'static str),
}

impl KeyFileError {
    /// Refuses what the file is, or holds.
    pub(super) fn file(sentence: String) -> Self {
        Self::Refused("fileData", Refusal::new(sentence))
    }

    /// Says that the file is damaged.
    pub(super) fn damaged(what: &'static str) -> Self {
        Self::Unreadable("fileData", Refusal::new(format!("is damaged: {what}")))
    }

    /// Says that the password is wrong.
    pub(super) fn password() -> Self {
        Self::Unreadable(
            "password",
            Refusal::new("does not open the file; or the file is damaged"),
        )
    }
}
