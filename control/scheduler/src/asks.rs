//! Who may fetch which bytes of an origin, how many, and when whoever asked too early shall ask again.
//!
//! The swarm's main job is one file to many hosts over an origin whose link is no faster than theirs. Then the file
//! takes at least its length over the origin's rate, so what counts is that the origin always has the next request
//! before it is done with the last, that no byte is asked of it twice, and that the last bytes are not all in one
//! hand. Hence: leases in index order from one cursor (what came back goes first, being lowest); a few at a time, over
//! different hosts, each about a quarter of three quarters of a second of the origin's measured rate; smaller towards
//! the end; an ask waits in line instead of being sent away.

use core::time::Duration;

use alloc::vec::Vec;
use hawker_proto::TaskId;

use crate::cluster::{Cluster, Timer, Work};
use crate::event::{OriginId, ToHost};
use crate::host::Host;
use crate::origin::{Origin, bytes_in};
use crate::table::Slot;
use crate::task::{Ask, AskKey, Peer, Task, Tracking, Wish};

/// Leases open at an origin before its rate decides: four requests keep a link busy over any gap between one host's.
const PARALLEL_MIN: u32 = 4;
/// Leases open per task, and per peer: beyond, pieces complete late because all arrive at once.
pub(crate) const PARALLEL_MAX: usize = 8;
/// A lease while the origin's rate is unknown.
const FIRST_BYTES: u64 = 4 << 20;
const LEASE_BYTES_MAX: u64 = 64 << 20;
/// Of what is left: the last leases are single pieces, over several hosts.
const TAIL_PARTS: u64 = 8;
/// Of a task: the leases of a short one are single pieces, so that each is soon whole somewhere and goes on (simulated, 8
/// MiB to 1,000 hosts: 1.41-1.42 with 32 parts, 1.38 with 128) ...
const TASK_PARTS: u64 = 128;
/// ... and no more is open than this part of it (image of 20 layers to 8 hosts: 1.25-1.26 with an eighth, 1.23-1.25 with
/// a quarter).
const TASK_PARTS_OPEN: u64 = 4;
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Of a task that the host is not known to have: a new announcement comes with each ask, and may be large.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);
const RETRY_REFUSED: Duration = Duration::from_secs(60);
/// Asks refused at a time.
const REFUSALS_PER_STEP: usize = 32;
/// Tasks of one origin looked at per event.
const TASKS_PER_PUMP: usize = 64;

impl Cluster {
    pub(crate) fn ask_lease(&mut self, host: Slot<Host>, id: TaskId, wish: Wish) {
        let Some(peer) = self.peer_of(host, id) else {
            // It believes to be known: what it announced was lost, or forgotten here. When it has answered it may ask.
            self.send(host, ToHost::Report { task: id });
            self.refuse(host, id, RETRY_UNKNOWN, false);
            return;
        };
        self.forget_ask(peer);
        if self.redeem(peer, &wish) {
            return;
        }
        let task = self.peers[peer].task;
        self.offer_sale(task, &wish);
        let (row, wisher) = (&self.tasks[task], &self.peers[peer]);
        let cool_for = self.cools_for(peer);
        if row.is_changed || row.is_fetched() {
            self.refuse(host, id, self.retry_of(task), true);
            // When it came, the hosts that it could have linked with had no place for a link left.
            if self.near_degree(peer) == 0 {
                self.feel_lonely(peer);
            }
        } else if wisher.is_refused || row.origin.is_none() {
            self.refuse(host, id, RETRY_REFUSED, false);
        } else if cool_for > 0 {
            self.refuse(host, id, Duration::from_secs(cool_for), false);
        } else if wisher.is_stale || usize::from(wisher.leases) >= PARALLEL_MAX {
            self.refuse(host, id, RETRY_MIN, false);
        } else {
            // Keys of one task differ by their number; 2^32 asks later it starts again, long after these are gone.
            let number = u32::try_from(self.next_number() & u64::from(u32::MAX)).expect("masked");
            let key = self.ask_key(peer, number);
            self.peers[peer].ask = Some(key);
            self.tasks[task].asks.insert(key, Ask { peer, wish });
            self.set_timer(self.config.ask_hold, Timer::Ask { peer, number });
            self.pump_task(task);
        }
    }

    pub(crate) fn ask_key(&self, peer: Slot<Peer>, number: u32) -> AskKey {
        let row = &self.peers[peer];
        let is_no_seed = !self.hosts[row.host].info.is_seed;
        let is_bystander = is_no_seed && self.is_bystander(peer);
        AskKey { is_bystander, leases: row.leases, is_slow: self.is_slow(peer), is_no_seed, number }
    }

    /// Whether its link is slower than those of most peers.
    pub(crate) fn is_slow(&self, peer: Slot<Peer>) -> bool {
        let row = &self.peers[peer];
        let task = &self.tasks[row.task];
        let mean = task.link_rates / (task.peers.len() as u64).max(1);
        let rate = self.hosts[row.host].info.link_bytes_per_s;
        rate > 0 && rate < mean / 4 * 3
    }

