//! Swarms of the production machines, in virtual time. Bounds stand a little above what was measured when they were
//! written (figures in the comments), so that a change for the worse is seen.

use std::time::Duration;

use hawker_scheduler::ClusterConfig;
use hawker_sim::{IMAGE_LAYERS, Report, Scenario, Zones, run};

const MIB: u64 = 1024 * 1024;
const GBIT: u64 = 125_000_000;

/// Runs and prints; the makespan and the origin's bytes stay within the bounds.
fn simulate(scenario: &Scenario, makespan_ratio_max: f64, origin_ratio_max: f64) -> Report {
    let report = run(scenario);
    println!("{}", report.line(scenario));
    assert_eq!((report.failed_hosts, report.dead_hosts), (0, scenario.deaths), "{report}");
    assert!(report.makespan_ratio <= makespan_ratio_max, "{report}");
    assert!(report.origin_ratio <= origin_ratio_max, "{report}");
    report
}

#[test]
fn lone_host_fetches_everything_once_in_parallel_ranges() {
    // 1.01
    let report = simulate(&Scenario::equal_hosts(1, 64 * MIB, GBIT), 1.03, 1.0);
    assert_eq!(report.waste, 0.0);
}

#[test]
fn two_hosts_share_one_copy() {
    // 1.04: the patience of 2 ms and the last pieces.
    let report = simulate(&Scenario::equal_hosts(2, 16 * MIB, GBIT), 1.10, 1.0);
    // A reader waits for the first byte, if for nothing else, and never longer than the whole run.
    assert!(report.reader_wait_s > 0.0 && report.reader_wait_s <= report.makespan_s, "{report}");
    assert!(report.reader_wait_p99_s <= report.reader_wait_s, "{report}");
}

#[test]
fn fifty_hosts_finish_close_to_the_bound() {
    // 1.05-1.06: F / c is only half a second.
    for seed in 1..=5 {
        let scenario = Scenario { seed, ..Scenario::equal_hosts(50, 64 * MIB, GBIT) };
        let report = simulate(&scenario, 1.10, 1.0);
        assert!(report.waste < 0.03, "{report}");
    }
}

#[test]
fn short_task_leaves_the_origin_once_and_spreads_fast() {
    // 1.13, 1.25-1.27, 1.38. 128 pieces: the best there is takes as many rounds more as copies double: 1.03, 1.05 and 1.07.
    for seed in 1..=3 {
        for (hosts, makespan_ratio_max) in [(8, 1.18), (64, 1.30), (1000, 1.40)] {
            let scenario = Scenario { seed, ..Scenario::equal_hosts(hosts, 8 * MIB, GBIT) };
            simulate(&scenario, makespan_ratio_max, 1.0);
        }
    }
}

#[test]
fn sixty_four_hosts_finish_close_to_the_bound() {
    // 1.05
    simulate(&Scenario::equal_hosts(64, 256 * MIB, GBIT), 1.08, 1.0);
}

#[test]
fn eight_hosts_of_the_lab_finish_close_to_the_bound() {
    // 1.03-1.04; 513 pieces of 512 KiB, the last of one byte.
    for seed in 1..=5 {
        let scenario = Scenario { seed, ..Scenario::equal_hosts(8, 256 * MIB + 1, GBIT / 5) };
        let report = simulate(&scenario, 1.06, 1.0);
        // One in whose hand all leases are makes 1.75 of it, two 1.30.
        assert!(report.origin_holders >= 4.0, "{report}");
        assert!(report.origin_idle_s < 0.02 * report.bound_s, "{report}");
    }
}

#[test]
fn lab_with_hosts_that_run_only_every_few_milliseconds_is_as_fast() {
    // 1.04: eight agents on two cores see such delays.
    for seed in 1..=3 {
        let noise = Duration::from_millis(5);
        let scenario = Scenario { seed, noise, ..Scenario::equal_hosts(8, 256 * MIB + 1, GBIT / 5) };
        simulate(&scenario, 1.08, 1.0);
    }
}

#[test]
fn eight_hosts_behind_full_queues_lose_little() {
    // 1.11-1.12 with 20 ms one way, as shaped links have when they are full; 1.57-1.61 when a parent is asked for no more
    // than when it is near.
    for seed in 1..=3 {
        let latency = Duration::from_millis(20);
        let scenario = Scenario { seed, latency, ..Scenario::equal_hosts(8, 256 * MIB, GBIT / 5) };
        simulate(&scenario, 1.18, 1.0);
    }
}

