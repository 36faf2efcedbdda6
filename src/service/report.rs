//! What callers are told of an error: the one table of cases, for every transport.

use std::time::Duration;

use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use tracing::{debug, error, info, warn};

use super::ServiceError;
use crate::domain::{CertificateValidity, GENERATIONS_MAX, ProviderKind, Violations};
use crate::providers::{ProviderError, ProviderErrorKind};
use crate::store::StoreError;
use crate::telemetry::{Call, Seldom, chain};

/// What a caller is told. The cause is not among it, and cannot be reached from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The canonical code.
    pub code: Code,
    /// What the program of a caller can tell cases apart by.
    pub reason: &'static str,
    /// What a person reads: what is wrong, and what to do.
    pub message: String,
    /// The fields that cannot be accepted.
    pub violations: Option<Violations>,
    /// After what time it may help to try again.
    pub retry_after: Option<Duration>,
}

/// The canonical codes that we use, by their names in gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `CANCELLED`.
    Cancelled,
    /// `INVALID_ARGUMENT`.
    InvalidArgument,
    /// `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// `NOT_FOUND`.
    NotFound,
    /// `ALREADY_EXISTS`.
    AlreadyExists,
    /// `RESOURCE_EXHAUSTED`.
    ResourceExhausted,
    /// `FAILED_PRECONDITION`.
    FailedPrecondition,
    /// `ABORTED`.
    Aborted,
    /// `INTERNAL`.
    Internal,
    /// `UNAVAILABLE`.
    Unavailable,
}

/// Puts an error into the caller's terms, and logs it with all its causes: once, here. What there
/// is no room for is counted, and logged once a second. What the caller did wrong is no warning for
/// the operator.
pub fn report(error: &ServiceError) -> Report {
    let report = describe(error);
    if is_said_with_others(error, &report) {
        return report;
    }
    let error = chain(error);
    Call::current_span().in_scope(|| match report.code {
        // Nothing is wrong, and all streams end so at once.
        Code::Unavailable if report.reason == "SHUTTING_DOWN" => {
            debug!(reason = report.reason, error, "a call was ended");
        }
        code if is_ours(code) => error!(reason = report.reason, error, "a call failed"),
        _ => info!(reason = report.reason, error, "a call was refused"),
    });
    report
}

/// Tells whether an error is one of those of which too many would be too many lines, and cost the
/// calls that can be answered their time. They are counted, and logged once a second.
fn is_said_with_others(error: &ServiceError, report: &Report) -> bool {
    if report.code != Code::ResourceExhausted {
        return false;
    }
    if let Some(refused) = full(error).say() {
        let error = chain(error);
        warn!(reason = report.reason, error, refused, "calls were refused");
    }
    true
}

/// Tells whether we or an operator must mend what is wrong.
const fn is_ours(code: Code) -> bool {
    matches!(code, Code::Internal | Code::Unavailable)
}

/// Reports the errors of the items of one call, such as a batch, and logs them in one line.
#[derive(Debug, Default)]
pub struct ItemReports {
    refused: usize,
    /// The first error, or the first one that is ours.
    first: Option<FirstError>,
}

#[derive(Debug)]
struct FirstError {
    code: Code,
    reason: &'static str,
    chain: String,
}

impl ItemReports {
    /// Puts an error into the caller's terms, and counts it.
    pub fn report(&mut self, error: &ServiceError) -> Report {
        let report = describe(error);
        if is_said_with_others(error, &report) {
            return report;
        }
        self.refused += 1;
        let is_known = |first: &FirstError| is_ours(first.code) || !is_ours(report.code);
        if !self.first.as_ref().is_some_and(is_known) {
            self.first = Some(FirstError {
                code: report.code,
                reason: report.reason,
                chain: chain(error),
            });
        }
        report
    }

    /// Tells whether there is nothing to be logged.
    pub const fn is_empty(&self) -> bool {
        self.refused == 0
    }

