//! Blocks on their way to disk, and the pieces that they make.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use hawker_proto::hash::{self, ChainingValue, Root};
use hawker_proto::{BlockIndex, PieceIndex, TaskId};
use hawker_ring::{Block, Op};
use hawker_storage::TaskFile;
use hawker_swarm::DownloadInput;

use super::{Purpose, Shard};
use crate::seam::{DownloadError, ShardEvent};

/// The blocks of one piece that are written, and the values of those that came from the origin.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// A bit a block; a piece has at most 64.
    written: u64,
    values: HashMap<BlockIndex, ChainingValue>,
}

impl Shard {
    /// Remembers the root of content of one block while its bytes are at hand.
    pub(super) fn note_single_block(&mut self, task: TaskId, memory: &Block, length: usize) {
        let driver = self.downloads.get_mut(&task);
        if let Some(driver) = driver.filter(|driver| driver.task.geometry().block_count_total() == 1) {
            driver.single_root = Some(hash::root_of_bytes(&memory.as_slice()[..length]));
        }
    }

    /// A verified block goes to disk.
    pub(super) fn write_block(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        block: BlockIndex,
        memory: Block,
        length: usize,
    ) {
        let Some(driver) = self.downloads.get(&task) else { return };
        let offset = driver.task.geometry().block_range(piece, block).start();
        let (file, run) = (driver.file(), driver.run);
        // O_DIRECT takes whole sectors; a shorter tail goes through the page cache.
        let is_aligned = (length as u64).is_multiple_of(hawker_storage::DIRECT_ALIGNMENT);
        let target = file.direct().filter(|_| is_aligned).unwrap_or_else(|| file.content());
        let op = Op::Write { file: Arc::clone(target), block: memory, range: 0..length, offset };
        self.submit(op, Purpose::Write { task, run, piece, block });
    }

    /// The value of a block that came from the origin, kept until its piece is whole. False: it differs from what is
    /// recorded, so the origin's content changed or somebody lied.
    pub(super) fn note_origin_value(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        block: BlockIndex,
        value: ChainingValue,
    ) -> bool {
        let Some(driver) = self.downloads.get_mut(&task) else { return true };
        if let Some(record) = driver.task.file().record(piece) {
            return record.get(block.0 as usize) == Some(&value);
        }
        driver.assemblies.entry(piece).or_default().values.insert(block, value);
        true
    }

    pub(super) fn on_wrote(
        &mut self,
        task: TaskId,
        run: u64,
        piece: PieceIndex,
        block: BlockIndex,
        result: io::Result<usize>,
    ) {
        let Some(driver) = self.downloads.get_mut(&task).filter(|driver| driver.run == run) else { return };
        if result.is_ok() && driver.file().has_piece(piece) {
            // The same bytes once more, from a peer and from the origin: they were on their way when the piece was whole.
            return;
        }
        if let Err(error) = result {
            driver.assemblies.remove(&piece);
            let message = format!("cannot write to the data directory: {error}");
            let error = DownloadError::Disk { message, os_error: error.raw_os_error() };
            self.fail_download(task, error);
            self.tell(task, DownloadInput::PieceLost { piece });
            return;
        }
        let block_count = driver.task.geometry().block_count(piece);
        let assembly = driver.assemblies.entry(piece).or_default();
        assembly.written |= 1 << block.0;
        if assembly.written.count_ones() == block_count {
            self.finish_piece(task, piece);
        }
    }

    /// All blocks of a piece are written: it is received, recorded and announced.
    fn finish_piece(&mut self, task: TaskId, piece: PieceIndex) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let Some(assembly) = driver.assemblies.remove(&piece) else { return };
        let file = Arc::clone(driver.file());
        if file.has_piece(piece) {
            return;
        }
        // One that cannot be read back is replaced.
        if file.record(piece).is_none() {
            let block_count = driver.task.geometry().block_count(piece);
            let values: Option<Vec<ChainingValue>> =
                (0..block_count).map(|block| assembly.values.get(&BlockIndex(block)).copied()).collect();
            if values.is_none_or(|values| file.put_record(piece, &values).is_err()) {
                self.tell(task, DownloadInput::PieceLost { piece });
                return;
            }
        }
        file.mark_received(piece);
        Self::mark_checked(&driver.task, piece);
        self.counters.pieces.add(1);
        if driver.lacks_proof(piece) {
            driver.unsigned.push(piece);
            driver.unsigned_since.get_or_insert(self.now);
        }
        self.tell(task, DownloadInput::PieceStored { piece });
    }

    /// A stored piece turned out bad: it is fetched again, by the shard that downloads the task or by a new download.
    pub(super) fn on_piece_lost(&mut self, task: TaskId, piece: PieceIndex) {
        // Children that heard of the piece shall hear of it again when it is back.
        self.announce_everywhere(task);
        if self.downloads.contains_key(&task) {
            self.tell(task, DownloadInput::PieceLost { piece });
        } else {
            self.events.push(ShardEvent::PieceLost { task, piece });
        }
    }
}

/// The root of content of one block that was received by an earlier process: read back, one block at most.
pub(super) fn read_single_block(file: &TaskFile) -> Option<Root> {
    let length = usize::try_from(file.geometry().length()).ok()?;
    let bytes = hawker_storage::blocking::read_at(file.content(), length, 0).ok()?;
    let is_right = file.record(PieceIndex(0))? == [hash::block_value(0, &bytes)];
    is_right.then(|| hash::root_of_bytes(&bytes))
}
