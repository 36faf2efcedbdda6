//! Keeps certificates beside their keys, for other programs that use the token.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::{Decode, Encode};

use super::error::Failure;
use super::template::{self, CertificateParts};
use crate::domain::Certificate;
use crate::providers::KeyName;

/// Makes the certificate object of a key (`C_CreateObject`).
pub(super) fn publish(
    session: &Session,
    name: &KeyName,
    certificate: &Certificate,
) -> Result<(), Failure> {
    session.create_object(&template::certificate(name, parts(certificate)?))?;
    Ok(())
}

/// Makes the certificate object of a key, and destroys those it had before. The new one comes first, so that
/// other programs find one at any time.
pub(super) fn replace(
    session: &Session,
    name: &KeyName,
    certificate: &Certificate,
) -> Result<(), Failure> {
    let had = session.find_objects(&[
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::Id(name.key_ref.as_bytes().to_vec()),
    ])?;
    let is_new = |handle: &ObjectHandle| {
        let stated = session.get_attributes(*handle, &[AttributeType::Value]);
        stated.is_ok_and(|stated| stated.contains(&Attribute::Value(certificate.der().to_vec())))
    };
    let kept = had.iter().copied().find(is_new);
    if kept.is_none() {
        publish(session, name, certificate)?;
    }
    for old in had.into_iter().filter(|handle| Some(*handle) != kept) {
        session.destroy_object(old)?;
    }
    Ok(())
}

fn parts(certificate: &Certificate) -> Result<CertificateParts, Failure> {
    let read = || {
        let parsed = x509_cert::Certificate::from_der(certificate.der())?;
        let tbs = parsed.tbs_certificate();
        Ok(CertificateParts {
            subject: tbs.subject().to_der()?,
            issuer: tbs.issuer().to_der()?,
            serial_number: tbs.serial_number().to_der()?,
            certificate: certificate.der().to_vec(),
        })
    };
    read().map_err(Failure::Certificate)
}
