//! A task and its peers.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::{Geometry, Instant, TaskId};

use crate::host::Host;
use crate::origin::Origin;
use crate::pieces::Pieces;
use crate::table::Slot;

/// One host's part in one task. 10,000 hosts times their tasks of these: kept small (a test holds it to 64 bytes with
/// what else a pair costs).
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) host: Slot<Host>,
    pub(crate) task: Slot<Task>,
    /// Neighbors: places in the host's pool.
    pub(crate) mask: u64,
    /// Its ask for a lease, when one waits.
    pub(crate) ask: Option<AskKey>,
    /// Where it stands in the task's list.
    pub(crate) position: u32,
    /// The last round of reports it was asked in.
    pub(crate) round: u32,
    pub(crate) have_count: u32,
    /// No lease before this second of the machine's clock: its last one failed.
    pub(crate) cool_until_s: u32,
    pub(crate) leases: u8,
    pub(crate) failures: u8,
    pub(crate) is_running: bool,
    pub(crate) is_complete: bool,
    /// The origin refuses it.
    pub(crate) is_refused: bool,
    /// Its host came back and has not named the task again.
    pub(crate) is_stale: bool,
    /// It was asked for a report and has not answered.
    pub(crate) is_asked: bool,
    /// It lost neighbors and waits for others.
    pub(crate) is_lonely: bool,
}

impl Peer {
    pub(crate) const fn degree(&self) -> u32 {
        self.mask.count_ones()
    }
}

/// Immutable content that hosts have or fetch.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    /// The only host that may have it, for content that must not be shared.
    pub(crate) owner: Option<Slot<Host>>,
    pub(crate) geometry: Geometry,
    pub(crate) origin: Option<Slot<Origin>>,
    pub(crate) has_ranges: bool,
    pub(crate) is_changed: bool,
    pub(crate) validators: Vec<u8>,
    pub(crate) digest: Option<Digest>,
    /// Keys that were resolved to it: forgotten when it turns out to have changed.
    pub(crate) keys: Vec<ResolveKey>,
    pub(crate) peers: Vec<Slot<Peer>>,
    pub(crate) running_count: u32,
    pub(crate) complete_count: u32,
    pub(crate) pieces: Tracking,
    pub(crate) leases: Vec<Lease>,
    /// Asks in the order in which they are met.
    pub(crate) asks: BTreeMap<AskKey, Ask>,
    /// Leases wait for announcements until then.
    pub(crate) settle: Option<Settle>,
    pub(crate) round: Option<Round>,
    /// Sum of link rates of the peers, for their mean.
    pub(crate) link_rates: u64,
    /// Peers that the last allowances were shared out for.
    pub(crate) allowance_shares: u32,
}

/// What is known of a task's pieces.
#[derive(Debug)]
pub(crate) enum Tracking {
    /// Some peer is complete: nothing need be tracked.
    Whole,
    /// Piece by piece.
    Each(Pieces),
}

/// A live lease.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) serial: u64,
    pub(crate) holder: Slot<Host>,
    /// The stay of its holder in which it was given or named.
    pub(crate) stay: u64,
    pub(crate) pieces: Range<u32>,
    /// Bytes reported so far.
    pub(crate) reported: u64,
    pub(crate) bytes: u64,
    pub(crate) start: u64,
    /// `None`: bytes came before, so that its time says nothing about the rate.
    pub(crate) granted_at: Option<Instant>,
}

/// Who is next: fewest leases first, hosts with slow links after others, then who asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AskKey {
    pub(crate) leases: u8,
    pub(crate) is_slow: bool,
    pub(crate) is_no_seed: bool,
    pub(crate) number: u32,
}

/// A wish for a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) peer: Slot<Peer>,
    /// 0: as much as the cluster thinks right.
    pub(crate) bytes: u64,
    pub(crate) bytes_per_s: u64,
}

/// A wait for announcements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settle {
    pub(crate) until: Instant,
    pub(crate) latest: Instant,
}

/// Asking the peers what they have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Peers asked in this one carry it.
    pub(crate) number: u32,
    /// Names the part of it that is being waited for, for timers.
    pub(crate) part: u64,
    pub(crate) asked_max: usize,
    pub(crate) unanswered: u32,
}

/// How long a part of a round waits for its answers.
pub(crate) const REPORT_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_task_together_cost_at_most_64_bytes() {
        // The row, its place in the task's list, and its entry in the host's map (B-tree nodes are two thirds full).
        let entry = size_of::<(Slot<Task>, Slot<Peer>)>() * 3 / 2;
        let bytes = size_of::<Option<Peer>>() + size_of::<Slot<Peer>>() + entry;
        assert!(bytes <= 64, "{bytes} bytes");
    }
}
