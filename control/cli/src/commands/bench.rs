//! `hawker bench`.

use std::process::ExitCode;

use hawker_bench::{BenchError, Options, Scenario};

use super::print_json;
use crate::arguments::{BenchArguments, BenchScenario, BenchWorkerArguments};
use crate::exit::Failure;
use crate::settings::parse_engine;

pub(crate) fn run(arguments: BenchArguments) -> Result<ExitCode, Failure> {
    let (scenario, chosen) = match arguments.scenario {
        BenchScenario::Serve(chosen) => (Scenario::Serve, chosen),
        BenchScenario::Fetch(chosen) => (Scenario::Fetch, chosen),
        BenchScenario::Relay(chosen) => (Scenario::Relay, chosen),
    };
    let program = std::env::current_exe().map_err(|error| Failure::io("cannot find the hawker binary", &error))?;
    let defaults = Options::new(program, chosen.data_dir.unwrap_or_else(std::env::temp_dir));
    let options = Options {
        engine: chosen.engine.as_deref().map(parse_engine).transpose().map_err(Failure::usage)?,
        strategy: chosen.strategy,
        write: chosen.write,
        bytes: chosen.size,
        runs: chosen.runs,
        connections: if chosen.connections.is_empty() { defaults.connections.clone() } else { chosen.connections },
        piece_bytes: chosen.piece_size.unwrap_or(defaults.piece_bytes),
        ..defaults
    };
    let report = hawker_bench::run(scenario, &options).map_err(|error| failure(&error))?;
    if chosen.json {
        print_json(&report);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn worker(arguments: &BenchWorkerArguments) -> Result<ExitCode, Failure> {
    hawker_bench::worker_main(&arguments.arguments).map_err(|error| failure(&error))?;
    Ok(ExitCode::SUCCESS)
}

fn failure(error: &BenchError) -> Failure {
    match error {
        BenchError::Usage(text) => Failure::usage(text.clone()),
        BenchError::Io { what, error } => Failure::io(format_args!("cannot {what}"), error),
        _ => Failure::other(error.to_string()),
    }
}