    pub(crate) fn forget_ask(&mut self, peer: Slot<Peer>) -> bool {
        let task = self.peers[peer].task;
        match self.peers[peer].ask.take() {
            Some(key) => {
                self.tasks[task].asks.remove(&key);
                self.update_hunger(task);
                true
            }
            None => false,
        }
    }

    /// `number` is this ask's alone, whoever has the place of its peer meanwhile.
    pub(crate) fn give_up_ask(&mut self, peer: Slot<Peer>, number: u32) {
        let is_open = |row: &&Peer| row.ask.is_some_and(|key| key.number == number);
        if let Some(Peer { host, task, .. }) = self.peers.get(peer).filter(is_open) {
            let (host, task) = (*host, *task);
            self.forget_ask(peer);
            self.refuse(host, self.tasks[task].id, self.retry_of(task), false);
        }
    }

    /// Where thousands ask, they ask less often. What is fetched may die with its only holder, and then whoever lacks it
    /// should not be waiting for long.
    fn retry_of(&self, task: Slot<Task>) -> Duration {
        Duration::from_millis(self.tasks[task].peers.len() as u64).clamp(RETRY_MIN, RETRY_MAX)
    }

    /// `is_over`: every byte has left the origin, or its content is another now.
    pub(crate) fn refuse(&mut self, host: Slot<Host>, task: TaskId, retry: Duration, is_over: bool) {
        let is_changed = is_over && self.task_of(host, task).is_some_and(|task| self.tasks[task].is_changed);
        self.send(host, ToHost::NoLease { task, retry, is_done: is_over && !is_changed, is_changed });
    }

    /// Nothing is left to lease: nobody need wait.
    pub(crate) fn refuse_all_asks(&mut self, task: Slot<Task>) {
        if !self.tasks[task].is_refusing {
            self.tasks[task].is_refusing = true;
            if self.refuse_asks(task) {
                self.backlog.push_back(Work::Refuse { task });
            }
        }
    }

    /// Refuses the next asks of a task without anything to lease. True when there are more.
    pub(crate) fn refuse_asks(&mut self, task: Slot<Task>) -> bool {
        for _ in 0..REFUSALS_PER_STEP {
            let Some(row) = self.tasks.get_mut(task).filter(|row| row.is_refusing) else { return false };
            let next = row.asks.first_key_value().map(|(_, ask)| ask.peer);
            let Some(peer) = next.filter(|_| row.is_changed || row.is_fetched()) else {
                row.is_refusing = false;
                return false;
            };
            self.forget_ask(peer);
            self.refuse(self.peers[peer].host, self.tasks[task].id, self.retry_of(task), true);
        }
        true
    }

    /// Enters the task among those that could be given a lease, or takes it out.
    pub(crate) fn update_hunger(&mut self, task: Slot<Task>) {
        let row = &self.tasks[task];
        let Some(origin) = row.origin else { return };
        // For a sale more announcements change nothing: it is of what some host has, and whoever asks has measured that
        // its neighbors hold it up.
        let is_settled = row.settle.is_none() || matches!(row.pieces, Tracking::Sale(_));
        let is_hungry = !row.asks.is_empty() && row.free_count() > 0 && is_settled && !row.is_changed;
        let hungry = &mut self.origins[origin].hungry;
        if is_hungry {
            hungry.insert(task);
        } else {
            hungry.remove(&task);
        }
    }

    pub(crate) fn pump_task(&mut self, task: Slot<Task>) {
        if self.tasks[task].is_fetched() || self.tasks[task].is_changed {
            self.refuse_all_asks(task);
        }
        self.update_hunger(task);
        if let Some(origin) = self.tasks[task].origin {
            self.pump(origin);
        }
    }

    pub(crate) fn pump_all(&mut self, origin: Option<OriginId>) {
        if let Some(origin) = origin.and_then(|origin| self.origin_slots.get(&origin)).copied() {
            self.pump(origin);
        }
    }

    pub(crate) fn wake_origin(&mut self, origin: Slot<Origin>) {
        // Another may have its place meanwhile, and no harm is done.
        if let Some(row) = self.origins.get_mut(origin) {
            row.wake_at = None;
            self.pump(origin);
        }
    }

    /// Gives out what the origin's budget allows: first to resolves, which others wait for, then to tasks in turn. The
    /// origin may be forgotten after this.
    pub(crate) fn pump(&mut self, origin: Slot<Origin>) {
        self.give_out(origin);
        self.release_origin(origin);
    }

