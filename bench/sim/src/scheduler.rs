//! The scheduler: the production `Cluster`, a message delay away from everybody, with lives that end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hawker_proto::{HostId, HostKey, Instant};
use hawker_scheduler::{Cluster, ClusterConfig, Counters, Input, Output, ToHost};

use crate::report::thread_time;

/// Any: only differences count.
const UNIX_MS_AT_START: u64 = 1_700_000_000_000;

/// Every so many inputs the cluster's invariants are checked: they look at everything it knows.
const CHECK_EVERY: u64 = 1024;

pub(crate) struct Scheduler {
    /// `None` while it is away.
    cluster: Option<Cluster>,
    config: ClusterConfig,
    key: HostKey,
    /// Counts its lives. Messages of an earlier one are lost with its streams.
    pub(crate) life: u64,
    seed: u64,
    names: BTreeMap<HostId, u32>,
    outbox: VecDeque<(u32, ToHost)>,
    /// A wake-up among the events.
    pub(crate) wake: Option<Instant>,
    /// Both ways.
    pub(crate) messages: u64,
    pub(crate) cpu: Duration,
    /// Of the lives that are over.
    leases: u64,
    inputs: u64,
}

impl Scheduler {
    pub(crate) fn new(config: ClusterConfig, seed: u64) -> Self {
        let mut scheduler = Self {
            cluster: None,
            config,
            key: HostKey::from_seed([0xff; 32]),
            life: 0,
            seed,
            names: BTreeMap::new(),
            outbox: VecDeque::new(),
            wake: None,
            messages: 0,
            cpu: Duration::ZERO,
            leases: 0,
            inputs: 0,
        };
        scheduler.start();
        scheduler
    }

    /// A new life: it knows its key and its epoch, and nothing else.
    pub(crate) fn start(&mut self) {
        assert!(self.cluster.is_none(), "one life at a time");
        self.life += 1;
        let seed = self.seed.wrapping_add(self.life);
        self.cluster = Some(Cluster::new(self.config.clone(), self.key.clone(), self.life, seed));
    }

    pub(crate) fn stop(&mut self) {
        self.leases += self.counters().leases;
        self.cluster = None;
        self.wake = None;
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.cluster.is_some()
    }

    /// The name under which messages to `host` leave.
    pub(crate) fn learn_name(&mut self, id: HostId, host: u32) {
        self.names.insert(id, host);
    }

    pub(crate) fn index_of(&self, id: HostId) -> Option<u32> {
        self.names.get(&id).copied()
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        let Some(cluster) = &mut self.cluster else { return };
        let began = thread_time();
        let unix_ms = UNIX_MS_AT_START + now.as_nanos() / 1_000_000;
        cluster.handle(now, unix_ms, input);
        while cluster.deadline().is_some_and(|at| at <= now) {
            cluster.handle(now, unix_ms, Input::Tick);
        }
        while let Some(Output::Send { host, message }) = cluster.poll() {
            if let Some(host) = self.names.get(&host) {
                self.outbox.push_back((*host, message));
            }
        }
        self.cpu += thread_time().saturating_sub(began);
        self.inputs += 1;
        if self.inputs.is_multiple_of(CHECK_EVERY) {
            cluster.assert_invariants();
        }
    }

    /// The next message to a host.
    pub(crate) fn poll(&mut self) -> Option<(u32, ToHost)> {
        self.outbox.pop_front()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cluster.as_ref().and_then(Cluster::deadline)
    }

    /// Leases given in all lives.
    pub(crate) fn lease_count(&self) -> u64 {
        self.leases + self.counters().leases
    }

    pub(crate) fn counters(&self) -> Counters {
        self.cluster.as_ref().map_or(Counters::default(), |cluster| cluster.status().counters)
    }

    pub(crate) fn assert_invariants(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.assert_invariants();
        }
    }
}
