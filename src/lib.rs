//! keypaird.

pub mod certs;
pub mod domain;
