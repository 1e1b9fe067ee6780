//! What shards report, and the fetches that control runs for them.

use std::sync::Arc;

use hawker_proto::{ByteRange, TaskId};
use hawker_scheduler::{Input, LeaseOutcome};
use tokio::sync::oneshot;

use super::about::About;
use super::running::{Running, State};
use super::{Director, Internal, announce};
use crate::control::caller::{CallerId, Failure, GetRequest};
use crate::control::link::Side;
use crate::control::origin::{FetchJob, OriginError, run_fetch};
use crate::seam::{DownloadError, OriginEnd, ShardCommand, ShardEvent, Trouble};
use crate::share::SharedTask;

/// Set in the ids of fetches that a shard runs under an allowance: no scheduler knows them.
const UNLEASED: u64 = 1 << 63;

/// Status of an origin whose content is another now: no credentials help.
const CHANGED: u16 = 412;

impl Director {
    pub(super) async fn on_shard(&mut self, event: ShardEvent) {
        match event {
            ShardEvent::AskLease { task, bytes, rate, source_rate, lacked } => {
                self.on_ask_lease(task, bytes, rate, source_rate, lacked).await;
            }
            ShardEvent::LeaseDone { task, serial, upto, end } => {
                self.on_lease_done(task, serial, upto, end);
                if let OriginEnd::Refused { status } = end {
                    self.on_refused(task, status).await;
                }
            }
            ShardEvent::FetchOrigin { task, serial, range } => self.on_fetch(task, serial, range).await,
            ShardEvent::StopOrigin { task, serial } => {
                if let Some(running) = self.tasks.get_mut(&task) {
                    running.jobs.remove(&serial);
                }
            }
            ShardEvent::Advanced { task } => {
                if let Some(running) = self.tasks.get_mut(&task) {
                    running.advance();
                }
            }
            ShardEvent::OriginAt { task, serial, upto } => {
                let held = self.tasks.get_mut(&task).and_then(|running| running.leases.get_mut(&serial));
                if let Some(held) = held {
                    held.upto = held.upto.max(upto);
                }
            }
            ShardEvent::Complete { task, root } => self.on_complete(task, root),
            ShardEvent::Failed { task, error } => self.on_failed(task, error).await,
            ShardEvent::PeerWants { task } => self.on_peer_wants(task).await,
            ShardEvent::BadHost { task, host } => {
                tracing::warn!(task = %task.short(), %host, "a host sent wrong bytes");
                self.say(Side::Cluster, Input::BadHost { reporter: self.parts.host, host, task });
            }
            ShardEvent::PieceLost { task, piece } => self.on_lost(task, piece).await,
            ShardEvent::Dropped { task, reason } => self.on_dropped(task, &reason).await,
        }
    }

    fn on_lease_done(&mut self, task: TaskId, serial: u64, upto: u64, end: OriginEnd) {
        let Some(running) = self.tasks.get_mut(&task) else { return };
        running.jobs.remove(&serial);
        running.note_end(end);
        if serial & UNLEASED != 0 {
            return;
        }
        let held = running.leases.remove(&serial);
        let is_whole = held.is_none_or(|held| upto >= held.lease.lease.range.end());
        let outcome = match end {
            OriginEnd::Complete if is_whole => LeaseOutcome::Complete,
            OriginEnd::Complete => LeaseOutcome::Returned,
            OriginEnd::Failed { retry_after, .. } if retry_after.is_zero() => LeaseOutcome::Returned,
            OriginEnd::Failed { retry_after, .. } => LeaseOutcome::Failed { retry_after },
            OriginEnd::Refused { status: CHANGED } => LeaseOutcome::Changed,
            OriginEnd::Refused { .. } => LeaseOutcome::Refused,
        };
        let side = if super::is_own_serial(serial) { Side::Own } else { Side::Cluster };
        self.say(side, Input::LeaseDone { host: self.parts.host, serial, upto, outcome });
    }

