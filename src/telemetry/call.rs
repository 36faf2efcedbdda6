//! What the log lines of one call have in common.

use std::fmt::{self, Write as _};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::{Span, info, info_span};

use super::AccessLog;
use crate::printable::excerpt;

/// A call that is being answered.
///
/// Most calls have nothing said about them, so that their id and their span are made when something is. A
/// span of tracing costs as much as a tenth of a signature.
#[derive(Debug)]
pub struct Call {
    method: Box<str>,
    id: CallId,
    mentioned: OnceLock<(Box<str>, Span)>,
    /// Whether it has a line in the access log.
    has_line: bool,
    /// What the line says that it was about.
    key_pair: OnceLock<Box<str>>,
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
    access_log: AccessLog,
}

impl CallIds {
    /// Makes ids that begin with a text of this run of the daemon.
    pub fn new(run: &str) -> Self {
        Self {
            run: run.into(),
            calls: Arc::default(),
            access_log: AccessLog::Off,
        }
    }

    /// Has calls have a line in the access log.
    #[must_use]
    pub fn with_access_log(self, access_log: AccessLog) -> Self {
        Self { access_log, ..self }
    }

    /// Begins a call of a method, with the caller's `x-request-id` or a number.
    pub fn begin(&self, method: &str, given: Option<&[u8]>) -> Arc<Call> {
        let has_line = self.access_log.has(method);
        Call::new(&excerpt(method), self.next(given), has_line)
    }

    /// Takes the caller's `x-request-id` when it is of use in a log, or a number.
    fn next(&self, given: Option<&[u8]>) -> CallId {
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
    fn new(method: &str, id: CallId, has_line: bool) -> Arc<Self> {
        Arc::new(Self {
            method: method.into(),
            id,
            mentioned: OnceLock::new(),
            has_line,
            key_pair: OnceLock::new(),
        })
    }

    /// Notes which key pair the call that is being answered is about, for its line in the access
    /// log.
    pub fn concerns(key_pair: &str) {
        // Outside of a call, there is no line.
        let _ = CURRENT.try_with(|call| {
            if call.has_line {
                let short: String = key_pair.chars().take(KEY_PAIR_LEN_MAX).collect();
                let _ = call.key_pair.set(excerpt(&short).into());
            }
        });
    }

    /// Tells whether it has a line in the access log.
    pub const fn has_line(&self) -> bool {
        self.has_line
    }

    /// Writes its line in the access log, if it has one.
    ///
    /// `peer` is where it came from, `client` the subject of the client certificate, and `code` the
    /// name or the number of the answer's status.
    pub fn log_access(
        &self,
        peer: &dyn fmt::Display,
        client: Option<&str>,
        code: &dyn fmt::Display,
        took: Duration,
    ) {
        if !self.has_line {
            return;
        }
        let key_pair = self.key_pair.get().map(|id| &**id);
        let method = &*self.method;
        let client = client.map(excerpt);
        let client = client.as_deref();
        self.span().in_scope(|| {
            info!(target: ACCESS, %peer, client, method, key_pair, %code, ?took, "call");
        });
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
const KEY_PAIR_LEN_MAX: usize = 64;
/// What the lines of the access log can be told from others by.
const ACCESS: &str = "keypaird::access";
