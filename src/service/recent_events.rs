//! Events in memory, so that watchers of the same history share what was read of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::domain::{Event, EventSubject};

/// The events that were read last, up to a number of bytes.
#[derive(Debug)]
pub(super) struct RecentEvents {
    by_sequence: BTreeMap<i64, Kept>,
    /// In the order in which they were read.
    read: VecDeque<i64>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Kept {
    /// There is no event between this one and the event.
    after: i64,
    event: Arc<Event>,
    bytes: usize,
}

impl RecentEvents {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            by_sequence: BTreeMap::new(),
            read: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Returns the event that follows a place, if it is here.
    pub(super) fn next(&self, after: i64) -> Option<Arc<Event>> {
        let (_, kept) = self.by_sequence.range(after.saturating_add(1)..).next()?;
        (kept.after <= after).then(|| Arc::clone(&kept.event))
    }

    /// Keeps the events that follow a place, without a gap, and returns the first of them.
    pub(super) fn keep(&mut self, mut after: i64, events: Vec<Event>) -> Option<Arc<Event>> {
        let mut first = None;
        for event in events {
            let event = Arc::new(event);
            first.get_or_insert_with(|| Arc::clone(&event));
            let (sequence, bytes) = (event.sequence, size_estimate(&event));
            let kept = Kept {
                after,
                event,
                bytes,
            };
            after = sequence;
            self.bytes += bytes;
            match self.by_sequence.insert(sequence, kept) {
                Some(before) => self.bytes -= before.bytes,
                None => self.read.push_back(sequence),
            }
        }
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.read.pop_front() else {
                break;
            };
            if let Some(kept) = self.by_sequence.remove(&oldest) {
                self.bytes -= kept.bytes;
            }
        }
        first
    }
}

/// Returns about how many bytes an event takes.
fn size_estimate(event: &Event) -> usize {
    let after = match &event.subject {
        EventSubject::KeyPair { after, .. } => after.as_ref(),
        EventSubject::Provider(_) => None,
    };
    EVENT_BYTES + after.map_or(0, |pair| pair.size_estimate())
}

const EVENT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::{EventKind, ProviderKind};

    fn events(sequences: &[i64]) -> Vec<Event> {
        let event = |sequence: &i64| Event {
            sequence: *sequence,
            time: OffsetDateTime::UNIX_EPOCH,
            kind: EventKind::ProviderRecovered,
            subject: EventSubject::Provider(ProviderKind::Hsm),
        };
        sequences.iter().map(event).collect()
    }

    #[test]
    fn only_an_event_that_follows_without_a_gap_is_the_next() {
        let mut recent = RecentEvents::new(EVENT_BYTES * 4);
        let next = |recent: &RecentEvents, after| recent.next(after).map(|event| event.sequence);
        assert_eq!(next(&recent, 0), None);
        // There is no event 3 in the store.
        let first = recent.keep(1, events(&[2, 4]));
        assert_eq!(first.unwrap().sequence, 2);
        assert_eq!(next(&recent, 0), None, "1 was not read");
        assert_eq!(
            [1, 2, 3, 4].map(|after| next(&recent, after)),
            [Some(2), Some(4), Some(4), None]
        );
        recent.keep(8, events(&[9]));
        assert_eq!(next(&recent, 4), None);
        assert_eq!(next(&recent, i64::MAX), None);

        // What was read first goes first.
        recent.keep(4, events(&[5, 6]));
        assert_eq!(next(&recent, 1), None);
        assert_eq!(
            [2, 4, 5, 8].map(|after| next(&recent, after)),
            [Some(4), Some(5), Some(6), Some(9)]
        );
        recent.keep(2, events(&[4, 5, 6]));
        assert_eq!(recent.bytes, EVENT_BYTES * 4);
        assert_eq!(recent.by_sequence.len(), recent.read.len());
    }
}
