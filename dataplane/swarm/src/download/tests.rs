mod imports;
mod purchases;

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::geometry::PIECE_BYTES_MIN;
use hawker_proto::{ByteRange, Stripes, geometry};
use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

/// The one block of a piece of the small tasks here.
const BLOCK: u64 = PIECE_BYTES_MIN as u64;

/// A download under test: what it puts out is gathered, its clock is ours.
struct Bench {
    download: Download,
    now: Instant,
}

impl Bench {
    /// `pieces` pieces of one block each.
    fn new(pieces: u64) -> Self {
        Self::with(Geometry::of_length(pieces * BLOCK).unwrap(), DownloadConfig::default())
    }

    fn with(geometry: Geometry, config: DownloadConfig) -> Self {
        let have = PieceMap::empty(geometry.piece_count());
        Self { download: Download::new(config, geometry, have, 1, Instant::ZERO), now: Instant::ZERO }
    }

    fn feed(&mut self, input: DownloadInput) -> Vec<DownloadOutput> {
        self.download.handle(self.now, input);
        while self.download.take_place(Held::default(), Held::default()) {}
        self.download.assert_invariants();
        core::iter::from_fn(|| self.download.poll()).collect()
    }

    fn wait(&mut self, time: Duration) -> Vec<DownloadOutput> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.download.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            outputs.extend(self.feed(DownloadInput::Tick));
        }
        self.now = end;
        outputs.extend(self.feed(DownloadInput::Tick));
        outputs
    }

    fn up(&mut self, neighbor: u32) {
        let round_trip = Duration::from_micros(200);
        assert_eq!(
            self.feed(DownloadInput::NeighborUp { neighbor: NeighborId(neighbor), round_trip, is_remote: false }),
            vec![]
        );
    }

    fn records(&mut self) {
        let pieces = (0..self.download.progress().piece_count).map(PieceIndex).collect();
        self.feed(DownloadInput::Records { pieces });
    }

    fn have(&mut self, neighbor: u32, piece: u32) -> Vec<DownloadOutput> {
        self.feed(DownloadInput::HavePiece { neighbor: NeighborId(neighbor), piece: PieceIndex(piece) })
    }

    fn have_all(&mut self, neighbor: u32) -> Vec<DownloadOutput> {
        let pieces = PieceMap::full(self.download.progress().piece_count);
        self.feed(DownloadInput::Have { neighbor: NeighborId(neighbor), pieces })
    }

    fn granted(&mut self, neighbor: u32) -> Vec<DownloadOutput> {
        let until = Duration::from_secs(2);
        self.feed(DownloadInput::Granted { neighbor: NeighborId(neighbor), blocks: 64, until })
    }

    fn block(&mut self, neighbor: u32, piece: u32, block: u32) -> Vec<DownloadOutput> {
        let (piece, block) = (PieceIndex(piece), BlockIndex(block));
        self.feed(DownloadInput::BlockIn { neighbor: NeighborId(neighbor), piece, block })
    }

    fn stored(&mut self, piece: u32) -> Vec<DownloadOutput> {
        self.feed(DownloadInput::PieceStored { piece: PieceIndex(piece) })
    }

    fn range(&self, pieces: core::ops::Range<u32>) -> ByteRange {
        self.download.pieces.geometry().range_of_pieces(pieces)
    }
}

fn requested(outputs: &[DownloadOutput], from: u32) -> Vec<u32> {
    let piece = |output: &DownloadOutput| match output {
        DownloadOutput::Request { neighbor, piece, .. } if neighbor.0 == from => Some(piece.0),
        _ => None,
    };
    outputs.iter().filter_map(piece).collect()
}

fn cancelled(outputs: &[DownloadOutput], from: u32) -> Vec<u32> {
    let piece = |output: &DownloadOutput| match output {
        DownloadOutput::Cancel { neighbor, piece } if neighbor.0 == from => Some(piece.0),
        _ => None,
    };
    outputs.iter().filter_map(piece).collect()
}

fn asks(outputs: &[DownloadOutput]) -> usize {
    outputs.iter().filter(|output| matches!(output, DownloadOutput::AskLease { .. })).count()
}

#[test]
fn rarest_piece_is_asked_for_first() {
    let config = DownloadConfig { reader_one_in: u32::MAX, runs_waiting: 2, ..DownloadConfig::default() };
    let mut bench = Bench::with(Geometry::of_length(40 * BLOCK).unwrap(), config);
    (0..3).for_each(|neighbor| bench.up(neighbor));
    for piece in (0..40).filter(|piece| ![17, 23].contains(piece)) {
        bench.have(0, piece);
        bench.have(1, piece);
    }
    for piece in 0..40 {
        bench.have(2, piece);
    }
    bench.download.neighbors[0].rest_until = bench.now + Duration::from_secs(1);
    bench.download.neighbors[1].rest_until = bench.now + Duration::from_secs(1);
    let pieces = (0..40).map(PieceIndex).collect();
    let asked: BTreeSet<u32> = requested(&bench.feed(DownloadInput::Records { pieces }), 2).into_iter().collect();
    assert_eq!(asked, BTreeSet::from([17, 23]));
}