    /// Logs how many items were refused since it was last called, and the first reason.
    pub fn say(&mut self) {
        let Self { refused, first } = std::mem::take(self);
        let Some(FirstError {
            code,
            reason,
            chain: error,
        }) = first
        else {
            return;
        };
        Call::current_span().in_scope(|| match is_ours(code) {
            true => error!(refused, reason, error, "items of a call failed"),
            false => info!(refused, reason, error, "items of a call were refused"),
        });
    }
}

/// Returns what is said of calls for which there is no room, by where there is none: each has lines of its own.
fn full(error: &ServiceError) -> &'static Seldom {
    static CALLS: Seldom = Seldom::new(BUSY_INTERVAL);
    static LOCAL: Seldom = Seldom::new(BUSY_INTERVAL);
    static HSM: Seldom = Seldom::new(BUSY_INTERVAL);
    static STORE: Seldom = Seldom::new(BUSY_INTERVAL);
    match error {
        ServiceError::Provider(error) => match error.provider {
            ProviderKind::Local => &LOCAL,
            ProviderKind::Hsm => &HSM,
        },
        ServiceError::Store(_) => &STORE,
        _ => &CALLS,
    }
}

#[expect(clippy::too_many_lines, reason = "a table, in one place on purpose")]
fn describe(error: &ServiceError) -> Report {
    use Code::{
        Aborted, AlreadyExists, Cancelled, DeadlineExceeded, FailedPrecondition, Internal,
        InvalidArgument, NotFound,
    };
    match error {
        ServiceError::Malformed(violations) => Report {
            violations: Some(violations.clone()),
            ..Report::new(InvalidArgument, "MALFORMED_REQUEST", violations.to_string())
        },
        ServiceError::Invalid(violations) => Report {
            violations: Some(violations.clone()),
            ..Report::new(InvalidArgument, "VALIDATION_FAILED", violations.to_string())
        },
        ServiceError::FileUnreadable(violations) => Report {
            violations: Some(violations.clone()),
            ..Report::new(InvalidArgument, "FILE_UNREADABLE", violations.to_string())
        },
        ServiceError::NotExportable { id, provider } => Report::new(
            FailedPrecondition,
            "KEY_NOT_EXPORTABLE",
            match provider {
                ProviderKind::Hsm => format!(
                    "the private key of {id} lives in the HSM, which it never leaves; export its certificate instead"
                ),
                ProviderKind::Local => format!(
                    "the private key of {id} may not be exported; an operator can permit it by crypto.local.allow_export"
                ),
            },
        ),
        ServiceError::KeyPairExists(id) => Report::new(
            AlreadyExists,
            "KEY_PAIR_EXISTS",
            format!("the id {id} is taken; choose another id, or leave it out to have one made"),
        ),
        ServiceError::CreationUnfinished(id) => Report::later(
            Code::Unavailable,
            "CREATION_UNFINISHED",
            format!(
                "the id {id} is held by a key pair whose creation or deletion is not finished; try again"
            ),
        ),
        ServiceError::RequestUnfinished => Report::later(
            Code::Unavailable,
            "CREATION_UNFINISHED",
            "an earlier attempt of this request is not undone yet; try again",
        ),
        ServiceError::IdDoubtful(id) => Report::new(
            AlreadyExists,
            "KEY_PAIR_EXISTS",
            format!(
                "the id {id} is held by a doubtful key, which may be that of a key pair that the restored store does not know; choose another id, or have an operator destroy or link the key: keypairctl doubtful-keys list"
            ),
        ),
        ServiceError::DoubtfulKeyNotFound(key) => Report::new(
            NotFound,
            "KEY_PAIR_NOT_FOUND",
            format!(
                "there is no doubtful key with the CKA_ID {key:?}; keypairctl doubtful-keys list shows them"
            ),
        ),
        ServiceError::RequestIdReused => Report::new(
            AlreadyExists,
            "REQUEST_ID_REUSED",
            "this request_id came with other settings within the last day; use a new one for each key pair",
        ),
        ServiceError::KeyPairNotFound(id) => Report::new(
            NotFound,
            "KEY_PAIR_NOT_FOUND",
            format!("there is no key pair {id:?}"),
        ),
        ServiceError::ProviderOff { id, provider, mode } => Report::new(
            FailedPrecondition,
            "PROVIDER_NOT_CONFIGURED",
            format!(
                "the key pair {id} lives in {provider}, which is off in {mode} mode; set crypto.mode to hybrid to use it"
            ),
        ),
        ServiceError::HeldInProviderOff { id, provider, mode } => Report::new(
            FailedPrecondition,
            "PROVIDER_NOT_CONFIGURED",
            format!(
                "an unfinished creation or deletion in {provider} holds the id {id}, and {provider} is off in {mode} mode; use another id, or set crypto.mode to hybrid so that it is finished"
            ),
        ),
        ServiceError::OutsideValidity { id, status } => describe_validity(id, *status),
        ServiceError::NotSelfSigned(id) => Report::new(
            FailedPrecondition,
            "NOT_SELF_SIGNED",
            format!(
                "the certificate of the key pair {id} comes from a CA, and keypaird rotates only what it can certify itself; have the CA renew it by a certificate signing request"
            ),
        ),
        ServiceError::NoRotation(id) => Report::new(
            NotFound,
            "ROTATION_SETTINGS_NOT_FOUND",
            format!("the key pair {id} has no rotation settings"),
        ),
        ServiceError::Overloaded => Report::later(
            Code::ResourceExhausted,
            "PROVIDER_BUSY",
            "more calls come in than can be answered; try again",
        ),
        ServiceError::TooManyWatchers => Report::later(
            Code::ResourceExhausted,
            "PROVIDER_BUSY",
            "the limit of watches is reached, on this connection, for this peer or in all; end a watch, or try again later",
        ),
        ServiceError::TooManyGenerations { id, until } => Report::new(
            FailedPrecondition,
            "TOO_MANY_GENERATIONS",
            format!(
                "the key pair {id} has {GENERATIONS_MAX} published generations and may have no more: the next one to end ends on {}; wait until then, or generate another key pair",
                in_words(*until)
            ),
        ),
        ServiceError::Stopping => Report::later(
            Code::Unavailable,
            "SHUTTING_DOWN",
            "the daemon is stopping or is closing this connection; connect again",
        ),
        ServiceError::WrongHost(host) => Report::new(
            FailedPrecondition,
            "WRONG_HOST",
            format!(
                "{host:?} is no name of this daemon; call it by an IP address, or have an operator add the name to server.hosts"
            ),
        ),
        ServiceError::ForeignPage(said) => Report::new(
            FailedPrecondition,
            "NOT_PERMITTED",
            format!(
                "a browser sent this request for a web page ({}), and web pages may not call this daemon; an operator can list the origin of a page in rest.cors_origins, so that it may read the public keys",
                said.escape_debug()
            ),
        ),
        ServiceError::EtagMismatch(id) => Report::new(
            Aborted,
            "ETAG_MISMATCH",
            format!(
                "the key pair {id} changed since its etag was read; read it again and decide anew"
            ),
        ),
        ServiceError::DeadlineExceeded => Report::new(
            DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "the deadline passed before the work was done",
        ),
        ServiceError::CallerGone => Report::new(
            Cancelled,
            "CANCELLED",
            "the caller went away before the work was done",
        ),
        ServiceError::Provider(error) => describe_provider(error),
        ServiceError::Store(error) => describe_store(error),
        ServiceError::Certificate(_)
        | ServiceError::KeyFile(_)
        | ServiceError::Entropy(_)
        | ServiceError::SignatureForm
        | ServiceError::Panicked
        | ServiceError::Lost(_) => Report::new(Internal, "INTERNAL", INTERNAL),
    }
}

