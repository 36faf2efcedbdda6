//! Those who watch are told everything once, however they listen.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::rotation_tests::{START, Stage};
use super::*;
use crate::domain::{EventKind, EventSubject, Origin, Peer};

/// A daemon that tells what happens.
struct Telling {
    stage: Stage,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Whether the last event said that a provider serves.
    served: AtomicBool,
}

type Watching = Pin<Box<dyn Stream<Item = Result<Told, ServiceError>> + Send>>;

impl Telling {
    fn new() -> Self {
        let stage = Stage::new(1);
        let stop = CancellationToken::new();
        Self {
            task: tokio::spawn(Arc::clone(stage.service()).keep_telling(stop.clone())),
            stage,
            stop,
            served: AtomicBool::new(true),
        }
    }

    async fn record(&self) {
        let serves = self.served.fetch_xor(true, Ordering::Relaxed);
        let service = self.stage.service();
        service
            .tell_whether_it_serves(ProviderKind::Hsm, !serves)
            .await;
    }

    /// Returns the token of an event.
    fn token(&self, sequence: i64) -> String {
        format!("e{sequence}-{}", self.stage.store.event_history())
    }

    /// Begins to watch after a token. The first answer has come.
    async fn watch(&self, id: &str, since: &str) -> Watching {
        let request = WatchRequest {
            id: id.into(),
            since: since.into(),
            origin: None,
        };
        let mut watching = Box::pin(self.stage.service().watch(request).await.unwrap());
        let begun = watching.next().await.unwrap().unwrap();
        assert!(begun.event.is_none());
        watching
    }

    async fn refused(&self, since: &str) -> String {
        let request = WatchRequest {
            since: since.into(),
            ..WatchRequest::default()
        };
        match self.stage.service().watch(request).await.map(|_| ()) {
            Err(ServiceError::Invalid(violations)) => violations.to_string(),
            other => panic!("{since}: {other:?}"),
        }
    }
}

/// Waits for the next event, and returns its number.
async fn next(watching: &mut Watching) -> i64 {
    let told = watching.next().await.unwrap().unwrap();
    told.event.unwrap().event.sequence
}

#[tokio::test]
async fn what_was_read_from_the_store_is_not_told_again_when_it_is_handed_out() {
    let telling = Telling::new();
    let mut watching = telling.watch("", "").await;
    for _ in 0..3 {
        telling.record().await;
    }
    let mut seen = Vec::new();
    for count in 1..=4 {
        let later = async {
            if count == 4 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                telling.record().await;
            }
        };
        seen.push(tokio::join!(next(&mut watching), later).0);
    }
    assert_eq!(seen, [1, 2, 3, 4]);
}

