//! Peers of tasks come, finish and go; with the last one its task goes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::trust::Allowance;
use hawker_proto::{Geometry, TaskId};

use crate::cluster::{Cluster, Work};
use crate::event::{OriginId, ToHost};
use crate::host::{Host, Places};
use crate::members::{Members, Position};
use crate::origin::Origin;
use crate::pieces::Pieces;
use crate::table::Slot;
use crate::task::{Peer, Task, Tracking};

/// Leases that a host is believed to hold of one task: as many as it may, and those of an earlier life.
pub(crate) const LEASES_NAMED_MAX: usize = 16;

/// Allowances signed at a time, at some 20 microseconds each.
const ALLOWANCES_PER_STEP: usize = 2;

/// Keys remembered per task.
const KEYS_MAX: usize = 8;

/// An allowance outlives any outage that a scheduler's operator sleeps through; it is small.
const ALLOWANCE_VALID_MS: u64 = 24 * 3600 * 1000;

/// Beyond so many peers each gets a fiftieth of the file, which is then less than the whole file's share would be.
const ALLOWANCE_SHARES_MAX: usize = 64;

/// What defines a task, besides its name.
#[derive(Clone, Debug)]
pub(crate) struct TaskForm {
    pub(crate) geometry: Geometry,
    pub(crate) validators: Vec<u8>,
    pub(crate) has_ranges: bool,
    pub(crate) digest: Option<Digest>,
}

impl Cluster {
    /// The task, made when it is new. `None` when there are too many, or it is known with another geometry.
    pub(crate) fn ensure_task(
        &mut self,
        id: TaskId,
        owner: Option<Slot<Host>>,
        form: &TaskForm,
        origin: Option<OriginId>,
    ) -> Option<Slot<Task>> {
        if let Some(task) = self.task_slots.get(&(id, owner)).copied() {
            let row = &mut self.tasks[task];
            if row.geometry != form.geometry {
                return None;
            }
            if !form.validators.is_empty() {
                row.validators.clone_from(&form.validators);
            }
            // An origin answers for itself: what was said last is true.
            row.is_changed = false;
            self.set_origin(task, origin);
            return Some(task);
        }
        if self.tasks.len() >= self.config.limits.tasks_max {
            return None;
        }
        let task = self.tasks.insert(Task {
            id,
            owner,
            geometry: form.geometry,
            origin: None,
            has_ranges: form.has_ranges,
            is_changed: false,
            validators: form.validators.clone(),
            digest: form.digest,
            keys: Vec::new(),
            peers: Members::default(),
            running_count: 0,
            complete_count: 0,
            pieces: Tracking::Each(Pieces::free(form.geometry.piece_count())),
            leases: Vec::new(),
            fetched: Vec::new(),
            lost_count: 0,
            asks: BTreeMap::new(),
            settle: None,
            round: None,
            link_rates: 0,
            sales: 0,
            is_rewiring: false,
            allowance_shares: 0,
            is_refusing: false,
        });
        self.task_slots.insert((id, owner), task);
        self.learn_digest(form.digest.filter(|_| owner.is_none()), id);
        self.set_origin(task, origin);
        Some(task)
    }

    pub(crate) fn set_origin(&mut self, task: Slot<Task>, origin: Option<OriginId>) {
        if self.tasks[task].origin.is_some() {
            return;
        }
        let Some(origin) = origin.and_then(|origin| self.ensure_origin(origin)) else { return };
        self.tasks[task].origin = Some(origin);
        let row = &mut self.origins[origin];
        row.users += 1;
        // Leases announced before anybody said whence.
        for lease in &self.tasks[task].leases {
            row.lease_opened(self.now, lease.bytes - lease.reported);
        }
    }

    pub(crate) fn ensure_origin(&mut self, id: OriginId) -> Option<Slot<Origin>> {
        if let Some(origin) = self.origin_slots.get(&id) {
            return Some(*origin);
        }
        if self.origins.len() >= self.config.limits.origins_max {
            return None;
        }
        let origin = self.origins.insert(Origin::new(id, self.now, self.config.origin_bytes_per_s));
        self.origin_slots.insert(id, origin);
        Some(origin)
    }

    /// Forgets the origin when nothing names it.
    pub(crate) fn release_origin(&mut self, origin: Slot<Origin>) {
        if self.origins.get(origin).is_some_and(Origin::is_unused) {
            let row = self.origins.remove(origin);
            self.origin_slots.remove(&row.id);
        }
    }

    pub(crate) fn remember_key(&mut self, task: Slot<Task>, key: ResolveKey) {
        let keys = &mut self.tasks[task].keys;
        if !keys.contains(&key) && keys.len() < KEYS_MAX {
            keys.push(key);
        }
    }

