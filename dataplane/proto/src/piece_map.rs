//! Sets of pieces: what a host has, wants or is fetching.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::PieceIndex;

/// A set of pieces of one task, one bit a piece.
///
/// Canonical: bits at and beyond `piece_count` are zero and the length follows from `piece_count`, so that equal
/// sets are equal values. Union is commutative, associative and idempotent.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PieceMap {
    piece_count: u32,
    /// Bits set in `words`.
    len: u32,
    words: Vec<u64>,
}

impl PieceMap {
    /// The empty set over `piece_count` pieces.
    #[must_use]
    pub fn empty(piece_count: u32) -> Self {
        Self { piece_count, len: 0, words: vec![0; piece_count.div_ceil(64) as usize] }
    }

    /// All pieces of a task of `piece_count` pieces.
    #[must_use]
    pub fn full(piece_count: u32) -> Self {
        let mut map = Self::empty(piece_count);
        map.insert_range(0..piece_count);
        map
    }

    /// A set from the little-endian bitmap of [`Self::to_bytes`]. `None` when the length is wrong or a bit beyond
    /// the last piece is set: bytes from outside that mean nothing.
    #[must_use]
    pub fn from_bytes(piece_count: u32, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::byte_count(piece_count) {
            return None;
        }
        let mut map = Self::empty(piece_count);
        for (word, chunk) in map.words.iter_mut().zip(bytes.chunks(8)) {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(eight);
        }
        let used = piece_count % 64;
        let canonical = used == 0 || map.words.last().is_none_or(|last| last >> used == 0);
        map.len = map.words.iter().map(|word| word.count_ones()).sum();
        canonical.then_some(map)
    }

    /// The set as a bitmap: piece `i` is bit `i % 8` of byte `i / 8`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(Self::byte_count(self.piece_count));
        bytes
    }

    /// Bytes of the bitmap of a task of `piece_count` pieces.
    #[must_use]
    pub const fn byte_count(piece_count: u32) -> usize {
        piece_count.div_ceil(8) as usize
    }

    /// Pieces in the task, in the set or not.
    #[must_use]
    pub const fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Pieces in the set.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether no piece is in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every piece is in the set.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == self.piece_count
    }

    /// Whether `piece` is in the set; false for a piece the task does not have.
    #[must_use]
    pub fn contains(&self, piece: PieceIndex) -> bool {
        piece.0 < self.piece_count && self.words[piece.0 as usize / 64] >> (piece.0 % 64) & 1 == 1
    }

    /// Adds `piece`; true when it was not in the set.
    ///
    /// # Panics
    /// When the task has no such piece.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        assert!(piece.0 < self.piece_count, "{piece:?} of {} pieces", self.piece_count);
        let word = &mut self.words[piece.0 as usize / 64];
        let bit = 1 << (piece.0 % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.len += u32::from(is_new);
        is_new
    }

    /// Adds every piece of `pieces`.
    ///
    /// # Panics
    /// When the task does not have them all.
    pub fn insert_range(&mut self, pieces: Range<u32>) {
        for piece in pieces {
            self.insert(PieceIndex(piece));
        }
    }

    /// Removes `piece`; true when it was in the set.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let is_member = self.contains(piece);
        if is_member {
            self.words[piece.0 as usize / 64] &= !(1 << (piece.0 % 64));
            self.len -= 1;
        }
        is_member
    }

    /// Adds every piece of `other`.
    ///
    /// # Panics
    /// When the two belong to tasks of different piece counts.
    pub fn union_with(&mut self, other: &Self) {
        assert_eq!(self.piece_count, other.piece_count, "maps of two tasks");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// Keeps only the pieces that `other` has too.
    ///
    /// # Panics
    /// When the two belong to tasks of different piece counts.
    pub fn intersect_with(&mut self, other: &Self) {
        assert_eq!(self.piece_count, other.piece_count, "maps of two tasks");
        for (word, limit) in self.words.iter_mut().zip(&other.words) {
            *word &= limit;
        }
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.ones(|_, word| word)
    }

    /// The pieces in `self` that are not in `other`, in order. The maps may differ in piece count.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = PieceIndex> + 'a {
        self.ones(|index, word| word & !other.words.get(index).copied().unwrap_or(0))
    }

    /// The pieces not in the set, in order.
    pub fn missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let count = self.piece_count;
        self.ones(|_, word| !word).take_while(move |piece| piece.0 < count)
    }

    /// The first piece at or after `from` that is not in the set.
    #[must_use]
    pub fn first_missing(&self, from: PieceIndex) -> Option<PieceIndex> {
        let mut index = from.0 as usize / 64;
        let mut mask = u64::MAX << (from.0 % 64);
        while let Some(word) = self.words.get(index) {
            let zeros = !word & mask;
            if zeros != 0 {
                let piece = u32::try_from(index * 64).ok()? + zeros.trailing_zeros();
                return (piece < self.piece_count).then_some(PieceIndex(piece));
            }
            mask = u64::MAX;
            index += 1;
        }
        None
    }

    fn ones<'a>(&'a self, select: impl Fn(usize, u64) -> u64 + 'a) -> impl Iterator<Item = PieceIndex> + 'a {
        self.words.iter().enumerate().flat_map(move |(index, word)| {
            let mut rest = select(index, *word);
            core::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                u32::try_from(index * 64).ok().map(|base| PieceIndex(base + bit))
            })
        })
    }
}