    fn give_out(&mut self, origin: Slot<Origin>) {
        let vacant = self.vacant_connections(origin);
        // They take their connections a moment later, with the backlog.
        let resolves = (0..vacant).take_while(|_| self.next_resolve(origin)).count();
        let left = vacant - u32::try_from(resolves).unwrap_or(vacant);
        let connections_max = self.origins[origin].connections + left;
        loop {
            if self.origins[origin].connections >= connections_max || self.origins[origin].hungry.is_empty() {
                return;
            }
            let row = &self.origins[origin];
            let (before, after) = (row.hungry.range(..row.next_task), row.hungry.range(row.next_task..));
            let turn: Vec<Slot<Task>> = after.chain(before).copied().take(TASKS_PER_PUMP).collect();
            let mut is_given = false;
            for task in turn {
                if self.origins[origin].connections >= connections_max || !self.is_origin_open(origin) {
                    return;
                }
                if self.grant(origin, task) {
                    is_given = true;
                    self.origins[origin].next_task = Slot::new(task.index() + 1);
                }
            }
            if !is_given {
                return;
            }
        }
    }

    /// Leases and resolves that the origin may be asked for beside those that are open.
    pub(crate) fn vacant_connections(&self, origin: Slot<Origin>) -> u32 {
        self.origins[origin].vacant(self.config.origin_connections_max)
    }

    /// Whether the origin takes requests now; if not, a timer is set for when it does.
    pub(crate) fn is_origin_open(&mut self, origin: Slot<Origin>) -> bool {
        let limit = self.config.origin_bytes_per_s;
        let now = self.now;
        let row = &mut self.origins[origin];
        let open_at = if row.quiet_until > now { Err(row.quiet_until) } else { row.affordable(now, limit) };
        let Err(at) = open_at else { return true };
        if row.wake_at.is_none_or(|set| at < set) {
            row.wake_at = Some(at);
            self.set_timer(at.since(now), Timer::Origin { origin });
        }
        false
    }

    /// Gives one lease of `task` to whoever is first in line.
    fn grant(&mut self, origin: Slot<Origin>, task: Slot<Task>) -> bool {
        for _ in 0..REFUSALS_PER_STEP {
            let (row, source) = (&self.tasks[task], &self.origins[origin]);
            let open = row.leases.len();
            let open_bytes_max = row.geometry.length() / TASK_PARTS_OPEN;
            let is_covered = source.leases >= PARALLEL_MIN
                && source.window().is_none_or(|window| source.outstanding >= window.min(open_bytes_max));
            let open_max = if row.has_ranges && !self.is_probing(task) { PARALLEL_MAX } else { 1 };
            if open >= open_max || open > 0 && is_covered || row.free_count() == 0 {
                return false;
            }
            let Some(ask) = row.asks.first_key_value().map(|(_, ask)| *ask) else { return false };
            self.forget_ask(ask.peer);
            let host = self.peers[ask.peer].host;
            if self.hosts[host].is_suspect || !self.may_have(task, &ask.wish) {
                self.refuse(host, self.tasks[task].id, RETRY_MIN, false);
                continue;
            }
            let count = self.piece_count_of_lease(origin, &ask, self.tasks[task].free_count());
            let (Tracking::Each(pieces) | Tracking::Sale(pieces)) = &mut self.tasks[task].pieces else { return false };
            let pieces = pieces.lease_next(count);
            self.open_lease(ask.peer, origin, pieces, Some(ask.wish.bytes_per_s));
            return true;
        }
        // Thousands fell silent while they waited in line: it goes on with the next call.
        let origin = self.origins[origin].id;
        self.backlog.push_back(Work::Pump { origin });
        false
    }

    /// How many pieces the next lease has, of `left` that could be leased.
    pub(crate) fn piece_count_of_lease(&self, origin: Slot<Origin>, ask: &Ask, left: u32) -> u32 {
        let row = &self.tasks[self.peers[ask.peer].task];
        if !row.has_ranges {
            return u32::MAX;
        }
        let piece_bytes = u64::from(row.geometry.piece_bytes());
        let share = self.origins[origin].window().map_or(FIRST_BYTES, |window| window / u64::from(PARALLEL_MIN));
        let left = u64::from(left) * piece_bytes;
        let holder_rate = self.hosts[self.peers[ask.peer].host].info.link_bytes_per_s;
        let worth = self.origins[origin].worth_asking(holder_rate).filter(|_| holder_rate > 0).unwrap_or(u64::MAX);
        let mut bytes = share.min(LEASE_BYTES_MAX).min(left / TAIL_PARTS);
        bytes = bytes.min(worth.max(row.geometry.length() / TASK_PARTS));
        let limit = self.config.origin_bytes_per_s;
        if limit > 0 {
            bytes = bytes.min(limit / u64::from(PARALLEL_MIN));
        }
        if ask.wish.bytes_per_s > 0 {
            bytes = bytes.min(bytes_in(ask.wish.bytes_per_s, Duration::from_secs(1)));
        }
        if ask.wish.bytes > 0 {
            bytes = bytes.min(ask.wish.bytes);
        }
        u32::try_from(bytes / piece_bytes).unwrap_or(u32::MAX).max(1)
    }
}
