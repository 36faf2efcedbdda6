//! Server reflection, both versions, whose streams end as ours do.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::status::to_status;
use super::streams::StreamLimits;
use crate::service::ServiceError;

/// A service of tonic's, which answers each request of a stream at once and knows no end.
#[derive(Clone, Debug)]
pub(super) struct Limited<S>(pub(super) S);

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limits = request.extensions().get::<StreamLimits>();
        let limits = limits.cloned().unwrap_or_default();
        let asked = limits.clone();
        let answering = self.0.call(request.map(|body| {
            Body::new(Until {
                body,
                reached: Some(asked.reached().boxed()),
                // What reads it notices that nothing more comes, and ends.
                end: |_| None,
            })
        }));
        async move {
            let response = answering.await?;
            Ok(response.map(|body| {
                Body::new(Until {
                    body,
                    reached: Some(limits.reached().boxed()),
                    end: |error| Some(trailers(&to_status(&error))),
                })
            }))
        }
        .boxed()
    }
}

/// A body that ends at a limit, with what is said last.
struct Until {
    body: Body,
    /// None when it was reached.
    reached: Option<BoxFuture<'static, ServiceError>>,
    end: fn(ServiceError) -> Option<Frame<Bytes>>,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(reached) = &mut self.reached else {
            return Poll::Ready(None);
        };
        let Poll::Ready(error) = reached.as_mut().poll(context) else {
            return Pin::new(&mut self.body).poll_frame(context);
        };
        self.reached = None;
        self.body = Body::empty();
        Poll::Ready((self.end)(error).map(Ok))
    }
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    // Ours are made of what header fields may have.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}
