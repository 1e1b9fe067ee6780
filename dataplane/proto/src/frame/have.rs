//! Piece maps as HAVE frames, and back.

use alloc::vec::Vec;

use super::{CONTROL_BYTES_MAX, Frame, FrameError, FrameKind};
use crate::{PieceIndex, PieceMap};

/// The HAVE frames that show all of `pieces`, windows without a piece left out; one empty frame when there is none,
/// since OPEN wants an answer.
#[must_use]
pub fn have_windows(channel: u16, pieces: &PieceMap) -> Vec<Frame> {
    let bitmap = pieces.to_bytes();
    let firsts = (0..).step_by(CONTROL_BYTES_MAX as usize * 8);
    let windows = firsts.zip(bitmap.chunks(CONTROL_BYTES_MAX as usize));
    let mut frames: Vec<Frame> = windows
        .filter(|(_, bits)| bits.iter().any(|byte| *byte != 0))
        .map(|(first_piece, bits)| Frame::Have { channel, first_piece, bits: bits.to_vec() })
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
    let piece_count = u64::from(pieces.piece_count());
    let last = bits.iter().rposition(|byte| *byte != 0);
    if let Some(last) = last {
        let bit = u64::from(7 - bits[last].leading_zeros());
        if u64::from(first_piece) + last as u64 * 8 + bit >= piece_count {
            return Err(bad);
        }
    }
    let mut added = 0;
    for (byte, first) in bits.iter().zip((first_piece..).step_by(8)) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            added += u32::from(pieces.insert(PieceIndex(first + bit)));
        }
    }
    Ok(added)
}
