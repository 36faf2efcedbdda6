//! Errors as sentences with the remedy, or as JSON.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::output::{Form, Output};
use super::reach::Unreachable;
use crate::printable::{printable, printable_json};

/// Why a command did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line cannot be followed.
    Usage(String),
    /// No daemon answers.
    Connect(Box<Unreachable>),
    /// No daemon answers, which has been written as an answer.
    NotReached,
    /// The daemon refused the call.
    Refused(Box<Status>),
    /// The signature is not valid. That is an answer, and has been written as one.
    NotValid,
    /// Something is wrong with the daemon. That is an answer too.
    NotWell,
    /// What was asked for was not confirmed, and not done.
    NotConfirmed(&'static str),
    /// The answer cannot be written.
    Write(io::Error),
    /// The answer cannot be written to the file that `--out` names.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The answer is not what it should be.
    Answer(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Connect(_) | Self::NotReached => 4,
            Self::Refused(status) if is_broken(status) => 4,
            Self::Refused(status) => match status.code() {
                Code::NotFound => 3,
                // The client's own deadline passes as `Cancelled`.
                Code::Unavailable
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Cancelled => 4,
                _ => 1,
            },
            Self::NotValid => 5,
            Self::NotWell
            | Self::NotConfirmed(_)
            | Self::Write(_)
            | Self::File { .. }
            | Self::Answer(_) => 1,
        })
    }

    /// Writes the failure for a person, or for a program.
    pub(super) fn write(&self, err: &mut dyn Write, output: Output) -> io::Result<()> {
        match (output.form(), self) {
            (_, Self::NotValid | Self::NotWell | Self::NotReached) => Ok(()),
            (Form::Data, Self::Refused(status)) => {
                let json = format!("{:#}", refused_json(status));
                writeln!(err, "{}", printable_json(&json))
            }
            (Form::Data, _) => {
                let reason = match self {
                    Self::Usage(_) => "USAGE",
                    Self::Connect(_) => "UNREACHABLE",
                    Self::NotConfirmed(_) => "NOT_CONFIRMED",
                    _ => "CLIENT",
                };
                let json = json!({"reason": reason, "message": self.sentence()});
                writeln!(err, "{}", printable_json(&format!("{json:#}")))
            }
            (Form::Text, Self::Refused(status)) => write_refused(err, status),
            (Form::Text, _) => writeln!(err, "keypairctl: {}", printable(&self.sentence())),
        }
    }

    /// Returns the failure in a sentence.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Usage(sentence) | Self::Answer(sentence) => sentence.clone(),
            Self::Connect(unreachable) => unreachable.to_string(),
            Self::NotReached => "the daemon cannot be reached".to_owned(),
            Self::Refused(status) => with_remedy(status),
            Self::NotConfirmed(sentence) => (*sentence).to_owned(),
            Self::NotValid => "the signature is not valid".to_owned(),
            Self::NotWell => "something is wrong".to_owned(),
            Self::Write(error) => format!("the answer cannot be written: {error}"),
            Self::File { path, error } => format!("--out {}: {error}", path.display()),
        }
    }
}

/// Tells whether a status is no answer of a daemon, but stands for a connection that broke.
fn is_broken(status: &Status) -> bool {
    let is_timeout = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    !is_timeout && (status.source().is_some() || is_unexplained(status))
}

/// Tells whether a status has no details, which every answer of keypaird has.
fn is_unexplained(status: &Status) -> bool {
    let code = matches!(status.code(), Code::Unknown | Code::Unavailable);
    code && status.details().is_empty()
}

/// Tells whether what answers does not know the call that was made.
pub(super) fn is_unknown_call(status: &Status) -> bool {
    status.code() == Code::Unimplemented
        && status.details().is_empty()
        && http_status(status).is_none()
}

/// Returns the status of an answer that is HTTP, and not gRPC, as tonic tells of it.
pub(super) fn http_status(status: &Status) -> Option<&str> {
    let message = status.message();
    let (_, code) =
        message.split_once("grpc-status header missing, mapped from HTTP status code ")?;
    Some(code)
}

/// Tells whether an answer has the frames of something else than gRPC in it.
pub(super) fn is_not_grpc(status: &Status) -> bool {
    status.details().is_empty()
        && status.code() == Code::Internal
        && status.message().contains("compression flag")
}

/// Says what was refused, with a line for each field and the flag that sets it.
fn write_refused(err: &mut dyn Write, status: &Status) -> io::Result<()> {
    let details = status.get_error_details();
    let fields = details
        .bad_request()
        .map(|bad| &*bad.field_violations)
        .unwrap_or_default();
    if fields.is_empty() {
        writeln!(err, "keypairctl: {}", printable(&with_remedy(status)))?;
    } else {
        let these = if fields.len() == 1 { "this" } else { "these" };
        writeln!(
            err,
            "keypairctl: the request is refused because of {these}:"
        )?;
        for field in fields {
            let named = match (&*field.field, flag(&field.field)) {
                ("", _) => String::new(),
                (name, None) => format!("{name}: "),
                (name, Some(flag)) => format!("{name} ({flag}): "),
            };
            let line = format!("  {named}{}", field.description);
            writeln!(err, "{}", printable(&line))?;
        }
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        writeln!(
            err,
            "It may be tried again in {}.",
            humantime::format_duration(delay)
        )?;
    }
    Ok(())
}

