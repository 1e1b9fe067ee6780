//! What a caller is about to read is compared with its records first, unless it is known to be good: disks rot, and a
//! command line has nothing to compare with.

use std::sync::Arc;

use hawker_proto::hash::block_value;
use hawker_proto::{BlockIndex, PieceIndex, PieceMap};
use hawker_ring::{Residency, residency};
use hawker_storage::{TaskFile, blocking};
use tokio::sync::mpsc;

/// Pieces compared that the session has not heard of yet.
const QUEUE_MAX: usize = 64;

/// The pieces that were here when a caller came, and how far comparing them is.
pub(super) struct Proof {
    unproven: PieceMap,
    has_lost: bool,
    results: mpsc::Receiver<(PieceIndex, bool)>,
}

impl Proof {
    /// Begins to compare what is here, on a thread that may wait for the disk. A piece that differs is cleared.
    pub(super) fn begin(file: &Arc<TaskFile>) -> Self {
        let unproven = file.received();
        let (sender, results) = mpsc::channel(QUEUE_MAX);
        if !unproven.is_empty() {
            let (file, pieces) = (Arc::clone(file), unproven.clone());
            // Ends with the session: then nobody takes the results.
            tokio::task::spawn_blocking(move || {
                let prove = |piece| sender.blocking_send((piece, prove(&file, piece))).is_ok();
                pieces.iter().all(prove);
            });
        }
        Self { unproven, has_lost: false, results }
    }

    /// Resolves when more is known, with the piece that turned out to be bad.
    pub(super) async fn next(&mut self) -> Option<PieceIndex> {
        let Some((piece, is_good)) = self.results.recv().await else {
            return std::future::pending().await;
        };
        self.unproven.remove(piece);
        self.has_lost |= !is_good;
        (!is_good).then_some(piece)
    }

    /// Of `received`, what the caller may read.
    pub(super) fn readable(&self, mut received: PieceMap) -> PieceMap {
        for piece in self.unproven.iter() {
            received.remove(piece);
        }
        received
    }

    /// Whether all is compared.
    pub(super) fn is_over(&self) -> bool {
        self.unproven.is_empty()
    }

    /// Whether a piece was bad.
    pub(super) fn has_lost(&self) -> bool {
        self.has_lost
    }
}

/// Whether the piece may be read. Blocks that were checked and have not left memory since are as they were.
fn prove(file: &TaskFile, piece: PieceIndex) -> bool {
    let geometry = file.geometry();
    for block in (0..geometry.block_count(piece)).map(BlockIndex) {
        let range = geometry.block_range(piece, block);
        let is_known = file.is_checked(piece, block)
            && residency(&**file.content(), range.start(), range.length()) == Residency::Resident;
        if is_known {
            continue;
        }
        let length = usize::try_from(range.length()).expect("a block fits into memory");
        // An unreadable block is as lost as a rotten one: written anew it may be readable again.
        let bytes = blocking::read_at(file.content(), length, range.start()).unwrap_or_default();
        let expected = file.record(piece).and_then(|record| record.get(block.0 as usize).copied());
        if bytes.len() != length || expected != Some(block_value(range.start(), &bytes)) {
            tracing::warn!(task = %file.id().short(), piece = piece.0, block = block.0, "a block rotted on disk");
            file.clear_piece(piece);
            return false;
        }
        file.mark_checked(piece, block);
    }
    true
}
