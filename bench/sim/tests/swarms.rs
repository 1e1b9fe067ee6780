//! Swarms of the production machines, in virtual time.

use hawker_sim::{Report, Scenario, run};

const MIB: u64 = 1024 * 1024;
const GBIT: u64 = 125_000_000;

fn simulate(scenario: &Scenario) -> Report {
    let report = run(scenario);
    println!("{}", report.line(scenario));
    report
}

#[test]
fn two_hosts_share_one_copy() {
    let scenario = Scenario::equal_hosts(2, 16 * MIB, GBIT);
    let report = simulate(&scenario);
    assert_eq!(report.complete, 2);
}

#[test]
fn fifty_hosts_finish_close_to_the_bound() {
    let scenario = Scenario::equal_hosts(50, 64 * MIB, GBIT);
    let report = simulate(&scenario);
    assert_eq!(report.complete, 50);
}

#[test]
fn eight_hosts_of_the_lab_finish_close_to_the_bound() {
    let scenario = Scenario::equal_hosts(8, 256 * MIB + 1, GBIT / 5);
    let report = simulate(&scenario);
    assert_eq!(report.complete, 8);
}
