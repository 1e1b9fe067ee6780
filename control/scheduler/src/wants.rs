//! From a want to a task: one host resolves, the others wait and are answered at once when it is done.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::{Geometry, HostId, Instant, TaskId};

use crate::cluster::{Cluster, Line, Timer, Work};
use crate::event::{Neighbor, OriginId, Resolution, ResolveFailure, Source, ToHost, WantId, WantKey};
use crate::host::{Host, OpenWant, Role};
use crate::origin::{Origin, bytes_in};
use crate::peers::TaskForm;
use crate::table::Slot;
use crate::task::{Peer, Task};

/// What a resolver's one GET asks for: what its link carries in this time. It goes to one host before anybody knows how
/// long the task is, so it is little of any task that is worth a swarm (simulated, 8 MiB to 1,000 hosts:
/// makespan_ratio 1.43 with 1 MiB, 1.41-1.42 with 256 KiB), and covers the round trip in which the next leases are given.
const RESOLVE_TIME: Duration = Duration::from_millis(2);
/// ... but this much on slow links.
const RESOLVE_BYTES_MIN: u64 = 256 << 10;
const RESOLVE_BYTES_MAX: u64 = 4 << 20;

/// Hosts that may try in turn before all are told that it failed.
const ATTEMPTS: u8 = 3;

/// An answer holds so long even when the origin allows no caching: those who waited for it must get it.
const VALID_MIN: Duration = Duration::from_secs(2);
/// And no longer than this, whatever an agent says.
const VALID_MAX: Duration = Duration::from_secs(24 * 3600);

/// A failure answers everybody who asks within this.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// Entries looked at for one to drop when the table is full.
const PRUNE_STEP: usize = 64;

/// No want's place in line: numbers start at 1.
const NOWHERE: u64 = 0;

/// What is known of one key, and who wants to know.
#[derive(Debug, Default)]
pub(crate) struct Resolve {
    pub(crate) active: Option<(HostId, WantId)>,
    pub(crate) waiters: Line,
    attempts: u8,
    known: Option<Known>,
    failed: Option<(ResolveFailure, Instant)>,
    /// Answers are for the asker alone until then.
    private_until: Instant,
    /// It stands in the queue of that origin.
    pub(crate) queued_at: Option<Slot<Origin>>,
}

#[derive(Clone, Debug)]
struct Known {
    task: TaskId,
    form: TaskForm,
    valid_until: Instant,
}

impl WantKey {
    /// What a resolve could be started for.
    const fn resolve_key(self) -> Option<ResolveKey> {
        match self {
            Self::Resolve(key) | Self::Digest(_, Some(key)) => Some(key),
            Self::Task(_) | Self::Digest(_, None) => None,
        }
    }
}

impl Resolve {
    fn is_idle(&self, now: Instant) -> bool {
        let is_valid = self.known.as_ref().is_some_and(|known| known.valid_until > now);
        self.active.is_none() && self.waiters.is_empty() && self.queued_at.is_none() && !is_valid
    }
}

impl Cluster {
    pub(crate) fn want(&mut self, host: Slot<Host>, want: WantId, key: WantKey, origin: Option<OriginId>) {
        let id = self.hosts[host].info.id;
        let wants_max = self.config.limits.wants_per_host_max;
        let wants = &mut self.hosts[host].wants;
        if let Some(open) = wants.get(&want).copied().filter(|open| open.key == key) {
            // Asked again, after a reconnect or a long wait: what was said holds.
            match open.role {
                Role::Resolves { key, .. } => self.tell_resolver(host, want, key),
                Role::Waits { place } if self.is_in_line(place, key) => self.tell_wait(host, want),
                // It was passed over while its stream was broken.
                Role::Waits { .. } => self.answer(id, want),
            }
            return;
        }
        if wants.len() >= wants_max {
            self.fail_want(host, want, busy("too many open wants on this host"), Some(Duration::from_secs(1)));
            return;
        }
        self.drop_want(host, want);
        self.hosts[host].wants.insert(want, OpenWant { key, origin, role: Role::Waits { place: NOWHERE } });
        self.answer(id, want);
    }

    fn is_in_line(&self, place: u64, key: WantKey) -> bool {
        let entry = key.resolve_key().and_then(|key| self.resolves.get(&key));
        entry.is_some_and(|entry| entry.waiters.contains_key(&place))
    }

