//! The machine: what comes in is dispatched here, timers run here; how each thing is decided stands in the modules
//! named after it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::{HostId, HostKey, Instant, TaskId};

use crate::bans::Bans;
use crate::config::ClusterConfig;
use crate::event::{Input, OriginId, Output, ToHost, WantId};
use crate::host::Host;
use crate::inline::Inline;
use crate::members::Position;
use crate::origin::Origin;
use crate::random::Random;
use crate::status::Counters;
use crate::table::{Slot, Table};
use crate::tags::Tags;
use crate::task::{Peer, Task, Wish};
use crate::wants::Resolve;

/// Steps of work per call: what one event causes for thousands of hosts is spread over many calls, so that a decision
/// stays below a millisecond. The largest step, the answer to a want, takes 40 to 90 microseconds among 1,000 to 100,000
/// hosts (`benches/decisions.rs`, 2 shared cores), of which 18 sign an allowance.
const BACKLOG_PER_CALL: usize = 4;

/// Timers run per call, likewise: 10,000 asks may end their wait at one time, and the end of a lease may sign another.
const TIMERS_PER_CALL: usize = 32;

/// All that a scheduler knows, and how it decides.
///
/// Soft state: hosts and tasks are learned from agents and forgotten with them. Drive it with [`Self::handle`], take
/// what it says with [`Self::poll`] until that is `None`, and call again at [`Self::deadline`].
#[derive(Debug)]
pub struct Cluster {
    pub(crate) config: ClusterConfig,
    pub(crate) key: HostKey,
    pub(crate) epoch: u64,
    pub(crate) random: Random,
    pub(crate) now: Instant,
    pub(crate) unix_ms: u64,
    pub(crate) started_at: Option<Instant>,

    pub(crate) hosts: Table<Host>,
    pub(crate) host_slots: BTreeMap<HostId, Slot<Host>>,
    pub(crate) zones: BTreeMap<String, u16>,
    pub(crate) tasks: Table<Task>,
    /// The second part is the owner of private content.
    pub(crate) task_slots: BTreeMap<(TaskId, Option<Slot<Host>>), Slot<Task>>,
    pub(crate) digests: BTreeMap<Digest, TaskId>,
    pub(crate) peers: Table<Peer>,
    pub(crate) origins: Table<Origin>,
    pub(crate) origin_slots: BTreeMap<OriginId, Slot<Origin>>,
    pub(crate) resolves: BTreeMap<ResolveKey, Resolve>,
    pub(crate) lease_tasks: BTreeMap<u64, Slot<Task>>,
    pub(crate) bans: Bans,
    pub(crate) tags: Tags,
    pub(crate) inline: Inline,

    pub(crate) timers: BTreeMap<(Instant, u64), Timer>,
    pub(crate) backlog: VecDeque<Work>,
    pub(crate) outputs: VecDeque<Output>,
    /// Grows for ever: names timers and attempts.
    pub(crate) sequence: u64,
    /// The last lease's.
    pub(crate) serial: u64,
    pub(crate) counters: Counters,
}

/// What is due at some time. Each names what it is for by a number that nothing else ever has, or does no harm to
/// another in the same place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Liveness { host: Slot<Host>, stay: u64 },
    ForgetStale { host: Slot<Host>, stay: u64 },
    Resolver { host: Slot<Host>, want: WantId, attempt: u64 },
    LeaseExpiry { serial: u64 },
    Ask { peer: Slot<Peer>, number: u32 },
    Origin { origin: Slot<Origin> },
    Settle { task: Slot<Task> },
    Report { task: Slot<Task>, part: u64 },
}

/// What is still to be done, a step at a time. Like timers, what came too late does nothing.
#[derive(Debug)]
pub(crate) enum Work {
    /// Wants that can be answered now.
    Answer { wants: Line },
    /// A peer that lost neighbors.
    Befriend { host: HostId, task: TaskId },
    /// A host that is gone.
    Forget { host: Slot<Host>, stay: u64 },
    /// A host came back and did not name these again.
    ForgetStale { host: Slot<Host>, stay: u64, peers: Vec<Slot<Peer>> },
    /// Asks of a task that has nothing to lease.
    Refuse { task: Slot<Task> },
    /// Peers of a task, those before `from`, that get other allowances.
    Allow { task: Slot<Task>, shares: u32, from: Position },
    /// Peers to be asked what they have.
    Report { task: Slot<Task>, part: u64 },
    /// An origin with leases to give.
    Pump { origin: OriginId },
    /// Hosts of a task have, or lost, the work of bringing pieces into their zones.
    Rewire { task: Slot<Task> },
}