/// Of 400 requests to one neighbor those for the next piece of the reader, when so many neighbors have everything.
fn requests_for_reader(holders: u32) -> u32 {
    let mut bench = Bench::new(1000);
    (0..holders).for_each(|neighbor| bench.up(neighbor));
    for neighbor in &mut bench.download.neighbors[1..] {
        neighbor.rest_until = bench.now + Duration::from_secs(60);
    }
    bench.records();
    bench.feed(DownloadInput::Reader { piece: PieceIndex(100) });
    (0..holders).rev().for_each(|neighbor| drop(bench.have_all(neighbor)));
    let mut next: Vec<u32> = requested(&bench.granted(0), 0);
    let mut for_reader = 0;
    for _ in 0..400 {
        bench.now += Duration::from_millis(2);
        let expected = (100..).map(PieceIndex).find(|piece| bench.download.pieces.fresh().contains(*piece)).unwrap();
        let first = bench.download.neighbors[0].runs[0].piece.0;
        next.clear();
        next.extend(requested(&bench.block(0, first, 0), 0));
        bench.stored(first);
        for_reader += u32::from(next.contains(&expected.0));
    }
    for_reader
}

#[test]
fn one_request_in_two_is_the_next_piece_of_the_reader() {
    let for_reader = requests_for_reader(2);
    assert!((160..=240).contains(&for_reader), "{for_reader} of 400");
}

#[test]
fn lone_holder_is_seldom_asked_for_what_all_read_next() {
    let for_reader = requests_for_reader(1);
    assert!((30..=70).contains(&for_reader), "{for_reader} of 400, one in eight");
}

#[test]
fn parent_that_serves_us_takes_what_waits_elsewhere() {
    let mut bench = Bench::new(3);
    bench.records();
    (0..2).for_each(|neighbor| bench.up(neighbor));
    bench.have_all(0);
    let waits = requested(&bench.have_all(1), 1);
    assert!(!waits.is_empty(), "what waits at one parent may wait at another");
    let outputs = bench.granted(0);
    let asked: BTreeSet<u32> = bench.download.neighbors[0].runs.iter().map(|run| run.piece.0).collect();
    assert!(asked.len() >= 2);
    for piece in cancelled(&outputs, 1) {
        assert!(asked.contains(&piece), "only what came to be sent by the other");
    }
    assert!(bench.download.neighbors[1].runs.iter().all(|run| !asked.contains(&run.piece.0)));
}

/// Runs asked of a parent that sends a block in 10 ms and of one in whose queue we wait, both so far away.
fn runs_asked(round_trip: Duration) -> [usize; 2] {
    let mut bench = Bench::new(100);
    bench.records();
    (0..2).for_each(|neighbor| bench.up(neighbor));
    bench.have_all(0);
    bench.have_all(1);
    for neighbor in (0..2).map(NeighborId) {
        bench.feed(DownloadInput::RoundTrip { neighbor, round_trip });
    }
    bench.granted(0);
    for _ in 0..8 {
        bench.now += Duration::from_millis(10);
        let piece = bench.download.neighbors[0].runs[0].piece.0;
        bench.block(0, piece, 0);
        bench.stored(piece);
    }
    [0, 1].map(|neighbor| bench.download.neighbors[neighbor].runs.len())
}

#[test]
fn parent_far_away_is_asked_for_more() {
    assert_eq!(runs_asked(Duration::from_micros(200)), [5, 1], "50 ms of work, and one run to begin with");
    assert_eq!(runs_asked(Duration::from_millis(30)), [17, 4], "and four round trips of work, one to begin with");
}

