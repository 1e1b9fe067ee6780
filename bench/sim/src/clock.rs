//! Virtual time: events in the order of their time, and of their making among equals.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use hawker_proto::Instant;

/// The events to come.
pub(crate) struct Clock<E> {
    heap: BinaryHeap<Entry<E>>,
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
        Self { heap: BinaryHeap::new(), next_order: 0, now: Instant::ZERO }
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn push(&mut self, at: Instant, event: E) {
        self.heap.push(Entry { at: at.max(self.now), order: self.next_order, event });
        self.next_order += 1;
    }

    /// Puts an event off, before all that were made after it.
    pub(crate) fn put_off(&mut self, entry: Entry<E>, at: Instant) {
        self.heap.push(Entry { at: at.max(self.now), ..entry });
    }

    /// The next event; time moves to it.
    pub(crate) fn pop(&mut self) -> Option<Entry<E>> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry)
    }
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
