//! Tells those who watch what happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::get::parse_id;
use super::recent_events::RecentEvents;
use super::share::{Place, Places, Shares, Turns};
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{Event, EventKind, EventSubject, KeyPairId, Origin, ProviderKind, Refusal};
use crate::telemetry::chain;

/// Events as a caller wants to be told of them.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// `id`; empty for all key pairs.
    pub id: String,
    /// `since`; empty for from now on.
    pub since: String,
    /// From where the call came.
    pub origin: Option<Origin>,
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

/// What all watchers have in common. An event is read from the store once, however many they are,
/// as long as there is room for it in memory.
#[derive(Debug)]
pub(super) struct EventHub {
    /// The last event that was recorded, as far as that is known.
    newest: watch::Sender<i64>,
    recent: Mutex<RecentEvents>,
    /// The right to watch.
    places: Arc<Places>,
    /// The right to read what happened before.
    history: Turns,
    /// What the last event of each provider says: whether it serves. None before the store was
    /// asked.
    recorded: [tokio::sync::Mutex<Option<bool>>; 2],
    stopping: CancellationToken,
}

impl Default for EventHub {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(0),
            recent: Mutex::new(RecentEvents::new(RECENT_BYTES_MAX)),
            places: Places::new(WATCHERS),
            history: Turns::new(READING_HISTORY),
            recorded: Default::default(),
            stopping: CancellationToken::new(),
        }
    }
}

impl EventHub {
    pub(super) fn next(&self, after: i64) -> Option<Arc<Event>> {
        self.recent.lock().next(after)
    }

    fn keep(&self, after: i64, events: Vec<Event>) -> Option<Arc<Event>> {
        self.recent.lock().keep(after, events)
    }

    const fn recorded(&self, provider: ProviderKind) -> &tokio::sync::Mutex<Option<bool>> {
        let [local, hsm] = &self.recorded;
        match provider {
            ProviderKind::Local => local,
            ProviderKind::Hsm => hsm,
        }
    }
}

/// One who watches.
struct Watcher {
    service: Arc<Service>,
    origin: Option<Origin>,
    _place: Place,
    only: Option<KeyPairId>,
    /// The last event that was told or passed over.
    cursor: i64,
    /// The line of events that `cursor` counts in.
    history: Arc<str>,
    newest: watch::Receiver<i64>,
    /// Whether the store may have events that are not known to be there.
    catching_up: bool,
    begun: bool,
    ended: bool,
}

impl Service {
    /// Tells what happens, for as long as the stream is polled, or until the daemon stops.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] for an id that cannot be one, and for a token that is none or too
    /// old; [`ServiceError::TooManyWatchers`].
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
        let place = self.events.places.take(request.origin);
        let place = place.ok_or(ServiceError::TooManyWatchers)?;
        // What is recorded from here on is handed out; what was before is in the store.
        let newest_handed_out = self.events.newest.subscribe();
        let (forgotten, newest) = self.store.event_span().await?;
        let history = self.store.event_history();
        let cursor = match &*request.since {
            "" => newest,
            token => check_token(token, &history, forgotten, newest)
                .map_err(|refusal| ServiceError::invalid("since", refusal))?,
        };
        let watcher = Watcher {
            service: Arc::clone(self),
            origin: request.origin,
            _place: place,
            only,
            cursor,
            history,
            newest: newest_handed_out,
            catching_up: true,
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
        let watchers = &self.events.newest;
        let Some(last) = *cursor else {
            *cursor = Some(self.store.event_span().await?.1);
            return Ok(true);
        };
        if watchers.receiver_count() == 0 {
            // While nobody watches, it is enough to know now and then how far it went.
            tokio::time::sleep(UNWATCHED).await;
            let (_, newest) = self.store.event_span().await?;
            // Who came since has read in the store what was up to here, or will.
            if watchers.receiver_count() == 0 {
                *cursor = Some(newest);
                return Ok(false);
            }
        }
        let events = self.store.events_after(last, READ_MAX).await?;
        let Some(newest) = events.last().map(|event| event.sequence) else {
            return Ok(false);
        };
        self.events.keep(last, events);
        *cursor = Some(newest);
        watchers.send_replace(newest);
        Ok(true)
    }

