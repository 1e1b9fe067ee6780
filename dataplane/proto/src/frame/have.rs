//! Piece maps as HAVE frames, and back.

use alloc::vec::Vec;

use super::{CONTROL_BYTES_MAX, Frame, FrameError, FrameKind};
use crate::{PieceIndex, PieceMap};

/// The HAVE frames that show all of `pieces`, windows without a piece left out; one empty frame when there is none,
/// since OPEN wants an answer.
#[must_use]
pub fn have_windows(channel: u16, pieces: &PieceMap) -> Vec<Frame> {
    let bitmap = pieces.to_bytes();
    let window_pieces = CONTROL_BYTES_MAX * 8;
    let windows = bitmap.chunks(CONTROL_BYTES_MAX as usize).zip(0u32..);
    let mut frames: Vec<Frame> = windows
        .filter(|(bits, _)| bits.iter().any(|byte| *byte != 0))
        .map(|(bits, index)| Frame::Have { channel, first_piece: index * window_pieces, bits: bits.to_vec() })
        .collect();
    if frames.is_empty() {
        frames.push(Frame::Have { channel, first_piece: 0, bits: Vec::new() });
    }
    frames
}

/// Adds the pieces of a HAVE window to `pieces` and says how many were new.
///
/// # Errors
/// A bit stands for a piece that the task does not have, or the window does not start at a multiple of 8: the peer's
/// fault. `pieces` is then unchanged.
pub fn apply_have(pieces: &mut PieceMap, first_piece: u32, bits: &[u8]) -> Result<u32, FrameError> {
    let bad = FrameError::BadField(FrameKind::Have, "bits");
    if !first_piece.is_multiple_of(8) {
        return Err(bad);
    }
    let Some(last) = bits.iter().rposition(|byte| *byte != 0) else { return Ok(0) };
    let last_bit = u64::from(bits[last].ilog2());
    let last_piece = u64::from(first_piece) + last as u64 * 8 + last_bit;
    if last_piece >= u64::from(pieces.piece_count()) {
        return Err(bad);
    }
    // From here on every index is at most `last_piece`, which fits u32.
    let mut added = 0;
    for (byte, eighth) in bits[..=last].iter().zip(first_piece / 8..) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            added += u32::from(pieces.insert(PieceIndex(eighth * 8 + bit)));
        }
    }
    Ok(added)
}
