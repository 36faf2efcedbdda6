//! Canaries: signatures that nobody asked for, by which it is known that a provider signs.
//!
//! One is made with a key pair of the store, in the lane of the callers, and verified with the public key; then it is thrown away. So it proves
//! what callers rely on: the login, a session, the handle of a key, the mechanism, the device. It leaves nothing on the token. What is signed says
//! what it is, so that it stands for nothing else.
//!
//! A signature that a caller has made proves as much. So there are canaries only while nobody signs, and when a signature failed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::health::{Proof, Said};
use super::{Service, ServiceError};
use crate::domain::{
    KeyAlgorithm, KeyOrigin, KeyPairId, ListFilter, ListOrder, ListQuery, PageSize, SigningInput,
};
use crate::providers::{
    Lane, Operation, ProviderError, ProviderErrorKind, ProviderHandle, SigningOrder,
};
use crate::telemetry::chain;

/// What a canary found.
enum Song {
    /// The provider signed, with this key pair.
    Sung(KeyPairId),
    /// There is nothing to sign with, and the provider is there.
    NoKeyPair,
    /// The store does not say what there is to sign with.
    Unheard,
}

/// What came of one key pair.
enum Tried {
    Signed,
    /// It was deleted, or moved.
    Gone,
    /// The store does not say what it is.
    Unknown,
    /// The fault is with the key.
    Unusable(ProviderError),
}

impl Service {
    /// Has every provider tried by a signature whenever nobody else has one made, until `stop`.
    ///
    /// There is one canary at a time for each provider, one in [`super::ServiceConfig::canary_interval`], and one in a second while they
    /// fail. Each is waited for as long as a caller would wait.
    pub async fn keep_trying(self: Arc<Self>, stop: CancellationToken) {
        self.for_each_provider(stop, |service, handle| async move {
            service.keep_provider_tried(&handle).await;
        })
        .await;
    }

