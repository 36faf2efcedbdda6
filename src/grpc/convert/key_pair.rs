//! Messages of `KeyPairService`.

use super::{from_timestamp, malformed, number, to_timestamp};
use crate::domain::{
    CertificateValidity, KeyOrigin, KeyPairGeneration, NewKeyPairSettings, Origin, ProviderKind,
    Rotation, RotationSettings, TokenAttributes,
};
use crate::proto as pb;
use crate::service::{
    AvailableAlgorithm, DoubtfulKey, GenerateRequest, KeyPairPage, KeyPairPreview, KeyPairView,
    ListRequest, Missing, PrivateKeyFate, ProviderHealth, ProviderState, ServiceError,
};

pub(in crate::grpc) fn private_key_fate(
    fate: PrivateKeyFate,
) -> pb::delete_signing_key_pair_response::PrivateKeyFate {
    use pb::delete_signing_key_pair_response::PrivateKeyFate as Fate;
    match fate {
        PrivateKeyFate::Pending => Fate::Pending,
        PrivateKeyFate::LeftOnToken => Fate::LeftOnToken,
        PrivateKeyFate::Destroyed => Fate::Destroyed,
    }
}

pub(in crate::grpc) fn generate_request(
    request: pb::GenerateSigningKeyPairRequest,
) -> Result<GenerateRequest, ServiceError> {
    Ok(GenerateRequest {
        settings: new_key_pair_settings(request.settings.unwrap_or_default())?,
        request_id: request.request_id,
        validate_only: request.validate_only,
    })
}

pub(super) fn new_key_pair_settings(
    settings: pb::NewKeyPairSettings,
) -> Result<NewKeyPairSettings, ServiceError> {
    Ok(NewKeyPairSettings {
        id: settings.id,
        common_name: settings.common_name,
        organization: settings.organization,
        organization_unit: settings.organization_unit,
        city: settings.city,
        state: settings.state,
        country: settings.country,
        subject_alternative_names: settings.subject_alternative_names,
        valid_days: settings.valid_days,
        key_algorithm: settings.key_algorithm,
        key_size: settings.key_size,
        signature_algorithm: settings.signature_algorithm,
        crypto_provider: provider("cryptoProvider", settings.crypto_provider)?,
        rotation_settings: settings
            .rotation_settings
            .map(|settings| rotation_settings("rotationSettings.cryptoProvider", settings))
            .transpose()?,
        labels: settings.labels.into_iter().collect(),
    })
}

pub(in crate::grpc) fn list_request(
    request: pb::ListSigningKeyPairsRequest,
    origin: Option<Origin>,
) -> Result<ListRequest, ServiceError> {
    let filter = request.filter.unwrap_or_default();
    Ok(ListRequest {
        origin,
        with_total: true,
        bytes_max: 0,
        page_size: request.page_size,
        page_token: request.page_token,
        skip: 0,
        order_by: request.order_by,
        crypto_provider: provider("filter.cryptoProvider", filter.crypto_provider)?,
        key_algorithm: filter.key_algorithm,
        status: status("filter.status", filter.status)?,
        expires_before: filter
            .expires_before
            .map(|time| {
                from_timestamp(&time).ok_or_else(|| {
                    malformed(
                        "filter.expiresBefore",
                        "must be a time of the years 1 to 9999",
                    )
                })
            })
            .transpose()?,
        query: filter.query,
        labels: filter.labels.into_iter().collect(),
        with_shared_keys: true,
    })
}

pub(in crate::grpc) fn list_response(page: KeyPairPage) -> pb::ListSigningKeyPairsResponse {
    pb::ListSigningKeyPairsResponse {
        key_pairs: page.key_pairs.into_iter().map(key_pair_view).collect(),
        next_page_token: page.next_page_token,
        total_size: i32::try_from(page.total_size).unwrap_or(i32::MAX),
    }
}

