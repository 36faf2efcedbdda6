//! Lines that would come too often.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Has something said now and then, with how often it happened since.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    happened: Mutex<Happened>,
}

#[derive(Debug)]
struct Happened {
    /// When it was last said.
    said: Option<Instant>,
    /// How often it happened since.
    unsaid: usize,
}

impl Seldom {
    /// Has it said at most once in an interval.
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            happened: Mutex::new(Happened {
                said: None,
                unsaid: 0,
            }),
        }
    }

    /// Counts, and tells whether to say something: how often it happened since that was done.
    ///
    /// What happens last may be said only when it happens again. Who wants it said asks [`Seldom::due`] now and then.
    pub fn say(&self) -> Option<usize> {
        let mut happened = self.happened.lock();
        happened.unsaid += 1;
        happened.due(self.interval)
    }

    /// Counts, and leaves it to [`Seldom::due`] to have it said.
    pub fn count(&self) {
        self.happened.lock().unsaid += 1;
    }

    /// Tells whether to say something of what was counted: how often it happened since that was done.
    pub fn due(&self) -> Option<usize> {
        self.happened.lock().due(self.interval)
    }
}

impl Happened {
    fn due(&mut self, interval: Duration) -> Option<usize> {
        if self.unsaid == 0 || self.said.is_some_and(|said| said.elapsed() < interval) {
            return None;
        }
        self.said = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_said_once_and_counted() {
        let seldom = Seldom::new(Duration::from_millis(100));
        assert_eq!(seldom.say(), Some(1));
        assert_eq!(seldom.say(), None);
        assert_eq!(seldom.say(), None);
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(seldom.say(), Some(3));
    }

    #[test]
    fn what_happens_last_is_said_when_it_is_due() {
        let seldom = Seldom::new(Duration::from_millis(100));
        assert_eq!(seldom.due(), None);
        seldom.count();
        assert_eq!(seldom.due(), Some(1));
        seldom.count();
        seldom.count();
        assert_eq!(seldom.due(), None);
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(seldom.due(), Some(2));
        assert_eq!(seldom.due(), None);
    }
}
