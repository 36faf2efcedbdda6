//! Errors as REST shows them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::service::ServiceError;
use crate::service::report::{Code, Report, report};

/// The body of an error.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiResult {
    result_id: String,
    message: String,
}

/// Reports an error, and renders the report.
pub(super) fn to_response(error: &ServiceError) -> Response {
    let report = report(error);
    let (status, result_id) = status(&report);
    let mut response = render(status, &result_id, report.message);
    if let Some(retry_after) = report.retry_after {
        let seconds = HeaderValue::from(retry_after.as_secs().max(1));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

/// Renders an error.
pub(super) fn render(status: StatusCode, result_id: &str, message: String) -> Response {
    let result = ApiResult {
        result_id: result_id.to_owned(),
        message,
    };
    // Texts are always JSON.
    let body = serde_json::to_string(&result).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, body).into_response()
}

fn status(report: &Report) -> (StatusCode, String) {
    let (status, result_id) = match report.code {
        Code::InvalidArgument if report.reason == "MALFORMED_REQUEST" => {
            (StatusCode::BAD_REQUEST, "bad_request")
        }
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => {
            (StatusCode::UNPROCESSABLE_ENTITY, "validation_error")
        }
        Code::NotFound => (StatusCode::NOT_FOUND, "resource_not_found"),
        Code::Aborted => (StatusCode::PRECONDITION_FAILED, "validation_error"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "provider_busy"),
        Code::Unavailable => {
            let result_id = report.reason.to_lowercase();
            return (StatusCode::SERVICE_UNAVAILABLE, result_id);
        }
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        Code::Cancelled | Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
    };
    (status, result_id.to_owned())
}
