//! Origin leases: who fetches which bytes, how many, until when.
//!
//! The swarm's main job is one file to many hosts over an origin whose link is no faster than theirs. Then the file
//! takes at least its length over the origin's rate, so what counts is that the origin always has the next request
//! before it is done with the last, that no byte is asked of it twice, and that the last bytes are not all in one
//! hand. Hence: leases in index order from one cursor (what came back goes first, being lowest); a few at a time, over
//! different hosts, each about a quarter of three quarters of a second of the origin's measured rate; smaller towards
//! the end; an ask waits in line instead of being sent away.

use core::ops::Range;
use core::time::Duration;

use alloc::vec::Vec;
use hawker_proto::TaskId;
use hawker_proto::trust::Lease as SignableLease;

use crate::cluster::{Cluster, Timer, Work};
use crate::event::{LeaseOutcome, OriginId, ToHost};
use crate::host::Host;
use crate::origin::{Origin, bytes_in};
use crate::table::Slot;
use crate::task::{Ask, AskKey, Lease, Peer, Task, Tracking, Wish};

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
/// Rate assumed for the time of a lease when nothing is known: slow, because one that runs out while it moves is fetched
/// twice, and a holder that falls silent is seen much earlier.
const RATE_UNKNOWN: u64 = 32 << 10;
const LEASE_TIME_MIN: Duration = Duration::from_secs(2);
const LEASE_TIME_MAX: Duration = Duration::from_secs(900);
/// The holder counts from receipt: for so long after its time is over it may still be fetching.
const LEASE_TIME_SLACK: Duration = Duration::from_secs(1);
/// Doublings of lease times at most: 2 s become 8 min.
const PATIENCE_MAX: u32 = 8;
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Of a task that the host is not known to have: a new announcement comes with each ask, and may be large.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);
const RETRY_REFUSED: Duration = Duration::from_secs(60);
/// An origin may ask for so much quiet.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// What an agent says when the origin did not.
const QUIET_SHORT: Duration = Duration::from_secs(1);
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

    fn ask_key(&self, peer: Slot<Peer>, number: u32) -> AskKey {
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
    fn refuse(&mut self, host: Slot<Host>, task: TaskId, retry: Duration, is_over: bool) {
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
    fn pump(&mut self, origin: Slot<Origin>) {
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

    /// The resolver's GET is under way: what it will bring is its first lease.
    pub(crate) fn first_lease(&mut self, peer: Slot<Peer>, arriving_bytes: u64) {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let (id, geometry) = (self.tasks[task].id, self.geometry_of(task));
        let count = if arriving_bytes >= geometry.length() {
            geometry.piece_count()
        } else {
            u32::try_from(arriving_bytes / u64::from(geometry.piece_bytes())).unwrap_or(u32::MAX)
        };
        let is_fetched = self.tasks[task].is_fetched();
        // One that was replaced for its silence has lost its connection, and perhaps there is none left.
        let connections_max = self.config.origin_connections_max;
        let origin = self.tasks[task].origin.filter(|origin| self.origins[*origin].connections < connections_max);
        let count = if origin.is_some() { count } else { 0 };
        let leased = match &mut self.tasks[task].pieces {
            Tracking::Each(pieces) => pieces.lease_run(0, count),
            Tracking::Whole | Tracking::Sale(_) => 0..0,
        };
        match origin.filter(|_| !leased.is_empty()) {
            Some(origin) => {
                self.forget_ask(peer);
                self.open_lease(peer, origin, leased, None);
                self.update_hunger(task);
            }
            None => self.refuse(host, id, RETRY_MIN, is_fetched),
        }
    }

    /// `bytes_per_s` is what the holder said of itself; `None` when its fetch runs already.
    pub(crate) fn open_lease(
        &mut self,
        peer: Slot<Peer>,
        origin: Slot<Origin>,
        pieces: Range<u32>,
        bytes_per_s: Option<u64>,
    ) {
        let is_fresh = bytes_per_s.is_some();
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let range = self.tasks[task].geometry.range_of_pieces(pieces.clone());
        assert!(!range.is_empty(), "a lease has bytes");
        self.serial += 1;
        let serial = self.serial;
        let valid = self.lease_time(origin, range.length(), bytes_per_s.unwrap_or(0));
        let valid_ms = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        let lease = SignableLease {
            task: self.tasks[task].id,
            range,
            holder: self.hosts[host].info.key,
            epoch: self.epoch,
            serial,
            expires_unix_ms: self.unix_ms.saturating_add(valid_ms),
        };
        let row = Lease {
            serial,
            holder: host,
            stay: self.hosts[host].stay,
            pieces,
            reported: 0,
            bytes: range.length(),
            start: range.start(),
            granted_at: is_fresh.then_some(self.now),
        };
        self.track_lease(task, row, valid + LEASE_TIME_SLACK);
        self.origins[origin].spend(range.length(), self.config.origin_bytes_per_s);
        self.counters.leases += 1;
        self.counters.leased_bytes += range.length();
        self.send(host, ToHost::Lease { lease: lease.sign(&self.key), valid });
    }

    /// Counts a lease as open, given now or announced.
    pub(crate) fn track_lease(&mut self, task: Slot<Task>, lease: Lease, lives: Duration) {
        let (serial, holder, bytes) = (lease.serial, lease.holder, lease.bytes);
        self.tasks[task].leases.push(lease);
        self.lease_tasks.insert(serial, task);
        if let Some(origin) = self.tasks[task].origin {
            self.origins[origin].lease_opened(self.now, bytes);
        }
        self.count_leases(holder, task, 1);
        self.set_timer(lives, Timer::LeaseExpiry { serial });
    }

    /// max(2 s, 4 x expected fetch), doubled for each time that this was not enough lately.
    fn lease_time(&self, origin: Slot<Origin>, bytes: u64, bytes_per_s: u64) -> Duration {
        let row = &self.origins[origin];
        let shared = row.rate() / u64::from(row.leases + 1);
        let rate = match (bytes_per_s, shared) {
            (0, 0) => RATE_UNKNOWN,
            (rate, 0) | (0, rate) => rate,
            (own, shared) => own.min(shared),
        };
        let expected = Duration::from_millis((bytes / (rate / 1000).max(1)).min(1 << 40));
        (expected * 4 * (1 << row.patience)).clamp(LEASE_TIME_MIN, LEASE_TIME_MAX)
    }

    pub(crate) fn lease_progress(&mut self, host: Slot<Host>, serial: u64, upto: u64) {
        let Some(task) = self.lease_tasks.get(&serial).copied() else { return };
        let row = &mut self.tasks[task];
        let origin = row.origin;
        let Some(lease) = row.leases.iter_mut().find(|lease| lease.serial == serial && lease.holder == host) else {
            return;
        };
        let arrived = upto.saturating_sub(lease.start).min(lease.bytes);
        let fresh = arrived.saturating_sub(lease.reported);
        lease.reported += fresh;
        if let Some(origin) = origin.filter(|_| fresh > 0) {
            self.origins[origin].delivered(self.now, fresh);
            self.pump(origin);
        }
    }

    pub(crate) fn lease_done(&mut self, host: Slot<Host>, serial: u64, upto: u64, outcome: LeaseOutcome) {
        let Some(task) = self.lease_tasks.get(&serial).copied() else { return };
        let Some(lease) = self.tasks[task].leases.iter().find(|lease| lease.serial == serial).cloned() else { return };
        let Some(peer) = self.hosts[host].peers.get(task).filter(|_| lease.holder == host) else { return };
        self.lease_progress(host, serial, upto);
        if let Some(origin) = self.tasks[task].origin {
            let row = &mut self.origins[origin];
            if outcome == LeaseOutcome::Complete {
                if let Some(at) = lease.granted_at {
                    row.at_least(lease.bytes, self.now.since(at));
                }
                row.patience = 0;
                row.fetched(self.now);
            }
        }
        let known_rest = outcome != LeaseOutcome::Returned;
        self.close_lease(serial, Some(upto), known_rest);
        match outcome {
            LeaseOutcome::Complete => self.peers[peer].failures = 0,
            // It has the rest already, or its neighbors do: then that is held by somebody who has not said so yet.
            // Leased again at once, it would come back at once, from one host after another.
            LeaseOutcome::Returned => self.clear_doubt(task),
            LeaseOutcome::Failed { retry_after } => self.lease_failed(peer, retry_after, upto <= lease.start),
            LeaseOutcome::Refused => self.peers[peer].is_refused = true,
            LeaseOutcome::Changed => self.origin_changed(task),
        }
        self.pump_task(task);
    }

    /// The holder cools down, so that its lease goes to another; the origin has its quiet when it asked for it. One that
    /// serves others, and does not ask for long, has only too many connections: then fewer are enough, for a quiet that
    /// each refusal begins anew would leave it idle.
    fn lease_failed(&mut self, peer: Slot<Peer>, retry_after: Duration, is_empty: bool) {
        self.counters.leases_failed += 1;
        let seconds = self.seconds();
        let row = &mut self.peers[peer];
        row.failures = row.failures.saturating_add(1);
        let backoff = 1u64 << row.failures.min(6);
        row.cool_until_s = u32::try_from(seconds.saturating_add(backoff)).unwrap_or(u32::MAX);
        if let Some(origin) = self.tasks[row.task].origin.filter(|_| !retry_after.is_zero()) {
            let row = &mut self.origins[origin];
            if !(is_empty && retry_after <= QUIET_SHORT && row.refused(self.now)) {
                row.quiet_until = row.quiet_until.max(self.now + retry_after.min(QUIET_MAX));
            }
        }
    }

    fn origin_changed(&mut self, task: Slot<Task>) {
        let row = &mut self.tasks[task];
        row.is_changed = true;
        let (keys, id) = (row.keys.clone(), row.id);
        for key in keys {
            self.forget_known(key, id);
        }
    }

    /// The holder was not heard of in time. Others may have got pieces from it, so they are asked before anybody
    /// fetches them again; and the next lease of this origin is given more time.
    pub(crate) fn expire_lease(&mut self, serial: u64) {
        let Some(task) = self.lease_tasks.get(&serial).copied() else { return };
        self.counters.leases_expired += 1;
        if let Some(origin) = self.tasks[task].origin {
            let row = &mut self.origins[origin];
            row.patience = (row.patience + 1).min(PATIENCE_MAX);
        }
        self.close_lease(serial, None, false);
        self.clear_doubt(task);
        self.pump_task(task);
    }

    /// Ends a lease. With `upto` its holder said what it has; without, all of it is in doubt.
    pub(crate) fn close_lease(&mut self, serial: u64, upto: Option<u64>, is_rest_free: bool) {
        let Some(task) = self.lease_tasks.remove(&serial) else { return };
        let row = &mut self.tasks[task];
        let at = row.leases.iter().position(|lease| lease.serial == serial).expect("a live lease is in its task");
        let lease = row.leases.swap_remove(at);
        let stored = upto.map_or(0..0, |upto| row.pieces_below(&lease.pieces, upto));
        if !stored.is_empty() {
            row.fetched.push((stored.clone(), lease.holder));
        }
        match &mut row.pieces {
            Tracking::Whole => {}
            Tracking::Each(pieces) => pieces.settle(&lease.pieces, stored, lease.holder, is_rest_free),
            // What came back was not worth buying, and some host has it in any case.
            Tracking::Sale(pieces) => {
                let sold = if is_rest_free { stored } else { lease.pieces.clone() };
                pieces.settle(&lease.pieces, sold, lease.holder, true);
            }
        }
        if let Some(origin) = row.origin {
            self.origins[origin].lease_closed(lease.bytes - lease.reported);
        }
        self.count_leases(lease.holder, task, -1);
    }

    /// Keeps the peer's count, and its place in line when it waits.
    fn count_leases(&mut self, host: Slot<Host>, task: Slot<Task>, step: i8) {
        let peer = self.hosts[host].peers.get(task).expect("a holder is a peer");
        let row = &mut self.peers[peer];
        row.leases = row.leases.saturating_add_signed(step);
        let Some(old) = row.ask else { return };
        let ask = self.tasks[task].asks.remove(&old).expect("an ask is in its task");
        let key = self.ask_key(peer, old.number);
        self.peers[peer].ask = Some(key);
        self.tasks[task].asks.insert(key, ask);
    }

    /// Seconds for which it gets no lease, since its last one failed.
    pub(crate) fn cools_for(&self, peer: Slot<Peer>) -> u64 {
        u64::from(self.peers[peer].cool_until_s).saturating_sub(self.seconds())
    }

    fn seconds(&self) -> u64 {
        self.now.as_nanos() / 1_000_000_000
    }
}

impl Task {
    pub(crate) const fn free_count(&self) -> u32 {
        match &self.pieces {
            Tracking::Whole => 0,
            Tracking::Each(pieces) | Tracking::Sale(pieces) => pieces.free_count(),
        }
    }

    /// Whether every piece has left the origin and is at some host.
    pub(crate) const fn is_fetched(&self) -> bool {
        match &self.pieces {
            Tracking::Whole => true,
            Tracking::Each(pieces) | Tracking::Sale(pieces) => pieces.is_fetched(),
        }
    }

    /// Those of `pieces` that end at or below `upto`.
    fn pieces_below(&self, pieces: &Range<u32>, upto: u64) -> Range<u32> {
        let end = if upto >= self.geometry.length() {
            self.geometry.piece_count()
        } else {
            u32::try_from(upto / u64::from(self.geometry.piece_bytes())).unwrap_or(u32::MAX)
        };
        pieces.start..end.clamp(pieces.start, pieces.end)
    }
}