    /// Records that a provider does not serve, or does again, when the last event of it says
    /// otherwise.
    pub(super) async fn tell_whether_it_serves(&self, provider: ProviderKind, serves: bool) {
        // One at a time, so that what is known is what was written last.
        let mut recorded = self.events.recorded(provider).lock().await;
        if *recorded == Some(serves) {
            return;
        }
        let kind = match serves {
            false => EventKind::ProviderUnavailable,
            true => EventKind::ProviderRecovered,
        };
        let now = self.clock.now();
        match self.store.note_provider_event(kind, provider, now).await {
            Ok(_) => *recorded = Some(serves),
            // It may be written all the same. The store is asked again the next time.
            Err(error) => {
                *recorded = None;
                warn!(
                    cause = chain(&error),
                    "an event of a provider is not recorded; it is tried again"
                );
            }
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
            // Others have their turn after each event, so that many who catch up hold up no other
            // call. tonic reads ahead until it has filled its buffer or the stream is pending: only
            // this keeps it from holding the thread meanwhile.
            tokio::task::yield_now().await;
            if let Some(event) = self.next_known().await? {
                self.cursor = event.sequence;
                if self.is_asked_for(&event) {
                    return Ok(self.event(event));
                }
            } else if let Ok(changed) =
                tokio::time::timeout(SIGN_OF_LIFE, self.newest.changed()).await
            {
                changed.map_err(|_| ServiceError::Stopping)?;
            } else {
                // An event may have been missed, if only because this daemon did not record it.
                self.catching_up = true;
                return Ok(self.nothing());
            }
        }
    }

    /// Returns the next event, if there is one. It is read from the store only when no other
    /// watcher has read it lately.
    async fn next_known(&mut self) -> Result<Option<Arc<Event>>, ServiceError> {
        let hub = &self.service.events;
        if let Some(event) = hub.next(self.cursor) {
            return Ok(Some(event));
        }
        if !self.catching_up && self.cursor >= *self.newest.borrow_and_update() {
            return Ok(None);
        }
        let _turn = hub.history.turn(self.origin).await;
        // Another watcher may have read it meanwhile.
        if let Some(event) = hub.next(self.cursor) {
            return Ok(Some(event));
        }
        let store = &self.service.store;
        let events = store.events_after(self.cursor, HISTORY_PAGE).await?;
        self.catching_up = !events.is_empty();
        Ok(hub.keep(self.cursor, events))
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
            resume_token: resume_token(event.sequence, &self.history),
            event: Some(ToldEvent {
                view: after.map(|pair| Box::new(self.service.view(*pair))),
                event,
            }),
        }
    }

    fn nothing(&self) -> Told {
        Told {
            resume_token: resume_token(self.cursor, &self.history),
            event: None,
        }
    }
}

/// Names an event, and the line of events it is in where that has a name.
fn resume_token(sequence: i64, history: &str) -> String {
    match history {
        "" => format!("{TOKEN_PREFIX}{sequence}"),
        history => format!("{TOKEN_PREFIX}{sequence}-{history}"),
    }
}

/// Reads a token, after which all events must still be there. `e0` is the beginning of any history.
fn check_token(token: &str, history: &str, forgotten: i64, newest: i64) -> Result<i64, Refusal> {
    let (number, of_history) = match token.split_once('-') {
        Some((number, of_history)) => (number, of_history),
        None => (token, ""),
    };
    let digits = number.strip_prefix(TOKEN_PREFIX);
    let sequence = digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| {
            Refusal::of(
                token,
                "is no resume token; leave it out to be told of what happens from now on",
            )
        })?;
    if of_history != history && token != BEGINNING {
        return Err(Refusal::new(
            "is of another history than this store, which was restored from a backup since, or is another one; list the key pairs, and watch without it",
        ));
    }
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
const BEGINNING: &str = "e0";
/// How many may watch at a time.
const WATCHERS: Shares = Shares {
    in_all: 4096,
    for_peer: 2048,
    for_connection: 1024,
};
/// How many read history at a time.
const READING_HISTORY: Shares = Shares {
    in_all: 2,
    for_peer: 1,
    for_connection: 1,
};
/// How many events of the history are read at a time.
const HISTORY_PAGE: u32 = 32;
/// How many events are read at a time as they come.
const READ_MAX: u32 = 256;
/// How much of the events is kept in memory.
const RECENT_BYTES_MAX: usize = 16 * 1024 * 1024;
const RETRY: Duration = Duration::from_secs(1);
const UNWATCHED: Duration = Duration::from_millis(100);
/// How long nothing is told at most.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