#[tokio::test]
async fn who_does_not_listen_for_long_is_told_all_the_same() {
    let telling = Telling::new();
    let (mut live, mut slow) = (telling.watch("", "").await, telling.watch("", "").await);
    // More than is kept for those who do not listen.
    let all: Vec<_> = (1..=1500).collect();
    let mut seen = Vec::new();
    for _ in &all {
        telling.record().await;
        seen.push(next(&mut live).await);
    }
    assert_eq!(seen, all);
    seen.clear();
    for _ in &all {
        seen.push(next(&mut slow).await);
    }
    assert_eq!(seen, all);

    // One who comes back goes on where he was.
    seen.clear();
    for begin in [0, 700, 1400] {
        let mut again = telling.watch("", &telling.token(begin)).await;
        for _ in 0..700.min(1500 - begin) {
            seen.push(next(&mut again).await);
        }
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn who_asks_for_one_key_pair_is_told_of_that_one() {
    let telling = Telling::new();
    let mut watching = telling.watch("y", "").await;
    for id in ["x", "y"] {
        telling.stage.generate(id, ProviderKind::Local).await;
    }
    let told = watching.next().await.unwrap().unwrap();
    assert_eq!(told.resume_token, telling.token(2));
    let told = told.event.unwrap();
    assert_eq!(told.event.kind, EventKind::Created);
    assert!(matches!(&told.event.subject, EventSubject::KeyPair { id, .. } if id.as_str() == "y"));
    assert_eq!(told.view.unwrap().key_pair.id.as_str(), "y");
}

#[tokio::test]
async fn a_token_that_is_none_or_too_old_is_refused() {
    let telling = Telling::new();
    for _ in 0..9 {
        telling.record().await;
    }
    for (token, said) in [
        ("x", "is no resume token"),
        ("e", "is no resume token"),
        ("e-1", "is no resume token"),
        ("e+1", "is no resume token"),
        ("e99999999999999999999", "is no resume token"),
        (&*telling.token(10), "is of a later time than this store"),
        ("e9", "is of another history than this store"),
        ("e9-", "is of another history than this store"),
        ("e0-of-another", "is of another history than this store"),
    ] {
        let refused = telling.refused(token).await;
        assert!(refused.contains(said), "{token}: {refused}");
    }
    drop(telling.watch("", &telling.token(9)).await);
    drop(telling.watch("", "e0").await);
    let later = START + time::Duration::DAY;
    telling.stage.store.forget_events(later).await.unwrap();
    for forgotten in [&*telling.token(8), "e0"] {
        let refused = telling.refused(forgotten).await;
        assert!(refused.contains("is too old"), "{forgotten}: {refused}");
    }
    drop(telling.watch("", &telling.token(9)).await);
}

#[tokio::test]
async fn who_watches_is_told_that_the_daemon_stops() {
    let telling = Telling::new();
    let watching = telling.watch("", "").await;
    telling.stop.cancel();
    telling.task.await.unwrap();
    let last = watching.collect::<Vec<_>>().await;
    assert!(matches!(&*last, [Err(ServiceError::Stopping)]));
}

#[tokio::test]
async fn an_outage_that_outlasts_the_daemon_ends_with_one_event() {
    // Two lives of a daemon on one store.
    let stage = Stage::new(2);
    let [before, after] = &stage.services[..] else {
        panic!("two services");
    };
    let hsm = ProviderKind::Hsm;
    for _ in 0..3 {
        before.tell_whether_it_serves(hsm, false).await;
    }
    for _ in 0..3 {
        after.tell_whether_it_serves(hsm, true).await;
    }
    let events = stage.store.events_after(0, 10).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [EventKind::ProviderUnavailable, EventKind::ProviderRecovered]
    );
}

#[tokio::test]
async fn watchers_have_a_bound_for_a_connection_and_in_all_and_make_room_when_they_end() {
    let telling = Telling::new();
    let watch = |connection: Option<u64>| {
        let request = WatchRequest {
            origin: connection.map(|connection| Origin {
                connection,
                peer: Peer::User(u32::try_from(connection).unwrap()),
            }),
            ..WatchRequest::default()
        };
        let service = Arc::clone(telling.stage.service());
        async move { service.watch(request).await.map(Box::pin) }
    };
    let mut watching = Vec::new();
    let mut begin = async |connection: u64, count: usize| {
        for _ in 0..count {
            watching.push(watch(Some(connection)).await.unwrap());
        }
    };
    begin(1, 1024).await;
    let refused = |connection| {
        let watching = watch(connection);
        async move { matches!(watching.await, Err(ServiceError::TooManyWatchers)) }
    };
    assert!(refused(Some(1)).await);
    for connection in 2..5 {
        begin(connection, 1024).await;
    }
    assert!(refused(Some(9)).await);
    assert!(refused(None).await);
    watching.pop();
    assert!(refused(Some(1)).await);
    assert!(!refused(Some(9)).await);
}

#[tokio::test]
async fn watchers_of_the_same_history_read_it_once() {
    let telling = Telling::new();
    for _ in 0..200 {
        telling.record().await;
    }
    let service = telling.stage.service();
    let mut watching = Vec::new();
    for _ in 0..100 {
        watching.push(telling.watch("", "e0").await);
    }
    // Side by side, as they come.
    for count in 1..=200 {
        for one in &mut watching {
            assert_eq!(next(one).await, count);
        }
        let kept = service.events.next(count - 1).unwrap();
        // The hub has it, and no watcher has a copy of its own.
        assert_eq!(kept.sequence, count);
        assert_eq!(Arc::strong_count(&kept), 2);
    }
}
