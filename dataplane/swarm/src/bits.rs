//! A set of pieces whose words are open, so that a choice looks at 64 pieces at a time.

use alloc::vec;
use alloc::vec::Vec;

use hawker_proto::{PieceIndex, PieceMap};

/// One bit a piece; bits beyond the last piece stay zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: u32,
}

impl Bits {
    pub(crate) fn empty(piece_count: u32) -> Self {
        Self { words: vec![0; piece_count.div_ceil(64) as usize], len: 0 }
    }

    pub(crate) fn of(map: &PieceMap) -> Self {
        let word = |chunk: &[u8]| {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(eight)
        };
        Self { words: map.to_bytes().chunks(8).map(word).collect(), len: map.len() }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// 64 pieces a word, from piece 0.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// False too for a piece the task does not have.
    pub(crate) fn contains(&self, piece: PieceIndex) -> bool {
        self.words.get(piece.0 as usize / 64).is_some_and(|word| word >> (piece.0 % 64) & 1 == 1)
    }

    /// Puts `piece` in or out; true when that changed something. The piece is one of the task's.
    pub(crate) fn set(&mut self, piece: PieceIndex, is_member: bool) -> bool {
        let word = &mut self.words[piece.0 as usize / 64];
        let bit = 1 << (piece.0 % 64);
        if (*word & bit != 0) == is_member {
            return false;
        }
        *word ^= bit;
        self.len = if is_member { self.len + 1 } else { self.len - 1 };
        true
    }

    /// The first piece at or after `from` that is in both sets.
    pub(crate) fn first_common(&self, other: &Self, from: PieceIndex) -> Option<PieceIndex> {
        let mut mask = u64::MAX << (from.0 % 64);
        for index in from.0 as usize / 64..self.words.len() {
            let both = self.words[index] & other.words[index] & mask;
            if both != 0 {
                return Some(piece_at(index, both));
            }
            mask = u64::MAX;
        }
        None
    }

    /// The pieces in the set, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| ones(index, *word))
    }
}

/// The pieces whose bits are set in the word at `index`.
pub(crate) fn ones(index: usize, word: u64) -> impl Iterator<Item = PieceIndex> {
    let mut rest = word;
    core::iter::from_fn(move || {
        let piece = (rest != 0).then(|| piece_at(index, rest))?;
        rest &= rest - 1;
        Some(piece)
    })
}

/// The piece of the lowest bit of a word that is not zero.
fn piece_at(index: usize, word: u64) -> PieceIndex {
    let base = u32::try_from(index * 64).unwrap_or(u32::MAX - 63);
    PieceIndex(base + word.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_piece_map(
            count in 1u32..200,
            pieces in proptest::collection::vec((0u32..200, any::<bool>()), 0..100),
            from in 0u32..200,
        ) {
            let mut map = PieceMap::empty(count);
            let mut bits = Bits::empty(count);
            for (piece, is_member) in pieces.into_iter().filter(|(piece, _)| *piece < count) {
                let piece = PieceIndex(piece);
                let changed = if is_member { map.insert(piece) } else { map.remove(piece) };
                prop_assert_eq!(bits.set(piece, is_member), changed);
            }
            prop_assert_eq!(&Bits::of(&map), &bits);
            prop_assert_eq!(bits.len(), map.len());
            prop_assert!(bits.iter().eq(map.iter()));
            let first = map.iter().find(|piece| piece.0 >= from);
            prop_assert_eq!(bits.first_common(&bits, PieceIndex(from)), first);
        }
    }
}
