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
use crate::domain::EventKind::{ProviderRecovered, ProviderUnavailable};
use crate::domain::{
    KeyAlgorithm, KeyOrigin, KeyPair, KeyPairId, ListFilter, ListOrder, ListQuery, PageSize,
    SigningInput,
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
}

impl Service {
    /// Has every provider tried by a signature whenever nobody else has one made, until `stop`.
    ///
    /// There is one canary at a time for each provider, one in [`super::ServiceConfig::canary_interval`], and one in a second while they
    /// fail. Each is waited for as long as a caller would wait.
    pub async fn keep_trying(self: Arc<Self>, stop: CancellationToken) {
        let providers: Vec<_> = self.registry.iter().cloned().collect();
        let loops = providers.into_iter().map(|handle| {
            let (service, stop) = (Arc::clone(&self), stop.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(service.keep_provider_tried(&handle))
                    .await;
            })
        });
        for task in loops.collect::<Vec<_>>() {
            if let Err(error) = task.await {
                error!(%error, "a provider is no longer tried");
            }
        }
    }

    async fn keep_provider_tried(&self, handle: &Arc<ProviderHandle>) {
        let board = self.health.of(handle.kind());
        let interval = self.config.canary_interval;
        // When the next one is due, and before when there is none in any case.
        let (mut due, mut not_before) = (Instant::now(), Instant::now());
        let mut last_proof = Instant::now();
        let mut told = false;
        loop {
            let now = Instant::now();
            if handle.availability().is_err() {
                board.lock().proof = Proof::Awaited;
                due = now;
            } else if handle.signed_lately() {
                self.note_signature(handle, &mut told).await;
                (due, last_proof) = (now + interval, now);
            } else if now >= not_before && (now >= due || handle.failed_lately()) {
                let outcome = self.wait_for_canary(handle, &mut told).await;
                // What it did itself is not taken for what others did.
                handle.signed_lately();
                handle.failed_lately();
                let now = Instant::now();
                not_before = now + RETRY;
                due = not_before;
                match outcome {
                    Ok(song) => {
                        (due, last_proof) = (now + interval, now);
                        self.note_song(handle, song, &mut told).await;
                    }
                    // The queue is full of work of others. When it is done, that is proof enough.
                    Err(failure)
                        if failure.kind == ProviderErrorKind::Busy
                            && last_proof.elapsed() < interval + handle.operation_timeout() => {}
                    Err(failure) => self.note_failure(handle, &failure, &mut told).await,
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Has a canary sing, and notices meanwhile what callers have signed.
    async fn wait_for_canary(
        &self,
        handle: &Arc<ProviderHandle>,
        told: &mut bool,
    ) -> Result<Song, ProviderError> {
        self.health.of(handle.kind()).lock().canaries += 1;
        let mut canary = std::pin::pin!(self.sing(handle));
        loop {
            tokio::select! {
                sung = &mut canary => return sung,
                () = tokio::time::sleep(TICK) => {
                    if handle.signed_lately() {
                        self.note_signature(handle, told).await;
                    }
                }
            }
        }
    }

    /// Makes a signature and verifies it. When a key is not as it should be, another one is taken, for that is no fault of
    /// the provider.
    async fn sing(&self, handle: &Arc<ProviderHandle>) -> Result<Song, ProviderError> {
        let mut failed = None;
        for id in self.canary_keys(handle).await {
            let Some(signed) = self.sing_with(handle, &id).await else {
                // It was deleted, or moved, or the store is away.
                continue;
            };
            match signed {
                Ok(()) => return Ok(Song::Sung(id)),
                Err(failure) if is_of_key(failure.kind) => failed = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None => {
                let probe = handle.run(Lane::Sign, Operation::Connect, |provider| provider.probe());
                probe.await.map(|()| Song::NoKeyPair)
            }
        }
    }

    async fn sing_with(
        &self,
        handle: &Arc<ProviderHandle>,
        id: &KeyPairId,
    ) -> Option<Result<(), ProviderError>> {
        let key = self.signing_key(id.as_str()).await.ok()?;
        if !Arc::ptr_eq(&key.provider, handle) {
            return None;
        }
        let now = self.clock.now();
        let message = format!("keypaird canary at {now}: that this key signs, and nothing else");
        let input = SigningInput::Message(message.into_bytes().into());
        let order = SigningOrder {
            key: Arc::clone(&key.stored),
            algorithm: key.algorithm,
            input: input.clone(),
        };
        let signed = handle.sign(order).await.and_then(|signature| {
            let verified = key
                .stored
                .public_key
                .verify(key.algorithm, &input, &signature);
            verified.map_err(|_| {
                let kind = ProviderErrorKind::Untrustworthy;
                ProviderError::new(handle.kind(), Operation::Sign, kind)
            })
        });
        Some(signed)
    }

    /// Returns with which key pairs to try: the one of the last time, then others, the quick ones first, and those last that
    /// came from somebody else's keys.
    async fn canary_keys(&self, handle: &ProviderHandle) -> Vec<KeyPairId> {
        let last = self.health.of(handle.kind()).lock().canary_key.clone();
        let listed = match self.some_key_pairs(handle).await {
            Ok(listed) => listed,
            Err(failure) => {
                error!(
                    cause = chain(&failure),
                    "no key pair is found to try a provider with"
                );
                Vec::new()
            }
        };
        let listed = listed.into_iter().map(|key_pair| key_pair.id);
        let others = listed.filter(|id| Some(id) != last.as_ref());
        last.clone()
            .into_iter()
            .chain(others)
            .take(KEYS_TRIED)
            .collect()
    }

    async fn some_key_pairs(&self, handle: &ProviderHandle) -> Result<Vec<KeyPair>, ServiceError> {
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
        };
        let mut listed = self.store.list(query, self.clock.now()).await?.key_pairs;
        listed.sort_by_key(|key_pair| {
            let current = &key_pair.current;
            let slow = current.public_key.spec().algorithm() == KeyAlgorithm::Rsa;
            (current.origin == KeyOrigin::Linked, slow)
        });
        Ok(listed)
    }

    /// Notes that a caller's signature was made.
    async fn note_signature(&self, handle: &ProviderHandle, told: &mut bool) {
        let recovered = {
            let mut known = self.health.of(handle.kind()).lock();
            known.last_signature = Some(self.clock.now());
            known.proof = Proof::Signs;
            known.complaint.take()
        };
        self.tell_of_recovery(handle, recovered.is_some(), told)
            .await;
    }

    async fn note_song(&self, handle: &ProviderHandle, song: Song, told: &mut bool) {
        let recovered = {
            let mut known = self.health.of(handle.kind()).lock();
            known.proof = match song {
                Song::Sung(id) => {
                    known.last_signature = Some(self.clock.now());
                    known.canary_key = Some(id);
                    Proof::Signs
                }
                Song::NoKeyPair => Proof::NoKeyPair,
            };
            known.complaint.take()
        };
        self.tell_of_recovery(handle, recovered.is_some(), told)
            .await;
    }

    async fn tell_of_recovery(&self, handle: &ProviderHandle, recovered: bool, told: &mut bool) {
        if recovered {
            info!(provider = %handle.kind(), "the provider signs again");
        }
        if std::mem::take(told) {
            self.tell_of_provider(ProviderRecovered, handle.kind())
                .await;
        }
    }

    async fn note_failure(
        &self,
        handle: &ProviderHandle,
        failure: &ProviderError,
        told: &mut bool,
    ) {
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
        // Of a lost connection those tell who make it anew.
        if !*told && handle.availability().is_ok() {
            *told = true;
            self.tell_of_provider(ProviderUnavailable, handle.kind())
                .await;
        }
    }
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
