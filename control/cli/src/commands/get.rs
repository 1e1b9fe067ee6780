//! `hawker get`.

use std::path::PathBuf;
use std::process::ExitCode;

use hawker_proto::url::{Url, shown};
use serde::Serialize;

use crate::arguments::GetArguments;
use crate::client::{Door, Order, Outcome, Placing, Watch, check_target, default_socket, get};
use crate::embedded::{Place, get_alone};
use crate::exit::{Exit, Failure};
use crate::pairs::parse_header;
use crate::progress::{Silent, describe_sources, watch_for_stderr};
use crate::settings;
use crate::stop::Stop;
use crate::units::{show_rate, show_size};

/// What `--json` prints; the names are promised to scripts.
#[derive(Debug, Serialize)]
struct Report<'a> {
    url: &'a str,
    task: &'a str,
    bytes: u64,
    seconds: f64,
    origin_bytes: u64,
    peer_bytes: u64,
    cache_bytes: u64,
    digest: &'a str,
}

pub(crate) fn run(arguments: GetArguments) -> Result<ExitCode, Failure> {
    check_url(&arguments.url)?;
    check_target(&arguments.output, arguments.overwrite)?;
    let headers: Result<_, String> = arguments.headers.iter().map(|text| parse_header(text)).collect();
    let headers = headers.map_err(|error| Failure::usage(format!("--header: {error}")))?;
    let stop = Stop::on_signals()?;
    let order = Order {
        url: arguments.url,
        headers,
        digest: arguments.digest,
        tag: arguments.tag,
        application: arguments.application,
        limit_bytes_per_s: arguments.limit.unwrap_or(0),
        timeout: arguments.timeout,
    };
    let mut watch = if arguments.json { Box::new(Silent) } else { watch_for_stderr() };
    let place = Place {
        target: arguments.output.clone(),
        overwrite: arguments.overwrite,
        is_linked: arguments.link,
        engine: settings::parse_engine(arguments.engine.as_deref().unwrap_or("auto")).map_err(Failure::usage)?,
    };
    let outcome = match find_agent(arguments.socket) {
        Some(door) => match through_agent(&door, &order, place.clone(), watch.as_mut(), &stop) {
            Err(failure) if failure.exit == Exit::DiskFull => {
                // FILE may lie on another disk, and without the agent its bytes are on a disk once, not twice.
                watch.note(&format!("{}; downloading without the agent", failure.message));
                get_alone(&order, &place, watch.as_mut(), &stop)
            }
            outcome => outcome,
        },
        None => get_alone(&order, &place, watch.as_mut(), &stop),
    }?;
    drop(watch);
    if arguments.json {
        print_json(&order, &outcome);
    } else {
        print_line(&arguments.output.display().to_string(), &outcome);
    }
    Ok(ExitCode::SUCCESS)
}

/// The agent to use: the one that was named, else the one at the default socket if it answers there.
fn find_agent(named: Option<PathBuf>) -> Option<Door<'static>> {
    named.map(Door::Socket).or_else(|| {
        let door = Door::Socket(default_socket());
        match door.try_open() {
            Ok(_) => Some(door),
            Err(error) => {
                tracing::debug!(%door, %error, "no agent; doing without");
                None
            }
        }
    })
}

fn through_agent(
    door: &Door<'_>,
    order: &Order,
    place: Place,
    watch: &mut dyn Watch,
    stop: &Stop,
) -> Result<Outcome, Failure> {
    let Place { target, overwrite, is_linked, .. } = place;
    let placing = if is_linked { Placing::Link { target, overwrite } } else { Placing::Copy { target, overwrite } };
    get(door, order, &placing, watch, stop)
}

/// Refuses here what an agent would refuse too, but as a mistake in the command line.
fn check_url(text: &str) -> Result<(), Failure> {
    match Url::parse(text) {
        Ok(_) => Ok(()),
        // What is printed ends up in some log.
        Err(error) => Err(Failure::usage(format!("`{}` cannot be downloaded: {error}", shown(text)))
            .hint("URLs start with http:// or https://; credentials go into -H 'Authorization: ...'")),
    }
}

fn print_json(order: &Order, outcome: &Outcome) {
    let report = Report {
        url: &shown(&order.url),
        task: &outcome.task,
        bytes: outcome.bytes,
        seconds: outcome.seconds,
        origin_bytes: outcome.origin_bytes,
        peer_bytes: outcome.peer_bytes,
        cache_bytes: outcome.cache_bytes,
        digest: &outcome.digest,
    };
    super::print_json(&report);
}

fn print_line(target: &str, outcome: &Outcome) {
    println!(
        "{target}: {} in {:.2} s, {}{}\n{}",
        show_size(outcome.bytes),
        outcome.seconds,
        show_rate(outcome.bytes as f64 / outcome.seconds.max(1e-9)),
        describe_sources(outcome.origin_bytes, outcome.peer_bytes, outcome.cache_bytes),
        outcome.digest,
    );
}
