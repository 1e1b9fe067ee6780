//! Runs many drawn swarms: `cargo run --release -p hawker-sim --example seeds -- FIRST COUNT`. A failure names its seed;
//! `-- SEED 1` repeats it.

use std::process::ExitCode;

use hawker_sim::{Scenario, run};

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [first, count] = numbers[..] else {
        eprintln!("usage: seeds FIRST COUNT");
        return ExitCode::from(2);
    };
    for seed in first..first.saturating_add(count) {
        let scenario = Scenario::drawn(seed);
        let report = run(&scenario);
        if count == 1 {
            println!("{scenario:#?}\n{}", report.line(&scenario));
        }
    }
    println!("{count} seeds from {first}: every live host finished, no invariant broke");
    ExitCode::SUCCESS
}
