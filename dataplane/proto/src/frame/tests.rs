use super::*;
use crate::PieceMap;
use crate::testing::hex;
use crate::wire::DecodeError;
use alloc::collections::BTreeSet;
use proptest::collection::vec as any_vec;
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (head, payload) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(DecodeError::Truncated)?;
    Frame::decode(&Head::decode(head)?, payload)
}

fn text(text: &str) -> String {
    String::from(text)
}

/// Every frame with its bytes, which Python's `struct` made from the table in `frame.rs`.
fn golden() -> Vec<(Frame, String)> {
    let (channel, piece, block) = (7, PieceIndex(5), BlockIndex(2));
    let hello = Hello {
        version_min: 1,
        version_max: 3,
        nonce: [0x11; 32],
        host: PublicKey([0x22; 32]),
        roles: ROLE_SERVES,
        is_secured: true,
    };
    let geometry = Geometry::of_length(1_000_000).unwrap();
    let mut frames = vec![
        (
            Frame::Hello(hello),
            text("48000000010100000000000000000000000000004841574b45520001000000000100030002000000")
                + &"11".repeat(32)
                + &"22".repeat(32),
        ),
        (
            Frame::Auth { mac: [0x33; 32], signature: Signature([0x44; 64]) },
            text("6000000002000000000000000000000000000000000000000000000000000000")
                + &"33".repeat(32)
                + &"44".repeat(64),
        ),
        (
            Frame::Open { channel, task: TaskId([0x55; 32]), geometry },
            text("200000000300070000000000000000000000010040420f000000000000000000") + &"55".repeat(32),
        ),
    ];
    let short = [
        (Frame::Close { channel }, "0000000004000700000000000000000000000000000000000000000000000000"),
        (
            Frame::Have { channel, first_piece: 16, bits: vec![0x01, 0x80] },
            "02000000050007001000000000000000000000000000000000000000000000000180",
        ),
        (
            Frame::Records { channel, batch: b"abc".to_vec() },
            "0300000006000700000000000000000000000000000000000000000000000000616263",
        ),
        (
            Frame::Request { channel, piece, block, count: 3 },
            "0000000007000700050000000200000003000000000000000000000000000000",
        ),
        (
            Frame::Queued { channel, piece, position: 9 },
            "0000000008000700050000000000000009000000000000000000000000000000",
        ),
        (
            Frame::Granted { channel, blocks: 64, millis: 2000 },
            "0000000009000700000000000000000040000000d00700000000000000000000",
        ),
        (Frame::Cancel { channel, piece }, "000000000b000700050000000000000000000000000000000000000000000000"),
        (Frame::BadPiece { channel, piece, block }, "000000000c000700050000000200000000000000000000000000000000000000"),
        (Frame::Gone { channel, piece }, "000000000d000700050000000000000000000000000000000000000000000000"),
        (
            Frame::Error { channel, code: ErrorCode::Busy, text: text("no") },
            "020000000e0007000000000000000000050000000000000000000000000000006e6f",
        ),
        (
            Frame::Ping { aux: 0x0123_4567_89ab_cdef },
            "000000000f000000000000000000000000000000efcdab896745230100000000",
        ),
        (
            Frame::Pong { aux: 0x0123_4567_89ab_cdef },
            "0000000010000000000000000000000000000000efcdab896745230100000000",
        ),
        (Frame::Goodbye, "0000000011000000000000000000000000000000000000000000000000000000"),
    ];
    frames.extend(short.map(|(frame, bytes)| (frame, text(bytes))));
    frames
}

#[test]
fn every_frame_has_its_golden_bytes() {
    let mut kinds = BTreeSet::new();
    for (frame, bytes) in golden() {
        assert_eq!(hex(&frame.encode()), bytes, "{frame:?}");
        assert_eq!(decode(&frame.encode()), Ok(frame.clone()));
        kinds.insert(frame.kind() as u8);
    }
    let head = Head::block(7, PieceIndex(5), BlockIndex(2), BLOCK_BYTES);
    assert_eq!(hex(&head.encode()), "000004000a000700050000000200000000000000000000000000000000000000");
    assert_eq!(Head::decode(&head.encode()), Ok(head));
    assert_eq!((head.kind(), head.channel(), head.piece()), (FrameKind::Block, 7, PieceIndex(5)));
    assert_eq!((head.block_index(), head.payload_bytes()), (BlockIndex(2), BLOCK_BYTES));
    kinds.insert(FrameKind::Block as u8);
    assert_eq!(kinds, (1..=17).collect(), "a frame without golden bytes");
}

