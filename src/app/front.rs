//! Two transports on one port: gRPC, and plain HTTP.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either, FutureExt};
use http::{Request, Response, header};
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer, Service};

use crate::grpc::{self, CallLayer, CallService};
use crate::rest;
use crate::service::ServiceError;

/// Hands each request to its transport, by its content type.
#[derive(Clone, Debug)]
pub(super) struct Front {
    grpc: CallService<Routes>,
    rest: axum::Router,
}

impl Front {
    /// Puts both transports together.
    pub(super) fn new(calls: &CallLayer, grpc: Routes, rest: axum::Router) -> Self {
        Self {
            grpc: calls.layer(grpc),
            rest,
        }
    }

    /// Refuses a request without a look at what it asks for.
    pub(super) fn refuse<B>(request: &Request<B>) -> Response<Body> {
        let error = ServiceError::Overloaded;
        match is_grpc(request) {
            true => grpc::refuse(&error),
            false => rest::refuse(&error).map(Body::new),
        }
    }
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <CallService<Routes> as Service<Request<Body>>>::Future,
        BoxFuture<'static, Result<Response<Body>, Infallible>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_grpc(&request) {
            return Either::Left(self.grpc.call(request));
        }
        let answered = self.rest.call(request.map(axum::body::Body::new));
        Either::Right(
            answered
                .map(|answer| answer.map(|response| response.map(Body::new)))
                .boxed(),
        )
    }
}

/// gRPC over HTTP/2, Requests: `application/grpc`, also with a suffix such as `+proto`.
fn is_grpc<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}