/// Wants that wait for one answer, by their turn.
pub(crate) type Line = BTreeMap<u64, (HostId, WantId)>;

impl Cluster {
    /// An empty cluster. `key` signs leases, `epoch` is higher than in every earlier life with that key, `seed` feeds
    /// the choice of neighbors.
    #[must_use]
    pub fn new(config: ClusterConfig, key: HostKey, epoch: u64, seed: u64) -> Self {
        assert!(config.degree_min <= config.degree_target && config.degree_target <= config.degree_max);
        assert!(config.degree_max as usize <= crate::host::POOL_MAX, "neighbors are places in a pool");
        Self {
            config,
            key,
            epoch,
            random: Random::new(seed),
            now: Instant::ZERO,
            unix_ms: 0,
            started_at: None,
            hosts: Table::new(),
            host_slots: BTreeMap::new(),
            zones: BTreeMap::new(),
            tasks: Table::new(),
            task_slots: BTreeMap::new(),
            digests: BTreeMap::new(),
            peers: Table::new(),
            origins: Table::new(),
            origin_slots: BTreeMap::new(),
            resolves: BTreeMap::new(),
            lease_tasks: BTreeMap::new(),
            bans: Bans::default(),
            tags: Tags::default(),
            inline: Inline::default(),
            timers: BTreeMap::new(),
            backlog: VecDeque::new(),
            outputs: VecDeque::new(),
            sequence: 0,
            // Serials are unique over all lives, so that a lease of an earlier one is never taken for another.
            serial: epoch << 32,
            counters: Counters::default(),
        }
    }

    /// Takes one event. `unix_ms` is the wall clock, used for what is signed and for the
    /// age of tags.
    pub fn handle(&mut self, now: Instant, unix_ms: u64, input: Input) {
        self.now = self.now.max(now);
        self.unix_ms = unix_ms;
        self.started_at.get_or_insert(self.now);
        self.run_timers();
        self.dispatch(input);
        self.run_backlog();
    }