pub(in crate::grpc) fn key_pair_view(view: KeyPairView) -> pb::KeyPairView {
    let etag = view.key_pair.etag();
    let rotation_settings = rotation_of(&view);
    let pair = view.key_pair;
    let (pending, previous) = (pair.pending, pair.previous.into_iter().next());
    let current = pair.current;
    let certificate_pem = current.chain_pem();
    let spec = current.public_key.spec();
    pb::KeyPairView {
        id: pair.id.to_string(),
        serial_number: current.serial_number,
        subject_dn: current.subject_dn,
        subject_alternative_names: current.subject_alternative_names,
        issuer_dn: current.issuer_dn,
        valid_from: Some(to_timestamp(current.validity.not_before)),
        expires: Some(to_timestamp(current.validity.not_after)),
        key_algorithm: spec.algorithm().name().to_owned(),
        key_size: spec.bits(),
        signature_algorithm: current.certificate_signature_algorithm,
        version: X509_VERSION,
        sha1_fingerprint: current.certificate.sha1_fingerprint(),
        sha256_fingerprint: current.certificate.sha256_fingerprint(),
        status: match view.status {
            CertificateValidity::Valid => pb::CertificateValidity::Valid,
            CertificateValidity::Expired => pb::CertificateValidity::Expired,
            CertificateValidity::NotYetValid => pb::CertificateValidity::NotYetValid,
            CertificateValidity::Revoked => pb::CertificateValidity::Revoked,
        }
        .into(),
        crypto_provider: shown(view.crypto_provider),
        rotation_settings,
        certificate_pem,
        public_key_pem: current.public_key.pem(),
        key_origin: match current.origin {
            KeyOrigin::Generated => pb::KeyOrigin::Generated,
            KeyOrigin::Imported => pb::KeyOrigin::Imported,
            KeyOrigin::Linked => pb::KeyOrigin::Linked,
        }
        .into(),
        token_attributes: current.token_attributes.map(token_attributes),
        create_time: Some(to_timestamp(pair.create_time)),
        pending: pending.as_ref().map(generation),
        previous: previous.as_ref().map(generation),
        generation: number(current.number),
        exportable: view.exportable,
        labels: pair.labels.as_map().clone().into_iter().collect(),
        etag,
        signing_algorithm: current.signing_algorithm.name().to_owned(),
        also_key_pair_ids: view
            .also_key_pair_ids
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

/// Reads rotation settings. `provider_field` is the path of their `cryptoProvider`.
pub(super) fn rotation_settings(
    provider_field: &'static str,
    settings: pb::KeyPairRotationSettings,
) -> Result<RotationSettings, ServiceError> {
    Ok(RotationSettings {
        creation_buffer_days: settings.creation_buffer_days,
        activation_buffer_days: settings.activation_buffer_days,
        key_algorithm: settings.key_algorithm,
        key_size: settings.key_size,
        signature_algorithm: settings.signature_algorithm,
        valid_days: settings.valid_days,
        crypto_provider: provider(provider_field, settings.crypto_provider)?,
    })
}

/// Writes the rotation settings of a key pair, if it has any.
pub(super) fn rotation_of(view: &KeyPairView) -> Option<pb::KeyPairRotationSettings> {
    let rotation = view.key_pair.rotation.as_ref()?;
    let id = view.key_pair.id.to_string();
    Some(rotation_view(id, rotation, view.crypto_provider))
}

/// Writes rotation settings. Where `cryptoProvider` does not apply to the key pair, it does not to the next generation.
fn rotation_view(
    id: String,
    rotation: &Rotation,
    crypto_provider: Option<ProviderKind>,
) -> pb::KeyPairRotationSettings {
    let next = &rotation.next;
    let shown_provider = crypto_provider.map(|_| next.provider);
    pb::KeyPairRotationSettings {
        id,
        creation_buffer_days: rotation.creation_buffer_days.into(),
        activation_buffer_days: rotation.activation_buffer_days.into(),
        key_algorithm: Some(next.spec.algorithm().name().to_owned()),
        key_size: Some(next.spec.bits()),
        signature_algorithm: Some(next.signature_algorithm.name().to_owned()),
        valid_days: Some(next.valid_days.into()),
        crypto_provider: shown(shown_provider),
    }
}

fn generation(generation: &KeyPairGeneration) -> pb::KeyPairGeneration {
    pb::KeyPairGeneration {
        number: number(generation.number),
        certificate_pem: generation.chain_pem(),
        sha256_fingerprint: generation.certificate.sha256_fingerprint(),
        valid_from: Some(to_timestamp(generation.validity.not_before)),
        expires: Some(to_timestamp(generation.validity.not_after)),
        activate_time: generation.activate_time.map(to_timestamp),
    }
}

/// Fills in what is known before there is a key.
pub(in crate::grpc) fn key_pair_preview(preview: KeyPairPreview) -> pb::KeyPairView {
    let template = preview.template;
    let subject_dn = template.subject.to_string();
    let id = template.id.map(|id| id.to_string()).unwrap_or_default();
    pb::KeyPairView {
        rotation_settings: template
            .rotation
            .map(|rotation| rotation_view(id.clone(), &rotation, preview.crypto_provider)),
        id,
        issuer_dn: subject_dn.clone(),
        subject_dn,
        subject_alternative_names: template.names.iter().map(ToString::to_string).collect(),
        valid_from: Some(to_timestamp(preview.validity.not_before)),
        expires: Some(to_timestamp(preview.validity.not_after)),
        key_algorithm: template.first.spec.algorithm().name().to_owned(),
        key_size: template.first.spec.bits(),
        signature_algorithm: template.first.signature_algorithm.name().to_owned(),
        signing_algorithm: template.signing_algorithm.name().to_owned(),
        version: X509_VERSION,
        crypto_provider: shown(preview.crypto_provider),
        labels: template.labels.as_map().clone().into_iter().collect(),
        ..pb::KeyPairView::default()
    }
}

pub(in crate::grpc) fn key_algorithm(available: &AvailableAlgorithm) -> pb::KeyAlgorithm {
    let signatures = available.signature_algorithms.iter();
    pb::KeyAlgorithm {
        name: available.algorithm.name().to_owned(),
        key_sizes: available.specs.iter().map(|spec| spec.bits()).collect(),
        default_key_size: available.default_spec.bits(),
        signature_algorithms: signatures
            .map(|algorithm| algorithm.name().to_owned())
            .collect(),
        default_signature_algorithm: available.default_signature_algorithm.name().to_owned(),
        crypto_provider: shown(available.crypto_provider),
    }
}

pub(in crate::grpc) fn crypto_provider_status(
    (health, missing, doubtful): (ProviderHealth, Vec<Missing>, usize),
) -> pb::CryptoProviderStatus {
    let state = match health.state {
        ProviderState::Serving => pb::CryptoProviderState::Serving,
        ProviderState::Unavailable => pb::CryptoProviderState::Unavailable,
        ProviderState::LoginRefused => pb::CryptoProviderState::LoginRefused,
        ProviderState::NotSigning => pb::CryptoProviderState::NotSigning,
    };
    let missing = missing.into_iter().map(|missing| pb::MissingAlgorithm {
        key_algorithm: missing.algorithm.name().to_owned(),
        key_sizes: missing.specs.iter().map(|spec| spec.bits()).collect(),
        signature_algorithms: missing
            .signatures
            .iter()
            .map(|algorithm| algorithm.name().to_owned())
            .collect(),
        reason: missing.reason,
    });
    pb::CryptoProviderStatus {
        crypto_provider: shown(Some(health.provider)),
        state: state.into(),
        message: health.message,
        remedy: health.remedy.unwrap_or_default().to_owned(),
        last_signature_time: health.last_signature.map(to_timestamp),
        missing_algorithms: missing.collect(),
        doubtful_keys: i32::try_from(doubtful).unwrap_or(i32::MAX),
    }
}

/// Writes a doubtful key.
pub(in crate::grpc) fn doubtful_key(key: &DoubtfulKey) -> pb::DoubtfulKey {
    pb::DoubtfulKey {
        private_key_id: key.key_ref.to_string(),
        id: key.key_pair.to_string(),
        generation: i32::try_from(key.generation.number()).unwrap_or(i32::MAX),
        crypto_provider: shown(Some(key.provider)),
        linked: key.is_linked,
    }
}

/// Reads a `CryptoProvider`; none when it is not stated.
pub(in crate::grpc) fn provider(
    field: &'static str,
    number: i32,
) -> Result<Option<ProviderKind>, ServiceError> {
    match pb::CryptoProvider::try_from(number) {
        Ok(pb::CryptoProvider::Unspecified) => Ok(None),
        Ok(pb::CryptoProvider::Local) => Ok(Some(ProviderKind::Local)),
        Ok(pb::CryptoProvider::Hsm) => Ok(Some(ProviderKind::Hsm)),
        Err(_) => Err(malformed(field, "must be LOCAL (1) or HSM (2)")),
    }
}

fn status(field: &'static str, number: i32) -> Result<Option<CertificateValidity>, ServiceError> {
    match pb::CertificateValidity::try_from(number) {
        Ok(pb::CertificateValidity::Unspecified) => Ok(None),
        Ok(pb::CertificateValidity::Valid) => Ok(Some(CertificateValidity::Valid)),
        Ok(pb::CertificateValidity::Expired) => Ok(Some(CertificateValidity::Expired)),
        Ok(pb::CertificateValidity::NotYetValid) => Ok(Some(CertificateValidity::NotYetValid)),
        Ok(pb::CertificateValidity::Revoked) => Ok(Some(CertificateValidity::Revoked)),
        Err(_) => Err(malformed(
            field,
            "must be VALID (1), EXPIRED (2), NOT_YET_VALID (3) or REVOKED (4)",
        )),
    }
}

pub(super) fn shown(provider: Option<ProviderKind>) -> i32 {
    match provider {
        None => pb::CryptoProvider::Unspecified,
        Some(ProviderKind::Local) => pb::CryptoProvider::Local,
        Some(ProviderKind::Hsm) => pb::CryptoProvider::Hsm,
    }
    .into()
}

const fn token_attributes(attributes: TokenAttributes) -> pb::TokenAttributes {
    pb::TokenAttributes {
        sensitive: attributes.sensitive,
        always_sensitive: attributes.always_sensitive,
        never_extractable: attributes.never_extractable,
        local: attributes.local,
    }
}

const X509_VERSION: i32 = 3;
