//! How a task's bytes divide into pieces and blocks.

use core::ops::Range;

use crate::{BlockIndex, ByteRange, PieceIndex};

/// The unit of request, receive, hash and write, at most: a piece that is shorter is one block. 256 KiB stays in L2
/// while it is hashed, and receiving costs the same CPU per byte from 64 KiB to 1 MiB.
pub const BLOCK_BYTES: u32 = 256 * 1024;

/// Smallest piece. A swarm passes on what it has whole, so a file of few pieces takes long to reach many hosts:
/// 8 MiB in 32 pieces cannot reach 1,000 hosts in less than 1.28 x the time of one, in 128 pieces 1.07 x.
pub const PIECE_BYTES_MIN: u32 = 64 * 1024;
/// Largest piece: 64 blocks.
pub const PIECE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Piece length of a task whose length nobody knew when it was named.
pub const PIECE_BYTES_UNKNOWN: u32 = 1024 * 1024;

/// The largest content Hawker takes: 2^48 bytes, 256 TiB. It keeps every piece index within `u32`
/// (2^48 / 2^24 = 2^24 pieces; 2^28 for a task of unknown length, whose pieces are 1 MiB).
pub const LENGTH_MAX: u64 = 1 << 48;

/// Length and piece length of a task: all that is needed to compute any offset in it.
///
/// Invariants: `length <= LENGTH_MAX`; `piece_bytes` is a power of two in
/// `PIECE_BYTES_MIN..=PIECE_BYTES_MAX`; the last piece and the last block may be short, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    length: u64,
    piece_bytes: u32,
}

impl Geometry {
    /// The geometry of content whose length was known when it was named:
    /// clamp(next power of two of ceil(length / 1024), 64 KiB, 16 MiB). `None` beyond [`LENGTH_MAX`].
    #[must_use]
    pub fn of_length(length: u64) -> Option<Self> {
        if length > LENGTH_MAX {
            return None;
        }
        let ideal = length.div_ceil(1024).next_power_of_two();
        let piece_bytes = ideal.clamp(u64::from(PIECE_BYTES_MIN), u64::from(PIECE_BYTES_MAX));
        Some(Self { length, piece_bytes: u32::try_from(piece_bytes).unwrap_or(PIECE_BYTES_MAX) })
    }

    /// The geometry of content named before its length was known, now that it is. `None` beyond [`LENGTH_MAX`].
    #[must_use]
    pub fn of_stream(length: u64) -> Option<Self> {
        (length <= LENGTH_MAX).then_some(Self { length, piece_bytes: PIECE_BYTES_UNKNOWN })
    }

    /// A geometry from outside bytes; `None` unless it is one of the two forms above.
    #[must_use]
    pub fn from_parts(length: u64, piece_bytes: u32) -> Option<Self> {
        [Self::of_length(length), Self::of_stream(length)]
            .into_iter()
            .flatten()
            .find(|geometry| geometry.piece_bytes == piece_bytes)
    }