#[test]
fn sixteen_hosts_behind_full_queues_lose_little() {
    // 1.13-1.14; 1.29-1.33 when all parents are asked at once, of which several grant to a host that needs one.
    for seed in 1..=3 {
        let latency = Duration::from_millis(20);
        let scenario = Scenario { seed, latency, ..Scenario::equal_hosts(16, 128 * MIB, GBIT / 10) };
        simulate(&scenario, 1.18, 1.0);
    }
}

#[test]
fn pieces_of_many_blocks_come_from_several_parents() {
    // 4 MiB pieces of 16 blocks.
    let scenario = Scenario::equal_hosts(8, 4096 * MIB, 10 * GBIT);
    simulate(&scenario, 1.15, 1.0);
}

#[test]
fn twenty_five_gigabit_are_filled_too() {
    // 1.04, 1,000 hosts 1.06. A block takes half a round trip there: grants of 16 blocks, however short, make 1.21.
    simulate(&Scenario::equal_hosts(64, 4096 * MIB, 25 * GBIT), 1.08, 1.0);
}

/// Fifty hosts that take half a minute: what timers cost is small beside it, as in the runs it stands for.
fn half_a_minute(seed: u64) -> Scenario {
    Scenario { seed, ..Scenario::equal_hosts(50, 256 * MIB, GBIT / 16) }
}

#[test]
fn death_of_every_third_host_costs_little() {
    for seed in 1..=3 {
        let equal = half_a_minute(seed);
        let (deaths_from, deaths_until) = (equal.bound() / 4, equal.bound() * 3 / 4);
        // 1.04, origin_ratio 1.003: what the dead alone had leaves the origin again.
        simulate(&Scenario { deaths: 15, deaths_from, deaths_until, ..equal }, 1.15, 1.05);
    }
}

#[test]
fn death_of_every_third_host_at_one_time_costs_little() {
    for seed in 1..=3 {
        let equal = half_a_minute(seed);
        // 1.05-1.07, and 1.12-1.13 when the others only see it by its silence.
        let at = equal.bound() / 2;
        let without = run(&equal).makespan_s;
        for death_notice in [Duration::ZERO, Duration::from_secs(2)] {
            let scenario = Scenario { deaths: 15, deaths_from: at, deaths_until: at, death_notice, ..equal.clone() };
            let report = simulate(&scenario, 1.20, 1.05);
            assert!(report.makespan_s <= 1.15 * without, "{without} s without deaths: {report}");
        }
    }
}

#[test]
fn scheduler_that_is_away_and_comes_back_empty_costs_little() {
    // 1.03-1.19 of the case with it, 1.07-1.24 of the bound, over 16 seeds (whether announcements wait or not); origin_ratio
    // up to 1.008: what hosts fetch twice because nobody tells them apart, under their allowances.
    for seed in 1..=3 {
        let equal = half_a_minute(seed);
        let away = (equal.bound() / 3, equal.bound() * 2 / 3);
        let without = run(&equal).makespan_s;
        let report = simulate(&Scenario { scheduler_away: Some(away), ..equal }, 1.25, 1.05);
        assert!(report.makespan_s <= 1.20 * without, "{without} s with it: {report}");
    }
}

#[test]
fn hosts_that_leave_before_they_have_everything_are_not_missed() {
    // 1.12-1.14, origin_ratio 1.05-1.11. More than those that die: they go on without a scheduler for up to ten seconds, and
    // fetch under their allowances what they then take away with them.
    for seed in 1..=3 {
        let equal = half_a_minute(seed);
        let (leaves_from, leaves_until) = (equal.bound() / 4, equal.bound() * 3 / 4);
        let report = simulate(&Scenario { leaves: 15, leaves_from, leaves_until, ..equal }, 1.20, 1.15);
        assert_eq!(report.left_hosts, 15, "{report}");
    }
}

#[test]
fn hosts_that_have_everything_leave_late_ones_behind() {
    for seed in 1..=3 {
        let equal = Scenario { seed, ..Scenario::equal_hosts(20, 64 * MIB, GBIT / 8) };
        let start_spread = equal.bound() * 2;
        let (leaves_from, leaves_until) = (equal.bound(), equal.bound() * 3);
        let scenario = Scenario { start_spread, leaves: 12, leaves_from, leaves_until, ..equal };
        // 2.65-2.95, of which the start of the last is 2.0: nearly all who leave have everything.
        let report = simulate(&scenario, 3.2, 1.05);
        assert!((8..=12).contains(&report.left_hosts) && report.p99_ratio <= 1.15, "{report}");
    }
}

