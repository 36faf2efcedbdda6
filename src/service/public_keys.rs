//! Publishes public keys.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::Digest as _;

use super::list::ListRequest;
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{
    Generation, GenerationState, Jwk, KeyPair, KeyPairGeneration, Labels, ListFilter, Origin,
    Validity, Violations,
};
use crate::store::SharedKey;

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
    /// Whether an earlier key pair of the list, on another page, has the key too. The list may have
    /// changed since that page was read, so that the key is not on it.
    pub is_repeated: bool,
}

/// Public keys as a caller asked for them.
#[derive(Clone, Debug, Default)]
pub struct PublicKeysRequest {
    /// `id`; empty for all key pairs.
    pub id: String,
    /// `labels`: those of key pairs that have all of them.
    pub labels: BTreeMap<String, String>,
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
    /// A key that several of the key pairs have is there once, as that of the first one. Its JWK
    /// has an `alg` only if all of them sign with the same.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairNotFound`]; [`ServiceError::ProviderOff`].
    pub async fn public_keys(
        &self,
        request: PublicKeysRequest,
    ) -> Result<PublicKeysPage, ServiceError> {
        if !request.id.is_empty() {
            return self.public_keys_of(&request).await;
        }
        let request = ListRequest {
            page_size: match request.page_size {
                0 => KEY_PAIRS_MAX,
                asked => asked,
            },
            page_token: request.page_token,
            labels: request.labels,
            origin: request.origin,
            bytes_max: request.bytes_max,
            ..ListRequest::default()
        };
        let in_own_words = |violations: Violations| {
            ServiceError::Invalid(
                violations.renamed(|field| field.starts_with("filter.labels").then_some("labels")),
            )
        };
        let filter = self.list_query(&request).map_err(in_own_words)?.filter;
        let is_first_page = request.page_token.is_empty();
        let page = self.list(request).await?;
        let mut public_keys = self.published_once(&page.key_pairs, &filter).await?;
        for key in &mut public_keys {
            key.is_repeated &= !is_first_page;
        }
        Ok(PublicKeysPage {
            public_keys,
            next_page_token: page.next_page_token,
        })
    }

    /// Returns a text that differs after every change of the public keys that a caller asks for.
    pub async fn public_keys_version(
        &self,
        request: &PublicKeysRequest,
    ) -> Result<String, ServiceError> {
        let version = self.store.published_version(self.clock.now()).await?;
        let asked = (&request.id, &request.labels);
        let mode = self.registry.policy().mode;
        let what = format!("{version} {mode} {asked:?} {}", env!("CARGO_PKG_VERSION"));
        let digest = sha2::Sha256::digest(what);
        let digits = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
        Ok(digits.collect())
    }

    async fn public_keys_of(
        &self,
        request: &PublicKeysRequest,
    ) -> Result<PublicKeysPage, ServiceError> {
        let mut violations = Violations::new();
        let labels = Labels::check(request.labels.clone(), &mut violations);
        violations.into_result().map_err(ServiceError::Invalid)?;
        let view = self.get(&request.id).await?;
        let public_keys = match view.key_pair.labels.contain(&labels) {
            true => published(&view).map(|(key, _)| key).collect(),
            false => Vec::new(),
        };
        Ok(PublicKeysPage {
            public_keys,
            next_page_token: String::new(),
        })
    }

    /// Returns the keys of key pairs of a list, without those that earlier ones of the list have.
    async fn published_once(
        &self,
        views: &[KeyPairView],
        filter: &ListFilter,
    ) -> Result<Vec<PublishedKey>, ServiceError> {
        let published: Vec<_> = views.iter().flat_map(published).collect();
        let keys: Vec<_> = published.iter().map(|(_, one)| one.key_ref).collect();
        let now = self.clock.now();
        let shared = self.store.shared_keys(filter, &keys, now).await?;
        let mut shared: HashMap<_, _> = shared.into_iter().map(|key| (key.key_ref, key)).collect();
        // What is shared is read after the list, which may have changed in between. So keys of the
        // page are told by what they are.
        let mut seen = HashSet::new();
        let once = published.into_iter().filter_map(|(mut key, generation)| {
            if !seen.insert(key.jwk.kid.clone()) {
                return None;
            }
            match shared.remove(&generation.key_ref) {
                None => {}
                Some(shared) if shared.is_repeated => key.is_repeated = true,
                Some(shared) => {
                    key.jwk.alg = key
                        .jwk
                        .alg
                        .filter(|alg| all_sign_with(alg, generation, &shared));
                }
            }
            Some(key)
        });
        Ok(once.collect())
    }
}

/// Tells whether the later key pairs of a key sign with this JWS algorithm by default too.
fn all_sign_with(alg: &str, generation: &KeyPairGeneration, shared: &SharedKey) -> bool {
    let generations = shared.later.iter().flat_map(KeyPair::generations);
    let mut with_key = generations.filter(|(_, one)| one.public_key == generation.public_key);
    with_key.all(|(_, one)| {
        let jwk = Jwk::new(&one.public_key, one.signing_algorithm);
        jwk.is_some_and(|jwk| jwk.alg == Some(alg))
    })
}

/// Returns the keys of what a view shows, each with its generation: the one that signs first.
fn published(view: &KeyPairView) -> impl Iterator<Item = (PublishedKey, &KeyPairGeneration)> {
    view.key_pair
        .generations()
        .filter_map(|(state, generation)| {
            let key = PublishedKey {
                id: view.key_pair.id.to_string(),
                generation: generation.number,
                state,
                jwk: Jwk::new(&generation.public_key, generation.signing_algorithm)?,
                public_key_pem: generation.public_key.pem(),
                certificate_sha256_fingerprint: generation.certificate.sha256_fingerprint(),
                validity: generation.validity,
                is_repeated: false,
            };
            Some((key, generation))
        })
}

const KEY_PAIRS_MAX: i32 = 1000;