/// Writes a time as a person reads it.
fn in_words(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day] at [hour]:[minute]:[second] UTC");
    // The fields that the form names, every time has.
    let written = time.to_offset(UtcOffset::UTC).format(form);
    written.unwrap_or_default()
}

fn describe_validity(id: &str, status: CertificateValidity) -> Report {
    let (reason, what) = match status {
        CertificateValidity::NotYetValid => ("KEY_PAIR_NOT_YET_VALID", "not valid yet"),
        CertificateValidity::Expired
        | CertificateValidity::Revoked
        | CertificateValidity::Valid => ("KEY_PAIR_EXPIRED", "expired"),
    };
    Report::new(
        Code::FailedPrecondition,
        reason,
        format!(
            "the certificate of the key pair {id} is {what}; set allowOutsideValidity to sign all the same"
        ),
    )
}

fn describe_provider(error: &ProviderError) -> Report {
    let provider = error.provider;
    match error.kind {
        ProviderErrorKind::Unavailable => Report::later(
            Code::Unavailable,
            "PROVIDER_UNAVAILABLE",
            format!("the provider {provider} is not available at the moment; try again"),
        ),
        ProviderErrorKind::LoginRefused => Report::new(
            Code::Unavailable,
            "PROVIDER_UNAVAILABLE",
            format!(
                "the provider {provider} is not available: its token refused the PIN; an operator has to put the right one in place"
            ),
        ),
        ProviderErrorKind::TimedOut => Report::later(
            Code::Unavailable,
            "PROVIDER_UNAVAILABLE",
            format!("the provider {provider} did not answer in time; try again"),
        ),
        ProviderErrorKind::NotPermitted => Report::new(
            Code::FailedPrecondition,
            "NOT_PERMITTED",
            format!(
                "the provider {provider} does not permit this; its token takes no keys from elsewhere"
            ),
        ),
        ProviderErrorKind::Busy => Report::later(
            Code::ResourceExhausted,
            "PROVIDER_BUSY",
            format!("too much work is waiting for the provider {provider}; try again"),
        ),
        ProviderErrorKind::Unsupported
        | ProviderErrorKind::KeyMissing
        | ProviderErrorKind::KeyUnreadable
        | ProviderErrorKind::Untrustworthy
        | ProviderErrorKind::Failed => Report::new(Code::Internal, "INTERNAL", INTERNAL),
    }
}

