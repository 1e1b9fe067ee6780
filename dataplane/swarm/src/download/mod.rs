//! One task on its way to this host: which block to ask of whom, and when to go to the origin.
//!
//! A request first waits at a parent, and may wait long. So what waits binds nobody: it keeps a place in the parent's
//! queue, and any parent that serves us now may take the same blocks, whereupon the waiting request is replaced. Only a
//! parent that serves us owns the blocks asked of it, until they arrive, it falls silent, or another one beats its
//! time of arrival by far.

mod choose;
mod events;
mod fill;
mod imports;
mod meter;
mod neighbor;
mod origin;
mod peers;
mod pieces;
mod purchase;
mod starve;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::{BLOCK_BYTES, BlockIndex, Geometry, Instant, PieceIndex, PieceMap};

pub use events::{DownloadInput, DownloadOutput, LeaseId, NeighborId, OriginOutcome, Progress};

use crate::DownloadConfig;
use crate::places::{Held, Noted};
use crate::rng::Rng;
use imports::Imports;
use meter::{Frequency, RateMeter, TimeMeter};
use neighbor::{Neighbor, Serving};
use origin::Origin;
use pieces::Pieces;
use purchase::Purchase;

/// The machine of one task that this host wants.
#[derive(Debug)]
pub struct Download {
    config: DownloadConfig,
    pieces: Pieces,
    /// Sorted by id.
    neighbors: Vec<Neighbor>,
    /// Their ids once more: every message is a search among them, which the neighbors themselves, a few cache lines
    /// each, would make slow.
    ids: Vec<NeighborId>,
    /// Whether something is asked of each, for the same reason: of dozens only a few are at work.
    engaged: Vec<bool>,
    origin: Origin,
    purchase: Purchase,
    rng: Rng,
    now: Instant,
    /// Lowest piece that a local reader lacks.
    reader: PieceIndex,
    outputs: VecDeque<DownloadOutput>,
    /// Requests to withdraw, after others took their places in the parents' queues.
    cancels: Vec<(NeighborId, PieceIndex)>,
    /// Time per block over all neighbors.
    service: TimeMeter,
    /// That of neighbors that are not slow.
    good_service: Option<Duration>,
    /// Blocks that were timed.
    samples: u32,
    rate: RateMeter,
    /// Of the grants, those that came without waiting in a queue.
    idle_slots: Frequency,
    /// Neighbors that serve us: of this zone, and remote ones. Each side has its own count, so that what comes in from
    /// other zones does not wait until the own zone has nothing more to give.
    granted: [u32; 2],
    /// Places in queues that count (see `queued_max`), likewise.
    queued: [u32; 2],
    /// Of these, places at distant parents that have not said a word yet.
    unanswered: [u32; 2],
    imports: Imports,
    /// When a block or a part of a body last came.
    moved_at: Instant,
    /// When other downloads of the host were served last, before we were told what `elsewhere` says.
    others_served_at: Instant,
    /// When it was last found that nothing comes.
    starving_at: Instant,
    /// Nothing comes from the neighbors although they say that they have what is lacked.
    is_starving: bool,
    /// What other downloads of the host held when last we were told.
    elsewhere: Held,
    /// Something changed since nobody was found to ask.
    is_hungry: bool,
    /// What [`crate::Places`] counts of us, and whether it lists us.
    pub(crate) noted: Noted,
    /// Something changed that may allow another request.
    needs_fill: bool,
    /// There was an input since the origin was thought of.
    needs_origin: bool,
    /// When to look at the timers; never later than the earliest of them.
    wake_at: Option<Instant>,
    is_complete: bool,
    bytes_stored: u64,
    bytes_from_peers: u64,
    bytes_wasted: u64,
}