#[test]
fn error_codes_have_their_golden_numbers() {
    let codes = [
        ErrorCode::Protocol,
        ErrorCode::Unauthorized,
        ErrorCode::NoSuchTask,
        ErrorCode::WrongGeometry,
        ErrorCode::Busy,
        ErrorCode::ReadFailed,
        ErrorCode::Banned,
        ErrorCode::Draining,
        ErrorCode::Version,
    ];
    for (code, number) in codes.into_iter().zip(1u8..) {
        let frame = Frame::Error { channel: 0, code, text: String::new() };
        let bytes = frame.encode();
        assert_eq!(bytes[16], number);
        assert_eq!(decode(&bytes), Ok(frame));
    }
}

/// The head of `frame` with the bytes at `offset` replaced.
fn altered(frame: &Frame, offset: usize, with: &[u8]) -> Result<Head, FrameError> {
    let mut head: [u8; HEAD_BYTES] = frame.encode()[..HEAD_BYTES].try_into().unwrap();
    head[offset..offset + with.len()].copy_from_slice(with);
    Head::decode(&head)
}

#[test]
fn head_that_breaks_the_table_is_refused() {
    use FrameError::{BadField, BadLength, NotHawker, UnknownKind};
    let frames: Vec<Frame> = golden().into_iter().map(|(frame, _)| frame).collect();
    let of = |kind: FrameKind| frames.iter().find(|frame| frame.kind() == kind).unwrap();
    let cases = [
        (altered(&Frame::Goodbye, 4, &[0]), UnknownKind(0)),
        (altered(&Frame::Goodbye, 4, &[18]), UnknownKind(18)),
        (altered(&Frame::Goodbye, 4, &[255]), UnknownKind(255)),
        (altered(&Frame::Goodbye, 5, &[1]), BadField(FrameKind::Goodbye, "flags")),
        (altered(of(FrameKind::Hello), 5, &[2]), BadField(FrameKind::Hello, "flags")),
        (altered(of(FrameKind::Hello), 20, b"SSH-2.0-"), NotHawker),
        (altered(&Frame::Goodbye, 6, &[1]), BadField(FrameKind::Goodbye, "channel")),
        (altered(of(FrameKind::Close), 6, &[0]), BadField(FrameKind::Close, "channel")),
        (altered(&Frame::Goodbye, 8, &[1]), BadField(FrameKind::Goodbye, "piece")),
        (altered(&Frame::Goodbye, 12, &[1]), BadField(FrameKind::Goodbye, "block")),
        (altered(&Frame::Goodbye, 16, &[1]), BadField(FrameKind::Goodbye, "count")),
        (altered(&Frame::Goodbye, 27, &[1]), BadField(FrameKind::Goodbye, "aux")),
        (altered(&Frame::Goodbye, 28, &[1]), BadField(FrameKind::Goodbye, "reserved")),
        (altered(&Frame::Goodbye, 0, &[1]), BadLength(FrameKind::Goodbye, 1)),
        (altered(of(FrameKind::Auth), 0, &[95]), BadLength(FrameKind::Auth, 95)),
        (altered(of(FrameKind::Have), 0, &[1, 0, 4]), BadLength(FrameKind::Have, (1 << 18) + 1)),
        (altered(of(FrameKind::Records), 0, &[255; 4]), BadLength(FrameKind::Records, u32::MAX)),
        (altered(of(FrameKind::Error), 0, &[1, 1]), BadLength(FrameKind::Error, 257)),
        (altered(of(FrameKind::Error), 16, &[0]), BadField(FrameKind::Error, "count")),
        (altered(of(FrameKind::Error), 16, &[10]), BadField(FrameKind::Error, "count")),
        (altered(of(FrameKind::Open), 16, &[1]), BadField(FrameKind::Open, "geometry")),
        (altered(of(FrameKind::Open), 26, &[255]), BadField(FrameKind::Open, "geometry")),
        (altered(of(FrameKind::Have), 8, &[17]), BadField(FrameKind::Have, "piece")),
        (altered(of(FrameKind::Have), 8, &[0xf8, 0xff, 0xff, 0xff]), BadField(FrameKind::Have, "piece")),
        (altered(of(FrameKind::Request), 16, &[0]), BadField(FrameKind::Request, "count")),
        (altered(of(FrameKind::Request), 16, &[63]), BadField(FrameKind::Request, "count")),
        (altered(of(FrameKind::Request), 12, &[64]), BadField(FrameKind::Request, "block")),
        (altered(of(FrameKind::BadPiece), 15, &[255]), BadField(FrameKind::BadPiece, "block")),
        (altered(of(FrameKind::Granted), 24, &[1]), BadField(FrameKind::Granted, "aux")),
    ];
    for (index, (got, expected)) in cases.into_iter().enumerate() {
        assert_eq!(got, Err(expected), "case {index}");
    }
    assert!(altered(of(FrameKind::Request), 16, &[62]).is_ok(), "the whole piece from block 2 on");
}