    /// Bytes of content.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.length
    }

    /// Bytes of every piece but the last.
    #[must_use]
    pub const fn piece_bytes(self) -> u32 {
        self.piece_bytes
    }

    /// Pieces in the task; zero for empty content.
    #[must_use]
    pub fn piece_count(self) -> u32 {
        // Within u32: see LENGTH_MAX.
        u32::try_from(self.length.div_ceil(u64::from(self.piece_bytes))).unwrap_or(u32::MAX)
    }

    /// Bytes of every block but the last of a piece: [`BLOCK_BYTES`], or a piece where that is shorter.
    #[must_use]
    pub const fn block_bytes(self) -> u32 {
        if self.piece_bytes < BLOCK_BYTES { self.piece_bytes } else { BLOCK_BYTES }
    }

    /// Blocks in every piece but the last.
    #[must_use]
    pub const fn blocks_per_piece(self) -> u32 {
        self.piece_bytes / self.block_bytes()
    }

    /// Blocks in the whole task.
    #[must_use]
    pub const fn block_count_total(self) -> u64 {
        self.length.div_ceil(self.block_bytes() as u64)
    }

    /// Whether the task has such a piece.
    #[must_use]
    pub fn has_piece(self, piece: PieceIndex) -> bool {
        piece.0 < self.piece_count()
    }

    /// Whether the task has such a block.
    #[must_use]
    pub fn has_block(self, piece: PieceIndex, block: BlockIndex) -> bool {
        self.has_piece(piece) && block.0 < self.block_count(piece)
    }

    /// The bytes of `piece`.
    ///
    /// # Panics
    /// When the task has no such piece: indices from outside are checked with [`Self::has_piece`] first.
    #[must_use]
    pub fn piece_range(self, piece: PieceIndex) -> ByteRange {
        assert!(self.has_piece(piece), "{piece:?} is not in {self:?}");
        let start = u64::from(piece.0) * u64::from(self.piece_bytes);
        let length = u64::from(self.piece_bytes).min(self.length - start);
        ByteRange::from_length(start, length).expect("within LENGTH_MAX")
    }

    /// Blocks in `piece`: at least one.
    ///
    /// # Panics
    /// As [`Self::piece_range`].
    #[must_use]
    pub fn block_count(self, piece: PieceIndex) -> u32 {
        let blocks = self.piece_range(piece).length().div_ceil(u64::from(self.block_bytes()));
        u32::try_from(blocks).expect("at most 64 blocks in a piece")
    }

    /// The bytes of a block, as offsets in the task.
    ///
    /// # Panics
    /// When the task has no such block.
    #[must_use]
    pub fn block_range(self, piece: PieceIndex, block: BlockIndex) -> ByteRange {
        let piece_range = self.piece_range(piece);
        let start = piece_range.start() + u64::from(block.0) * u64::from(self.block_bytes());
        assert!(start < piece_range.end(), "{piece:?} {block:?} is not in {self:?}");
        let length = u64::from(self.block_bytes()).min(piece_range.end() - start);
        ByteRange::from_length(start, length).expect("within LENGTH_MAX")
    }

    /// The block that holds the byte at `offset`, `None` past the end.
    #[must_use]
    pub fn block_at(self, offset: u64) -> Option<(PieceIndex, BlockIndex)> {
        if offset >= self.length {
            return None;
        }
        let piece = u32::try_from(offset / u64::from(self.piece_bytes)).ok()?;
        let block = u32::try_from(offset % u64::from(self.piece_bytes) / u64::from(self.block_bytes())).ok()?;
        Some((PieceIndex(piece), BlockIndex(block)))
    }

    /// The pieces of which `range` holds every byte.
    #[must_use]
    pub fn pieces_within(self, range: ByteRange) -> Range<u32> {
        let piece_bytes = u64::from(self.piece_bytes);
        let first = range.start().div_ceil(piece_bytes);
        let end = if range.end() >= self.length { u64::from(self.piece_count()) } else { range.end() / piece_bytes };
        let narrow = |index: u64| u32::try_from(index).unwrap_or(u32::MAX);
        narrow(first)..narrow(end.max(first))
    }

    /// The bytes of the pieces `pieces.start..pieces.end`, cut at the end of the task.
    #[must_use]
    pub fn range_of_pieces(self, pieces: Range<u32>) -> ByteRange {
        let offset = |piece: u32| (u64::from(piece) * u64::from(self.piece_bytes)).min(self.length);
        let start = offset(pieces.start);
        ByteRange::new(start, offset(pieces.end).max(start)).expect("ordered by max")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn piece_length_follows_the_formula() {
        let cases = [
            (0, 64 * 1024),
            (1, 64 * 1024),
            (64 * MIB, 64 * 1024),
            (64 * MIB + 1, 128 * 1024),
            (256 * MIB, 256 * 1024),
            (256 * MIB + 1, 512 * 1024),
            (4096 * MIB, 4 * 1024 * 1024),
            (LENGTH_MAX, 16 * 1024 * 1024),
        ];
        for (length, piece_bytes) in cases {
            assert_eq!(Geometry::of_length(length).map(Geometry::piece_bytes), Some(piece_bytes), "{length}");
        }
        assert_eq!(Geometry::of_length(LENGTH_MAX + 1), None);
        assert_eq!(Geometry::of_length(u64::MAX), None);
    }

    #[test]
    fn outside_parts_must_be_one_of_the_two_forms() {
        assert!(Geometry::from_parts(5, PIECE_BYTES_MIN).is_some());
        assert!(Geometry::from_parts(5, PIECE_BYTES_UNKNOWN).is_some());
        for piece_bytes in [0, 1, PIECE_BYTES_MAX, u32::MAX] {
            assert_eq!(Geometry::from_parts(5, piece_bytes), None);
        }
    }

    proptest! {
        #[test]
        fn blocks_tile_the_content(length in 0..200 * MIB) {
            let geometry = Geometry::of_length(length).unwrap();
            let mut next = 0;
            let mut blocks = 0;
            for piece in (0..geometry.piece_count()).map(PieceIndex) {
                prop_assert_eq!(geometry.piece_range(piece).start(), next);
                for block in (0..geometry.block_count(piece)).map(BlockIndex) {
                    let range = geometry.block_range(piece, block);
                    prop_assert_eq!(range.start(), next);
                    prop_assert!(!range.is_empty());
                    prop_assert_eq!(geometry.block_at(range.start()), Some((piece, block)));
                    prop_assert_eq!(geometry.block_at(range.end() - 1), Some((piece, block)));
                    next = range.end();
                    blocks += 1;
                }
            }
            prop_assert_eq!(next, length);
            prop_assert_eq!(blocks, geometry.block_count_total());
        }

        #[test]
        fn pieces_within_a_range_lie_in_it(length in 1..64 * MIB, a in 0..64 * MIB, b in 0..80 * MIB) {
            let geometry = Geometry::of_length(length).unwrap();
            let range = ByteRange::new(a.min(b), a.max(b)).unwrap();
            for piece in geometry.pieces_within(range) {
                prop_assert!(range.contains(geometry.piece_range(PieceIndex(piece))));
            }
        }
    }
}
