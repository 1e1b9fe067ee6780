//! The simulator: the production machines in virtual time.
//!
//! Every host runs the [`Download`](hawker_swarm::Download) and [`Upload`](hawker_swarm::Upload) that an agent runs;
//! only the network, the origin and the clock are models. One seed gives one trace, so a failure is repeated by its
//! seed.
//!
//! The network is modelled per block: a block occupies its sender's uplink and its receiver's downlink for its length
//! over their rates, both in order of arrival, and is cut through (the two overlap). What is not modelled: loss, TCP's
//! slow start, a core that is smaller than the sum of its edges, disks.

mod clock;
mod host;
mod leases;
mod network;
mod origin;
mod report;
mod shell;
mod world;

pub use report::Report;

use core::time::Duration;

use hawker_proto::Geometry;
use hawker_swarm::{DownloadConfig, UploadConfig};

const MIB: u64 = 1024 * 1024;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Hosts that want the task, all from the start (but see `start_spread`).
    pub hosts: u32,
    /// The task.
    pub geometry: Geometry,
    /// Every host's uplink in bytes per second.
    pub up_bytes_per_s: u64,
    /// Every host's downlink in bytes per second.
    pub down_bytes_per_s: u64,
    /// One way, between any two hosts, and to the origin and the scheduler.
    pub latency: Duration,
    /// A host handles what reached it only every so often: up to this late (uniformly drawn). Models process
    /// scheduling; zero for none.
    pub noise: Duration,
    /// The origin's uplink in bytes per second.
    pub origin_bytes_per_s: u64,
    /// Leases that run at the same time.
    pub origin_leases_max: usize,
    /// Neighbors chosen by each host (it is also chosen by as many others on average).
    pub degree: u32,
    /// Upload slots of a host.
    pub slots: u32,
    /// Hosts, counted from the first, that have the task from the start.
    pub seeds: u32,
    /// Hosts, counted from the first, whose wires are slower than the others' ...
    pub slow_hosts: u32,
    /// ... by this factor.
    pub slow_factor: u64,
    /// Hosts start at times drawn uniformly from this.
    pub start_spread: Duration,
    /// Hosts, counted from the first, that vanish in the middle of the transfer, one after the other.
    pub deaths: u32,
    /// Policy.
    pub download: DownloadConfig,
    /// Policy.
    pub upload: UploadConfig,
    /// Every draw of the run.
    pub seed: u64,
    /// A run that takes longer in virtual time has failed.
    pub time_max: Duration,
}

impl Scenario {
    /// Equal hosts at `bytes_per_s` both ways, and an origin of the same rate.
    ///
    /// # Panics
    /// When `length` is more than a task can have.
    #[must_use]
    pub fn equal_hosts(hosts: u32, length: u64, bytes_per_s: u64) -> Self {
        Self {
            hosts,
            geometry: Geometry::of_length(length).expect("a length that a task can have"),
            up_bytes_per_s: bytes_per_s,
            down_bytes_per_s: bytes_per_s,
            latency: Duration::from_micros(100),
            noise: Duration::ZERO,
            origin_bytes_per_s: bytes_per_s,
            origin_leases_max: 16,
            degree: 20,
            slots: 2,
            seeds: 0,
            slow_hosts: 0,
            slow_factor: 1,
            start_spread: Duration::ZERO,
            deaths: 0,
            download: DownloadConfig::default(),
            upload: UploadConfig::default(),
            seed: 1,
            time_max: Duration::from_secs(3600),
        }
    }
}

/// Runs the scenario to its end.
///
/// # Panics
/// When a machine breaks an invariant, a byte is accepted twice, or the run does not end within `time_max`; the
/// message holds the seed.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    world::World::new(scenario).run()
}
