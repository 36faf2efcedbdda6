//! `/keyPairs/signing/{id}/rotationSettings`: when and into what a key pair is rotated.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::api_result::Refused;
use super::errors::{Common, OfBody, OfChange, OfKeyPair};
use super::models::{IdParameter, KeyPairRotationSettings, KeyPairView};
use super::request::{Id, Json, Nothing, Query};
use crate::service::{Service, ServiceError, UpdateRotationRequest};

/// Returns the rotation settings of a key pair.
#[utoipa::path(get, path = "/keyPairs/signing/{id}/rotationSettings", tag = "keyPairs",
    operation_id = "getRotationSettings", params(IdParameter),
    responses((status = 200, description = "The settings, complete", body = KeyPairRotationSettings),
              Common, OfKeyPair))]
pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<KeyPairRotationSettings>, Refused> {
    let view = service.rotation(&id).await?;
    settings(KeyPairView::from(view))
}

/// Says when and into what a key pair is rotated from now on.
#[utoipa::path(put, path = "/keyPairs/signing/{id}/rotationSettings", tag = "keyPairs",
    operation_id = "updateRotationSettings", params(IdParameter),
    request_body(content = KeyPairRotationSettings, description = "The settings from now on"),
    responses((status = 200, description = "The settings, complete", body = KeyPairRotationSettings),
              Common, OfBody, OfKeyPair, OfChange))]
pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Json(body): Json<KeyPairRotationSettings>,
) -> Result<axum::Json<KeyPairRotationSettings>, Refused> {
    let request = UpdateRotationRequest {
        id,
        settings: body.into(),
        etag: String::new(),
    };
    let view = service.update_rotation(request).await?;
    settings(KeyPairView::from(view))
}

/// Ends the rotation of a key pair.
#[utoipa::path(delete, path = "/keyPairs/signing/{id}/rotationSettings", tag = "keyPairs",
    operation_id = "deleteRotationSettings", params(IdParameter),
    responses((status = 204, description = "The key pair has no rotation settings any more"),
              Common, OfKeyPair, OfChange))]
pub(super) async fn delete(
    State(service): State<Arc<Service>>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Refused> {
    service.delete_rotation(&id, "").await?;
    Ok(StatusCode::NO_CONTENT)
}

fn settings(view: KeyPairView) -> Result<axum::Json<KeyPairRotationSettings>, Refused> {
    let id = view.id;
    let settings = view.rotation_settings;
    let settings = settings.ok_or(ServiceError::NoRotation(id))?;
    Ok(axum::Json(settings))
}
