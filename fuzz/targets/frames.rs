//! A stream of peer frames, and what HAVE does to a map of pieces. What is a frame encodes to the bytes it came from.
#![no_main]

use hawker_proto::PieceMap;
use hawker_proto::frame::{Frame, FrameKind, HEAD_BYTES, Head, apply_have};
use libfuzzer_sys::fuzz_target;

const PIECES: u32 = 1000;

fuzz_target!(|bytes: &[u8]| {
    let mut pieces = PieceMap::empty(PIECES);
    let mut rest = bytes;
    while let Some((head_bytes, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let Ok(head) = Head::decode(head_bytes) else { return };
        assert_eq!(head.encode(), *head_bytes);
        let Some((payload, next)) = after.split_at_checked(head.payload_bytes() as usize) else { return };
        if head.kind() != FrameKind::Block {
            let Ok(frame) = Frame::decode(&head, payload) else { return };
            let mut again = Vec::new();
            frame.encode_into(&mut again);
            assert_eq!(again, rest[..HEAD_BYTES + payload.len()], "{frame:?}");
            if let Frame::Have { first_piece, bits, .. } = &frame
                && let Ok(count) = apply_have(&mut pieces, *first_piece, bits)
            {
                assert!(count <= pieces.len() && pieces.len() <= PIECES);
            }
        }
        rest = next;
    }
});