    async fn keep_provider_tried(&self, handle: &Arc<ProviderHandle>) {
        let board = self.health.of(handle.kind());
        let interval = self.config.canary_interval;
        // When the next one is due, and before when there is none in any case.
        let (mut due, mut not_before) = (Instant::now(), Instant::now());
        let mut last_proof = Instant::now();
        loop {
            let now = Instant::now();
            if handle.availability().is_err() {
                board.lock().proof = Proof::Awaited;
                // What a lost connection signed proves nothing of the next.
                forget_outcomes(handle);
                due = now;
            } else if handle.signed_lately() {
                self.note_signature(handle).await;
                (due, last_proof) = (now + interval, now);
            } else if now >= not_before && (now >= due || handle.failed_lately()) {
                let outcome = self.wait_for_canary(handle).await;
                // What it did itself is not taken for what others did.
                forget_outcomes(handle);
                let now = Instant::now();
                not_before = now + RETRY;
                due = not_before;
                match outcome {
                    Ok(Song::Sung(id)) => {
                        (due, last_proof) = (now + interval, now);
                        board.lock().canary_key = Some(id);
                        self.note_signature(handle).await;
                    }
                    Ok(Song::NoKeyPair) => {
                        (due, last_proof) = (now + interval, now);
                        self.note_proof(handle, Proof::NoKeyPair).await;
                    }
                    Ok(Song::Unheard) => {}
                    // The queue is full of work of others. When it is done, that is proof enough.
                    Err(failure)
                        if failure.kind == ProviderErrorKind::Busy
                            && last_proof.elapsed() < interval + handle.operation_timeout() => {}
                    Err(failure) => self.note_failure(handle, &failure).await,
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Has a canary sing, and notices meanwhile what callers have signed.
    async fn wait_for_canary(&self, handle: &Arc<ProviderHandle>) -> Result<Song, ProviderError> {
        self.health.of(handle.kind()).lock().canaries += 1;
        let mut canary = std::pin::pin!(self.sing(handle));
        loop {
            tokio::select! {
                sung = &mut canary => return sung,
                () = tokio::time::sleep(TICK) => {
                    if handle.signed_lately() {
                        self.note_signature(handle).await;
                    }
                }
            }
        }
    }

    /// Makes a signature and verifies it, with the key pair of the last time. When a key is not as it should be, another one
    /// is taken, for that is no fault of the provider.
    async fn sing(&self, handle: &Arc<ProviderHandle>) -> Result<Song, ProviderError> {
        let last = self.health.of(handle.kind()).lock().canary_key.clone();
        let (mut unusable, mut unknown) = (None, false);
        let mut left: Vec<_> = last.clone().into_iter().collect();
        let mut listed = false;
        for _ in 0..KEYS_TRIED {
            if left.is_empty() && !std::mem::replace(&mut listed, true) {
                match self.some_key_pairs(handle).await {
                    Ok(found) => left = found,
                    Err(failure) => {
                        error!(
                            cause = chain(&failure),
                            "no key pair is found to try a provider with"
                        );
                        unknown = true;
                    }
                }
                left.retain(|id| Some(id) != last.as_ref());
                // The first one comes first.
                left.reverse();
            }
            let Some(id) = left.pop() else { break };
            match self.sing_with(handle, &id).await? {
                Tried::Signed => return Ok(Song::Sung(id)),
                Tried::Gone => {}
                Tried::Unknown => unknown = true,
                Tried::Unusable(failure) => unusable = Some(failure),
            }
        }
        match unusable {
            Some(failure) => Err(failure),
            None if unknown => Ok(Song::Unheard),
            None => {
                let probe = handle.run(Lane::Sign, Operation::Connect, |provider| provider.probe());
                probe.await.map(|()| Song::NoKeyPair)
            }
        }
    }

    /// Signs with one key pair.
    ///
    /// # Errors
    /// When the provider is to blame.
    async fn sing_with(
        &self,
        handle: &Arc<ProviderHandle>,
        id: &KeyPairId,
    ) -> Result<Tried, ProviderError> {
        let key = match self.signing_key(id.as_str()).await {
            Ok(key) if Arc::ptr_eq(&key.provider, handle) => key,
            Err(ServiceError::Store(_)) => return Ok(Tried::Unknown),
            Ok(_) | Err(_) => return Ok(Tried::Gone),
        };
        let now = self.clock.now();
        let message = format!("keypaird canary at {now}: that this key signs, and nothing else");
        let input = SigningInput::Message(message.into_bytes().into());
        let order = SigningOrder {
            key: Arc::clone(&key.stored),
            algorithm: key.signing.default,
            input: input.clone(),
        };
        let signed = handle.sign(order).await.and_then(|signature| {
            let verified = key
                .stored
                .public_key
                .verify(key.signing.default, &input, &signature);
            verified.map_err(|_| {
                let kind = ProviderErrorKind::Untrustworthy;
                ProviderError::new(handle.kind(), Operation::Sign, kind)
            })
        });
        match signed {
            Ok(()) => Ok(Tried::Signed),
            Err(failure) if is_of_key(failure.kind) => Ok(Tried::Unusable(failure)),
            Err(failure) => Err(failure),
        }
    }

    /// Returns key pairs to try a provider with: the quick ones first, and those last that came from somebody else's keys.
    async fn some_key_pairs(
        &self,
        handle: &ProviderHandle,
    ) -> Result<Vec<KeyPairId>, ServiceError> {
        let page_size = PageSize::parse(KEYS_LISTED)
            .map_err(|refusal| ServiceError::invalid("pageSize", refusal))?;
        let query = ListQuery {
            filter: ListFilter {
                provider: Some(handle.kind()),
                ..ListFilter::default()
            },
            order: ListOrder::default(),
            page_size,
            after: None,
            skip: 0,
            with_total: false,
            with_sharers: false,
        };
        let mut listed = self.store.list(query, self.clock.now()).await?.key_pairs;
        listed.sort_by_key(|key_pair| {
            let current = &key_pair.current;
            let slow = current.public_key.spec().algorithm() == KeyAlgorithm::Rsa;
            (current.origin == KeyOrigin::Linked, slow)
        });
        Ok(listed.into_iter().map(|key_pair| key_pair.id).collect())
    }

    /// Notes that a signature was made.
    async fn note_signature(&self, handle: &ProviderHandle) {
        self.health.of(handle.kind()).lock().last_signature = Some(self.clock.now());
        self.note_proof(handle, Proof::Signs).await;
    }

    /// Notes that a provider is well.
    async fn note_proof(&self, handle: &ProviderHandle, proof: Proof) {
        let recovered = {
            let mut known = self.health.of(handle.kind()).lock();
            known.proof = proof;
            known.complaint.take().is_some()
        };
        if recovered {
            info!(provider = %handle.kind(), "the provider signs again");
        }
        self.tell_whether_it_serves(handle.kind(), true).await;
    }

    async fn note_failure(&self, handle: &ProviderHandle, failure: &ProviderError) {
        let said = Said::of_canary(failure);
        let is_new = {
            let mut known = self.health.of(handle.kind()).lock();
            known.canary_failures += 1;
            let complaint = known.complaint.replace(said.clone());
            known.proof = Proof::Fails(said.clone());
            complaint != Some(said)
        };
        if is_new {
            error!(provider = %handle.kind(), cause = chain(failure), "the provider does not sign");
        }
        self.tell_whether_it_serves(handle.kind(), false).await;
    }
}

/// Forgets what came of signatures lately.
fn forget_outcomes(handle: &ProviderHandle) {
    handle.signed_lately();
    handle.failed_lately();
}

/// Tells whether a signature failed for the key that was taken.
const fn is_of_key(kind: ProviderErrorKind) -> bool {
    matches!(
        kind,
        ProviderErrorKind::KeyMissing
            | ProviderErrorKind::KeyUnreadable
            | ProviderErrorKind::Unsupported
            | ProviderErrorKind::Untrustworthy
    )
}

/// How often it is looked at what callers have signed, and whether a canary is due.
const TICK: Duration = Duration::from_millis(50);
/// How long there is none after another one that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How many keys are tried at most before it is the provider's fault.
const KEYS_TRIED: usize = 3;
/// Among how many one is chosen.
const KEYS_LISTED: i32 = 16;
