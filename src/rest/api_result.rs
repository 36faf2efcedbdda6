//! Errors as REST shows them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Refusal, Violations};
use crate::service::ServiceError;
use crate::service::report::{Code, Report, report};

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiResult {
    /// What the program of a caller can tell cases apart by.
    result_id: String,
    /// What is wrong, and what to do.
    message: String,
    /// The fields that cannot be accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    validation_errors: Vec<ValidationError>,
}

/// A field that cannot be accepted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ValidationError {
    /// What the program of a caller can tell cases apart by.
    error_id: String,
    /// What is allowed.
    message: String,
    /// The field, from the top of the body: `commonName`, `subjectAlternativeNames[2]`.
    field_path: String,
}

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(super) enum Refused {
    /// A use case did not do it.
    Service(ServiceError),
    /// It is no request that HTTP, or this API, has.
    Http(StatusCode, String),
}

impl Refused {
    /// Refuses a request that is not of the form the contract gives it.
    pub(super) fn malformed(field: impl Into<String>, sentence: impl Into<String>) -> Self {
        let violations = Violations::one(field.into(), Refusal::new(sentence.into()));
        Self::Service(ServiceError::Malformed(violations))
    }
}

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Service(error) => to_response(&error),
            Self::Http(status, message) => render(
                status,
                &ApiResult {
                    result_id: match status {
                        StatusCode::NOT_FOUND => "resource_not_found",
                        StatusCode::INTERNAL_SERVER_ERROR => "internal_error",
                        StatusCode::SERVICE_UNAVAILABLE => "provider_unavailable",
                        _ => "bad_request",
                    }
                    .to_owned(),
                    message,
                    validation_errors: Vec::new(),
                },
            ),
        }
    }
}

/// Reports an error, and renders the report.
pub(super) fn to_response(error: &ServiceError) -> Response {
    let report = report(error);
    let (status, result_id) = status(&report);
    let violations = report.violations.iter().flat_map(Violations::iter);
    let mut validation_errors: Vec<_> = violations
        .map(|violation| ValidationError {
            error_id: report.reason.to_lowercase(),
            message: violation.refusal.to_string(),
            field_path: violation.field.to_string(),
        })
        .collect();
    if report.code == Code::AlreadyExists {
        validation_errors.push(ValidationError {
            error_id: report.reason.to_lowercase(),
            message: report.message.clone(),
            field_path: "id".to_owned(),
        });
    }
    let mut response = render(
        status,
        &ApiResult {
            result_id,
            message: report.message,
            validation_errors,
        },
    );
    if let Some(retry_after) = report.retry_after {
        let seconds = HeaderValue::from(retry_after.as_secs().max(1));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

fn render(status: StatusCode, result: &ApiResult) -> Response {
    // Texts are always JSON.
    let body = serde_json::to_string(result).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, body).into_response()
}

/// The statuses of section 4 of the contract.
fn status(report: &Report) -> (StatusCode, String) {
    let (status, result_id) = match (report.code, report.reason) {
        (Code::InvalidArgument, "MALFORMED_REQUEST") => (StatusCode::BAD_REQUEST, "bad_request"),
        (Code::FailedPrecondition, "WRONG_HOST") => {
            (StatusCode::MISDIRECTED_REQUEST, "misdirected_request")
        }
        (Code::FailedPrecondition, "KEY_NOT_EXPORTABLE" | "NOT_PERMITTED") => {
            (StatusCode::FORBIDDEN, "forbidden")
        }
        (Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition, _) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "validation_error")
        }
        (Code::NotFound, _) => (StatusCode::NOT_FOUND, "resource_not_found"),
        (Code::Aborted, _) => (StatusCode::PRECONDITION_FAILED, "validation_error"),
        (Code::ResourceExhausted, _) => (StatusCode::TOO_MANY_REQUESTS, "provider_busy"),
        (Code::Unavailable, reason) => {
            return (StatusCode::SERVICE_UNAVAILABLE, reason.to_lowercase());
        }
        (Code::DeadlineExceeded, _) => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        (Code::Cancelled | Code::Internal, _) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
        }
    };
    (status, result_id.to_owned())
}

impl ApiResult {
    /// Returns an error as an example of the description. One of a field begins with its name.
    pub(super) fn example(result_id: &str, message: &str) -> Self {
        let of_field = message
            .split_once(": ")
            .map(|(field, sentence)| ValidationError {
                error_id: match result_id {
                    "bad_request" => "malformed_request",
                    _ => "validation_failed",
                }
                .to_owned(),
                message: sentence.to_owned(),
                field_path: field.to_owned(),
            });
        Self {
            result_id: result_id.to_owned(),
            message: message.to_owned(),
            validation_errors: of_field.into_iter().collect(),
        }
    }
}
