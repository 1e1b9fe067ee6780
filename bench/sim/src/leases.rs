//! A stand-in for the scheduler: one cursor over the task, in index order.
//!
//! The seam to the production `Cluster` is [`Leases`]: what hosts ask goes in, a range or a refusal comes out.

use std::collections::VecDeque;
use std::time::Duration;

use hawker_proto::{ByteRange, Geometry, PieceIndex, PieceMap};
use hawker_swarm::LeaseId;

/// How long a host waits when all is leased or fetched.
const RETRY: Duration = Duration::from_millis(100);

/// The answer to a host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Lease { lease: LeaseId, range: ByteRange },
    NoLease { retry_after: Duration },
}

pub(crate) struct Leases {
    geometry: Geometry,
    cursor: u64,
    /// Given back: leased again first.
    returned: VecDeque<ByteRange>,
    /// Hosts that wait for a lease, and how much they would take.
    asking: VecDeque<(u32, u64)>,
    running: Vec<(LeaseId, ByteRange)>,
    running_max: usize,
    next_serial: u64,
}

impl Leases {
    pub(crate) const fn new(geometry: Geometry, running_max: usize) -> Self {
        Self {
            geometry,
            cursor: 0,
            returned: VecDeque::new(),
            asking: VecDeque::new(),
            running: Vec::new(),
            running_max,
            next_serial: 1,
        }
    }

    /// A host asks; it is answered when its turn comes, or when there is nothing to lease.
    pub(crate) fn ask(&mut self, host: u32, bytes: u64) {
        self.asking.retain(|(asking, _)| *asking != host);
        self.asking.push_back((host, bytes));
    }

    /// The lease is over; `rest` was not fetched.
    pub(crate) fn end(&mut self, lease: LeaseId, rest: ByteRange) {
        self.running.retain(|(running, _)| *running != lease);
        if !rest.is_empty() {
            self.returned.push_back(rest);
        }
    }

    /// Whatever was leased, and is neither in `kept` nor leased now, is leased again.
    pub(crate) fn reclaim(&mut self, mut kept: PieceMap) {
        self.returned.clear();
        for (_, range) in &self.running {
            kept.insert_range(self.geometry.pieces_within(*range));
        }
        let leased = self.geometry.pieces_within(ByteRange::new(0, self.cursor).unwrap_or_default());
        for piece in leased.map(PieceIndex).filter(|piece| !kept.contains(*piece)) {
            self.returned.push_back(self.geometry.piece_range(piece));
        }
    }

    /// The next answer that can be given.
    pub(crate) fn poll(&mut self) -> Option<(u32, Answer)> {
        let is_all_leased = self.returned.is_empty() && self.cursor == self.geometry.length();
        if !is_all_leased && self.running.len() >= self.running_max {
            return None;
        }
        let (host, bytes) = self.asking.pop_front()?;
        let Some(range) = self.returned.pop_front().or_else(|| self.next(bytes)) else {
            return Some((host, Answer::NoLease { retry_after: RETRY }));
        };
        let lease = LeaseId(self.next_serial);
        self.next_serial += 1;
        self.running.push((lease, range));
        Some((host, Answer::Lease { lease, range }))
    }

    fn next(&mut self, bytes: u64) -> Option<ByteRange> {
        let piece_bytes = u64::from(self.geometry.piece_bytes());
        // A small task is leased in small parts, so that its first pieces are with several hosts early.
        let part = (self.geometry.length() / 64).next_multiple_of(piece_bytes);
        let bytes = bytes.next_multiple_of(piece_bytes).min(part.max(piece_bytes));
        let end = (self.cursor + bytes).min(self.geometry.length());
        let range = ByteRange::new(self.cursor, end).filter(|range| !range.is_empty())?;
        self.cursor = end;
        Some(range)
    }
}
