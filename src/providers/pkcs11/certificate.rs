//! Keeps certificates beside their keys, for other programs that use the token.

use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::Session;
use der::{Decode, Encode};

use super::error::Failure;
use super::find;
use super::template::{self, CertificateParts};
use crate::domain::Certificate;
use crate::providers::KeyName;

/// Makes the certificate object of a key (`C_CreateObject`), unless it is there.
///
/// `CKA_VALUE` cannot be changed, so another certificate of the same key is replaced: the new one is made
/// before the old one is destroyed.
pub(super) fn publish(
    session: &Session,
    name: &KeyName,
    certificate: &Certificate,
) -> Result<(), Failure> {
    let mut others = find::of_class(session, ObjectClass::CERTIFICATE, name.key_ref)?;
    let published = others.iter().position(|handle| {
        session
            .get_attributes(*handle, &[AttributeType::Value])
            .is_ok_and(|stated| stated.contains(&Attribute::Value(certificate.der().to_vec())))
    });
    match published {
        Some(index) => {
            others.swap_remove(index);
        }
        None => {
            session.create_object(&template::certificate(name, parts(certificate)?))?;
        }
    }
    for other in others {
        session.destroy_object(other)?;
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
