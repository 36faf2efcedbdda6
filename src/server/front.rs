//! Two transports on one port: gRPC, and plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderValue, Request, Response, Version, header};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer, Service};

use super::gate::{Admission, Gate};
use crate::domain::Client;
use crate::grpc::{self, CallLayer, CallService};
use crate::rest;
use crate::service::ServiceError;

/// Hands each request to its transport, by its content type.
#[derive(Clone, Debug)]
pub struct Front {
    grpc: CallService<Routes>,
    rest: axum::Router,
    gate: Option<Gate>,
}

impl Front {
    /// Puts both transports together.
    pub fn new(calls: &CallLayer, grpc: Routes, rest: axum::Router) -> Self {
        Self {
            grpc: calls.layer(grpc),
            rest,
            gate: None,
        }
    }

    /// Returns the front of one connection: which requests are let in, and what ends its streams.
    pub(super) fn of_connection(
        &self,
        client: &Arc<Client>,
        gate: Gate,
        stop: CancellationToken,
        daemon_stop: CancellationToken,
    ) -> Self {
        Self {
            grpc: self
                .grpc
                .clone()
                .made_by(Arc::clone(client))
                .ended_by(Arc::new(stop), Arc::new(daemon_stop)),
            rest: self.rest.clone(),
            gate: Some(gate),
        }
    }

    /// Returns the transport of a request, which refuses what is not let in.
    pub(super) fn transport<B>(&self, request: &Request<B>) -> Transport {
        let is_grpc = is_grpc(request);
        if is_grpc && request.version() != Version::HTTP_2 {
            return Transport::Refused(Refusal::Version);
        }
        let admitted = match &self.gate {
            Some(gate) => gate.admit(request),
            None => Ok(Admission::Program),
        };
        match admitted {
            Ok(Admission::Program) if is_grpc => Transport::Grpc(self.grpc.clone()),
            Ok(Admission::Program) => Transport::Rest(self.rest.clone()),
            Ok(Admission::Page(origin)) => Transport::Page(self.rest.clone(), origin),
            Ok(Admission::Preflight(origin)) => Transport::Preflight(origin),
            Err(error) if is_grpc => Transport::Refused(Refusal::Grpc(error)),
            Err(error) => Transport::Refused(Refusal::Rest(error)),
        }
    }
}

/// Who answers a request.
#[derive(Debug)]
pub(super) enum Transport {
    Grpc(CallService<Routes>),
    Rest(axum::Router),
    /// REST, for a page that may read the answer.
    Page(axum::Router, HeaderValue),
    /// Tells a browser that a page may ask for what is public.
    Preflight(HeaderValue),
    /// Refuses the request.
    Refused(Refusal),
}

/// Why a request is not let in.
#[derive(Debug)]
pub(super) enum Refusal {
    /// gRPC needs HTTP/2.
    Version,
    Grpc(ServiceError),
    Rest(ServiceError),
}

/// An answer that is being made.
pub(super) type Answered = BoxFuture<'static, Result<Response<Body>, Infallible>>;

impl Transport {
    /// Tells whether requests and answers are of messages.
    pub(super) const fn is_grpc(&self) -> bool {
        matches!(self, Self::Grpc(_))
    }

    /// Answers a request.
    pub(super) fn answer(self, request: Request<Body>) -> Answered {
        match self {
            // Both are always ready.
            Self::Grpc(mut grpc) => grpc.call(request),
            Self::Rest(mut rest) => {
                let answered = rest.call(request.map(axum::body::Body::new));
                answered
                    .map(|answer| answer.map(|response| response.map(Body::new)))
                    .boxed()
            }
            Self::Page(rest, origin) => {
                let answered = Self::Rest(rest).answer(request);
                answered
                    .map(|answer| answer.map(|response| readable(response, origin)))
                    .boxed()
            }
            Self::Preflight(origin) => {
                let response = readable(rest::preflight().map(Body::new), origin);
                std::future::ready(Ok(response)).boxed()
            }
            Self::Refused(refusal) => std::future::ready(Ok(refusal.response())).boxed(),
        }
    }

    /// Refuses a request without a look at what it asks for.
    pub(super) fn refuse(&self, error: &ServiceError) -> Response<Body> {
        match self {
            Self::Grpc(_) | Self::Refused(Refusal::Grpc(_)) => grpc::refuse(error),
            _ => rest::refuse(error).map(Body::new),
        }
    }
}

impl Refusal {
    fn response(&self) -> Response<Body> {
        match self {
            Self::Version => rest::refuse_version().map(Body::new),
            Self::Grpc(error) => grpc::refuse(error),
            Self::Rest(error) => rest::refuse(error).map(Body::new),
        }
    }
}

/// Says that pages of an origin may read an answer.
fn readable(mut response: Response<Body>, origin: HeaderValue) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let exposed = HeaderValue::from_static("ETag");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}

/// gRPC over HTTP/2, Requests: `application/grpc`, also with a suffix such as `+proto`. Browsers
/// speak `application/grpc-web`, which is none.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let rest = content_type.and_then(|it| it.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}
