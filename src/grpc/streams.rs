//! When streams end, other than by their callers and their own work: at the caller's deadline, and
//! when the connection has to end, as at a stop of the daemon.

use std::future::pending;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::status::to_status;
use crate::service::ServiceError;

/// When a stream ends.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamLimits {
    /// When the caller stops waiting.
    pub(super) deadline: Option<Instant>,
    /// Cancelled when the connection has to end.
    pub(super) stop: Option<CancellationToken>,
    /// Cancelled when the daemon stops, and not only the connection has to end.
    pub(super) daemon_stop: Option<CancellationToken>,
}

impl StreamLimits {
    /// Returns the limits of a call, which [`super::call::CallService`] noted.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let noted = request.extensions().get::<Self>();
        noted.cloned().unwrap_or_default()
    }

    /// Returns why a stream has to end, when it has to.
    pub(super) async fn reached(self) -> ServiceError {
        tokio::select! {
            biased;
            () = self.stopped() => ServiceError::Stopping,
            () = self.passed() => ServiceError::DeadlineExceeded,
        }
    }

    /// Returns when the connection has to end.
    pub(super) async fn stopped(&self) {
        match &self.stop {
            Some(stop) => stop.cancelled().await,
            None => pending().await,
        }
    }

    /// Returns when the deadline has passed.
    async fn passed(&self) {
        match self.deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => pending().await,
        }
    }

    /// Ends responses with an error at the first of the limits.
    pub(super) fn limit<T: Send + 'static>(
        self,
        responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> BoxStream<'static, Result<T, Status>> {
        self.limit_with_last(responses, || None)
    }

    /// Ends responses with an error at the first of the limits, and before a stop of the daemon
    /// says something last.
    pub(super) fn limit_with_last<T: Send + 'static>(
        self,
        responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
        last: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> BoxStream<'static, Result<T, Status>> {
        enum State<S, F, L> {
            Open(S, F, L),
            Ending(ServiceError),
            Over,
        }
        let daemon_stop = self.daemon_stop.clone();
        let last = move || {
            let stops = daemon_stop.is_some_and(|stop| stop.is_cancelled());
            if stops { last() } else { None }
        };
        let open = State::Open(responses.boxed(), Box::pin(self.reached()), last);
        stream::unfold(open, |state| async {
            let error = match state {
                State::Open(mut responses, mut reached, last) => tokio::select! {
                    biased;
                    error = &mut reached => match (&error, last()) {
                        (ServiceError::Stopping, Some(last)) => {
                            return Some((Ok(last), State::Ending(error)));
                        }
                        _ => error,
                    },
                    response = responses.next() => {
                        return Some((response?, State::Open(responses, reached, last)));
                    }
                },
                State::Ending(error) => error,
                State::Over => return None,
            };
            Some((Err(to_status(&error)), State::Over))
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what a stream says last, and its status.
    async fn ending(connection_stops: bool, daemon_stops: bool) -> Vec<Result<&'static str, i32>> {
        let daemon_stop = CancellationToken::new();
        let stop = daemon_stop.child_token();
        let limits = StreamLimits {
            deadline: None,
            stop: Some(stop.clone()),
            daemon_stop: Some(daemon_stop.clone()),
        };
        let limited = limits.limit_with_last(stream::pending(), || Some("last"));
        if connection_stops {
            stop.cancel();
        }
        if daemon_stops {
            daemon_stop.cancel();
        }
        let said = limited.map(|said| said.map_err(|status| i32::from(status.code())));
        said.collect().await
    }

    #[tokio::test]
    async fn the_last_word_is_said_at_a_stop_of_the_daemon_and_not_of_the_connection() {
        let unavailable = Err(i32::from(tonic::Code::Unavailable));
        assert_eq!(ending(true, false).await, [unavailable]);
        assert_eq!(ending(false, true).await, [Ok("last"), unavailable]);
    }
}
