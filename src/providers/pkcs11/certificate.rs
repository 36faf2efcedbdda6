//! Keeps certificates beside their keys, for other programs that use the token.

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
