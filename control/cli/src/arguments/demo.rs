//! `hawker demo`.

use clap::Args;

use crate::units::{parse_rate, parse_size};

const LONG: &str = "\
Shows the main job on this machine: a scheduler and N agents as real processes on 127.0.0.x, and an origin when no URL is \
given. All agents get the file at once; then every copy is checked. Agents and origin are held to --host-rate by Hawker's \
own limiter, as if each had a network link of that rate.

origin_ratio is what the origin sent over the size of the file: N when everybody downloads alone, 1 when each byte leaves \
the origin once. makespan_ratio is how long the slowest host took over what one plain download of the file takes on such \
a link. Exit code 0 only when every digest is right.";

const EXAMPLES: &str = "\
Examples:
  hawker demo
  hawker demo --agents 8 --size 256MiB --host-rate 200Mbit/s
  hawker demo --host-rate 0 --size 1GiB          as fast as this machine can
  hawker demo --json | jq .origin_ratio";

/// See it work: a scheduler, agents and an origin on this machine
#[derive(Args, Debug)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct DemoArguments {
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) agents: u8,
    /// Size of the file that the demo's origin serves
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = parse_size, conflicts_with = "url")]
    pub(crate) size: u64,
    /// Rate of every host and of the origin; 0 is free
    #[arg(long, value_name = "RATE", default_value = "200Mbit/s", value_parser = parse_rate)]
    pub(crate) host_rate: u64,
    /// Download this instead of a file of random bytes from an origin of the demo's own
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Which engine drives the agents: auto, uring or epoll
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = ["auto", "uring", "epoll"])]
    pub(crate) engine: String,
    /// Print one JSON object: hosts[] {host, seconds, origin_bytes, peer_bytes, digest_ok}, origin_ratio,
    /// makespan_ratio, cpu_s_per_gb, engine
    #[arg(long)]
    pub(crate) json: bool,
}