#[test]
fn distant_parents_are_asked_few_at_a_time_until_they_answer() {
    for (millis, expected) in [(0, 11), (300, 2)] {
        let mut bench = Bench::new(40);
        let round_trip = Duration::from_millis(millis);
        for neighbor in (0..20).map(NeighborId) {
            bench.feed(DownloadInput::NeighborUp { neighbor, round_trip, is_remote: false });
            bench.feed(DownloadInput::Have { neighbor, pieces: PieceMap::full(40) });
        }
        let pieces = (0..40).map(PieceIndex).collect();
        let outputs = bench.feed(DownloadInput::Records { pieces });
        let asked = |outputs: &[DownloadOutput]| -> Vec<(NeighborId, PieceIndex)> {
            let request = |output: &DownloadOutput| match output {
                DownloadOutput::Request { neighbor, piece, .. } => Some((*neighbor, *piece)),
                _ => None,
            };
            outputs.iter().filter_map(request).collect()
        };
        let first = asked(&outputs);
        assert_eq!(first.len(), expected);
        if millis > 0 {
            // One has a queue: its slot will not be lost, so another may be asked.
            let (neighbor, piece) = first[0];
            assert_eq!(asked(&bench.feed(DownloadInput::Queued { neighbor, piece })).len(), 1);
            // One is silent for ever: others are asked all the same.
            assert!(!asked(&bench.wait(Duration::from_millis(300))).is_empty());
        }
    }
}

#[test]
fn only_granted_requests_time_out_and_go_elsewhere() {
    let mut bench = Bench::new(20);
    bench.records();
    (0..2).for_each(|neighbor| bench.up(neighbor));
    bench.have_all(0);
    let outputs = bench.wait(Duration::from_secs(60));
    assert_eq!(cancelled(&outputs, 0), [0; 0], "a queue may be long");
    bench.granted(0);
    bench.have_all(1);
    bench.granted(1);
    for _ in 0..4 {
        bench.now += Duration::from_millis(5);
        for neighbor in 0..2u8 {
            let piece = bench.download.neighbors[usize::from(neighbor)].runs[0].piece.0;
            bench.block(neighbor.into(), piece, 0);
            bench.stored(piece);
        }
    }
    // Neighbor 1 falls silent: after 100 ms, though it was wont to answer in 5 ms.
    let lost: BTreeSet<u32> = bench.download.neighbors[1].runs.iter().map(|run| run.piece.0).collect();
    assert!(!lost.is_empty());
    let mut outputs = Vec::new();
    for _ in 0..22 {
        outputs.extend(bench.wait(Duration::from_millis(5)));
        if let Some(run) = bench.download.neighbors[0].runs.first().copied() {
            outputs.extend(bench.block(0, run.piece.0, 0));
            outputs.extend(bench.stored(run.piece.0));
        }
    }
    let given_up: BTreeSet<u32> = cancelled(&outputs, 1).into_iter().collect();
    assert!(lost.is_subset(&given_up), "{lost:?} {given_up:?}");
    assert!(bench.download.pieces.have().len() == 20, "{:?}", bench.download.progress());
}

#[test]
fn silence_of_a_parent_that_never_sent_ends_after_two_seconds() {
    let mut bench = Bench::new(4);
    bench.records();
    bench.up(0);
    bench.have_all(0);
    bench.granted(0);
    assert_eq!(cancelled(&bench.wait(Duration::from_millis(1999)), 0), [0; 0]);
    assert!(!cancelled(&bench.wait(Duration::from_millis(2)), 0).is_empty());
}

#[test]
fn sign_of_life_puts_the_timeout_off() {
    let mut bench = Bench::new(4);
    bench.records();
    bench.up(0);
    bench.have_all(0);
    bench.granted(0);
    for _ in 0..10 {
        assert_eq!(cancelled(&bench.wait(Duration::from_millis(1500)), 0), [0; 0]);
        bench.feed(DownloadInput::Arriving { neighbor: NeighborId(0) });
    }
}

#[test]
fn parent_that_says_gone_again_and_again_is_asked_more_rarely() {
    let mut bench = Bench::new(8);
    bench.up(0);
    bench.records();
    for _ in 0..2 {
        assert_eq!(requested(&bench.have(0, 0), 0), vec![0], "disks do rot");
        bench.feed(DownloadInput::Gone { neighbor: NeighborId(0), piece: PieceIndex(0) });
    }
    assert_eq!(requested(&bench.have(0, 0), 0), vec![0]);
    bench.feed(DownloadInput::Gone { neighbor: NeighborId(0), piece: PieceIndex(0) });
    assert_eq!(requested(&bench.have(0, 0), 0), [0; 0], "the third time it rests");
    assert_eq!(requested(&bench.wait(Duration::from_secs(1)), 0), vec![0]);
    // A block in between makes up for it.
    bench.granted(0);
    bench.block(0, 0, 0);
    assert_eq!(bench.download.neighbors[0].gones, 0);
}

