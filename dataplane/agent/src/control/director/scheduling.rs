//! What schedulers say, and what is done while the cluster's is away.

use std::time::Duration;

use hawker_proto::resolve::Digest;
use hawker_proto::trust::{SignedAllowance, SignedLease};
use hawker_proto::{Geometry, HostId, PieceIndex, PublicKey, Stripes, TaskId};
use hawker_scheduler::{Input, Neighbor, ResolveFailure, ToHost, WantId};
use tokio::time::Instant;

use super::about::{About, VALID, VALID_NAMED};
use super::early::Early;
use super::flight::{Duty, Stage};
use super::landing::learned;
use super::named::is_named;
use super::running::{Held, State};
use super::{Director, Internal, Outbox, bare_serial};
use crate::control::caller::Failure;
use crate::control::link::{LinkEvent, Side, Welcome};
use crate::control::validators::ValidatorSet;
use crate::seam::ShardCommand;

/// Bounds of what a resolve may be told to ask for: a block, and the largest lease.
const FIRST_BYTES_MIN: u64 = 256 * 1024;
const FIRST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often downloads are reported when nobody says how often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Keys of earlier schedulers whose signatures count. Each costs a check of records that nobody we know vouched for.
const EARLIER_KEYS_MAX: usize = 4;
/// When there is nobody to ask, a shard asks again after this.
const NO_LEASE_RETRY: Duration = Duration::from_millis(500);

