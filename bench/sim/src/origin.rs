//! The origin: a wire of its own, shared block by block by the fetches that run.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use hawker_proto::{ByteRange, Geometry, Instant, PieceIndex, PieceMap};
use hawker_swarm::LeaseId;

use crate::peer::PeerId;

/// Blocks of one fetch on the wire at the same time: its window.
const WINDOW: u32 = 2;

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
    in_flight: u32,
}

pub(crate) struct Origin {
    /// In the order in which they send.
    gets: VecDeque<Get>,
    tasks: Vec<Geometry>,
    /// Pieces of each task of which a fetch was opened at some time.
    asked: Vec<PieceMap>,
    /// Body bytes sent.
    pub(crate) bytes: u64,
    /// Of these, bytes that a host had, or was fetching, when their fetch began.
    pub(crate) bytes_repeated: u64,
    /// For how long how many hosts were fetching: the sum of their products, while the wire was not idle.
    holder_time: Duration,
    busy_time: Duration,
    last_sent_at: Instant,
}

impl Origin {
    pub(crate) fn new(tasks: Vec<Geometry>) -> Self {
        Self {
            gets: VecDeque::new(),
            asked: tasks.iter().map(|geometry| PieceMap::empty(geometry.piece_count())).collect(),
            tasks,
            bytes: 0,
            bytes_repeated: 0,
            holder_time: Duration::ZERO,
            busy_time: Duration::ZERO,
            last_sent_at: Instant::ZERO,
        }
    }

    pub(crate) fn was_asked(&self, task: u16, piece: PieceIndex) -> bool {
        self.asked[usize::from(task)].contains(piece)
    }

    /// Whether some fetch that runs will bring any of `range`.
    pub(crate) fn is_fetching(&self, task: u16, range: ByteRange) -> bool {
        let is_of = |get: &Get| get.range.intersection(range).is_some_and(|common| !common.is_empty());
        self.gets.iter().any(|get| get.peer.task == task && is_of(get))
    }

    /// Notes that the wire is taken from `now` on for `time`.
    pub(crate) fn note_sending(&mut self, now: Instant, time: Duration) {
        let holders: BTreeSet<u32> =
            self.gets.iter().filter(|get| get.upto < get.range.end()).map(|get| get.peer.host).collect();
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

    pub(crate) fn open(&mut self, peer: PeerId, lease: LeaseId, range: ByteRange) {
        let task = usize::from(peer.task);
        self.asked[task].insert_range(self.tasks[task].pieces_within(range));
        let get = Get { peer, lease, range, next: range.start(), upto: range.start(), in_flight: 0 };
        self.gets.push_back(get);
    }

    /// The next part of the next body in turn: at most a block, cut at block boundaries of the task.
    pub(crate) fn next_part(&mut self) -> Option<(PeerId, LeaseId, ByteRange)> {
        for _ in 0..self.gets.len() {
            let mut get = self.gets.pop_front()?;
            let block = u64::from(self.tasks[usize::from(get.peer.task)].block_bytes());
            let end = (get.next / block + 1).saturating_mul(block).min(get.range.end());
            let part = ByteRange::new(get.next, end).filter(|part| !part.is_empty() && get.in_flight < WINDOW);
            if let Some(part) = part {
                get.next = end;
                get.in_flight += 1;
                self.bytes += part.length();
            }
            self.gets.push_back(get);
            if let Some(part) = part {
                return Some((get.peer, get.lease, part));
            }
        }
        None
    }

    /// A part is at its host; the fetch as it stands, `None` when it was closed before.
    pub(crate) fn arrived(&mut self, peer: PeerId, lease: LeaseId, part: ByteRange) -> Option<Get> {
        let index = self.gets.iter().position(|get| get.peer == peer && get.lease == lease)?;
        let get = &mut self.gets[index];
        get.in_flight -= 1;
        get.upto = get.upto.max(part.end());
        let get = *get;
        if get.upto == get.range.end() {
            self.gets.remove(index);
        }
        Some(get)
    }

    /// Ends a fetch early; what had not arrived.
    pub(crate) fn close(&mut self, peer: PeerId, lease: LeaseId) -> Option<ByteRange> {
        let index = self.gets.iter().position(|get| get.peer == peer && get.lease == lease)?;
        let get = self.gets.remove(index)?;
        ByteRange::new(get.upto, get.range.end())
    }

    /// All fetches.
    pub(crate) fn running(&self) -> impl Iterator<Item = (PeerId, LeaseId)> {
        self.gets.iter().map(|get| (get.peer, get.lease))
    }

    /// Fetches of a host.
    pub(crate) fn of_host(&self, host: u32) -> Vec<(PeerId, LeaseId)> {
        self.gets.iter().filter(|get| get.peer.host == host).map(|get| (get.peer, get.lease)).collect()
    }
}
