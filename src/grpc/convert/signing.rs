//! Messages of `SigningService`.

use super::{malformed, number, to_timestamp};
use crate::domain::{GenerationState, Jwk, JwkKey, Origin, SignatureEncoding, SigningInput};
use crate::grpc::status::item_status;
use crate::proto as pb;
use crate::service::report::ItemReports;
use crate::service::{
    PublicKeysPage, PublicKeysRequest, PublishedKey, ServiceError, SignRequest, Signed, Verified,
    VerifyRequest,
};

pub(in crate::grpc) fn sign_request(request: pb::SignRequest) -> Result<SignRequest, ServiceError> {
    Ok(SignRequest {
        id: request.id,
        input: request.input.map(|input| match input {
            pb::sign_request::Input::Message(message) => SigningInput::Message(message),
            pb::sign_request::Input::Digest(digest) => SigningInput::Digest(digest),
        }),
        signature_algorithm: request.signature_algorithm,
        encoding: encoding(request.encoding)?,
        allow_outside_validity: request.allow_outside_validity,
    })
}

pub(in crate::grpc) fn sign_response(signed: Signed) -> pb::SignResponse {
    pb::SignResponse {
        signature: signed.signature,
        signature_algorithm: signed.signature_algorithm.name().to_owned(),
        certificate_sha256_fingerprint: signed.certificate_sha256_fingerprint.as_ref().to_owned(),
        generation: number(signed.generation),
    }
}

pub(in crate::grpc) fn batch_result(
    result: Result<Signed, ServiceError>,
    reports: &mut ItemReports,
) -> pb::BatchSignResult {
    use pb::batch_sign_result::Result as Either;
    pb::BatchSignResult {
        result: Some(match result {
            Ok(signed) => Either::Signed(sign_response(signed)),
            Err(error) => Either::Error(item_status(&error, reports)),
        }),
    }
}

pub(in crate::grpc) fn stream_signed(
    correlation_id: String,
    signed: Signed,
) -> pb::SignStreamResponse {
    use pb::sign_stream_response::Result as Either;
    pb::SignStreamResponse {
        correlation_id,
        result: Some(Either::Signed(sign_response(signed))),
    }
}

pub(in crate::grpc) fn stream_refused(
    correlation_id: String,
    error: &ServiceError,
    reports: &mut ItemReports,
) -> pb::SignStreamResponse {
    use pb::sign_stream_response::Result as Either;
    pb::SignStreamResponse {
        correlation_id,
        result: Some(Either::Error(item_status(error, reports))),
    }
}

pub(in crate::grpc) fn verify_request(
    request: pb::VerifyRequest,
) -> Result<VerifyRequest, ServiceError> {
    Ok(VerifyRequest {
        id: request.id,
        input: request.input.map(|input| match input {
            pb::verify_request::Input::Message(message) => SigningInput::Message(message),
            pb::verify_request::Input::Digest(digest) => SigningInput::Digest(digest),
        }),
        signature: request.signature,
        signature_algorithm: request.signature_algorithm,
        encoding: encoding(request.encoding)?,
        pss_salt_length: request.pss_salt_length,
    })
}

pub(in crate::grpc) fn verify_response(verified: Option<Verified>) -> pb::VerifyResponse {
    match verified {
        None => pb::VerifyResponse::default(),
        Some(verified) => pb::VerifyResponse {
            valid: true,
            generation: number(verified.generation),
            generation_state: generation_state(verified.state),
            certificate_sha256_fingerprint: verified.certificate_sha256_fingerprint,
        },
    }
}

pub(in crate::grpc) fn public_keys_request(
    request: pb::ListPublicKeysRequest,
    origin: Option<Origin>,
) -> PublicKeysRequest {
    PublicKeysRequest {
        origin,
        bytes_max: 0,
        id: request.id,
        labels: request.labels.into_iter().collect(),
        page_size: request.page_size,
        page_token: request.page_token,
    }
}

pub(in crate::grpc) fn public_keys_response(page: PublicKeysPage) -> pb::ListPublicKeysResponse {
    pb::ListPublicKeysResponse {
        public_keys: page
            .public_keys
            .into_iter()
            .filter(|key| !key.is_repeated)
            .map(public_key)
            .collect(),
        next_page_token: page.next_page_token,
    }
}

fn public_key(key: PublishedKey) -> pb::PublicKey {
    pb::PublicKey {
        id: key.id,
        generation: number(key.generation),
        generation_state: generation_state(key.state),
        kid: key.jwk.kid.clone(),
        public_key_pem: key.public_key_pem,
        jwk: Some(json_web_key(key.jwk)),
        certificate_sha256_fingerprint: key.certificate_sha256_fingerprint,
        valid_from: Some(to_timestamp(key.validity.not_before)),
        expires: Some(to_timestamp(key.validity.not_after)),
    }
}

fn json_web_key(jwk: Jwk) -> pb::JsonWebKey {
    let common = pb::JsonWebKey {
        r#use: jwk.usage.to_owned(),
        alg: jwk.alg.unwrap_or_default().to_owned(),
        kid: jwk.kid,
        ..pb::JsonWebKey::default()
    };
    match jwk.key {
        JwkKey::Rsa { e, n } => pb::JsonWebKey {
            kty: "RSA".to_owned(),
            e,
            n,
            ..common
        },
        JwkKey::Ec { crv, x, y } => pb::JsonWebKey {
            kty: "EC".to_owned(),
            crv: crv.to_owned(),
            x,
            y,
            ..common
        },
        JwkKey::Okp { crv, x } => pb::JsonWebKey {
            kty: "OKP".to_owned(),
            crv: crv.to_owned(),
            x,
            ..common
        },
    }
}

fn encoding(number: i32) -> Result<SignatureEncoding, ServiceError> {
    match pb::SignatureEncoding::try_from(number) {
        Ok(pb::SignatureEncoding::Unspecified | pb::SignatureEncoding::Der) => {
            Ok(SignatureEncoding::Der)
        }
        Ok(pb::SignatureEncoding::P1363) => Ok(SignatureEncoding::P1363),
        Err(_) => Err(malformed("encoding", "must be DER (1) or P1363 (2)")),
    }
}

fn generation_state(state: GenerationState) -> i32 {
    match state {
        GenerationState::Current => pb::GenerationState::Current,
        GenerationState::Pending => pb::GenerationState::Pending,
        GenerationState::Previous => pb::GenerationState::Previous,
    }
    .into()
}
