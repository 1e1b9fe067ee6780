//! The binary as a script sees it: exit codes, and words that say what to do next.

use std::path::Path;
use std::process::{Command, Output};

fn hawker(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawker"));
    // Settings of whoever runs the tests are not part of them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HAWKER_")) {
        command.env_remove(name);
    }
    command.args(arguments).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let output = hawker(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    for word in [
        "demo",
        "get",
        "status",
        "ls",
        "stat",
        "rm",
        "up",
        "agent",
        "scheduler",
        "bench",
        "setup",
        "doctor",
        "mirror",
        "sim",
        "Exit codes",
        "7 agent unreachable",
        "256MiB",
    ] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[test]
fn nothing_and_nonsense_are_usage() {
    for arguments in
        [&[][..], &["fly"], &["get"], &["get", "http://x/y"], &["mirror", "invalidate"], &["demo", "--agents", "0"]]
    {
        assert_eq!(hawker(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn an_ambiguous_unit_is_refused_with_the_right_spellings() {
    let output = hawker(&["get", "http://x/y", "-o", "z", "--limit", "10M"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("MiB") && stderr(&output).contains("MB"), "{}", stderr(&output));
}

#[test]
fn an_existing_file_is_kept_and_the_advice_is_overwrite() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").expect("room");
    let output = hawker(&["get", "http://127.0.0.1:9/file", "-o", text(&file)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--overwrite"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&file).expect("the file"), b"precious");
}

#[test]
fn what_is_no_url_is_usage_and_says_what_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    for url in ["ftp://x/y", "x", "http://user:secret@x/y"] {
        let output = hawker(&["get", url, "-o", text(&file)]);
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(stderr(&output).contains("http://"), "{}", stderr(&output));
    }
}

#[test]
fn no_agent_at_the_socket_is_exit_seven_with_advice() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("none.sock");
    let file = directory.path().join("file");
    let socket = ["--socket", text(&socket)];
    let questions = [
        &["status"][..],
        &["ls"],
        &["stat", "abcdef"],
        &["rm", "abcdef"],
        &["mirror", "ls"],
        &["mirror", "invalidate", "*:latest"],
    ];
    for arguments in questions {
        let output = hawker(&[arguments, &socket].concat());
        assert_eq!(output.status.code(), Some(7), "{arguments:?}");
        assert!(stderr(&output).contains("hawker up"), "{}", stderr(&output));
    }
    let output = hawker(&[&["get", "http://127.0.0.1:9/x", "-o", text(&file)][..], &socket].concat());
    assert_eq!(output.status.code(), Some(7), "a socket that was named is not silently done without");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("the directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

const ROLLOUT: [&str; 9] =
    ["sim", "--hosts", "5", "--size", "4MiB", "--host-rate", "1Gbit", "--origin-rate", "1Gbit/s"];

#[test]
fn sim_prints_its_figures_for_people_and_for_scripts() {
    let output = hawker(&ROLLOUT);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["makespan", "p50", "p99", "lower bound", "makespan_ratio", "origin_ratio", "waste", "scheduler"] {
        assert!(shown.contains(word), "{word} is missing:\n{shown}");
    }
    let json = |seed: &str| -> serde_json::Value {
        let output = hawker(&[&ROLLOUT[..], &["--json", "--churn", "20%", "--seed", seed]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let report = json("7");
    let keys = "hosts pieces seed makespan_s p50_s p99_s bound_s makespan_ratio p99_ratio origin_ratio cross_zone_ratio waste failed_hosts \
                scheduler_messages_per_host scheduler_cpu_s events wall_s";
    for key in keys.split_whitespace() {
        assert!(report[key].is_number(), "{key}: {report}");
    }
    assert_eq!((&report["hosts"], &report["seed"], &report["failed_hosts"]), (&5.into(), &7.into(), &0.into()));
    assert_eq!(report["makespan_s"], json("7")["makespan_s"], "one seed is one course of events");
}

#[test]
fn sim_refuses_what_cannot_be() {
    let more = |words: &[&'static str]| [&ROLLOUT[..], words].concat();
    let impossible = [
        vec!["sim"],
        vec!["sim", "--hosts", "5"],
        vec!["sim", "--hosts", "0", "--size", "1MiB", "--host-rate", "1Gbit", "--origin-rate", "1Gbit"],
        vec!["sim", "--hosts", "1", "--size", "0", "--host-rate", "1Gbit", "--origin-rate", "1Gbit"],
        vec!["sim", "--hosts", "1", "--size", "1MiB", "--host-rate", "0", "--origin-rate", "1Gbit"],
        more(&["--churn", "100%"]),
        more(&["--liars", "100%"]),
        more(&["--slow", "5"]),
        more(&["--slow", "-5%"]),
        more(&["--seeds", "3"]),
        vec!["sim", "--seeds", "0"],
    ];
    for arguments in impossible {
        let output = hawker(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
    let output = hawker(&more(&["--plot", "/nowhere/at/all.svg"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/at/all.svg"), "{}", stderr(&output));
}

#[test]
fn sim_draws_what_it_simulated() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rollout.svg");
    std::fs::write(&file, "x".repeat(1 << 20)).expect("room");
    let output = hawker(&[&ROLLOUT[..], &["--plot", text(&file)]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let svg = std::fs::read_to_string(&file).expect("the plot");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "the older file is replaced whole");
}

#[test]
fn sim_of_many_small_swarms_ends_well() {
    let output = hawker(&["sim", "--seeds", "3", "--seed", "40"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("seeds 40 to 42"));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
