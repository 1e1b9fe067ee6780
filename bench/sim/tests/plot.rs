//! The picture of a run.

use std::time::Duration;

use hawker_sim::{SAMPLES_MAX, Scenario, plot, run, run_observed};

const MIB: u64 = 1024 * 1024;
const GBIT: u64 = 125_000_000;

#[test]
fn samples_show_the_run_from_nothing_to_everything_and_do_not_change_it() {
    let scenario = Scenario { start_spread: Duration::from_millis(50), ..Scenario::equal_hosts(6, 8 * MIB, GBIT) };
    let mut looks = 0;
    let (report, samples) = run_observed(&scenario, &mut |_| looks += 1);
    assert_eq!(report.trace, run(&scenario).trace);
    assert!((10..=SAMPLES_MAX).contains(&samples.len()) && looks >= samples.len() / 2, "{}, {looks}", samples.len());
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    assert_eq!((first.hosts_done, first.origin_bytes, first.peer_bytes), (0, 0, 0));
    assert_eq!((last.hosts_done, last.origin_bytes, last.share), (6, 8 * MIB, 1.0));
    assert!(last.peer_bytes >= 5 * 8 * MIB);
    assert!((last.at.as_secs_f64() - report.makespan_s).abs() < 1e-9);
    let grows = |pair: &[hawker_sim::Sample]| {
        pair[0].at < pair[1].at && pair[0].share <= pair[1].share && pair[0].peer_bytes <= pair[1].peer_bytes
    };
    assert!(samples.windows(2).all(grows));
}

#[test]
fn plot_is_well_formed_and_holds_both_charts() {
    for scenario in [Scenario::equal_hosts(4, 8 * MIB, GBIT), Scenario::equal_hosts(1, 1, 1000)] {
        let (report, samples) = run_observed(&scenario, &mut |_| {});
        let svg = plot(&scenario, &report, &samples);
        let document = roxmltree::Document::parse(&svg).expect("well-formed XML");
        let texts: Vec<&str> = document
            .descendants()
            .filter(roxmltree::Node::is_text)
            .filter_map(|node| node.text())
            .map(str::trim)
            .collect();
        let words = ["hosts that have everything", "bytes, mean of the living hosts", "from the origin", "one copy"];
        for word in words {
            assert!(texts.contains(&word), "{word} is missing: {texts:?}");
        }
        assert!(texts.iter().any(|text| text.starts_with("lower bound, ")), "{texts:?}");
        assert_eq!(texts.contains(&"from peers"), scenario.hosts > 1);
        assert_eq!(texts.iter().filter(|text| text.starts_with("time since the first start")).count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
