//! Swarms with faults, at full size: `cargo run --release -p hawker-sim --example faults -- ROW HOSTS SEED`, where ROW is
//! `mixed`, `deaths`, `away` or `spread`. Prints the case without faults first.

use std::process::ExitCode;
use std::time::Duration;

use hawker_sim::{Scenario, run};

const MIB: u64 = 1024 * 1024;
const GBIT: u64 = 125_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [row, hosts, seed] = &arguments[..] else {
        eprintln!("usage: faults mixed|deaths|away|spread HOSTS SEED");
        return ExitCode::from(2);
    };
    let (Ok(hosts), Ok(seed)) = (hosts.parse::<u32>(), seed.parse()) else {
        eprintln!("HOSTS and SEED are numbers");
        return ExitCode::from(2);
    };
    let equal = Scenario { seed, ..Scenario::equal_hosts(hosts, 256 * MIB, GBIT / 16) };
    let bound = equal.bound();
    let faulty = match row.as_str() {
        "mixed" => Scenario {
            slow_hosts: hosts / 5,
            slow_factor: 4,
            deaths: hosts / 20,
            deaths_until: bound,
            liars: hosts.div_ceil(100),
            ..equal.clone()
        },
        "deaths" => {
            Scenario { deaths: hosts * 3 / 10, deaths_from: bound / 2, deaths_until: bound / 2, ..equal.clone() }
        }
        "away" => Scenario { scheduler_away: Some((bound / 3, bound * 2 / 3)), ..equal.clone() },
        "spread" => Scenario { start_spread: bound, ..equal.clone() },
        other => {
            eprintln!("no row is called {other}");
            return ExitCode::from(2);
        }
    };
    let without = run(&Scenario { death_notice: Duration::ZERO, ..equal });
    println!("without: {without}");
    let with = run(&faulty);
    println!("with:    {with}");
    println!(
        "{row}, {hosts} hosts, seed {seed}: makespan {:.3}, p99 {:.3}, p99 of the fast {:.3} of it; origin_ratio {:.3}; \
         p99 {:.3} of F/c",
        with.makespan_s / without.makespan_s,
        with.p99_s / without.p99_s,
        with.fast_p99_s / without.fast_p99_s,
        with.origin_ratio,
        with.p99_s / bound.as_secs_f64(),
    );
    ExitCode::SUCCESS
}
