//! Tells those who watch what happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::get::parse_id;
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{Event, EventKind, EventSubject, KeyPairId, ProviderKind, Refusal};
use crate::telemetry::chain;

/// Events as a caller wants to be told of them.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// `id`; empty for all key pairs.
    pub id: String,
    /// `since`; empty for from now on.
    pub since: String,
}

/// What a caller is told.
#[derive(Clone, Debug)]
pub struct Told {
    /// Where to go on after this.
    pub resume_token: String,
    /// What happened, if anything did.
    pub event: Option<ToldEvent>,
}

/// An event as it is shown.
#[derive(Clone, Debug)]
pub struct ToldEvent {
    /// What was recorded.
    pub event: Arc<Event>,
    /// What the key pair was after it.
    pub view: Option<Box<KeyPairView>>,
}

/// Hands each event that is recorded to all who watch: it is read once, however many they are.
#[derive(Debug)]
pub(super) struct EventHub {
    latest: broadcast::Sender<Arc<Event>>,
    stopping: CancellationToken,
}

impl Default for EventHub {
    fn default() -> Self {
        Self {
            latest: broadcast::Sender::new(WAITING_MAX),
            stopping: CancellationToken::new(),
        }
    }
}

/// One who watches.
struct Watcher {
    service: Arc<Service>,
    only: Option<KeyPairId>,
    /// The last event that was told or passed over.
    cursor: i64,
    latest: broadcast::Receiver<Arc<Event>>,
    /// Whether there may be events in the store that are not handed out any more.
    catching_up: bool,
    read: VecDeque<Arc<Event>>,
    begun: bool,
    ended: bool,
}

impl Service {
    /// Tells what happens, for as long as the stream is polled, or until the daemon stops.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for an id that cannot be one, and for a token that is none or too old.
    pub async fn watch(
        self: &Arc<Self>,
        request: WatchRequest,
    ) -> Result<impl Stream<Item = Result<Told, ServiceError>> + Send + use<>, ServiceError> {
        let only = match &*request.id {
            "" => None,
            id => Some(parse_id(id)?.ok_or_else(|| {
                let refusal =
                    "cannot be the id of a key pair: 1 to 64 of a-z, 0-9, '.', '_' and '-'";
                ServiceError::invalid("id", Refusal::of(id, refusal))
            })?),
        };
        // What is recorded from here on is handed out; what was before is in the store.
        let latest = self.events.latest.subscribe();
        let (forgotten, newest) = self.store.event_span().await?;
        let cursor = match &*request.since {
            "" => newest,
            token => check_token(token, forgotten, newest)
                .map_err(|refusal| ServiceError::invalid("since", refusal))?,
        };
        let watcher = Watcher {
            service: Arc::clone(self),
            only,
            cursor,
            latest,
            catching_up: true,
            read: VecDeque::new(),
            begun: false,
            ended: false,
        };
        Ok(stream::unfold(watcher, |mut watcher| async {
            let told = watcher.next().await?;
            Some((told, watcher))
        }))
    }