    /// The want waits for the answer to `key`.
    fn stand_in_line(&mut self, host: Slot<Host>, want: WantId, key: ResolveKey) {
        let place = self.next_number();
        let row = &mut self.hosts[host];
        row.wants.get_mut(&want).expect("the want is open").role = Role::Waits { place };
        self.resolves.entry(key).or_default().waiters.insert(place, (row.info.id, want));
    }

    /// Answers a want that waits, with the best that is known now.
    pub(crate) fn answer(&mut self, id: HostId, want: WantId) {
        let Some(host) = self.host_slots.get(&id).copied() else { return };
        let Some(open) = self.hosts[host].wants.get(&want).copied().filter(OpenWant::waits) else {
            return;
        };
        let by_name = match open.key {
            WantKey::Task(task) => Some(task),
            WantKey::Digest(digest, _) => self.digests.get(&digest).copied(),
            WantKey::Resolve(_) => None,
        };
        if let Some(task) = by_name.and_then(|task| self.task_of(host, task)) {
            self.ready(host, want, task);
            return;
        }
        match open.key {
            WantKey::Resolve(key) | WantKey::Digest(_, Some(key)) => self.answer_resolve(host, want, key, open.origin),
            WantKey::Task(_) | WantKey::Digest(_, None) => {
                self.fail_want(host, want, failure("no host has this content"), None);
            }
        }
    }

    fn answer_resolve(&mut self, host: Slot<Host>, want: WantId, key: ResolveKey, origin: Option<OriginId>) {
        if !self.resolves.contains_key(&key) && !self.make_room_for_resolve(key) {
            self.fail_want(host, want, busy("the scheduler is full"), Some(Duration::from_secs(5)));
            return;
        }
        let entry = self.resolves.entry(key).or_default();
        if let Some(known) = entry.known.clone().filter(|known| known.valid_until > self.now) {
            match self.ensure_task(known.task, None, &known.form, origin) {
                Some(task) => {
                    self.ready(host, want, task);
                }
                None => self.fail_want(host, want, busy("the scheduler is full"), Some(Duration::from_secs(5))),
            }
            return;
        }
        if let Some((failure, _)) = entry.failed.clone().filter(|(_, until)| *until > self.now) {
            let retry = (!failure.is_final).then_some(FAILED_FOR);
            self.fail_want(host, want, failure, retry);
            return;
        }
        let is_private = entry.private_until > self.now;
        if entry.active.is_some() && !is_private {
            self.stand_in_line(host, want, key);
            self.tell_wait(host, want);
            return;
        }
        let Some(origin) = origin.and_then(|origin| self.ensure_origin(origin)) else {
            self.fail_want(host, want, failure("the want names no origin"), None);
            return;
        };
        if self.vacant_connections(origin) == 0 {
            self.stand_in_line(host, want, key);
            self.queue_resolve(origin, key);
            self.tell_wait(host, want);
            return;
        }
        self.begin_resolve(host, want, key, origin, is_private);
    }

    /// The origin's budget is spent: the next connection that comes free goes to a resolve.
    fn queue_resolve(&mut self, origin: Slot<Origin>, key: ResolveKey) {
        let entry = self.resolves.entry(key).or_default();
        if entry.queued_at.is_none() {
            entry.queued_at = Some(origin);
            let row = &mut self.origins[origin];
            row.resolves.push_back(key);
            row.users += 1;
        }
    }

    fn begin_resolve(
        &mut self,
        host: Slot<Host>,
        want: WantId,
        key: ResolveKey,
        origin: Slot<Origin>,
        is_private: bool,
    ) {
        let attempt = self.next_number();
        self.origins[origin].connections += 1;
        let silent_at = self.now + self.config.resolve_silence;
        let row = &mut self.hosts[host];
        let id = row.info.id;
        let open = row.wants.get_mut(&want).expect("the want is open");
        open.role = Role::Resolves { key, origin, attempt, told_at: self.now, silent_at, is_private };
        if !is_private {
            let entry = self.resolves.entry(key).or_default();
            assert!(entry.active.is_none(), "one resolver per key");
            entry.active = Some((id, want));
        }
        self.counters.resolves += 1;
        self.set_timer(self.config.resolve_silence, Timer::Resolver { host, want, attempt });
        self.tell_resolver(host, want, key);
    }

