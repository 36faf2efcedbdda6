//! Which connections are ended when too much is kept in all: those of a peer with more than its
//! share first, then by progress, then by peer.
//!
//! Size alone would be the wrong measure. A thousand clients that each send a part of a request, and
//! then no more, would each be smaller than one honest client with a large answer.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::Peer;

/// A connection that something is kept for.
#[derive(Debug)]
pub(super) struct Candidate<T> {
    /// The connection.
    pub(super) connection: T,
    /// The peer at its other end.
    pub(super) peer: Peer,
    /// What is kept for it, in bytes.
    pub(super) bytes: usize,
    /// Most of it are requests that have more to come, and not answers.
    pub(super) is_upload: bool,
    /// For how long it has made no progress with what it has to send or to take.
    pub(super) still: Duration,
}

impl<T> Candidate<T> {
    /// Returns how clear it is that it makes no progress.
    fn stage(&self) -> u8 {
        u8::from(self.still >= SLOW) + u8::from(self.still >= STILL)
    }
}

/// Puts connections into the order in which they stay. The last one is to be ended first.
///
/// 1. Those of a peer for which more than `share` bytes are kept in sum go first. Otherwise such a
///    peer, with bytes that trickle, would have all others ended before it.
/// 2. Of each of these, those go last for which no more than [`TRIVIAL`] is kept: to end them frees
///    nothing, and they may be a neighbour that makes one small call after another.
/// 3. Of each of these, those that have stood still for [`STILL`] go first, and then those that have
///    for [`SLOW`].
/// 4. Of each of these, those that send requests go before those that take answers, so that a large
///    answer that is being taken stays.
/// 5. Of those, the connections of the peer go first that most is kept for in sum.
/// 6. Of one peer's, the one goes first that has made no progress for longest.
pub(super) fn rank<T>(candidates: &mut [Candidate<T>], share: usize) {
    let mut sums: HashMap<Peer, usize> = HashMap::new();
    for candidate in &*candidates {
        *sums.entry(candidate.peer).or_default() += candidate.bytes;
    }
    candidates.sort_unstable_by_key(|candidate| {
        let sum = sums.get(&candidate.peer).copied();
        let is_over_share = sum.is_some_and(|sum| sum > share);
        let (stage, is_upload) = (candidate.stage(), candidate.is_upload);
        (
            is_over_share,
            candidate.bytes > TRIVIAL,
            stage,
            is_upload,
            sum,
            candidate.still,
            candidate.bytes,
        )
    });
}

/// What two calls take as such. As many connections as there may be by default are within the
/// budget with this.
const TRIVIAL: usize = 24 * 1024;
/// How long a connection may make no progress before all that make some stay longer than it.
const STILL: Duration = Duration::from_secs(10);
/// How long it takes until a connection is seen to make no progress: two looks at all.
pub(super) const SLOW: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names of connections in the order in which they are ended.
    fn order(
        connections: &[(&'static str, u32, usize, u64)],
        answers: &[&str],
    ) -> Vec<&'static str> {
        let mut candidates: Vec<_> = connections
            .iter()
            .map(|&(connection, user, bytes, still)| Candidate {
                connection,
                peer: Peer::User(user),
                bytes,
                is_upload: !answers.contains(&connection),
                still: Duration::from_millis(still),
            })
            .collect();
        rank(&mut candidates, 64 << 20);
        candidates
            .iter()
            .rev()
            .map(|candidate| candidate.connection)
            .collect()
    }

    #[test]
    fn a_large_answer_that_is_being_taken_outlives_small_requests() {
        let connections = [
            ("taken", 1, 20_000_000, 100),
            ("comes", 4, 244_000, 0),
            ("slow", 2, 244_000, 3000),
            ("still", 3, 244_000, 11_000),
        ];
        let ended = order(&connections, &["taken"]);
        assert_eq!(ended, ["still", "slow", "comes", "taken"]);
    }

    #[test]
    fn a_large_answer_that_is_not_taken_goes_before_requests_that_come() {
        let connections = [("untaken", 1, 20_000_000, 3000), ("comes", 2, 244_000, 0)];
        assert_eq!(order(&connections, &["untaken"]), ["untaken", "comes"]);
    }

    #[test]
    fn a_peer_with_more_than_its_share_goes_before_small_connections_that_stand_still() {
        let connections = [
            ("idle stream", 1, 12 << 10, 60_000),
            ("trickles", 2, 125 << 20, 800),
            ("trickles too", 2, 125 << 20, 700),
        ];
        let ended = ["trickles", "trickles too", "idle stream"];
        assert_eq!(order(&connections, &[]), ended);
    }

    #[test]
    fn a_neighbour_with_one_small_call_outlives_the_idle_streams_of_its_peer() {
        let connections = [
            ("calls", 1, 12 << 10, 900),
            ("idle streams", 1, 12 << 20, 0),
        ];
        let ended = ["idle streams", "calls"];
        assert_eq!(order(&connections, &["idle streams"]), ended);
    }

    #[test]
    fn the_peer_with_most_in_sum_goes_first_and_not_the_largest_connection() {
        let connections = [
            ("one of many", 1, 100, 0),
            ("large", 2, 250, 0),
            ("another of many", 1, 101, 0),
            ("a third of many", 1, 99, 0),
        ];
        let ended = ["another of many", "one of many", "a third of many", "large"];
        assert_eq!(order(&connections, &[]), ended);
    }

    #[test]
    fn of_one_peer_the_connection_without_progress_goes_first() {
        let connections = [
            ("moves", 1, 20_000_000, 0),
            ("still", 1, 244_000, 900),
            ("more", 1, 245_000, 800),
        ];
        assert_eq!(order(&connections, &[]), ["still", "more", "moves"]);
    }
}
