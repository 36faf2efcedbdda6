//! keypaird: signing key pairs in a PKCS#11 token or in software, over gRPC.
//!
//! This library is what the daemon `keypaird` and the client `keypairctl` are made of. Start with the
//! [`manual`], and there with its page on the [architecture](manual::architecture).

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the documentation is for maintainers, and made with private items"
)]

pub mod app;
pub mod certs;
pub mod cli;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod keyfiles;
pub mod manual;
pub mod printable;
pub mod proto;
pub mod providers;
pub mod rest;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;

/// The version of this package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The Git revision that it was built from, 40 hexadecimal digits; empty where the build did not
/// know it.
pub const REVISION: &str = env!("KEYPAIRD_REVISION");
