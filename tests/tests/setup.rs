//! `hawker setup` and `hawker doctor` as an operator uses them.

use std::process::Command;
use std::time::Duration;

use hawker_tests::cluster::{ask, clean};
use hawker_tests::process::{Ended, Process, Scratch};
use hawker_tests::{on_both_engines, workspace};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);

fn hawker(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(workspace::hawker());
    command.args(arguments).current_dir(scratch.path());
    clean(&mut command);
    command
}

fn run(scratch: &Scratch, arguments: &[&str]) -> Ended {
    // Each run's output is its own.
    static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Process::start(scratch.path(), &format!("run-{number}"), hawker(scratch, arguments)).wait(LIMIT)
}

/// `hawker doctor` of an agent at `socket`, away from this machine's own configuration.
fn doctor(scratch: &Scratch) -> (i32, Value) {
    let ended = run(
        scratch,
        &[
            "doctor",
            "--json",
            "--socket",
            "socket",
            "--containerd-config",
            "containerd.toml",
            "--containerd-dir",
            "certs.d",
            "--podman-dir",
            "containers",
        ],
    );
    (ended.code().expect("it ends by itself"), ended.json())
}

fn state<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
    check["state"].as_str().expect("a state")
}

fn start_agent(scratch: &Scratch, engine: &str, more: &[&str]) -> Process {
    let arguments = ["agent", "--data-dir", "data", "--socket", "socket", "--peer-port", "0", "--http-port", "0"];
    let arguments = [&arguments[..], &["--limit-disk", "1GiB", "--engine", engine], more].concat();
    let mut agent = Process::start(scratch.path(), "agent", hawker(scratch, &arguments));
    let socket = scratch.join("socket");
    agent.wait_until(LIMIT, "answering", || ask(&socket, &["status"]).is_some());
    agent
}

#[test]
fn what_was_set_up_is_in_force_for_the_doctor_and_gone_after_undo() {
    on_both_engines("what_was_set_up_is_in_force_for_the_doctor_and_gone_after_undo", None, |engine| {
        let scratch = Scratch::new();
        let certs = scratch.join("certs.d");
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{}\"\n",
            certs.display()
        );
        std::fs::write(scratch.join("containerd.toml"), &text).expect("room");
        std::fs::create_dir(scratch.join("containers")).expect("room");
        std::fs::write(scratch.join("containers/registries.conf"), "").expect("room");
        let _agent = start_agent(&scratch, engine, &[]);
        let (_, before) = doctor(&scratch);
        for (name, expected) in [("agent", "ok"), ("http", "ok"), ("containerd", "note"), ("podman", "note")] {
            assert_eq!(state(&before, name), expected, "{name}: {before}");
        }
        assert_eq!(state(&before, "guard"), "note", "it runs without one: {before}");

        let mirror = mirror_of(&before);
        let containerd = ["setup", "containerd", "--config", "containerd.toml", "--mirror", &mirror];
        let podman = ["setup", "podman", "--config-dir", "containers", "--registry", "quay.io", "--mirror", &mirror];
        for setup in [&containerd[..], &podman] {
            let dry = run(&scratch, &[setup, &["--dry-run"]].concat());
            assert!(dry.code() == Some(0) && dry.stdout.contains(mirror.trim_start_matches("http://")), "{dry:?}");
            assert_eq!(run(&scratch, setup).code(), Some(0));
        }
        let (_, after) = doctor(&scratch);
        assert_eq!((state(&after, "containerd"), state(&after, "podman")), ("ok", "ok"), "{after}");
        for setup in [&containerd[..], &podman] {
            assert_eq!(run(&scratch, &[setup, &["--undo"]].concat()).code(), Some(0));
        }
        assert!(!certs.exists() && !scratch.join("containers/registries.conf.d").exists());
        assert_eq!(std::fs::read_to_string(scratch.join("containerd.toml")).expect("a file"), text);
    });
}

/// Where the agent's HTTP port is, by what the doctor says.
fn mirror_of(report: &Value) -> String {
    let checks = report["checks"].as_array().expect("checks");
    let http = checks.iter().find(|check| check["name"] == "http").expect("a port");
    let address = http["text"].as_str().and_then(|text| text.split(' ').next()).expect("an address");
    format!("http://{address}")
}

#[test]
fn the_doctor_names_what_is_wrong() {
    on_both_engines("the_doctor_names_what_is_wrong", None, |engine| {
        let scratch = Scratch::new();
        let (code, report) = doctor(&scratch);
        assert_eq!((code, state(&report, "agent")), (1, "wrong"), "{report}");

        let away = hawker_tests::free_address();
        let mut agent = start_agent(&scratch, engine, &["--scheduler", &format!("http://{away}")]);
        let (code, report) = doctor(&scratch);
        assert_eq!((code, state(&report, "agent"), state(&report, "scheduler")), (1, "ok", "wrong"), "{report}");
        assert_eq!(report["is_well"], false);

        // A stopped agent takes connections and answers nothing.
        agent.signal(Signal::STOP);
        let (code, report) = doctor(&scratch);
        assert_eq!((code, state(&report, "agent")), (1, "wrong"), "{report}");
        agent.signal(Signal::CONT);
        let settings = "[[mirror.registry]]\nname = 'in.house'\ncredentials = 'node'\nauth-file = 'none.json'\n\
                        [[mirror.registry]]\nname = 'far.away'\ncredentials = 'bypass'\n";
        std::fs::write(scratch.join("agent.toml"), settings).expect("room");
        let places = ["--socket", "socket", "--podman-dir", "x", "--containerd-dir", "x", "--config", "agent.toml"];
        let people = run(&scratch, &[&["doctor"][..], &places].concat());
        for part in ["WRONG  registry   in.house", "note   registry   far.away", "all others: what the client sends"] {
            assert!(people.stdout.contains(part), "{part}: {people:?}");
        }
        assert_eq!(people.code(), Some(1));
        assert!(people.stdout.contains("WRONG  scheduler") && people.stdout.contains("cluster key"), "{people:?}");
    });
}

#[test]
fn docker_and_crio_are_told_what_to_write() {
    let scratch = Scratch::new();
    let docker = run(&scratch, &["setup", "docker"]);
    assert_eq!(docker.code(), Some(0));
    for part in ["registry-mirrors", "http://127.0.0.1:7311", "Docker Hub only"] {
        assert!(docker.stdout.contains(part), "{part}: {}", docker.stdout);
    }
    let crio = run(&scratch, &["setup", "crio", "--registry", "quay.io"]);
    assert_eq!(crio.code(), Some(0));
    assert!(crio.stdout.contains("127.0.0.1:7311/quay.io") && crio.stdout.contains("reload crio"), "{}", crio.stdout);
    assert_eq!(run(&scratch, &["setup", "rkt"]).code(), Some(2));
}
