//! `hawker doctor`: each thing that a pull needs, whether it is well, and what to do when it is not.

mod clients;
mod credentials;
mod probe;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hawker_api::local::{Status, StatusReport, event, request};
use serde_json::{Value, json};

use super::print_json;
use crate::arguments::DoctorArguments;
use crate::client::{Door, ask, default_socket};
use crate::exit::Failure;
use crate::stop::Stop;
use crate::units::show_size;

/// A well agent answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Where the kubelet begins to evict (imagefs.available), and agents keep nothing more.
const FREE_PERCENT_MIN: u64 = 15;
/// Certificates and tokens are valid within minutes of the right time.
const CLOCK_OFF_S_MAX: u64 = 30;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// Worth knowing, and nothing wrong.
    Note,
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
struct Check {
    name: &'static str,
    state: State,
    text: String,
    /// What to do; empty when there is nothing.
    remedy: String,
}

impl Check {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, state: State::Ok, text: text.into(), remedy: String::new() }
    }

    fn note(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Note, text: text.into(), remedy: remedy.into() }
    }

    fn wrong(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Wrong, text: text.into(), remedy: remedy.into() }
    }
}

pub(crate) fn run(arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    let socket = arguments.target.socket.clone().unwrap_or_else(default_socket);
    let stop = Stop::on_signals()?.within(ANSWER_WITHIN);
    let mut checks = Vec::new();
    let mut mirror = None;
    match status(&socket, &stop) {
        Ok(report) => {
            checks.push(Check::ok("agent", format!("{} answers at {}", report.version, socket.display())));
            look_at_agent(&report, &mut checks);
            look_at_scheduler(&report, &mut checks);
            mirror = look_at_mirror(&report, &mut checks);
        }
        Err(failure) => checks.push(Check::wrong("agent", failure.message, failure.hint)),
    }
    credentials::look(arguments.config.as_deref(), &mut checks);
    clients::look(arguments, mirror.as_deref(), &mut checks);
    let is_well = !checks.iter().any(|check| check.state == State::Wrong);
    if arguments.target.json {
        let checks: Vec<Value> = checks.iter().map(check_json).collect();
        print_json(&json!({ "is_well": is_well, "checks": checks }));
    } else {
        print(&checks);
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status(socket: &Path, stop: &Stop) -> Result<StatusReport, Failure> {
    let mut found = None;
    ask(&Door::at(socket), request::Request::Status(Status {}), stop, |event| {
        if let event::Event::Status(report) = event {
            found = Some(report);
        }
        Ok(false)
    })?;
    found.ok_or_else(|| Failure::other("the agent answered something else than was asked"))
}

fn look_at_agent(report: &StatusReport, checks: &mut Vec<Check>) {
    checks.push(if report.engine == "uring" {
        Check::ok("engine", format!("uring: {}", report.engine_reason))
    } else {
        let text = format!("{}: {}", report.engine, report.engine_reason);
        Check::note("engine", text, "all works the same, at more CPU per byte")
    });
    checks.push(match (report.is_guarded, report.restarts) {
        (true, 0) => Check::ok("guard", "watches over the agent"),
        (true, count) => Check::note(
            "guard",
            format!(
                "has killed or found dead, and restarted, the agent {count} times; it is up {} s",
                report.uptime_ms / 1000
            ),
            "the log says why: an agent that dies by itself is a bug, one that is out of memory needs a larger limit",
        ),
        (false, _) => Check::note(
            "guard",
            "none: an agent that hangs delays every pull of this host",
            "start it as `hawker agent` without --no-guard",
        ),
    });
    let disk = report.disk.clone().unwrap_or_default();
    checks.push(disk_check(&disk));
}

fn disk_check(disk: &hawker_api::local::Disk) -> Check {
    let (free, total) = match rustix::fs::statvfs(Path::new(&disk.data_dir)) {
        Ok(facts) => (facts.f_bavail.saturating_mul(facts.f_frsize), facts.f_blocks.saturating_mul(facts.f_frsize)),
        Err(error) => {
            let remedy = "run this as the user of the agent, or as root";
            return Check::note("disk", format!("cannot look at {}: {error}", disk.data_dir), remedy);
        }
    };
    let percent = (u128::from(free) * 100).checked_div(u128::from(total)).unwrap_or(0);
    let used = show_size(disk.used + disk.reserved);
    let text = format!(
        "{used} used of at most {} in {}, {} free ({percent} %)",
        show_size(disk.limit),
        disk.data_dir,
        show_size(free)
    );
    if percent < u128::from(FREE_PERCENT_MIN) {
        return Check::wrong(
            "disk",
            text,
            "make room, or give the agent another --data-dir: it keeps nothing on a full disk",
        );
    }
    Check::ok("disk", text)
}

fn look_at_scheduler(report: &StatusReport, checks: &mut Vec<Check>) {
    let Some(link) = report.scheduler.as_ref().filter(|link| !link.url.is_empty()) else {
        let remedy = "for more than one host: `hawker agent --scheduler http://HOST:7300`";
        checks.push(Check::note("scheduler", "none: this agent works alone, and asks no other", remedy));
        return;
    };
    if !link.is_connected {
        checks.push(Check::wrong(
            "scheduler",
            format!("{}, not connected: {}", link.url, link.reason),
            "see that it runs, that nothing between drops its port, and that both have the same cluster key",
        ));
        return;
    }
    checks.push(Check::ok("scheduler", format!("{}, connected, {} neighbors", link.url, report.neighbors)));
    let address = link.url.trim_start_matches("http://").trim_end_matches('/');
    // One that shows no time to strangers leaves nothing to compare.
    if let Some(theirs) = probe::get(address, "/healthz").ok().and_then(|answer| answer.unix_s) {
        let off = probe::unix_s().abs_diff(theirs);
        checks.push(if off > CLOCK_OFF_S_MAX {
            let text = format!("the clocks of this host and of the scheduler's are {off} s apart");
            Check::wrong(
                "clock",
                text,
                "synchronize both (chrony, systemd-timesyncd): certificates and tokens have an end",
            )
        } else {
            Check::ok("clock", format!("within {CLOCK_OFF_S_MAX} s of the scheduler's"))
        });
    }
}

/// The URL that clients should be told, when the port answers.
fn look_at_mirror(report: &StatusReport, checks: &mut Vec<Check>) -> Option<String> {
    let address = report.http_address.as_str();
    if address.is_empty() {
        checks.push(Check::wrong("http", "the agent has no HTTP port", "start it with --http-port"));
        return None;
    }
    match probe::get(address, "/healthz") {
        Ok(answer) if answer.status == 200 => checks.push(Check::ok("http", format!("{address} answers"))),
        Ok(answer) => {
            let text = format!("{address} answers {}", answer.status);
            checks.push(Check::wrong("http", text, "the agent is ending, or something else has this port"));
        }
        Err(error) => {
            checks.push(Check::wrong("http", format!("{address}: {error}"), "see the agent's log"));
            return None;
        }
    }
    match probe::get(address, "/v2/") {
        // 401 is a registry's way to ask for credentials.
        Ok(answer) if matches!(answer.status, 200 | 401) => {
            checks.push(Check::ok("mirror", format!("http://{address} answers as a registry does")));
        }
        Ok(answer) => {
            let text = format!("http://{address}/v2/ answers {}: pulls do not go through this agent", answer.status);
            checks.push(Check::wrong("mirror", text, "see `enabled` of [mirror] in the agent's settings"));
        }
        Err(error) => checks.push(Check::wrong("mirror", format!("{address}: {error}"), "see the agent's log")),
    }
    Some(format!("http://{address}"))
}

fn check_json(check: &Check) -> Value {
    let state = match check.state {
        State::Ok => "ok",
        State::Note => "note",
        State::Wrong => "wrong",
    };
    json!({ "name": check.name, "state": state, "text": check.text, "remedy": check.remedy })
}

fn print(checks: &[Check]) {
    for check in checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Wrong => "WRONG",
        };
        println!("{state:<6} {:<10} {}", check.name, check.text);
        for line in check.remedy.lines().filter(|_| check.state != State::Ok) {
            println!("{:<17} {line}", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_api::local::{Disk, SchedulerLink};

    fn states(checks: &[Check]) -> Vec<(&'static str, State)> {
        checks.iter().map(|check| (check.name, check.state)).collect()
    }

    #[test]
    fn what_is_wrong_has_a_remedy() {
        let link = SchedulerLink {
            url: "http://10.0.0.1:7300".to_owned(),
            reason: "refused".to_owned(),
            ..SchedulerLink::default()
        };
        let report = StatusReport {
            engine: "epoll".to_owned(),
            scheduler: Some(link),
            disk: Some(Disk { data_dir: "/".to_owned(), ..Disk::default() }),
            is_guarded: true,
            restarts: 3,
            ..StatusReport::default()
        };
        let mut checks = Vec::new();
        look_at_agent(&report, &mut checks);
        look_at_scheduler(&report, &mut checks);
        assert!(look_at_mirror(&report, &mut checks).is_none());
        let expected =
            [("engine", State::Note), ("guard", State::Note), ("scheduler", State::Wrong), ("http", State::Wrong)];
        let found: Vec<_> = states(&checks).into_iter().filter(|(name, _)| *name != "disk").collect();
        assert_eq!(found, expected);
        for check in checks.iter().filter(|check| check.state == State::Wrong) {
            assert!(!check.remedy.is_empty(), "{check:?}");
        }
        assert!(checks.iter().any(|check| check.text.contains("refused")));
    }

    #[test]
    fn a_well_agent_alone_has_nothing_wrong() {
        let report = StatusReport { engine: "uring".to_owned(), is_guarded: true, ..StatusReport::default() };
        let mut checks = Vec::new();
        look_at_agent(&report, &mut checks);
        look_at_scheduler(&report, &mut checks);
        let found = states(&checks);
        assert_eq!((found[0], found[1]), (("engine", State::Ok), ("guard", State::Ok)));
        assert_eq!(found.last(), Some(&("scheduler", State::Note)));
    }
}