#[test]
fn block_of_no_bytes_or_too_many_is_refused() {
    let head = Head::block(7, PieceIndex(5), BlockIndex(2), 1);
    for length in [0, BLOCK_BYTES + 1] {
        let mut bytes = head.encode();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Head::decode(&bytes), Err(FrameError::BadLength(FrameKind::Block, length)));
    }
    assert_eq!(Frame::decode(&head, &[0]), Err(FrameError::BadLength(FrameKind::Block, 1)));
}

#[test]
fn payload_that_means_nothing_is_refused() {
    let hello = golden().swap_remove(0).0.encode();
    let with = |offset: usize, byte: u8| {
        let mut bytes = hello.clone();
        bytes[HEAD_BYTES + offset] = byte;
        decode(&bytes)
    };
    assert_eq!(with(4, 0), Err(FrameError::BadField(FrameKind::Hello, "roles")));
    assert_eq!(with(4, 4), Err(FrameError::BadField(FrameKind::Hello, "roles")));
    assert_eq!(with(5, 1), Err(FrameError::BadField(FrameKind::Hello, "reserved")));
    assert_eq!(decode(&hello[..hello.len() - 1]), Err(FrameError::BadLength(FrameKind::Hello, 71)));
    let mut error = Frame::Error { channel: 1, code: ErrorCode::Busy, text: text("no") }.encode();
    *error.last_mut().unwrap() = 0xff;
    assert_eq!(decode(&error), Err(FrameError::BadField(FrameKind::Error, "text")));
}

#[test]
fn long_error_text_is_cut_at_a_character() {
    let frame = Frame::Error { channel: 0, code: ErrorCode::Protocol, text: text("x") + &"é".repeat(200) };
    let Ok(Frame::Error { text, .. }) = decode(&frame.encode()) else { panic!("an ERROR frame") };
    assert_eq!(text.len(), 255);
    assert!(text.ends_with('é'));
}

#[test]
fn other_protocols_are_refused_at_the_first_head() {
    for bytes in [*b"GET / HTTP/1.1\r\nHost: peer:65000\r\n\r\n", *b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12"] {
        let head: [u8; HEAD_BYTES] = bytes[..HEAD_BYTES].try_into().unwrap();
        assert!(Head::decode(&head).is_err());
    }
}

#[test]
fn frames_append_to_what_is_there() {
    let mut bytes = vec![1, 2, 3];
    Frame::Ping { aux: 1 }.encode_into(&mut bytes);
    Frame::have(1, PieceIndex(13)).encode_into(&mut bytes);
    assert_eq!(bytes[..3], [1, 2, 3]);
    assert_eq!(decode(&bytes[3..35]), Ok(Frame::Ping { aux: 1 }));
    assert_eq!(decode(&bytes[35..]), Ok(Frame::Have { channel: 1, first_piece: 8, bits: vec![0x20] }));
}

#[test]
#[should_panic(expected = "channel")]
fn encoding_a_task_frame_on_channel_0_is_a_bug() {
    let _ = Frame::Close { channel: 0 }.encode();
}

#[test]
fn have_of_nothing_is_one_empty_frame() {
    let frames = have_windows(3, &PieceMap::empty(1000));
    assert_eq!(frames, [Frame::Have { channel: 3, first_piece: 0, bits: vec![] }]);
}

#[test]
fn have_of_many_pieces_goes_in_windows() {
    let window = CONTROL_BYTES_MAX * 8;
    let mut pieces = PieceMap::empty(3 * window + 5);
    for piece in [0, window - 1, 3 * window + 4] {
        pieces.insert(PieceIndex(piece));
    }
    let frames = have_windows(3, &pieces);
    assert_eq!(frames.len(), 2, "the two windows between hold nothing");
    let mut got = PieceMap::empty(pieces.piece_count());
    for frame in &frames {
        let Ok(Frame::Have { first_piece, bits, .. }) = decode(&frame.encode()) else { panic!("a HAVE frame") };
        apply_have(&mut got, first_piece, &bits).unwrap();
    }
    assert_eq!(got, pieces);
}

