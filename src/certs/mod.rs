//! Self-signed certificates: what stands in them, how they are built, and the checks before they are kept.
//!
//! A certificate comes about in three steps. [`Profile::build`] makes the part to be signed and lints it
//! as a whole certificate; what passes is a [`Linted`]. Only its bytes are ever given to a provider to
//! sign, wherever and whenever that is. [`Linted::complete`] takes the signature, verifies it with the
//! public key, and returns the certificate. rcgen is named here and nowhere else.

mod error;
mod lint;
mod profile;

pub use error::CertError;
pub use lint::Finding;
pub use profile::{Linted, Profile, SerialNumber};

#[cfg(test)]
mod tests;
