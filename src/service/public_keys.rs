//! Publishes public keys.

use super::list::ListRequest;
use super::verify::GenerationState;
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{Generation, Jwk, KeyPairGeneration, Validity};

/// A public key that signatures are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedKey {
    /// The key pair.
    pub id: String,
    /// The number of the generation.
    pub generation: Generation,
    /// What the generation is now.
    pub state: GenerationState,
    /// SubjectPublicKeyInfo in PEM.
    pub public_key_pem: String,
    /// The key as a JWK.
    pub jwk: Jwk,
    /// The SHA-256 fingerprint of its certificate.
    pub certificate_sha256_fingerprint: String,
    /// The validity of its certificate.
    pub validity: Validity,
}

/// Public keys as a caller asked for them.
#[derive(Clone, Debug, Default)]
pub struct PublicKeysRequest {
    /// `id`; empty for all key pairs.
    pub id: String,
    /// `pageSize`.
    pub page_size: i32,
    /// `pageToken`; empty for the first page.
    pub page_token: String,
}

/// One page of public keys.
#[derive(Clone, Debug, Default)]
pub struct PublicKeysPage {
    /// The keys, in the order in which their key pairs were made.
    pub public_keys: Vec<PublishedKey>,
    /// The token of the next page; empty after the last.
    pub next_page_token: String,
}

impl Service {
    /// Returns one page of the public keys of all key pairs, or the keys of one. The token is not asked.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairNotFound`]; [`ServiceError::ProviderOff`].
    pub async fn public_keys(
        &self,
        request: PublicKeysRequest,
    ) -> Result<PublicKeysPage, ServiceError> {
        if !request.id.is_empty() {
            let view = self.get(&request.id).await?;
            return Ok(PublicKeysPage {
                public_keys: published(view).into_iter().collect(),
                next_page_token: String::new(),
            });
        }
        let page = self
            .list(ListRequest {
                page_size: match request.page_size {
                    0 => KEY_PAIRS_MAX,
                    asked => asked,
                },
                page_token: request.page_token,
                ..ListRequest::default()
            })
            .await?;
        Ok(PublicKeysPage {
            public_keys: page.key_pairs.into_iter().filter_map(published).collect(),
            next_page_token: page.next_page_token,
        })
    }
}

fn published(view: KeyPairView) -> Option<PublishedKey> {
    let signature_algorithm = view.key_pair.current.signature_algorithm();
    let KeyPairGeneration {
        number,
        public_key,
        certificate,
        validity,
        ..
    } = view.key_pair.current;
    Some(PublishedKey {
        id: view.key_pair.id.to_string(),
        generation: number,
        state: GenerationState::Current,
        jwk: Jwk::new(&public_key, signature_algorithm)?,
        public_key_pem: public_key.pem(),
        certificate_sha256_fingerprint: certificate.sha256_fingerprint(),
        validity,
    })
}

const KEY_PAIRS_MAX: i32 = 1000;
