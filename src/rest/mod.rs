//! The HTTP transport: what programs without gRPC read.
//!
//! It calls the same use cases as gRPC does, and answers errors from the same table.

mod api_result;
mod jwks;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;

use crate::service::Service;

/// Returns the routes.
pub fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(jwks::jwks))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(service)
}

async fn not_found(uri: Uri) -> Response {
    let message = format!("there is nothing at {}", uri.path());
    api_result::render(StatusCode::NOT_FOUND, "resource_not_found", message)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    api_result::render(StatusCode::METHOD_NOT_ALLOWED, "bad_request", message)
}
