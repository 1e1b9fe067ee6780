//! kill -9 in the middle of a swarm.

use std::time::Duration;

use hawker_tests::cluster::{Cluster, Wish};
use hawker_tests::lab::Lab;
use hawker_tests::process::{Process, wait_until};
use hawker_tests::{exclusive, files, is_full, skip};
use serde_json::Value;

/// What may be counted twice at a crash: blocks that had arrived, but whose piece was not whole yet.
const IN_FLIGHT_BYTES: u64 = 4 << 20;

#[test]
fn two_agents_and_the_scheduler_are_killed_and_everybody_still_ends_with_the_right_bytes() {
    if let Some(obstacle) = Lab::obstacle() {
        return skip("two_agents_and_the_scheduler_are_killed", &obstacle);
    }
    let _alone = exclusive();
    let mut cluster = Cluster::start(Wish::new(8, "200mbit", "auto"));
    let length: u64 = if is_full() { (256 << 20) + 1 } else { (48 << 20) + 1 };
    let digest = files::write_random(&cluster.root().join("file"), length, 9);
    let url = cluster.nginx().url("file");
    let wanted = format!("sha256:{digest}");
    let downloads: Vec<Process> =
        (0..cluster.host_count()).map(|index| cluster.get(index, &url, &["--digest", &wanted])).collect();

    let victims = [1, 4];
    wait_until(Duration::from_mins(1), "a third arrived", || {
        victims.iter().all(|&victim| bytes_have(&cluster.status(victim)) > length / 3)
    });
    let had = victims.map(|victim| bytes_have(&cluster.status(victim)));
    for victim in victims {
        cluster.kill_agent(victim);
    }
    cluster.kill_scheduler();
    // The others go on meanwhile.
    std::thread::sleep(Duration::from_millis(500));
    for victim in victims {
        cluster.start_agent(victim);
    }
    cluster.start_scheduler();

    for (index, download) in downloads.into_iter().enumerate() {
        let ended = download.wait(Duration::from_mins(3));
        assert_eq!(ended.code(), Some(0), "host {index}: {}", ended.stderr);
        assert_eq!(files::sha256(&cluster.output(index)).expect("an output"), digest);
    }
    for (victim, had) in victims.into_iter().zip(had) {
        // Counted since the restart.
        let bytes = &cluster.status(victim)["bytes"];
        let received = bytes["origin"].as_u64().unwrap_or(0) + bytes["peer"].as_u64().unwrap_or(0);
        println!("host {victim}: {had} of {length} bytes verified when killed, {received} received afterwards");
        assert!(received <= length - had + IN_FLIGHT_BYTES, "verified pieces were fetched again");
    }
}

fn bytes_have(status: &Value) -> u64 {
    status["tasks"].as_array().into_iter().flatten().filter_map(|task| task["bytes_have"].as_u64()).max().unwrap_or(0)
}
