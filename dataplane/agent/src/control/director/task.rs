//! Tasks that are open here: their callers, their download, and what is left of them afterwards.

use std::sync::Arc;
use std::time::Duration;

use hawker_proto::hash::{Root, root_of_bytes};
use hawker_proto::resolve::Digest;
use hawker_proto::{PieceIndex, TaskId};
use hawker_scheduler::{Input, OriginId, Resolution, WantId, WantKey};
use hawker_storage::SealError;
use tokio::time::Instant;

use super::landing::learned;
use super::named::mismatch;
use super::running::{Running, State};
use super::{Director, Internal, limit_of};
use crate::control::caller::{CallerEvent, CallerId, Failure, Opened, tell};
use crate::control::link::Side;
use crate::seam::ShardCommand;

/// How long a download goes on when its last caller is gone: a command that is run again finds it running.
const GRACE: Duration = Duration::from_secs(2);
/// How long a task that lost a piece to its disk is repaired for nobody in particular: peers and the origin may be away.
const REPAIR_LIMIT: Duration = Duration::from_secs(30);
/// A resolve's open body is kept so long for the lease that will read it.
const PARKED_MAX: Duration = Duration::from_secs(5);
/// A download that depends on a scheduler that is away helps itself after this long without a byte.
const STUCK_AFTER: Duration = Duration::from_secs(10);

impl Director {
    /// Lets every shard serve the task.
    pub(super) async fn share(&self, task: TaskId) {
        let Some(running) = self.tasks.get(&task) else { return };
        self.tell_all(|| ShardCommand::Share { task: Arc::clone(running.shared()) }).await;
    }

    /// Sees to it that what a task lacks is fetched.
    pub(super) async fn begin(&mut self, task: TaskId, side: Side) {
        let active = self.tasks.values().filter(|task| task.state == State::Downloading).count();
        let Some(running) = self.tasks.get_mut(&task) else { return };
        match running.state {
            State::Sealed(_) => {
                if side == Side::Cluster {
                    running.side = side;
                    self.announce(task);
                }
            }
            State::Idle if running.about.geometry.piece_count() == 0 => {
                self.on_complete(task, root_of_bytes(&[]));
            }
            State::Idle if active >= self.parts.limits.downloads => {
                running.side = side;
                running.state = State::Queued;
                self.queue.push_back(task);
            }
            State::Idle => {
                running.side = side;
                self.start(task).await;
            }
            State::Downloading | State::Queued if side != running.side && side == Side::Cluster => {
                self.join_cluster(task).await;
            }
            State::Downloading | State::Queued | State::Sealing => {}
        }
    }

