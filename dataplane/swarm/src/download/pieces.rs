//! What is known about every piece: bits for all of them, blocks only for the few that are on their way.

use alloc::vec;
use alloc::vec::Vec;

use hawker_proto::{ByteRange, Geometry, PieceIndex, PieceMap, Stripes};

use crate::bits::Bits;

/// The pieces of one task. Per piece of the task: five bits and a byte.
#[derive(Debug)]
pub(super) struct Pieces {
    geometry: Geometry,
    have: Bits,
    /// A record is known, so that the bytes can be checked.
    recorded: Bits,
    /// On its way from the origin to this host.
    claimed: Bits,
    /// Can be started: lacked, recorded, not claimed, not active. Follows from the others.
    fresh: Bits,
    /// Only the origin has it: lacked, not claimed, not all here, and no neighbor that counts has it or, without a record,
    /// only says so (what was fetched has a record, and whoever passes on the one passes on the other). Follows from the
    /// others.
    orphans: Bits,
    /// Neighbors that have every piece and count for nothing in `orphans`: they are slower than the origin.
    ignored: u8,
    /// Neighbors that have the piece.
    availability: Vec<u8>,
    /// Of these, neighbors in other zones. Empty until there is one.
    far: Vec<u8>,
    /// May be asked of neighbors in other zones: of a stripe of ours or overdue, and no neighbor of this zone has it, or
    /// the border is open. Follows from the others.
    imports: Bits,
    /// Neighbors of this zone say that they have what is lacked, and send nothing.
    is_border_open: bool,
    stripes: Stripes,
    /// Should have been here by another importer long ago.
    overdue: Bits,
    /// Sorted by piece.
    active: Vec<Active>,
    active_max: usize,
    /// No bit of `fresh` is set in a word before this one.
    fresh_from: usize,
}

/// A piece on its way from neighbors, block by block: bit `i` of each mask is block `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) piece: PieceIndex,
    /// The blocks that the piece has.
    pub(super) all: u64,
    /// Received and checked.
    pub(super) received: u64,
    /// Asked of a neighbor that serves us; each of one neighbor.
    pub(super) assigned: u64,
    /// Runs that wait at neighbors that do not serve us yet. They bind nobody.
    pub(super) promises: u32,
}

impl Active {
    /// Blocks that nobody is sending.
    pub(super) const fn open(&self) -> u64 {
        self.all & !self.received & !self.assigned
    }

    const fn is_idle(&self) -> bool {
        self.received == 0 && self.assigned == 0 && self.promises == 0
    }
}

impl Pieces {
    pub(super) fn new(geometry: Geometry, have: &PieceMap, active_max: usize) -> Self {
        let count = geometry.piece_count();
        let mut pieces = Self {
            geometry,
            have: Bits::of(have),
            recorded: Bits::empty(count),
            claimed: Bits::empty(count),
            fresh: Bits::empty(count),
            orphans: Bits::empty(count),
            ignored: 0,
            availability: vec![0; count as usize],
            far: Vec::new(),
            imports: Bits::empty(count),
            is_border_open: false,
            stripes: Stripes::NONE,
            overdue: Bits::empty(count),
            active: Vec::with_capacity(active_max.min(count as usize)),
            active_max,
            fresh_from: 0,
        };
        have.missing().for_each(|piece| pieces.refresh(piece));
        pieces
    }

