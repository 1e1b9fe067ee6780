//! The origin: a wire of its own, shared block by block by the fetches that run, and perhaps fewer connections than are
//! asked for, each perhaps slower than the wire.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use hawker_proto::{ByteRange, Geometry, Instant};
use hawker_swarm::LeaseId;

use crate::network::time_of;
use crate::peer::PeerId;

/// Blocks of one fetch that wait on their way to its host, beside what the way itself holds.
const WINDOW_BLOCKS: u64 = 2;

/// One GET.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Get {
    pub(crate) peer: PeerId,
    pub(crate) lease: LeaseId,
    pub(crate) range: ByteRange,
    /// First byte not handed to the wire.
    pub(crate) next: u64,
    /// First byte not yet at the host.
    pub(crate) upto: u64,
    in_flight: u64,
    /// Bytes that may be in flight.
    window: u64,
    /// Its connection sends nothing before.
    ready_at: Instant,
    /// The origin serves enough already, and says so.
    is_refused: bool,
}

/// What the origin's wire does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At most a block, cut at block boundaries of the task; the time that its connection takes for it.
    Part { peer: PeerId, lease: LeaseId, part: ByteRange, time: Duration },
    /// All connections that have something to send are too slow to send it before.
    Later(Instant),
    /// Nothing, until something arrives or is asked for.
    Nothing,
}

pub(crate) struct Origin {
    /// In the order in which they send.
    gets: VecDeque<Get>,
    tasks: Vec<Geometry>,
    /// GETs that it answers at a time.
    connections_max: usize,
    /// Of each connection.
    connection_bytes_per_s: u64,
    /// Body bytes sent.
    pub(crate) bytes: u64,
    /// Of these, bytes that a host had, or was fetching, when their fetch began.
    pub(crate) bytes_repeated: u64,
    /// GETs that it refused.
    pub(crate) refusals: u64,
    /// A wake-up among the events, for connections that are not ready before.
    pub(crate) wake: Option<Instant>,
    /// For how long how many hosts were fetching: the sum of their products, while the wire was not idle.
    holder_time: Duration,
    busy_time: Duration,
    last_sent_at: Instant,
}

impl Origin {
    /// Zero is no limit.
    pub(crate) fn new(tasks: Vec<Geometry>, connections_max: u32, connection_bytes_per_s: u64) -> Self {
        Self {
            gets: VecDeque::new(),
            tasks,
            connections_max: if connections_max == 0 { usize::MAX } else { connections_max as usize },
            connection_bytes_per_s: if connection_bytes_per_s == 0 { u64::MAX } else { connection_bytes_per_s },
            bytes: 0,
            bytes_repeated: 0,
            refusals: 0,
            wake: None,
            holder_time: Duration::ZERO,
            busy_time: Duration::ZERO,
            last_sent_at: Instant::ZERO,
        }
    }

    /// Whether some fetch that runs will bring any of `range`.
    pub(crate) fn is_fetching(&self, task: u16, range: ByteRange) -> bool {
        let is_of = |get: &Get| get.range.intersection(range).is_some_and(|common| !common.is_empty());
        self.served().any(|get| get.peer.task == task && is_of(get))
    }

    /// Notes that the wire is taken from `now` on for `time`.
    pub(crate) fn note_sending(&mut self, now: Instant, time: Duration) {
        let holders: BTreeSet<u32> =
            self.served().filter(|get| get.upto < get.range.end()).map(|get| get.peer.host).collect();
        self.holder_time += time * u32::try_from(holders.len()).expect("hosts are counted in u32");
        self.busy_time += time;
        self.last_sent_at = now + time;
    }

    /// Hosts that fetched at the same time, on average.
    pub(crate) fn holders(&self) -> f64 {
        if self.busy_time.is_zero() { 0.0 } else { self.holder_time.as_secs_f64() / self.busy_time.as_secs_f64() }
    }

    /// Time until its last byte in which it sent nothing.
    pub(crate) fn idle_time(&self) -> Duration {
        self.last_sent_at.since(Instant::ZERO).saturating_sub(self.busy_time)
    }

    /// The GET is there at `at`. `way_bytes` fit the way to the host: its slowest wire times the time that a byte
    /// travels. A sender whose window were smaller would wait for what is on the way, which TCP's does not. False: the
    /// origin refuses.
    pub(crate) fn open(&mut self, peer: PeerId, lease: LeaseId, range: ByteRange, at: Instant, way_bytes: u64) -> bool {
        let is_refused = self.served().count() >= self.connections_max;
        self.refusals += u64::from(is_refused);
        let block = u64::from(self.tasks[usize::from(peer.task)].block_bytes());
        let get = Get {
            peer,
            lease,
            range,
            next: range.start(),
            upto: range.start(),
            in_flight: 0,
            window: way_bytes.saturating_add(WINDOW_BLOCKS * block),
            ready_at: at,
            is_refused,
        };
        self.gets.push_back(get);
        !is_refused
    }

