//! One agent and its command line: cache, links, lists, removal, `up`, `demo`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hawker_tests::cluster::{ask, clean};
use hawker_tests::nginx::{Behaviour, Nginx};
use hawker_tests::process::{Ended, Process, Scratch, wait_until};
use hawker_tests::{exclusive, files, free_address, skip, workspace};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(1);

fn hawker(scratch: &Scratch, name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(workspace::hawker());
    command.args(arguments).env("TMPDIR", scratch.path());
    clean(&mut command);
    Process::start(scratch.path(), name, command)
}

fn run(scratch: &Scratch, name: &str, arguments: &[&str]) -> Ended {
    hawker(scratch, name, arguments).wait(LIMIT)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

fn start_agent(scratch: &Scratch) -> Process {
    let (data, socket) = (scratch.join("data"), scratch.join("socket"));
    let arguments = ["--peer-port", "0", "--http-port", "0", "--limit-disk", "1GiB"];
    let more = ["agent", "--data-dir", text(&data), "--socket", text(&socket)];
    let mut agent = hawker(scratch, "agent", &[&more[..], &arguments].concat());
    agent.wait_until(LIMIT, "answering", || ask(&socket, &["status"]).is_some());
    agent
}

#[test]
fn the_second_download_comes_from_the_cache_and_what_is_removed_is_gone() {
    if workspace::find_program("nginx").is_none() {
        return skip("the_second_download_comes_from_the_cache_and_what_is_removed_is_gone", "nginx is not installed");
    }
    let scratch = Scratch::new();
    let root = scratch.join("root");
    std::fs::create_dir(&root).expect("room");
    let length = (6 << 20) + 1;
    let digest = files::write_random(&root.join("file"), length, 11);
    let nginx = Nginx::start(&scratch, free_address(), &root, Behaviour::default(), None);
    let agent = start_agent(&scratch);
    let (socket, url) = (scratch.join("socket"), nginx.url("file"));

    for (name, source) in [("first", "origin_bytes"), ("second", "cache_bytes")] {
        let output = scratch.join(name);
        let ended = run(&scratch, name, &["get", &url, "-o", text(&output), "--socket", text(&socket), "--json"]);
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_eq!(files::sha256(&output).expect("an output"), digest);
        assert_eq!(ended.json()[source], length, "{name}: {}", ended.stdout);
    }
    assert_eq!(nginx.body_bytes("file"), length);

    let link = scratch.join("link");
    let ended = run(&scratch, "link", &["get", &url, "-o", text(&link), "--socket", text(&socket), "--link"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(std::fs::metadata(&link).expect("a link").nlink(), 2);

    let list = ask(&socket, &["ls"]).expect("a list");
    let task = list["tasks"][0]["task"].as_str().expect("one task").to_owned();
    assert_eq!(ask(&socket, &["stat", &task[..8]]).expect("the task")["state"], "sealed");
    let removed = ask(&socket, &["rm", &task]).expect("removed");
    assert_eq!(removed["task"], task);
    assert_eq!(ask(&socket, &["ls"]).expect("a list")["tasks"], serde_json::json!([]));
    assert_eq!(files::sha256(&link).expect("outputs stay"), digest);
    assert_eq!(agent.stop(LIMIT).code(), Some(0));
}

#[test]
fn up_serves_downloads_and_ends_when_it_is_told_to() {
    if workspace::find_program("nginx").is_none() {
        return skip("up_serves_downloads_and_ends_when_it_is_told_to", "nginx is not installed");
    }
    let _alone = exclusive(); // The ports of `up` are fixed.
    let scratch = Scratch::new();
    let root = scratch.join("root");
    std::fs::create_dir(&root).expect("room");
    let digest = files::write_random(&root.join("file"), 1 << 20, 12);
    let nginx = Nginx::start(&scratch, free_address(), &root, Behaviour::default(), None);
    let (data, socket, output) = (scratch.join("up"), scratch.join("up.sock"), scratch.join("output"));
    let mut up =
        hawker(&scratch, "up", &["up", "--data-dir", text(&data), "--socket", text(&socket), "--limit-disk", "1GiB"]);
    up.wait_until(LIMIT, "connected", || {
        ask(&socket, &["status"]).is_some_and(|status| status["scheduler"]["is_connected"] == true)
    });
    let url = nginx.url("file");
    let ended = run(&scratch, "get", &["get", &url, "-o", text(&output), "--socket", text(&socket)]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(files::sha256(&output).expect("an output"), digest);
    let told = up.stdout();
    assert!(told.contains("hawker get"), "it says what to type next: {told}");
    assert_eq!(std::fs::metadata(data.join("cluster.key")).expect("a key").mode() & 0o777, 0o600);
    assert_eq!(up.stop(LIMIT).code(), Some(0));
}

#[test]
fn demo_ends_with_right_digests_and_the_promised_keys() {
    let _alone = exclusive();
    for engine in ["uring", "epoll"] {
        if engine == "uring" && !hawker_tests::has_io_uring() {
            skip("demo_ends_with_right_digests_and_the_promised_keys", "half of it: no io_uring here");
            continue;
        }
        let scratch = Scratch::new();
        let arguments = ["demo", "--agents", "3", "--size", "16MiB", "--json", "--engine", engine];
        let ended = run(&scratch, "demo", &arguments);
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        let report = ended.json();
        let hosts = report["hosts"].as_array().expect("hosts");
        assert_eq!(hosts.len(), 3);
        for host in hosts {
            assert_eq!(host["digest_ok"], true);
            assert!(host["seconds"].is_f64() && host["origin_bytes"].is_u64() && host["peer_bytes"].is_u64(), "{host}");
        }
        let origin_ratio = report["origin_ratio"].as_f64().expect("a ratio");
        assert!(origin_ratio <= 1.05, "{origin_ratio}");
        assert!(report["makespan_ratio"].is_f64() && report["cpu_s_per_gb"].is_f64());
        assert_eq!(report["engine"], engine);
        let left: Vec<String> = files::names_in(scratch.path());
        assert!(left.iter().all(|name| !name.starts_with("hawker-demo")), "{left:?}");
    }
}

#[test]
fn a_demo_that_is_interrupted_leaves_no_process_and_no_file() {
    let _alone = exclusive();
    let scratch = Scratch::new();
    let mut demo = hawker(&scratch, "demo", &["demo", "--agents", "2", "--size", "64MiB", "--host-rate", "4MB/s"]);
    let ready = || files::names_in(scratch.path()).iter().any(|name| name.starts_with("hawker-demo"));
    demo.wait_until(LIMIT, "at work", ready);
    demo.wait_until(LIMIT, "downloading", || demo_children() >= 3);
    demo.signal(Signal::INT);
    let ended = demo.wait(LIMIT);
    assert_eq!(ended.code(), Some(130), "{}", ended.stderr);
    let left: Vec<String> = files::names_in(scratch.path());
    assert!(left.iter().all(|name| !name.starts_with("hawker-demo")), "{left:?}");
    wait_until(LIMIT, "gone", || demo_children() == 0);
}

/// Agents and schedulers that a demo started.
fn demo_children() -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok())
        .filter(|command| command.contains("hawker-demo-") && command.contains("--with-parent"))
        .count()
}
