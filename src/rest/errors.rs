//! Which errors a request may be answered with, for the description of the API, an example each.

use utoipa::IntoResponses;

use super::api_result::ApiResult;

/// The errors that any request may be answered with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) enum Common {
    /// The request is not of the form that it must have: a query parameter or a field is
    /// unknown, or of a wrong type.
    #[response(status = 400, example = json!(ApiResult::example("bad_request", texts::BAD_REQUEST)))]
    BadRequest(ApiResult),
    /// The configuration or the provider does not permit it, or a web page asks.
    #[response(status = 403, example = json!(ApiResult::example("forbidden", texts::FORBIDDEN)))]
    Forbidden(ApiResult),
    /// The host that the request names is not this daemon.
    #[response(status = 421, example = json!(ApiResult::example("misdirected_request", texts::MISDIRECTED_REQUEST)))]
    MisdirectedRequest(ApiResult),
    /// Too much work is waiting.
    #[response(status = 429, example = json!(ApiResult::example("provider_busy", texts::TOO_MANY_REQUESTS)))]
    TooManyRequests(ApiResult),
    /// Something went wrong inside.
    #[response(status = 500, example = json!(ApiResult::example("internal_error", texts::INTERNAL_SERVER_ERROR)))]
    InternalServerError(ApiResult),
    /// The token or the store is away, or the daemon stops.
    #[response(status = 503, example = json!(ApiResult::example("provider_unavailable", texts::SERVICE_UNAVAILABLE)))]
    ServiceUnavailable(ApiResult),
    /// It took too long.
    #[response(status = 504, example = json!(ApiResult::example("deadline_exceeded", texts::GATEWAY_TIMEOUT)))]
    GatewayTimeout(ApiResult),
}

/// The further errors of a request about one key pair.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) enum OfKeyPair {
    /// There is no such key pair, or it has no such settings.
    #[response(status = 404, example = json!(ApiResult::example("resource_not_found", texts::NOT_FOUND)))]
    NotFound(ApiResult),
    /// The state of the key pair or of its provider does not allow it, or fields cannot be
    /// accepted.
    #[response(status = 422, example = json!(ApiResult::example("validation_error", texts::UNPROCESSABLE_ENTITY)))]
    UnprocessableEntity(ApiResult),
}

/// The further error of a request whose fields or parameters are checked.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) enum OfFields {
    /// Fields cannot be accepted.
    #[response(status = 422, example = json!(ApiResult::example("validation_error", texts::FIELDS)))]
    UnprocessableEntity(ApiResult),
}

/// The further errors of a request with a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) enum OfBody {
    /// The body is too large.
    #[response(status = 413, example = json!(ApiResult::example("bad_request", texts::PAYLOAD_TOO_LARGE)))]
    PayloadTooLarge(ApiResult),
    /// The body is no JSON in UTF-8.
    #[response(status = 415, example = json!(ApiResult::example("bad_request", texts::UNSUPPORTED_MEDIA_TYPE)))]
    UnsupportedMediaType(ApiResult),
}

/// The further error of a request that changes a key pair.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) enum OfChange {
    /// The key pair changed meanwhile, time and again.
    #[response(status = 412, example = json!(ApiResult::example("validation_error", texts::PRECONDITION_FAILED)))]
    PreconditionFailed(ApiResult),
}

/// What the examples say.
mod texts {
    pub(super) const BAD_REQUEST: &str = "page: must be a whole number from 0 to 2147483647";
    pub(super) const FORBIDDEN: &str = "the private key of payments lives in the HSM, which it never leaves; export its \
         certificate instead";
    pub(super) const MISDIRECTED_REQUEST: &str = "\"other.example\" is no name of this daemon; call it by an IP address, or have an \
         operator add the name to server.hosts";
    pub(super) const TOO_MANY_REQUESTS: &str = "more calls come in than can be answered; try again";
    pub(super) const INTERNAL_SERVER_ERROR: &str =
        "something went wrong inside; the log of the daemon says what";
    pub(super) const SERVICE_UNAVAILABLE: &str = "the HSM is not connected; try again later";
    pub(super) const GATEWAY_TIMEOUT: &str = "the deadline passed before the work was done";
    pub(super) const NOT_FOUND: &str = "there is no key pair \"payments\"";
    pub(super) const UNPROCESSABLE_ENTITY: &str =
        "the certificate of the key pair payments has expired; renew it";
    pub(super) const FIELDS: &str = "commonName: is required";
    pub(super) const PAYLOAD_TOO_LARGE: &str = "the body is larger than server.max_message_bytes";
    pub(super) const UNSUPPORTED_MEDIA_TYPE: &str = "the content type must be application/json";
    pub(super) const PRECONDITION_FAILED: &str =
        "the key pair payments changed since its etag was read; read it again and decide anew";
}