#[test]
fn parent_that_takes_its_grants_back_is_left_alone() {
    let mut bench = Bench::new(40);
    bench.records();
    bench.up(1);
    bench.have_all(1);
    let revoked = |bench: &mut Bench| {
        let piece = bench.download.neighbors[0].runs[0].piece;
        bench.feed(DownloadInput::Queued { neighbor: NeighborId(1), piece })
    };
    for round in 0..3 {
        bench.granted(1);
        assert_eq!(cancelled(&revoked(&mut bench), 1), [0; 0], "a grant ends");
        bench.granted(1);
        if round < 2 {
            let piece = bench.download.neighbors[0].runs[0].piece;
            bench.block(1, piece.0, 0);
            continue;
        }
        let outputs = revoked(&mut bench);
        assert!(!cancelled(&outputs, 1).is_empty() && requested(&outputs, 1).is_empty(), "two brought nothing");
    }
    assert_eq!(requested(&bench.wait(Duration::from_millis(199)), 1), [0; 0]);
    assert_ne!(requested(&bench.wait(Duration::from_millis(1)), 1), [0; 0]);
}

#[test]
fn bad_block_is_reported_once_and_banned_twice() {
    let mut bench = Bench::new(4);
    bench.records();
    bench.up(0);
    bench.have_all(0);
    bench.granted(0);
    let bad = |piece: u32| DownloadInput::BlockBad {
        neighbor: NeighborId(0),
        piece: PieceIndex(piece),
        block: BlockIndex(0),
    };
    let report = DownloadOutput::BadPiece { neighbor: NeighborId(0), piece: PieceIndex(2), block: BlockIndex(0) };
    assert!(bench.feed(bad(2)).contains(&report));
    bench.wait(Duration::from_secs(1));
    assert!(!bench.download.neighbors[0].runs.is_empty(), "it is asked again after a while");
    assert!(bench.feed(bad(3)).contains(&DownloadOutput::Ban { neighbor: NeighborId(0) }));
    assert_eq!(bench.download.progress().neighbors, 0);
    assert_eq!(bench.download.progress().bytes_from_peers, 0);
}

#[test]
fn byte_is_accepted_once_whoever_sends_it() {
    let mut bench = Bench::new(4);
    bench.records();
    bench.up(0);
    assert!(bench.download.is_block_wanted(PieceIndex(1), BlockIndex(0)));
    bench.block(9, 1, 0);
    assert!(!bench.download.is_block_wanted(PieceIndex(1), BlockIndex(0)), "from a stranger, but right");
    bench.block(0, 1, 0);
    assert_eq!(bench.stored(1), vec![DownloadOutput::Announce { piece: PieceIndex(1) }]);
    bench.block(0, 1, 0);
    let progress = bench.download.progress();
    assert_eq!((progress.bytes_from_peers, progress.bytes_wasted), (BLOCK, 2 * BLOCK));
    assert_eq!(bench.stored(1), vec![], "announced once");
    for (piece, block) in [(4, 0), (0, 1), (0, 63), (u32::MAX, u32::MAX)] {
        assert!(!bench.download.is_block_wanted(PieceIndex(piece), BlockIndex(block)));
    }
}

#[test]
fn endgame_takes_over_from_a_parent_that_is_much_slower() {
    let mut bench = Bench::new(30);
    bench.records();
    (0..2).for_each(|neighbor| bench.up(neighbor));
    (0..2).for_each(|neighbor| drop(bench.have_all(neighbor)));
    (0..2).for_each(|neighbor| drop(bench.granted(neighbor)));
    let mut outputs = Vec::new();
    // Neighbor 0 sends a block in 2 ms, neighbor 1 in 60 ms.
    for turn in 1..200 {
        bench.now += Duration::from_millis(2);
        for neighbor in (0..2u8).filter(|neighbor| *neighbor == 0 || turn % 30 == 0) {
            if let Some(run) = bench.download.neighbors[usize::from(neighbor)].runs.first().copied() {
                outputs.extend(bench.block(neighbor.into(), run.piece.0, 0));
                outputs.extend(bench.stored(run.piece.0));
            }
        }
        if outputs.contains(&DownloadOutput::Complete) {
            assert!(turn <= 60, "{turn}: 30 pieces at 2 ms, and a few at 60");
            assert!(!cancelled(&outputs, 1).is_empty());
            return;
        }
    }
    panic!("never complete: {:?}", bench.download.progress());
}

