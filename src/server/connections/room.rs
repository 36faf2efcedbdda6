//! How room is made for a new connection where there is none.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Connection, Connections, Ending, LOOK_AGAIN, Open, Place};
use crate::domain::Peer;

/// Whether there will be room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Room {
    /// Connections were asked to go.
    Coming,
    /// All that have no call under way were used just now, or have just come.
    Later,
    /// All have calls under way. A peer has more than half of the places, if one is named.
    None(Option<Peer>),
}

impl Connections {
    /// Gives a new connection its place. Where there is none, connections make room that have no
    /// call under way: first those that never made one, then those that made none for longest. Where
    /// all have, the new one is refused, unless another peer has more than half of the places: then
    /// the oldest connections of that one make room.
    pub(in crate::server) async fn admit(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let patience = Instant::now() + ROOM_MAX;
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.place(peer) {
                return Some(place);
            }
            let wait = match self.make_room(Some(peer)) {
                Room::Coming => GOODBYE_MAX,
                Room::Later => LOOK_FOR_ROOM,
                Room::None(_) => Duration::ZERO,
            };
            let now = Instant::now();
            if wait.is_zero() || now >= patience {
                self.count(&"refused: there are too many, and all are in use");
                return None;
            }
            let _ = timeout_at(patience.min(now + wait), freed).await;
        }
    }

    /// Asks some connections to go that have no call under way, or, for a newcomer, the oldest ones
    /// of another peer that has more than half of the places.
    ///
    /// One that was used just now is not asked: a busy client is between two calls, and the next one
    /// may be on its way, or wait in the client for a connection that is about to say goodbye. The
    /// same holds for one that has just come.
    pub(in crate::server) fn make_room(&self, newcomer: Option<Peer>) -> Room {
        let mut open = self.open.lock();
        let Open {
            connections,
            leaving,
            looked,
        } = &mut *open;
        match *looked {
            // Those that were asked have not all gone, and cannot take much longer.
            Some((when, Room::Coming)) if *leaving > 0 && when.elapsed() < GOODBYE_MAX => {
                return Room::Coming;
            }
            // Another peer has too many.
            Some((_, Room::None(Some(crowd)))) if newcomer.is_some_and(|peer| peer != crowd) => {}
            // It is not looked for anew for each of many that are one too many.
            Some((when, room)) if room != Room::Coming && when.elapsed() < LOOK_AGAIN => {
                return room;
            }
            _ => {}
        }
        let share = 1 + connections.len() / ENDED_SHARE;
        let idle = connections
            .values()
            .filter(|connection| !connection.is_ending() && connection.is_idle());
        let (mut settled, recent): (Vec<_>, Vec<_>) = idle.partition(|other| other.is_settled());
        if settled.len() > share {
            settled.select_nth_unstable_by_key(share, |connection| connection.turn_to_go());
            settled.truncate(share);
        }
        let mut crowd = None;
        if settled.is_empty() && recent.is_empty() {
            crowd = crowding_peer(connections);
            if let (Some(crowd), Some(newcomer)) = (crowd, newcomer) {
                settled = oldest_of(connections, crowd, newcomer, share);
            }
        }
        for connection in &settled {
            connection.end(Ending::MakesRoom);
        }
        *leaving += settled.len();
        let room = match (settled.is_empty(), recent.is_empty()) {
            (false, _) => Room::Coming,
            (true, false) => Room::Later,
            (true, true) => Room::None(crowd),
        };
        *looked = Some((Instant::now(), room));
        room
    }
}