    async fn start(&mut self, task: TaskId) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        running.state = State::Downloading;
        running.advanced_at = Instant::now();
        let is_alone = running.side == Side::Own;
        let command = ShardCommand::StartDownload {
            task: Arc::clone(running.shared()),
            origin: Some(running.origin_spec()),
            is_alone,
        };
        let is_news = is_alone || !running.shared().announceable().is_empty();
        // Before the first lease is asked for. The cluster's scheduler made this host a peer when the task was
        // resolved; it must hear only of what is here from before.
        if is_news {
            self.announce(task);
        }
        if is_alone {
            self.resolve_for_own(task);
        }
        self.follow(task);
        self.tell_shard(task, command).await;
        self.update_limit(task).await;
        self.deliver_early(task).await;
    }

    /// Tells our own scheduler what a resolve's open body brings, so that this becomes the first lease.
    fn resolve_for_own(&mut self, task: TaskId) {
        let Some(running) = self.tasks.get(&task) else { return };
        let Some((body, _)) = &running.parked else { return };
        let arriving_bytes = body.arriving_bytes(running.about.geometry.length());
        let host = self.parts.host;
        let want = WantId(self.next_want);
        let origin = Some(OriginId(running.request.url.origin_hash()));
        let resolution = Resolution { is_shared: false, ..learned(&running.about, arriving_bytes) };
        let key = WantKey::Resolve(running.about.key);
        self.say(Side::Own, Input::Want { host, want, key, origin });
        self.say(Side::Own, Input::Resolved { host, want, resolution });
        self.next_want += 1;
    }

    /// Starts what waits while there is room.
    async fn start_queued(&mut self) {
        while self.tasks.values().filter(|task| task.state == State::Downloading).count() < self.parts.limits.downloads
        {
            let Some(task) = self.queue.pop_front() else { return };
            if self.tasks.get(&task).is_some_and(|running| running.state == State::Queued) {
                self.start(task).await;
            }
        }
    }

    /// Tells a caller that its content is there, and how far it is.
    pub(super) async fn welcome(&mut self, id: CallerId, task: TaskId) {
        let (Some(caller), Some(running)) = (self.callers.get(&id), self.tasks.get(&task)) else { return };
        let opened = Opened {
            task: Arc::clone(running.shared()),
            changed: running.changed.subscribe(),
            neighbors: Arc::clone(&running.neighbor_count),
            cached: running.shared().file().bytes_received(),
            sources: running.shared().bytes_by_source(),
        };
        self.cache_bytes += opened.cached;
        tell(&caller.events, CallerEvent::Opened(opened));
        if let State::Sealed(root) = running.state {
            self.finish_caller(id, task, root);
        }
        self.update_limit(task).await;
    }

    /// What a sealed task lost to rot is fetched again for the next caller.
    pub(super) async fn mend(&mut self, task: TaskId) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        if matches!(running.state, State::Sealed(_)) && !running.shared().file().is_sealed() {
            running.state = State::Idle;
            let side = running.side;
            self.begin(task, side).await;
        }
    }

    fn finish_caller(&mut self, id: CallerId, task: TaskId, root: Root) {
        let Some(caller) = self.callers.get(&id).filter(|caller| caller.is_proven) else { return };
        let event = match caller.request.digest {
            Some(digest @ Digest::Blake3(expected)) if expected != root.0 => {
                CallerEvent::Failed(mismatch(&Digest::Blake3(root.0), &digest))
            }
            _ => CallerEvent::Done { root },
        };
        tell(&caller.events, event);
        self.callers.remove(&id);
        if let Some(running) = self.tasks.get_mut(&task) {
            running.callers.remove(&id);
        }
    }

    pub(super) async fn leave_task(&mut self, task: TaskId, caller: CallerId) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        running.callers.remove(&caller);
        if running.callers.is_empty() {
            running.abandoned_at = Some(Instant::now());
        }
        self.update_limit(task).await;
    }

    async fn update_limit(&self, task: TaskId) {
        let Some(running) = self.tasks.get(&task) else { return };
        let requests = running.callers.iter().filter_map(|id| self.callers.get(id));
        let limit = limit_of(requests.map(|caller| caller.request.limit_bytes_per_s));
        if running.limit.set(limit) && running.state == State::Downloading {
            self.tell_shard(task, ShardCommand::Limit { task, bucket: running.limit.bucket() }).await;
        }
    }

    /// Every piece is here.
    pub(super) fn on_complete(&mut self, task: TaskId, root: Root) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        if matches!(running.state, State::Sealing | State::Sealed(_)) {
            return;
        }
        running.state = State::Sealing;
        running.advance();
        running.jobs.clear();
        running.parked = None;
        match running.about.name {
            Some(name) => self.verify(task, root, name),
            None => self.seal(task, root),
        }
    }

    /// A piece rotted on disk, and is not served any more. A task that was whole is fetched again as far as it lacks
    /// something; what cannot be had within [`REPAIR_LIMIT`] waits for the next caller.
    pub(super) async fn on_lost(&mut self, task: TaskId, piece: PieceIndex) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        match running.state {
            State::Downloading => self.tell_shard(task, ShardCommand::PieceLost { task, piece }).await,
            State::Sealed(_) => {
                running.state = State::Idle;
                running.abandoned_at = Some(Instant::now() + REPAIR_LIMIT);
                let side = if self.is_connected() { Side::Cluster } else { Side::Own };
                tracing::info!(task = %task.short(), piece = piece.0, "a task is repaired");
                self.begin(task, side).await;
            }
            // Whoever begins it sees that the piece is not there; whoever seals it fails.
            State::Idle | State::Queued | State::Sealing => {}
        }
    }

    pub(super) fn seal(&self, task: TaskId, root: Root) {
        let keeper = self.keeper.clone();
        self.spawn(async move { Internal::Sealed { task, root, result: keeper.seal(task, root).await } });
    }

    pub(super) async fn on_sealed(&mut self, task: TaskId, root: Root, result: Result<(), SealError>) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        if matches!(result, Err(SealError::Incomplete { .. })) {
            // A piece was lost to rot meanwhile.
            running.state = State::Idle;
            let side = running.side;
            return self.begin(task, side).await;
        }
        if let Err(error) = result {
            let message = format!("the content could not be kept: {error}");
            let failure = match &error {
                SealError::Disk(io) | SealError::CatalogFull(io) => Failure::disk(message, io.raw_os_error()),
                _ => Failure::other(message, "run the command again"),
            };
            self.fail_task(task, &failure).await;
            if matches!(error, SealError::Disk(_) | SealError::NotFound) {
                // The store has it no more: the next caller must not join what is left of it.
                self.on_dropped(task, "the disk failed").await;
            }
            return;
        }
        running.state = State::Sealed(root);
        running.leases.clear();
        let side = running.side;
        running.changed.send_modify(|count| *count += 1);
        tracing::info!(task = %task.short(), bytes = running.about.geometry.length(), "task is whole");
        let host = self.parts.host;
        self.say(side, if side == Side::Own { Input::Left { host, task } } else { Input::Finished { host, task } });
        let callers: Vec<CallerId> =
            self.tasks.get(&task).map(|task| task.callers.iter().copied().collect()).unwrap_or_default();
        for caller in callers {
            self.finish_caller(caller, task, root);
        }
        self.start_queued().await;
    }

    /// The download cannot go on: its callers hear why; what is here stays for the next try.
    pub(super) async fn fail_task(&mut self, task: TaskId, failure: &Failure) {
        let callers: Vec<CallerId> =
            self.tasks.get(&task).map(|task| task.callers.iter().copied().collect()).unwrap_or_default();
        tracing::info!(task = %task.short(), reason = %failure.message, "download failed");
        for caller in callers {
            self.fail_caller(caller, failure);
        }
        self.stop(task).await;
    }

    /// Ends a download, keeping its pieces.
    async fn stop(&mut self, task: TaskId) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        let was_active = running.is_active();
        running.state = State::Idle;
        running.callers.clear();
        running.abandoned_at = None;
        running.jobs.clear();
        running.parked = None;
        running.leases.clear();
        running.failures = 0;
        running.quiet_until = Instant::now();
        running.is_refused = false;
        running.refused_callers.clear();
        running.last_failure = None;
        let side = running.side;
        // The next flight resolves anew: whatever failed may have changed.
        running.about.valid_until = Instant::now();
        if !was_active {
            return;
        }
        self.tell_shard(task, ShardCommand::StopDownload { task }).await;
        if side == Side::Own {
            self.say(Side::Own, Input::Left { host: self.parts.host, task });
        } else {
            self.announce(task);
        }
        self.start_queued().await;
    }

    /// The store has the task no more.
    pub(super) async fn on_dropped(&mut self, task: TaskId, reason: &str) {
        if let Some(cluster) = &self.parts.cluster {
            cluster.send(Input::Left { host: self.parts.host, task });
        }
        let Some(running) = self.tasks.get(&task) else { return };
        if running.is_active() || running.has_callers() {
            let failure = Failure::disk(format!("the content was lost: {reason}"), None);
            self.fail_task(task, &failure).await;
        }
        self.forget(task).await;
    }

    /// Closes a task that nobody uses.
    pub(super) async fn forget(&mut self, task: TaskId) {
        let Some(running) = self.tasks.remove(&task) else { return };
        if self.tasks_by_key.get(&running.about.key) == Some(&task) {
            self.tasks_by_key.remove(&running.about.key);
        }
        self.tell_all(|| ShardCommand::Unshare { task }).await;
    }

    /// Keeps the number of tasks that are open for nobody within bounds.
    pub(super) async fn forget_idle(&mut self) {
        let idle = |running: &Running| !running.is_active() && !running.has_callers();
        while self.tasks.values().filter(|running| idle(running)).count() > self.parts.limits.idle_tasks {
            let oldest =
                self.tasks.iter().filter(|(_, running)| idle(running)).min_by_key(|(_, running)| running.used_at);
            let Some((task, _)) = oldest.map(|(task, running)| (*task, running)) else { return };
            self.forget(task).await;
        }
    }

    /// What is due by time: abandoned downloads, bodies nobody read, leases that expired, schedulers that stay away.
    pub(super) async fn tick_tasks(&mut self) {
        let now = Instant::now();
        let is_away = self.parts.cluster.is_some() && !self.is_connected();
        let (mut abandoned, mut stuck, mut hopeless) = (Vec::new(), Vec::new(), Vec::new());
        for (task, running) in &mut self.tasks {
            running.parked.take_if(|(_, since)| now.duration_since(*since) > PARKED_MAX);
            for (serial, held) in &running.leases {
                if held.expires <= now {
                    running.jobs.remove(serial);
                }
            }
            let is_fetched = matches!(running.state, State::Queued | State::Downloading);
            if is_fetched && running.abandoned_at.is_some_and(|at| now.duration_since(at) >= GRACE) {
                abandoned.push(*task);
            }
            if running.state != State::Downloading {
                continue;
            }
            // What stood still while the session seemed to be there begins to look for itself only now: see STUCK_AFTER.
            let still = now.duration_since(self.down_at.map_or(running.advanced_at, |at| at.max(running.advanced_at)));
            if is_away && running.side == Side::Cluster && still >= STUCK_AFTER {
                stuck.push(*task);
            }
            if running.is_hopeless(now) {
                hopeless.push((*task, running.last_failure.clone()));
            }
        }
        for task in abandoned {
            self.stop(task).await;
        }
        for task in stuck {
            self.go_alone(task).await;
        }
        for (task, failure) in hopeless {
            let unknown = || Failure::other("the origin fails again and again", "try again later");
            self.fail_task(task, &failure.unwrap_or_else(unknown)).await;
        }
    }
}
