//! Brings the token in line with the store: keys that no key pair has are destroyed, what is
//! missing is told or mended, and what is not ours is left alone.

use std::collections::{HashMap, HashSet};

use tracing::{error, info, warn};

use super::intents::sweep;
use super::{Service, ServiceError, issue};
use crate::certs;
use crate::domain::{Certificate, KeyPairGeneration, KeyRef};
use crate::providers::{
    Lane, Operation, ProviderError, ProviderErrorKind, ProviderHandle, TokenObject,
    TokenObjectClass, TokenObjects,
};
use crate::store::KnownKey;

/// What a look at the token found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reconciled {
    /// Keys that no key pair has, and that were destroyed.
    pub(super) destroyed: usize,
    /// Half-made objects that were destroyed.
    pub(super) swept: usize,
    /// Key pairs whose private key is not on the token.
    pub(super) missing: usize,
    /// Certificates that were put on the token again.
    pub(super) republished: usize,
    /// Objects that belong to nobody we know.
    pub(super) foreign: usize,
}

/// One of our keys, and what the token has of it.
#[derive(Debug)]
struct Seen {
    known: KnownKey,
    private_key: bool,
    /// The fingerprints of the certificates.
    certificates: Vec<Option<String>>,
}

impl Seen {
    /// Tells whether the token has what it should.
    fn is_whole(&self) -> bool {
        let has_certificate = match &*self.certificates {
            [Some(fingerprint)] => *fingerprint == self.known.fingerprint,
            _ => false,
        };
        self.private_key && has_certificate
    }
}

impl Service {
    /// Looks at all objects of a token, slice by slice, beside other work.
    ///
    /// A certificate that is newer than the recorded one of its key stays.
    ///
    /// A key pair whose key the token does not show is reported and kept: the token may be another one, or
    /// restored from an old copy.
    ///
    /// # Errors
    /// The first failure that may pass, when all was tried.
    pub(super) async fn reconcile(
        &self,
        handle: &ProviderHandle,
    ) -> Result<Reconciled, ServiceError> {
        let mut done = Reconciled::default();
        self.log_doubtful_keys().await;
        match self.settle(handle).await {
            Ok(settled) => {
                done.destroyed = settled.destroyed;
                done.swept = settled.swept;
            }
            Err(error) => {
                handle.availability()?;
                warn!(%error, "keys could not be destroyed yet");
            }
        }
        let mut keys = HashMap::new();
        for known in self.store.keys_of(handle.kind()).await? {
            let seen = Seen {
                known,
                private_key: false,
                certificates: Vec::new(),
            };
            keys.insert(seen.known.key_ref, seen);
        }
        let known = keys.len();
        done.foreign = take_inventory(handle, &mut keys).await?;
        let unpublished = self.store.unpublished(None).await?.into_iter();
        let unpublished: HashSet<_> = unpublished.map(|(_, key_ref)| key_ref).collect();
        let mut all = Ok(());
        for (key_ref, seen) in keys {
            if seen.is_whole() {
                continue;
            }
            let id = seen.known.key_pair;
            let key_pair = self.store.key_pair(&id).await?;
            let generation = key_pair
                .as_ref()
                .and_then(|pair| pair.generation_of(key_ref));
            // Key pairs that were made or deleted meanwhile are not lacking anything.
            let Some(generation) = generation else {
                continue;
            };
            if !seen.private_key {
                done.missing += 1;
                if done.missing <= MISSING_TOLD_MAX {
                    warn!(key_pair = %id, %key_ref, "the token does not show the private key of a key pair");
                }
                continue;
            }
            if !generation.has_certificate_on_token() {
                continue;
            }
            if !unpublished.contains(&key_ref)
                && !seen.certificates.is_empty()
                && has_newer_certificate(handle, generation).await?
            {
                warn!(
                    key_pair = %id,
                    remedy = NEWER_REMEDY,
                    "the token has a newer certificate of a key pair than the store, and keeps it"
                );
                continue;
            }
            // It may have been put there since it was looked for, so that it is looked for once more.
            match self.publish_again(&id, key_ref).await {
                Ok(()) => done.republished += 1,
                Err(error) => {
                    warn!(key_pair = %id, %error, "a certificate could not be put on the token again");
                    if may_pass(&error) {
                        all = all.and(Err(error));
                    }
                }
            }
        }
        if done.missing > 0 && done.missing == known {
            error!(
                missing = done.missing,
                "the token shows none of our private keys: it was initialised anew, or is another one of the same name; put its copy back"
            );
        }
        let unpublished = !self.store.unpublished(None).await?.is_empty();
        if let Err(error) = self.publish_unpublished(handle).await {
            warn!(%error, "new certificates could not be put on the token yet");
        }
        if unpublished || done.republished > 0 {
            // The publishing was interrupted, perhaps in the middle.
            done.swept += sweep(handle).await?;
        }
        info!(
            destroyed = done.destroyed,
            swept = done.swept,
            missing = done.missing,
            republished = done.republished,
            foreign = done.foreign,
            "the token and the store were compared"
        );
        all.map(|()| done)
    }
}

