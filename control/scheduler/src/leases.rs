//! Origin leases: how they begin, move and end. Who gets which stands in [`crate::asks`].

use core::ops::Range;
use core::time::Duration;

use hawker_proto::trust::Lease as SignableLease;

use crate::asks::RETRY_MIN;
use crate::cluster::{Cluster, Timer};
use crate::event::{LeaseOutcome, ToHost};
use crate::host::Host;
use crate::origin::Origin;
use crate::table::Slot;
use crate::task::{Lease, Peer, Task, Tracking};

/// Rate assumed for the time of a lease when nothing is known: slow, because one that runs out while it moves is fetched
/// twice, and a holder that falls silent is seen much earlier.
const RATE_UNKNOWN: u64 = 32 << 10;
const LEASE_TIME_MIN: Duration = Duration::from_secs(2);
const LEASE_TIME_MAX: Duration = Duration::from_secs(900);
/// The holder counts from receipt: for so long after its time is over it may still be fetching.
const LEASE_TIME_SLACK: Duration = Duration::from_secs(1);
/// Doublings of lease times at most: 2 s become 8 min.
const PATIENCE_MAX: u32 = 8;
/// An origin may ask for so much quiet.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// What an agent says when the origin did not.
const QUIET_SHORT: Duration = Duration::from_secs(1);

impl Cluster {
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