#[test]
fn lone_host_holds_several_leases_and_fetches_them_back_to_back() {
    let mut bench = Bench::new(1024);
    let mut open = VecDeque::new();
    let mut serial = 0u32;
    let mut outputs = bench.wait(Duration::from_millis(2));
    assert_eq!(outputs, vec![DownloadOutput::AskLease { bytes: 4 << 20, rate: 0, source_rate: None, lacked: None }]);
    loop {
        if asks(&outputs) == 1 && serial < 64 {
            let range = bench.range(serial * 16..(serial + 1) * 16);
            let lease = LeaseId(serial.into());
            outputs = bench.feed(DownloadInput::Lease { lease, range });
            assert!(outputs.contains(&DownloadOutput::FetchOrigin { lease, range }));
            open.push_back((lease, serial * 16..(serial + 1) * 16));
            serial += 1;
            continue;
        }
        assert!(open.len() <= 4);
        let Some((lease, pieces)) = open.pop_front() else { break };
        assert!(serial == 64 || open.len() == 3, "four ranges at a time");
        bench.now += Duration::from_millis(30);
        outputs = pieces.flat_map(|piece| bench.stored(piece)).collect();
        outputs.extend(bench.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete }));
    }
    assert_eq!(bench.download.progress().pieces_stored, 1024);
    assert_eq!(bench.download.progress().bytes_from_origin, 1024 * BLOCK);
}

#[test]
fn no_lease_is_asked_for_while_neighbors_have_everything() {
    let mut bench = Bench::new(64);
    bench.up(0);
    bench.records();
    bench.have_all(0);
    // Longer, and it would ask whether the origin is faster (see `purchases`).
    assert_eq!(asks(&bench.wait(Duration::from_millis(40))), 0);
    bench.feed(DownloadInput::Gone { neighbor: NeighborId(0), piece: PieceIndex(5) });
    let last = bench.wait(Duration::from_millis(1));
    assert_eq!(asks(&last) + usize::from(bench.download.progress().origin_fetches > 0), 0, "asked at once, above");
    assert!(bench.feed(DownloadInput::NoLease { retry_after: Duration::from_millis(300) }).is_empty());
    assert_eq!(asks(&bench.wait(Duration::from_millis(299))), 0);
    assert_eq!(asks(&bench.wait(Duration::from_millis(1))), 1, "asked again when told to");
}

#[test]
fn next_lease_is_asked_for_when_the_current_one_is_nearly_done() {
    let mut bench = Bench::new(1024);
    bench.up(0);
    assert_eq!(asks(&bench.wait(Duration::from_millis(2))), 1);
    let (lease, range) = (LeaseId(1), bench.range(0..256));
    assert_eq!(asks(&bench.feed(DownloadInput::Lease { lease, range })), 0);
    let mut asked_at = None;
    for block in 1..=256u64 {
        // 25 MB/s.
        bench.now += Duration::from_millis(10);
        let outputs = bench.feed(DownloadInput::OriginProgress { lease, upto: block * BLOCK });
        if asks(&outputs) > 0 {
            asked_at.get_or_insert(256 - block);
        }
    }
    let blocks_left = asked_at.expect("asked before the end");
    assert!((30..=60).contains(&blocks_left), "{blocks_left} blocks are not half a second");
}

#[test]
fn lease_of_what_is_here_is_returned_and_one_of_half_is_cut() {
    let mut bench = Bench::new(16);
    (0..4).for_each(|piece| drop(bench.stored(piece)));
    let (lease, range) = (LeaseId(1), bench.range(0..4));
    let outputs = bench.feed(DownloadInput::Lease { lease, range });
    assert!(outputs.contains(&DownloadOutput::ReturnLease { lease, range }));
    let lease = LeaseId(2);
    let outputs = bench.feed(DownloadInput::Lease { lease, range: bench.range(0..8) });
    assert!(outputs.contains(&DownloadOutput::FetchOrigin { lease, range: bench.range(4..8) }));
    let beyond = ByteRange::new(1 << 50, 1 << 51).unwrap();
    let outputs = bench.feed(DownloadInput::Lease { lease: LeaseId(3), range: beyond });
    assert!(outputs.contains(&DownloadOutput::ReturnLease { lease: LeaseId(3), range: beyond }));
}

#[test]
fn failed_fetch_gives_the_rest_back_and_a_refusal_ends_the_asking_until_the_host_is_admitted() {
    let mut bench = Bench::new(16);
    let lease = LeaseId(1);
    bench.feed(DownloadInput::Lease { lease, range: bench.range(0..16) });
    bench.feed(DownloadInput::OriginProgress { lease, upto: 5 * BLOCK + 7 });
    let retry_after = Duration::from_secs(3);
    bench.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Failed { retry_after } });
    assert_eq!(bench.download.pieces.orphans().len(), 11, "five are on their way to the disk");
    assert_eq!(asks(&bench.wait(Duration::from_millis(2990))), 0);
    assert_eq!(asks(&bench.wait(Duration::from_millis(10))), 1);
    let lease = LeaseId(2);
    bench.feed(DownloadInput::Lease { lease, range: bench.range(5..16) });
    bench.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Refused });
    assert_eq!(asks(&bench.wait(Duration::from_secs(60))), 0);
    assert_eq!(asks(&bench.feed(DownloadInput::Admitted)), 1);
}