    pub(super) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) const fn have(&self) -> &Bits {
        &self.have
    }

    pub(super) const fn fresh(&self) -> &Bits {
        &self.fresh
    }

    /// The first word of `fresh` that may hold a bit.
    pub(super) const fn fresh_from(&self) -> usize {
        self.fresh_from
    }

    pub(super) const fn orphans(&self) -> &Bits {
        &self.orphans
    }

    pub(super) fn is_claimed(&self, piece: PieceIndex) -> bool {
        self.claimed.contains(piece)
    }

    pub(super) fn availability(&self, piece: PieceIndex) -> u8 {
        self.availability[piece.0 as usize]
    }

    /// Neighbors of this zone that have the piece.
    pub(super) fn near(&self, piece: PieceIndex) -> u8 {
        self.availability(piece) - self.far.get(piece.0 as usize).copied().unwrap_or(0)
    }

    pub(super) const fn imports(&self) -> &Bits {
        &self.imports
    }

    pub(super) fn is_import(&self, piece: PieceIndex) -> bool {
        self.imports.contains(piece)
    }

    /// Whether only other zones have the piece, and it is not for this host to bring it in.
    pub(super) fn is_foreign(&self, piece: PieceIndex) -> bool {
        !self.have.contains(piece)
            && self.availability(piece) > 0
            && self.near(piece) == 0
            && !self.stripes.contains(piece)
    }

    pub(super) fn set_stripes(&mut self, stripes: Stripes) {
        self.stripes = stripes;
        (0..self.geometry.piece_count()).for_each(|piece| self.refresh_import(PieceIndex(piece)));
    }

    pub(super) fn set_overdue(&mut self, piece: PieceIndex) {
        self.overdue.set(piece, true);
        self.refresh_import(piece);
    }

    fn refresh_import(&mut self, piece: PieceIndex) {
        self.imports.set(piece, self.may_import(piece));
    }

    fn may_import(&self, piece: PieceIndex) -> bool {
        let is_ours = self.stripes.contains(piece) || self.overdue.contains(piece);
        self.is_border_open || is_ours && self.near(piece) == 0
    }

    pub(super) fn open_border(&mut self, is_open: bool) {
        if self.is_border_open != is_open {
            self.is_border_open = is_open;
            (0..self.geometry.piece_count()).for_each(|piece| self.refresh_import(PieceIndex(piece)));
        }
    }

    /// A neighbor says that it has the piece, and somebody did fetch it.
    pub(super) fn is_offered(&self, piece: PieceIndex) -> bool {
        self.availability(piece) > 0 && self.recorded.contains(piece)
    }

    /// It is offered by a neighbor that counts.
    pub(super) fn is_given(&self, piece: PieceIndex) -> bool {
        self.availability(piece) > self.ignored && self.is_offered(piece)
    }

    pub(super) fn active(&self) -> &[Active] {
        &self.active
    }

    pub(super) fn find(&self, piece: PieceIndex) -> Option<&Active> {
        let index = self.active.binary_search_by_key(&piece, |active| active.piece).ok()?;
        self.active.get(index)
    }

    pub(super) const fn is_table_full(&self) -> bool {
        self.active.len() >= self.active_max
    }

    /// Blocks of `piece` as a mask.
    pub(super) fn all_blocks(&self, piece: PieceIndex) -> u64 {
        u64::MAX >> (64 - self.geometry.block_count(piece).clamp(1, 64))
    }

    /// Changes what is known of a piece's blocks; the piece becomes active, or stops to be when nothing is known.
    /// False, and no change, when the table is full.
    pub(super) fn with_active(&mut self, piece: PieceIndex, change: impl FnOnce(&mut Active)) -> bool {
        let index = match self.active.binary_search_by_key(&piece, |active| active.piece) {
            Ok(index) => index,
            Err(_) if self.is_table_full() => return false,
            Err(index) => {
                let all = self.all_blocks(piece);
                self.active.insert(index, Active { piece, all, received: 0, assigned: 0, promises: 0 });
                index
            }
        };
        change(&mut self.active[index]);
        let active = self.active[index];
        debug_assert!(active.received & active.assigned == 0 && (active.received | active.assigned) & !active.all == 0);
        if active.is_idle() {
            self.active.remove(index);
        }
        self.refresh(piece);
        true
    }

    /// A neighbor more has the piece, or one less.
    pub(super) fn count(&mut self, piece: PieceIndex, is_remote: bool, is_more: bool) {
        let step = |count: &mut u8| {
            *count = if is_more { count.saturating_add(1) } else { count.saturating_sub(1) };
            *count
        };
        let count = step(&mut self.availability[piece.0 as usize]);
        if is_remote {
            self.far.resize(self.availability.len(), 0);
            step(&mut self.far[piece.0 as usize]);
        }
        if count <= self.ignored.saturating_add(1) {
            self.refresh(piece);
        }
        if !is_remote && self.near(piece) <= 1 {
            self.refresh_import(piece);
        }
    }

    /// So many of the neighbors that have every piece count for nothing from now on.
    pub(super) fn ignore(&mut self, count: u8) {
        if count != self.ignored {
            self.ignored = count;
            (0..self.geometry.piece_count()).for_each(|piece| self.refresh(PieceIndex(piece)));
        }
    }

    pub(super) const fn ignored(&self) -> u8 {
        self.ignored
    }

    /// Pieces that are lacked: those that at most `sources` neighbors have, and the others.
    pub(super) fn count_lacked(&self, sources: u8) -> (u32, u32) {
        let lacked = (0..self.geometry.piece_count()).map(PieceIndex).filter(|piece| !self.have.contains(*piece));
        lacked.fold((0, 0), |(scarce, common), piece| match self.availability(piece) <= sources {
            true => (scarce + 1, common),
            false => (scarce, common + 1),
        })
    }

    /// True when the piece had no record.
    pub(super) fn set_recorded(&mut self, piece: PieceIndex) -> bool {
        let is_new = self.recorded.set(piece, true);
        if is_new {
            self.refresh(piece);
        }
        is_new
    }

    pub(super) fn set_claimed(&mut self, piece: PieceIndex, is_claimed: bool) {
        self.claimed.set(piece, is_claimed);
        self.refresh(piece);
    }

    /// The piece is stored: all else about it is forgotten. False when it was stored before.
    pub(super) fn store(&mut self, piece: PieceIndex) -> bool {
        if !self.have.set(piece, true) {
            return false;
        }
        self.claimed.set(piece, false);
        if let Ok(index) = self.active.binary_search_by_key(&piece, |active| active.piece) {
            self.active.remove(index);
        }
        self.refresh(piece);
        true
    }

    /// The piece is not here after all.
    pub(super) fn lose(&mut self, piece: PieceIndex) {
        self.have.set(piece, false);
        self.claimed.set(piece, false);
        if let Ok(index) = self.active.binary_search_by_key(&piece, |active| active.piece) {
            self.active[index].received = 0;
            if self.active[index].is_idle() {
                self.active.remove(index);
            }
        }
        self.refresh(piece);
    }

    /// The bytes of a range of pieces.
    pub(super) fn bytes_of(&self, first: PieceIndex, last: PieceIndex) -> ByteRange {
        self.geometry.range_of_pieces(first.0..last.0 + 1)
    }

    /// Derives `fresh` and `orphans` anew for a piece, after anything they follow from changed.
    fn refresh(&mut self, piece: PieceIndex) {
        let is_lacked = !self.have.contains(piece) && !self.claimed.contains(piece);
        let (is_active, is_here) = match self.find(piece) {
            Some(active) => (true, active.received == active.all),
            None => (false, false),
        };
        let is_fresh = is_lacked && !is_active && self.recorded.contains(piece);
        let is_orphan = is_lacked && !is_here && !self.is_given(piece);
        self.orphans.set(piece, is_orphan);
        if self.fresh.set(piece, is_fresh) {
            let word = piece.0 as usize / 64;
            if is_fresh {
                self.fresh_from = self.fresh_from.min(word);
            } else if word == self.fresh_from {
                let words = self.fresh.words();
                while self.fresh_from < words.len() && words[self.fresh_from] == 0 {
                    self.fresh_from += 1;
                }
            }
        }
    }

    /// # Panics
    /// On a bug of this crate.
    pub(super) fn assert_invariants(&self) {
        assert!(self.active.len() <= self.active_max);
        assert!(self.active.is_sorted_by_key(|active| active.piece));
        assert!(self.fresh.words().iter().take(self.fresh_from).all(|word| *word == 0));
        for active in &self.active {
            assert!(!self.have.contains(active.piece) && !active.is_idle(), "{active:?}");
            assert_eq!(active.all, self.all_blocks(active.piece));
            assert!(active.received & active.assigned == 0 && (active.received | active.assigned) & !active.all == 0);
        }
        for piece in (0..self.geometry.piece_count()).map(PieceIndex) {
            let is_lacked = !self.have.contains(piece) && !self.claimed.contains(piece);
            let active = self.find(piece);
            let is_fresh = is_lacked && active.is_none() && self.recorded.contains(piece);
            let is_here = active.is_some_and(|active| active.received == active.all);
            assert_eq!(self.fresh.contains(piece), is_fresh, "{piece:?}");
            assert_eq!(self.orphans.contains(piece), is_lacked && !is_here && !self.is_given(piece));
            assert!(!(self.have.contains(piece) && self.claimed.contains(piece)));
            assert_eq!(self.is_import(piece), self.may_import(piece), "{piece:?}");
        }
    }
}
