//! Which pieces a host brings into its zone.

use crate::PieceIndex;

/// A set of stripes: bit `k` stands for the pieces whose index modulo [`Self::COUNT`] is `k`.
///
/// A piece enters a zone by the one host that has its stripe, so that it crosses the zone's border once. Neighboring
/// pieces are of different stripes, because the origin sends pieces in order: all importers have work at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stripes(u8);

impl Stripes {
    /// Importers of a large zone: four share the work of feeding it, and a zone loses a quarter of its feed at most
    /// when one dies.
    pub const COUNT: u32 = 4;
    /// Every piece.
    pub const ALL: Self = Self((1 << Self::COUNT) - 1);
    /// No piece.
    pub const NONE: Self = Self(0);

    /// The set of these bits; bits of stripes that do not exist are dropped.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        let [low, ..] = bits.to_le_bytes();
        Self(low & Self::ALL.0)
    }

    /// As [`Self::from_bits`] takes it.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Whether the piece's stripe is in the set.
    #[must_use]
    pub const fn contains(self, piece: PieceIndex) -> bool {
        self.0 >> (piece.0 % Self::COUNT) & 1 == 1
    }

    /// The set with stripe `index`, which is below [`Self::COUNT`].
    #[must_use]
    pub const fn with(self, index: usize) -> Self {
        Self(self.0 | (1 << index) & Self::ALL.0)
    }

    /// The set without stripe `index`.
    #[must_use]
    pub const fn without(self, index: usize) -> Self {
        Self(self.0 & !(1 << index))
    }

    /// Whether the stripe `index` is in the set.
    #[must_use]
    pub const fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_of_one_stripe() {
        for piece in (0..20).map(PieceIndex) {
            let holders = (0..4).filter(|index| Stripes::NONE.with(*index).contains(piece)).count();
            assert_eq!(holders, 1, "{piece:?}");
            assert!(Stripes::ALL.contains(piece) && !Stripes::NONE.contains(piece));
        }
    }

    #[test]
    fn unknown_bits_are_dropped() {
        assert_eq!(Stripes::from_bits(u32::MAX), Stripes::ALL);
        assert_eq!(Stripes::from_bits(0b10_0101).bits(), 0b0101);
    }
}
