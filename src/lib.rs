//! keypaird.

pub mod app;
pub mod certs;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod proto;
pub mod providers;
pub mod service;
pub mod store;
pub mod telemetry;
