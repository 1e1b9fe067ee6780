//! `status`, `ls`, `stat`, `rm`: what an agent has, for people and for scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use hawker_api::local::{List, Remove, Removed, Stat, Status, StatusReport, Task, TaskState, Traffic, event, request};
use serde_json::{Value, json};

use super::print_json;
use crate::arguments::{ListArguments, RemoveArguments, StatArguments, StatusArguments};
use crate::client::{Door, ask, default_socket};
use crate::exit::Failure;
use crate::progress::describe_sources;
use crate::stop::Stop;
use crate::units::{show_rate, show_size};

/// Digits of a task id that a table shows: enough to tell apart and to type.
const SHORT_ID: usize = 12;

pub(crate) fn status(arguments: StatusArguments) -> Result<ExitCode, Failure> {
    let report = ask_one(arguments.target.socket, request::Request::Status(Status {}), |event| match event {
        event::Event::Status(report) => Some(report),
        _ => None,
    })?;
    if arguments.target.json {
        print_json(&status_json(&report));
    } else {
        print_status(&report);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(arguments: ListArguments) -> Result<ExitCode, Failure> {
    let door = Door::Socket(arguments.target.socket.unwrap_or_else(default_socket));
    let mut tasks = Vec::new();
    ask(&door, request::Request::List(List {}), &Stop::on_signals()?, |event| match event {
        event::Event::Tasks(mut list) => {
            tasks.append(&mut list.tasks);
            Ok(list.more)
        }
        _ => Err(unexpected()),
    })?;
    if arguments.target.json {
        let tasks: Vec<Value> = tasks.iter().map(task_json).collect();
        print_json(&json!({ "tasks": tasks }));
    } else {
        print_tasks(&tasks);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn stat(arguments: StatArguments) -> Result<ExitCode, Failure> {
    let stat = Stat { task: arguments.task };
    let task = ask_one(arguments.target.socket, request::Request::Stat(stat), |event| match event {
        event::Event::Task(task) => Some(task),
        _ => None,
    })?;
    if arguments.target.json {
        print_json(&task_json(&task));
    } else {
        print_task(&task);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn remove(arguments: RemoveArguments) -> Result<ExitCode, Failure> {
    let remove = Remove { task: arguments.task };
    let Removed { task, bytes_freed } =
        ask_one(arguments.target.socket, request::Request::Remove(remove), |event| match event {
            event::Event::Removed(removed) => Some(removed),
            _ => None,
        })?;
    if arguments.target.json {
        print_json(&json!({ "task": task, "bytes_freed": bytes_freed }));
    } else {
        println!("removed {task}, {} freed", show_size(bytes_freed));
    }
    Ok(ExitCode::SUCCESS)
}

/// A question with one event as its answer.
pub(super) fn ask_one<T>(
    socket: Option<PathBuf>,
    question: request::Request,
    pick: impl Fn(event::Event) -> Option<T>,
) -> Result<T, Failure> {
    let door = Door::Socket(socket.unwrap_or_else(default_socket));
    let mut answer = None;
    ask(&door, question, &Stop::on_signals()?, |event| {
        answer = pick(event);
        Ok(false)
    })?;
    answer.ok_or_else(unexpected)
}

pub(super) fn unexpected() -> Failure {
    Failure::other("the agent answered something else than was asked").hint("is it of the same version? see its log")
}

fn status_json(report: &StatusReport) -> Value {
    let traffic = report.bytes.unwrap_or_default();
    let disk = report.disk.clone().unwrap_or_default();
    let tasks: Vec<Value> = report.tasks.iter().map(task_json).collect();
    // Alone is null, so that a script can tell it from a scheduler that is away.
    let scheduler = report.scheduler.as_ref().filter(|link| !link.url.is_empty()).map(|link| {
        json!({ "url": link.url, "is_connected": link.is_connected, "epoch": link.epoch, "reason": link.reason })
    });
    json!({
        "engine": report.engine,
        "engine_reason": report.engine_reason,
        "scheduler": scheduler,
        "guard": report.is_guarded.then(|| json!({ "restarts": report.restarts })),
        "tasks": tasks,
        "neighbors": report.neighbors,
        "bytes": traffic_json(traffic),
        "disk": { "used": disk.used, "limit": disk.limit },
        "memory": report.memory.unwrap_or_default().resident,
    })
}

fn traffic_json(traffic: Traffic) -> Value {
    json!({
        "origin": traffic.origin,
        "peer": traffic.peer,
        "cache": traffic.cache,
        "uploaded": traffic.uploaded,
    })
}

fn task_json(task: &Task) -> Value {
    json!({
        "task": task.task,
        "url": task.url,
        "state": state_name(task),
        "bytes": task.length,
        "bytes_have": task.bytes_have,
        "piece_bytes": task.piece_bytes,
        "pieces_have": task.pieces_have,
        "digest": if task.digest.is_empty() { Value::Null } else { Value::from(task.digest.as_str()) },
        "neighbors": task.neighbors,
        "bytes_per_s": task.bytes_per_s,
        "is_pinned": task.is_pinned,
        "last_read_unix_ms": task.last_read_unix_ms,
        "sources": traffic_json(task.bytes.unwrap_or_default()),
    })
}

fn state_name(task: &Task) -> &'static str {
    match task.state() {
        TaskState::Partial => "partial",
        TaskState::Running => "running",
        TaskState::Sealed => "sealed",
        TaskState::Unspecified => "unknown",
    }
}

fn print_status(report: &StatusReport) {
    println!(
        "agent      {} {}, up {} s, {} shards",
        report.version,
        report.host,
        report.uptime_ms / 1000,
        report.shards
    );
    println!("engine     {} ({})", report.engine, report.engine_reason);
    match &report.scheduler {
        Some(link) if link.url.is_empty() => println!("scheduler  none: this agent works alone"),
        Some(link) if link.is_connected => println!("scheduler  {}, connected, epoch {}", link.url, link.epoch),
        Some(link) => println!("scheduler  {}, NOT connected: {}", link.url, link.reason),
        None => println!("scheduler  none: this agent works alone"),
    }
    if report.is_guarded {
        println!("guard      watches, has restarted the agent {} times", report.restarts);
    } else {
        println!("guard      none");
    }
    println!("listens    peers {}, http {}", or_nothing(&report.peer_address), or_nothing(&report.http_address));
    println!("neighbors  {}", report.neighbors);
    let traffic = report.bytes.unwrap_or_default();
    println!(
        "bytes      {} received{}; {} sent to peers",
        show_size(traffic.origin + traffic.peer),
        describe_sources(traffic.origin, traffic.peer, traffic.cache),
        show_size(traffic.uploaded)
    );
    if let Some(disk) = &report.disk {
        let limit = if disk.limit == 0 { "no limit".to_owned() } else { format!("limit {}", show_size(disk.limit)) };
        println!(
            "disk       {} used, {} reserved, {limit}, {}",
            show_size(disk.used),
            show_size(disk.reserved),
            disk.data_dir
        );
    }
    if let Some(memory) = &report.memory {
        println!(
            "memory     {}, of it blocks {} of at most {}",
            show_size(memory.resident),
            show_size(memory.blocks),
            show_size(memory.blocks_max)
        );
    }
    println!("downloads  {} running", report.running_tasks);
    if !report.tasks.is_empty() {
        println!();
        print_tasks(&report.tasks);
    }
}

fn or_nothing(text: &str) -> &str {
    if text.is_empty() { "nowhere" } else { text }
}

fn print_tasks(tasks: &[Task]) {
    if tasks.is_empty() {
        println!("no tasks");
        return;
    }
    println!("{:<SHORT_ID$}  {:<8}  {:>10}  {:>5}  URL", "TASK", "STATE", "SIZE", "HAVE");
    for task in tasks {
        let id = task.task.get(..SHORT_ID).unwrap_or(&task.task);
        println!(
            "{id:<SHORT_ID$}  {:<8}  {:>10}  {:>5}  {}",
            state_name(task),
            show_size(task.length),
            have(task),
            task.url
        );
    }
}

fn print_task(task: &Task) {
    println!("task       {}", task.task);
    println!("url        {}", task.url);
    println!("state      {}{}", state_name(task), if task.is_pinned { ", pinned" } else { "" });
    println!(
        "size       {} ({} bytes), pieces of {}",
        show_size(task.length),
        task.length,
        show_size(task.piece_bytes.into())
    );
    println!("have       {}, {} pieces", have(task), task.pieces_have);
    println!("digest     {}", or_nothing(&task.digest).replace("nowhere", "not sealed yet"));
    let traffic = task.bytes.unwrap_or_default();
    println!(
        "bytes      {} received{}; {} sent to peers",
        show_size(traffic.origin + traffic.peer),
        describe_sources(traffic.origin, traffic.peer, traffic.cache),
        show_size(traffic.uploaded)
    );
    println!("now        {} neighbors, {}", task.neighbors, show_rate(task.bytes_per_s as f64));
}

fn have(task: &Task) -> String {
    if task.length == 0 || task.state() == TaskState::Sealed {
        return "100 %".to_owned();
    }
    // Rounded down: 100 % means all of it.
    format!("{} %", u128::from(task.bytes_have) * 100 / u128::from(task.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_promised_keys() {
        let report = status_json(&StatusReport::default());
        let mut keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let promised =
            ["bytes", "disk", "engine", "engine_reason", "guard", "memory", "neighbors", "scheduler", "tasks"];
        assert_eq!(keys, promised);
        for key in ["origin", "peer", "cache", "uploaded"] {
            assert_eq!(report["bytes"][key], 0);
        }
        assert_eq!(report["disk"]["used"], 0);
        assert_eq!(report["disk"]["limit"], 0);
        assert!(report["scheduler"].is_null(), "an agent alone has none");
    }

    #[test]
    fn nearly_all_is_not_all() {
        let mut task = Task { length: 1000, bytes_have: 999, ..Task::default() };
        assert_eq!(have(&task), "99 %");
        task.bytes_have = 1000;
        assert_eq!(have(&task), "100 %");
    }
}
