//! A swarm in zones: `cargo run --release -p hawker-sim --example zones -- HOSTS ZONES FIRST_SEED SEEDS` prints a line per
//! seed for 256 MiB at 1 Gbit/s, where a zone's border carries four hosts' links.

use std::process::ExitCode;

use hawker_sim::{Scenario, Zones, run};

const GBIT: u64 = 125_000_000;

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [hosts, zones, first, count] = numbers[..] else {
        eprintln!("usage: zones HOSTS ZONES FIRST_SEED SEEDS");
        return ExitCode::from(2);
    };
    let zones = if zones == 0 { Zones::default() } else { Zones::equal(hosts, zones, 4 * GBIT) };
    for seed in first..first.saturating_add(count) {
        let equal = Scenario::equal_hosts(hosts, 256 << 20, GBIT);
        let scenario = Scenario { seed: seed.into(), zones: zones.clone(), ..equal };
        println!("{}", run(&scenario).line(&scenario));
    }
    ExitCode::SUCCESS
}
