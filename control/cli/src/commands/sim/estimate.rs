//! What a run will cost this machine, near enough for a warning.

use hawker_sim::Scenario;

use crate::units::show_size;

/// A core's time for a piece that reaches a host, with the announcements of it to all neighbors, and for one of its
/// blocks. Measured on a core of a Zen 5 class EPYC: 17 to 71 us a piece of one block with 100 to 1,000 hosts, 25 us a
/// piece of 16 blocks with 16 hosts.
const SECONDS_PER_PIECE: f64 = 50e-6;
const SECONDS_PER_BLOCK: f64 = 1e-6;
/// Memory of a host with its links, and of what it knows of one piece; measured with 100 to 1,000 hosts, 64 and 1024
/// pieces.
const BYTES_PER_HOST: u64 = 72 << 10;
const BYTES_PER_PIECE: u64 = 24;

const LONG_SECONDS: f64 = 3600.0;

#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    seconds: f64,
    bytes: u64,
}

impl Estimate {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let blocks: u64 = scenario.tasks.iter().map(|geometry| geometry.block_count_total()).sum();
        let per_host = BYTES_PER_HOST + BYTES_PER_PIECE * u64::from(scenario.piece_count());
        Self {
            seconds: f64::from(scenario.hosts)
                * (f64::from(scenario.piece_count()) * SECONDS_PER_PIECE + blocks as f64 * SECONDS_PER_BLOCK),
            bytes: u64::from(scenario.hosts) * per_host,
        }
    }

    /// What to tell the user before the run begins; `available` is the memory that this machine can give.
    pub(super) fn warnings(&self, available: Option<u64>) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.seconds > LONG_SECONDS {
            let hours = (self.seconds / 3600.0).ceil();
            warnings.push(format!(
                "this will take about {hours} h on one core; the ratios change little with a tenth of --size"
            ));
        }
        if let Some(available) = available.filter(|available| self.bytes > *available) {
            let (needed, available) = (show_size(self.bytes), show_size(available));
            warnings
                .push(format!("this needs about {needed} of memory and {available} are free; ask for fewer --hosts"));
        }
        warnings
    }
}

/// What the kernel could give without swapping, as it says itself (proc_meminfo(5)).
pub(super) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBIT: u64 = 125_000_000;

    #[test]
    fn only_runs_that_cost_much_are_warned_of() {
        let small = Estimate::of(&Scenario::equal_hosts(1000, 64 << 20, GBIT));
        assert_eq!(small.warnings(Some(8 << 30)), [""; 0]);
        let large = Estimate::of(&Scenario::equal_hosts(200_000, 64 << 30, GBIT));
        let warnings = large.warnings(Some(8 << 30));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains(" h ") && warnings[1].contains("--hosts"), "{warnings:?}");
        assert_eq!(large.warnings(None).len(), 1, "nothing is said of memory that nobody knows");
    }

    #[test]
    fn kernel_says_what_memory_is_left() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