#[test]
fn host_without_a_scheduler_originates_late_and_within_its_allowance() {
    let mut bench = Bench::new(1024);
    bench.up(0);
    bench.feed(DownloadInput::Allowance { bytes: 40 * BLOCK });
    bench.feed(DownloadInput::Scheduler { is_connected: false });
    assert_eq!(bench.wait(Duration::from_millis(1999)), vec![]);
    let mut outputs = bench.wait(Duration::from_millis(2001));
    let mut bytes = 0;
    while let Some(DownloadOutput::Originate { lease, range }) = outputs.pop() {
        assert!(lease.is_own() && outputs.is_empty());
        bytes += range.length();
        outputs = bench.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete });
    }
    assert!((1..=40 * BLOCK).contains(&bytes) && bytes > 24 * BLOCK, "{bytes}");
    let outputs = bench.feed(DownloadInput::Scheduler { is_connected: true });
    assert_eq!(asks(&outputs), 1, "the scheduler decides again");
}

#[test]
fn lease_holder_goes_on_when_the_scheduler_vanishes() {
    let mut bench = Bench::new(64);
    bench.up(0);
    bench.feed(DownloadInput::Allowance { bytes: 3 * BLOCK });
    assert_eq!(asks(&bench.wait(Duration::from_millis(2))), 1);
    let lease = LeaseId(1);
    bench.feed(DownloadInput::Lease { lease, range: bench.range(0..2) });
    assert_eq!(bench.feed(DownloadInput::Scheduler { is_connected: false }), vec![], "its lease first");
    let mut outputs = bench.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete });
    for _ in 0..3 {
        let [DownloadOutput::Originate { lease, range }] = outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(range.length(), BLOCK, "a piece at a time");
        outputs = bench.feed(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete });
    }
    assert_eq!(outputs, vec![], "the allowance is spent");
}

#[test]
fn others_wait_as_long_as_somebody_fetches() {
    let mut bench = Bench::new(1024);
    bench.up(0);
    bench.feed(DownloadInput::Allowance { bytes: 40 * BLOCK });
    bench.feed(DownloadInput::Scheduler { is_connected: false });
    let is_originating =
        |outputs: &[DownloadOutput]| outputs.iter().any(|it| matches!(it, DownloadOutput::Originate { .. }));
    bench.records();
    for piece in 0..100 {
        assert!(!is_originating(&bench.wait(Duration::from_millis(100))));
        assert!(!is_originating(&bench.have(0, piece)));
        bench.granted(0);
        bench.block(0, piece, 0);
        bench.stored(piece);
    }
    assert!(is_originating(&bench.wait(Duration::from_secs(4))), "nobody fetches any more");
}

#[test]
fn fetch_ends_when_neighbors_have_the_rest() {
    let mut bench = Bench::new(16);
    bench.up(0);
    let lease = LeaseId(1);
    bench.feed(DownloadInput::Lease { lease, range: bench.range(0..16) });
    bench.feed(DownloadInput::OriginProgress { lease, upto: 10 * BLOCK });
    bench.records();
    (0..15).for_each(|piece| assert_eq!(bench.have(0, piece), vec![]));
    assert_eq!(bench.have(0, 15), vec![DownloadOutput::StopOrigin { lease }]);
}

#[test]
fn lost_piece_is_fetched_again() {
    let mut bench = Bench::new(2);
    bench.stored(0);
    assert!(bench.stored(1).contains(&DownloadOutput::Complete));
    bench.feed(DownloadInput::PieceLost { piece: PieceIndex(0) });
    assert!(!bench.download.has_piece(PieceIndex(0)));
    assert_eq!(bench.download.progress().bytes_stored, BLOCK);
    bench.up(0);
    bench.records();
    assert_eq!(requested(&bench.have(0, 0), 0), vec![0]);
    bench.block(0, 0, 0);
    assert!(bench.stored(0).contains(&DownloadOutput::Complete));
}

#[test]
fn empty_task_is_complete_at_once() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.download.poll(), Some(DownloadOutput::Complete));
    assert_eq!(bench.wait(Duration::from_secs(1)), vec![]);
}

