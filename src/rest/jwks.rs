//! JWK sets (RFC 7517 section 5): of all key pairs, of some by their labels, or of one.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::api_result::Refused;
use super::errors::{Common, OfKeyPair};
use super::models::{IdParameter, JwkSet};
use super::pages::{self, Members};
use super::request::{Id, LABEL, Labelled, Nothing, Query};
use crate::domain::{Origin, Refusal, Violations};
use crate::service::{PublicKeysRequest, PublishedKey, Service, ServiceError};

/// Whose public keys.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JwksParameters {
    /// Identifier of one key pair.
    #[param(example = "payments")]
    id: Option<String>,
    /// A label that the key pairs have, as `KEY=VALUE`. Repeated for several, all of which they
    /// have.
    #[serde(default, rename = "label")]
    #[param(rename = "label", example = json!(["team=pay"]))]
    _label: Vec<String>,
}

/// What a client has already.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct IfNoneMatch {
    /// The `ETag` of the set that the client has. If it is still the same, the answer is 304.
    #[param(rename = "If-None-Match", example = "W/\"a1b2c3\"", required = false)]
    if_none_match: Option<String>,
}

/// Returns the public keys that signatures can be verified with, each once.
///
/// A verifier that trusts the set of all key pairs trusts every key of this daemon. A verifier of
/// one issuer should ask for its key pair alone, by `id` or at the path of the key pair.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "publicKeys", operation_id = "getJwks",
    params(JwksParameters, IfNoneMatch), responses(
        (status = 200, description = "The keys", body = JwkSet, content_type = "application/jwk-set+json",
         headers(("ETag" = String, description = "What `If-None-Match` may say to be told of changes only"))),
        (status = 304, description = "The set is that of `If-None-Match`"), Common, OfKeyPair))]
pub(super) async fn jwks(
    State(service): State<Arc<Service>>,
    origin: Option<Extension<Origin>>,
    headers: HeaderMap,
    Labelled(parameters, labels): Labelled<JwksParameters>,
) -> Result<Response, Refused> {
    if parameters.id.as_ref().is_some_and(String::is_empty) {
        let violations = Violations::one("id", Refusal::new("must be the id of a key pair"));
        return Err(ServiceError::Invalid(violations).into());
    }
    let request = PublicKeysRequest {
        id: parameters.id.unwrap_or_default(),
        labels,
        ..PublicKeysRequest::default()
    };
    Ok(answer(service, origin, &headers, request)
        .await
        .map_err(in_words_of_rest)?)
}

/// Returns the public keys of a key pair: what a verifier of one issuer should trust.
#[utoipa::path(get, path = "/keyPairs/signing/{id}/jwks.json", tag = "publicKeys",
    operation_id = "getKeyPairJwks", params(IdParameter, IfNoneMatch), responses(
        (status = 200, description = "The keys", body = JwkSet, content_type = "application/jwk-set+json",
         headers(("ETag" = String, description = "What `If-None-Match` may say to be told of changes only"))),
        (status = 304, description = "The set is that of `If-None-Match`"), Common, OfKeyPair))]
pub(super) async fn key_pair_jwks(
    State(service): State<Arc<Service>>,
    origin: Option<Extension<Origin>>,
    headers: HeaderMap,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Refused> {
    let request = PublicKeysRequest {
        id,
        ..PublicKeysRequest::default()
    };
    Ok(answer(service, origin, &headers, request).await?)
}

async fn answer(
    service: Arc<Service>,
    origin: Option<Extension<Origin>>,
    headers: &HeaderMap,
    request: PublicKeysRequest,
) -> Result<Response, ServiceError> {
    let request = PublicKeysRequest {
        origin: origin.map(|Extension(origin)| origin),
        bytes_max: pages::READ_BYTES,
        ..request
    };
    // Read before the keys: an answer may be newer than its tag says, and never older. That makes
    // it a weak one (RFC 9110 section 8.8.1).
    let tag = format!("W/\"{}\"", service.public_keys_version(&request).await?);
    let of_answer = [
        (header::CACHE_CONTROL, "public, max-age=60"),
        (header::ETAG, &tag),
        // What a browser lets a page read depends on it (`rest.cors_origins`).
        (header::VARY, "Origin"),
    ];
    if is_known(headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, of_answer).into_response());
    }
    // An error can be answered as one as long as nothing is written.
    let first = service.public_keys(request.clone()).await?;
    let mut written = Written::default();
    let members = members(first.public_keys, &mut written);
    let rest = stream::unfold(
        (first.next_page_token, written),
        move |(page_token, mut written)| {
            let (service, request) = (Arc::clone(&service), request.clone());
            async move {
                let read = pages::next(page_token, async |page_token| {
                    let request = PublicKeysRequest {
                        page_token,
                        ..request
                    };
                    let page = service.public_keys(request).await?;
                    Ok((page.next_page_token, page.public_keys))
                });
                let (page, next) = read.await?;
                let page = page.map(|keys| self::members(keys, &mut written));
                Some((page, (next, written)))
            }
        },
    );
    let of_body = [(header::CONTENT_TYPE, "application/jwk-set+json")];
    let body = pages::array(r#"{"keys":["#, members, rest);
    Ok((of_answer, of_body, body).into_response())
}

/// Tells whether a client has the set already (RFC 9110 section 13.1.2), by the weak comparison.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let given = headers.get_all(header::IF_NONE_MATCH).iter();
    let given = given.filter_map(|value: &HeaderValue| value.to_str().ok());
    let mut given = given.flat_map(|value| value.split(',').map(str::trim));
    given.any(|given| given == "*" || opaque(given) == opaque(tag))
}

/// The keys of a set that are written already, each by a hash of its thumbprint: a set may have a
/// million keys.
#[derive(Debug, Default)]
struct Written {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

/// Takes the keys of a page, without those that were written before. Key pairs may change while the
/// list is read, so what the store says of earlier pages is not relied on.
fn members(keys: Vec<PublishedKey>, written: &mut Written) -> Members {
    let once = keys.into_iter().map(|key| key.jwk).filter(|jwk| {
        let hash = written.hasher.hash_one(&jwk.kid);
        written.hashes.insert(hash)
    });
    Members::of(once.collect::<Vec<_>>(), |jwk| jwk)
}

/// Names the field of labels as REST does.
fn in_words_of_rest(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Invalid(violations) => ServiceError::Invalid(
            violations.renamed(|field| field.starts_with("labels").then_some(LABEL)),
        ),
        other => other,
    }
}

/// Where the set of all key pairs is.
pub(super) const PATH: &str = "/.well-known/jwks.json";

/// Tells whether a path is that of a JWK set.
pub(super) fn is_at(path: &str) -> bool {
    path.ends_with("/jwks.json")
}