fn describe_store(error: &StoreError) -> Report {
    match error {
        StoreError::Busy => Report::later(
            Code::ResourceExhausted,
            "PROVIDER_BUSY",
            "too many writes are waiting for the store; try again",
        ),
        StoreError::Database(_)
        | StoreError::Commit(_)
        | StoreError::Closed
        | StoreError::InUse(_)
        | StoreError::TooNew { .. }
        | StoreError::Damaged { .. }
        | StoreError::ForeignLog { .. }
        | StoreError::Missing(_)
        | StoreError::Open { .. } => Report::later(
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            "the store is not available at the moment; try again",
        ),
        StoreError::IntentGone => Report::later(
            Code::Unavailable,
            "CREATION_UNFINISHED",
            "the creation was given up before it was finished; try again",
        ),
        // Use cases say for themselves which id is taken, or gone.
        StoreError::IdTaken
        | StoreError::IdUnfinished
        | StoreError::IdDoubtful
        | StoreError::IdGone
        | StoreError::KeyTaken
        | StoreError::Panicked
        | StoreError::KeyUnfinished
        | StoreError::Corrupt(_) => Report::new(Code::Internal, "INTERNAL", INTERNAL),
    }
}

impl Report {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            violations: None,
            retry_after: None,
        }
    }

    fn later(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(code, reason, message)
        }
    }
}

/// What a caller is told when the fault is ours.
pub const INTERNAL: &str =
    "something went wrong inside; the log has the cause under this call's request id";
/// How often it is said that there is no room.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_secs(1);
