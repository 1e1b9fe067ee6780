//! io_uring denied by seccomp, as in a container: the agent takes epoll and says why.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hawker_tests::cluster::{Cluster, Wish, clean};
use hawker_tests::lab::Lab;
use hawker_tests::process::{Process, Scratch};
use hawker_tests::{exclusive, files, skip, workspace};

fn wrapper() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_without-io-uring"))
}

#[test]
fn a_swarm_without_io_uring_works_and_says_why_it_has_none() {
    if let Some(obstacle) = Lab::obstacle() {
        return skip("a_swarm_without_io_uring_works_and_says_why_it_has_none", &obstacle);
    }
    let _alone = exclusive();
    let cluster = Cluster::start(Wish { wrapper: Some(wrapper()), ..Wish::new(3, "200mbit", "auto") });
    let length = (16 << 20) + 1;
    let digest = files::write_random(&cluster.root().join("file"), length, 10);
    let url = cluster.nginx().url("file");
    let downloads: Vec<Process> = (0..cluster.host_count()).map(|index| cluster.get(index, &url, &[])).collect();
    for (index, download) in downloads.into_iter().enumerate() {
        let ended = download.wait(Duration::from_mins(2));
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_eq!(files::sha256(&cluster.output(index)).expect("an output"), digest);
        let status = cluster.status(index);
        assert_eq!(status["engine"], "epoll");
        let reason = status["engine_reason"].as_str().expect("a reason");
        assert!(reason.contains("seccomp") || reason.contains("EPERM"), "{reason}");
        let metrics = cluster.metrics(index);
        let info =
            metrics.lines().find(|line| line.starts_with("hawker_engine_info")).expect("an engine in the metrics");
        assert!(info.contains("engine=\"epoll\"") && info.contains("reason="), "{info}");
    }
    let sent = cluster.nginx().body_bytes("file");
    assert!(sent as f64 <= 1.05 * length as f64, "the origin sent {sent} of {length} bytes");
}

#[test]
fn uring_that_was_asked_for_and_is_denied_is_an_error_with_its_reason() {
    let scratch = Scratch::new();
    let mut command = Command::new(wrapper());
    command.arg(workspace::hawker()).args(["agent", "--engine", "uring", "--peer-port", "0", "--http-port", "0"]);
    command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(scratch.join("socket"));
    clean(&mut command);
    let ended = Process::start(scratch.path(), "agent", command).wait(Duration::from_secs(20));
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("seccomp") || ended.stderr.contains("EPERM"), "{}", ended.stderr);
}
