//! One simulated host: the production machines, its wires, and what a shell keeps for them.

use std::collections::BTreeMap;
use std::time::Duration;

use hawker_proto::{BlockIndex, Geometry, Instant, PieceIndex, PieceMap};
use hawker_swarm::{Download, Upload};

use crate::Scenario;
use crate::agent::Control;
use crate::network::{Downlink, Uplink};

pub(crate) struct Host {
    pub(crate) control: Control,
    /// Begun anew when the scheduler names the task.
    pub(crate) download: Download,
    pub(crate) download_seed: u64,
    pub(crate) upload: Upload,
    pub(crate) uplink: Uplink,
    pub(crate) downlink: Downlink,
    pub(crate) slots_free: u32,
    /// Hosts it links with, and whether the link carries requests yet.
    pub(crate) parents: BTreeMap<u32, bool>,
    /// Hosts that linked with it.
    pub(crate) children: Vec<u32>,
    /// What it says of its wire.
    pub(crate) link_bytes_per_s: u64,
    /// Pieces whose record it has seen.
    pub(crate) recorded: PieceMap,
    blocks: Blocks,
    /// When it handles what reached it meanwhile.
    pub(crate) ready_at: Instant,
    /// When it ran last.
    pub(crate) turn_at: Instant,
    /// Wake-ups already among the events.
    pub(crate) download_wake: Option<Instant>,
    pub(crate) upload_wake: Option<Instant>,
    pub(crate) started_at: Instant,
    pub(crate) is_up: bool,
    pub(crate) is_dead: bool,
    pub(crate) done_at: Option<Instant>,
    pub(crate) bytes_sent: u64,
}

/// What is on the host's disk, block by block: checks that no byte is accepted twice.
struct Blocks {
    geometry: Geometry,
    words: Vec<u64>,
}

impl Host {
    pub(crate) fn new(scenario: &Scenario, index: u32, seed: u64, start: Instant) -> Self {
        let geometry = scenario.geometry;
        let empty = PieceMap::empty(geometry.piece_count());
        let words = usize::try_from(geometry.block_count_total().div_ceil(64)).expect("fits the memory");
        let is_seed = index < scenario.seeds;
        let have = if is_seed { PieceMap::full(geometry.piece_count()) } else { empty.clone() };
        let mut control = Control::new(index);
        control.is_ready = is_seed;
        let slower = if index < scenario.slow_hosts { scenario.slow_factor } else { 1 };
        Self {
            control,
            download: Download::new(scenario.download, geometry, have, seed, start),
            download_seed: seed,
            upload: Upload::new(scenario.upload),
            uplink: Uplink::new(scenario.up_bytes_per_s / slower),
            downlink: Downlink::new(scenario.down_bytes_per_s / slower),
            slots_free: scenario.slots,
            parents: BTreeMap::new(),
            children: Vec::new(),
            link_bytes_per_s: scenario.up_bytes_per_s / slower,
            recorded: empty,
            blocks: Blocks { geometry, words: vec![if is_seed { u64::MAX } else { 0 }; words] },
            ready_at: start,
            turn_at: start,
            download_wake: None,
            upload_wake: None,
            started_at: start,
            is_up: false,
            is_dead: false,
            done_at: None,
            bytes_sent: 0,
        }
    }

    /// Writes a block; whether its piece is whole now.
    ///
    /// # Panics
    /// When the block is there already: a machine accepted a byte twice.
    pub(crate) fn write(&mut self, piece: PieceIndex, block: BlockIndex) -> bool {
        let is_new = self.blocks.insert(piece, block);
        assert!(is_new, "{piece:?} {block:?} was accepted twice");
        self.blocks.is_whole(piece)
    }

    pub(crate) fn has_block(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        self.blocks.contains(piece, block)
    }

    /// How long it took, from its own start.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.done_at.map(|at| at.since(self.started_at))
    }

    pub(crate) fn is_full(&self) -> bool {
        (0..self.blocks.geometry.piece_count()).map(PieceIndex).all(|piece| self.blocks.is_whole(piece))
    }

    /// Draws when the host runs again after it ran now: all that reached it until then is handled in one turn.
    pub(crate) fn rest(&mut self, now: Instant, noise: Duration, draw: impl FnOnce(u64) -> u64) {
        if !noise.is_zero() && now >= self.ready_at {
            self.turn_at = now;
            let nanos = u64::try_from(noise.as_nanos()).unwrap_or(u64::MAX);
            self.ready_at = now + Duration::from_nanos(draw(nanos));
        }
    }
}

impl Blocks {
    fn index(&self, piece: PieceIndex, block: BlockIndex) -> (usize, u64) {
        let at = u64::from(piece.0) * u64::from(self.geometry.blocks_per_piece()) + u64::from(block.0);
        (usize::try_from(at / 64).expect("fits the memory"), 1 << (at % 64))
    }

    fn contains(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        let (word, bit) = self.index(piece, block);
        self.words[word] & bit != 0
    }

    fn insert(&mut self, piece: PieceIndex, block: BlockIndex) -> bool {
        let (word, bit) = self.index(piece, block);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    fn is_whole(&self, piece: PieceIndex) -> bool {
        (0..self.geometry.block_count(piece)).all(|block| self.contains(piece, BlockIndex(block)))
    }
}
