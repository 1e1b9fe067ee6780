//! What peers and HTTP clients have in common: which stored bytes may leave, and what happens to those that may not.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use hawker_proto::hash::block_value;
use hawker_proto::{BLOCK_BYTES, BlockIndex, Instant, PieceIndex, TaskId};
use hawker_ring::{Block, Residency, residency};

use super::Shard;
use crate::share::SharedTask;

impl Shard {
    /// Compares a block that was read from disk with its record. True: it may leave, now by reference too. False: its
    /// piece is gone from here and is fetched again.
    pub(super) fn check_block(
        &mut self,
        task: &SharedTask,
        piece: PieceIndex,
        block: BlockIndex,
        result: io::Result<usize>,
        memory: &Block,
    ) -> bool {
        let range = task.geometry().block_range(piece, block);
        let length = usize::try_from(range.length()).unwrap_or(BLOCK_BYTES as usize);
        let record = task.file().record(piece);
        let expected = record.as_ref().and_then(|record| record.get(block.0 as usize));
        let is_good = result.is_ok_and(|count| count == length)
            && expected == Some(&block_value(range.start(), &memory.as_slice()[..length]));
        if is_good {
            task.file().mark_checked(piece, block);
        } else {
            tracing::warn!(task = %task.id().short(), piece = piece.0, block = block.0, "a block rotted on disk");
            task.file().clear_piece(piece);
            self.on_piece_lost(task.id(), piece);
        }
        is_good
    }

    /// Whether `block` may be served by reference once its piece is whole; bytes just verified in memory and written
    /// through the page cache are as good as checked.
    pub(super) fn mark_checked(task: &SharedTask, piece: PieceIndex) {
        for block in 0..task.geometry().block_count(piece) {
            task.file().mark_checked(piece, BlockIndex(block));
        }
    }
}

/// Parts of contents that were in memory a moment ago. To have the kernel count pages costs a twentieth of what sending
/// them does.
#[derive(Debug, Default)]
pub(super) struct Recent(HashMap<(TaskId, u64), Instant>);

impl Recent {
    /// Bytes of a part, aligned to its length.
    const PART_BYTES: u64 = 1 << 20;
    /// How long a part counts: pages that were just sent are not the next that the kernel takes.
    const LASTS: Duration = Duration::from_millis(100);
    const PARTS_MAX: usize = 4096;

    /// As [`is_resident`], or was a moment ago.
    pub(super) fn is_resident(&mut self, now: Instant, task: &SharedTask, start: u64, end: u64) -> bool {
        let parts = start / Self::PART_BYTES..end.div_ceil(Self::PART_BYTES);
        let is_known = |part| self.0.get(&(task.id(), part)).is_some_and(|until| now < *until);
        if parts.clone().all(is_known) {
            return true;
        }
        if !is_resident(task, start, end) {
            return false;
        }
        if self.0.len() >= Self::PARTS_MAX {
            self.0.clear();
        }
        let is_to_the_end = end == task.geometry().length();
        let whole = start.div_ceil(Self::PART_BYTES)..if is_to_the_end { parts.end } else { end / Self::PART_BYTES };
        self.0.extend(whole.map(|part| ((task.id(), part), now + Self::LASTS)));
        true
    }
}

/// Whether bytes `start..end` of a task's content are in memory: others would hold the shard up.
pub(super) fn is_resident(task: &SharedTask, start: u64, end: u64) -> bool {
    residency(&**task.file().content(), start, end - start) == Residency::Resident
}
