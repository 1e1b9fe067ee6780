//! Leased ranges of a download, whoever fetches them: this shard or the control half.

use std::time::Duration;

use hawker_proto::hash::ChainingValue;
use hawker_proto::trust::{SignedAllowance, SignedLease};
use hawker_proto::{Instant, TaskId};
use hawker_ring::Block;
use hawker_swarm::{DownloadInput, LeaseId, OriginOutcome};

use super::Shard;
use super::origin::STALL_LIMIT;
use crate::seam::{OriginEnd, ShardEvent, Trouble};
use crate::share::Source;

/// The lease ran out first: the rest goes elsewhere at once. It counts as a failure all the same, or an origin that is
/// silent for longer than its leases live would be asked for ever.
const EXPIRED: OriginEnd = OriginEnd::Failed { retry_after: Duration::ZERO, trouble: Trouble::Silent(STALL_LIMIT) };

/// A block from an origin, hashed.
pub(super) struct Arrived {
    pub(super) offset: u64,
    pub(super) block: Block,
    pub(super) length: usize,
    pub(super) value: ChainingValue,
}

/// A range of a task that arrives from the origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) from: u64,
    /// Bytes before this offset have arrived.
    pub(super) upto: u64,
    /// When the range is somebody else's; `None` for a fetch under an allowance.
    pub(super) ends: Option<Instant>,
}

impl Shard {
    pub(super) fn on_lease(&mut self, task: TaskId, lease: SignedLease, valid: Duration) {
        let (serial, range) = (lease.lease.serial, lease.lease.range);
        let Some(driver) = self.downloads.get_mut(&task) else {
            // It was done before the answer came: somebody else may have the range.
            let end = OriginEnd::Complete;
            self.events.push(ShardEvent::LeaseDone { task, serial, upto: range.start(), end });
            return;
        };
        driver.lease_ends.insert(LeaseId(serial), self.now + valid);
        self.sign_under(task, lease);
        self.tell(task, DownloadInput::Lease { lease: LeaseId(serial), range });
    }

    pub(super) fn on_no_lease(&mut self, task: TaskId, retry_after: Duration) {
        self.tell(task, DownloadInput::NoLease { retry_after });
    }

    pub(super) fn on_allowance(&mut self, task: TaskId, allowance: SignedAllowance) {
        if let Some(driver) = self.downloads.get_mut(&task) {
            driver.allowance = Some(allowance);
        }
        self.tell(task, DownloadInput::Allowance { bytes: allowance.allowance.bytes });
    }

    /// Ends the streams whose leases are over: the scheduler gives their ranges to others.
    pub(super) fn end_expired_streams(&mut self, task: TaskId) {
        let now = self.now;
        let Some(driver) = self.downloads.get(&task) else { return };
        let expired = driver.streams.iter().filter(|(_, stream)| stream.ends.is_some_and(|ends| ends <= now));
        let expired: Vec<(LeaseId, Stream)> = expired.map(|(lease, stream)| (*lease, *stream)).collect();
        for (lease, stream) in expired {
            tracing::debug!(task = %task.short(), "a lease ran out before its range had arrived");
            self.stop_stream(task, lease);
            self.events.push(ShardEvent::LeaseDone { task, serial: lease.0, upto: stream.upto, end: EXPIRED });
            let outcome = OriginOutcome::Failed { retry_after: Duration::ZERO };
            self.tell(task, DownloadInput::OriginEnded { lease, outcome });
        }
    }

    pub(super) fn end_stream(&mut self, task: TaskId, lease: LeaseId, end: OriginEnd) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(stream) = driver.streams.remove(&lease) else { return };
        let end = match end {
            // An origin, or a box before it, that ends bodies early would cost a pause a body.
            OriginEnd::Failed { trouble: Trouble::Broken, .. } if stream.upto > stream.from => {
                OriginEnd::Failed { retry_after: Duration::ZERO, trouble: Trouble::Broken }
            }
            end => end,
        };
        let outcome = match end {
            OriginEnd::Complete => OriginOutcome::Complete,
            OriginEnd::Failed { retry_after, .. } => OriginOutcome::Failed { retry_after },
            OriginEnd::Refused { .. } => OriginOutcome::Refused,
        };
        self.events.push(ShardEvent::LeaseDone { task, serial: lease.0, upto: stream.upto, end });
        self.tell(task, DownloadInput::OriginEnded { lease, outcome });
    }

    pub(super) fn on_control_data(&mut self, task: TaskId, serial: u64, arrived: Arrived) {
        self.on_arrived(task, LeaseId(serial), arrived);
    }

    pub(super) fn on_control_end(&mut self, task: TaskId, serial: u64, end: OriginEnd) {
        self.end_stream(task, LeaseId(serial), end);
    }

    /// One block of a stream: it is noted and written.
    pub(super) fn on_arrived(&mut self, task: TaskId, lease: LeaseId, arrived: Arrived) {
        let Arrived { offset, block: memory, length, value } = arrived;
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(stream) = driver.streams.get_mut(&lease) else { return };
        let Some((piece, block)) = driver.task.geometry().block_at(offset) else { return };
        let range = driver.task.geometry().block_range(piece, block);
        let is_next = offset == stream.upto && range.start() == offset && range.length() == length as u64;
        assert!(is_next, "blocks of a stream come whole and in order: {offset} + {length} after {stream:?}");
        stream.upto = range.end();
        let upto = stream.upto;
        self.counters.origin_bytes.add(length as u64);
        driver.task.count(Source::Origin, length as u64);
        if !self.note_origin_value(task, piece, block, value) {
            tracing::warn!(task = %task.short(), piece = piece.0, "the origin's bytes differ from what was recorded");
            self.end_stream(task, lease, OriginEnd::Refused { status: 412 });
            self.stop_stream(task, lease);
            return;
        }
        self.note_single_block(task, &memory, length);
        let is_new = self.downloads.get(&task).is_some_and(|driver| !driver.task.file().has_piece(piece));
        if is_new {
            self.write_block(task, piece, block, memory, length);
        }
        self.tell(task, DownloadInput::OriginProgress { lease, upto });
    }
}
