//! One neighbor, as a download sees it.

use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::{Instant, PieceIndex};

use super::NeighborId;
use super::meter::TimeMeter;
use crate::DownloadConfig;
use crate::bits::Bits;

#[derive(Debug)]
pub(super) struct Neighbor {
    pub(super) id: NeighborId,
    pub(super) have: Bits,
    pub(super) round_trip: Duration,
    /// In another zone.
    pub(super) is_remote: bool,
    pub(super) serving: Serving,
    /// What was asked and has not arrived, in the order of asking.
    pub(super) runs: Vec<Run>,
    /// Time per block while it served us.
    pub(super) service: TimeMeter,
    /// Not asked before this: it let a request time out, or sent bad bytes.
    pub(super) rest_until: Instant,
    pub(super) timeouts: u32,
    /// Pieces it said it had, and then had not, since its last block.
    pub(super) gones: u32,
    /// Grants of it of which nothing was wanted any more, since its last block.
    pub(super) losses: u32,
    /// Grants that it took back, since its last block.
    pub(super) revoked: u32,
    /// It said that others are before us.
    pub(super) has_queue: bool,
    pub(super) bad_blocks: u32,
    /// It has every piece, and is slower than the origin.
    pub(super) is_ignored: bool,
    /// It may have something that could be asked of it. Cleared when a search found nothing, so that nobody is
    /// searched again before something changed.
    pub(super) is_useful: bool,
}

/// What a neighbor does for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serving {
    /// Nothing was asked.
    Nothing,
    /// Our request waits there.
    Later {
        since: Instant,
        /// It waits for so long that it no longer counts.
        is_stale: bool,
        /// The neighbor has not said yet whether it has to wait, and takes long to say so.
        is_unanswered: bool,
    },
    /// We hold one of its slots.
    Now {
        blocks_left: u32,
        /// Last sign of life.
        heard: Instant,
        /// Last block, or the grant.
        block_at: Instant,
    },
}

/// Blocks of one piece asked for together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) piece: PieceIndex,
    /// Blocks that have not arrived; never empty.
    pub(super) blocks: u64,
}

impl Neighbor {
    pub(super) fn new(id: NeighborId, round_trip: Duration, is_remote: bool, piece_count: u32) -> Self {
        Self {
            id,
            have: Bits::empty(piece_count),
            round_trip,
            is_remote,
            serving: Serving::Nothing,
            runs: Vec::new(),
            service: TimeMeter::default(),
            rest_until: Instant::ZERO,
            timeouts: 0,
            gones: 0,
            losses: 0,
            revoked: 0,
            has_queue: false,
            bad_blocks: 0,
            is_ignored: false,
            is_useful: false,
        }
    }

    pub(super) const fn is_serving(&self) -> bool {
        matches!(self.serving, Serving::Now { .. })
    }

    pub(super) const fn is_waited_for(&self) -> bool {
        matches!(self.serving, Serving::Later { .. })
    }

    /// Counts for `queued_max`.
    pub(super) const fn is_queue_place(&self) -> bool {
        matches!(self.serving, Serving::Later { is_stale: false, .. })
    }

    pub(super) const fn is_unanswered(&self) -> bool {
        matches!(self.serving, Serving::Later { is_unanswered: true, .. })
    }

    pub(super) fn has_all(&self, piece_count: u32) -> bool {
        self.have.len() == piece_count
    }

    /// Blocks asked for and not here.
    pub(super) fn outstanding(&self) -> u32 {
        self.runs.iter().map(|run| run.blocks.count_ones()).sum()
    }

    /// Blocks of `piece` asked for and not here.
    pub(super) fn asked(&self, piece: PieceIndex) -> u64 {
        self.runs.iter().filter(|run| run.piece == piece).fold(0, |blocks, run| blocks | run.blocks)
    }

    /// Time per block, of this neighbor or, before it sent any, as `others` do; long when nothing is known.
    pub(super) fn service_time(&self, others: TimeMeter, config: &DownloadConfig) -> Duration {
        self.service.smoothed().or(others.smoothed()).unwrap_or(config.timeout_max / 4)
    }

    /// Runs of `run_blocks` to have waiting there: the parent sends them while it is asked for more.
    pub(super) fn runs_waiting(&self, run_blocks: u32, others: TimeMeter, config: &DownloadConfig) -> usize {
        let run_time = self.service_time(others, config) * run_blocks;
        let in_round_trip = self.round_trip.as_nanos() / run_time.as_nanos().max(1);
        usize::try_from(in_round_trip).unwrap_or(usize::MAX).saturating_add(config.runs_waiting).min(config.runs_max)
    }

    /// Silence after which a granted request is given up.
    pub(super) fn timeout(&self, others: TimeMeter, config: &DownloadConfig) -> Duration {
        (self.service_time(others, config) * 4).clamp(config.timeout_min, config.timeout_max)
    }

    /// When the last of what is asked up to and including run `index` will be here, as far as one can tell.
    pub(super) fn eta(&self, index: usize, now: Instant, others: TimeMeter) -> Duration {
        let Serving::Now { block_at, .. } = self.serving else { return Duration::MAX };
        let blocks: u32 = self.runs.iter().take(index + 1).map(|run| run.blocks.count_ones()).sum();
        let silence = now.since(block_at);
        // A neighbor that is late already will be at least as late again; of one that nobody knows, that is all that
        // can be said.
        let service = self.service.smoothed().or(others.smoothed()).unwrap_or_default();
        (service * blocks).saturating_sub(silence).max(silence)
    }

    /// When `blocks` more, asked for now, would be here.
    pub(super) fn eta_of_more(&self, blocks: u32, others: TimeMeter, config: &DownloadConfig) -> Duration {
        self.round_trip + self.service_time(others, config) * (self.outstanding() + blocks)
    }
}
