//! Certifies keys, in whatever provider they live.

use super::ServiceError;
use crate::certs::Profile;
use crate::domain::Certificate;
use crate::providers::{KeyName, Lane, Operation, ProviderHandle, StoredKey};

/// Makes the self-signed certificate of a key.
///
/// The certificate is linted before it is signed, and its signature is verified with the public key
/// before it is returned: this is the pairwise consistency check of a new key (FIPS 140-3, ISO/IEC 19790).
pub(super) async fn self_signed(
    handle: &ProviderHandle,
    key: StoredKey,
    profile: Profile,
) -> Result<Certificate, ServiceError> {
    let algorithm = profile.signature_algorithm;
    let linted = profile.build()?;
    let message = linted.to_be_signed().to_vec();
    let signature = handle
        .run(Lane::Sign, Operation::Sign, move |provider| {
            provider.sign(&key, algorithm, &message)
        })
        .await?;
    Ok(linted.complete(signature)?)
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
    handle
        .run(
            Lane::Manage,
            Operation::PublishCertificate,
            move |provider| {
                provider.token().map_or(Ok(()), |token| {
                    token.publish_certificate(&name, &certificate)
                })
            },
        )
        .await?;
    Ok(())
}