#[test]
fn slow_disks_hold_up_their_hosts_and_what_these_fetched() {
    for seed in 1..=3 {
        let equal = Scenario { seed, ..Scenario::equal_hosts(20, 256 * MIB, GBIT) };
        let scenario = Scenario { slow_disks: 5, slow_disk_bytes_per_s: GBIT / 2, ..equal.clone() };
        let report = simulate(&scenario, 1.10, 1.01);
        // The bound is that of the disks, twice that of the wires: 1.01. Half of the hosts take 1.74 of what the wires
        // allow, since a fifth of the pieces comes from hosts that write for long before they announce.
        assert!(report.makespan_s > 2.0 * equal.bound().as_secs_f64(), "{report}");
        assert!(report.p50_s <= 1.85 * equal.bound().as_secs_f64(), "{report}");
    }
}

#[test]
fn fast_host_draws_on_all_slow_seeds_that_are_idle() {
    // 2.7 of 2.5: four seeds of a tenth of its rate, so two parents would take 5.0.
    let equal = Scenario::equal_hosts(5, 512 * MIB, 10 * GBIT);
    // The origin is slower than they are together: one lease tells.
    let origin_bytes_per_s = GBIT;
    let scenario = Scenario { seeds: 4, slow_seeds: 4, slow_factor: 10, origin_bytes_per_s, ..equal };
    simulate(&scenario, 3.0, 0.01);
}

#[test]
fn hosts_that_come_late_take_nothing_from_the_origin_again() {
    for seed in 1..=3 {
        let equal = Scenario { seed, ..Scenario::equal_hosts(40, 256 * MIB, GBIT) };
        let scenario = Scenario { start_spread: equal.bound(), ..equal };
        let report = simulate(&scenario, 2.1, 1.0);
        assert!(report.p99_ratio <= 1.25, "{report}");
    }
}

#[test]
fn origin_is_asked_for_no_more_than_its_budget() {
    // The run itself asserts both limits at every lease; what is asserted here is that they were reached. 1.04-1.05 with
    // three connections, 3.91 at a quarter of the rate.
    for seed in 1..=3 {
        let mut scenario = Scenario { seed, ..Scenario::equal_hosts(8, 256 * MIB, GBIT / 5) };
        scenario.cluster.origin_connections_max = 3;
        let report = simulate(&scenario, 1.08, 1.0);
        assert_eq!(report.origin_leases_max, 3, "{report}");
        scenario.cluster = ClusterConfig { origin_bytes_per_s: GBIT / 20, ..ClusterConfig::default() };
        let report = simulate(&scenario, 4.00, 1.0);
        // All but one second's worth, and what the resolver and the last lease take beyond it.
        assert!(report.makespan_s > 0.75 * scenario.length() as f64 / (GBIT / 20) as f64, "{report}");
    }
}

#[test]
fn host_that_starts_while_others_come_back_has_one_stream() {
    // With two, the scheduler takes back what the first still carries, and a fifth lease runs.
    for seed in [4, 9, 14] {
        let equal = Scenario::equal_hosts(8, 16 * MIB, 4_000_000);
        let scenario = Scenario {
            seed,
            latency: Duration::from_millis(30),
            start_spread: Duration::from_secs(3),
            scheduler_away: Some((Duration::from_millis(500), Duration::from_secs(1))),
            cluster: ClusterConfig { origin_connections_max: 4, ..ClusterConfig::default() },
            ..equal
        };
        let report = run(&scenario);
        assert_eq!((report.failed_hosts, report.origin_leases_max), (0, 4), "{report}");
    }
}

#[test]
fn slow_connections_of_an_origin_are_used_side_by_side() {
    // 1.04-1.05: 50 MB/s each, as object stores give, are 0.4 of what the swarm takes.
    for seed in 1..=3 {
        let equal = Scenario { seed, ..Scenario::equal_hosts(64, 256 * MIB, GBIT) };
        let slow = Scenario { origin_connection_bytes_per_s: 50_000_000, ..equal };
        let report = simulate(&slow, 1.08, 1.0);
        assert!(report.origin_refusals == 0 && report.origin_holders > 2.5, "{report}");
    }
}

#[test]
fn origin_that_refuses_gets_is_asked_again_later() {
    for seed in 1..=3 {
        let scenario = Scenario { seed, origin_connections_max: 2, ..Scenario::equal_hosts(8, 16 * MIB, GBIT) };
        let report = run(&scenario);
        assert!(report.failed_hosts == 0 && report.origin_ratio == 1.0, "{report}");
        assert!(report.origin_refusals > 0 && report.origin_leases_max == 2, "{report}");
        // An operator who knows says so.
        let cluster = ClusterConfig { origin_connections_max: 2, ..ClusterConfig::default() };
        assert_eq!(run(&Scenario { cluster, ..scenario }).origin_refusals, 0);
    }
}

