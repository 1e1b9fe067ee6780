//! The hawker binary: commands on the outside, the libraries of the workspace inside.
#![forbid(unsafe_code)]

mod agent_file;
mod arguments;
mod client;
mod commands;
mod demo;
mod descriptors;
mod embedded;
mod exit;
mod keys;
mod mirror_file;
mod pairs;
mod progress;
mod settings;
mod stop;
mod units;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command};
use exit::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    descriptors::raise_limit();
    descriptors::reserve_table();
    match start_log(&arguments).and_then(|()| run(arguments.command)) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(arguments) => commands::node::up(&arguments),
        Command::Scheduler(arguments) => commands::node::scheduler(&arguments),
        Command::Agent(arguments) => commands::node::agent(&arguments),
        Command::Get(arguments) => commands::get::run(arguments),
        Command::Status(arguments) => commands::inspect::status(arguments),
        Command::Ls(arguments) => commands::inspect::list(arguments),
        Command::Stat(arguments) => commands::inspect::stat(arguments),
        Command::Rm(arguments) => commands::inspect::remove(arguments),
        Command::Setup(arguments) => commands::setup::run(&arguments),
        Command::Doctor(arguments) => commands::doctor::run(&arguments),
        Command::Mirror(arguments) => commands::mirror::run(arguments.command),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(arguments),
        Command::Sim(arguments) => commands::sim::run(&arguments),
        Command::BenchWorker(arguments) => commands::bench::worker(&arguments),
    }
}

fn start_log(arguments: &Arguments) -> Result<(), Failure> {
    let filter = match &arguments.log {
        Some(text) => EnvFilter::try_new(text).map_err(|error| Failure::usage(format!("--log {text}: {error}")))?,
        None => EnvFilter::new(arguments.command.default_log()),
    };
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        // What cannot be logged, because nobody reads any more, cannot be complained about there either: that would panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}
