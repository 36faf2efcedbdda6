//! The `Date` of answers (RFC 9110 section 6.6.1), by the daemon's clock.
//!
//! hyper writes one too. It goes on with a later time after the clock was set back, and it panics
//! when the clock shows a time before 1970, or beyond the year 9999. So every answer has its date
//! before hyper looks at it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::FutureExt;
use http::{HeaderValue, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use crate::domain::Clock;

/// Dates answers. The clock lives as long as the process, so that no call has to count who refers
/// to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dates(&'static Arc<dyn Clock>);

thread_local! {
    /// The date that this thread wrote last, and of which second it is.
    static WRITTEN: RefCell<Option<(i64, HeaderValue)>> = const { RefCell::new(None) };
}

impl Dates {
    /// Dates answers by a clock.
    pub(super) fn by(clock: Arc<dyn Clock>) -> Self {
        Self(Box::leak(Box::new(clock)))
    }

    /// Returns the date of an answer that is made now.
    pub(super) fn now(self) -> Option<HeaderValue> {
        let now = self.0.now();
        let second = now.unix_timestamp();
        WRITTEN.with_borrow_mut(|written| {
            if let Some((_, date)) = written.as_ref().filter(|(of, _)| *of == second) {
                return Some(date.clone());
            }
            let date = HeaderValue::try_from(http_date(now)).ok()?;
            *written = Some((second, date.clone()));
            Some(date)
        })
    }
}

/// Has hyper look at the clock on this thread, which it does for the first time with the first
/// HTTP/1.1 connection. From then on it bears a clock that is set back to before 1970.
///
/// # Panics
/// When the clock shows such a time already.
pub fn prepare_thread() {
    let service =
        service_fn(|_| std::future::ready(Ok::<_, Infallible>(Response::<String>::default())));
    // A connection that has ended: hyper notices that after its look at the clock.
    let ended = http1::Builder::new().serve_connection(TokioIo::new(tokio::io::empty()), service);
    let _ = ended.now_or_never();
}

/// Writes a time as HTTP does (RFC 9110 section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: OffsetDateTime) -> String {
    // These parts of a time are always there.
    time.to_offset(UtcOffset::UTC)
        .format(HTTP_DATE)
        .unwrap_or_default()
}

const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_is_written_as_http_does() {
        for (time, expected) in [
            (
                datetime!(1994-11-06 08:49:37 UTC),
                "Sun, 06 Nov 1994 08:49:37 GMT",
            ),
            (
                datetime!(2027-01-01 00:30:00 +1),
                "Thu, 31 Dec 2026 23:30:00 GMT",
            ),
            (
                datetime!(1960-02-29 00:00:00 UTC),
                "Mon, 29 Feb 1960 00:00:00 GMT",
            ),
        ] {
            assert_eq!(http_date(time), expected);
        }
    }

    #[test]
    fn the_date_follows_the_clock_in_both_directions() {
        #[derive(Debug, Default)]
        struct Hand(parking_lot::Mutex<i64>);
        impl Clock for Hand {
            fn now(&self) -> OffsetDateTime {
                OffsetDateTime::from_unix_timestamp(*self.0.lock()).unwrap()
            }
        }
        let hand = Arc::new(Hand::default());
        let dates = Dates::by(Arc::<Hand>::clone(&hand));
        for (second, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (86_400, "Fri, 02 Jan 1970 00:00:00 GMT"),
            (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
        ] {
            *hand.0.lock() = second;
            assert_eq!(dates.now().unwrap(), expected);
        }
    }
}
