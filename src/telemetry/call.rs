//! What the log lines of one call have in common.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tracing::{Span, info_span};

/// A call that is being answered.
///
/// Most calls have nothing said about them, so that their id and their span are made when something is. A
/// span of tracing costs as much as a tenth of a signature.
#[derive(Debug)]
pub struct Call {
    method: Box<str>,
    id: CallId,
    mentioned: OnceLock<(Box<str>, Span)>,
}

/// What a call is known by in the log.
#[derive(Clone, Debug)]
pub enum CallId {
    /// What the caller named it.
    Given(Box<str>),
    /// What it is named when it has to be: a text of this run of the daemon, and a number.
    Made(Arc<str>, u64),
}

/// Gives calls their ids.
#[derive(Clone, Debug)]
pub struct CallIds {
    /// Tells the ids that are made here from those of other runs of the daemon.
    run: Arc<str>,
    calls: Arc<AtomicU64>,
}

impl CallIds {
    /// Makes ids that begin with a text of this run of the daemon.
    pub fn new(run: &str) -> Self {
        Self {
            run: run.into(),
            calls: Arc::default(),
        }
    }

    /// Takes the caller's `x-request-id` when it is of use in a log, or a number.
    pub fn next(&self, given: Option<&[u8]>) -> CallId {
        let given = given.filter(|id| {
            (1..=ID_LEN_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
        });
        match given.and_then(|id| std::str::from_utf8(id).ok()) {
            Some(id) => CallId::Given(id.into()),
            None => CallId::Made(
                Arc::clone(&self.run),
                self.calls.fetch_add(1, Ordering::Relaxed),
            ),
        }
    }
}

tokio::task_local! {
    static CURRENT: Arc<Call>;
}

impl Call {
    /// Makes a call of a method.
    pub fn new(method: &str, id: CallId) -> Arc<Self> {
        Arc::new(Self {
            method: method.into(),
            id,
            mentioned: OnceLock::new(),
        })
    }

    /// Does the work of the call: within it, [`Call::current_span`] is the span of this call.
    pub async fn answer<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self, work).await
    }

    /// Returns the call that is being answered, for work that goes on outside of it.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Returns the span of the call that is being answered, or no span where none is.
    pub fn current_span() -> Span {
        Self::current().map_or_else(Span::none, |call| call.span())
    }

    /// Returns the span of the call, which has its id and its method.
    pub fn span(&self) -> Span {
        self.mention().1.clone()
    }

    /// Returns what the call is known by, if the caller named it or something was said about it.
    pub fn known_id(&self) -> Option<&str> {
        match (&self.id, self.mentioned.get()) {
            (CallId::Given(id), _) | (CallId::Made(..), Some((id, _))) => Some(id),
            (CallId::Made(..), None) => None,
        }
    }

    fn mention(&self) -> &(Box<str>, Span) {
        self.mentioned.get_or_init(|| {
            let id = match &self.id {
                CallId::Given(id) => id.clone(),
                CallId::Made(run, number) => {
                    let mut id = run.to_string();
                    // Writing to a text does not fail.
                    let _ = write!(id, "-{number}");
                    id.into()
                }
            };
            let span = info_span!("call", request_id = %id, method = %self.method);
            (id, span)
        })
    }
}

const ID_LEN_MAX: usize = 128;
