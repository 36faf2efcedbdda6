//! Messages about keys and certificates that come from elsewhere, or go there.

use bytes::Bytes;

use super::key_pair::{new_key_pair_settings, provider};
use super::malformed;
use crate::domain::SubjectSettings;
use crate::proto as pb;
use crate::service::{
    CsrRequest, IgnoredCertificate, ImportRequest, KeyFileFormat, LinkRequest, ServiceError,
};

/// Writes the certificates that were not kept.
pub(in crate::grpc) fn ignored(
    certificates: Vec<IgnoredCertificate>,
) -> Vec<pb::IgnoredCertificate> {
    let certificates = certificates.into_iter();
    let ignored = certificates.map(|certificate| pb::IgnoredCertificate {
        subject_dn: certificate.subject_dn,
        sha256_fingerprint: certificate.sha256_fingerprint,
        reason: certificate.reason.to_owned(),
    });
    ignored.collect()
}

pub(in crate::grpc) fn import_request(
    request: pb::ImportSigningKeyPairRequest,
) -> Result<ImportRequest, ServiceError> {
    let settings = request.settings.unwrap_or_default();
    Ok(ImportRequest {
        id: settings.id,
        file_data: settings.file_data.into(),
        format: format(settings.format)?,
        password: settings.password.into(),
        crypto_provider: provider("cryptoProvider", settings.crypto_provider)?,
        labels: settings.labels.into_iter().collect(),
    })
}

pub(in crate::grpc) fn link_request(
    request: pb::LinkSigningKeyPairRequest,
) -> Result<LinkRequest, ServiceError> {
    Ok(LinkRequest {
        id: request.id,
        private_key_label: request.private_key_label,
        private_key_id: request.private_key_id,
        certificate: Bytes::from(request.certificate),
        settings: request.settings.map(new_key_pair_settings).transpose()?,
        labels: request.labels.into_iter().collect(),
    })
}

pub(in crate::grpc) fn csr_request(request: pb::GenerateCsrRequest) -> CsrRequest {
    CsrRequest {
        id: request.id,
        subject: request.subject.map(|subject| SubjectSettings {
            common_name: subject.common_name,
            organization: subject.organization,
            organization_unit: subject.organization_unit,
            city: subject.city,
            state: subject.state,
            country: subject.country,
        }),
        subject_alternative_names: request.subject_alternative_names,
    }
}

/// Reads a format; none when it is left open.
pub(in crate::grpc) fn format(number: i32) -> Result<Option<KeyFileFormat>, ServiceError> {
    match pb::KeyFileFormat::try_from(number) {
        Ok(pb::KeyFileFormat::Unspecified) => Ok(None),
        Ok(pb::KeyFileFormat::Pkcs12) => Ok(Some(KeyFileFormat::Pkcs12)),
        Ok(pb::KeyFileFormat::Pem) => Ok(Some(KeyFileFormat::Pem)),
        Err(_) => Err(malformed("format", "must be PKCS12 or PEM")),
    }
}