#[test]
fn largest_task_keeps_a_few_bytes_a_piece() {
    let geometry = Geometry::of_length(geometry::LENGTH_MAX).unwrap();
    let have = PieceMap::empty(geometry.piece_count());
    let mut download = Download::new(DownloadConfig::default(), geometry, have, 1, Instant::ZERO);
    let neighbor = NeighborId(1);
    let last = PieceIndex(geometry.piece_count() - 1);
    for input in [
        DownloadInput::NeighborUp { neighbor, round_trip: Duration::ZERO, is_remote: false },
        DownloadInput::Records { pieces: vec![last] },
        DownloadInput::HavePiece { neighbor, piece: last },
    ] {
        download.handle(Instant::ZERO, input);
    }
    assert!(download.take_place(Held::default(), Held::default()));
    let outputs: Vec<_> = core::iter::from_fn(|| download.poll()).collect();
    assert_eq!(requested(&outputs, 1), vec![last.0], "one run of its 64 blocks waits");
    assert_eq!(download.pieces.active().len(), 1);
}

fn any_input(pieces: u32) -> impl Strategy<Value = DownloadInput> {
    let neighbor = (0u32..5).prop_map(NeighborId);
    // A few that the task does not have.
    let piece = (0..pieces + 2).prop_map(PieceIndex);
    let block = prop_oneof![9 => 0u32..3, 1 => any::<u32>()].prop_map(BlockIndex);
    let time = (0u64..3_000).prop_map(Duration::from_millis);
    let lease = prop_oneof![9 => 0u64..4, 1 => any::<u64>()].prop_map(LeaseId);
    let bytes = 0..u64::from(pieces) * 3 * BLOCK;
    let link = (neighbor.clone(), piece.clone(), block, time.clone()).prop_flat_map(move |(neighbor, piece, block, time)| {
        prop_oneof![
            3 => any::<bool>().prop_map(move |is_remote| DownloadInput::NeighborUp { neighbor, round_trip: time, is_remote }),
            1 => Just(DownloadInput::NeighborDown { neighbor }),
            2 => (0..=pieces).prop_map(move |count| {
                DownloadInput::Have { neighbor, pieces: PieceMap::full(if count == 0 { pieces + 1 } else { pieces }) }
            }),
            8 => Just(DownloadInput::HavePiece { neighbor, piece }),
            1 => Just(DownloadInput::Gone { neighbor, piece }),
            3 => Just(DownloadInput::Queued { neighbor, piece }),
            8 => (0u32..70).prop_map(move |blocks| DownloadInput::Granted { neighbor, blocks, until: time }),
            2 => Just(DownloadInput::Arriving { neighbor }),
            10 => Just(DownloadInput::BlockIn { neighbor, piece, block }),
            1 => Just(DownloadInput::BlockBad { neighbor, piece, block }),
        ]
    });
    let own = (piece, lease, bytes.clone(), bytes, time).prop_flat_map(|(piece, lease, a, b, time)| {
        let range = ByteRange::new(a.min(b), a.max(b)).unwrap();
        prop_oneof![
            4 => Just(DownloadInput::Records { pieces: vec![piece] }),
            2 => Just(DownloadInput::PieceStored { piece }),
            1 => Just(DownloadInput::PieceLost { piece }),
            3 => Just(DownloadInput::Lease { lease, range }),
            1 => Just(DownloadInput::NoLease { retry_after: time }),
            3 => Just(DownloadInput::OriginProgress { lease, upto: a }),
            1 => Just(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Complete }),
            1 => Just(DownloadInput::OriginEnded { lease, outcome: OriginOutcome::Failed { retry_after: time } }),
            1 => Just(DownloadInput::Reader { piece }),
            1 => any::<bool>().prop_map(|is_connected| DownloadInput::Scheduler { is_connected }),
            1 => Just(DownloadInput::Allowance { bytes: a }),
            1 => Just(DownloadInput::Admitted),
            1 => (0u32..16).prop_map(|bits| DownloadInput::Imports { stripes: Stripes::from_bits(bits) }),
        ]
    });
    prop_oneof![4 => link, 1 => own]
}

/// What must hold of outputs, whatever came in.
#[derive(Default)]
struct Watch {
    up: BTreeSet<NeighborId>,
    accepted: BTreeSet<(PieceIndex, BlockIndex)>,
}

impl Watch {
    fn before(&mut self, download: &Download, input: &DownloadInput) {
        match *input {
            DownloadInput::NeighborUp { neighbor, .. } => drop(self.up.insert(neighbor)),
            DownloadInput::NeighborDown { neighbor } => drop(self.up.remove(&neighbor)),
            DownloadInput::BlockIn { piece, block, .. } if download.is_block_wanted(piece, block) => {
                assert!(self.accepted.insert((piece, block)), "{piece:?} {block:?} twice");
            }
            DownloadInput::PieceLost { piece } => self.accepted.retain(|(accepted, _)| *accepted != piece),
            _ => {}
        }
    }

