//! A task and its peers.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::{Geometry, Instant, PieceIndex, TaskId};

use crate::host::{Host, Places};
use crate::members::Members;
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
    pub(crate) mask: Places,
    /// Its ask for a lease, when one waits.
    pub(crate) ask: Option<AskKey>,
    /// Where it stands in the list of its zone in the task.
    pub(crate) position: u32,
    /// The part of a round of reports in which it was asked and has not answered; 0: none.
    pub(crate) asked_in: u32,
    /// No lease before this second of the machine's clock: its last one failed.
    pub(crate) cool_until_s: u32,
    pub(crate) leases: u8,
    pub(crate) failures: u8,
    /// Neighbors in other zones: counted, for a look at each would wait for memory.
    pub(crate) far_degree: u8,
    pub(crate) is_running: bool,
    pub(crate) is_complete: bool,
    /// The origin refuses it.
    pub(crate) is_refused: bool,
    /// Its host came back and has not named the task again.
    pub(crate) is_stale: bool,
    /// It lost neighbors and waits for others.
    pub(crate) is_lonely: bool,
}

impl Peer {
    pub(crate) const fn degree(&self) -> u32 {
        self.mask.len()
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
    pub(crate) peers: Members,
    pub(crate) running_count: u32,
    pub(crate) complete_count: u32,
    pub(crate) pieces: Tracking,
    pub(crate) leases: Vec<Lease>,
    /// Pieces that came under leases of this life, and who has them: more than a word.
    pub(crate) fetched: Vec<(Range<u32>, Slot<Host>)>,
    /// Pieces leased again to the hosts that had fetched them.
    pub(crate) lost_count: u32,
    /// Asks in the order in which they are met.
    pub(crate) asks: BTreeMap<AskKey, Ask>,
    /// Leases wait for announcements until then.
    pub(crate) settle: Option<Settle>,
    pub(crate) round: Option<Round>,
    /// Sum of link rates of the peers, for their mean.
    pub(crate) link_rates: u64,
    /// Sales begun: each is of one file at most.
    pub(crate) sales: u32,
    /// Importers are about to be told.
    pub(crate) is_rewiring: bool,
    /// Peers that the last allowances were shared out for.
    pub(crate) allowance_shares: u32,
    /// Asks are being refused, some at a time.
    pub(crate) is_refusing: bool,
}

/// What is known of a task's pieces.
#[derive(Debug)]
pub(crate) enum Tracking {
    /// Some peer is complete: nothing need be tracked.
    Whole,
    /// Some peer is complete, but slower than the origin: each piece may be leased once more. Free ones are for sale, held
    /// ones sold.
    Sale(Pieces),
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

/// Who is next: hosts from which a piece finds its way into other zones, then fewest leases first, hosts with slow links
/// after others, then who asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AskKey {
    /// In a task of several zones, neither an importer nor a seed.
    pub(crate) is_bystander: bool,
    pub(crate) leases: u8,
    pub(crate) is_slow: bool,
    pub(crate) is_no_seed: bool,
    pub(crate) number: u32,
}

/// A wish for a lease that waits in line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) peer: Slot<Peer>,
    pub(crate) wish: Wish,
}

/// What a host would fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// 0: as much as the cluster thinks right.
    pub(crate) bytes: u64,
    /// What it measured from the origin; 0: nothing.
    pub(crate) bytes_per_s: u64,
    /// What hosts draw from those that have everything, if it would buy what only these have.
    pub(crate) source_bytes_per_s: Option<u64>,
    /// What it starves for.
    pub(crate) lacked: Option<PieceIndex>,
}

/// A wait for announcements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settle {
    pub(crate) until: Instant,
    pub(crate) latest: Instant,
}

/// Asking the peers what they have, in the order of the task's lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Names the part of it that is being waited for, for timers.
    pub(crate) part: u64,
    /// Peers still to be asked in this part.
    pub(crate) left: u32,
    /// Peers to be asked in the next part.
    pub(crate) next: u32,
    pub(crate) unanswered: u32,
}

impl Round {
    /// The part's name as its peers carry it.
    pub(crate) fn mark(&self) -> u32 {
        // 2^32 events later a mark comes again, long after anybody carries it. 0 is nobody's.
        u32::try_from(self.part & u64::from(u32::MAX)).expect("masked").max(1)
    }
}

/// How long a part of a round waits for its answers.
pub(crate) const REPORT_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_task_together_cost_at_most_64_bytes() {
        // The row, its place in the task's list, which doubles when it is full, and its entry in the host's, which
        // grows by an eighth. What is really allocated is measured by `tests/memory.rs`.
        let entry = size_of::<(Slot<Task>, Slot<Peer>)>() * 9 / 8;
        let bytes = size_of::<Option<Peer>>() + size_of::<Slot<Peer>>() * 2 + entry;
        assert!(bytes <= 64, "{bytes} bytes");
    }
}
