//! Time and chance, as things that are handed in.

use std::fmt;

use time::OffsetDateTime;

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the current time in UTC.
    fn now(&self) -> OffsetDateTime;
}

/// Gives unpredictable bits.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Returns 128 bits of a cryptographically secure generator.
    fn bits_128(&self) -> Result<[u8; 16], EntropyError>;
}

/// The system's random number generator failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct EntropyError;