#[test]
fn have_of_a_piece_beyond_the_task_changes_nothing() {
    let mut pieces = PieceMap::empty(9);
    assert_eq!(apply_have(&mut pieces, 0, &[1, 1, 0]), Ok(2));
    assert_eq!(apply_have(&mut pieces, 8, &[1]), Ok(0));
    for (first_piece, bits) in [(0, &[2, 2][..]), (8, &[2]), (16, &[1]), (4, &[1]), (u32::MAX - 7, &[0x80, 1])] {
        assert!(apply_have(&mut pieces, first_piece, bits).is_err(), "{first_piece} {bits:?}");
    }
    assert_eq!(apply_have(&mut pieces, u32::MAX - 7, &[0; 9]), Ok(0), "a window past 2^32 that shows nothing");
    assert_eq!(pieces.len(), 2);
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let channel = 1..=u16::MAX;
    let piece = any::<u32>().prop_map(PieceIndex);
    let block = (0u32..64).prop_map(BlockIndex);
    let codes = prop::sample::select(&[ErrorCode::Protocol, ErrorCode::NoSuchTask, ErrorCode::Version][..]);
    let hello = (any::<[u16; 2]>(), any::<[[u8; 32]; 2]>(), 1u8..=3, any::<bool>()).prop_map(
        |([version_min, version_max], [nonce, host], roles, is_secured)| {
            Frame::Hello(Hello { version_min, version_max, nonce, host: PublicKey(host), roles, is_secured })
        },
    );
    let geometry = (0..=crate::geometry::LENGTH_MAX, any::<bool>()).prop_filter_map("in bounds", |(length, known)| {
        if known { Geometry::of_length(length) } else { Geometry::of_stream(length) }
    });
    prop_oneof![
        hello,
        (any::<[u8; 32]>(), any::<[[u8; 32]; 2]>()).prop_map(|(mac, halves)| {
            Frame::Auth { mac, signature: Signature(halves.concat().try_into().unwrap()) }
        }),
        (channel.clone(), any::<[u8; 32]>(), geometry).prop_map(|(channel, task, geometry)| Frame::Open {
            channel,
            task: TaskId(task),
            geometry
        }),
        channel.clone().prop_map(|channel| Frame::Close { channel }),
        (channel.clone(), 0u32..1 << 29, any_vec(any::<u8>(), 0..64)).prop_map(|(channel, eighth, bits)| {
            let first_piece = (eighth - eighth.min(64)) * 8;
            Frame::Have { channel, first_piece, bits }
        }),
        (channel.clone(), any_vec(any::<u8>(), 1..300)).prop_map(|(channel, batch)| Frame::Records { channel, batch }),
        (channel.clone(), piece.clone(), 0u32..64, 1u32..=64).prop_map(|(channel, piece, block, count)| {
            Frame::Request { channel, piece, block: BlockIndex(block), count: count.min(64 - block) }
        }),
        (channel.clone(), piece.clone(), any::<u32>()).prop_map(|(channel, piece, position)| Frame::Queued {
            channel,
            piece,
            position
        }),
        (channel.clone(), any::<u32>(), any::<u32>()).prop_map(|(channel, blocks, millis)| Frame::Granted {
            channel,
            blocks,
            millis
        }),
        (channel.clone(), piece.clone()).prop_map(|(channel, piece)| Frame::Cancel { channel, piece }),
        (channel.clone(), piece.clone(), block).prop_map(|(channel, piece, block)| Frame::BadPiece {
            channel,
            piece,
            block
        }),
        (channel, piece).prop_map(|(channel, piece)| Frame::Gone { channel, piece }),
        (any::<u16>(), codes, "\\PC{0,60}").prop_map(|(channel, code, text)| Frame::Error { channel, code, text }),
        any::<u64>().prop_map(|aux| Frame::Ping { aux }),
        any::<u64>().prop_map(|aux| Frame::Pong { aux }),
        Just(Frame::Goodbye),
    ]
}

proptest! {
    #[test]
    fn frame_survives_the_wire(frame in any_frame()) {
        let bytes = frame.encode();
        let decoded = decode(&bytes).unwrap();
        prop_assert_eq!(decoded.encode(), bytes);
        prop_assert_eq!(decoded, frame);
    }

    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes in any_vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    /// Random bytes rarely pass the head's checks; a frame with a few bytes changed often does.
    #[test]
    fn changed_frame_decodes_to_the_same_bytes_or_fails(
        frame in any_frame(),
        changes in any_vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = frame.encode();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(frame) = decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn have_windows_show_exactly_the_pieces(count in 0u32..400, pieces in prop::collection::btree_set(0u32..400, 0..99)) {
        let mut map = PieceMap::empty(count);
        for piece in pieces.into_iter().filter(|piece| *piece < count) {
            map.insert(PieceIndex(piece));
        }
        let mut got = PieceMap::empty(count);
        for frame in have_windows(1, &map) {
            let Frame::Have { first_piece, bits, .. } = frame else { panic!("a HAVE frame") };
            apply_have(&mut got, first_piece, &bits).unwrap();
        }
        prop_assert_eq!(got, map);
    }

    #[test]
    fn any_have_is_applied_or_refused_without_panic(
        count in 0u32..400,
        first_piece in prop_oneof![0u32..400, any::<u32>(), u32::MAX - 64..=u32::MAX],
        bits in any_vec(prop_oneof![Just(0), any::<u8>()], 0..64),
    ) {
        let first_piece = first_piece & !7;
        let _ = apply_have(&mut PieceMap::empty(count), first_piece, &bits);
    }
}
