//! A bit for every piece of every peer, in one place: what is looked at for each announcement must be small.

use hawker_proto::{Geometry, PieceIndex};

use crate::peer::PeerId;

pub(crate) struct PieceTable {
    words: Vec<u64>,
    /// Words of one host.
    row: usize,
    /// Where a task begins in a row.
    starts: Vec<usize>,
}

impl PieceTable {
    /// All empty.
    pub(crate) fn new(hosts: u32, tasks: &[Geometry]) -> Self {
        let mut row = 0;
        let mut starts = Vec::with_capacity(tasks.len());
        for geometry in tasks {
            starts.push(row);
            row += geometry.piece_count().div_ceil(64) as usize;
        }
        Self { words: vec![0; row * hosts as usize], row, starts }
    }

    pub(crate) fn contains(&self, peer: PeerId, piece: PieceIndex) -> bool {
        let (word, bit) = self.place(peer, piece);
        self.words[word] & bit != 0
    }

    /// True when it was not there.
    pub(crate) fn insert(&mut self, peer: PeerId, piece: PieceIndex) -> bool {
        let (word, bit) = self.place(peer, piece);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    pub(crate) fn remove(&mut self, peer: PeerId, piece: PieceIndex) {
        let (word, bit) = self.place(peer, piece);
        self.words[word] &= !bit;
    }

    fn place(&self, peer: PeerId, piece: PieceIndex) -> (usize, u64) {
        let start = self.starts[usize::from(peer.task)];
        (peer.host as usize * self.row + start + piece.0 as usize / 64, 1 << (piece.0 % 64))
    }
}