    fn tell_resolver(&mut self, host: Slot<Host>, want: WantId, key: ResolveKey) {
        let known = self.resolves.get(&key).and_then(|entry| entry.known.as_ref());
        let previous = known.map(|known| (known.task, known.form.validators.clone()));
        let valid = self.config.resolve_silence;
        let upto = bytes_in(self.hosts[host].info.link_bytes_per_s, RESOLVE_TIME);
        let upto = upto.clamp(RESOLVE_BYTES_MIN, RESOLVE_BYTES_MAX).next_power_of_two();
        self.send(host, ToHost::Resolve { want, upto, valid, previous });
    }

    fn tell_wait(&mut self, host: Slot<Host>, want: WantId) {
        self.send(host, ToHost::Wait { want, retry: self.config.resolve_silence * 2 });
    }

    fn fail_want(&mut self, host: Slot<Host>, want: WantId, failure: ResolveFailure, retry: Option<Duration>) {
        self.hosts[host].close_want(want);
        self.send(host, ToHost::WantFailed { want, failure, retry });
    }

    /// Makes the host a peer and tells it all that it needs.
    fn ready(&mut self, host: Slot<Host>, want: WantId, task: Slot<Task>) -> Option<Slot<Peer>> {
        self.hosts[host].close_want(want);
        let Some(peer) = self.ensure_peer(host, task) else {
            self.fail_want(host, want, busy("too many tasks on this host"), Some(Duration::from_secs(5)));
            return None;
        };
        if self.peers[peer].is_stale {
            self.renew(peer);
        }
        // Whoever asks anew may come with fresh credentials.
        self.peers[peer].is_refused = false;
        self.start_running(peer);
        let inline = self.inline.recall(self.tasks[task].id).map(<[u8]>::to_vec).unwrap_or_default();
        // Who has all of it at once needs nobody.
        if inline.is_empty() {
            self.contest(peer);
            self.find_neighbors(peer);
        }
        let neighbors: Vec<Neighbor> =
            self.peers[peer].mask.iter().map(|place| self.neighbor_at(host, place)).collect();
        let row = &self.tasks[task];
        let message = ToHost::Ready {
            want,
            task: row.id,
            geometry: row.geometry,
            validators: row.validators.clone(),
            neighbors,
            has_ranges: row.has_ranges,
            is_shared: row.owner.is_none(),
            inline,
        };
        self.send(host, message);
        self.remind_of_stripes(peer);
        self.allow(peer);
        self.clear_doubt(task);
        Some(peer)
    }

    pub(crate) fn resolving(&mut self, host: Slot<Host>, want: WantId) {
        let silence = self.config.resolve_silence;
        if let Some(open) = self.hosts[host].wants.get_mut(&want)
            && let Role::Resolves { silent_at, .. } = &mut open.role
        {
            *silent_at = self.now + silence;
        }
    }

    pub(crate) fn resolved(&mut self, host: Slot<Host>, want: WantId, mut resolution: Resolution) {
        let Some(open) = self.hosts[host].wants.get(&want).copied() else { return };
        // One that was replaced for its silence may still be first.
        let key = match open.role {
            Role::Resolves { key, .. } => Some(key),
            Role::Waits { .. } => open.key.resolve_key(),
        };
        let Some(key) = key else { return };
        self.release_resolver(host, want);
        if resolution.geometry.piece_count() > self.config.limits.pieces_max {
            self.fail_want(host, want, failure("the content has too many pieces"), None);
            self.hand_over(key);
            return;
        }
        resolution.validators.truncate(self.config.limits.validators_bytes_max);
        let valid_until = self.now + resolution.valid.clamp(VALID_MIN, VALID_MAX);
        let form = TaskForm {
            geometry: resolution.geometry,
            validators: resolution.validators,
            has_ranges: resolution.has_ranges,
            digest: resolution.digest,
        };
        let owner = (!resolution.is_shared).then_some(host);
        if resolution.inline.len() as u64 == resolution.geometry.length() && owner.is_none() && form.digest.is_some() {
            // Whoever resolves anew does so because what was remembered was no use.
            self.inline.forget(resolution.task);
            let inline = core::mem::take(&mut resolution.inline);
            self.inline.learn(resolution.task, inline, self.config.limits.inline_bytes_max);
        }
        let entry = self.resolves.entry(key).or_default();
        (entry.attempts, entry.failed) = (0, None);
        if owner.is_some() {
            (entry.private_until, entry.known) = (valid_until, None);
        } else {
            entry.private_until = Instant::ZERO;
            entry.known = Some(Known { task: resolution.task, form: form.clone(), valid_until });
        }
        let wants = core::mem::take(&mut entry.waiters);
        self.backlog.push_back(Work::Answer { wants });

        let Some(task) = self.ensure_task(resolution.task, owner, &form, open.origin) else {
            self.fail_want(host, want, busy("the scheduler is full"), Some(Duration::from_secs(5)));
            return;
        };
        if let (Role::Resolves { told_at, .. }, Some(origin)) = (open.role, self.tasks[task].origin) {
            self.origins[origin].answered(self.now.since(told_at));
        }
        self.remember_key(task, key);
        if let Some(peer) = self.ready(host, want, task) {
            self.first_lease(peer, resolution.arriving_bytes);
        }
        self.pump_all(open.origin);
    }

