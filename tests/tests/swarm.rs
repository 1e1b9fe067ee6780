//! The main job in a lab: many hosts ask for one file, the origin sends each byte about once.

use std::time::{Duration, Instant};

use hawker_tests::cluster::{Cluster, Wish};
use hawker_tests::lab::Lab;
use hawker_tests::process::Process;
use hawker_tests::{exclusive, files, is_full, skip};

const HOSTS: u32 = 8;
const RATE: &str = "200mbit";

/// tbf counts headers: TCP's share of 200 Mbit/s, in bytes per second (measured: one curl from nginx, 23.9 MB/s).
const GOODPUT: f64 = 23.9e6;

#[test]
fn eight_hosts_get_one_file_and_the_origin_sends_it_once_on_uring() {
    swarm("eight_hosts_get_one_file_and_the_origin_sends_it_once_on_uring", "uring");
}

#[test]
fn eight_hosts_get_one_file_and_the_origin_sends_it_once_on_epoll() {
    swarm("eight_hosts_get_one_file_and_the_origin_sends_it_once_on_epoll", "epoll");
}

fn swarm(test: &str, engine: &'static str) {
    if let Some(obstacle) = Lab::obstacle() {
        return skip(test, &obstacle);
    }
    if engine == "uring" && !hawker_tests::has_io_uring() {
        return skip(test, "this kernel or container has no io_uring");
    }
    let _alone = exclusive();
    let cluster = Cluster::start(Wish::new(HOSTS, RATE, engine));
    // One byte more than whole blocks: the last piece is as short as can be.
    let length = if is_full() { (256 << 20) + 1 } else { (32 << 20) + 1 };
    let digest = files::write_random(&cluster.root().join("file"), length, 8);
    let url = cluster.nginx().url("file");
    let wanted = format!("sha256:{digest}");

    let start = Instant::now();
    let downloads: Vec<Process> =
        (0..cluster.host_count()).map(|index| cluster.get(index, &url, &["--digest", &wanted])).collect();
    let reports: Vec<_> = downloads
        .into_iter()
        .map(|download| {
            let ended = download.wait(Duration::from_mins(3));
            assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
            ended.json()
        })
        .collect();
    let makespan = start.elapsed().as_secs_f64();

    for (index, report) in reports.iter().enumerate() {
        assert_eq!(files::sha256(&cluster.output(index)).expect("an output"), digest);
        assert_eq!(report["bytes"], length);
        assert_eq!(report["digest"], wanted);
        assert_eq!(cluster.status(index)["engine"], engine);
    }
    let origin_bytes = cluster.nginx().body_bytes("file");
    let origin_ratio = origin_bytes as f64 / length as f64;
    let makespan_ratio = makespan / (length as f64 / GOODPUT);
    println!(
        "{engine}: {length} bytes to {HOSTS} hosts in {makespan:.2} s, origin_ratio {origin_ratio:.3}, makespan_ratio {makespan_ratio:.3}"
    );
    assert!(origin_ratio <= 1.05, "the origin sent {origin_ratio:.3} x the file");
    // A short file is mostly start-up; how fast it was is printed above.
    if is_full() {
        assert!(makespan_ratio <= 1.30, "{makespan_ratio:.3} x one plain download");
    }
}
