//! One task on its way to this host: which block to ask of whom, and when to go to the origin.

mod events;

use core::time::Duration;

use hawker_proto::{Geometry, Instant, PieceMap};

pub use events::{DownloadInput, DownloadOutput, LeaseId, NeighborId, OriginOutcome, Progress};

use crate::DownloadConfig;

/// The machine of one task that this host wants.
#[derive(Debug)]
pub struct Download {
    config: DownloadConfig,
    geometry: Geometry,
    have: PieceMap,
}

impl Download {
    /// A download of what `have` lacks. `seed` decides every tie: one seed and one sequence of inputs give one
    /// sequence of outputs.
    ///
    /// # Panics
    /// When `have` is not of `geometry`'s piece count.
    #[must_use]
    pub fn new(config: DownloadConfig, geometry: Geometry, have: PieceMap, _seed: u64, _now: Instant) -> Self {
        assert_eq!(have.piece_count(), geometry.piece_count());
        Self { config, geometry, have }
    }

    /// Takes one input. `now` never goes backwards; inputs that make no sense (they come from peers) change nothing.
    pub fn handle(&mut self, _now: Instant, _input: DownloadInput) {
        let _ = (self.config, self.geometry);
    }

    /// The next thing to do. Call until `None` after every `handle`.
    pub fn poll(&mut self) -> Option<DownloadOutput> {
        None
    }

    /// When to call `handle` with [`DownloadInput::Tick`] if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Whether the bytes of this block would be new: the shell drops those of a block that is not wanted any more
    /// (it was stolen in the endgame, and the first copy won).
    #[must_use]
    pub fn is_block_wanted(&self, _piece: hawker_proto::PieceIndex, _block: hawker_proto::BlockIndex) -> bool {
        false
    }

    /// Figures for status and metrics.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { pieces_stored: self.have.len(), rate_bytes_per_s: 0, ..Progress::default() }
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// On a bug of this crate.
    pub fn assert_invariants(&self) {
        assert!(Duration::ZERO < self.config.timeout_min);
    }
}
