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
        "Exit codes",
        "7 agent unreachable",
        "256MiB",
    ] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[test]
fn nothing_and_nonsense_are_usage() {
    for arguments in [&[][..], &["fly"], &["get"], &["get", "http://x/y"], &["demo", "--agents", "0"]] {
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
    for arguments in [&["status"][..], &["ls"], &["stat", "abcdef"], &["rm", "abcdef"]] {
        let output = hawker(&[arguments, &socket].concat());
        assert_eq!(output.status.code(), Some(7), "{arguments:?}");
        assert!(stderr(&output).contains("hawker up"), "{}", stderr(&output));
    }
    let output = hawker(&[&["get", "http://127.0.0.1:9/x", "-o", text(&file)][..], &socket].concat());
    assert_eq!(output.status.code(), Some(7), "a socket that was named is not silently done without");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("the directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
