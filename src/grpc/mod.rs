//! The gRPC transport: messages in and out, and nothing decided.

mod call;
mod convert;
mod event_service;
mod health;
mod key_pair_service;
mod reflection;
mod signing_service;
mod status;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

pub use call::{CallLayer, CallService};
pub use health::{Health, service_name as health_service_name};

use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::event_service_server::EventServiceServer;
use crate::proto::key_pair_service_server::KeyPairServiceServer;
use crate::proto::signing_service_server::SigningServiceServer;
use crate::service::{Service, ServiceError};
use crate::telemetry::CallIds;
use event_service::EventGrpc;
use key_pair_service::KeyPairGrpc;
use reflection::Limited;
use signing_service::SigningGrpc;

/// How calls are answered.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// The largest request in bytes.
    pub max_message_bytes: usize,
    /// How long a call may take whose caller sets no deadline, or a later one.
    pub request_timeout: Duration,
}

/// Puts all gRPC services together: ours, health, and reflection in both of its versions.
pub fn routes(
    service: Arc<Service>,
    config: &GrpcConfig,
    health: &Health,
) -> Result<Routes, tonic_reflection::server::Error> {
    // Of a compressed message, no more is taken than of a plain one, and the layer of calls lets
    // few be read at once. Reflection takes none.
    let gzip = CompressionEncoding::Gzip;
    let key_pairs = KeyPairServiceServer::new(KeyPairGrpc::new(Arc::clone(&service)))
        .accept_compressed(gzip)
        .max_decoding_message_size(config.max_message_bytes);
    let events = EventServiceServer::new(EventGrpc::new(Arc::clone(&service)))
        .accept_compressed(gzip)
        .max_decoding_message_size(config.max_message_bytes);
    let signing = SigningServiceServer::new(SigningGrpc::new(service, config.max_message_bytes))
        .accept_compressed(gzip)
        .max_decoding_message_size(config.max_message_bytes);
    // The default of tonic, for services with short requests.
    let small = config.max_message_bytes.min(SMALL_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // With it, grpcurl shows the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(signing)
        .add_service(key_pairs)
        .add_service(events)
        .add_service(
            health
                .server()
                .accept_compressed(gzip)
                .max_decoding_message_size(small),
        )
        .add_service(Limited(
            reflection().build_v1()?.max_decoding_message_size(small),
        ))
        // Older grpcurl and Python know this one only.
        .add_service(Limited(
            reflection()
                .build_v1alpha()?
                .max_decoding_message_size(small),
        ))
        .prepare())
}

/// Answers a call that does not even pass the layer.
pub fn refuse(error: &ServiceError) -> Response<Body> {
    status::to_status(error).into_http()
}

/// Makes the layer that every call passes first.
pub fn call_layer(config: &GrpcConfig, ids: CallIds) -> CallLayer {
    CallLayer::new(config.request_timeout, config.max_message_bytes, ids)
}

/// 4 MiB.
const SMALL_MAX: usize = 4 * 1024 * 1024;