    /// The origin refuses this host. Another caller's credentials may be good; if not, only hosts that the scheduler named
    /// can have the rest, and they are waited for a while.
    async fn on_refused(&mut self, task: TaskId, status: u16) {
        let Some(running) = self.tasks.get_mut(&task).filter(|running| running.state == State::Downloading) else {
            return;
        };
        let request = &running.request;
        let is_same =
            |id: &&CallerId| self.callers.get(id).is_some_and(|caller| caller.request.has_credentials_of(request));
        let refused: Vec<CallerId> = running.callers.iter().filter(is_same).copied().collect();
        running.refused_callers.extend(refused);
        let may_lend = |id: &&CallerId| {
            self.callers.get(id).is_some_and(|caller| caller.is_proven) && !running.refused_callers.contains(id)
        };
        let lender = running.callers.iter().find(may_lend).copied();
        if let Some(lender) = lender.filter(|_| status != CHANGED) {
            return self.lend(lender, task).await;
        }
        if running.neighbors.is_empty() {
            let host = running.request.url.authority();
            let failure = running.last_failure.clone().unwrap_or_else(|| Failure::origin_status(&host, status));
            self.fail_task(task, &failure).await;
        }
    }

    async fn on_fetch(&mut self, task: TaskId, serial: u64, range: ByteRange) {
        let shard = self.shard_of(task).clone();
        let Some(running) = self.tasks.get_mut(&task) else {
            let end = OriginEnd::Failed { retry_after: std::time::Duration::ZERO, trouble: Trouble::Stopped };
            return self.tell_shard(task, ShardCommand::OriginEnd { task, serial, end }).await;
        };
        let (stop, stopped) = oneshot::channel();
        running.jobs.insert(serial, stop);
        let job = FetchJob {
            task,
            serial,
            range,
            geometry: running.about.geometry,
            spec: running.origin_spec(),
            parked: if range.start() == 0 { running.take_parked() } else { None },
            shard,
            limit: running.limit.clone(),
        };
        let (client, blocks) = (self.parts.client.clone(), self.parts.blocks.clone());
        self.spawn(async move {
            let (end, error) = run_fetch(client, blocks, job, stopped).await;
            Internal::FetchOver { task, serial, end, error }
        });
    }

    pub(super) async fn on_fetch_over(
        &mut self,
        task: TaskId,
        serial: u64,
        end: OriginEnd,
        error: Option<OriginError>,
    ) {
        if let Some(running) = self.tasks.get_mut(&task) {
            running.jobs.remove(&serial);
            if let Some(error) = error {
                tracing::debug!(task = %task.short(), %error, "origin fetch ended");
                running.last_failure = Some(Failure::from(&error));
            }
        }
        // Now that the reason is known: the shard may end the download because of it.
        self.tell_shard(task, ShardCommand::OriginEnd { task, serial, end }).await;
    }

    async fn on_failed(&mut self, task: TaskId, error: DownloadError) {
        let failure = match error {
            DownloadError::Disk { message, os_error } => Failure::disk(message, os_error),
        };
        self.fail_task(task, &failure).await;
    }

    /// A peer asks for what lies in the store.
    async fn on_peer_wants(&mut self, task: TaskId) {
        if self.tasks.contains_key(&task) {
            return self.share(task).await;
        }
        let keeper = self.keeper.clone();
        self.spawn(async move { Internal::PeerOpened { task, shared: keeper.open(task).await, report: false } });
    }

    pub(super) async fn on_peer_opened(&mut self, task: TaskId, shared: Option<Arc<SharedTask>>, report: bool) {
        if self.tasks.contains_key(&task) {
            return;
        }
        let host = self.parts.host;
        let announcement = shared.as_ref().and_then(announce::cached_announcement);
        if report {
            let input = match announcement {
                Some(announcement) => Input::Announce { host, announcement },
                None => Input::Left { host, task },
            };
            self.say(Side::Cluster, input);
            return;
        }
        let Some(shared) = shared else { return };
        let meta = shared.file().meta();
        let Ok(request) = GetRequest::of_stored(&meta.url) else { return };
        let about = About::from_meta(task, shared.geometry(), &meta, false);
        let request = GetRequest { name: about.name, ..request };
        let key = about.key;
        let side = if self.is_connected() { Side::Cluster } else { Side::Own };
        let running = Running::new(shared, about, side, &request, None);
        debug_assert!(!matches!(running.state, State::Downloading));
        self.tasks.insert(task, running);
        self.tasks_by_key.entry(key).or_insert(task);
        self.share(task).await;
    }
}