    /// The next message to send.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Tick`] if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if !self.backlog.is_empty() {
            return Some(self.now);
        }
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    fn dispatch(&mut self, input: Input) {
        let Some(id) = speaker(&input) else {
            match input {
                Input::Join(info) => self.join(info),
                Input::Leave { host } => self.with_host(host, Self::forget_host),
                Input::Disconnected { host } => self.with_host(host, Self::disconnected),
                _ => {}
            }
            return;
        };
        let Some(host) = self.present(id) else { return };
        self.seen(host);
        match input {
            Input::Want { want, key, origin, .. } => self.want(host, want, key, origin),
            Input::Resolving { want, .. } => self.resolving(host, want),
            Input::Resolved { want, resolution, .. } => self.resolved(host, want, resolution),
            Input::ResolveFailed { want, failure, .. } => self.resolve_failed(host, want, failure),
            Input::Announce { announcement, .. } => self.announce(host, announcement),
            Input::Progress { task, leases, .. } => self.progress(host, task, &leases),
            Input::AskLease { task, bytes, bytes_per_s, source_bytes_per_s, lacked, .. } => {
                self.ask_lease(host, task, Wish { bytes, bytes_per_s, source_bytes_per_s, lacked });
            }
            Input::LeaseDone { serial, upto, outcome, .. } => self.lease_done(host, serial, upto, outcome),
            Input::Finished { task, .. } => self.finished(host, task),
            Input::Left { task, .. } => self.left(host, task),
            Input::BadHost { host: bad, task, .. } => self.bad_host(host, bad, task),
            Input::TagSeen { tag, fact, .. } => self.tag_seen(tag, fact),
            Input::AskTag { tag, .. } => self.ask_tag(host, tag),
            Input::Heartbeat { .. }
            | Input::Join(_)
            | Input::Leave { .. }
            | Input::Disconnected { .. }
            | Input::Tick => {}
        }
    }

    /// The host, unless it is about to be forgotten.
    fn present(&self, id: HostId) -> Option<Slot<Host>> {
        self.host_slots.get(&id).copied().filter(|host| !self.hosts[*host].is_leaving)
    }

    fn with_host(&mut self, id: HostId, act: impl FnOnce(&mut Self, Slot<Host>)) {
        if let Some(host) = self.present(id) {
            act(self, host);
        }
    }

    fn run_timers(&mut self) {
        for _ in 0..TIMERS_PER_CALL {
            let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= self.now) else { return };
            match entry.remove() {
                Timer::Liveness { host, stay } => self.check_liveness(host, stay),
                Timer::ForgetStale { host, stay } => self.forget_stale(host, stay),
                Timer::Resolver { host, want, attempt } => self.check_resolver(host, want, attempt),
                Timer::LeaseExpiry { serial } => self.expire_lease(serial),
                Timer::Ask { peer, number } => self.give_up_ask(peer, number),
                Timer::Origin { origin } => self.wake_origin(origin),
                Timer::Settle { task } => self.end_settle(task),
                Timer::Report { task, part } => self.end_part(task, part),
            }
        }
    }

    fn run_backlog(&mut self) {
        for _ in 0..BACKLOG_PER_CALL {
            let Some(mut work) = self.backlog.pop_front() else { return };
            if self.step(&mut work) {
                self.backlog.push_front(work);
            }
        }
    }

    /// A step of `work`; true when there is more of it.
    fn step(&mut self, work: &mut Work) -> bool {
        match work {
            Work::Answer { wants } => {
                if let Some((_, (host, want))) = wants.pop_first() {
                    self.answer_in_turn(host, want);
                }
                return !wants.is_empty();
            }
            Work::Befriend { host, task } => self.befriend(*host, *task),
            Work::Rewire { task } => return self.rewire(*task),
            Work::Forget { host, stay } => return self.forget_next(*host, *stay),
            Work::ForgetStale { host, stay, peers } => return self.forget_next_stale(*host, *stay, peers),
            Work::Refuse { task } => return self.refuse_asks(*task),
            Work::Allow { task, shares, from } => return self.allow_next(*task, *shares, from),
            Work::Report { task, part } => return self.ask_peers(*task, *part),
            Work::Pump { origin } => self.pump_all(Some(*origin)),
        }
        false
    }

    pub(crate) fn set_timer(&mut self, after: Duration, timer: Timer) {
        let number = self.next_number();
        self.timers.insert((self.now + after, number), timer);
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn send(&mut self, host: Slot<Host>, message: ToHost) {
        let host = &self.hosts[host];
        if host.is_connected {
            self.outputs.push_back(Output::Send { host: host.info.id, message });
        }
    }

    /// The task as `host` knows it: its own private one before the shared one.
    pub(crate) fn task_of(&self, host: Slot<Host>, task: TaskId) -> Option<Slot<Task>> {
        self.task_slots.get(&(task, Some(host))).or_else(|| self.task_slots.get(&(task, None))).copied()
    }

    pub(crate) fn peer_of(&self, host: Slot<Host>, task: TaskId) -> Option<Slot<Peer>> {
        self.hosts[host].peers.get(self.task_of(host, task)?)
    }
}

/// The host whose sign of life `input` is.
const fn speaker(input: &Input) -> Option<HostId> {
    match input {
        Input::Heartbeat { host }
        | Input::Want { host, .. }
        | Input::Resolving { host, .. }
        | Input::Resolved { host, .. }
        | Input::ResolveFailed { host, .. }
        | Input::Announce { host, .. }
        | Input::Progress { host, .. }
        | Input::AskLease { host, .. }
        | Input::LeaseDone { host, .. }
        | Input::Finished { host, .. }
        | Input::Left { host, .. }
        | Input::TagSeen { host, .. }
        | Input::AskTag { host, .. }
        | Input::BadHost { reporter: host, .. } => Some(*host),
        Input::Join(_) | Input::Leave { .. } | Input::Disconnected { .. } | Input::Tick => None,
    }
}
