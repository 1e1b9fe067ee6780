//! What hosts say they have: after a restart of either side, and when a host that had pieces is gone.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use hawker_proto::trust::SignedLease;
use hawker_proto::{PieceIndex, TaskId};

use crate::cluster::{Cluster, Timer, Work};
use crate::config::SETTLE_MAX;
use crate::event::{Announcement, Neighbor, ToHost};
use crate::host::Host;
use crate::peers::{LEASES_NAMED_MAX, TaskForm};
use crate::table::Slot;
use crate::task::{Lease, Peer, REPORT_WAIT, Round, Settle, Task, Tracking};

/// How long a scheduler's life counts as young: agents come back within a few backoffs.
const YOUTH: Duration = Duration::from_secs(30);

/// Peers asked in the first part of a round; each further part asks twice as many.
const FIRST_PART: u32 = 64;

/// Peers asked at a time.
const REPORTS_PER_STEP: usize = 64;

impl Cluster {
    pub(crate) fn announce(&mut self, host: Slot<Host>, announcement: Announcement) {
        let Announcement { task: id, geometry, have, is_running, leases, origin, .. } = announcement;
        if geometry.piece_count() > self.config.limits.pieces_max || have.piece_count() != geometry.piece_count() {
            return;
        }
        if !have.is_full() {
            self.no_longer_complete(host, id);
        }
        let owner = (!announcement.is_shared).then_some(host);
        let is_new = !self.task_slots.contains_key(&(id, owner));
        let mut validators = announcement.source.as_ref().map_or(Vec::new(), |source| source.validators.clone());
        validators.truncate(self.config.limits.validators_bytes_max);
        let form = TaskForm { geometry, validators, has_ranges: announcement.has_ranges, digest: announcement.digest };
        let was_changed = self.task_slots.get(&(id, owner)).is_some_and(|task| self.tasks[*task].is_changed);
        let Some(task) = self.ensure_task(id, owner, &form, origin) else { return };
        // Only a resolve proves that the origin has it again.
        self.tasks[task].is_changed = was_changed;
        let holders = self.tasks[task].complete_count;
        let is_surplus = !is_running && have.is_full() && holders >= self.config.limits.cached_holders_max;
        if is_surplus && self.hosts[host].peers.get(task).is_none() {
            return;
        }
        let Some(peer) = self.ensure_peer(host, task) else { return };
        self.peers[peer].is_stale = false;
        self.note_settling(task, is_new);
        self.replace_leases(peer, &leases);
        let row = &mut self.tasks[task];
        let has = |pieces: &Range<u32>| pieces.clone().all(|piece| have.contains(PieceIndex(piece)));
        row.fetched.retain(|(pieces, holder)| *holder != host || has(pieces));
        if let Tracking::Each(pieces) = &mut row.pieces {
            pieces.witness(host, &have);
        }
        self.note_answer(peer);
        if let Some(source) = announcement.source.filter(|_| owner.is_none()) {
            self.learn(task, &source);
        }
        if have.is_full() {
            self.complete(peer);
        } else if is_running {
            // It would not ask for a lease while its origin refuses it.
            self.peers[peer].is_refused = false;
            self.start_running(peer);
        } else {
            self.stop_running(peer);
        }
        // A complete holder that nobody needs may have been dropped again.
        if self.hosts[host].peers.get(task) == Some(peer) {
            self.welcome(peer);
        }
        if self.tasks.get(task).is_some_and(|row| row.id == id) {
            self.clear_doubt(task);
            self.pump_task(task);
        }
    }

    /// Tells a peer that announced itself whom to link with.
    fn welcome(&mut self, peer: Slot<Peer>) {
        let (host, is_running) = (self.peers[peer].host, self.peers[peer].is_running);
        self.contest(peer);
        if is_running {
            self.find_neighbors(peer);
            self.allow(peer);
        } else {
            self.offer(peer);
        }
        let add: Vec<Neighbor> = self.peers[peer].mask.iter().map(|place| self.neighbor_at(host, place)).collect();
        if !add.is_empty() {
            self.send_neighbors(peer, add, Vec::new());
        }
        self.remind_of_stripes(peer);
    }

    /// A host that had everything says that it has not (pieces went bad, or a new agent found less on disk): it comes
    /// in anew.
    fn no_longer_complete(&mut self, host: Slot<Host>, id: TaskId) {
        if let Some(peer) = self.peer_of(host, id).filter(|peer| self.peers[*peer].is_complete) {
            self.remove_peer(peer);
        }
    }

    /// The leases a host names are the ones it fetches; others from before its stream was opened are void. One of this
    /// stream may be on its way still, and passed the announcement.
    fn replace_leases(&mut self, peer: Slot<Peer>, named: &[SignedLease]) {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let is_named = |serial: u64| named.iter().any(|signed| signed.lease.serial == serial);
        let stay = self.hosts[host].stay;
        let held = self.tasks[task].leases.iter().filter(|lease| lease.holder == host && lease.stay != stay);
        let void: Vec<u64> = held.map(|lease| lease.serial).filter(|serial| !is_named(*serial)).collect();
        for serial in void {
            self.close_lease(serial, None, false);
        }
        for signed in named.iter().take(LEASES_NAMED_MAX) {
            self.adopt_lease(host, task, signed);
        }
    }

