//! Small benches as they really run: this test is the binary whose worker processes they start.

use std::path::PathBuf;
use std::process::ExitCode;

use hawker_bench::{Options, Report, Scenario, WORKER_COMMAND, run, worker_main};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == WORKER_COMMAND) {
        return match worker_main(&arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    // `cargo test -- --list` and the like ask a question that has no answer here.
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    every_engine_serves_by_every_strategy();
    // As the standard harness says it: `tests/run` adds these lines up.
    println!("test every_engine_serves_by_every_strategy ... ok\n");
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

fn every_engine_serves_by_every_strategy() {
    let program = std::env::current_exe().expect("this test's own path");
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        bytes: 8 << 20,
        runs: 1,
        connections: vec![1, 3],
        ..Options::new(program, PathBuf::from(directory.path()))
    };
    let report = run(Scenario::Serve, &options).expect("a bench of 8 MiB");
    check(&report);
    assert_eq!(std::fs::read_dir(directory.path()).expect("the directory").count(), 0, "a bench cleans up");
}

fn check(report: &Report) {
    // A host without io_uring has one engine, and the report says so.
    let engines = if report.results.iter().any(|row| row.engine == "uring") { 2 } else { 1 };
    assert_eq!(report.results.len(), engines * 2 * 2, "{report}");
    for row in &report.results {
        assert_eq!((row.runs, row.name), (1, "serve"));
        assert!(row.gb_per_s > 0.0 && row.memory_mib > 0.0 && row.p99_us >= row.p50_us, "{report}");
    }
}