impl Download {
    /// A download of what `have` lacks. `seed` decides every tie: one seed and one sequence of inputs give one
    /// sequence of outputs.
    ///
    /// # Panics
    /// When `have` is not of `geometry`'s piece count, or `config` is senseless.
    #[must_use]
    pub fn new(config: DownloadConfig, geometry: Geometry, have: PieceMap, seed: u64, now: Instant) -> Self {
        assert_eq!(have.piece_count(), geometry.piece_count(), "a map of another task");
        config.assert_sane();
        let mut rng = Rng::new(seed);
        let origin = Origin::new(&config, rng.next(), now);
        let bytes_stored = have.iter().map(|piece| geometry.piece_range(piece).length()).sum();
        let mut download = Self {
            pieces: Pieces::new(geometry, &have, config.active_pieces_max),
            config,
            neighbors: Vec::new(),
            ids: Vec::new(),
            engaged: Vec::new(),
            origin,
            purchase: Purchase::new(now),
            rng,
            now,
            reader: PieceIndex(0),
            outputs: VecDeque::new(),
            cancels: Vec::new(),
            service: TimeMeter::default(),
            good_service: None,
            samples: 0,
            rate: RateMeter::new(now),
            idle_slots: Frequency::default(),
            granted: [0; 2],
            queued: [0; 2],
            unanswered: [0; 2],
            imports: Imports::new(&geometry),
            moved_at: now,
            others_served_at: now,
            starving_at: now,
            is_starving: false,
            elsewhere: Held::default(),
            is_hungry: false,
            noted: Noted::default(),
            needs_fill: false,
            needs_origin: false,
            wake_at: None,
            is_complete: false,
            bytes_stored,
            bytes_from_peers: 0,
            bytes_wasted: 0,
        };
        drop(have);
        download.wake(now + download.config.start_patience);
        download.note_completion();
        download
    }

    /// Takes one input. `now` never goes backwards; inputs that make no sense (they come from peers) change nothing.
    /// Places in the queues of parents are taken afterwards, by [`crate::Places`].
    pub fn handle(&mut self, now: Instant, input: DownloadInput) {
        self.now = self.now.max(now);
        match input {
            DownloadInput::NeighborUp { neighbor, round_trip, is_remote } => {
                self.neighbor_up(neighbor, round_trip, is_remote);
            }
            DownloadInput::Imports { stripes } => self.import(stripes),
            DownloadInput::Admitted => self.admitted(),
            DownloadInput::RoundTrip { neighbor, round_trip } => self.round_trip(neighbor, round_trip),
            DownloadInput::NeighborDown { neighbor } => self.neighbor_down(neighbor),
            DownloadInput::Have { neighbor, pieces } => self.have(neighbor, &pieces),
            DownloadInput::HavePiece { neighbor, piece } => self.have_piece(neighbor, piece),
            DownloadInput::Gone { neighbor, piece } => self.gone(neighbor, piece),
            DownloadInput::Records { pieces } => self.records(&pieces),
            DownloadInput::Queued { neighbor, piece: _ } => self.queued(neighbor),
            DownloadInput::Granted { neighbor, blocks, until: _ } => self.granted(neighbor, blocks),
            DownloadInput::Arriving { neighbor } => self.arriving(neighbor),
            DownloadInput::BlockIn { neighbor, piece, block } => self.block_in(neighbor, piece, block),
            DownloadInput::BlockBad { neighbor, piece, block } => self.block_bad(neighbor, piece, block),
            DownloadInput::PieceStored { piece } => self.piece_stored(piece),
            DownloadInput::PieceLost { piece } => self.piece_lost(piece),
            DownloadInput::Lease { lease, range } => self.lease(lease, range),
            DownloadInput::NoLease { retry_after } => self.no_lease(retry_after),
            DownloadInput::OriginProgress { lease, upto } => self.origin_progress(lease, upto),
            DownloadInput::OriginEnded { lease, outcome } => self.origin_ended(lease, outcome),
            DownloadInput::Reader { piece } => self.reader = piece,
            DownloadInput::Scheduler { is_connected } => self.scheduler(is_connected),
            DownloadInput::Allowance { bytes } => self.origin.allowance = bytes,
            DownloadInput::Tick => {}
        }
        if self.wake_at.is_some_and(|wake_at| wake_at <= self.now) {
            self.expire();
        }
        if self.needs_fill {
            self.fill();
        }
        self.needs_origin = true;
    }

