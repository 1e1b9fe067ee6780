//! `hawker get` with no agent, no scheduler and no configuration.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hawker_tests::cluster::clean;
use hawker_tests::nginx::{Behaviour, Nginx};
use hawker_tests::origin::{Answer, Origin};
use hawker_tests::process::{Ended, Process, Scratch, wait_until};
use hawker_tests::{files, skip, workspace};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(1);

/// No content, one byte, one block and one byte more, several pieces.
const LENGTHS: [usize; 4] = [0, 1, 256 * 1024 + 1, 5 * 1024 * 1024 + 1];

fn start(scratch: &Scratch, url: &str, target: &Path, more: &[&str]) -> Process {
    let mut command = Command::new(workspace::hawker());
    command.args(["get", url, "--json", "-o"]).arg(target).args(more);
    clean(&mut command);
    // No agent of this machine's user takes part.
    command.env("XDG_RUNTIME_DIR", scratch.path());
    Process::start(scratch.path(), "get", command)
}

fn get(scratch: &Scratch, url: &str, target: &Path, more: &[&str]) -> Ended {
    start(scratch, url, target, more).wait(LIMIT)
}

/// A directory for FILE alone, so that what is left beside it is seen.
fn output(scratch: &Scratch) -> std::path::PathBuf {
    let directory = scratch.join("output");
    std::fs::create_dir_all(&directory).expect("room");
    directory
}

#[test]
fn every_form_of_answer_gives_the_right_bytes() {
    for answer in [Answer::WholeWithLength, Answer::Chunked, Answer::UntilClose] {
        for length in LENGTHS {
            let scratch = Scratch::new();
            let content = files::random_bytes(length, 3);
            let digest = files::sha256_bytes(&content);
            let origin = Origin::start(answer, content);
            let target = output(&scratch).join("file");
            let ended = get(&scratch, &origin.url("file"), &target, &["--digest", &format!("sha256:{digest}")]);
            assert_eq!(ended.code(), Some(0), "{answer:?} {length}: {}", ended.stderr);
            assert_eq!(files::sha256(&target).expect("FILE"), digest, "{answer:?} {length}");
            assert_eq!(files::names_in(&output(&scratch)), ["file"], "{answer:?} {length}");
            assert_eq!(ended.json()["bytes"], length);
        }
    }
}

#[test]
fn nginx_with_and_without_ranges_gives_the_right_bytes_on_both_engines() {
    let test = "nginx_with_and_without_ranges_gives_the_right_bytes_on_both_engines";
    if workspace::find_program("nginx").is_none() {
        return skip(test, "nginx is not installed");
    }
    let scratch = Scratch::new();
    let root = scratch.join("root");
    std::fs::create_dir(&root).expect("room");
    let length = (20 << 20) + 1;
    let digest = files::write_random(&root.join("file"), length, 4);
    for is_without_ranges in [false, true] {
        let address = hawker_tests::free_address();
        let nginx = Nginx::start(&scratch, address, &root, Behaviour { is_without_ranges }, None);
        for engine in ["uring", "epoll"] {
            if engine == "uring" && !hawker_tests::has_io_uring() {
                skip(test, "half of it: this kernel or container has no io_uring");
                continue;
            }
            let target = output(&scratch).join(format!("{engine}-{is_without_ranges}"));
            let before = nginx.body_bytes("file");
            let ended = get(&scratch, &nginx.url("file"), &target, &["--engine", engine]);
            assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
            assert_eq!(files::sha256(&target).expect("FILE"), digest);
            let sent = nginx.body_bytes("file") - before;
            assert!(sent <= length + length / 20, "the origin sent {sent} of {length} bytes");
        }
    }
}

#[test]
fn wrong_digest_refusal_and_cut_body_leave_nothing_behind() {
    let content = files::random_bytes(3 * 1024 * 1024, 5);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let cases = [
        (Answer::WholeWithLength, &["--digest", wrong.as_str()][..], Some(4)),
        (Answer::Chunked, &["--digest", wrong.as_str()][..], Some(4)),
        (Answer::Status(404), &[][..], Some(3)),
        (Answer::Status(403), &[][..], Some(3)),
    ];
    for (answer, more, code) in cases {
        let scratch = Scratch::new();
        let origin = Origin::start(answer, content.clone());
        let ended = get(&scratch, &origin.url("file"), &output(&scratch).join("file"), more);
        assert_eq!(ended.code(), code, "{answer:?}: {}", ended.stderr);
        let left = files::names_in(&output(&scratch));
        assert!(left.is_empty(), "{answer:?} left {left:?}");
    }
}

#[test]
fn a_body_that_is_cut_short_never_becomes_the_file() {
    let scratch = Scratch::new();
    let origin = Origin::start(Answer::CutShort, files::random_bytes(3 * 1024 * 1024, 6));
    let target = output(&scratch).join("file");
    let ended = get(&scratch, &origin.url("file"), &target, &["--timeout", "5s"]);
    assert!(!ended.status.success());
    assert!(!target.exists());
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    if workspace::find_program("nginx").is_none() {
        return skip("an_interrupted_download_goes_on_where_it_was", "nginx is not installed");
    }
    let scratch = Scratch::new();
    let root = scratch.join("root");
    std::fs::create_dir(&root).expect("room");
    let length: u64 = 24 << 20;
    let digest = files::write_random(&root.join("file"), length, 7);
    let nginx = Nginx::start(&scratch, hawker_tests::free_address(), &root, Behaviour::default(), None);
    let target = output(&scratch).join("file");
    let mut first = start(&scratch, &nginx.url("file"), &target, &["--limit", "8MB/s"]);
    std::thread::sleep(Duration::from_millis(1500));
    first.signal(Signal::INT);
    let ended = first.wait(LIMIT);
    assert_eq!(ended.code(), Some(130), "{}", ended.stderr);
    assert_eq!(files::names_in(&output(&scratch)), [".file.hawker-part"]);

    wait_until(LIMIT, "the origin's log has the first half", || nginx.body_bytes("file") > 0);
    let ended = get(&scratch, &nginx.url("file"), &target, &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(files::sha256(&target).expect("FILE"), digest);
    assert_eq!(files::names_in(&output(&scratch)), ["file"]);
    let again = ended.json()["origin_bytes"].as_u64().expect("bytes");
    assert!(again < length - (4 << 20), "{again} of {length} bytes came again");
}
