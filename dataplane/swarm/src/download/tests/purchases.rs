//! Neighbors that have everything, and are slower than the origin.

use super::*;

const FULL: u32 = 0;
const OTHER: u32 = 1;
const MS: Duration = Duration::from_millis(1);

/// A neighbor that has all 64 pieces of a block, and one that has none.
fn bench() -> Bench {
    bench_of(64)
}

fn bench_of(pieces: u64) -> Bench {
    let mut bench = Bench::new(pieces);
    bench.records();
    bench.up(FULL);
    bench.up(OTHER);
    bench.have_all(FULL);
    bench
}

fn source_rate(outputs: &[DownloadOutput]) -> Option<u64> {
    outputs.iter().find_map(|output| match output {
        DownloadOutput::AskLease { source_rate, .. } => *source_rate,
        _ => None,
    })
}

fn bought(outputs: &[DownloadOutput]) -> Option<ByteRange> {
    outputs.iter().find_map(|output| match output {
        DownloadOutput::FetchOrigin { range, .. } => Some(*range),
        _ => None,
    })
}

#[test]
fn what_all_hosts_draw_from_the_sources_is_their_rate() {
    let mut bench = bench();
    // One piece every 5 ms: this host gets each second one, another host the others.
    for piece in 0..9 {
        assert_eq!(asks(&bench.wait(5 * MS)), 0, "too early to say");
        match piece % 2 {
            0 => drop(bench.stored(piece)),
            _ => drop(bench.have(OTHER, piece)),
        }
    }
    let rate = source_rate(&bench.wait(10 * MS)).expect("the scheduler knows how fast the origin is");
    let drawn = 9 * BLOCK * 1000 / 50;
    assert!((drawn..=drawn * 13 / 9).contains(&rate), "{rate} bytes/s of {drawn}");
}

#[test]
fn buyer_fetches_what_only_sources_have() {
    let mut bench = bench();
    assert!(source_rate(&bench.wait(60 * MS)).is_some());
    bench.have(OTHER, 8);
    let range = bench.range(8..16);
    let outputs = bench.feed(DownloadInput::Lease { lease: LeaseId(1), range });
    let fetched = bought(&outputs).expect("sources count for nothing");
    assert!(fetched.start() > range.start() && fetched.end() == range.end(), "{fetched:?}");
}

#[test]
fn what_a_source_began_to_send_is_bought_nevertheless() {
    let mut bench = bench();
    let asked = requested(&bench.granted(FULL), FULL)[0];
    assert!(source_rate(&bench.wait(60 * MS)).is_some());
    let range = bench.range(asked..asked + 1);
    let outputs = bench.feed(DownloadInput::Lease { lease: LeaseId(1), range });
    assert_eq!(bought(&outputs), Some(range), "it is sold once");
    assert_eq!(cancelled(&outputs, FULL), [asked]);
}

#[test]
fn source_is_asked_for_what_is_bought_last() {
    let mut bench = bench_of(256);
    bench.granted(FULL);
    assert!(source_rate(&bench.wait(60 * MS)).is_some());
    let range = bench.range(0..8);
    bench.feed(DownloadInput::Lease { lease: LeaseId(1), range });
    let next = |bench: &mut Bench| {
        let first = bench.download.neighbors[0].runs[0].piece.0;
        let asked = requested(&bench.block(FULL, first, 0), FULL);
        bench.stored(first);
        asked
    };
    let asked: Vec<u32> = (0..32).flat_map(|_| next(&mut bench)).take(32).collect();
    assert!(asked.len() == 32 && asked.iter().all(|piece| *piece >= 192), "{asked:?}");
    bench.feed(DownloadInput::OriginEnded { lease: LeaseId(1), outcome: OriginOutcome::Complete });
    bench.feed(DownloadInput::NoLease { retry_after: MS });
    let asked: Vec<u32> = (0..32).flat_map(|_| next(&mut bench)).collect();
    assert!(asked.iter().any(|piece| *piece < 128), "nothing is bought any more: {asked:?}");
}

#[test]
fn refused_buyer_asks_more_and_more_rarely() {
    let mut bench = bench();
    let mut last = bench.now;
    let mut waits = Vec::new();
    while waits.len() < 4 {
        if source_rate(&bench.wait(MS)).is_some() {
            waits.push(bench.now.since(last).as_millis());
            last = bench.now;
            bench.feed(DownloadInput::NoLease { retry_after: MS });
        }
    }
    assert!(waits.windows(2).skip(1).all(|pair| pair[1] * 2 >= pair[0] * 3), "{waits:?}");
}

#[test]
fn sources_are_let_alone_while_most_is_elsewhere_too() {
    let mut bench = bench();
    (0..40).for_each(|piece| drop(bench.have(OTHER, piece)));
    assert_eq!(asks(&bench.wait(500 * MS)), 0);
}
