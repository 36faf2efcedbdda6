//! `/keyPairs/signing`: the key pairs themselves.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::api_result::Refused;
use super::errors::{Common, OfBody, OfChange, OfFields, OfKeyPair};
use super::models::{
    CertificateFile, IdParameter, KeyAlgorithms, KeyPairView, KeyPairViews, NewKeyPairSettings,
};
use super::pages::{self, Members};
use super::request::{Id, Json, LABEL, Labelled, Nothing, Query};
use crate::domain::{Origin, Refusal, Violations};
use crate::service::{
    DeleteRequest, GenerateOutcome, GenerateRequest, ListRequest, Service, ServiceError,
};

/// Lists what can be done with which kinds of key.
#[utoipa::path(get, path = "/keyPairs/keyAlgorithms", tag = "keyPairs", operation_id = "listKeyAlgorithms",
    responses((status = 200, description = "The algorithms", body = KeyAlgorithms), Common))]
pub(super) async fn key_algorithms(
    State(service): State<Arc<Service>>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<KeyAlgorithms>, Refused> {
    Ok(axum::Json(service.key_algorithms(None)?.into()))
}

/// Generates a key pair with a self-signed certificate.
#[utoipa::path(post, path = "/keyPairs/signing/generate", tag = "keyPairs", operation_id = "generateKeyPair",
    request_body(content = NewKeyPairSettings, description = "What the key pair shall be"),
    responses((status = 201, description = "The new key pair", body = KeyPairView), Common, OfBody, OfFields))]
pub(super) async fn generate(
    State(service): State<Arc<Service>>,
    Json(settings): Json<NewKeyPairSettings>,
) -> Result<Response, Refused> {
    let outcome = service
        .generate(GenerateRequest {
            settings: settings.into(),
            ..GenerateRequest::default()
        })
        .await?;
    match outcome {
        GenerateOutcome::Made(view) => Ok(created(KeyPairView::from(*view))),
        // Only made when asked for, which REST cannot.
        GenerateOutcome::WouldMake(_) => Err(ServiceError::Panicked.into()),
    }
}

/// Which key pairs are listed.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Number of the page, from 1.
    #[param(minimum = 1, example = 1)]
    page: Option<u32>,
    /// Key pairs on a page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, example = 50)]
    number_per_page: Option<u32>,
    /// Text in the id or the subject, letters of either case.
    #[param(max_length = 256, example = "payments")]
    filter: Option<String>,
    /// A label that the key pairs have, as `KEY=VALUE`. Repeated for several, all of which they
    /// have.
    #[serde(default, rename = "label")]
    #[param(rename = "label", example = json!(["team=pay"]))]
    _label: Vec<String>,
}

