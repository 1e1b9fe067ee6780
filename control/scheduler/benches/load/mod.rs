//! Agents that all download all the time, as their sessions are heard by a scheduler: heartbeats every second, progress
//! five times a second, wants, asks, leases, finishes. In virtual time; what the cluster takes for it is measured.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use hawker_proto::{HostId, HostKey, Instant};
use hawker_scheduler::{Cluster, ClusterConfig, Input, LeaseOutcome, Output, ToHost, WantId};

use crate::crowd::{host, info, resolution, task_of, want};
use crate::{Calls, thread_time};

const UNIX_MS: u64 = 1_700_000_000_000;
const HEARTBEAT: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_millis(200);
/// How long a download takes.
const RUN: Duration = Duration::from_secs(10);
/// Tasks at a time: with 10,000 hosts, 500 fetch each.
const TASKS: u32 = 20;
const LEASE_BYTES_PER_S: u64 = 20_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Heartbeat,
    Progress,
    Ask,
    LeaseDone { serial: u64, upto: u64 },
    Finish,
    Next,
}

struct Agent {
    /// What it downloads.
    task: Option<u16>,
    /// Serial, start, end, when it was given.
    lease: Option<(u64, u64, u64, Instant)>,
}

struct Load {
    cluster: Cluster,
    now: Instant,
    names: BTreeMap<HostId, u32>,
    agents: Vec<Agent>,
    due: BinaryHeap<Reverse<(Instant, u64, u32, Due)>>,
    number: u64,
    calls: Calls,
    inputs: u64,
    outputs: u64,
    resolves: Vec<(HostId, WantId)>,
}

/// Prints what `count` hosts cost in `span`; true when that is less than a core.
pub(crate) fn run(count: u32, span: Duration) -> bool {
    let mut config = ClusterConfig::default();
    config.limits.hosts_max = 1 << 20;
    let mut load = Load {
        cluster: Cluster::new(config, HostKey::from_seed([77; 32]), 1, 42),
        now: Instant::ZERO,
        names: (0..count).map(|index| (host(index), index)).collect(),
        agents: (0..count).map(|_| Agent { task: None, lease: None }).collect(),
        due: BinaryHeap::new(),
        number: 0,
        calls: Calls::default(),
        inputs: 0,
        outputs: 0,
        resolves: Vec::new(),
    };
    for index in 0..count {
        load.input(Input::Join(info(index)));
        // Spread over the second, as hosts are.
        let offset = HEARTBEAT * index / count;
        load.plan(offset, index, Due::Heartbeat);
        load.plan(offset + RUN / 10, index, Due::Next);
    }
    let began = thread_time();
    let end = Instant::ZERO + span;
    load.play(end);
    let all = thread_time().saturating_sub(began);
    let cpu = load.calls.total().as_secs_f64() / span.as_secs_f64();
    println!(
        "load: {count} hosts for {span:?}: {:.3} CPU seconds per second ({all:.2?} with the agents played), {} inputs and {} outputs per \
         second, {} leases, {} hosts lost",
        cpu,
        load.inputs / span.as_secs(),
        load.outputs / span.as_secs(),
        load.cluster.status().counters.leases,
        load.cluster.status().counters.hosts_lost,
    );
    let is_fast = load.calls.print("steady load", count);
    is_fast && cpu < 1.0
}

impl Load {
    fn play(&mut self, end: Instant) {
        while let Some(Reverse((at, _, index, due))) = self.due.pop() {
            while let Some(tick) = self.cluster.deadline().filter(|tick| *tick < at) {
                self.now = self.now.max(tick);
                self.input(Input::Tick);
            }
            if at > end {
                return;
            }
            self.now = at;
            self.act(index, due);
        }
    }

    fn plan(&mut self, after: Duration, index: u32, due: Due) {
        self.number += 1;
        self.due.push(Reverse((self.now + after, self.number, index, due)));
    }