/// Returns the peer that has more than half of the connections.
fn crowding_peer(connections: &HashMap<u64, Arc<Connection>>) -> Option<Peer> {
    let mut counts: HashMap<Peer, usize> = HashMap::new();
    for connection in connections.values() {
        *counts.entry(connection.origin().peer).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.filter(|(_, count)| *count > connections.len() / 2)
        .map(|(peer, _)| peer)
}

/// Returns so many connections of a peer, the oldest ones, unless the newcomer may be the same
/// peer.
fn oldest_of(
    connections: &HashMap<u64, Arc<Connection>>,
    crowd: Peer,
    newcomer: Peer,
    count: usize,
) -> Vec<&Arc<Connection>> {
    let mut theirs: Vec<_> = connections
        .values()
        .filter(|connection| !connection.is_ending() && connection.origin().peer == crowd)
        // A newcomer is known by its address only.
        .filter(|connection| connection.address != newcomer)
        .collect();
    theirs.sort_unstable_by_key(|connection| connection.number);
    theirs.truncate(count);
    theirs
}

impl Connection {
    /// Tells whether it was left alone for so long that it may be asked to go.
    fn is_settled(&self) -> bool {
        match self.idle_since.load(Ordering::Relaxed) {
            0 => self.opened.elapsed() >= NEW_FOR,
            since => self.all.since_ms(since) >= RECENT_FOR,
        }
    }

    /// Returns by what it is decided which of the idle ones go first.
    fn turn_to_go(&self) -> (u64, u64) {
        (self.idle_since.load(Ordering::Relaxed), self.number)
    }

    /// Returns how long it may take to answer a goodbye when it has no call under way.
    ///
    /// One that has called gets longer. A call that it sent before it saw the goodbye may be on its
    /// way, and ending the connection would cut it off.
    pub(in crate::server) fn goodbye_max(&self) -> Duration {
        match self.idle_since.load(Ordering::Relaxed) {
            0 => GOODBYE_MAX,
            _ => CALLERS_GOODBYE_MAX,
        }
    }
}

/// How long a connection that is asked to go may take for it when it never had a call.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// The same for a connection that has called.
const CALLERS_GOODBYE_MAX: Duration = Duration::from_secs(5);
/// How long a connection is in use after a call, and after it has come.
const RECENT_FOR: Duration = Duration::from_secs(1);
const NEW_FOR: Duration = Duration::from_millis(200);
/// Which part of all go when there is no room, so that not each new one has to look for another.
const ENDED_SHARE: usize = 64;
/// How long a new one waits for others to go.
const ROOM_MAX: Duration = Duration::from_secs(2);
/// How soon room is looked for again when all idle connections were used just now.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::UNIX_PLACES;
    use super::*;

    #[test]
    fn a_client_of_the_unix_socket_has_a_place_when_the_network_has_taken_all() {
        let all = Connections::new(2, 0);
        let network = || all.place(Peer::at(Ipv4Addr::LOCALHOST.into()));
        let _taken = [network().unwrap(), network().unwrap()];
        assert!(network().is_none());
        let local: Vec<_> = (0..=UNIX_PLACES)
            .map_while(|_| all.place(Peer::User(0)))
            .collect();
        assert_eq!(local.len(), UNIX_PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn who_makes_room_is_asked_to_go_and_cut_off_only_if_it_misbehaves() {
        let all = Connections::new(2, 0);
        let place = || all.place(Peer::at(Ipv4Addr::LOCALHOST.into()));
        let (first, second) = (place().unwrap(), place().unwrap());
        assert!(place().is_none());
        second.connection().call_begins();
        tokio::time::advance(NEW_FOR).await;
        assert_eq!(all.make_room(None), Room::Coming);
        assert!(first.connection().is_ending() && !first.connection().is_cut());
        assert!(!second.connection().is_ending());
        // It has yet to go, and no other connection is asked.
        second.connection().call_ends();
        assert_eq!(all.make_room(None), Room::Coming);
        assert!(!second.connection().is_ending());
        first.connection().end(Ending::TakesNothing);
        assert!(first.connection().is_cut());
        drop(first);
        let third = place().unwrap();
        tokio::time::advance(NEW_FOR).await;
        assert_eq!(all.make_room(None), Room::Coming);
        assert!(third.connection().is_ending() && !second.connection().is_ending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_caller_between_two_calls_is_not_asked_to_make_room() {
        let all = Connections::new(2, 0);
        let place = || all.place(Peer::Unknown);
        let (caller, newcomer) = (place().unwrap(), place().unwrap());
        let call = || {
            caller.connection().call_begins();
            caller.connection().call_ends();
        };
        call();
        assert_eq!(all.make_room(None), Room::Later);
        for _ in 0..100 {
            tokio::time::advance(RECENT_FOR / 2).await;
            call();
            all.make_room(None);
            assert!(!caller.connection().is_ending());
        }
        // The one that never called had time to do so.
        assert!(newcomer.connection().is_ending());
        drop(newcomer);
        assert_eq!(all.make_room(None), Room::Later);
        tokio::time::advance(RECENT_FOR).await;
        assert_eq!(all.make_room(None), Room::Coming);
        assert!(caller.connection().is_ending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_more_than_half_of_the_places_makes_room_for_another_peer() {
        let all = Connections::new(5, 0);
        let (crowd, other, newcomer) = (Peer::User(1), Peer::User(2), Peer::User(3));
        let places: Vec<_> = [other, crowd, crowd, crowd, other]
            .map(|peer| all.place(peer).unwrap())
            .into();
        for place in &places {
            place.connection().call_begins();
        }
        let is_ending = |index: usize| places[index].connection().is_ending();
        tokio::time::advance(NEW_FOR).await;
        assert_eq!(all.make_room(None), Room::None(Some(crowd)));
        assert_eq!(all.make_room(Some(crowd)), Room::None(Some(crowd)));
        assert!(!(0..5).any(is_ending));
        // Another peer does not wait until it is looked for anew.
        assert_eq!(all.make_room(Some(newcomer)), Room::Coming);
        assert!(is_ending(1) && ![0, 2, 3, 4].into_iter().any(is_ending));
        assert!(!places[1].connection().is_cut());
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_peer_has_more_than_half_of_the_places_a_newcomer_is_refused() {
        let all = Connections::new(4, 0);
        let places: Vec<_> = [1, 1, 2, 3]
            .map(|user| all.place(Peer::User(user)).unwrap())
            .into();
        for place in &places {
            place.connection().call_begins();
        }
        tokio::time::advance(NEW_FOR).await;
        assert_eq!(all.make_room(Some(Peer::User(4))), Room::None(None));
        assert!(!places.iter().any(|place| place.connection().is_ending()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_small_part_of_the_open_connections_makes_room_at_once() {
        let all = Connections::new(10_000, 0);
        let places: Vec<_> = (0..130)
            .map(|_| all.place(Peer::Unknown).unwrap())
            .collect();
        tokio::time::advance(NEW_FOR).await;
        assert_eq!(all.make_room(None), Room::Coming);
        let ending: Vec<_> = places
            .iter()
            .map(Place::connection)
            .filter(|connection| connection.is_ending())
            .map(|connection| connection.number)
            .collect();
        assert_eq!(ending, [0, 1, 2]);
    }
}
