//! What a run came to.

use core::fmt;
use core::time::Duration;

use crate::{MIB, Scenario};

/// Figures of one run. Ratios are against the file and the slower of a host's two wires.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Of the scenario.
    pub seed: u64,
    /// Hosts that have all of the task.
    pub complete: u32,
    /// Until the last of them had it.
    pub makespan: Duration,
    /// Median of the hosts' times.
    pub median: Duration,
    /// `makespan` over the time of one download at the full rate.
    pub makespan_ratio: f64,
    /// Body bytes that the origin sent, over the length of the task.
    pub origin_ratio: f64,
    /// Bytes received though they were there already, over all bytes received.
    pub waste_ratio: f64,
    /// Part of the makespan in which the uplinks of the hosts were sending.
    pub uplink_use: f64,
    /// Grants given by all hosts.
    pub grants: u64,
    /// Messages between hosts that are not blocks; an announcement counts once per neighbor.
    pub messages: u64,
    /// Events of the simulation.
    pub events: u64,
}

/// A ratio of two amounts; 0 of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    // Exact to 2^-20, far below what is asserted, without a lossy cast.
    let scaled = (u128::from(part) << 20) / u128::from(whole);
    f64::from(u32::try_from(scaled).unwrap_or(u32::MAX)) / f64::from(1u32 << 20)
}

/// The time of one download at the full rate: what every makespan is compared with.
pub(crate) fn one_download(scenario: &Scenario) -> Duration {
    let rate = scenario.up_bytes_per_s.min(scenario.down_bytes_per_s).max(1);
    let nanos = u128::from(scenario.geometry.length()) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Report {
    /// The one line that names the scenario and its figures.
    #[must_use]
    pub fn line(&self, scenario: &Scenario) -> String {
        format!(
            "{} hosts x {} Mbit/s, {} MiB in {} pieces, {:?} one way: {self}",
            scenario.hosts,
            scenario.up_bytes_per_s * 8 / 1_000_000,
            scenario.geometry.length() / MIB,
            scenario.geometry.piece_count(),
            scenario.latency,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "makespan_ratio {:.3} origin_ratio {:.3} ({:.3?}, median {:.3?}), waste {:.4}, uplinks {:.2} busy, \
             {} grants, {} messages, {} events, seed {}",
            self.makespan_ratio,
            self.origin_ratio,
            self.makespan,
            self.median,
            self.waste_ratio,
            self.uplink_use,
            self.grants,
            self.messages,
            self.events,
            self.seed,
        )
    }
}
