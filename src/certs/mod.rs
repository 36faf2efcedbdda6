//! Certificates: what stands in them, how our own are built and requests for others, and the checks before
//! either are kept.
//!
//! A self-signed certificate, or a request, comes about in three steps. [`Profile::build`] makes the part to be signed and lints it
//! as a whole certificate; what passes is a [`Linted`]. Only its bytes are ever given to a provider to
//! sign, wherever and whenever that is. [`Linted::complete`] takes the signature, verifies it with the
//! public key, and returns the certificate. rcgen is named here and nowhere else.

mod alternative_names;
mod certify;
mod csr;
mod dates;
mod error;
mod file;
mod lint;
mod names;
mod path;
mod profile;
mod read;
mod signature;
mod signer;
mod tls;
mod unread;

pub use certify::{Certified, IgnoredCertificate, certify, certify_by_ca, certify_even_expired};
pub use csr::{CsrProfile, LintedCsr};
pub use error::CertError;
pub use file::read_certificates;
pub use lint::Finding;
pub use profile::{Linted, Profile, SerialNumber};
pub use read::{is_not_for_signatures, is_self_signed, pss_only, read, subject_and_names};
pub use tls::{dns_names, not_after, subject};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;