    pub(crate) fn resolve_failed(&mut self, host: Slot<Host>, want: WantId, mut failure: ResolveFailure) {
        let Some(open) = self.hosts[host].wants.get(&want).copied() else { return };
        let Role::Resolves { key, is_private, .. } = open.role else { return };
        self.release_resolver(host, want);
        truncate(&mut failure.text, self.config.limits.text_bytes_max);
        let retry = (!failure.is_final).then_some(FAILED_FOR);
        if !is_private {
            let entry = self.resolves.entry(key).or_default();
            entry.attempts += 1;
            if failure.is_final || entry.attempts >= ATTEMPTS {
                entry.attempts = 0;
                entry.failed = Some((failure.clone(), self.now + FAILED_FOR));
                let wants = core::mem::take(&mut entry.waiters);
                self.backlog.push_back(Work::Answer { wants });
            }
        }
        self.fail_want(host, want, failure, retry);
        self.hand_over(key);
        self.pump_all(open.origin);
    }

    /// The next one that waits resolves; false when nobody does.
    fn hand_over(&mut self, key: ResolveKey) -> bool {
        while let Some((place, (host, want))) = self.resolves.get_mut(&key).and_then(|entry| entry.waiters.pop_first())
        {
            let is_open = self.host_slots.get(&host).is_some_and(|slot| {
                let row = &self.hosts[*slot];
                row.is_connected && row.wants.get(&want).is_some_and(OpenWant::waits)
            });
            if is_open {
                self.backlog.push_back(Work::Answer { wants: Line::from([(place, (host, want))]) });
                return true;
            }
        }
        false
    }

    /// A connection to `origin` is free: true when a resolve that waited for one goes on.
    pub(crate) fn next_resolve(&mut self, origin: Slot<Origin>) -> bool {
        while let Some(key) = self.origins[origin].resolves.pop_front() {
            self.origins[origin].users -= 1;
            let entry = self.resolves.entry(key).or_default();
            entry.queued_at = None;
            if entry.private_until > self.now {
                // Each of them resolves for itself; those for whom there is no connection queue again.
                let wants = core::mem::take(&mut entry.waiters);
                self.backlog.push_back(Work::Answer { wants });
                return true;
            }
            if self.hand_over(key) {
                return true;
            }
        }
        false
    }

    /// Answers a want whose turn has come. It may turn out to need no connection, or to be gone: then the next one has
    /// its turn.
    pub(crate) fn answer_in_turn(&mut self, id: HostId, want: WantId) {
        let host = self.host_slots.get(&id);
        let origin = host.and_then(|host| self.hosts[*host].wants.get(&want)).and_then(|open| open.origin);
        self.answer(id, want);
        self.pump_all(origin);
    }

    pub(crate) fn check_resolver(&mut self, host: Slot<Host>, want: WantId, attempt: u64) {
        let Some(open) = self.hosts.get(host).and_then(|row| row.wants.get(&want)).copied() else { return };
        let Role::Resolves { key, attempt: current, silent_at, .. } = open.role else { return };
        if current != attempt {
            return;
        }
        if silent_at > self.now {
            self.set_timer(silent_at.since(self.now), Timer::Resolver { host, want, attempt });
            return;
        }
        self.counters.resolvers_replaced += 1;
        self.release_resolver(host, want);
        let has_waiter = self.resolves.get(&key).is_some_and(|entry| !entry.waiters.is_empty());
        self.stand_in_line(host, want, key);
        if has_waiter {
            self.tell_wait(host, want);
        }
        self.hand_over(key);
        self.pump_all(open.origin);
    }

