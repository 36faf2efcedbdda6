//! The JWK set of all public keys (RFC 7517 section 5).

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::api_result::{Errors, Refused};
use super::pages::{self, Members};
use crate::domain::Origin;
use crate::service::{PublicKeysRequest, PublishedKey, Service};

/// Returns all public keys that signatures can be verified with.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "publicKeys",
    responses((status = 200, body = serde_json::Value, content_type = "application/jwk-set+json"), Errors))]
pub(super) async fn jwks(
    State(service): State<Arc<Service>>,
    origin: Option<Extension<Origin>>,
) -> Result<Response, Refused> {
    let request = PublicKeysRequest {
        origin: origin.map(|Extension(origin)| origin),
        bytes_max: pages::READ_BYTES,
        ..PublicKeysRequest::default()
    };
    // An error can be answered as one as long as nothing is written.
    let first = service.public_keys(request.clone()).await?;
    let rest = stream::unfold(first.next_page_token.clone(), move |page_token| {
        let (service, request) = (Arc::clone(&service), request.clone());
        pages::next(page_token, move |page_token| async move {
            let request = PublicKeysRequest {
                page_token,
                ..request
            };
            let page = service.public_keys(request).await?;
            Ok((page.next_page_token, members(page.public_keys)))
        })
    });
    let headers = [
        (header::CONTENT_TYPE, "application/jwk-set+json"),
        (header::CACHE_CONTROL, "public, max-age=60"),
        // What a browser lets a page read depends on it (`rest.cors_origins`).
        (header::VARY, "Origin"),
    ];
    let body = pages::array(r#"{"keys":["#, members(first.public_keys), rest);
    Ok((headers, body).into_response())
}

/// Where it is.
pub(super) const PATH: &str = "/.well-known/jwks.json";

fn members(keys: Vec<PublishedKey>) -> Members {
    Members::of(keys, |key| key.jwk)
}
