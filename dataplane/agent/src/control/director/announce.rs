//! Tells schedulers what this host has.

use std::sync::Arc;
use std::time::Duration;

use hawker_proto::TaskId;
use hawker_proto::resolve::ResolveKey;
use hawker_scheduler::{Announcement, Input, OriginId, Source};
use hawker_storage::{TaskState, TaskSummary};
use tokio::time::Instant;

use super::running::{Running, State};
use super::{Director, Side};
use crate::control::keeper::Keeper;
use crate::control::link::Outbox;
use crate::share::SharedTask;

/// Between two announcements of cached tasks: 4,096 of them take 40 s and nobody notices.
const CACHED_PAUSE: Duration = Duration::from_millis(10);

impl Director {
    /// Tells whoever schedules `task` what is here of it.
    pub(super) fn announce(&self, task: TaskId) {
        let Some(running) = self.tasks.get(&task) else { return };
        let side = running.side;
        if side == Side::Cluster && !running.about.is_shared {
            return;
        }
        let announcement = announcement(running, side);
        self.say(side, Input::Announce { host: self.parts.host, announcement });
    }

    /// Announces what the store has beside the open tasks: last read first, so many a second, only what others can
    /// check.
    pub(super) fn announce_cached(&self) {
        let (Some(cluster), Some(session)) = (self.parts.cluster.clone(), &self.session) else { return };
        let (keeper, host, count_max) = (self.keeper.clone(), self.parts.host, session.cached_tasks_max);
        let open: std::collections::HashSet<TaskId> = self.tasks.keys().copied().collect();
        let epoch = cluster.facts().epoch();
        tokio::spawn(async move {
            let (mut cached, _) = keeper.list().await;
            cached.retain(|summary| summary.state == TaskState::Sealed && !open.contains(&summary.task));
            cached.sort_by_key(|summary| std::cmp::Reverse(summary.last_read_unix_ms));
            for summary in cached.into_iter().take(count_max) {
                if cluster.facts().epoch() != epoch || !announce_one(&keeper, &cluster, host, &summary).await {
                    return;
                }
                tokio::time::sleep(CACHED_PAUSE).await;
            }
        });
    }
}

/// False when the session is gone.
async fn announce_one(keeper: &Keeper, cluster: &Outbox, host: hawker_proto::HostId, summary: &TaskSummary) -> bool {
    let Some(shared) = keeper.open(summary.task).await else { return true };
    match cached_announcement(&shared) {
        Some(announcement) => cluster.send_patiently(Input::Announce { host, announcement }).await,
        None => true,
    }
}

/// What to say of a task that only lies in the store; `None` when nobody could check it, or it is not for others.
pub(super) fn cached_announcement(shared: &Arc<SharedTask>) -> Option<Announcement> {
    let meta = shared.file().meta();
    let have = shared.announceable();
    let is_shared = meta.resolved_unix_ms > 0;
    if have.is_empty() || !is_shared {
        return None;
    }
    let validators = super::about::validators_of(&meta).encode();
    Some(Announcement {
        task: shared.id(),
        geometry: shared.geometry(),
        have,
        is_running: false,
        leases: Vec::new(),
        origin: None,
        has_ranges: true,
        is_shared,
        // Only remembered, for a revalidation: how long ago it was resolved is for a new resolve to say.
        source: Some(Source { key: ResolveKey(meta.resolve_key), validators, valid: Duration::ZERO }),
        digest: meta.digest.as_deref().and_then(|digest| digest.parse().ok()),
    })
}

fn announcement(running: &Running, side: Side) -> Announcement {
    let about = &running.about;
    let shared = running.shared();
    let is_own = side == Side::Own;
    // Our own scheduler leases what is not here; others are told of what they can check.
    let have = if is_own { shared.file().received() } else { shared.announceable() };
    Announcement {
        task: about.task,
        geometry: about.geometry,
        have,
        is_running: matches!(running.state, State::Queued | State::Downloading),
        leases: if is_own { Vec::new() } else { running.leases.values().map(|held| held.lease).collect() },
        origin: Some(OriginId(running.request.url.origin_hash())),
        has_ranges: about.has_ranges,
        is_shared: about.is_shared && !is_own,
        source: Some(Source {
            key: about.key,
            validators: about.validators.encode(),
            valid: about.valid_until.saturating_duration_since(Instant::now()),
        }),
        digest: about.name,
    }
}
