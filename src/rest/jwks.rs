//! The JWK set of all public keys (RFC 7517 section 5).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use super::api_result;
use crate::service::{PublicKeysPage, PublicKeysRequest, Service, ServiceError};

/// Answers with the set, which is written page by page: it may have many keys.
pub(super) async fn jwks(State(service): State<Arc<Service>>) -> Response {
    // An error can be answered as one as long as nothing is written.
    let first = match service.public_keys(PublicKeysRequest::default()).await {
        Ok(first) => first,
        Err(error) => return api_result::to_response(&error),
    };
    let rest = stream::unfold(first.next_page_token.clone(), move |page_token| {
        let service = Arc::clone(&service);
        async move { next_page(&service, page_token).await }
    });
    let keys = stream::once(std::future::ready(Ok(first)))
        .chain(rest)
        .enumerate()
        .map(|(number, page)| page.map(|page| members(&page, number == 0)));
    let text = |text: &'static str| stream::once(std::future::ready(Ok(text.to_owned())));
    let body = text(r#"{"keys":["#).chain(keys).chain(text("]}"));
    let headers = [
        (header::CONTENT_TYPE, "application/jwk-set+json"),
        (header::CACHE_CONTROL, "public, max-age=60"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// Returns the page of a token, and the token of the page after it. Nothing follows the last.
async fn next_page(
    service: &Service,
    page_token: String,
) -> Option<(Result<PublicKeysPage, ServiceError>, String)> {
    if page_token.is_empty() {
        return None;
    }
    let request = PublicKeysRequest {
        page_token,
        ..PublicKeysRequest::default()
    };
    let page = service.public_keys(request).await;
    // An error breaks the connection off, so that half a set is not taken for a whole one.
    let next = match &page {
        Ok(page) => page.next_page_token.clone(),
        Err(_) => String::new(),
    };
    Some((page, next))
}

/// Writes the keys of a page as members of an array.
fn members(page: &PublicKeysPage, first: bool) -> String {
    let keys = page.public_keys.iter();
    // Texts are always JSON.
    let keys: Vec<_> = keys
        .filter_map(|key| serde_json::to_string(&key.jwk).ok())
        .collect();
    let keys = keys.join(",");
    match first || keys.is_empty() {
        true => keys,
        false => format!(",{keys}"),
    }
}