    fn act(&mut self, index: u32, due: Due) {
        let id = host(index);
        let agent = &mut self.agents[index as usize];
        match (due, agent.task) {
            (Due::Heartbeat, _) => {
                self.input(Input::Heartbeat { host: id });
                self.plan(HEARTBEAT, index, Due::Heartbeat);
            }
            (Due::Progress, Some(task)) => {
                let now = self.now;
                let arrived = |(serial, start, end, at): (u64, u64, u64, Instant)| {
                    let millis = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
                    (serial, end.min(start + millis * (LEASE_BYTES_PER_S / 1_000)))
                };
                let leases = agent.lease.map(arrived).into_iter().collect();
                let task = task_of(task);
                self.input(Input::Progress { host: id, task, have_count: 7, bytes_per_s: 1 << 20, leases });
                self.plan(PROGRESS, index, Due::Progress);
            }
            (Due::Ask, Some(task)) if agent.lease.is_none() => {
                let task = task_of(task);
                self.input(Input::AskLease {
                    host: id,
                    task,
                    bytes: 0,
                    bytes_per_s: LEASE_BYTES_PER_S,
                    source_bytes_per_s: None,
                    lacked: None,
                });
            }
            (Due::LeaseDone { serial, upto }, _) => {
                agent.lease = None;
                self.input(Input::LeaseDone { host: id, serial, upto, outcome: LeaseOutcome::Complete });
                self.plan(Duration::ZERO, index, Due::Ask);
            }
            (Due::Finish, Some(task)) => {
                agent.task = None;
                self.input(Input::Finished { host: id, task: task_of(task) });
                self.plan(Duration::from_millis(200), index, Due::Next);
            }
            (Due::Next, None) => {
                let round = self.now.as_nanos() / u64::try_from(RUN.as_nanos()).expect("seconds");
                let task = u16::try_from(round).expect("few") * 20 + u16::try_from(index % TASKS).expect("few");
                agent.task = Some(task);
                self.input(want(index, task));
            }
            _ => {}
        }
    }

    fn input(&mut self, input: Input) {
        let mut input = Some(input);
        self.inputs += 1;
        while let Some(next) = input.take() {
            let mut next = Some(next);
            let mut outputs = Vec::new();
            let (cluster, now) = (&mut self.cluster, self.now);
            self.calls.sample(&mut || {
                if let Some(next) = next.take() {
                    cluster.handle(now, UNIX_MS + now.as_nanos() / 1_000_000, next);
                }
                while let Some(Output::Send { host, message }) = cluster.poll() {
                    outputs.push((host, message));
                }
            });
            for (id, message) in outputs {
                self.outputs += 1;
                let index = self.names[&id];
                self.hear(index, &message);
            }
            input = self.cluster.deadline().filter(|at| *at <= self.now).map(|_| Input::Tick);
        }
        while let Some((host, want)) = self.resolves.pop() {
            let task = u16::try_from(want.0).expect("made from a u16");
            self.input(Input::Resolved { host, want, resolution: resolution(task) });
        }
    }

    fn hear(&mut self, index: u32, message: &ToHost) {
        match message {
            ToHost::Resolve { want, .. } => self.resolves.push((host(index), *want)),
            ToHost::Ready { .. } => {
                self.plan(Duration::ZERO, index, Due::Ask);
                self.plan(PROGRESS, index, Due::Progress);
                self.plan(RUN, index, Due::Finish);
            }
            ToHost::Lease { lease, .. } => {
                let (range, serial) = (lease.lease.range, lease.lease.serial);
                self.agents[index as usize].lease = Some((serial, range.start(), range.end(), self.now));
                let takes = Duration::from_millis(range.length() / (LEASE_BYTES_PER_S / 1_000));
                self.plan(takes, index, Due::LeaseDone { serial, upto: range.end() });
            }
            ToHost::NoLease { is_done: false, retry, .. } => self.plan(*retry, index, Due::Ask),
            ToHost::WantFailed { failure, .. } => panic!("{}", failure.text),
            _ => {}
        }
    }
}
