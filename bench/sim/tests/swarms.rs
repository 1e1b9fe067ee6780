//! Swarms of the production machines, in virtual time. Bounds stand a little above what was measured when they were
//! written (figures in the comments), so that a change for the worse is seen.

use std::time::Duration;

use hawker_sim::{Report, Scenario, run};

const MIB: u64 = 1024 * 1024;
const GBIT: u64 = 125_000_000;

/// Runs and prints; the makespan and the origin's bytes stay within the bounds.
fn simulate(scenario: &Scenario, makespan_ratio_max: f64, origin_ratio_max: f64) -> Report {
    let report = run(scenario);
    println!("{}", report.line(scenario));
    assert_eq!(report.complete, scenario.hosts - scenario.deaths, "{report}");
    assert!(report.makespan_ratio <= makespan_ratio_max, "{report}");
    assert!(report.origin_ratio <= origin_ratio_max, "{report}");
    report
}

#[test]
fn lone_host_fetches_everything_once_in_parallel_ranges() {
    // 1.01
    let report = simulate(&Scenario::equal_hosts(1, 64 * MIB, GBIT), 1.03, 1.0);
    assert_eq!(report.waste_ratio, 0.0);
}

#[test]
fn two_hosts_share_one_copy() {
    // 1.04: the patience of 2 ms and the last pieces.
    simulate(&Scenario::equal_hosts(2, 16 * MIB, GBIT), 1.10, 1.0);
}

#[test]
fn fifty_hosts_finish_close_to_the_bound() {
    // 1.13-1.16, of which 0.12 is the time until the first pieces have spread: F / c is only half a second.
    for seed in 1..=5 {
        let scenario = Scenario { seed, ..Scenario::equal_hosts(50, 64 * MIB, GBIT) };
        let report = simulate(&scenario, 1.22, 1.0);
        assert!(report.waste_ratio < 0.03, "{report}");
    }
}

#[test]
fn eight_hosts_of_the_lab_finish_close_to_the_bound() {
    // 1.03-1.05
    for seed in 1..=5 {
        let scenario = Scenario { seed, ..Scenario::equal_hosts(8, 256 * MIB + 1, GBIT / 5) };
        simulate(&scenario, 1.10, 1.0);
    }
}

#[test]
fn lab_with_hosts_that_run_only_every_few_milliseconds_is_as_fast() {
    // 1.03-1.05: eight agents on two cores see such delays.
    for seed in 1..=3 {
        let noise = Duration::from_millis(5);
        let scenario = Scenario { seed, noise, ..Scenario::equal_hosts(8, 256 * MIB + 1, GBIT / 5) };
        simulate(&scenario, 1.12, 1.0);
    }
}

#[test]
fn pieces_of_many_blocks_come_from_several_parents() {
    // 4 MiB pieces of 16 blocks.
    let scenario = Scenario::equal_hosts(8, 4096 * MIB, 10 * GBIT);
    simulate(&scenario, 1.15, 1.0);
}

#[test]
fn death_of_every_third_host_costs_little() {
    // 1.06; what died with its only holder is fetched again.
    for seed in 1..=3 {
        let scenario = Scenario { seed, deaths: 10, ..Scenario::equal_hosts(30, 256 * MIB, GBIT) };
        simulate(&scenario, 1.15, 1.05);
    }
}

#[test]
fn fast_host_draws_on_all_slow_seeds_that_are_idle() {
    // 2.7 of 2.5: four seeds of a tenth of its rate, so two parents would take 5.0.
    let equal = Scenario::equal_hosts(5, 512 * MIB, 10 * GBIT);
    let scenario = Scenario { seeds: 4, slow_hosts: 4, slow_factor: 10, ..equal };
    simulate(&scenario, 3.0, 0.0);
}

#[test]
fn hosts_that_come_late_take_nothing_from_the_origin_again() {
    let scenario = Scenario { start_spread: Duration::from_secs(2), ..Scenario::equal_hosts(20, 64 * MIB, GBIT) };
    let report = run(&scenario);
    println!("{}", report.line(&scenario));
    assert_eq!((report.complete, report.origin_ratio), (20, 1.0));
}

#[test]
fn one_seed_gives_one_trace() {
    let scenario = |seed| Scenario { seed, ..Scenario::equal_hosts(12, 16 * MIB, GBIT) };
    assert_eq!(run(&scenario(7)), run(&scenario(7)));
    assert_ne!(run(&scenario(7)), run(&scenario(8)));
}
