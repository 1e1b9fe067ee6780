//! Origins that misbehave: each case says what the origin does and what must come out, through a real agent, on both
//! engines. Whatever happens, nothing wrong is kept, the agent lives on, and once its origin behaves the same get works.

mod cases;
mod large;
mod refusals;
mod swarm;
mod transport;
mod versions;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cases::{Case, Expect, Ground};
use hawker_tests::cluster::{ask, clean};
use hawker_tests::process::{Ended, Process, Scratch};
use hawker_tests::{files, is_full, skip, tls, workspace};

/// An agent is ready after this, however busy the machine is.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// A get that has not ended by then hangs.
const LIMIT: Duration = Duration::from_mins(5);
/// Gets at a time; most of them wait for something.
const AT_ONCE: usize = 16;

#[test]
fn every_misbehaviour_ends_in_right_bytes_or_a_clear_refusal_on_uring() {
    run("every_misbehaviour_ends_in_right_bytes_or_a_clear_refusal_on_uring", "uring");
}

#[test]
fn every_misbehaviour_ends_in_right_bytes_or_a_clear_refusal_on_epoll() {
    run("every_misbehaviour_ends_in_right_bytes_or_a_clear_refusal_on_epoll", "epoll");
}

/// An agent that works alone, and where its gets put their files.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Process,
    socket: PathBuf,
    directory: PathBuf,
}

impl Agent {
    /// Starts one with its files in `directory`.
    pub(crate) fn start(directory: &Path, engine: &str, roots: &Path, more: &[&str]) -> Self {
        std::fs::create_dir_all(directory).expect("room");
        let socket = directory.join("agent.sock");
        let mut command = Command::new(workspace::hawker());
        command.args(["agent", "--engine", engine, "--limit-disk", "16GiB", "--peer-port", "0", "--http-port", "0"]);
        command.arg("--data-dir").arg(directory.join("data")).arg("--socket").arg(&socket).args(more);
        clean(&mut command);
        command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR").env("XDG_RUNTIME_DIR", directory);
        let mut process = Process::start(directory, "agent", command);
        process.wait_until(READY_WITHIN, "ready", || ask(&socket, &["status"]).is_some());
        Self { process, socket, directory: directory.to_path_buf() }
    }

    /// Starts a get with its FILE alone in a directory named `name`, which is emptied first.
    pub(crate) fn get(&self, name: &str, url: &str, more: &[&str]) -> (Process, PathBuf) {
        let output = self.directory.join(name);
        if output.exists() {
            std::fs::remove_dir_all(&output).expect("our own directory");
        }
        std::fs::create_dir(&output).expect("room");
        let mut command = Command::new(workspace::hawker());
        command
            .args(["get", url, "--json", "-o"])
            .arg(output.join("file"))
            .arg("--socket")
            .arg(&self.socket)
            .args(more);
        clean(&mut command);
        (Process::start(&self.directory, &format!("get-{name}"), command), output)
    }

    /// `hawker COMMAND --json`.
    pub(crate) fn ask(&self, arguments: &[&str]) -> serde_json::Value {
        ask(&self.socket, arguments).expect("the agent answers")
    }
}

fn run(test: &str, engine: &'static str) {
    if engine == "uring" && !hawker_tests::has_io_uring() {
        return skip(test, "this kernel or container has no io_uring");
    }
    let scratch = Scratch::new();
    let ground = Ground::new();
    let roots = scratch.join("roots.pem");
    tls::write_roots(&roots, &ground.trusted());
    let mut agent = Agent::start(&scratch.join("agent"), engine, &roots, &[]);

    let only = std::env::var("HAWKER_CASE").ok();
    let chosen =
        |case: &Case| (is_full() || !case.is_long) && only.as_ref().is_none_or(|only| case.name.contains(only));
    let cases: VecDeque<Case> = cases::all(&ground).into_iter().filter(chosen).collect();
    let count = cases.len();
    assert!(count >= 40 || only.is_some(), "{count} cases");
    let queue = Mutex::new(cases);
    let failed = Mutex::new(Vec::new());
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().expect("no poison").pop_front() else { return };
                    let start = Instant::now();
                    let result = check(&agent, &case);
                    println!("{engine} {:>5.1} s {}: {}", start.elapsed().as_secs_f32(), case.name, verdict(&result));
                    if let Err(error) = result {
                        failed.lock().expect("no poison").push(format!("{}: {error}", case.name));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no poison");
    assert!(agent.process.is_running(), "the agent has ended");
    println!("{engine}: {count} cases in {:.1} s, {} failed", began.elapsed().as_secs_f32(), failed.len());
    assert!(failed.is_empty(), "repeat one with HAWKER_CASE=name:\n{}", failed.join("\n"));
    let ended = agent.process.stop(READY_WITHIN);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

fn verdict(result: &Result<(), String>) -> &str {
    result.as_ref().map_or_else(String::as_str, |()| "ok")
}

/// Runs a case, then the same get with an origin that behaves.
fn check(agent: &Agent, case: &Case) -> Result<(), String> {
    let url = case.origin.url(case.name);
    let (get, output) = agent.get(case.name, &url, &case.more);
    let ended = get.wait(LIMIT);
    match &case.expect {
        Expect::Content(content) => check_content(&ended, &output, content)?,
        Expect::Refused { code, words } => check_refused(&ended, &output, *code, words)?,
    }
    if let Some(look) = &case.look {
        look(&case.origin.requests())?;
    }
    let is_refused = matches!(case.expect, Expect::Refused { .. });
    let tasks = agent.ask(&["ls"]);
    let tasks = tasks["tasks"].as_array().ok_or("no tasks")?;
    let is_kept = tasks.iter().any(|task| {
        let is_ours = task["url"].as_str().is_some_and(|known| known == url);
        is_ours && task["state"] == "sealed"
    });
    if is_refused && is_kept && !case.keeps_whole {
        return Err("something whole was kept under its URL".to_owned());
    }
    let Some((content, fields)) = &case.healed else { return Ok(()) };
    let (content, fields) = (Arc::clone(content), fields.clone());
    let expected = Arc::clone(&content);
    case.origin.change(Arc::new(move |request| hawker_tests::scripted::honest(request, &content, &fields)));
    let (get, output) = agent.get(case.name, &url, &[]);
    check_content(&get.wait(LIMIT), &output, &expected).map_err(|error| format!("once the origin behaves: {error}"))
}

/// The right bytes, and nothing beside them.
pub(crate) fn check_content(ended: &Ended, output: &Path, content: &[u8]) -> Result<(), String> {
    if ended.code() != Some(0) {
        return Err(format!("exit {:?}: {}", ended.code(), ended.stderr));
    }
    let names = files::names_in(output);
    let got = std::fs::read(output.join("file")).map_err(|error| error.to_string())?;
    if got != content {
        let first = got.iter().zip(content).position(|(a, b)| a != b);
        return Err(format!("WRONG BYTES: {} for {}, first at {first:?}", got.len(), content.len()));
    }
    if names != ["file"] {
        return Err(format!("left beside FILE: {names:?}"));
    }
    Ok(())
}

/// This exit code, these words, and no FILE.
pub(crate) fn check_refused(ended: &Ended, output: &Path, code: i32, words: &str) -> Result<(), String> {
    let names = files::names_in(output);
    if ended.code() != Some(code) || !ended.stderr.contains(words) {
        return Err(format!("exit {:?}, not {code} with `{words}`: {}", ended.code(), ended.stderr));
    }
    if !names.is_empty() {
        return Err(format!("left: {names:?}"));
    }
    Ok(())
}