    /// The next part of the next body in turn.
    pub(crate) fn next_part(&mut self, now: Instant) -> Next {
        let mut next = Next::Nothing;
        for _ in 0..self.gets.len() {
            let Some(mut get) = self.gets.pop_front() else { break };
            let block = u64::from(self.tasks[usize::from(get.peer.task)].block_bytes());
            let end = (get.next / block + 1).saturating_mul(block).min(get.range.end());
            let is_open = |part: &ByteRange| get.in_flight + part.length() <= get.window && !get.is_refused;
            let part = ByteRange::new(get.next, end).filter(|part| !part.is_empty()).filter(is_open);
            if let Some(part) = part.filter(|_| get.ready_at <= now) {
                let bytes = u32::try_from(part.length()).expect("a block");
                let time = time_of(bytes, self.connection_bytes_per_s);
                (get.next, get.ready_at) = (end, now + time);
                get.in_flight += part.length();
                self.bytes += part.length();
                self.gets.push_back(get);
                return Next::Part { peer: get.peer, lease: get.lease, part, time };
            }
            if part.is_some() {
                next = match next {
                    Next::Later(at) => Next::Later(at.min(get.ready_at)),
                    _ => Next::Later(get.ready_at),
                };
            }
            self.gets.push_back(get);
        }
        next
    }

    /// A part is at its host; the fetch as it stands, `None` when it was closed before.
    pub(crate) fn arrived(&mut self, peer: PeerId, lease: LeaseId, part: ByteRange) -> Option<Get> {
        let index = self.index_of(peer, lease)?;
        let get = &mut self.gets[index];
        get.in_flight -= part.length();
        get.upto = get.upto.max(part.end());
        let get = *get;
        if get.upto == get.range.end() {
            self.gets.remove(index);
        }
        Some(get)
    }

    /// Ends a fetch early; what had not arrived.
    pub(crate) fn close(&mut self, peer: PeerId, lease: LeaseId) -> Option<ByteRange> {
        let index = self.index_of(peer, lease)?;
        let get = self.gets.remove(index)?;
        ByteRange::new(get.upto, get.range.end())
    }

    /// All fetches that it serves.
    pub(crate) fn running(&self) -> impl Iterator<Item = (PeerId, LeaseId)> {
        self.served().map(|get| (get.peer, get.lease))
    }

    /// Fetches of a host.
    pub(crate) fn of_host(&self, host: u32) -> Vec<(PeerId, LeaseId)> {
        self.gets.iter().filter(|get| get.peer.host == host).map(|get| (get.peer, get.lease)).collect()
    }

    fn served(&self) -> impl Iterator<Item = &Get> {
        self.gets.iter().filter(|get| !get.is_refused)
    }

    fn index_of(&self, peer: PeerId, lease: LeaseId) -> Option<usize> {
        self.gets.iter().position(|get| get.peer == peer && get.lease == lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 64 * 1024;

    fn origin(connections_max: u32, connection_bytes_per_s: u64) -> Origin {
        let geometry = Geometry::of_length(1024 * 1024).expect("a length that a task can have");
        assert_eq!(u64::from(geometry.block_bytes()), BLOCK);
        Origin::new(vec![geometry], connections_max, connection_bytes_per_s)
    }

    fn open(origin: &mut Origin, host: u32, way_bytes: u64) -> bool {
        let range = ByteRange::new(0, 1024 * 1024).expect("in order");
        origin.open(PeerId { host, task: 0 }, LeaseId(u64::from(host)), range, Instant::ZERO, way_bytes)
    }

    /// Hosts in the order in which they are sent to at `now`, and what comes after.
    fn sent(origin: &mut Origin, now: Instant) -> (Vec<u32>, Next) {
        let mut hosts = Vec::new();
        loop {
            match origin.next_part(now) {
                Next::Part { peer, .. } => hosts.push(peer.host),
                next => return (hosts, next),
            }
        }
    }

    #[test]
    fn window_holds_what_fits_the_way_and_two_blocks() {
        let mut origin = origin(0, 0);
        assert!(open(&mut origin, 1, 3 * BLOCK) && open(&mut origin, 2, 0));
        assert_eq!(sent(&mut origin, Instant::ZERO), (vec![1, 2, 1, 2, 1, 1, 1], Next::Nothing));
        let part = ByteRange::new(0, BLOCK).expect("in order");
        assert!(origin.arrived(PeerId { host: 2, task: 0 }, LeaseId(2), part).is_some());
        assert_eq!(sent(&mut origin, Instant::ZERO), (vec![2], Next::Nothing));
    }

    #[test]
    fn slow_connection_leaves_the_wire_to_others_meanwhile() {
        // A block a second on each connection.
        let mut origin = origin(0, BLOCK);
        assert!(open(&mut origin, 1, 0) && open(&mut origin, 2, 0));
        let second = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(sent(&mut origin, Instant::ZERO), (vec![1, 2], Next::Later(second)));
        assert_eq!(sent(&mut origin, second), (vec![1, 2], Next::Nothing), "the window is full");
    }

    #[test]
    fn get_beyond_the_connections_is_refused_until_one_is_free() {
        let mut origin = origin(1, 0);
        assert!(open(&mut origin, 1, 0) && !open(&mut origin, 2, 0));
        assert_eq!(sent(&mut origin, Instant::ZERO).0, [1, 1]);
        assert_eq!(origin.running().count(), 1);
        for host in [1, 2] {
            assert!(origin.close(PeerId { host, task: 0 }, LeaseId(u64::from(host))).is_some());
        }
        assert!(open(&mut origin, 2, 0));
        assert_eq!((sent(&mut origin, Instant::ZERO).0, origin.refusals), (vec![2, 2], 1));
    }
}
