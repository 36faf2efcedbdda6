//! `keypaird.v1.EventService`: takes a request, calls the use case, gives its answers.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::call::origin;
use super::convert::event as convert;
use super::status::to_status;
use super::streams::StreamLimits;
use crate::proto::event_service_server::EventService;
use crate::proto::{WatchKeyPairsRequest, WatchKeyPairsResponse};
use crate::service::Service;

/// The service.
#[derive(Debug)]
pub(super) struct EventGrpc {
    service: Arc<Service>,
}

impl EventGrpc {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl EventService for EventGrpc {
    type WatchKeyPairsStream =
        Pin<Box<dyn Stream<Item = Result<WatchKeyPairsResponse, Status>> + Send>>;

    async fn watch_key_pairs(
        &self,
        request: Request<WatchKeyPairsRequest>,
    ) -> Result<Response<Self::WatchKeyPairsStream>, Status> {
        let limits = StreamLimits::of(&request);
        let origin = origin(&request);
        let request = convert::watch_request(request.into_inner(), origin);
        let told = self.service.watch(request).await;
        let told = told.map_err(|error| to_status(&error))?;
        let responses = told.map(|told| match told {
            Ok(told) => Ok(convert::watch_response(told)),
            Err(error) => Err(to_status(&error)),
        });
        Ok(Response::new(limits.limit(responses)))
    }
}