impl Director {
    pub(super) async fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(welcome) => self.on_up(welcome).await,
            LinkEvent::Down => self.on_down().await,
            LinkEvent::Message(side, message) => self.on_message(side, message).await,
        }
    }

    async fn on_up(&mut self, welcome: Welcome) {
        self.learn_keys(&welcome.keys);
        self.session = Some(welcome);
        self.late.clear();
        self.tell_all(|| ShardCommand::Scheduler { is_connected: true, keys: self.keys.clone() }).await;
        let open: Vec<TaskId> = self.tasks.keys().copied().collect();
        for task in open {
            let Some(running) = self.tasks.get(&task) else { continue };
            if running.side == Side::Own && running.is_active() && running.about.is_shared {
                self.join_cluster(task).await;
            } else if running.side == Side::Cluster {
                self.announce(task);
            }
        }
        // Whoever resolves already does so for the cluster too.
        let wants: Vec<WantId> = self.flights.keys().copied().collect();
        for want in wants {
            if let Some(flight) = self.flights.get_mut(&want) {
                flight.duty = Duty::None;
            }
            self.want(want);
        }
        self.announce_cached();
        self.parts.tags.session_opened();
    }

    /// A scheduler that lost its directory has another key. What was vouched for under the one before is as right as it
    /// was, so that downloads go on with it; all of these keys belonged to schedulers that proved the cluster key to us.
    fn learn_keys(&mut self, keys: &[PublicKey]) {
        let earlier = std::mem::replace(&mut self.keys, keys.to_vec());
        for key in earlier {
            if self.keys.len() < keys.len() + EARLIER_KEYS_MAX && !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
    }

    async fn on_down(&mut self) {
        self.session = None;
        self.down_at = Some(Instant::now());
        self.late.clear();
        self.tell_all(|| ShardCommand::Scheduler { is_connected: false, keys: self.keys.clone() }).await;
        let wants: Vec<WantId> = self.flights.keys().copied().collect();
        for want in wants {
            if let Some(flight) = self.flights.get_mut(&want) {
                flight.duty = Duty::None;
            }
            // Those that wait for the scheduler wait no longer.
            self.resolve(want);
        }
    }

    async fn on_message(&mut self, side: Side, message: ToHost) {
        match message {
            // Our own scheduler knows nobody and was told what it answers; records under its allowance prove nothing.
            ToHost::Ready { .. }
            | ToHost::Resolve { .. }
            | ToHost::Wait { .. }
            | ToHost::WantFailed { .. }
            | ToHost::Allowance { .. }
                if side == Side::Own => {}
            ToHost::Ready { want, task, geometry, validators, neighbors, has_ranges, is_shared, inline } => {
                let named = Named { task, geometry, validators, has_ranges, is_shared, inline };
                self.on_ready(want, named, neighbors).await;
            }
            ToHost::Resolve { want, upto, .. } => self.on_resolve(want, upto).await,
            ToHost::Wait { want, retry } => self.on_wait(want, retry),
            ToHost::WantFailed { want, failure, retry } => self.on_want_failed(want, &failure, retry),
            ToHost::Neighbors { task, add, remove } => self.on_neighbors(task, add, remove).await,
            ToHost::Imports { task, stripes } => self.on_imports(task, stripes).await,
            ToHost::Lease { lease, valid } => self.on_lease(side, lease, valid).await,
            ToHost::NoLease { task, retry, is_changed, .. } => self.on_no_lease(side, task, retry, is_changed).await,
            ToHost::Allowance { task, allowance } => self.on_allowance(task, allowance).await,
            ToHost::Ban { host } => self.on_ban(host).await,
            ToHost::Tag { tag, fact } => self.parts.tags.heard(tag, fact.as_ref()),
            ToHost::Report { task } => self.on_report(task),
        }
    }

    async fn on_ready(&mut self, want: WantId, named: Named, neighbors: Vec<Neighbor>) {
        self.measure(want);
        if let Some(task) = self.late.remove(&want) {
            if task == named.task {
                self.join_cluster(task).await;
                self.on_neighbors(task, neighbors, Vec::new()).await;
            }
            return;
        }
        let Some(flight) = self.flights.get_mut(&want) else {
            // The resolver hears who else wants what it resolved.
            return self.on_neighbors(named.task, neighbors, Vec::new()).await;
        };
        let is_other = |name: &Digest| !is_named(named.task, named.geometry.length(), name);
        if flight.request.name.as_ref().is_some_and(is_other) {
            tracing::warn!(task = %named.task.short(), "the scheduler names a task that is not the content asked for");
            return self.resolve(want);
        }
        flight.ready = Some((named.task, neighbors));
        if !matches!(flight.stage, Stage::Finding | Stage::Wanting(_) | Stage::Waiting(_)) {
            return;
        }
        let about = About {
            task: named.task,
            geometry: named.geometry,
            key: flight.key,
            name: flight.request.name,
            is_public: flight.request.is_public,
            validators: ValidatorSet::decode(&named.validators),
            valid_until: Instant::now() + if flight.request.name.is_some() { VALID_NAMED } else { VALID },
            is_shared: named.is_shared,
            has_ranges: named.has_ranges,
            is_credentialed: flight.request.is_credentialed,
            direct: None,
            url: flight.request.canonical.as_str().to_owned(),
            is_unversioned: ValidatorSet::decode(&named.validators).is_empty(),
        };
        if named.inline.is_empty() || about.name.is_none() {
            return self.check_then_open(want, about).await;
        }
        self.take_inline(want, about, named.inline).await;
    }

    /// This host is to resolve.
    async fn on_resolve(&mut self, want: WantId, upto: u64) {
        self.measure(want);
        if let Some(task) = self.late.remove(&want) {
            // It has, by itself.
            let Some(running) = self.tasks.get(&task) else { return };
            let resolution = learned(&running.about, 0);
            self.say(Side::Cluster, Input::Resolved { host: self.parts.host, want, resolution });
            return self.join_cluster(task).await;
        }
        if let Some(flight) = self.flights.get_mut(&want) {
            flight.duty = Duty::Owed;
            flight.first_bytes = Some(upto.clamp(FIRST_BYTES_MIN, FIRST_BYTES_MAX));
            self.resolve(want);
        } else {
            // A flight that has ended meanwhile: another host may try.
            let failure = ResolveFailure { is_final: false, status: 0, text: "nobody waits any longer".to_owned() };
            self.say(Side::Cluster, Input::ResolveFailed { host: self.parts.host, want, failure });
        }
    }

    fn on_wait(&mut self, want: WantId, retry: Duration) {
        self.measure(want);
        if let Some(flight) = self.flights.get_mut(&want)
            && matches!(flight.stage, Stage::Wanting(_) | Stage::Waiting(_))
        {
            flight.stage = Stage::Waiting(Instant::now() + retry);
        }
    }

    fn on_want_failed(&mut self, want: WantId, failure: &ResolveFailure, retry: Option<Duration>) {
        self.measure(want);
        self.late.remove(&want);
        let Some(flight) = self.flights.get_mut(&want) else { return };
        if !matches!(flight.stage, Stage::Wanting(_) | Stage::Waiting(_)) {
            return;
        }
        match retry {
            // Of a digest it is another host's failure, by its own way and with its own credentials.
            _ if flight.request.name.is_some() => self.resolve(want),
            Some(retry) => flight.stage = Stage::Waiting(Instant::now() + retry),
            None if failure.status > 0 => {
                let failure = Failure::origin_status(&flight.request.url.authority(), failure.status);
                self.drop_flight(want, &failure, true, 0);
            }
            // A scheduler that cannot help is no reason to fail: the origin may.
            None => self.resolve(want),
        }
    }

    pub(super) async fn on_neighbors(&mut self, task: TaskId, add: Vec<Neighbor>, remove: Vec<HostId>) {
        let host = self.parts.host;
        let add: Vec<Neighbor> = add.into_iter().filter(|neighbor| neighbor.id != host).collect();
        let Some(running) = self.tasks.get_mut(&task) else {
            self.keep_early(task, Early::Neighbors { add, remove }, Duration::MAX);
            return;
        };
        running.set_neighbors(&add, &remove);
        if running.state != State::Downloading || (add.is_empty() && remove.is_empty()) {
            return;
        }
        self.tell_shard(task, ShardCommand::Neighbors { task, add, remove }).await;
    }

    pub(super) async fn on_imports(&mut self, task: TaskId, stripes: Stripes) {
        match self.tasks.get(&task).map(|running| running.state) {
            None => self.keep_early(task, Early::Imports(stripes), Duration::MAX),
            Some(State::Downloading) => self.tell_shard(task, ShardCommand::Imports { task, stripes }).await,
            Some(_) => {}
        }
    }

    pub(super) async fn on_lease(&mut self, side: Side, lease: SignedLease, valid: Duration) {
        let task = lease.lease.task;
        let expires = Instant::now() + valid;
        let Some(running) = self.tasks.get_mut(&task) else {
            self.keep_early(task, Early::Lease(lease), valid);
            return;
        };
        if side == Side::Cluster && running.shared().file().received().is_full() {
            return self.vouch(task, lease);
        }
        if running.state != State::Downloading {
            // The rest of the lease is somebody else's.
            let outcome = hawker_scheduler::LeaseOutcome::Returned;
            let (serial, upto) = (lease.lease.serial, lease.lease.range.start());
            self.say(side, Input::LeaseDone { host: self.parts.host, serial, upto, outcome });
            return;
        }
        let upto = lease.lease.range.start();
        running.leases.insert(lease.lease.serial, Held { lease, expires, upto });
        self.tell_shard(task, ShardCommand::Lease { task, lease, valid }).await;
    }

    pub(super) async fn on_allowance(&mut self, task: TaskId, allowance: SignedAllowance) {
        match self.tasks.get(&task).map(|running| running.state) {
            None => self.keep_early(task, Early::Allowance(allowance), Duration::MAX),
            Some(State::Downloading) => self.tell_shard(task, ShardCommand::Allowance { task, allowance }).await,
            Some(_) => {}
        }
    }

    async fn on_no_lease(&mut self, side: Side, task: TaskId, retry_after: Duration, is_changed: bool) {
        let Some(running) = self.tasks.get(&task).filter(|running| running.side == side) else { return };
        if is_changed {
            let host = running.request.url.authority();
            return self.fail_task(task, &Failure::origin_status(&host, 412)).await;
        }
        self.tell_shard(task, ShardCommand::NoLease { task, retry_after }).await;
    }

    /// A shard asks for a lease: whoever answers for the task is asked.
    pub(super) async fn on_ask_lease(
        &mut self,
        task: TaskId,
        bytes: u64,
        rate: u64,
        source_rate: Option<u64>,
        lacked: Option<PieceIndex>,
    ) {
        let Some(running) = self.tasks.get(&task) else { return };
        let host = self.parts.host;
        let input = Input::AskLease { host, task, bytes, bytes_per_s: rate, source_bytes_per_s: source_rate, lacked };
        if !self.say(running.side, input) {
            self.tell_shard(task, ShardCommand::NoLease { task, retry_after: NO_LEASE_RETRY }).await;
        }
    }

    async fn on_ban(&mut self, host: HostId) {
        if host == self.parts.host {
            tracing::error!(
                "the scheduler bans this host: peers say that it sent wrong bytes; check its disk and memory"
            );
            return;
        }
        let tasks: Vec<TaskId> =
            self.tasks.iter().filter(|(_, running)| running.neighbors.contains(&host)).map(|(task, _)| *task).collect();
        for task in tasks {
            self.on_neighbors(task, Vec::new(), vec![host]).await;
        }
    }

    fn on_report(&mut self, task: TaskId) {
        if self.tasks.contains_key(&task) {
            return self.announce(task);
        }
        let keeper = self.keeper.clone();
        self.spawn(async move { Internal::PeerOpened { task, shared: keeper.open(task).await, report: true } });
    }

    /// The scheduler stays away and nothing moves: the origin is asked for what is missing, for this host alone.
    pub(super) async fn go_alone(&mut self, task: TaskId) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        tracing::info!(task = %task.short(), "no scheduler and no progress: the origin is asked for the rest");
        running.side = Side::Own;
        running.advanced_at = Instant::now();
        running.leases.clear();
        self.announce(task);
        self.tell_shard(task, ShardCommand::SetAlone { task, is_alone: true }).await;
    }

    /// The scheduler is back, or spoke at last: the task runs under its leases from now on.
    pub(super) async fn join_cluster(&mut self, task: TaskId) {
        let host = self.parts.host;
        let Some(running) = self.tasks.get_mut(&task) else { return };
        if running.side == Side::Cluster || !running.about.is_shared {
            return;
        }
        running.side = Side::Cluster;
        running.leases.clear();
        let is_downloading = running.state == State::Downloading;
        self.say(Side::Own, Input::Left { host, task });
        self.announce(task);
        if is_downloading {
            self.tell_shard(task, ShardCommand::SetAlone { task, is_alone: false }).await;
        }
    }

    /// What schedulers need to hear regularly of every download: their leases live by it.
    pub(super) fn tick_progress(&mut self) {
        let interval = self.session.as_ref().map_or(PROGRESS_EVERY, |session| session.progress);
        let elapsed = self.progress_at.elapsed();
        if elapsed < interval {
            return;
        }
        self.progress_at = Instant::now();
        let host = self.parts.host;
        let mut reports = Vec::new();
        for (task, running) in &mut self.tasks {
            if running.state != State::Downloading {
                running.bytes_per_s = 0;
                continue;
            }
            let file = running.shared().file();
            let (bytes, have_count) = (file.bytes_received(), file.received().len());
            let rate = bytes.saturating_sub(running.bytes_reported).saturating_mul(1000)
                / u64::try_from(elapsed.as_millis()).unwrap_or(1).max(1);
            running.bytes_reported = bytes;
            running.bytes_per_s = (running.bytes_per_s + rate) / 2;
            let serial = |held: &Held| held.lease.lease.serial;
            let leases = running.leases.values().map(|held| (bare_serial(serial(held)), held.upto)).collect();
            let bytes_per_s = running.bytes_per_s;
            let report = Input::Progress { host, task: *task, have_count, bytes_per_s, leases };
            reports.push((running.side, report));
        }
        for (side, report) in reports {
            // Reports are for the moment: the next one says it all.
            if self.outbox(side).is_some_and(Outbox::has_room) {
                self.say(side, report);
            }
        }
    }

    /// The cluster's link as others see it.
    pub(super) fn cluster_link(&self) -> Option<&Outbox> {
        self.parts.cluster.as_ref()
    }
}

/// A task as a scheduler names it.
struct Named {
    task: TaskId,
    geometry: Geometry,
    validators: Vec<u8>,
    has_ranges: bool,
    is_shared: bool,
    inline: Vec<u8>,
}
