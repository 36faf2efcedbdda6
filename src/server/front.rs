//! Two transports on one port: gRPC, and plain HTTP.

use std::convert::Infallible;

use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response, header};
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer, Service};

use crate::grpc::{self, CallLayer, CallService};
use crate::rest;
use crate::service::ServiceError;

/// Hands each request to its transport, by its content type.
#[derive(Clone, Debug)]
pub struct Front {
    grpc: CallService<Routes>,
    rest: axum::Router,
}

impl Front {
    /// Puts both transports together.
    pub fn new(calls: &CallLayer, grpc: Routes, rest: axum::Router) -> Self {
        Self {
            grpc: calls.layer(grpc),
            rest,
        }
    }

    /// Returns the transport of a request.
    pub(super) fn transport<B>(&self, request: &Request<B>) -> Transport {
        match is_grpc(request) {
            true => Transport::Grpc(self.grpc.clone()),
            false => Transport::Rest(self.rest.clone()),
        }
    }
}

/// Who answers a request.
#[derive(Debug)]
pub(super) enum Transport {
    Grpc(CallService<Routes>),
    Rest(axum::Router),
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
        }
    }

    /// Refuses a request without a look at what it asks for.
    pub(super) fn refuse(&self) -> Response<Body> {
        let error = ServiceError::Overloaded;
        match self {
            Self::Grpc(_) => grpc::refuse(&error),
            Self::Rest(_) => rest::refuse(&error).map(Body::new),
        }
    }
}

/// gRPC over HTTP/2, Requests: `application/grpc`, also with a suffix such as `+proto`.
fn is_grpc<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}
