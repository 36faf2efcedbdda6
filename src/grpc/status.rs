//! Errors as gRPC shows them.

use std::collections::HashMap;

use prost::Message as _;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Response, Status};
use tonic_types::{BadRequest, ErrorDetails, FieldViolation, StatusExt};

use crate::domain::{Refusal, Violations};
use crate::proto::codec::TOO_MANY;
use crate::service::ServiceError;
use crate::service::report::{self, ItemReports, Report, report};

/// Turns what came of a use case into what came of a call.
pub(super) fn answer<T>(result: Result<T, ServiceError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Returns the message that stands for an error inside of a response.
fn rpc_status(status: &Status) -> tonic_types::Status {
    // It is among the details already.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// Reports the error of an item of a call, and returns the message that stands for it.
pub(super) fn item_status(error: &ServiceError, reports: &mut ItemReports) -> tonic_types::Status {
    rpc_status(&render(reports.report(error)))
}

/// Reports an error, and renders the report with all its details.
pub(super) fn to_status(error: &ServiceError) -> Status {
    render(report(error))
}

fn render(report: Report) -> Status {
    let mut details = details(report.reason);
    if let Some(violations) = &report.violations {
        let mut fields: Vec<_> = violations
            .iter()
            .map(|violation| {
                FieldViolation::new(violation.field.as_ref(), violation.refusal.to_string())
            })
            .collect();
        if violations.dropped() > 0 {
            fields.push(FieldViolation::new(
                "",
                format!("and {} more fields", violations.dropped()),
            ));
        }
        details.set_bad_request(BadRequest::new(fields).field_violations);
    }
    if let Some(retry_after) = report.retry_after {
        details.set_retry_info(Some(retry_after));
    }
    Status::with_error_details(code(report.code), report.message, details)
}

/// Gives a status that tonic made by itself the details that every error of ours has.
pub(super) fn complete(status: &Status, max_message_bytes: usize) -> Status {
    let too_many = status.metadata().get(TOO_MANY);
    if let Some(field) = too_many.and_then(|field| field.to_str().ok()) {
        let refusal = Refusal::new(status.message().to_owned());
        let violations = Violations::one(field.to_owned(), refusal);
        return to_status(&ServiceError::Invalid(violations));
    }
    if let Some(accepted) = status.metadata().get(ACCEPT_ENCODING) {
        return other_encoding(status, accepted);
    }
    let (code, reason, message) = match status.code() {
        // What is left of INTERNAL without details is that the request could not be decoded.
        Code::Internal | Code::InvalidArgument => (
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
            format!(
                "the request is not the message that this method takes: {}",
                status.message()
            ),
        ),
        Code::OutOfRange | Code::ResourceExhausted => (
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
            format!(
                "the request is larger than {max_message_bytes} bytes (server.max_message_bytes)"
            ),
        ),
        Code::Unimplemented => (
            Code::Unimplemented,
            "UNIMPLEMENTED",
            "there is no such method".to_owned(),
        ),
        other => (other, reason_of(other), status.message().to_owned()),
    };
    Status::with_error_details(code, message, details(reason))
}

/// Refuses messages in a compression that is not taken, with the header that names those that are
/// (gRPC, Compression).
fn other_encoding(status: &Status, accepted: &AsciiMetadataValue) -> Status {
    let said: String = status.message().chars().take(ENCODING_LEN_MAX).collect();
    let mut refused = Status::with_error_details(
        Code::Unimplemented,
        format!("{said}; send messages by gzip, or as they are"),
        details("UNIMPLEMENTED"),
    );
    let metadata = refused.metadata_mut();
    metadata.insert(ACCEPT_ENCODING, accepted.clone());
    refused
}

/// Refuses compressed messages of a stream of requests, in the same words.
pub(super) fn compressed_stream() -> Status {
    let mut refused = Status::with_error_details(
        Code::Unimplemented,
        "messages of SignStream by gzip are not read; send them as they are, or use BatchSign",
        details("UNIMPLEMENTED"),
    );
    let metadata = refused.metadata_mut();
    metadata.insert(ACCEPT_ENCODING, AsciiMetadataValue::from_static("identity"));
    refused
}

/// Says that something went wrong inside, and no more.
pub(super) fn internal() -> Status {
    Status::with_error_details(Code::Internal, report::INTERNAL, details("INTERNAL"))
}

fn details(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

fn reason_of(code: Code) -> &'static str {
    match code {
        Code::NotFound => "NOT_FOUND",
        Code::Cancelled => "CANCELLED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

const fn code(code: report::Code) -> Code {
    match code {
        report::Code::Cancelled => Code::Cancelled,
        report::Code::InvalidArgument => Code::InvalidArgument,
        report::Code::DeadlineExceeded => Code::DeadlineExceeded,
        report::Code::NotFound => Code::NotFound,
        report::Code::AlreadyExists => Code::AlreadyExists,
        report::Code::ResourceExhausted => Code::ResourceExhausted,
        report::Code::FailedPrecondition => Code::FailedPrecondition,
        report::Code::Aborted => Code::Aborted,
        report::Code::Internal => Code::Internal,
        report::Code::Unavailable => Code::Unavailable,
    }
}

const DOMAIN: &str = "keypaird";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// More than the sentence of tonic and the names of all encodings there are.
const ENCODING_LEN_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_come_with_their_fields_and_every_error_with_its_reason() {
        let mut violations = Violations::one("commonName", Refusal::new("is required"));
        violations.add("country", Refusal::new("must be two letters"));
        let status = to_status(&ServiceError::Invalid(violations));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "commonName: is required (and 1 more field)"
        );
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (&*info.domain, &*info.reason),
            ("keypaird", "VALIDATION_FAILED")
        );
        let fields: Vec<_> = details
            .bad_request()
            .unwrap()
            .field_violations
            .iter()
            .map(|violation| (&*violation.field, &*violation.description))
            .collect();
        assert_eq!(
            fields,
            [
                ("commonName", "is required"),
                ("country", "must be two letters")
            ]
        );
    }

    #[test]
    fn the_worst_report_fits_into_the_trailers_that_clients_accept() {
        let mut violations = Violations::new();
        for index in 0..10_000 {
            violations.add(
                format!("subjectAlternativeNames[{index}]"),
                crate::domain::SubjectAlternativeName::parse(&"ü ".repeat(200)).unwrap_err(),
            );
        }
        let status = to_status(&ServiceError::Invalid(violations));
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        assert!(bytes < 16 * 1024, "{bytes} bytes");
    }
}
