//! BLAKE3 subtrees: any block can be checked alone, and the values of a task's blocks merge to BLAKE3 of its content.
//!
//! A block's *chaining value* is its non-root subtree value at its offset. Blocks and pieces are powers of two of
//! BLAKE3's 1 KiB chunk and aligned to their own length, so each is a whole subtree (or the tree's right edge), and
//! merging neighbors bottom up gives the values above. Source: BLAKE3 paper, section 2.1.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::geometry::PIECE_BYTES_MIN;
use crate::ids::{ParseIdError, parse_hex, write_hex};
use crate::{BLOCK_BYTES, Geometry, PieceIndex};

/// A BLAKE3 non-root value of a block, of a piece or of any larger subtree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainingValue(pub [u8; 32]);

/// BLAKE3 of a task's whole content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; 32]);

/// The chaining value of the block that starts `offset` bytes into its task.
///
/// # Panics
/// When no block of any task starts at `offset`, or `bytes` is empty or longer than a block that starts there.
#[must_use]
pub fn block_value(offset: u64, bytes: &[u8]) -> ChainingValue {
    assert!(offset.is_multiple_of(u64::from(PIECE_BYTES_MIN)), "block at {offset} is not aligned");
    assert!(!bytes.is_empty() && bytes.len() <= BLOCK_BYTES as usize, "{} bytes in a block", bytes.len());
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    ChainingValue(hasher.finalize_non_root())
}

/// The chaining value of `piece`, merged from those of its blocks. `None` when `blocks` is not one value per block.
///
/// # Panics
/// When the task has no such piece.
#[must_use]
pub fn piece_value(geometry: Geometry, piece: PieceIndex, blocks: &[ChainingValue]) -> Option<ChainingValue> {
    let is_complete = blocks.len() == geometry.block_count(piece) as usize;
    is_complete.then(|| merge(blocks, geometry.piece_range(piece).length(), u64::from(geometry.block_bytes())))
}

/// BLAKE3 of the content, merged from the values of its pieces. `None` when `pieces` is not one value per piece, and
/// for content of at most one piece: see [`root_of_blocks`] and [`root_of_bytes`].
#[must_use]
pub fn root_of_pieces(geometry: Geometry, pieces: &[ChainingValue]) -> Option<Root> {
    let length = geometry.length();
    let leaf = u64::from(geometry.piece_bytes());
    // The root of one piece cannot be had from its value, which is not a root's.
    if pieces.len() != geometry.piece_count() as usize || length <= leaf {
        return None;
    }
    let (left, right, left_length) = halves(pieces, length, leaf);
    let left = merge(left, left_length, leaf);
    let right = merge(right, length - left_length, leaf);
    Some(Root(*merge_subtrees_root(&left.0, &right.0, Mode::Hash).as_bytes()))
}

/// BLAKE3 of content of one piece of several blocks, merged from their values. `None` when the values are not one per
/// block of [`BLOCK_BYTES`], and for content of at most one block, whose root is another hash of its bytes: see
/// [`root_of_bytes`].
#[must_use]
pub fn root_of_blocks(length: u64, blocks: &[ChainingValue]) -> Option<Root> {
    let leaf = u64::from(BLOCK_BYTES);
    if length <= leaf || blocks.len() as u64 != length.div_ceil(leaf) {
        return None;
    }
    let (left, right, left_length) = halves(blocks, length, leaf);
    let left = merge(left, left_length, leaf);
    let right = merge(right, length - left_length, leaf);
    Some(Root(*merge_subtrees_root(&left.0, &right.0, Mode::Hash).as_bytes()))
}

/// BLAKE3 of content that is at hand whole.
#[must_use]
pub fn root_of_bytes(content: &[u8]) -> Root {
    Root(*blake3::hash(content).as_bytes())
}

/// Merges the subtrees of `length` bytes whose leaves of `leaf` bytes have `values`. At least one value.
fn merge(values: &[ChainingValue], length: u64, leaf: u64) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let (left, right, left_length) = halves(values, length, leaf);
    // Depth: log2 of the piece count, at most 28.
    let left = merge(left, left_length, leaf);
    let right = merge(right, length - left_length, leaf);
    ChainingValue(merge_subtrees_non_root(&left.0, &right.0, Mode::Hash))
}

fn halves(values: &[ChainingValue], length: u64, leaf: u64) -> (&[ChainingValue], &[ChainingValue], u64) {
    let left_length = left_subtree_len(length);
    let leaves = usize::try_from(left_length / leaf).expect("as many values as leaves");
    let (left, right) = values.split_at(leaves);
    (left, right, left_length)
}

macro_rules! hex_forms {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }
    };
}

hex_forms!(ChainingValue);
hex_forms!(Root);

/// The values of `bytes`, block by block, as if they started `offset` bytes into a task of this form.
///
/// # Panics
/// As [`block_value`].
#[must_use]
pub fn block_values(geometry: Geometry, offset: u64, bytes: &[u8]) -> Vec<ChainingValue> {
    let block_bytes = geometry.block_bytes() as usize;
    let starts = (offset..).step_by(block_bytes);
    starts.zip(bytes.chunks(block_bytes)).map(|(start, block)| block_value(start, block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn root(geometry: Geometry, content: &[u8]) -> Root {
        let pieces: Vec<ChainingValue> = (0..geometry.piece_count())
            .map(|index| {
                let range = geometry.piece_range(PieceIndex(index));
                let at = |offset: u64| usize::try_from(offset).unwrap();
                let bytes = &content[at(range.start())..at(range.end())];
                piece_value(geometry, PieceIndex(index), &block_values(geometry, range.start(), bytes)).unwrap()
            })
            .collect();
        root_of_pieces(geometry, &pieces)
            .or_else(|| root_of_blocks(content.len() as u64, &block_values(geometry, 0, content)))
            .unwrap_or_else(|| root_of_bytes(content))
    }

    #[test]
    fn merged_root_is_blake3_of_the_content_for_every_tail() {
        let block = BLOCK_BYTES as usize;
        let tails = [0, 1, 1023, 1024, 1025, block / 4, block - 1, block / 2 + 7];
        for blocks in [0, 1, 2, 3, 4, 5, 8, 9, 13] {
            for tail in tails {
                let content: Vec<u8> =
                    (0..blocks * block + tail).map(|i| i % 251).map(|i| u8::try_from(i).unwrap()).collect();
                let expected = root_of_bytes(&content);
                let length = content.len() as u64;
                for geometry in [Geometry::of_length(length), Geometry::of_stream(length)].into_iter().flatten() {
                    assert_eq!(root(geometry, &content), expected, "{blocks} blocks and {tail} bytes");
                }
            }
        }
    }

    #[test]
    fn value_depends_on_the_offset() {
        let bytes = vec![7; BLOCK_BYTES as usize];
        assert_ne!(block_value(0, &bytes), block_value(u64::from(BLOCK_BYTES), &bytes));
    }

    #[test]
    fn wrong_count_of_values_is_refused() {
        let geometry = Geometry::of_stream(3 * u64::from(BLOCK_BYTES)).unwrap();
        let value = ChainingValue([0; 32]);
        assert_eq!(piece_value(geometry, PieceIndex(0), &[value; 2]), None);
        assert_eq!(root_of_pieces(geometry, &[value; 2]), None);
    }
}
