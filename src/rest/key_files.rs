//! `/keyPairs/signing`: keys and certificates that come from elsewhere, or go there.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::api_result::Refused;
use super::errors::{Common, OfBody, OfChange, OfFields, OfKeyPair};
use super::models::{
    CsrFile, CsrResponse, IdParameter, KeyPairExportSettings, KeyPairFile, KeyPairLink,
    KeyPairView, PemFile, Pkcs12File,
};
use super::request::{Id, Json, Nothing, Query, file_data};
use super::signing_key_pairs::created;
use crate::service::{
    CsrRequest, ImportRequest, KeyFileFormat, LinkRequest, Service, ServiceError,
};

/// Imports a private key with its certificate.
#[utoipa::path(post, path = "/keyPairs/signing/import", tag = "keyPairs", operation_id = "importKeyPair",
    request_body(content = KeyPairFile, description = "The file, and what becomes of it"),
    responses((status = 201, description = "The new key pair", body = KeyPairView), Common, OfBody, OfFields))]
pub(super) async fn import(
    State(service): State<Arc<Service>>,
    Json(file): Json<KeyPairFile>,
) -> Result<Response, Refused> {
    let format = file.format.as_deref().map(KeyFileFormat::parse).transpose();
    let format = format.map_err(|refusal| Refused::malformed("format", refusal.to_string()))?;
    let request = ImportRequest {
        id: file.id,
        file_data: file_data("fileData", &file.file_data)?.into(),
        format,
        password: file.password.unwrap_or_default().into(),
        crypto_provider: file.crypto_provider.map(Into::into),
        labels: std::collections::BTreeMap::new(),
    };
    Ok(created(service.import(request).await?.view.into()))
}

/// Adopts a private key that is already on the token.
#[utoipa::path(post, path = "/keyPairs/signing/link", tag = "keyPairs", operation_id = "linkKeyPair",
    request_body(content = KeyPairLink, description = "Which key on the token"),
    responses((status = 201, description = "The new key pair", body = KeyPairView), Common, OfBody, OfFields))]
pub(super) async fn link(
    State(service): State<Arc<Service>>,
    Json(link): Json<KeyPairLink>,
) -> Result<Response, Refused> {
    let named = link.private_key_id;
    let is_id = named.len() % 2 == 0 && named.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (private_key_id, private_key_label) = match is_id {
        true => (named, String::new()),
        false => (String::new(), named),
    };
    let certificate = link
        .certificate_data
        .as_deref()
        .map(|text| file_data("certificateData", text))
        .transpose()?;
    let request = LinkRequest {
        id: link.id,
        private_key_label,
        private_key_id,
        certificate: certificate.unwrap_or_default().into(),
        settings: None,
        labels: std::collections::BTreeMap::new(),
    };
    let linked = service.link(request).await.map_err(in_words_of_rest)?;
    Ok(created(linked.view.into()))
}

/// Names the fields of a link as REST does, which has one for both names of a key.
fn in_words_of_rest(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Invalid(violations) => {
            ServiceError::Invalid(violations.renamed(|field| match field {
                "privateKeyLabel" => Some("privateKeyId"),
                "certificate" => Some("certificateData"),
                _ => None,
            }))
        }
        other => other,
    }
}

/// Exports a software key pair as PKCS#12.
#[utoipa::path(post, path = "/keyPairs/signing/{id}/pkcs12", tag = "keyPairs", operation_id = "exportPkcs12",
    params(IdParameter),
    request_body(content = KeyPairExportSettings, description = "How the key shall leave"),
    responses((status = 200, description = "The file", body = Pkcs12File, content_type = "application/x-pkcs12"),
              Common, OfBody, OfKeyPair))]
pub(super) async fn pkcs12(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Json(settings): Json<KeyPairExportSettings>,
) -> Result<Response, Refused> {
    let format = KeyFileFormat::Pkcs12;
    Ok(export(&service, &id, format, settings, "application/x-pkcs12").await?)
}

/// Exports a software key pair as PEM: the encrypted key first, then the certificates.
#[utoipa::path(post, path = "/keyPairs/signing/{id}/pem", tag = "keyPairs", operation_id = "exportPem",
    params(IdParameter),
    request_body(content = KeyPairExportSettings, description = "How the key shall leave"),
    responses((status = 200, description = "The file", body = PemFile, content_type = "application/x-pem-file"),
              Common, OfBody, OfKeyPair))]
pub(super) async fn pem(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Json(settings): Json<KeyPairExportSettings>,
) -> Result<Response, Refused> {
    let format = KeyFileFormat::Pem;
    Ok(export(&service, &id, format, settings, "application/x-pem-file").await?)
}

async fn export(
    service: &Service,
    id: &str,
    format: KeyFileFormat,
    settings: KeyPairExportSettings,
    content_type: &'static str,
) -> Result<Response, ServiceError> {
    let file = service.export(id, format, settings.password.into()).await?;
    Ok(([(header::CONTENT_TYPE, content_type)], file.to_vec()).into_response())
}

/// Makes a certificate signing request.
#[utoipa::path(get, path = "/keyPairs/signing/{id}/csr", tag = "keyPairs", operation_id = "generateCsr",
    params(IdParameter),
    responses((status = 200, description = "The request", body = CsrFile, content_type = "application/pkcs10"),
              Common, OfKeyPair))]
pub(super) async fn csr(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Refused> {
    let request = CsrRequest {
        id,
        ..CsrRequest::default()
    };
    let pem = service.generate_csr(request).await?;
    Ok(([(header::CONTENT_TYPE, "application/pkcs10")], pem).into_response())
}

/// Takes the answer of a CA.
#[utoipa::path(post, path = "/keyPairs/signing/{id}/csr", tag = "keyPairs", operation_id = "importCsrResponse",
    params(IdParameter), request_body(content = CsrResponse, description = "What the CA sent"),
    responses((status = 200, description = "The key pair with its new certificate", body = KeyPairView),
              Common, OfBody, OfKeyPair, OfChange))]
pub(super) async fn csr_response(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Json(answer): Json<CsrResponse>,
) -> Result<axum::Json<KeyPairView>, Refused> {
    let certificates = file_data("fileData", &answer.file_data)?;
    let certified = service
        .import_csr_response(&id, certificates.into(), "")
        .await?;
    Ok(axum::Json(certified.view.into()))
}
