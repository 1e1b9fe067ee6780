//! What goes into a [`Download`](super::Download) and what comes out.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use hawker_proto::{BlockIndex, ByteRange, PieceIndex, PieceMap, Stripes};

/// A peer of the task with which this host has a link. Given by the shell; an id is not used again for another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighborId(pub u32);

/// An origin fetch: the serial of its lease, or a number of our own when it runs under an allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Set in ids that this host made up for a fetch under an allowance; no scheduler counts that far.
    const OWN: u64 = 1 << 63;

    pub(super) const fn own(serial: u64) -> Self {
        Self(Self::OWN | serial)
    }

    /// Whether the fetch runs under an allowance, so that no scheduler knows this id.
    #[must_use]
    pub const fn is_own(self) -> bool {
        self.0 & Self::OWN != 0
    }
}

/// How a fetch from the origin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginOutcome {
    /// All of its range arrived.
    Complete,
    /// The origin failed; what arrived before is kept, the rest goes elsewhere after a while.
    Failed {
        /// How long not to ask for another lease.
        retry_after: Duration,
    },
    /// The origin refuses this host (401, 403): it asks for no lease again until it is [`DownloadInput::Admitted`].
    Refused,
}

/// What happened to the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownloadInput {
    /// A link to a peer of the task is ready for requests.
    NeighborUp {
        /// The peer.
        neighbor: NeighborId,
        /// Measured on the handshake.
        round_trip: Duration,
        /// It is in another zone: only what this host imports is asked of it, see `Imports`.
        is_remote: bool,
    },
    /// What this host brings into its zone, replacing what was said before: of remote neighbors only pieces of these
    /// stripes are asked, and of those only what no neighbor of this zone has. A new download
    /// imports nothing, and neither does one whose scheduler came back.
    Imports {
        /// Which.
        stripes: Stripes,
    },
    /// The origin admits this host again: somebody came with credentials that are still good.
    Admitted,
    /// The link's round trip was measured again: it grows when the wires on the way are full.
    RoundTrip {
        /// The peer.
        neighbor: NeighborId,
        /// As it is now.
        round_trip: Duration,
    },
    /// The link is gone, with everything that was asked on it.
    NeighborDown {
        /// The peer.
        neighbor: NeighborId,
    },
    /// The neighbor has these pieces too (a set to add).
    Have {
        /// Who.
        neighbor: NeighborId,
        /// Of the task's piece count; a set of another count means nothing.
        pieces: PieceMap,
    },
    /// The neighbor has this piece too: the small form of `Have`.
    HavePiece {
        /// Who.
        neighbor: NeighborId,
        /// Which.
        piece: PieceIndex,
    },
    /// The neighbor lost the piece, and dropped what was asked of it.
    Gone {
        /// Who.
        neighbor: NeighborId,
        /// Which.
        piece: PieceIndex,
    },
    /// A verified batch holds records of these pieces; a piece without a record is not asked of anybody.
    Records {
        /// Which.
        pieces: Vec<PieceIndex>,
    },
    /// The neighbor put our request behind others.
    Queued {
        /// Who.
        neighbor: NeighborId,
        /// Of the request.
        piece: PieceIndex,
    },
    /// The neighbor serves us now.
    Granted {
        /// Who.
        neighbor: NeighborId,
        /// For this many blocks, or more when they take next to no time, ...
        blocks: u32,
        /// ... or this long, whichever ends first.
        until: Duration,
    },
    /// Bytes of a block arrive: the neighbor is alive.
    Arriving {
        /// Who.
        neighbor: NeighborId,
    },
    /// A block was received and equals its record.
    BlockIn {
        /// From whom.
        neighbor: NeighborId,
        /// Which piece.
        piece: PieceIndex,
        /// Which block of it.
        block: BlockIndex,
    },
    /// A block was received and differs from its record.
    BlockBad {
        /// From whom.
        neighbor: NeighborId,
        /// Which piece.
        piece: PieceIndex,
        /// Which block of it.
        block: BlockIndex,
    },
    /// All blocks of the piece are written and marked, whether from peers or from the origin.
    PieceStored {
        /// Which.
        piece: PieceIndex,
    },
    /// The piece is not here after all (its write failed, or it rotted): it is fetched again.
    PieceLost {
        /// Which.
        piece: PieceIndex,
    },
    /// The answer to `AskLease`: this host may fetch the range from the origin.
    Lease {
        /// Its serial.
        lease: LeaseId,
        /// What.
        range: ByteRange,
    },
    /// The answer to `AskLease`: not now.
    NoLease {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The origin's body has arrived up to here.
    OriginProgress {
        /// Of which fetch.
        lease: LeaseId,
        /// Offset in the task of the first byte that is still to come.
        upto: u64,
    },
    /// The fetch is over. Pieces that it brought are reported by `PieceStored`, before or after.
    OriginEnded {
        /// Which fetch.
        lease: LeaseId,
        /// How.
        outcome: OriginOutcome,
    },
    /// A local reader waits; pieces before this one are read.
    Reader {
        /// Lowest piece that a local reader lacks.
        piece: PieceIndex,
    },
    /// Whether the scheduler can be asked. A new download believes it can.
    Scheduler {
        /// Now.
        is_connected: bool,
    },
    /// The scheduler signed an allowance: this many bytes may be fetched without a lease while it is away.
    Allowance {
        /// In all, not in addition to what was given before.
        bytes: u64,
    },
    /// Nothing happened but time: the deadline passed.
    Tick,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownloadOutput {
    /// Ask the neighbor for a run of blocks of one piece.
    Request {
        /// Whom.
        neighbor: NeighborId,
        /// Which piece.
        piece: PieceIndex,
        /// Which blocks of it: never empty, within the piece.
        blocks: Range<u32>,
    },
    /// Tell the neighbor to drop what it has not yet sent of the piece.
    Cancel {
        /// Whom.
        neighbor: NeighborId,
        /// Which piece.
        piece: PieceIndex,
    },
    /// Ask the scheduler for an origin lease. One question at a time: `Lease` or `NoLease` answers it.
    AskLease {
        /// How much this host would take.
        bytes: u64,
        /// What it measured from the origin, or from its neighbors when it never fetched; 0 when it knows nothing.
        rate: u64,
        /// What the hosts around this one draw from neighbors that have everything, in bytes/s, if it would buy from the
        /// origin what only those have, because they are slow.
        source_rate: Option<u64>,
        /// Nothing came from anybody for long: the first of the pieces, `bytes` of them, that no neighbor has.
        lacked: Option<PieceIndex>,
    },
    /// Give back the part of a lease that this host will not fetch.
    ReturnLease {
        /// Which lease.
        lease: LeaseId,
        /// Which part.
        range: ByteRange,
    },
    /// Fetch the range from the origin under the lease.
    FetchOrigin {
        /// Which lease.
        lease: LeaseId,
        /// What: within the lease.
        range: ByteRange,
    },
    /// End the fetch early: neighbors have what is left of it. Answered by `OriginEnded`.
    StopOrigin {
        /// Which fetch.
        lease: LeaseId,
    },
    /// Fetch the range from the origin under the allowance, without a lease.
    Originate {
        /// An id of our own (see [`LeaseId::is_own`]), for `OriginProgress` and `OriginEnded`.
        lease: LeaseId,
        /// What.
        range: ByteRange,
    },
    /// Tell all neighbors that this host has the piece.
    Announce {
        /// Which.
        piece: PieceIndex,
    },
    /// Tell the neighbor that it sent bad bytes.
    BadPiece {
        /// Whom.
        neighbor: NeighborId,
        /// Which piece.
        piece: PieceIndex,
        /// Which block of it.
        block: BlockIndex,
    },
    /// Have nothing to do with the neighbor any more in this task; it counts as down.
    Ban {
        /// Whom.
        neighbor: NeighborId,
    },
    /// Every piece is stored. Comes again if pieces are lost and fetched again.
    Complete,
}

/// Figures of a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pieces stored here.
    pub pieces_stored: u32,
    /// Pieces of the task.
    pub piece_count: u32,
    /// Bytes of the stored pieces.
    pub bytes_stored: u64,
    /// Bytes of blocks accepted from neighbors.
    pub bytes_from_peers: u64,
    /// Bytes of the origin's bodies.
    pub bytes_from_origin: u64,
    /// Bytes of blocks that arrived though they were here already, or were bad.
    pub bytes_wasted: u64,
    /// Smoothed rate from all sources.
    pub rate_bytes_per_s: u64,
    /// Neighbors in the task.
    pub neighbors: u32,
    /// Neighbors that serve us now.
    pub granted: u32,
    /// Neighbors at which we wait.
    pub queued: u32,
    /// Origin fetches that run.
    pub origin_fetches: u32,
}
