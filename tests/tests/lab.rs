//! The lab and the origins that the other tests stand on do what they say.

use std::process::Command;
use std::time::{Duration, Instant};

use hawker_tests::lab::{Lab, Shape};
use hawker_tests::nginx::{Behaviour, Nginx};
use hawker_tests::process::{Process, Scratch};
use hawker_tests::{exclusive, files, skip, workspace};

const FILE_BYTES: u64 = 8 << 20;

#[test]
fn hosts_of_a_lab_download_at_the_rate_of_its_links_and_the_origin_counts_the_bytes() {
    if let Some(obstacle) = Lab::obstacle() {
        return skip("hosts_of_a_lab_download_at_the_rate_of_its_links", &obstacle);
    }
    let _alone = exclusive();
    let scratch = Scratch::new();
    let lab = Lab::up(Shape { hosts: 2, rate: "100mbit", loss_percent: 0 });
    let root = scratch.join("root");
    std::fs::create_dir(&root).expect("room");
    let digest = files::write_random(&root.join("file"), FILE_BYTES, 1);
    let address = format!("{}:80", lab.address("origin")).parse().expect("an address");
    let nginx = Nginx::start(&scratch, address, &root, Behaviour::default(), Some(&lab));
    let curl = workspace::find_program("curl").expect("no obstacle");

    let start = Instant::now();
    let downloads: Vec<Process> = lab
        .hosts()
        .iter()
        .map(|host| {
            let mut command = lab.command(host, &curl);
            command.arg("-sfo").arg(scratch.join(host)).arg(nginx.url("file"));
            Process::start(scratch.path(), &format!("curl-{host}"), command)
        })
        .collect();
    for download in downloads {
        assert_eq!(download.wait(Duration::from_mins(1)).code(), Some(0));
    }
    let took = start.elapsed();

    for host in lab.hosts() {
        assert_eq!(files::sha256(&scratch.join(&host)).expect("a file"), digest);
    }
    assert_eq!(nginx.body_bytes("file"), 2 * FILE_BYTES);
    // Two files through the origin's one link of 12.5 MB/s.
    let least = Duration::from_secs_f64(2.0 * FILE_BYTES as f64 / 12.5e6);
    assert!(took >= least.mul_f64(0.9), "{took:?}: the links are faster than they were told to be");
}

#[test]
fn a_lab_that_is_gone_leaves_no_namespace() {
    if let Some(obstacle) = Lab::obstacle() {
        return skip("a_lab_that_is_gone_leaves_no_namespace", &obstacle);
    }
    let lab = Lab::up(Shape { hosts: 1, rate: "0", loss_percent: 0 });
    let prefix = lab.prefix();
    let namespaces = || {
        let output = Command::new(workspace::find_program("ip").expect("no obstacle")).args(["netns", "list"]).output();
        String::from_utf8_lossy(&output.expect("ip runs").stdout).matches(&prefix).count()
    };
    assert_eq!(namespaces(), 3, "a host, the origin and the switch");
    drop(lab);
    assert_eq!(namespaces(), 0);
}

#[test]
fn io_uring_can_be_denied_to_a_process() {
    let status = Command::new(env!("CARGO_BIN_EXE_without-io-uring"))
        .args(["sh", "-c", "grep -q '^Seccomp:[[:space:]]*2' /proc/self/status"])
        .status()
        .expect("the helper runs");
    assert!(status.success(), "the child runs without a seccomp filter");
}