fn with_remedy(status: &Status) -> String {
    let message = status.message();
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => {
            format!("{message}; --timeout allows more time; {MAYBE_DONE}")
        }
        // A server on the way answered, such as a proxy: the transport sets a source.
        Code::Unavailable
            if is_unexplained(status)
                && status.source().is_none()
                && !message.is_empty()
                && http_status(status).is_none() =>
        {
            format!(
                "what answered is not keypaird, perhaps a proxy before it, and said UNAVAILABLE: {message}; keypairctl doctor looks at the way there"
            )
        }
        // The message is one of the transport.
        _ if is_broken(status) => {
            format!(
                "the connection to the daemon broke before it answered; {MAYBE_DONE}; keypairctl doctor looks at the way there"
            )
        }
        _ => message.to_owned(),
    }
}

/// What holds when no answer came.
const MAYBE_DONE: &str = "if the command makes or changes something, that may be done all the same: keypairctl get or list shows it";

fn refused_json(status: &Status) -> serde_json::Value {
    let details = status.get_error_details();
    let fields = details
        .bad_request()
        .map(|bad| &*bad.field_violations)
        .unwrap_or_default();
    let mut error = json!({
        "code": code_name(status.code()),
        "reason": details.error_info().map(|info| &*info.reason).unwrap_or_default(),
        "message": status.message(),
    });
    if !fields.is_empty() {
        let fields = fields.iter();
        error["fieldViolations"] = fields
            .map(|field| json!({"field": field.field, "description": field.description}))
            .collect();
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        error["retryAfter"] = humantime::format_duration(delay).to_string().into();
    }
    error
}

/// Returns the name of a code as gRPC spells it: `NOT_FOUND`.
pub(super) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

/// Returns the flag that sets a field of a request: `commonName` is `--common-name`.
fn flag(field: &str) -> Option<String> {
    let field = field.strip_prefix("filter.").unwrap_or(field);
    let name = field.split(['[', '.']).next_back().filter(|_| {
        let parts = ["rotationSettings.", "subject."];
        parts.iter().any(|part| field.starts_with(part))
    });
    let name = name.unwrap_or_else(|| field.split(['[', '.']).next().unwrap_or_default());
    match name {
        "" | "id" | "fileData" | "rotationSettings" => None,
        "password" => Some("--password-file".to_owned()),
        "subjectAlternativeNames" => Some("--san".to_owned()),
        "labels" => Some("--label".to_owned()),
        _ => {
            let mut flag = "--".to_owned();
            for character in name.chars() {
                if character.is_ascii_uppercase() {
                    flag.push('-');
                }
                flag.push(character.to_ascii_lowercase());
            }
            Some(flag)
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn written(failure: &Failure, output: Output) -> String {
        let mut text = Vec::new();
        failure.write(&mut text, output).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn refused(details: ErrorDetails) -> Failure {
        Status::with_error_details(Code::InvalidArgument, "the message", details).into()
    }

    #[test]
    fn what_a_proxy_said_is_told() {
        let said = Failure::from(Status::unavailable("no healthy upstream"));
        assert!(said.sentence().contains("UNAVAILABLE: no healthy upstream"));
        let mut broken = Status::unavailable("tcp connect error");
        broken.set_source(std::sync::Arc::new(io::Error::other("reset")));
        assert!(Failure::from(broken).sentence().contains("broke before"));
    }

    #[test]
    fn fields_are_named_with_their_flags() {
        for (field, expected) in [
            ("commonName", Some("--common-name")),
            ("subjectAlternativeNames[3]", Some("--san")),
            ("labels.team", Some("--label")),
            ("filter.labels.team", Some("--label")),
            ("filter.expiresBefore", Some("--expires-before")),
            (
                "rotationSettings.creationBufferDays",
                Some("--creation-buffer-days"),
            ),
            ("pageToken", Some("--page-token")),
            ("id", None),
            ("", None),
        ] {
            assert_eq!(flag(field).as_deref(), expected, "{field}");
        }
    }

    #[test]
    fn every_refused_field_has_a_line() {
        let mut details = ErrorDetails::with_error_info("VALIDATION_FAILED", "keypaird", []);
        details.set_bad_request(vec![
            FieldViolation::new("commonName", "is required"),
            FieldViolation::new("", "and 3 more fields"),
        ]);
        assert_eq!(
            written(&refused(details.clone()), Output::Table),
            "keypairctl: the request is refused because of these:\n  \
             commonName (--common-name): is required\n  \
             and 3 more fields\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&written(&refused(details), Output::Json)).unwrap();
        assert_eq!(json["code"], "INVALID_ARGUMENT");
        assert_eq!(json["reason"], "VALIDATION_FAILED");
        assert_eq!(json["fieldViolations"][0]["field"], "commonName");
    }

    #[test]
    fn what_answers_does_not_steer_the_terminal() {
        let status = Status::new(Code::NotFound, "no\u{1b}[2Jkey pair\r\n");
        assert_eq!(
            written(&status.into(), Output::Table),
            "keypairctl: no\\u{1b}[2Jkey pair\\u{d}\\u{a}\n"
        );
    }

    #[test]
    fn it_is_said_when_waiting_helps() {
        let mut details = ErrorDetails::with_error_info("PROVIDER_BUSY", "keypaird", []);
        details.set_retry_info(Some(std::time::Duration::from_secs(1)));
        assert_eq!(
            written(&refused(details), Output::Table),
            "keypairctl: the message\nIt may be tried again in 1s.\n"
        );
    }
}
