//! One host's part in one task: the download, and what a shell keeps for it.

use std::collections::BTreeMap;

use hawker_proto::{BlockIndex, Geometry, Instant, PieceIndex, PieceMap};
use hawker_swarm::Download;

use crate::Scenario;
use crate::reader::Reader;

/// Which host's part in which task; tasks are counted in the order of [`Scenario::tasks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerId {
    pub(crate) host: u32,
    pub(crate) task: u16,
}

pub(crate) struct Peer {
    pub(crate) geometry: Geometry,
    /// Begun anew when the scheduler names the task.
    pub(crate) download: Download,
    pub(crate) download_seed: u64,
    /// It knows the task, and downloads or has it.
    pub(crate) is_ready: bool,
    /// Hosts it links with, and whether the channel carries requests yet.
    pub(crate) parents: BTreeMap<u32, bool>,
    /// Hosts that opened the task on their link with it.
    pub(crate) children: Vec<u32>,
    blocks: Blocks,
    pub(crate) reader: Reader,
    /// A wake-up already among the events.
    pub(crate) wake: Option<Instant>,
    /// What was stored at the last report to the scheduler, for the rate.
    pub(crate) bytes_reported: u64,
    pub(crate) done_at: Option<Instant>,
    /// What it asked the scheduler for last is at other hosts already, but they are slow.
    pub(crate) is_buying: bool,
}

/// What is on the host's disk, block by block: checks that no byte is accepted twice.
struct Blocks {
    geometry: Geometry,
    words: Vec<u64>,
}

impl Peer {
    pub(crate) fn new(scenario: &Scenario, id: PeerId, seed: u64, start: Instant) -> Self {
        let geometry = scenario.tasks[usize::from(id.task)];
        let words = usize::try_from(geometry.block_count_total().div_ceil(64)).expect("fits the memory");
        let is_seed = id.host < scenario.seeds;
        let have =
            if is_seed { PieceMap::full(geometry.piece_count()) } else { PieceMap::empty(geometry.piece_count()) };
        Self {
            geometry,
            download: Download::new(scenario.download, geometry, have, seed, start),
            download_seed: seed,
            is_ready: is_seed,
            parents: BTreeMap::new(),
            children: Vec::new(),
            blocks: Blocks { geometry, words: vec![if is_seed { u64::MAX } else { 0 }; words] },
            reader: Reader::new(start),
            wake: None,
            bytes_reported: 0,
            done_at: None,
            is_buying: false,
        }
    }

    /// The task has a name: the download begins.
    pub(crate) fn begin(&mut self, scenario: &Scenario, now: Instant) {
        let none = PieceMap::empty(self.geometry.piece_count());
        self.download = Download::new(scenario.download, self.geometry, none, self.download_seed, now);
        self.is_ready = true;
    }

    /// Writes a block, and lets the reader come on; whether its piece is whole now.
    ///
    /// # Panics
    /// When the block is there already: a machine accepted a byte twice.
    pub(crate) fn write(&mut self, now: Instant, piece: PieceIndex, block: BlockIndex) -> bool {
        let is_new = self.blocks.insert(piece, block);
        assert!(is_new, "{piece:?} {block:?} was accepted twice");
        let count = self.geometry.block_count_total();
        self.reader.read(now, |nth| nth < count && self.blocks.contains_nth(nth));
        self.blocks.is_whole(piece)
    }

    /// The piece is not on the disk any more.
    pub(crate) fn lose(&mut self, piece: PieceIndex) {
        for block in 0..self.geometry.block_count(piece) {
            self.blocks.remove(piece, BlockIndex(block));
        }
    }

    pub(crate) fn has_block(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        self.blocks.contains(piece, block)
    }

    /// Whether all of a piece has arrived, be it written yet or not.
    pub(crate) fn is_here(&self, piece: PieceIndex) -> bool {
        self.blocks.is_whole(piece)
    }

    /// Pieces that have arrived and are not written.
    pub(crate) fn unwritten(&self) -> Vec<PieceIndex> {
        let pieces = (0..self.geometry.piece_count()).map(PieceIndex);
        pieces.filter(|piece| self.is_here(*piece) && !self.download.has_piece(*piece)).collect()
    }

    pub(crate) fn is_full(&self) -> bool {
        (0..self.geometry.piece_count()).map(PieceIndex).all(|piece| self.blocks.is_whole(piece))
    }

    /// The pieces that it has.
    pub(crate) fn stored(&self) -> PieceMap {
        let mut have = PieceMap::empty(self.geometry.piece_count());
        for piece in (0..self.geometry.piece_count()).map(PieceIndex).filter(|piece| self.download.has_piece(*piece)) {
            have.insert(piece);
        }
        have
    }
}

impl Blocks {
    /// Which block of the task it is, counted from its start.
    fn nth(&self, piece: PieceIndex, block: BlockIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.geometry.blocks_per_piece()) + u64::from(block.0)
    }

    fn index(nth: u64) -> (usize, u64) {
        (usize::try_from(nth / 64).expect("fits the memory"), 1 << (nth % 64))
    }

    fn contains_nth(&self, nth: u64) -> bool {
        let (word, bit) = Self::index(nth);
        self.words[word] & bit != 0
    }

    fn contains(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        self.contains_nth(self.nth(piece, block))
    }

    fn insert(&mut self, piece: PieceIndex, block: BlockIndex) -> bool {
        let (word, bit) = Self::index(self.nth(piece, block));
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    fn remove(&mut self, piece: PieceIndex, block: BlockIndex) {
        let (word, bit) = Self::index(self.nth(piece, block));
        self.words[word] &= !bit;
    }

    fn is_whole(&self, piece: PieceIndex) -> bool {
        (0..self.geometry.block_count(piece)).all(|block| self.contains(piece, BlockIndex(block)))
    }
}