    /// A lease of an earlier life of ours, still running.
    fn adopt_lease(&mut self, host: Slot<Host>, task: Slot<Task>, signed: &SignedLease) {
        let lease = &signed.lease;
        let row = &self.tasks[task];
        let is_his = lease.task == row.id && lease.holder == self.hosts[host].info.key;
        let pieces = row.geometry.pieces_within(lease.range);
        let is_known = self.lease_tasks.contains_key(&lease.serial);
        let is_whole = row.geometry.range_of_pieces(pieces.clone()) == lease.range && !pieces.is_empty();
        if !is_his || is_known || !is_whole || lease.expires_unix_ms <= self.unix_ms || row.leases.len() >= 64 {
            return;
        }
        if signed.verify(&[self.key.public()]).is_err() {
            return;
        }
        let Tracking::Each(states) = &mut self.tasks[task].pieces else { return };
        if !states.adopt(&pieces) {
            return;
        }
        let left = Duration::from_millis(lease.expires_unix_ms - self.unix_ms);
        let adopted = Lease {
            serial: lease.serial,
            holder: host,
            stay: self.hosts[host].stay,
            pieces,
            reported: 0,
            bytes: lease.range.length(),
            start: lease.range.start(),
            granted_at: None,
        };
        self.counters.leases_adopted += 1;
        self.track_lease(task, adopted, left.min(Duration::from_secs(900)));
    }

    /// Shortly after a restart the first to announce a task is hardly the only one.
    fn note_settling(&mut self, task: Slot<Task>, is_new: bool) {
        let age = self.started_at.map_or(Duration::MAX, |at| self.now.since(at));
        let quiet = self.config.settle;
        let now = self.now;
        let row = &mut self.tasks[task];
        if is_new && age < YOUTH && !quiet.is_zero() {
            row.settle = Some(Settle { until: now + quiet, latest: now + SETTLE_MAX });
        } else if let Some(settle) = &mut row.settle {
            settle.until = (now + quiet).min(settle.latest);
        } else {
            return;
        }
        self.set_timer(quiet, Timer::Settle { task });
    }

    pub(crate) fn end_settle(&mut self, task: Slot<Task>) {
        let Some(row) = self.tasks.get_mut(task) else { return };
        if row.settle.is_some_and(|settle| settle.until <= self.now) {
            row.settle = None;
            self.pump_task(task);
        }
    }

    /// Starts asking the peers about pieces in doubt, unless that is under way.
    pub(crate) fn clear_doubt(&mut self, task: Slot<Task>) {
        let is_doubtful = self.doubt_count(task) > 0;
        if !is_doubtful {
            self.tasks[task].round = None;
            return;
        }
        if self.tasks[task].round.is_none() {
            let row = &mut self.tasks[task];
            row.round = Some(Round { part: 0, left: 0, next: FIRST_PART, unanswered: 0 });
            row.peers.forget_asked();
            self.next_part(task);
        }
    }

    fn doubt_count(&self, task: Slot<Task>) -> u32 {
        match &self.tasks[task].pieces {
            Tracking::Whole | Tracking::Sale(_) => 0,
            Tracking::Each(pieces) => pieces.doubt_count(),
        }
    }

    /// Asks more peers, or ends the round when all were asked: what nobody has must leave the origin again.
    fn next_part(&mut self, task: Slot<Task>) {
        let part = self.next_number();
        let row = &mut self.tasks[task];
        let Some(round) = &mut row.round else { return };
        if row.peers.are_all_asked() {
            row.round = None;
            if let Tracking::Each(pieces) = &mut row.pieces {
                pieces.free_doubtful();
            }
            self.pump_task(task);
            return;
        }
        (round.part, round.left, round.unanswered) = (part, round.next, 0);
        round.next = round.next.saturating_mul(2);
        if self.ask_peers(task, part) {
            self.backlog.push_back(Work::Report { task, part });
        }
    }

    /// Asks the next peers of a part, and waits for their answers when all of it are asked. True when there are more.
    pub(crate) fn ask_peers(&mut self, task: Slot<Task>, part: u64) -> bool {
        for _ in 0..REPORTS_PER_STEP {
            let Some(row) = self.tasks.get_mut(task) else { return false };
            let Some(round) = row.round.as_mut().filter(|round| round.part == part) else { return false };
            let next = if round.left > 0 { row.peers.next_to_ask() } else { None };
            let Some(peer) = next else {
                if round.unanswered == 0 {
                    self.next_part(task);
                } else {
                    self.set_timer(REPORT_WAIT, Timer::Report { task, part });
                }
                return false;
            };
            let (id, host) = (row.id, self.peers[peer].host);
            if self.hosts[host].is_connected {
                round.left -= 1;
                round.unanswered += 1;
                self.peers[peer].asked_in = round.mark();
                self.send(host, ToHost::Report { task: id });
            }
        }
        true
    }

    pub(crate) fn end_part(&mut self, task: Slot<Task>, part: u64) {
        if self.tasks.get(task).and_then(|row| row.round).is_some_and(|round| round.part == part) {
            self.next_part(task);
        }
    }

    fn note_answer(&mut self, peer: Slot<Peer>) {
        let row = &mut self.peers[peer];
        let (task, asked_in) = (row.task, core::mem::take(&mut row.asked_in));
        let row = &mut self.tasks[task];
        let Some(round) = row.round.as_mut().filter(|round| round.mark() == asked_in) else { return };
        round.unanswered -= 1;
        // While some of the part are still to be asked, its end comes with the last of them.
        let is_asked = round.left == 0 || row.peers.are_all_asked();
        if is_asked && round.unanswered == 0 && self.doubt_count(task) > 0 {
            self.next_part(task);
        }
    }
}
