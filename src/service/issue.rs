//! Certifies keys, in whatever provider they live.

use super::ServiceError;
use crate::certs::Profile;
use crate::domain::{Certificate, IssuedCertificate};
use crate::providers::{
    CryptoProvider, KeyName, Lane, Operation, ProviderError, ProviderErrorKind, ProviderHandle,
    StoredKey, TokenObjects,
};

/// Makes the self-signed certificate of a key. Blocks: it is part of a job.
///
/// The certificate is linted before it is signed, and its signature is verified with the public key
/// before it is returned: this is the pairwise consistency check of a new key (FIPS 140-3, ISO/IEC 19790).
pub(super) fn self_signed(
    provider: &dyn CryptoProvider,
    key: &StoredKey,
    profile: Profile,
) -> Result<IssuedCertificate, ServiceError> {
    let algorithm = profile.signature_algorithm;
    let subject_dn = profile.subject.to_string();
    let subject_alternative_names = profile.names.iter().map(ToString::to_string).collect();
    let (serial_number, validity) = (profile.serial_number.decimal(), profile.validity);
    let linted = profile.build()?;
    let signature = provider.sign(key, algorithm, &linted.to_be_signed())?;
    Ok(IssuedCertificate {
        certificate: linted.complete(signature)?,
        public_key: key.public_key.clone(),
        signature_algorithm: algorithm.name().to_owned(),
        serial_number,
        issuer_dn: subject_dn.clone(),
        subject_dn,
        subject_alternative_names,
        validity,
        pss_only: None,
    })
}

/// Puts a certificate beside its key, where the provider is a token.
pub(super) async fn publish(
    handle: &ProviderHandle,
    name: &KeyName,
    certificate: &Certificate,
) -> Result<(), ServiceError> {
    if handle.provider().token().is_none() {
        return Ok(());
    }
    let (name, certificate) = (name.clone(), certificate.clone());
    let operation = Operation::PublishCertificate;
    let publish = on_token(operation, move |token| {
        token.publish_certificate(&name, &certificate)
    });
    // However long others are at work before it: the key pair is not whole without.
    Ok(handle.run_to_end(Lane::Manage, operation, publish).await?)
}

/// Makes a provider's job of what only a token can do.
pub(super) fn on_token<T>(
    operation: Operation,
    call: impl FnOnce(&dyn TokenObjects) -> Result<T, ProviderError>,
) -> impl FnOnce(&dyn CryptoProvider) -> Result<T, ProviderError> {
    move |provider| match provider.token() {
        Some(token) => call(token),
        None => Err(ProviderError::new(
            provider.kind(),
            operation,
            ProviderErrorKind::Unsupported,
        )),
    }
}