    /// Takes the role from a resolver and gives its connection back; its want waits.
    fn release_resolver(&mut self, host: Slot<Host>, want: WantId) {
        let row = &mut self.hosts[host];
        let id = row.info.id;
        let Some(open) = row.wants.get_mut(&want) else { return };
        let Role::Resolves { key, origin, .. } = open.role else { return };
        open.role = Role::Waits { place: NOWHERE };
        self.origins[origin].connections -= 1;
        if let Some(entry) = self.resolves.get_mut(&key)
            && entry.active == Some((id, want))
        {
            entry.active = None;
        }
        self.release_origin(origin);
    }

    /// The host has no such want any more.
    pub(crate) fn drop_want(&mut self, host: Slot<Host>, want: WantId) {
        let Some(open) = self.hosts[host].wants.get(&want).copied() else { return };
        self.release_resolver(host, want);
        self.hosts[host].close_want(want);
        match open.role {
            Role::Resolves { key, .. } => {
                self.hand_over(key);
                self.pump_all(open.origin);
            }
            Role::Waits { place } => {
                if let Some(entry) = open.key.resolve_key().and_then(|key| self.resolves.get_mut(&key)) {
                    entry.waiters.remove(&place);
                }
            }
        }
    }

    /// Takes over what an agent remembers, so that a restarted scheduler need not ask the origin again.
    pub(crate) fn learn(&mut self, task: Slot<Task>, source: &Source) {
        if source.valid.is_zero() || !self.resolves.contains_key(&source.key) && !self.make_room_for_resolve(source.key)
        {
            return;
        }
        let row = &self.tasks[task];
        let form = TaskForm {
            geometry: row.geometry,
            validators: row.validators.clone(),
            has_ranges: row.has_ranges,
            digest: row.digest,
        };
        let known = Known { task: row.id, form, valid_until: self.now + source.valid.min(VALID_MAX) };
        let entry = self.resolves.entry(source.key).or_default();
        if entry.known.as_ref().is_none_or(|old| old.valid_until < known.valid_until) && entry.active.is_none() {
            entry.known = Some(known);
            // Those who waited for a connection need none now.
            let wants = core::mem::take(&mut entry.waiters);
            self.backlog.push_back(Work::Answer { wants });
            self.remember_key(task, source.key);
        }
    }

    /// The origin has something else now.
    pub(crate) fn forget_known(&mut self, key: ResolveKey, task: TaskId) {
        if let Some(entry) = self.resolves.get_mut(&key)
            && entry.known.as_ref().is_some_and(|known| known.task == task)
        {
            entry.known = None;
        }
    }

    /// True when there is room for one more key; looks at a few old ones, each time others, because `near` is random.
    fn make_room_for_resolve(&mut self, near: ResolveKey) -> bool {
        if self.resolves.len() < self.config.limits.resolves_max {
            return true;
        }
        let around = self.resolves.range(near..).chain(self.resolves.range(..near)).take(PRUNE_STEP);
        let idle: Vec<ResolveKey> = around.filter(|(_, entry)| entry.is_idle(self.now)).map(|(key, _)| *key).collect();
        for key in &idle {
            self.resolves.remove(key);
        }
        !idle.is_empty()
    }

    pub(crate) fn learn_digest(&mut self, digest: Option<Digest>, task: TaskId) {
        if let Some(digest) = digest {
            self.digests.insert(digest, task);
        }
    }

    pub(crate) fn geometry_of(&self, task: Slot<Task>) -> Geometry {
        self.tasks[task].geometry
    }
}

fn failure(text: &str) -> ResolveFailure {
    ResolveFailure { is_final: true, status: 0, text: String::from(text) }
}

fn busy(text: &str) -> ResolveFailure {
    ResolveFailure { is_final: false, status: 0, text: String::from(text) }
}

/// Cuts `text` to at most `bytes`, at a character.
fn truncate(text: &mut String, bytes: usize) {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    // Kept for a while: a text of megabytes must not stay allocated.
    text.shrink_to_fit();
}
