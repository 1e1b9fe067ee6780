//! The swarm's machines under anything that neighbors and children may say, in any order, at any time.
#![no_main]

use std::time::Duration;

use hawker_proto::{BlockIndex, Geometry, Instant, PieceIndex, PieceMap};
use hawker_swarm::{
    Download, DownloadConfig, DownloadInput, LinkId, NeighborId, Places, Upload, UploadConfig, UploadInput,
};
use libfuzzer_sys::fuzz_target;

const PIECES: u32 = 24;

/// One input from four bytes: what, from whom, and two numbers.
fn heard([kind, who, a, b]: [u8; 4]) -> Option<DownloadInput> {
    let neighbor = NeighborId(u32::from(who % 12));
    let (piece, block) = (PieceIndex(u32::from(a) % (PIECES + 1)), BlockIndex(u32::from(b) % 3));
    Some(match kind % 13 {
        0 => DownloadInput::NeighborUp {
            neighbor,
            round_trip: Duration::from_micros(u64::from(a) * 1000),
            is_remote: b % 2 == 1,
        },
        1 => DownloadInput::NeighborDown { neighbor },
        2 => DownloadInput::HavePiece { neighbor, piece: PieceIndex(piece.0 % PIECES) },
        3 => DownloadInput::Have { neighbor, pieces: PieceMap::full(PIECES) },
        4 => DownloadInput::Gone { neighbor, piece },
        5 => DownloadInput::Records { pieces: (0..PIECES.min(u32::from(a))).map(PieceIndex).collect() },
        6 => DownloadInput::Queued { neighbor, piece },
        7 => DownloadInput::Granted { neighbor, blocks: u32::from(a), until: Duration::from_millis(u64::from(b)) },
        8 => DownloadInput::Arriving { neighbor },
        9 => DownloadInput::BlockIn { neighbor, piece, block },
        10 => DownloadInput::BlockBad { neighbor, piece, block },
        11 => DownloadInput::NoLease { retry_after: Duration::from_millis(u64::from(a)) },
        _ => return None,
    })
}

fn asked([kind, who, a, b]: [u8; 4]) -> UploadInput {
    let link = LinkId(u32::from(who % 6));
    let (channel, piece) = (u16::from(b % 3), PieceIndex(u32::from(a)));
    match kind % 6 {
        0 => UploadInput::LinkUp { link },
        1 => UploadInput::LinkDown { link },
        2 | 3 => UploadInput::Request { link, channel, piece, blocks: u32::from(a % 4)..u32::from(b) },
        4 => UploadInput::Cancel { link, channel, piece },
        _ => UploadInput::BlockSent { link, bytes: u32::from(a) },
    }
}

fuzz_target!(|bytes: &[u8]| {
    let geometry = Geometry::of_length(u64::from(PIECES) * 64 * 1024).expect("a small length");
    let mut now = Instant::ZERO;
    let have = PieceMap::empty(geometry.piece_count());
    let mut download = Download::new(DownloadConfig::default(), geometry, have, 1, now);
    let mut places = Places::default();
    let mut upload = Upload::new(UploadConfig::default());
    let mut slots = 2u32;
    for step in bytes.as_chunks::<4>().0.iter().take(2000) {
        match heard(*step) {
            Some(input) => download.handle(now, input),
            None => {
                now += Duration::from_micros(u64::from(step[2]) << (step[3] % 16));
                download.handle(now, DownloadInput::Tick);
            }
        }
        places.note((), &mut download);
        while places.whose_turn().is_some() {
            places.offer((), &mut download);
        }
        download.assert_invariants();
        while download.poll().is_some() {}

        upload.handle(now, asked(*step));
        while let Some(output) = upload.poll(now, &mut || slots.checked_sub(1).map(|left| slots = left).is_some()) {
            slots += u32::from(output == hawker_swarm::UploadOutput::ReleaseSlot);
        }
        upload.assert_invariants();
        assert!(slots <= 2 && upload.granted() as u32 + slots == 2, "a slot is lost");
    }
});
