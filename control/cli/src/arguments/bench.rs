//! `hawker bench`, and the hidden command that its own processes are.

use std::path::PathBuf;
use std::str::FromStr as _;

use clap::{Args, Subcommand};
use hawker_bench::{Strategy, WriteMode};

use crate::units::parse_size;

const LONG: &str = "\
Measures this machine with Hawker's own engines. What is not chosen is run in all its variants, interleaved, after a \
warm-up that is thrown away; figures are medians. GB are 10^9 bytes. CPU is that of the measured processes; the table \
shows that of the whole machine beside it.

For fetch and relay put --data-dir on the disk that agents would use, not on tmpfs.";

const EXAMPLES: &str = "\
Examples:
  hawker bench serve
  hawker bench fetch --engine uring --write direct --data-dir /var/lib/hawker
  hawker bench relay --json | jq '.results[] | {name, engine, gb_per_s}'";

/// Measure what this machine can do: serving blocks, fetching, relaying
#[derive(Args, Debug)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    pub(crate) scenario: BenchScenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchScenario {
    /// One shard serves blocks of a hot file to a load generator
    Serve(BenchOptions),
    /// An agent gets a file from another: verified, on disk
    Fetch(BenchOptions),
    /// Three agents in a row: the middle one receives and serves at once
    Relay(BenchOptions),
}

#[derive(Args, Debug)]
pub(crate) struct BenchOptions {
    /// uring or epoll [default: every engine that this machine has]
    #[arg(long, value_name = "ENGINE", value_parser = ["uring", "epoll"])]
    pub(crate) engine: Option<String>,
    /// How `serve` sends: sendfile or copy [default: both]
    #[arg(long, value_name = "STRATEGY", value_parser = parse_strategy)]
    pub(crate) strategy: Option<Strategy>,
    /// How `fetch` and `relay` write: direct or buffered [default: both]
    #[arg(long, value_name = "MODE", value_parser = parse_write)]
    pub(crate) write: Option<WriteMode>,
    /// Size of the file, and what one run moves
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = parse_size)]
    pub(crate) size: u64,
    /// Measured runs of every variant
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) runs: u32,
    /// Connections of `serve`; may be repeated [default: 1 and 64]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) connections: Vec<u32>,
    /// Bytes of one request of `serve` [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_piece_size)]
    pub(crate) piece_size: Option<u32>,
    /// Where the files are made and removed [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print one JSON object: results[] {name, engine, strategy, write, connections, piece_bytes, gb_per_s,
    /// cpu_s_per_gb, p50_us, p99_us, memory_mib, runs, spread}
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `hawker bench` tells its processes.
#[derive(Args, Debug)]
pub(crate) struct BenchWorkerArguments {
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    pub(crate) arguments: Vec<String>,
}

fn parse_strategy(text: &str) -> Result<Strategy, String> {
    Strategy::from_str(text)
}

fn parse_write(text: &str) -> Result<WriteMode, String> {
    WriteMode::from_str(text)
}

fn parse_piece_size(text: &str) -> Result<u32, String> {
    u32::try_from(parse_size(text)?).map_err(|_| format!("`{text}` is too large"))
}