/// Tells whether what failed may succeed when it is tried again.
fn may_pass(error: &ServiceError) -> bool {
    match error {
        ServiceError::Provider(failure) => !matches!(
            failure.kind,
            ProviderErrorKind::Unsupported
                | ProviderErrorKind::NotPermitted
                | ProviderErrorKind::Untrustworthy
        ),
        _ => true,
    }
}

/// Notes what the token has of our keys, and counts the objects of others.
async fn take_inventory(
    handle: &ProviderHandle,
    keys: &mut HashMap<KeyRef, Seen>,
) -> Result<usize, ServiceError> {
    let mut foreign = 0;
    token_call(handle, Operation::Inventory, |token| {
        token.begin_inventory()
    })
    .await?;
    loop {
        let slice = token_call(handle, Operation::Inventory, |token| {
            token.continue_inventory()
        })
        .await?;
        if slice.is_empty() {
            return Ok(foreign);
        }
        for object in slice {
            foreign += usize::from(!note(object, keys));
        }
    }
}

/// Tells whether the token has a certificate of a generation's key that is newer than the recorded
/// one: the store was restored, and is older than the token.
async fn has_newer_certificate(
    handle: &ProviderHandle,
    generation: &KeyPairGeneration,
) -> Result<bool, ServiceError> {
    let id = generation.key_ref.as_bytes().to_vec();
    let found = token_call(handle, Operation::Inventory, move |token| {
        token.certificates_of(&id)
    });
    let is_newer = |found: &Certificate| {
        certs::read(found).is_ok_and(|found| {
            found.public_key == generation.public_key
                && found.validity.not_before > generation.validity.not_before
        })
    };
    Ok(found.await?.iter().any(is_newer))
}

/// Notes what an object is of, and tells whether it is one of ours.
fn note(object: TokenObject, keys: &mut HashMap<KeyRef, Seen>) -> bool {
    let key = KeyRef::from_slice(&object.id).and_then(|key_ref| keys.get_mut(&key_ref));
    match (object.class, key) {
        (TokenObjectClass::HalfMade, _) => {
            warn!(label = object.label, "the token has a half-made object");
            false
        }
        (class, Some(seen)) => {
            seen.private_key |= class == TokenObjectClass::PrivateKey;
            if class == TokenObjectClass::Certificate {
                seen.certificates.push(object.fingerprint);
            }
            true
        }
        (_, None) => false,
    }
}

async fn token_call<T: Send + 'static>(
    handle: &ProviderHandle,
    operation: Operation,
    call: impl FnOnce(&dyn TokenObjects) -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ServiceError> {
    let job = issue::on_token(operation, call);
    Ok(handle.run_to_end(Lane::Manage, operation, job).await?)
}

const NEWER_REMEDY: &str = "give the key pair the token's certificate by keypairctl csr-response";
/// Of how many missing keys each is told by itself.
const MISSING_TOLD_MAX: usize = 20;
