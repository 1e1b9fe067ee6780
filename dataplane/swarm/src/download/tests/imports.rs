//! Neighbors in other zones.

use super::*;

const FAR: u32 = 9;

/// A neighbor in another zone that has pieces 0 to 7, and records of all.
fn bench(stripes: Stripes) -> Bench {
    let mut bench = Bench::new(8);
    bench.records();
    bench.feed(DownloadInput::Imports { stripes });
    let round_trip = Duration::from_millis(2);
    bench.feed(DownloadInput::NeighborUp { neighbor: NeighborId(FAR), round_trip, is_remote: true });
    bench
}

/// What is asked of the far neighbor: before it serves us (one piece holds the place), and then. Ties are random.
fn all_requested(bench: &mut Bench, outputs: &[DownloadOutput]) -> Vec<u32> {
    let mut pieces = requested(outputs, FAR);
    pieces.extend(requested(&bench.granted(FAR), FAR));
    pieces.sort_unstable();
    pieces
}

#[test]
fn importer_asks_other_zones_for_its_stripes_only() {
    let mut bench = bench(Stripes::NONE.with(2));
    let outputs = bench.have_all(FAR);
    assert_eq!(all_requested(&mut bench, &outputs), vec![2, 6]);
}

#[test]
fn what_the_own_zone_has_is_not_imported() {
    let mut bench = bench(Stripes::ALL);
    bench.up(0);
    assert_eq!(requested(&bench.have(0, 5), 0), vec![5]);
    assert_eq!(requested(&bench.have(FAR, 5), FAR), Vec::<u32>::new());
    assert_eq!(requested(&bench.have(FAR, 6), FAR), vec![6]);
    assert_eq!(requested(&bench.granted(FAR), FAR), Vec::<u32>::new());
    // It is imported after all when the neighbor is gone.
    let outputs = bench.feed(DownloadInput::NeighborDown { neighbor: NeighborId(0) });
    assert_eq!(requested(&outputs, FAR), vec![5]);
}

#[test]
fn new_importer_begins_at_once_and_a_dismissed_one_asks_no_more() {
    let mut bench = bench(Stripes::NONE);
    assert_eq!(requested(&bench.have_all(FAR), FAR), [0; 0]);
    let stripes = Stripes::NONE.with(3);
    let outputs = bench.feed(DownloadInput::Imports { stripes });
    assert_eq!(all_requested(&mut bench, &outputs), vec![3, 7]);
    bench.feed(DownloadInput::Imports { stripes: Stripes::NONE });
    bench.block(FAR, 3, 0);
    assert_eq!(requested(&bench.stored(3), FAR), [0; 0]);
}

#[test]
fn scheduler_that_comes_back_says_anew_who_imports() {
    let mut bench = bench(Stripes::ALL);
    for is_connected in [false, true] {
        bench.feed(DownloadInput::Scheduler { is_connected });
    }
    assert_eq!(requested(&bench.have_all(FAR), FAR), [0; 0]);
}

#[test]
fn piece_that_no_importer_brings_is_for_anybody_after_a_while() {
    // Without a rate the longest wait: four times as long for those who import nothing.
    for (stripes, most) in [(Stripes::NONE.with(0), 4), (Stripes::NONE, 16)] {
        let mut bench = bench(stripes);
        bench.have(FAR, 1);
        assert_eq!(requested(&bench.wait(Duration::from_secs(5)), FAR), [0; 0]);
        let outputs = bench.wait(Duration::from_secs(10) * most);
        assert!(requested(&outputs, FAR).contains(&1), "{stripes:?}");
    }
}

#[test]
fn zone_that_claims_a_piece_and_does_not_send_it_is_gone_around() {
    let mut bench = bench(Stripes::NONE);
    bench.up(0);
    bench.have(0, 5);
    assert_eq!(requested(&bench.have(FAR, 5), FAR), [0; 0]);
    assert_eq!(requested(&bench.wait(Duration::from_secs(6)), FAR), vec![5]);
    bench.block(0, 5, 0);
    assert!(!bench.download.pieces.is_import(PieceIndex(6)), "the zone sends again");
}
