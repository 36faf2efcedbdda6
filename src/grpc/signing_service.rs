//! `keypaird.v1.SigningService`: takes a request, calls the use case, gives its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt, future, stream};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use super::call::origin;
use super::convert::{malformed, signing as convert};
use super::status::{answer, complete, to_status};
use super::streams::StreamLimits;
use crate::proto::signing_service_server::SigningService;
use crate::proto::{
    BatchSignRequest, BatchSignResponse, ListPublicKeysRequest, ListPublicKeysResponse,
    SignRequest, SignResponse, SignStreamRequest, SignStreamResponse, VerifyRequest,
    VerifyResponse,
};
use crate::service::report::ItemReports;
use crate::service::{Service, ServiceError};
use crate::telemetry::{Call, Seldom};

/// The service.
#[derive(Debug)]
pub(super) struct SigningGrpc {
    service: Arc<Service>,
    max_message_bytes: usize,
}

impl SigningGrpc {
    pub(super) fn new(service: Arc<Service>, max_message_bytes: usize) -> Self {
        Self {
            service,
            max_message_bytes,
        }
    }
}

#[tonic::async_trait]
impl SigningService for SigningGrpc {
    type SignStreamStream = Pin<Box<dyn Stream<Item = Result<SignStreamResponse, Status>> + Send>>;

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let signed = async {
            let request = convert::sign_request(request.into_inner())?;
            self.service.sign(request).await
        };
        answer(signed.await.map(convert::sign_response))
    }

    async fn batch_sign(
        &self,
        request: Request<BatchSignRequest>,
    ) -> Result<Response<BatchSignResponse>, Status> {
        let requests = request.into_inner().requests;
        let requests = requests.into_iter().map(convert::sign_request).collect();
        let results = self.service.sign_batch(requests).await;
        answer(results.map(|results| {
            let mut reports = ItemReports::default();
            let results = results
                .into_iter()
                .map(|result| convert::batch_result(result, &mut reports))
                .collect();
            reports.say();
            BatchSignResponse { results }
        }))
    }

    async fn sign_stream(
        &self,
        request: Request<Streaming<SignStreamRequest>>,
    ) -> Result<Response<Self::SignStreamStream>, Status> {
        let limits = StreamLimits::of(&request);
        let (stop, is_stopped) = (limits.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = {
            let is_stopped = Arc::clone(&is_stopped);
            async move {
                stop.stopped().await;
                is_stopped.store(true, Ordering::Relaxed);
            }
        };
        let service = Arc::clone(&self.service);
        let call = Call::current();
        let log = StreamLog::new(call.clone());
        let max_message_bytes = self.max_message_bytes;
        let signed = request
            .into_inner()
            // What has come together is signed together: to hand over each by itself takes as long as to sign it.
            .ready_chunks(STREAM_PORTION)
            // At a stop no more is read, and what was read is answered.
            .take_until(Box::pin(stopped))
            .map(move |messages| {
                let (service, call) = (Arc::clone(&service), call.clone());
                let log = Arc::clone(&log);
                let work = async move {
                    let responses = stream_responses(&service, messages, max_message_bytes, &log);
                    stream::iter(responses.await)
                };
                match call {
                    Some(call) => call.answer(work).left_future(),
                    None => work.right_future(),
                }
            })
            .buffer_unordered(STREAM_PORTIONS)
            .flatten();
        let why = async move {
            let is_stopped = is_stopped.load(Ordering::Relaxed);
            is_stopped.then(|| Err(to_status(&ServiceError::Stopping)))
        };
        let signed = signed.chain(stream::once(why).filter_map(future::ready));
        Ok(Response::new(match limits.deadline {
            None => Box::pin(signed),
            deadline => StreamLimits {
                deadline,
                stop: None,
                daemon_stop: None,
            }
            .limit(signed),
        }))
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let verified = async {
            let request = convert::verify_request(request.into_inner())?;
            self.service.verify(request).await
        };
        answer(verified.await.map(convert::verify_response))
    }

    async fn list_public_keys(
        &self,
        request: Request<ListPublicKeysRequest>,
    ) -> Result<Response<ListPublicKeysResponse>, Status> {
        let origin = origin(&request);
        let request = convert::public_keys_request(request.into_inner(), origin);
        let page = self.service.public_keys(request).await;
        answer(page.map(convert::public_keys_response))
    }
}

/// Answers messages of a stream.
async fn stream_responses(
    service: &Service,
    messages: Vec<Result<SignStreamRequest, Status>>,
    max_message_bytes: usize,
    log: &StreamLog,
) -> Vec<Result<SignStreamResponse, Status>> {
    let (mut correlation_ids, mut requests, mut end) = (Vec::new(), Vec::new(), None);
    for message in messages {
        match message {
            Ok(message) => {
                correlation_ids.push(message.correlation_id);
                requests.push(match message.request {
                    Some(request) => convert::sign_request(request),
                    None => Err(malformed("request", "is required")),
                });
            }
            // What could not be read ends the stream, in the trailers, where no layer sees it.
            Err(status) => end = Some(Err(complete(&status, max_message_bytes))),
        }
    }
    let signed = service.sign_all(requests).await;
    let results = correlation_ids.into_iter().zip(signed);
    results
        .map(|(correlation_id, signed)| {
            Ok(match signed {
                Ok(signed) => convert::stream_signed(correlation_id, signed),
                Err(error) => log.stream_refused(correlation_id, &error),
            })
        })
        .chain(end)
        .collect()
}

/// What the log says of the messages of a stream that were refused: a line now and then with their
/// number.
struct StreamLog {
    call: Option<Arc<Call>>,
    seldom: Seldom,
    reports: Mutex<ItemReports>,
}

impl StreamLog {
    fn new(call: Option<Arc<Call>>) -> Arc<Self> {
        Arc::new(Self {
            call,
            seldom: Seldom::new(STREAM_LOG_INTERVAL),
            reports: Mutex::default(),
        })
    }

    fn stream_refused(&self, correlation_id: String, error: &ServiceError) -> SignStreamResponse {
        let mut reports = self.reports.lock();
        let refused = convert::stream_refused(correlation_id, error, &mut reports);
        if self.seldom.say().is_some() {
            reports.say();
        }
        refused
    }
}

impl Drop for StreamLog {
    fn drop(&mut self) {
        let reports = self.reports.get_mut();
        if !reports.is_empty() {
            let span = self
                .call
                .as_ref()
                .map_or_else(Span::none, |call| call.span());
            span.in_scope(|| reports.say());
        }
    }
}

/// How often the log says that messages of a stream were refused.
const STREAM_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How many signatures of one stream are made together.
const STREAM_PORTION: usize = 4;
/// How many portions of one stream are under way at once.
const STREAM_PORTIONS: usize = 16;
