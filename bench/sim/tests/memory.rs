//! What the machines of many hosts weigh, as allocated.

use allocation_counter::measure;
use hawker_sim::{Report, Scenario, run};

const MIB: u64 = 1024 * 1024;
const GBIT: u64 = 125_000_000;

/// With its part of the scheduler, of the messages on their way, and of the shell; measured 216,022 bytes. An agent adds the
/// blocks in its memory.
const HOST_BYTES_MAX: u64 = 256 * 1024;

/// The run, and the most that was allocated at any time in it, over its hosts.
fn bytes_per_host(scenario: &Scenario) -> (Report, u64) {
    let mut report = None;
    let bytes = measure(|| report = Some(run(scenario))).bytes_max;
    (report.expect("measured"), bytes / u64::from(scenario.hosts))
}

#[test]
fn host_of_a_thousand_takes_little_memory() {
    let (report, bytes) = bytes_per_host(&Scenario::equal_hosts(1000, 16 * MIB, GBIT));
    println!("{bytes} bytes a host: {report}");
    assert!(report.failed_hosts == 0 && bytes <= HOST_BYTES_MAX, "{bytes} bytes a host");
}
