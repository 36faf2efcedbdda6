//! Why a connection is ended, and how.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Connection;

/// Why a connection is ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// Another has no place, and this one had no call under way.
    MakesRoom,
    SaysNothing,
    TakesNothing,
    TooMuchKept,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MakesRoom => "it makes room for another",
            Self::SaysNothing => "it said nothing",
            Self::TakesNothing => "it does not take its answers",
            Self::TooMuchKept => {
                "too much memory is in use, and this connection makes the least progress"
            }
        })
    }
}

impl Connection {
    /// Tells why it is to end, if it is.
    pub(super) fn fault(&self) -> Option<Ending> {
        if self.is_cut() {
            return None;
        }
        if !self.greeted.load(Ordering::Relaxed) && self.opened.elapsed() > GREETING_MAX {
            return Some(Ending::SaysNothing);
        }
        self.is_stalled().then_some(Ending::TakesNothing)
    }

    /// Tells whether answers lie ready, and it has not taken any to speak of for long.
    fn is_stalled(&self) -> bool {
        // Each look at all connections sees whether requests make progress, too.
        self.receiving();
        self.sending() > STALL_MAX
    }

    /// Has it end. Who makes room is asked to, for a call may have begun meanwhile; all others are
    /// cut off.
    pub(super) fn end(&self, why: Ending) {
        self.all.count(&format_args!("ended: {why}"));
        match why {
            Ending::MakesRoom => {
                self.makes_room.store(true, Ordering::Relaxed);
                self.end.cancel();
            }
            Ending::SaysNothing | Ending::TakesNothing | Ending::TooMuchKept => self.cut.cancel(),
        }
    }
}

/// How long a connection may say nothing: TLS handshake and HTTP/2 preface, or the first byte of
/// HTTP/1.1.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// How long answers may lie ready without progress.
const STALL_MAX: Duration = Duration::from_secs(60);