    fn after(&mut self, download: &Download, output: &DownloadOutput) {
        let geometry = download.pieces.geometry();
        match output {
            DownloadOutput::Request { neighbor, piece, blocks } => {
                assert!(self.up.contains(neighbor));
                assert!(!blocks.is_empty() && blocks.end <= geometry.block_count(*piece));
                assert!(blocks.end - blocks.start <= download.config.run_blocks_max);
                assert!(!download.has_piece(*piece));
            }
            DownloadOutput::Cancel { neighbor, .. } => assert!(self.up.contains(neighbor)),
            DownloadOutput::Ban { neighbor } => assert!(self.up.remove(neighbor)),
            DownloadOutput::FetchOrigin { range, .. } | DownloadOutput::Originate { range, .. } => {
                assert!(!range.is_empty() && range.end() <= geometry.length());
                // A host that starves fetches whole pieces: blocks that were here come again.
                if matches!(output, DownloadOutput::Originate { .. }) || download.is_dry() {
                    let pieces = geometry.pieces_within(*range);
                    self.accepted.retain(|(piece, _)| !pieces.contains(&piece.0));
                }
            }
            DownloadOutput::AskLease { bytes, .. } => assert!(*bytes > 0),
            DownloadOutput::Announce { piece } => assert!(geometry.has_piece(*piece)),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_inputs_keep_the_invariants(
        inputs in proptest::collection::vec((any_input(12), 0u64..400), 1..300),
        is_large in any::<bool>(),
        table in 1usize..6,
    ) {
        // 12 pieces of one block, or 3 of up to 4 with 1 MiB pieces.
        let geometry = match is_large {
            true => Geometry::of_stream(11 * BLOCK + 5).unwrap(),
            false => Geometry::of_length(11 * BLOCK + 5).unwrap(),
        };
        let config = DownloadConfig { active_pieces_max: table, neighbors_max: 4, ..DownloadConfig::default() };
        let mut bench = Bench::with(geometry, config);
        let mut watch = Watch::default();
        for (input, millis) in inputs {
            bench.now += Duration::from_millis(millis);
            watch.before(&bench.download, &input);
            bench.feed(input).iter().for_each(|output| watch.after(&bench.download, output));
        }
    }

    /// Neighbors that answer, in any order and with any delay, always end in a complete task without a wasted byte
    /// that nobody stole.
    #[test]
    fn honest_neighbors_complete_the_task(seed in any::<u64>(), pieces in 1u64..60, parents in 1u32..6) {
        let geometry = Geometry::of_length(pieces * BLOCK - 100).unwrap();
        let have = PieceMap::empty(geometry.piece_count());
        let download = Download::new(DownloadConfig::default(), geometry, have, seed, Instant::ZERO);
        let mut bench = Bench { download, now: Instant::ZERO };
        let mut rng = Rng::new(seed);
        bench.records();
        let mut outputs = Vec::new();
        for parent in 0..parents {
            bench.up(parent);
            outputs.extend(bench.have_all(parent));
        }
        for _ in 0..20_000 {
            if outputs.contains(&DownloadOutput::Complete) {
                return Ok(());
            }
            outputs.clear();
            bench.now += Duration::from_micros(u64::from(rng.below(4000)));
            let at = rng.below(parents) as usize;
            let runs = bench.download.neighbors[at].runs.clone();
            let Some(run) = runs.first() else {
                outputs.extend(bench.wait(Duration::from_millis(1)));
                continue;
            };
            let parent = bench.download.neighbors[at].id.0;
            if !bench.download.neighbors[at].is_serving() {
                outputs.extend(bench.granted(parent));
            } else {
                outputs.extend(bench.block(parent, run.piece.0, run.blocks.trailing_zeros()));
                let is_whole = bench.download.pieces.find(run.piece).is_some_and(|it| it.received == it.all);
                if is_whole {
                    outputs.extend(bench.stored(run.piece.0));
                }
            }
        }
        prop_assert!(false, "not complete: {:?}", bench.download.progress());
    }
}

#[test]
fn one_seed_gives_one_sequence_of_requests() {
    let run = |seed: u64| {
        let geometry = Geometry::of_length(100 * BLOCK).unwrap();
        let have = PieceMap::empty(geometry.piece_count());
        let mut bench = Bench {
            download: Download::new(DownloadConfig::default(), geometry, have, seed, Instant::ZERO),
            now: Instant::ZERO,
        };
        bench.records();
        (0..3).for_each(|neighbor| bench.up(neighbor));
        let mut outputs: Vec<_> = (0..3).flat_map(|neighbor| bench.have_all(neighbor)).collect();
        outputs.extend((0..3).flat_map(|neighbor| bench.granted(neighbor)));
        outputs
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
