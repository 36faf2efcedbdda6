//! Messages about rotation.

use super::key_pair::{key_pair_view, rotation_of, rotation_settings};
use super::{number, to_timestamp};
use crate::domain::{DueStep, RotationAction};
use crate::proto as pb;
use crate::service::{
    KeyPairView, PlanRequest, RotateRequest, ServiceError, UpdateRotationRequest,
};

pub(in crate::grpc) fn get_response(view: &KeyPairView) -> pb::GetRotationSettingsResponse {
    pb::GetRotationSettingsResponse {
        rotation_settings: rotation_of(view),
    }
}

pub(in crate::grpc) fn update_request(
    request: pb::UpdateRotationSettingsRequest,
) -> Result<UpdateRotationRequest, ServiceError> {
    let settings = request.rotation_settings.unwrap_or_default();
    Ok(UpdateRotationRequest {
        id: request.id,
        settings: rotation_settings("cryptoProvider", settings)?,
        etag: request.etag,
    })
}

pub(in crate::grpc) fn update_response(view: &KeyPairView) -> pb::UpdateRotationSettingsResponse {
    pb::UpdateRotationSettingsResponse {
        rotation_settings: rotation_of(view),
    }
}

pub(in crate::grpc) fn plan_request(
    request: pb::PlanRotationRequest,
) -> Result<PlanRequest, ServiceError> {
    let settings = request
        .rotation_settings
        .map(|settings| rotation_settings("rotationSettings.cryptoProvider", settings));
    Ok(PlanRequest {
        id: request.id,
        steps: request.steps,
        settings: settings.transpose()?,
    })
}

pub(in crate::grpc) fn plan_response(steps: Vec<DueStep>) -> pb::PlanRotationResponse {
    let steps = steps.into_iter().map(|step| pb::RotationStep {
        action: match step.action {
            RotationAction::CreatePending => pb::RotationAction::CreatePending,
            RotationAction::Activate => pb::RotationAction::Activate,
            RotationAction::Retire => pb::RotationAction::Retire,
        }
        .into(),
        generation: number(step.generation),
        time: Some(to_timestamp(step.time)),
    });
    pb::PlanRotationResponse {
        steps: steps.collect(),
    }
}

pub(in crate::grpc) fn rotate_request(request: pb::RotateSigningKeyPairRequest) -> RotateRequest {
    RotateRequest {
        id: request.id,
        activate: request.activate,
        etag: request.etag,
    }
}

pub(in crate::grpc) fn rotate_response(view: KeyPairView) -> pb::RotateSigningKeyPairResponse {
    pb::RotateSigningKeyPairResponse {
        key_pair: Some(key_pair_view(view)),
    }
}