#[test]
fn image_of_many_layers_leaves_the_origin_once() {
    // 1.06-1.07, 1.10, and 1.13 for 1,000 hosts. Where each of the twenty tasks waits in as many queues as a task alone:
    // 1.23-1.25 and 1.71. A layer of a few hundred bytes may be bought: its holders give it more slowly than the origin.
    for (hosts, seed) in [(8, 1), (8, 2), (8, 3), (40, 1)] {
        let scenario = Scenario { seed, ..Scenario::image(hosts, &IMAGE_LAYERS, GBIT) };
        let report = simulate(&scenario, 1.15, 1.001);
        assert_eq!(report.tasks.iter().map(|task| task.length).sum::<u64>(), scenario.length());
        let longest = report.tasks.iter().map(|task| task.max_s).fold(0.0, f64::max);
        assert_eq!(longest, report.makespan_s, "a host is done with its last layer");
        // Layers of one packet do not wait for those of hundreds of MB.
        assert!(report.tasks[1].max_s < 0.1 * report.makespan_s, "{report}");
    }
}

#[test]
fn layer_that_waits_for_its_turn_is_not_bought_from_the_origin() {
    // Where a layer that got nothing for 5 s counts as starving whatever its host receives: 1.008 to 1.015.
    for (rtt_ms, seed) in [(0, 1), (0, 2), (40, 1)] {
        let latency = Duration::from_micros(100 + 500 * rtt_ms);
        let scenario = Scenario { seed, latency, ..Scenario::image(8, &IMAGE_LAYERS, GBIT / 50) };
        simulate(&scenario, 1.2, 1.001);
    }
}

#[test]
fn deaths_and_a_new_scheduler_harm_no_layer() {
    let layers = [20 * MIB, 300, 5 * MIB, 1, 12 * MIB];
    for seed in 1..=3 {
        let equal = Scenario { seed, ..Scenario::image(20, &layers, GBIT / 8) };
        let (third, deaths_from) = (equal.bound() / 3, equal.bound() / 2);
        let away = Some((third, third * 2));
        let scenario = Scenario { deaths: 5, deaths_from, deaths_until: deaths_from, scheduler_away: away, ..equal };
        let report = run(&scenario);
        assert_eq!((report.failed_hosts, report.dead_hosts), (0, 5), "{report}");
    }
}

#[test]
fn piece_enters_each_zone_about_once() {
    // makespan_ratio 1.15-1.16, cross_zone_ratio 1.01. Without importers every host fetches over its zone's border.
    for seed in 1..=2 {
        let zones = Zones::equal(100, 5, 4 * GBIT);
        let report = simulate(&Scenario { seed, zones, ..Scenario::equal_hosts(100, 256 * MIB, GBIT) }, 1.25, 1.0);
        assert!((1.0..=1.05).contains(&report.cross_zone_ratio), "{report}");
    }
}

#[test]
fn report_has_the_keys_that_tools_read() {
    let json = serde_json::to_value(run(&Scenario::equal_hosts(3, 4 * MIB, GBIT))).unwrap();
    let keys = "hosts pieces seed makespan_s p50_s p99_s bound_s makespan_ratio p99_ratio origin_ratio cross_zone_ratio waste \
                failed_hosts reader_wait_s reader_wait_p99_s reader_wait_ratio \
                scheduler_messages_per_host scheduler_cpu_s events wall_s";
    for key in keys.split_whitespace() {
        assert!(json[key].is_number(), "{key}: {json}");
    }
}

#[test]
fn drawn_swarms_with_faults_finish() {
    for seed in 0..300 {
        let scenario = Scenario::drawn(seed);
        let report = run(&scenario);
        assert_eq!(report.failed_hosts, 0, "{report}");
        // A fetch that is cut off leaves something on the wire, and to whom only liars offer a piece buys it.
        let is_broken =
            scenario.cuts + scenario.broken_bodies_ppm > 0 || scenario.lost_writes_ppm + scenario.rotten_reads_ppm > 0;
        let is_undisturbed = report.dead_hosts + report.left_hosts + report.liars == 0
            && !is_broken
            && scenario.scheduler_away.is_none()
            && report.leases_cut == 0;
        // What is bought from an origin that is faster than those who have everything is there already.
        let needed_ratio = report.origin_ratio - report.origin_repeated_ratio;
        assert!(!is_undisturbed || (needed_ratio - 1.0).abs() < 1e-9, "{}", report.line(&scenario));
        assert!(!is_undisturbed || report.origin_repeated_ratio <= 1.0, "{}", report.line(&scenario));
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let scenario = |seed| Scenario { seed, ..Scenario::equal_hosts(12, 16 * MIB, GBIT) };
    assert_eq!(run(&scenario(7)).trace, run(&scenario(7)).trace);
    assert_ne!(run(&scenario(7)).trace, run(&scenario(8)).trace);
}