impl fmt::Debug for PieceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceMap({} of {})", self.len, self.piece_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn map_of(piece_count: u32, pieces: &BTreeSet<u32>) -> PieceMap {
        let mut map = PieceMap::empty(piece_count);
        for piece in pieces.iter().filter(|piece| **piece < piece_count) {
            map.insert(PieceIndex(*piece));
        }
        map
    }

    #[test]
    fn bit_beyond_the_last_piece_is_refused() {
        assert!(PieceMap::from_bytes(9, &[0xff, 0x01]).is_some_and(|map| map.is_full()));
        assert_eq!(PieceMap::from_bytes(9, &[0xff, 0x02]), None);
        assert_eq!(PieceMap::from_bytes(9, &[0xff]), None);
        assert_eq!(PieceMap::from_bytes(0, &[]), Some(PieceMap::empty(0)));
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            count in 0u32..300,
            a in proptest::collection::btree_set(0u32..300, 0..200),
            b in proptest::collection::btree_set(0u32..300, 0..200),
        ) {
            let (a_map, b_map) = (map_of(count, &a), map_of(count, &b));
            let a: BTreeSet<u32> = a.into_iter().filter(|piece| *piece < count).collect();
            let b: BTreeSet<u32> = b.into_iter().filter(|piece| *piece < count).collect();
            let indices = |pieces: Vec<PieceIndex>| pieces.into_iter().map(|piece| piece.0).collect::<Vec<_>>();

            prop_assert_eq!(a_map.len() as usize, a.len());
            prop_assert_eq!(indices(a_map.iter().collect()), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(indices(a_map.difference(&b_map).collect()), a.difference(&b).copied().collect::<Vec<_>>());
            let missing: Vec<u32> = (0..count).filter(|piece| !a.contains(piece)).collect();
            prop_assert_eq!(indices(a_map.missing().collect()), missing.clone());
            for from in 0..count {
                let first = missing.iter().copied().find(|piece| *piece >= from).map(PieceIndex);
                prop_assert_eq!(a_map.first_missing(PieceIndex(from)), first);
            }

            let (mut ab, mut ba) = (a_map.clone(), b_map.clone());
            ab.union_with(&b_map);
            ba.union_with(&a_map);
            prop_assert_eq!(&ab, &ba);
            prop_assert_eq!(ab.len() as usize, a.union(&b).count());
            prop_assert_eq!(PieceMap::from_bytes(count, &ab.to_bytes()), Some(ab));

            let mut both = a_map;
            both.intersect_with(&b_map);
            let expected: Vec<u32> = a.intersection(&b).copied().collect();
            prop_assert_eq!(both.len() as usize, expected.len());
            prop_assert_eq!(indices(both.iter().collect()), expected);
        }
    }
}
