//! What hosts and their tasks weigh, as allocated.

#[path = "../benches/crowd/mod.rs"]
mod crowd;

use allocation_counter::measure;
use crowd::{Crowd, FETCHED};

/// Of the design.
const HOST_BYTES_MAX: i64 = 8 * 1024;
/// Of the design: host and task, beyond what is there once per host and once per task.
const PAIR_BYTES_MAX: i64 = 64;
/// Of a task while it is fetched: the states of its 1,024 pieces, its row, its resolve.
const TASK_BYTES: i64 = 6 * 1024;

#[test]
fn connected_host_and_its_part_in_a_task_stay_within_their_bounds() {
    for count in [1_000, 10_000] {
        let mut crowd = None;
        let connected = measure(|| crowd = Some(Crowd::connected(count))).bytes_current;
        let mut crowd = crowd.expect("it was made");
        // The first task brings the links with other hosts, which further tasks share.
        let linked = measure(|| crowd.all_fetch(FETCHED)).bytes_current;
        let host = (connected + linked) / i64::from(count);
        println!("{count} hosts: {} bytes connected, {host} with a task", connected / i64::from(count));
        assert!(host <= HOST_BYTES_MAX, "{host} bytes per host of {count}");

        let second = measure(|| crowd.all_fetch(FETCHED + 1)).bytes_current;
        let pair = (second - TASK_BYTES) / i64::from(count);
        println!("{count} hosts: {pair} bytes for each one's part in a further task");
        assert!(pair <= PAIR_BYTES_MAX, "{pair} bytes per host and task of {count}");
    }
}

#[test]
fn host_with_thousands_of_cached_tasks_stays_within_its_bounds() {
    const TASKS: u16 = 4_096;
    let mut crowd = Crowd::connected(3);
    // A young scheduler keeps timers, for a moment, for every task that it hears of.
    crowd.now += std::time::Duration::from_secs(60);
    let mut cache =
        |host: u32| measure(|| (0..TASKS).for_each(|task| crowd.announce(host, 1_000 + task))).bytes_current;
    cache(0);
    // The tasks are known now; what the next two add is theirs.
    let pair = (cache(1) + cache(2)) / i64::from(2 * TASKS);
    println!("{pair} bytes for each cached task of a host");
    assert!(pair <= PAIR_BYTES_MAX, "{pair} bytes per host and task");
}
