//! Rules of style that a machine can check and no lint does.

use std::path::{Path, PathBuf};

use hawker_tests::workspace;

/// 400 lines fit a sitting; 800 are a redesign.
const LINES_MAX: usize = 800;

/// Rooms whose unsafe code is their purpose, and how many of their files may hold some.
const UNSAFE_ROOMS: &[(&str, usize)] = &[("dataplane/ring", usize::MAX), ("storage/src", 1)];

const PURE_ROOMS: &[&str] = &["dataplane/proto", "dataplane/swarm", "control/scheduler"];

const TOP: &[&str] = &["dataplane", "storage", "control", "bench", "fuzz", "perf-scripts", "tests", "target"];

#[test]
fn no_file_is_longer_than_a_redesign() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines, {LINES_MAX} is the limit", path.display());
    }
}

#[test]
fn nothing_unfinished_and_no_ignored_test_is_left() {
    // Split, or this file would find itself.
    let words = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X"),
        concat!("#[ig", "nore"),
        concat!("db", "g!("),
    ];
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}:{}: {word}", path.display(), index + 1);
            }
        }
    }
}

#[test]
fn pure_rooms_are_no_std_and_forbid_unsafe_code() {
    for room in PURE_ROOMS {
        let path = workspace::root().join(room).join("src/lib.rs");
        let text = std::fs::read_to_string(&path).expect("a room has a lib.rs");
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            assert!(text.lines().any(|line| line == attribute), "{} lacks {attribute}", path.display());
        }
    }
}

#[test]
fn unsafe_code_lives_only_in_its_rooms() {
    let root = workspace::root();
    let mut holders: Vec<(PathBuf, usize)> = Vec::new();
    for (path, text) in sources() {
        if let Some(line) = text.lines().position(is_unsafe_code) {
            holders.push((path.strip_prefix(&root).expect("in the checkout").to_path_buf(), line + 1));
        }
    }
    for (path, line) in &holders {
        let is_allowed = UNSAFE_ROOMS.iter().any(|(room, _)| path.starts_with(room));
        assert!(is_allowed, "{}:{line}: unsafe code outside its rooms", path.display());
    }
    for (room, files_max) in UNSAFE_ROOMS {
        let files: Vec<_> = holders.iter().filter(|(path, _)| path.starts_with(room)).collect();
        assert!(files.len() <= *files_max, "{room}: unsafe code in more than {files_max} files: {files:?}");
    }
}

#[test]
fn only_the_listed_directories_stand_at_the_top() {
    for entry in std::fs::read_dir(workspace::root()).expect("the checkout") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        assert!(!is_directory || name.starts_with('.') || TOP.contains(&name.as_str()), "{name} stands at the top");
    }
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for package in workspace::metadata()["packages"].as_array().expect("a list of packages") {
        let path = package["manifest_path"].as_str().expect("a path");
        let text = std::fs::read_to_string(path).expect("a manifest");
        assert!(text.contains("[lints]\nworkspace = true"), "{path} has lints of its own");
    }
}

fn is_unsafe_code(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "#[unsafe("]
        .iter()
        .any(|form| code.trim_start().contains(form) && !code.contains('"'))
}

/// All Rust sources of the workspace with their text, but for generated ones.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for top in TOP.iter().filter(|top| **top != "target") {
        collect(&workspace::root().join(top), &mut found);
    }
    assert!(found.len() > 10, "the sources are not where they were");
    found
}

fn collect(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the checkout") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            if !text.lines().take(3).any(|line| line.contains("@generated")) {
                found.push((path, text));
            }
        }
    }
}