    /// Hands events to those who watch, until `stop`.
    pub async fn keep_telling(self: Arc<Self>, stop: CancellationToken) {
        let mut news = self.store.event_news();
        let work = async {
            let mut cursor = None;
            loop {
                match self.tell_what_is_new(&mut cursor).await {
                    Ok(true) => {}
                    Ok(false) => {
                        if news.changed().await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        warn!(cause = chain(&error), "events cannot be read");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
        self.events.stopping.cancel();
    }

    /// Hands out the events after `cursor`, and tells whether there were any.
    async fn tell_what_is_new(&self, cursor: &mut Option<i64>) -> Result<bool, ServiceError> {
        let latest = &self.events.latest;
        let Some(last) = *cursor else {
            *cursor = Some(self.store.event_span().await?.1);
            return Ok(true);
        };
        if latest.receiver_count() == 0 {
            // While nobody watches, it is enough to know now and then how far it went.
            tokio::time::sleep(UNWATCHED).await;
            let (_, newest) = self.store.event_span().await?;
            // Who came since has read in the store what was up to here, or will.
            if latest.receiver_count() == 0 {
                *cursor = Some(newest);
                return Ok(false);
            }
        }
        let events = self.store.events_after(last, READ_MAX).await?;
        let any = !events.is_empty();
        for event in events {
            *cursor = Some(event.sequence);
            // Nobody need be watching.
            let _ = latest.send(Arc::new(event));
        }
        Ok(any)
    }

    /// Records that a provider does not serve, or does again, when that is news.
    pub(super) async fn tell_whether_it_serves(&self, provider: ProviderKind, serves: bool) {
        let told = std::mem::replace(
            &mut self.health.of(provider).lock().told_unavailable,
            !serves,
        );
        let kind = match (told, serves) {
            (false, false) => EventKind::ProviderUnavailable,
            (true, true) => EventKind::ProviderRecovered,
            _ => return,
        };
        let now = self.clock.now();
        if let Err(error) = self.store.note_provider_event(kind, provider, now).await {
            warn!(
                cause = chain(&error),
                "an event of a provider is not recorded"
            );
        }
    }
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Told, ServiceError>> {
        if self.ended {
            return None;
        }
        if !self.begun {
            self.begun = true;
            return Some(Ok(self.nothing()));
        }
        let stopping = self.service.events.stopping.clone();
        let told = tokio::select! {
            biased;
            () = stopping.cancelled() => Err(ServiceError::Stopping),
            told = self.tell() => told,
        };
        self.ended = told.is_err();
        Some(told)
    }

    /// Waits for the next event that is asked for, or for the time at which a sign of life is due.
    async fn tell(&mut self) -> Result<Told, ServiceError> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.cursor = event.sequence;
                if self.is_asked_for(&event) {
                    return Ok(self.event(event));
                }
            } else if self.catching_up {
                let events = self
                    .service
                    .store
                    .events_after(self.cursor, READ_MAX)
                    .await?;
                self.catching_up = !events.is_empty();
                self.read = events.into_iter().map(Arc::new).collect();
            } else {
                match tokio::time::timeout(SIGN_OF_LIFE, self.latest.recv()).await {
                    Err(_) => {
                        self.catching_up = true;
                        return Ok(self.nothing());
                    }
                    Ok(Ok(event)) if event.sequence <= self.cursor => {}
                    Ok(Ok(event)) if event.sequence == self.cursor + 1 => {
                        self.read.push_back(event);
                    }
                    // Some were not handed out, or not to us.
                    Ok(Ok(_) | Err(RecvError::Lagged(_))) => self.catching_up = true,
                    Ok(Err(RecvError::Closed)) => return Err(ServiceError::Stopping),
                }
            }
        }
    }

    fn is_asked_for(&self, event: &Event) -> bool {
        match (&self.only, &event.subject) {
            (None, _) => true,
            (Some(only), EventSubject::KeyPair { id, .. }) => id == only,
            (Some(_), EventSubject::Provider(_)) => false,
        }
    }

    fn event(&self, event: Arc<Event>) -> Told {
        let after = match &event.subject {
            EventSubject::KeyPair { after, .. } => after.clone(),
            EventSubject::Provider(_) => None,
        };
        Told {
            resume_token: resume_token(event.sequence),
            event: Some(ToldEvent {
                view: after.map(|pair| Box::new(self.service.view(*pair))),
                event,
            }),
        }
    }

    fn nothing(&self) -> Told {
        Told {
            resume_token: resume_token(self.cursor),
            event: None,
        }
    }
}

fn resume_token(sequence: i64) -> String {
    format!("{TOKEN_PREFIX}{sequence}")
}

/// Reads a token, after which all events must still be there.
fn check_token(token: &str, forgotten: i64, newest: i64) -> Result<i64, Refusal> {
    let digits = token.strip_prefix(TOKEN_PREFIX);
    let sequence = digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| {
            Refusal::of(
                token,
                "is no resume token; leave it out to be told of what happens from now on",
            )
        })?;
    if sequence < forgotten {
        return Err(Refusal::new(
            "is too old: events after it are no longer kept; list the key pairs, and watch without it",
        ));
    }
    if sequence > newest {
        return Err(Refusal::new(
            "is of a later time than this store, which was perhaps restored; list the key pairs, and watch without it",
        ));
    }
    Ok(sequence)
}

const TOKEN_PREFIX: &str = "e";
const WAITING_MAX: usize = 1024;
const READ_MAX: u32 = 256;
const RETRY: Duration = Duration::from_secs(1);
const UNWATCHED: Duration = Duration::from_millis(100);
/// How long nothing is told at most.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
