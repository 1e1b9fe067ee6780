//! How long single calls of the cluster take at most, what a crowd weighs, and how much of a core a steady load takes.
//! Time is the thread's CPU time, so that other programs on the machine do not count. Status 1 when a bound of the
//! design is broken: 99 of 100 decisions below a millisecond, and 10,000 hosts on less than a core.

#[path = "crowd/mod.rs"]
mod crowd;
#[path = "load/mod.rs"]
mod load;

use std::process::ExitCode;
use std::time::Duration;

use allocation_counter::measure;
use crowd::{Crowd, EVENTS, FETCHED};
use hawker_proto::PieceMap;
use hawker_scheduler::{Input, WantId};

const DECISION_MAX: Duration = Duration::from_millis(1);
const SAMPLES: usize = 10_000;

/// What single calls cost.
#[derive(Debug, Default)]
struct Calls(Vec<Duration>);

impl Calls {
    fn sample(&mut self, call: &mut dyn FnMut()) {
        let began = thread_time();
        call();
        self.0.push(thread_time().saturating_sub(began));
    }

    fn at(&self, part: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = (part * self.0.len() as f64) as usize;
        self.0.get(index.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Prints a line; true when 99 of 100 calls are below the bound.
    fn print(mut self, name: &str, hosts: u32) -> bool {
        self.0.sort_unstable();
        println!(
            "{name:<48} {hosts:>7} hosts {:>8} calls   p50 {:>9.2?}   p99 {:>9.2?}   max {:>9.2?}   total {:>9.2?}",
            self.0.len(),
            self.at(0.5),
            self.at(0.99),
            self.at(1.0),
            self.total(),
        );
        self.at(0.99) < DECISION_MAX
    }
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_chosen = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let mut is_good = true;
    for count in [1_000, 10_000, 100_000] {
        if is_chosen("events") {
            is_good &= events(count);
        }
        if is_chosen("storms") {
            is_good &= storms(count);
        }
        if is_chosen("memory") {
            memory(count);
        }
    }
    if is_chosen("load") {
        is_good &= load::run(10_000, Duration::from_secs(30));
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn events(count: u32) -> bool {
    let mut crowd = Crowd::fetching(count);
    let mut is_good = true;
    for event in EVENTS {
        let mut calls = Calls::default();
        while calls.0.len() < SAMPLES {
            crowd.play(event, &mut |call| calls.sample(call));
        }
        is_good &= calls.print(&format!("{event:?}"), count);
        crowd.give_back();
    }
    is_good
}

/// What concerns thousands at once must come in many small calls.
fn storms(count: u32) -> bool {
    [
        resolve_that_all_wait_for(count),
        finish_while_all_ask(count),
        loss_of_a_holder(count),
        loss_of_a_full_host(count),
        loss_of_all(count),
        origin_that_is_named_late(count),
    ]
    .iter()
    .all(|is_good| *is_good)
}

fn resolve_that_all_wait_for(count: u32) -> bool {
    let mut crowd = Crowd::connected(count);
    for index in 0..count {
        crowd.input(crowd::want(index, FETCHED));
    }
    let (host, want) = (crowd::host(0), WantId(u64::from(FETCHED)));
    let resolution = crowd::resolution(FETCHED);
    storm(&mut crowd, "a resolve ends that all wait for", count, Input::Resolved { host, want, resolution })
}

fn finish_while_all_ask(count: u32) -> bool {
    let mut crowd = Crowd::connected(count);
    crowd.all_fetch(FETCHED);
    for index in 0..count {
        crowd.ask(index, 1 << 40);
    }
    let input = Input::Finished { host: crowd::host(0), task: crowd::task_of(FETCHED) };
    storm(&mut crowd, "a host has everything while all ask for leases", count, input)
}

/// Everybody is asked whether it has what only the lost one was known to have, in rounds of a second.
fn loss_of_a_holder(count: u32) -> bool {
    let mut crowd = Crowd::connected(count);
    crowd.all_fetch(FETCHED);
    let mut have = nothing();
    have.insert_range(0..16);
    crowd.input(crowd::announcement(0, FETCHED, have, Some(crowd::ORIGIN)));
    let mut calls = Calls::default();
    crowd.play_out(Input::Leave { host: crowd::host(0) }, &mut |call| calls.sample(call));
    for _ in 0..64 {
        crowd.now += Duration::from_secs(1);
        crowd.play_out(Input::Tick, &mut |call| calls.sample(call));
    }
    calls.print("a host goes that alone had pieces", count)
}

fn loss_of_a_full_host(count: u32) -> bool {
    let mut crowd = Crowd::connected(count);
    for task in 0..4_096 {
        crowd.announce(0, 1_000 + task);
    }
    let input = Input::Leave { host: crowd::host(0) };
    storm(&mut crowd, "a host with 4,096 cached tasks goes", count, input)
}

fn loss_of_all(count: u32) -> bool {
    let mut crowd = Crowd::connected(count);
    crowd.all_fetch(FETCHED);
    crowd.now += Duration::from_secs(7_200);
    storm(&mut crowd, "all hosts fall silent at one time", count, Input::Tick)
}

fn origin_that_is_named_late(count: u32) -> bool {
    let mut crowd = Crowd::connected(count);
    for index in 0..count {
        crowd.input(crowd::announcement(index, FETCHED, nothing(), None));
    }
    let input = crowd::announcement(0, FETCHED, nothing(), Some(crowd::ORIGIN));
    storm(&mut crowd, "an origin becomes known while all fetch", count, input)
}

fn nothing() -> PieceMap {
    PieceMap::empty(crowd::geometry().piece_count())
}

fn storm(crowd: &mut Crowd, name: &str, count: u32, input: Input) -> bool {
    let mut calls = Calls::default();
    crowd.play_out(input, &mut |call| calls.sample(call));
    calls.print(name, count)
}

fn memory(count: u32) {
    let bytes = |build: &mut dyn FnMut()| measure(build).bytes_current;
    let mut crowd = None;
    let connected = bytes(&mut || crowd = Some(Crowd::connected(count)));
    let Some(mut crowd) = crowd else { return };
    let fetching = bytes(&mut || crowd.all_fetch(FETCHED));
    let more = bytes(&mut || crowd.all_fetch(FETCHED + 1));
    let per = |bytes: i64| bytes / i64::from(count);
    println!(
        "memory {count:>7} hosts: {} bytes per connected host, {} more when it fetches, {} more for a second task",
        per(connected),
        per(fetching),
        per(more),
    );
}