/// Lists key pairs in the order of their making: all of them, or one page.
#[utoipa::path(get, path = "/keyPairs/signing", tag = "keyPairs", operation_id = "listKeyPairs",
    params(ListParameters),
    responses((status = 200, description = "The key pairs", body = KeyPairViews), Common, OfFields))]
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    origin: Option<Extension<Origin>>,
    Labelled(parameters, labels): Labelled<ListParameters>,
) -> Result<Response, Refused> {
    let is_page = parameters.page.is_some() || parameters.number_per_page.is_some();
    let request = ListRequest {
        origin: origin.map(|Extension(origin)| origin),
        labels,
        ..parameters.request()?
    };
    let first = service.list(request.clone()).await;
    let first = first.map_err(in_words_of_rest)?;
    // A page that is told by its number has as many key pairs as were asked for, however often they
    // are read.
    let left = match is_page {
        true => request.page_size - count(&first.key_pairs),
        false => i32::MAX,
    };
    let begun = (first.next_page_token.clone(), left);
    let rest = stream::unfold(begun, move |(page_token, left)| {
        let (service, request) = (Arc::clone(&service), request.clone());
        async move {
            if page_token.is_empty() || left <= 0 {
                return None;
            }
            let request = ListRequest {
                page_token,
                page_size: request.page_size.min(left),
                skip: 0,
                ..request
            };
            Some(match service.list(request).await {
                Ok(page) => {
                    let left = left - count(&page.key_pairs);
                    (Ok(members(page.key_pairs)), (page.next_page_token, left))
                }
                // Nothing follows an error.
                Err(error) => (Err(error), (String::new(), 0)),
            })
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let body = pages::array(r#"{"items":["#, members(first.key_pairs), rest);
    Ok((headers, body).into_response())
}

/// Names the fields of a list as REST does.
fn in_words_of_rest(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Invalid(violations) => {
            ServiceError::Invalid(
                violations.renamed(|field| match field.strip_prefix("filter.") {
                    Some("query") => Some("filter"),
                    Some(labels) if labels.starts_with("labels") => Some(LABEL),
                    _ => None,
                }),
            )
        }
        other => other,
    }
}

fn members(views: Vec<crate::service::KeyPairView>) -> Members {
    Members::of(views, KeyPairView::from)
}

fn count(views: &[crate::service::KeyPairView]) -> i32 {
    i32::try_from(views.len()).unwrap_or(i32::MAX)
}

impl ListParameters {
    fn request(self) -> Result<ListRequest, ServiceError> {
        let mut violations = Violations::new();
        let per_page = self.number_per_page.unwrap_or(PER_PAGE_MAX);
        if !(1..=PER_PAGE_MAX).contains(&per_page) {
            let refusal = Refusal::new(format!("must be 1 to {PER_PAGE_MAX}"));
            violations.add("numberPerPage", refusal);
        }
        let page = self.page.unwrap_or(1);
        let skip = page
            .checked_sub(1)
            .and_then(|page| page.checked_mul(per_page));
        if skip.is_none() {
            violations.add("page", Refusal::new("must be 1 or more, and within reason"));
        }
        violations.into_result().map_err(ServiceError::Invalid)?;
        Ok(ListRequest {
            page_size: i32::try_from(per_page).unwrap_or(i32::MAX),
            skip: skip.unwrap_or_default(),
            query: self.filter.unwrap_or_default(),
            bytes_max: pages::READ_BYTES,
            ..ListRequest::default()
        })
    }
}

/// Returns a key pair.
#[utoipa::path(get, path = "/keyPairs/signing/{id}", tag = "keyPairs", operation_id = "getKeyPair",
    params(IdParameter),
    responses((status = 200, description = "The key pair", body = KeyPairView), Common, OfKeyPair))]
pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<KeyPairView>, Refused> {
    Ok(axum::Json(service.get(&id).await?.into()))
}

/// Deletes a key pair and destroys its private key. That of a linked key pair stays on the token.
#[utoipa::path(delete, path = "/keyPairs/signing/{id}", tag = "keyPairs", operation_id = "deleteKeyPair",
    params(IdParameter),
    responses((status = 204, description = "The key pair is deleted"), Common, OfKeyPair, OfChange))]
pub(super) async fn delete(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Refused> {
    let request = DeleteRequest {
        id,
        ..DeleteRequest::default()
    };
    // What became of the key is told over gRPC only.
    service.delete(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the certificate in PEM.
#[utoipa::path(get, path = "/keyPairs/signing/{id}/certificate", tag = "keyPairs",
    operation_id = "getCertificate", params(IdParameter),
    responses((status = 200, description = "The certificate", body = CertificateFile,
               content_type = "application/x-x509-ca-cert"), Common, OfKeyPair))]
pub(super) async fn certificate(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Refused> {
    let pem = service.export_certificate(&id, false).await?;
    let headers = [(header::CONTENT_TYPE, "application/x-x509-ca-cert")];
    Ok((headers, pem).into_response())
}

/// Answers with what was made.
pub(super) fn created(view: KeyPairView) -> Response {
    (StatusCode::CREATED, axum::Json(view)).into_response()
}

const PER_PAGE_MAX: u32 = 1000;
