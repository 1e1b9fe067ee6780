//! What comes in from other zones: few wires lead there, so each piece should cross the border once.
//!
//! The scheduler gives every stripe of pieces to one host of the zone, its importer. Of neighbors in other zones a host
//! asks only for pieces of its stripes, and only for those that no neighbor of its own zone has. All other hosts get
//! the piece inside the zone.
//!
//! An importer may die, be stuck, or be cut off from the other zones without the scheduler's notice. So a host watches
//! for pieces that only other zones have: what stays so for long is overdue, and then for anybody to bring in. Other
//! importers, which have links for it, look more often than the rest.

use core::time::Duration;

use hawker_proto::{Geometry, Instant, PieceIndex, Stripes};

use super::Download;
use crate::bits::Bits;

/// An importer takes a piece of another one's stripe for overdue after one to four of these. Imports in a full swarm of
/// 1 Gbit/s take a few tens of milliseconds.
const OVERDUE_MIN: Duration = Duration::from_millis(500);
const OVERDUE_MAX: Duration = Duration::from_secs(10);
/// ... and not sooner than so many pieces take at this host's rate.
const OVERDUE_PIECES: u64 = 32;
/// A host without a stripe waits so many times longer: importers come first, and many hosts would all ask at once.
const BYSTANDER_PATIENCE: u32 = 4;

#[derive(Debug)]
pub(super) struct Imports {
    is_importer: bool,
    /// Pieces that only other zones had at the last look.
    foreign: Bits,
    /// When to look again. `None` without neighbors in other zones, and when everything is here.
    look_at: Option<Instant>,
}

impl Imports {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self { is_importer: false, foreign: Bits::empty(geometry.piece_count()), look_at: None }
    }
}

impl Download {
    /// A neighbor in another zone is there, or a piece is not.
    pub(super) fn start_imports(&mut self) {
        if self.imports.look_at.is_none() {
            self.look_again();
        }
    }

    pub(super) fn import(&mut self, stripes: Stripes) {
        self.imports.is_importer = stripes != Stripes::NONE;
        self.pieces.set_stripes(stripes);
        self.make_remote_useful();
    }

    /// There may be pieces to ask of other zones now that were not before.
    pub(super) fn make_remote_useful(&mut self) {
        for neighbor in self.neighbors.iter_mut().filter(|neighbor| neighbor.is_remote) {
            neighbor.is_useful = true;
            self.needs_fill = true;
        }
    }

    fn look_again(&mut self) {
        let bytes = u64::from(self.pieces.geometry().piece_bytes()) * OVERDUE_PIECES;
        let rate = self.rate.bytes_per_s().unwrap_or(0).max(1);
        let patience = Duration::from_millis(bytes.saturating_mul(1000) / rate).clamp(OVERDUE_MIN, OVERDUE_MAX);
        let factor = if self.imports.is_importer { 1 } else { BYSTANDER_PATIENCE };
        let at = self.now + self.jittered(patience * factor);
        self.imports.look_at = Some(at);
        self.wake(at);
    }

    pub(super) fn expire_imports(&mut self) {
        let Some(at) = self.imports.look_at else { return };
        if at > self.now {
            self.wake(at);
        } else if !self.is_complete && self.neighbors.iter().any(|neighbor| neighbor.is_remote) {
            self.look_for_overdue();
            self.look_again();
        } else {
            self.imports.look_at = None;
        }
    }

    fn look_for_overdue(&mut self) {
        for piece in (0..self.pieces.geometry().piece_count()).map(PieceIndex) {
            let is_foreign = self.pieces.is_foreign(piece);
            let was_foreign = !self.imports.foreign.set(piece, is_foreign) && is_foreign;
            if was_foreign {
                self.pieces.set_overdue(piece);
            }
        }
        self.make_remote_useful();
    }
}
