//! Rows in a vector, named by their place: what makes an id cost four bytes and a lookup one load.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};

/// The place of a row in a [`Table`]. It is used again after the row is removed, so that whoever keeps one past an
/// event must check that it still means the same (timers carry a sequence number for that).
pub(crate) struct Slot<T>(u32, PhantomData<fn() -> T>);

impl<T> Slot<T> {
    pub(crate) const fn new(index: u32) -> Self {
        Self(index, PhantomData)
    }

    pub(crate) const fn index(self) -> u32 {
        self.0
    }
}

// By hand: a derive would ask the same of `T`.
impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Slot<T> {}
impl<T> PartialEq for Slot<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Slot<T> {}
impl<T> PartialOrd for Slot<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Slot<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Rows per chunk, a power of two so that a place is found by shifting.
const CHUNK: usize = 1 << 10;

/// Rows of one kind. Removed places are used again, last first.
///
/// They stand in chunks: one vector would copy all rows in the call in which it grows, and hold up to twice their room.
#[derive(Debug)]
pub(crate) struct Table<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Slot<T>>,
    /// Places, used or free.
    places: u32,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), places: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.places as usize - self.free.len()
    }

    pub(crate) fn insert(&mut self, row: T) -> Slot<T> {
        if let Some(slot) = self.free.pop() {
            *self.place(slot).expect("a free place exists") = Some(row);
            return slot;
        }
        let slot = Slot::new(self.places);
        self.places = self.places.checked_add(1).expect("limits keep tables below 2^32 rows");
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        self.chunks.last_mut().expect("pushed above").push(Some(row));
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot<T>) -> T {
        let row = self.place(slot).and_then(Option::take).expect("the row exists");
        self.free.push(slot);
        row
    }

    pub(crate) fn get(&self, slot: Slot<T>) -> Option<&T> {
        let place = slot.0 as usize;
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot<T>) -> Option<&mut T> {
        self.place(slot)?.as_mut()
    }

    fn place(&mut self, slot: Slot<T>) -> Option<&mut Option<T>> {
        let place = slot.0 as usize;
        self.chunks.get_mut(place / CHUNK)?.get_mut(place % CHUNK)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot<T>, &T)> {
        let slots = (0..u32::MAX).map(Slot::new);
        slots.zip(self.chunks.iter().flatten()).filter_map(|(slot, row)| Some((slot, row.as_ref()?)))
    }
}

impl<T> Index<Slot<T>> for Table<T> {
    type Output = T;

    fn index(&self, slot: Slot<T>) -> &T {
        self.get(slot).expect("the row exists")
    }
}

impl<T> IndexMut<Slot<T>> for Table<T> {
    fn index_mut(&mut self, slot: Slot<T>) -> &mut T {
        self.get_mut(slot).expect("the row exists")
    }
}