    /// The host's part in the task, made when it is new. `None` when the host has too many. A task that nobody else
    /// has is dropped again then.
    pub(crate) fn ensure_peer(&mut self, host: Slot<Host>, task: Slot<Task>) -> Option<Slot<Peer>> {
        if let Some(peer) = self.hosts[host].peers.get(task) {
            return Some(peer);
        }
        if self.hosts[host].peers.len() >= self.config.limits.tasks_per_host_max {
            self.drop_task_if_empty(task);
            return None;
        }
        let peer = self.peers.insert(Peer {
            host,
            task,
            mask: Places::default(),
            ask: None,
            position: 0,
            asked_in: 0,
            cool_until_s: 0,
            leases: 0,
            failures: 0,
            far_degree: 0,
            is_running: false,
            is_complete: false,
            is_refused: false,
            is_stale: false,
            is_lonely: false,
        });
        let row = &mut self.tasks[task];
        self.peers[peer].position = row.peers.push(self.hosts[host].zone, peer);
        row.link_rates = row.link_rates.saturating_add(self.hosts[host].info.link_bytes_per_s);
        self.hosts[host].peers.insert(task, peer);
        Some(peer)
    }

    /// A new agent on a known host wants a task that an older one had: nothing of that counts any more. (Should it be
    /// the older one after all, its answer to the report puts everything right.)
    pub(crate) fn renew(&mut self, peer: Slot<Peer>) {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        self.forget_ask(peer);
        for serial in self.leases_of(host, task) {
            self.close_lease(serial, None, false);
        }
        let row = &mut self.peers[peer];
        (row.is_stale, row.is_refused, row.failures) = (false, false, 0);
        let was_complete = core::mem::take(&mut row.is_complete);
        self.forget_pieces(task, host, was_complete);
    }

    fn leases_of(&self, host: Slot<Host>, task: Slot<Task>) -> Vec<u64> {
        self.tasks[task].leases.iter().filter(|lease| lease.holder == host).map(|lease| lease.serial).collect()
    }

    pub(crate) fn start_running(&mut self, peer: Slot<Peer>) {
        let row = &mut self.peers[peer];
        if !row.is_complete && !row.is_running {
            row.is_running = true;
            self.tasks[row.task].running_count += 1;
        }
    }

    pub(crate) fn stop_running(&mut self, peer: Slot<Peer>) {
        let row = &mut self.peers[peer];
        if row.is_running {
            row.is_running = false;
            self.tasks[row.task].running_count -= 1;
        }
    }

    pub(crate) fn finished(&mut self, host: Slot<Host>, task: TaskId) {
        if let Some(peer) = self.peer_of(host, task) {
            self.complete(peer);
        }
    }

    /// The peer has everything: from now on no byte need leave the origin.
    pub(crate) fn complete(&mut self, peer: Slot<Peer>) {
        self.stop_running(peer);
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let row = &mut self.peers[peer];
        row.is_stale = false;
        if row.is_complete {
            return;
        }
        row.is_complete = true;
        let row = &mut self.tasks[task];
        row.complete_count += 1;
        (row.pieces, row.round) = (Tracking::Whole, None);
        self.refuse_all_asks(task);
        // Two that have everything have nothing to tell each other; their places in pools go to other tasks.
        let idle: Vec<Slot<Peer>> = self.peers[peer]
            .mask
            .iter()
            .map(|place| self.neighbor_peer(host, task, place))
            .filter(|other| self.peers[*other].is_complete)
            .collect();
        for other in idle {
            self.cut(peer, other);
            self.drop_idle_holder(other);
        }
        self.drop_idle_holder(peer);
    }

    /// A complete peer that nobody links with is one of few that are remembered: it may still be asked for.
    pub(crate) fn drop_idle_holder(&mut self, peer: Slot<Peer>) {
        let row = &self.peers[peer];
        let is_idle = row.is_complete && row.mask.is_empty();
        if is_idle && self.tasks[row.task].complete_count > self.config.limits.cached_holders_max {
            self.remove_peer(peer);
        }
    }

    pub(crate) fn left(&mut self, host: Slot<Host>, task: TaskId) {
        if let Some(peer) = self.peer_of(host, task) {
            self.remove_peer(peer);
        }
    }

    /// Takes a peer out of its task: its leases end, what only it had is in doubt, its neighbors get others.
    pub(crate) fn remove_peer(&mut self, peer: Slot<Peer>) {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let origin = self.tasks[task].origin.map(|origin| self.origins[origin].id);
        self.forget_ask(peer);
        self.stop_running(peer);
        for serial in self.leases_of(host, task) {
            self.close_lease(serial, None, false);
        }
        let others: Vec<Slot<Peer>> =
            self.peers[peer].mask.iter().map(|place| self.neighbor_peer(host, task, place)).collect();
        for other in others {
            self.cut(peer, other);
            self.feel_lonely(other);
            self.drop_idle_holder(other);
        }
        self.hosts[host].peers.remove(task);
        let gone = self.peers.remove(peer);
        let zone = self.hosts[host].zone;
        self.leave_list(task, zone, gone.position);
        let row = &mut self.tasks[task];
        row.link_rates = row.link_rates.saturating_sub(self.hosts[host].info.link_bytes_per_s);
        if let Some(round) = row.round.as_mut().filter(|round| gone.asked_in == round.mark()) {
            round.unanswered -= 1;
        }
        self.forget_pieces(task, host, gone.is_complete);
        if self.drop_task_if_empty(task) {
            self.pump_all(origin);
        } else {
            self.seek_importers(task, zone);
            self.clear_doubt(task);
            self.pump_task(task);
        }
    }

