//! The HTTP transport: what programs without gRPC call.
//!
//! It calls the same use cases as gRPC does, and answers errors from the same table. A path is added by a handler
//! with its description, and its name in [`routes()`]: nothing is served that `/openapi.json` does not tell.

mod api_result;
mod call;
mod description;
mod errors;
mod front_page;
mod health;
mod jwks;
mod key_files;
mod metrics;
mod models;
mod pages;
mod request;
mod rotation;
mod signing_key_pairs;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::printable::excerpt;
use crate::service::{Service, ServiceError};
use crate::telemetry::CallIds;
use api_result::Refused;
use call::Calls;
use front_page::FrontPage;
use request::{Nothing, Query};

/// How requests are answered.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// What the paths of key pairs begin with: empty, or `/` and more, without a `/` at its end.
    pub base_path: String,
    /// The largest body in bytes.
    pub max_message_bytes: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
}

/// Answers a request that does not even pass the routes.
pub fn refuse(error: &ServiceError) -> Response {
    call::guarded(api_result::to_response(error))
}

/// Answers a request of gRPC that did not come over HTTP/2.
pub fn refuse_version() -> Response {
    let message = "gRPC is answered over HTTP/2 only".to_owned();
    call::guarded(Refused::Http(StatusCode::HTTP_VERSION_NOT_SUPPORTED, message).into_response())
}

/// Tells whether a path is that of public keys, which pages of listed origins may read.
pub fn is_public(path: &str) -> bool {
    jwks::is_at(path)
}

/// Tells whether a path is one that a person follows a link to, from the front page.
pub fn is_linked(path: &str) -> bool {
    LINKED.contains(&path)
}

/// Answers the question of a browser whether a page may ask for what is public.
pub fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "if-none-match, x-request-id",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
        (header::VARY, "Origin"),
    ];
    call::guarded((StatusCode::NO_CONTENT, headers).into_response())
}

/// Returns the routes.
pub fn routes(service: Arc<Service>, config: &RestConfig, ids: CallIds) -> Router {
    let key_pairs = OpenApiRouter::new()
        .routes(routes!(signing_key_pairs::key_algorithms))
        .routes(routes!(signing_key_pairs::generate))
        .routes(routes!(key_files::import))
        .routes(routes!(key_files::link))
        .routes(routes!(signing_key_pairs::list))
        .routes(routes!(signing_key_pairs::get, signing_key_pairs::delete))
        .routes(routes!(signing_key_pairs::certificate))
        .routes(routes!(jwks::key_pair_jwks))
        .routes(routes!(key_files::pkcs12))
        .routes(routes!(key_files::pem))
        .routes(routes!(key_files::csr, key_files::csr_response))
        .routes(routes!(rotation::get, rotation::update, rotation::delete));
    let all = OpenApiRouter::with_openapi(description::begin()).routes(routes!(jwks::jwks));
    let (router, description) = match &*config.base_path {
        "" => all.merge(key_pairs),
        base_path => all.nest(base_path, key_pairs),
    }
    .split_for_parts();
    // A description is always JSON.
    let description = description.to_json().unwrap_or_default();
    let calls = Calls {
        ids,
        request_timeout: config.request_timeout,
    };
    let front_page = FrontPage {
        base_path: config.base_path.as_str().into(),
    };
    router
        .route(
            "/",
            get(
                async move |State(service): State<Arc<Service>>,
                            Query(Nothing {}): Query<Nothing>| {
                    front_page.show(&service)
                },
            ),
        )
        .route(
            "/openapi.json",
            get(async |Query(Nothing {}): Query<Nothing>| {
                ([(header::CONTENT_TYPE, "application/json")], description)
            }),
        )
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(config.max_message_bytes))
        .layer(middleware::from_fn_with_state(calls, call::answer))
        .with_state(service)
}

/// Where the links of the front page lead.
const LINKED: &[&str] = &[
    "/",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/metrics",
    jwks::PATH,
];

async fn not_found(uri: Uri) -> impl IntoResponse {
    let message = format!("there is nothing at {}", excerpt(uri.path()));
    Refused::Http(StatusCode::NOT_FOUND, message)
}

async fn method_not_allowed(method: Method, uri: Uri) -> impl IntoResponse {
    let (path, method) = (excerpt(uri.path()), excerpt(method.as_str()));
    let message = format!("{path} does not take {method}");
    Refused::Http(StatusCode::METHOD_NOT_ALLOWED, message)
}
