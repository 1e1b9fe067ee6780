//! Load generators, scenarios and comparisons: what `hawker bench` runs.
//!
//! Every scenario runs its variants (engines, strategies, write modes) interleaved, as processes of the `hawker`
//! binary, after a warm-up that is thrown away; see [`Options`] for what can be chosen and [`Row`] for what comes out.
//! Loopback sockets are set to cubic, one by one: the host's default may be BBR, which paces loopback to a fifth.
#![forbid(unsafe_code)]

mod content;
mod error;
mod measure;
mod options;
mod process;
mod report;
mod serve;
pub mod stats;
mod swarm;
mod worker;

pub use error::BenchError;
pub use hawker_ring::EngineChoice;
pub use options::{Options, Scenario, Strategy, WriteMode};
pub use report::{Report, Row};
pub use worker::worker_main;

/// The hidden command of the `hawker` binary whose arguments go to [`worker_main`].
pub const WORKER_COMMAND: &str = "bench-worker";

/// Runs a scenario with all variants that `options` leaves open.
///
/// # Errors
/// [`BenchError`] says whose fault; a figure that would not be what its name says is an error too.
pub fn run(scenario: Scenario, options: &Options) -> Result<Report, BenchError> {
    options.check(scenario)?;
    std::fs::create_dir_all(&options.data_dir).map_err(BenchError::io("create the bench's data directory"))?;
    let directory = process::Scratch::create(&options.data_dir)?;
    match scenario {
        Scenario::Serve => serve::run(options, &directory),
        Scenario::Fetch => swarm::fetch(options, &directory),
        Scenario::Relay => swarm::relay(options, &directory),
    }
}