    /// Takes the peer at `position` out of its list.
    fn leave_list(&mut self, task: Slot<Task>, zone: u16, position: u32) {
        for (moved, position) in self.tasks[task].peers.remove(zone, position).into_iter().flatten() {
            self.peers[moved].position = position;
        }
    }

    fn forget_pieces(&mut self, task: Slot<Task>, host: Slot<Host>, was_complete: bool) {
        let row = &mut self.tasks[task];
        row.complete_count -= u32::from(was_complete);
        row.fetched.retain(|(_, holder)| *holder != host);
        match &mut row.pieces {
            Tracking::Whole | Tracking::Sale(_) if row.complete_count == 0 => {
                let mut pieces = Pieces::in_doubt(row.geometry.piece_count());
                for lease in &row.leases {
                    pieces.adopt(&lease.pieces);
                }
                row.pieces = Tracking::Each(pieces);
            }
            Tracking::Whole | Tracking::Sale(_) => {}
            Tracking::Each(pieces) => pieces.forget(host),
        }
    }

    pub(crate) fn drop_task_if_empty(&mut self, task: Slot<Task>) -> bool {
        if !self.tasks[task].peers.is_empty() {
            return false;
        }
        let row = self.tasks.remove(task);
        assert!(row.leases.is_empty() && row.asks.is_empty(), "leases and asks go with their peers");
        self.task_slots.remove(&(row.id, row.owner));
        if let Some(digest) = row.digest.filter(|digest| self.digests.get(digest) == Some(&row.id)) {
            self.digests.remove(&digest);
        }
        if let Some(origin) = row.origin {
            self.origins[origin].hungry.remove(&task);
            self.origins[origin].users -= 1;
            self.release_origin(origin);
        }
        true
    }

    pub(crate) fn progress(&mut self, host: Slot<Host>, task: TaskId, leases: &[(u64, u64)]) {
        if self.peer_of(host, task).is_none() {
            return;
        }
        for (serial, upto) in leases.iter().take(LEASES_NAMED_MAX) {
            self.lease_progress(host, *serial, *upto);
        }
    }

    /// Gives the peer what it may fetch while no scheduler answers: over all peers at most one file, or 2 % of what
    /// they fetch together. When there are twice as many peers each gets half; the new ones replace the old.
    pub(crate) fn allow(&mut self, peer: Slot<Peer>) {
        let task = self.peers[peer].task;
        let row = &mut self.tasks[task];
        if row.origin.is_none() || row.geometry.length() == 0 {
            return;
        }
        let shares = row.peers.len().min(ALLOWANCE_SHARES_MAX).next_power_of_two();
        let shares = u32::try_from(shares).expect("at most 64");
        if shares == row.allowance_shares {
            self.send_allowance(peer, shares);
            return;
        }
        row.allowance_shares = shares;
        self.backlog.push_back(Work::Allow { task, shares, from: Position::END });
    }

    /// Sends the next of a task's peers their new allowances, from the end of its lists, so that a peer that is moved
    /// there from the end has had its own. True when there are more.
    pub(crate) fn allow_next(&mut self, task: Slot<Task>, shares: u32, from: &mut Position) -> bool {
        for _ in 0..ALLOWANCES_PER_STEP {
            let Some(row) = self.tasks.get(task).filter(|row| row.allowance_shares == shares) else { return false };
            let Some((at, peer)) = row.peers.before(*from) else { return false };
            *from = at;
            self.send_allowance(peer, shares);
        }
        true
    }

    fn send_allowance(&mut self, peer: Slot<Peer>, shares: u32) {
        let (host, task) = (self.peers[peer].host, self.peers[peer].task);
        let row = &self.tasks[task];
        let Some(origin) = row.origin.filter(|_| self.peers[peer].is_running) else { return };
        let length = row.geometry.length();
        let least = u64::from(row.geometry.piece_bytes()).min(length);
        let bytes = (length / u64::from(shares)).max(length / 50).max(least);
        let allowance = Allowance {
            host: self.hosts[host].info.key,
            origin: self.origins[origin].id.0,
            bytes,
            epoch: self.epoch,
            expires_unix_ms: self.unix_ms.saturating_add(ALLOWANCE_VALID_MS),
        };
        let (task, allowance) = (row.id, allowance.sign(&self.key));
        self.send(host, ToHost::Allowance { task, allowance });
    }
}
