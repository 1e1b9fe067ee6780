//! `hawker sim`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::units::{parse_duration, parse_rate, parse_share, parse_size};

const LONG: &str = "\
Plans a rollout: how long until every host has a file, how much of it leaves the origin, and what happens when hosts are \
slow, die or lie meanwhile. Runs the same swarm and scheduler code as agents do, in virtual time; nothing is sent over a network. \
One seed is one course of events: the same command prints the same figures.

makespan is the time from the first start to the last host that finishes; p50 and p99 are times of hosts, each from its own \
start. The lower bound is the time that no swarm can beat with these links; makespan_ratio and p99_ratio are over it. \
origin_ratio counts the copies that left the origin, cross_zone_ratio those that came into each zone, waste is the part \
of received bytes that were there already. \
Connections are perfect in the model: no loss, no slow start of TCP, and disks that keep up.

Exit code 0 only when every host that lives has all of the file and nothing broke on the way.";

const USAGE: &str = "\
hawker sim --hosts <N> --size <BYTES> --host-rate <RATE> --origin-rate <RATE> [OPTIONS]
       hawker sim --seeds <COUNT> [--seed <X>]";

const EXAMPLES: &str = "\
Examples:
  hawker sim --hosts 200 --size 2GiB --host-rate 1Gbit --origin-rate 10Gbit
  hawker sim --hosts 500 --size 1GiB --host-rate 1Gbit --origin-rate 1Gbit --slow 20% --plot a.svg
  hawker sim --hosts 400 --size 1GiB --host-rate 1Gbit --origin-rate 1Gbit --zones 8 --zone-uplink 4Gbit
  hawker sim --hosts 100 --size 64MiB --host-rate 1Gbit --origin-rate 1Gbit --json | jq .p99_s
  hawker sim --hosts 50 --size 90MiB,31MiB,12MiB,2KiB,300 --host-rate 1Gbit --origin-rate 1Gbit

Look for a failure of Hawker itself in 10,000 small swarms with faults, on all cores:
  hawker sim --seeds 10000";

/// Plan a rollout: simulate how long many hosts take, and what leaves the origin
#[derive(Args, Debug)]
#[command(long_about = LONG, after_long_help = EXAMPLES, override_usage = USAGE)]
pub(crate) struct SimArguments {
    #[command(flatten)]
    pub(crate) rollout: Option<RolloutArguments>,
    /// Instead of one rollout, run COUNT small swarms with faults, drawn from --seed on, on all cores
    #[arg(long, value_name = "COUNT", conflicts_with = "RolloutArguments")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: Option<u64>,
    /// Every draw of the run; the first one with --seeds
    #[arg(long, value_name = "X", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What is rolled out, and over what.
#[derive(Args, Clone, Debug)]
pub(crate) struct RolloutArguments {
    /// How many hosts want the file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) hosts: u32,
    /// Size of the file; several, with commas, are the layers of an image, all wanted at once
    #[arg(long, value_name = "BYTES", value_parser = parse_size, value_delimiter = ',', required = true)]
    pub(crate) size: Vec<u64>,
    /// Rate of every host's link, each way, such as 1Gbit
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) host_rate: u64,
    /// Rate at which the origin sends to all together
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) origin_rate: u64,
    /// Round trip between any two hosts, and to origin and scheduler
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0.2ms")]
    pub(crate) rtt: Duration,
    /// The hosts are in so many zones, dealt out in turn; the origin is in none
    #[arg(long, value_name = "Z", requires = "zone_uplink", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) zones: Option<u32>,
    /// Rate at which a zone's hosts together exchange with other zones and the origin, each way
    #[arg(long, value_name = "RATE", requires = "zones", value_parser = parse_rate)]
    pub(crate) zone_uplink: Option<u64>,
    /// Part of the hosts that dies, one after the other, until the lower bound
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "0%")]
    pub(crate) churn: f64,
    /// Part of the hosts that lies to the others and to the scheduler, in several ways; no figure of a host counts them
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "0%")]
    pub(crate) liars: f64,
    /// Part of the hosts whose links are --slow-factor times slower
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "0%")]
    pub(crate) slow: f64,
    /// How many times slower
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) slow_factor: u64,
    /// Hosts start at times drawn from the first so many seconds, not all at once
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration, default_value = "0")]
    pub(crate) stagger: Duration,
    /// Draw completion and sources of the bytes over time
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Print one JSON object: hosts, pieces, seed, makespan_s, p50_s, p99_s, bound_s, makespan_ratio, p99_ratio,
    /// origin_ratio, cross_zone_ratio, waste, failed_hosts, scheduler_messages_per_host, scheduler_cpu_s, events, wall_s
    #[arg(long)]
    pub(crate) json: bool,
}
