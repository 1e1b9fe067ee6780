//! Virtual time: events in the order of their time, and of their making among equals.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use hawker_proto::Instant;

/// A slot is 2^12 ns, 4 us: in a swarm of 10,000 hosts it holds a few hundred events, a heap that fits a core's cache.
const SLOT_BITS: u32 = 12;
/// Slots kept apart: 17 ms, beyond nearly all that is not a timer. A multiple of 64.
const SLOTS: usize = 1 << 12;

/// The events to come. Sorted only when their slot of time comes: one heap of all of them would be as large as the
/// caches, and every event would pass through it twice.
pub(crate) struct Clock<E> {
    /// Events of the slot at hand and before.
    current: BinaryHeap<Entry<E>>,
    /// Those of the `SLOTS` slots after it, unsorted; slot `n` is at `n % SLOTS`.
    soon: Vec<Vec<Entry<E>>>,
    /// A bit for each slot that is not empty.
    occupied: Vec<u64>,
    /// All later ones.
    later: BinaryHeap<Entry<E>>,
    /// The slot at hand, counted from time zero.
    slot: u64,
    next_order: u64,
    now: Instant,
}

pub(crate) struct Entry<E> {
    pub(crate) at: Instant,
    order: u64,
    pub(crate) event: E,
}

impl<E> Clock<E> {
    pub(crate) fn new() -> Self {
        Self {
            current: BinaryHeap::new(),
            soon: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: vec![0; SLOTS / 64],
            later: BinaryHeap::new(),
            slot: 0,
            next_order: 0,
            now: Instant::ZERO,
        }
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn push(&mut self, at: Instant, event: E) {
        let order = self.next_order;
        self.next_order += 1;
        self.insert(Entry { at: at.max(self.now), order, event });
    }

    /// Puts an event off, before all that were made after it.
    pub(crate) fn put_off(&mut self, entry: Entry<E>, at: Instant) {
        self.insert(Entry { at: at.max(self.now), ..entry });
    }

    /// The next event; time moves to it.
    pub(crate) fn pop(&mut self) -> Option<Entry<E>> {
        while self.current.is_empty() {
            self.advance()?;
        }
        let entry = self.current.pop()?;
        self.now = entry.at;
        Some(entry)
    }

    fn insert(&mut self, entry: Entry<E>) {
        let slot = slot_of(entry.at);
        if slot <= self.slot {
            self.current.push(entry);
        } else if slot - self.slot < SLOTS as u64 {
            let index = index_of(slot);
            self.occupied[index / 64] |= 1 << (index % 64);
            self.soon[index].push(entry);
        } else {
            self.later.push(entry);
        }
    }

    /// Moves on to the next slot that is not empty; `None` when there is none.
    fn advance(&mut self) -> Option<()> {
        debug_assert!(self.current.is_empty());
        if let Some(slot) = self.next_occupied() {
            self.slot = slot;
            let index = index_of(slot);
            self.occupied[index / 64] &= !(1 << (index % 64));
            let mut entries = core::mem::take(&mut self.current).into_vec();
            core::mem::swap(&mut entries, &mut self.soon[index]);
            self.current = BinaryHeap::from(entries);
        } else {
            self.slot = slot_of(self.later.peek()?.at);
        }
        while self.later.peek().is_some_and(|entry| slot_of(entry.at) < self.slot + SLOTS as u64) {
            let entry = self.later.pop()?;
            self.insert(entry);
        }
        Some(())
    }

    /// The first slot after the one at hand that holds events.
    fn next_occupied(&self) -> Option<u64> {
        let start = index_of(self.slot + 1);
        let words = self.occupied.len();
        for step in 0..=words {
            let at = (start / 64 + step) % words;
            let mut word = self.occupied[at];
            if step == 0 {
                word &= u64::MAX << (start % 64);
            } else if step == words {
                word &= !(u64::MAX << (start % 64));
            }
            if word != 0 {
                let index = at * 64 + word.trailing_zeros() as usize;
                return Some(self.slot + 1 + ((index + SLOTS - start) % SLOTS) as u64);
            }
        }
        None
    }
}

const fn slot_of(at: Instant) -> u64 {
    at.as_nanos() >> SLOT_BITS
}

fn index_of(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).expect("below the count of slots")
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The heap yields its greatest, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The seeded generator of the simulator (SplitMix64).
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_their_time_and_making() {
        let mut draws = Draws::new(7);
        let mut clock = Clock::new();
        let mut expected = Vec::new();
        for name in 0..20_000u64 {
            // Near, far, and equal times.
            let nanos = draws.next() >> (40 + draws.below(24)) << draws.below(4);
            clock.push(Instant::from_nanos(nanos), name);
            expected.push((nanos, name));
        }
        expected.sort_unstable();
        let mut seen = Vec::new();
        while let Some(entry) = clock.pop() {
            seen.push((entry.at.as_nanos(), entry.event));
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn event_made_on_the_way_takes_its_place() {
        let mut clock = Clock::new();
        clock.push(Instant::from_nanos(1 << 40), 0);
        for (step, after) in (1..1000u64).zip([0, 1, 5000, 1 << 26, 1 << 30].into_iter().cycle()) {
            let entry = clock.pop().expect("one is always there");
            assert_eq!(entry.event, step - 1);
            clock.push(entry.at + std::time::Duration::from_nanos(after), step);
        }
        assert!(clock.pop().is_some() && clock.pop().is_none());
    }
}
