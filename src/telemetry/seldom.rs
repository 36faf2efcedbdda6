//! Lines that would come too often.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Has something said now and then, with how often it happened since.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    said: Mutex<(Option<Instant>, usize)>,
}

impl Seldom {
    /// Has it said at most once in an interval.
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            said: Mutex::new((None, 0)),
        }
    }

    /// Counts, and tells whether to say something: how often it happened since that was done.
    pub fn say(&self) -> Option<usize> {
        let mut said = self.said.lock();
        said.1 += 1;
        if said.0.is_some_and(|last| last.elapsed() < self.interval) {
            return None;
        }
        said.0 = Some(Instant::now());
        Some(std::mem::take(&mut said.1))
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
}