    /// The next thing to do. Call until `None` after every `handle`.
    pub fn poll(&mut self) -> Option<DownloadOutput> {
        // Last, because what waits at a neighbor need not be fetched.
        if self.outputs.is_empty() && core::mem::take(&mut self.needs_origin) {
            self.go_to_origin();
        }
        self.outputs.pop_front()
    }

    /// When to call `handle` with [`DownloadInput::Tick`] if nothing else happens before.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Whether the bytes of this block would be new: the shell drops those of a block that is not wanted any more
    /// (it was stolen in the endgame, and the first copy won).
    #[must_use]
    pub fn is_block_wanted(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        if !self.pieces.geometry().has_block(piece, block) || self.pieces.have().contains(piece) {
            return false;
        }
        match self.pieces.find(piece) {
            Some(active) => active.received >> block.0 & 1 == 0,
            None => !self.pieces.is_table_full(),
        }
    }

    /// Whether the piece is stored here.
    #[must_use]
    pub fn has_piece(&self, piece: PieceIndex) -> bool {
        self.pieces.have().contains(piece)
    }

    /// Figures for status and metrics.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Progress {
            pieces_stored: self.pieces.have().len(),
            piece_count: self.pieces.geometry().piece_count(),
            bytes_stored: self.bytes_stored,
            bytes_from_peers: self.bytes_from_peers,
            bytes_from_origin: self.origin.bytes,
            bytes_wasted: self.bytes_wasted,
            rate_bytes_per_s: self.rate.bytes_per_s().unwrap_or(0),
            neighbors: count(self.neighbors.len()),
            granted: self.granted.iter().sum(),
            queued: count(self.neighbors.iter().filter(|neighbor| neighbor.is_waited_for()).count()),
            origin_fetches: count(self.origin.fetches.len()),
        }
    }

    /// Checks what must always hold. Looks at every piece: for tests and the simulator.
    ///
    /// # Panics
    /// On a bug of this crate.
    pub fn assert_invariants(&self) {
        self.pieces.assert_invariants();
        assert!(self.ids.is_sorted());
        assert!(self.neighbors.iter().map(|neighbor| neighbor.id).eq(self.ids.iter().copied()));
        let engaged = self.neighbors.iter().map(|neighbor| neighbor.serving != Serving::Nothing);
        assert!(engaged.eq(self.engaged.iter().copied()));
        assert!(self.neighbors.len() <= self.config.neighbors_max);
        for (side, is_remote) in [false, true].into_iter().enumerate() {
            let of_side = || self.neighbors.iter().filter(|neighbor| neighbor.is_remote == is_remote);
            let (granted, queued) = (self.granted[side] as usize, self.queued[side] as usize);
            assert_eq!(granted, of_side().filter(|neighbor| neighbor.is_serving()).count());
            assert_eq!(queued, of_side().filter(|neighbor| neighbor.is_queue_place()).count());
            let unanswered = of_side().filter(|neighbor| neighbor.is_unanswered()).count();
            assert_eq!(self.unanswered[side] as usize, unanswered);
            assert!(unanswered <= queued);
        }
        assert!(self.cancels.is_empty(), "cancels are sent with the inputs that cause them");
        for neighbor in &self.neighbors {
            assert_eq!(neighbor.runs.is_empty(), neighbor.serving == Serving::Nothing, "{:?}", neighbor.id);
            assert!(neighbor.runs.len() <= self.config.runs_max);
            assert!(neighbor.runs.iter().all(|run| run.blocks != 0 && self.pieces.find(run.piece).is_some()));
        }
        for active in self.pieces.active() {
            let (mut assigned, mut promises) = (0u64, 0);
            for neighbor in &self.neighbors {
                for run in neighbor.runs.iter().filter(|run| run.piece == active.piece) {
                    assert!(run.blocks & active.received == 0, "asked for what is here");
                    if neighbor.is_serving() {
                        assert!(assigned & run.blocks == 0, "a block has two owners");
                        assigned |= run.blocks;
                    } else {
                        promises += 1;
                    }
                }
            }
            assert_eq!((active.assigned, active.promises), (assigned, promises), "{:?}", active.piece);
        }
        for piece in (0..self.pieces.geometry().piece_count()).map(PieceIndex) {
            let holders = self.neighbors.iter().filter(|neighbor| neighbor.have.contains(piece)).count();
            assert_eq!(usize::from(self.pieces.availability(piece)), holders);
            let is_near = |neighbor: &&Neighbor| !neighbor.is_remote && neighbor.have.contains(piece);
            let near = self.neighbors.iter().filter(is_near).count();
            assert_eq!(usize::from(self.pieces.near(piece)), near);
        }
        self.assert_origin_invariants();
    }

    fn find(&self, id: NeighborId) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// Neighbors of which something is asked.
    fn at_work(&self) -> impl Iterator<Item = &Neighbor> {
        self.neighbors.iter().zip(&self.engaged).filter(|(_, is_engaged)| **is_engaged).map(|(neighbor, _)| neighbor)
    }

    fn wake(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Looks at every timer.
    fn expire(&mut self) {
        let now = self.now;
        self.wake_at = None;
        self.needs_fill = true;
        let is_endgame = self.granted != [0; 2] && self.pieces.fresh().len() == 0;
        if is_endgame {
            self.wake(now + self.config.steal_every);
        }
        for index in 0..self.neighbors.len() {
            let neighbor = &mut self.neighbors[index];
            neighbor.is_useful |= is_endgame;
            if neighbor.rest_until > now {
                let at = neighbor.rest_until;
                self.wake(at);
                continue;
            }
            match neighbor.serving {
                Serving::Nothing | Serving::Later { is_stale: true, .. } => {}
                Serving::Later { since, .. } => {
                    let at = since + self.config.queued_patience;
                    if at <= now {
                        self.change_serving(index, Serving::Later { since, is_stale: true, is_unanswered: false });
                    } else {
                        self.wake(at);
                    }
                }
                Serving::Now { heard, .. } => {
                    let at = heard + neighbor.timeout(self.service, &self.config);
                    if at <= now {
                        self.time_out(index);
                    } else {
                        self.wake(at);
                    }
                }
            }
        }
        self.expire_origin();
        self.expire_purchase();
        self.expire_imports();
        self.expire_patience();
    }

    fn piece_stored(&mut self, piece: PieceIndex) {
        if !self.pieces.geometry().has_piece(piece) || self.pieces.have().contains(piece) {
            return;
        }
        self.cancel_everywhere(piece, u64::MAX);
        self.pieces.store(piece);
        self.bytes_stored += self.pieces.geometry().piece_range(piece).length();
        self.outputs.push_back(DownloadOutput::Announce { piece });
        self.needs_fill = true;
        self.note_completion();
    }

    fn piece_lost(&mut self, piece: PieceIndex) {
        if !self.pieces.geometry().has_piece(piece) {
            return;
        }
        if self.pieces.have().contains(piece) {
            self.bytes_stored -= self.pieces.geometry().piece_range(piece).length();
            self.is_complete = false;
        }
        self.pieces.lose(piece);
        self.make_useful(piece);
        self.start_imports();
    }

    fn note_completion(&mut self) {
        if !self.is_complete && self.pieces.have().len() == self.pieces.geometry().piece_count() {
            self.is_complete = true;
            self.stop_fetches();
            self.outputs.push_back(DownloadOutput::Complete);
        }
    }

    fn bytes_of_block(&self, piece: PieceIndex, block: BlockIndex) -> u64 {
        debug_assert!(u64::from(BLOCK_BYTES) >= self.pieces.geometry().block_range(piece, block).length());
        self.pieces.geometry().block_range(piece, block).length()
    }
}
