//! A stand-in for the scheduler: one cursor over the task, in index order.
//!
//! The seam to the production `Cluster` is [`Leases`]: what hosts ask goes in, a range or a refusal comes out.

use std::collections::VecDeque;
use std::time::Duration;

use hawker_proto::{ByteRange, Geometry};
use hawker_swarm::LeaseId;

/// How long a host waits after a refusal.
const RETRY: Duration = Duration::from_millis(50);

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
    running: Vec<LeaseId>,
    running_max: usize,
    next_serial: u64,
}

impl Leases {
    pub(crate) const fn new(geometry: Geometry, running_max: usize) -> Self {
        Self { geometry, cursor: 0, returned: VecDeque::new(), running: Vec::new(), running_max, next_serial: 1 }
    }

    pub(crate) fn ask(&mut self, bytes: u64) -> Answer {
        if self.running.len() >= self.running_max {
            return Answer::NoLease { retry_after: RETRY };
        }
        let Some(range) = self.returned.pop_front().or_else(|| self.next(bytes)) else {
            return Answer::NoLease { retry_after: RETRY };
        };
        let lease = LeaseId(self.next_serial);
        self.next_serial += 1;
        self.running.push(lease);
        Answer::Lease { lease, range }
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

    /// The lease is over; `rest` was not fetched.
    pub(crate) fn end(&mut self, lease: LeaseId, rest: ByteRange) {
        self.running.retain(|running| *running != lease);
        if !rest.is_empty() {
            self.returned.push_back(rest);
        }
    }
}
