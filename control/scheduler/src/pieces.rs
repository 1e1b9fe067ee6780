//! Where each piece of a task is: still at the origin, being fetched under a lease, or at some host.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use hawker_proto::PieceMap;

use crate::host::Host;
use crate::table::Slot;

const FREE: u32 = u32::MAX;
const LEASED: u32 = u32::MAX - 1;
const DOUBT: u32 = u32::MAX - 2;
/// Above any slot of a host.
const HELD_MAX: u32 = u32::MAX - 3;

/// The states of all pieces, four bytes each.
///
/// A piece is *free* (to be leased), *leased*, *held* by one witness (others may have it too; one name is enough to
/// know that it need not leave the origin again) or *in doubt*: its witness is gone, and the peers are being asked.
#[derive(Debug)]
pub(crate) struct Pieces {
    states: Vec<u32>,
    free: u32,
    doubt: u32,
    leased: u32,
    /// No piece below is free.
    first_free: u32,
}

impl Pieces {
    /// All at the origin.
    pub(crate) fn free(count: u32) -> Self {
        Self { states: vec![FREE; count as usize], free: count, doubt: 0, leased: 0, first_free: 0 }
    }

    /// All perhaps at some host, nobody knows which.
    pub(crate) fn in_doubt(count: u32) -> Self {
        Self { states: vec![DOUBT; count as usize], free: 0, doubt: count, leased: 0, first_free: count }
    }

    pub(crate) const fn free_count(&self) -> u32 {
        self.free
    }

    pub(crate) const fn doubt_count(&self) -> u32 {
        self.doubt
    }

    /// Whether every piece is held.
    pub(crate) const fn is_fetched(&self) -> bool {
        self.free == 0 && self.doubt == 0 && self.leased == 0
    }

    /// Leases up to `count` pieces: the first free one and those right behind it. Empty when none is free.
    pub(crate) fn lease_next(&mut self, count: u32) -> Range<u32> {
        let from = self.first_free as usize;
        let Some(offset) = self.states[from..].iter().position(|state| *state == FREE) else {
            self.first_free = self.count();
            return 0..0;
        };
        let start = self.first_free + u32::try_from(offset).expect("counts are u32");
        self.first_free = start;
        self.lease_run(start, count)
    }

    /// Leases the pieces from `start` on that are free, up to `count`.
    pub(crate) fn lease_run(&mut self, start: u32, count: u32) -> Range<u32> {
        let limit = start.saturating_add(count).min(self.count());
        let mut end = start;
        while end < limit && self.states[end as usize] == FREE {
            self.set(end, LEASED);
            end += 1;
        }
        if self.first_free == start {
            self.first_free = end;
        }
        start..end
    }

    /// Leases exactly `range` if none of it is leased already: an announced lease. Held pieces stay held.
    pub(crate) fn adopt(&mut self, range: &Range<u32>) -> bool {
        let states = &self.states[range.start as usize..range.end as usize];
        if states.contains(&LEASED) || !states.iter().any(|state| *state >= DOUBT) {
            return false;
        }
        for piece in range.clone() {
            if self.states[piece as usize] >= DOUBT {
                self.set(piece, LEASED);
            }
        }
        true
    }

    /// A lease ended: what its holder stored is held, the rest is free again, or in doubt when the holder did not say
    /// so itself (others may have got some of it).
    pub(crate) fn settle(&mut self, range: &Range<u32>, stored: Range<u32>, holder: Slot<Host>, is_certain: bool) {
        for piece in range.clone() {
            if self.states[piece as usize] != LEASED {
                continue;
            }
            let state = match (stored.contains(&piece), is_certain) {
                (true, _) => holder.index(),
                (false, true) => FREE,
                (false, false) => DOUBT,
            };
            self.set(piece, state);
        }
    }

    /// `host` says exactly what it has.
    pub(crate) fn witness(&mut self, host: Slot<Host>, have: &PieceMap) {
        for piece in have.iter() {
            let state = self.states[piece.0 as usize];
            if state == FREE || state == DOUBT {
                self.set(piece.0, host.index());
            }
        }
        self.doubt_where(|piece, state| state == host.index() && !have.contains(hawker_proto::PieceIndex(piece)));
    }

    /// `host` is gone: what only it was known to have is in doubt.
    pub(crate) fn forget(&mut self, host: Slot<Host>) {
        self.doubt_where(|_, state| state == host.index());
    }

    fn doubt_where(&mut self, is_doubtful: impl Fn(u32, u32) -> bool) {
        for piece in 0..self.count() {
            if is_doubtful(piece, self.states[piece as usize]) {
                self.set(piece, DOUBT);
            }
        }
    }

    /// Nobody who could be asked has what is in doubt.
    pub(crate) fn free_doubtful(&mut self) {
        for piece in 0..self.count() {
            if self.states[piece as usize] == DOUBT {
                self.set(piece, FREE);
            }
        }
    }

    /// Whether all of `range` is leased or was found at hosts meanwhile, none of it free or in doubt.
    pub(crate) fn is_taken(&self, range: &Range<u32>) -> bool {
        self.states[range.start as usize..range.end as usize].iter().all(|state| *state < DOUBT || *state == LEASED)
    }

    /// The host known to hold `piece`.
    pub(crate) fn holder(&self, piece: u32) -> Option<Slot<Host>> {
        Some(self.states[piece as usize]).filter(|state| *state < HELD_MAX).map(Slot::new)
    }

    pub(crate) fn assert_invariants(&self) {
        let count = |state: u32| self.states.iter().filter(|other| **other == state).count();
        assert_eq!(count(FREE), self.free as usize, "free pieces");
        assert_eq!(count(DOUBT), self.doubt as usize, "pieces in doubt");
        assert_eq!(count(LEASED), self.leased as usize, "leased pieces");
        assert!(!self.states[..self.first_free as usize].contains(&FREE), "a free piece below the cursor");
    }

    fn count(&self) -> u32 {
        u32::try_from(self.states.len()).expect("made from a u32")
    }

    fn set(&mut self, piece: u32, state: u32) {
        let old = core::mem::replace(&mut self.states[piece as usize], state);
        for (state, step) in [(old, u32::MAX), (state, 1)] {
            let counter = match state {
                FREE => &mut self.free,
                LEASED => &mut self.leased,
                DOUBT => &mut self.doubt,
                _ => continue,
            };
            *counter = counter.wrapping_add(step);
        }
        if state == FREE {
            self.first_free = self.first_free.min(piece);
        }
    }
}
