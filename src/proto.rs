//! The code that is generated from `proto/`, how its messages are read and written, and the descriptors that reflection
//! hands out.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    rust_2018_idioms
)]

pub mod bounds;
pub mod codec;

tonic::include_proto!("keypaird.v1");

/// All descriptors of the package and of what it imports, with comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keypaird.v1.bin"));
