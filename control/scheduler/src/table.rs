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

/// Rows of one kind. Removed places are used again, last first.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: Vec<Option<T>>,
    free: Vec<Slot<T>>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, row: T) -> Slot<T> {
        if let Some(slot) = self.free.pop() {
            self.rows[slot.0 as usize] = Some(row);
            return slot;
        }
        let slot = Slot::new(u32::try_from(self.rows.len()).expect("limits keep tables below 2^32 rows"));
        self.rows.push(Some(row));
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot<T>) -> T {
        let row = self.rows[slot.0 as usize].take().expect("the row exists");
        self.free.push(slot);
        row
    }

    pub(crate) fn get(&self, slot: Slot<T>) -> Option<&T> {
        self.rows.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot<T>) -> Option<&mut T> {
        self.rows.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot<T>, &T)> {
        let slots = (0..u32::MAX).map(Slot::new);
        slots.zip(&self.rows).filter_map(|(slot, row)| Some((slot, row.as_ref()?)))
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
