//! Publishes public keys.

use super::list::ListRequest;
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{Generation, GenerationState, Jwk, Origin, Validity};

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
    /// From where the call came.
    pub origin: Option<Origin>,
    /// After how many bytes of key pairs the page ends at the latest; 0 for the most.
    pub bytes_max: usize,
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
                public_keys: published(&view).collect(),
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
                origin: request.origin,
                bytes_max: request.bytes_max,
                ..ListRequest::default()
            })
            .await?;
        Ok(PublicKeysPage {
            public_keys: page.key_pairs.iter().flat_map(published).collect(),
            next_page_token: page.next_page_token,
        })
    }
}

/// Returns the keys of what a view shows: the one that signs first.
fn published(view: &KeyPairView) -> impl Iterator<Item = PublishedKey> {
    view.key_pair
        .generations()
        .filter_map(|(state, generation)| {
            Some(PublishedKey {
                id: view.key_pair.id.to_string(),
                generation: generation.number,
                state,
                jwk: Jwk::new(&generation.public_key, generation.signing_algorithm)?,
                public_key_pem: generation.public_key.pem(),
                certificate_sha256_fingerprint: generation.certificate.sha256_fingerprint(),
                validity: generation.validity,
            })
        })
}

const KEY_PAIRS_MAX: i32 = 1000;
