//! What `status`, `ls`, `stat`, `rm` and the metrics see.

use std::sync::atomic::Ordering;

use hawker_api::local;
use hawker_proto::TaskId;
use hawker_proto::url::shown;
use hawker_storage::{TaskState, TaskSummary, Usage};
use tokio::sync::oneshot;

use super::Director;
use super::running::{Running, State};
use crate::control::caller::{Failure, code};
use crate::control::keeper::Keeper;

/// Hexadecimal digits of a TaskId that name one well enough.
const PREFIX_MIN: usize = 6;
/// Hexadecimal digits of a whole TaskId.
const ID_DIGITS: usize = 64;

/// The director's part of a status.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) tasks: Vec<local::Task>,
    pub(crate) usage: Usage,
    pub(crate) running_tasks: u32,
    pub(crate) neighbors: u32,
    pub(crate) queued: u32,
    pub(crate) flights: u32,
    pub(crate) callers: u32,
    /// Bytes that callers found here, since the start.
    pub(crate) cache_bytes: u64,
}

impl Director {
    pub(super) fn on_status(&self, reply: oneshot::Sender<Snapshot>) {
        let open: Vec<local::Task> = self.tasks.iter().map(|(task, running)| open_task(*task, running)).collect();
        let mut neighbors: Vec<_> = self.tasks.values().flat_map(|running| running.neighbors.iter()).collect();
        neighbors.sort_unstable();
        neighbors.dedup();
        let mut snapshot = Snapshot {
            tasks: open,
            usage: Usage::default(),
            running_tasks: count(self.tasks.values().filter(|running| running.is_active()).count()),
            neighbors: count(neighbors.len()),
            queued: count(self.queue.len()),
            flights: count(self.flights.len()),
            callers: count(self.callers.len()),
            cache_bytes: self.cache_bytes,
        };
        let (keeper, cluster) = (self.keeper.clone(), self.parts.cluster.clone());
        tokio::spawn(async move {
            let (stored, usage) = keeper.list().await;
            if let Some(cluster) = cluster {
                cluster.facts().stored_bytes.store(usage.used, Ordering::Relaxed);
            }
            for summary in stored {
                if !snapshot.tasks.iter().any(|task| task.task == summary.task.to_string()) {
                    snapshot.tasks.push(stored_task(&summary));
                }
            }
            snapshot.tasks.sort_by_key(|task| std::cmp::Reverse(task.last_read_unix_ms));
            snapshot.usage = usage;
            // Whoever asked may have hung up.
            let _ = reply.send(snapshot);
        });
    }

    pub(super) fn on_stat(&self, text: String, reply: oneshot::Sender<Result<local::Task, Failure>>) {
        let open: Vec<local::Task> = self.tasks.iter().map(|(task, running)| open_task(*task, running)).collect();
        let keeper = self.keeper.clone();
        tokio::spawn(async move {
            let result = find(&keeper, &text, open).await.map(|(_, task)| task);
            let _ = reply.send(result);
        });
    }

    pub(super) async fn on_remove(&mut self, text: String, reply: oneshot::Sender<Result<local::Removed, Failure>>) {
        let open: Vec<local::Task> = self.tasks.iter().map(|(task, running)| open_task(*task, running)).collect();
        let (id, task) = match find(&self.keeper, &text, open).await {
            Ok(found) => found,
            Err(failure) => {
                let _ = reply.send(Err(failure));
                return;
            }
        };
        if self.tasks.get(&id).is_some_and(|running| running.has_callers() || running.state == State::Sealing) {
            let hint = "wait for it, or stop the command that waits for it";
            let _ = reply.send(Err(Failure::other(format!("task {} is being downloaded", id.short()), hint)));
            return;
        }
        // Nobody waits: it is stopped, unshared and gone.
        if self.tasks.contains_key(&id) {
            let failure = Failure::other("removed", "");
            self.fail_task(id, &failure).await;
            self.forget(id).await;
        }
        if let Some(cluster) = self.cluster_link() {
            cluster.send(hawker_scheduler::Input::Left { host: self.parts.host, task: id });
        }
        let keeper = self.keeper.clone();
        tokio::spawn(async move {
            let removed = local::Removed { task: id.to_string(), bytes_freed: task.bytes_have };
            let busy = || Failure::other(format!("task {} is in use", id.short()), "try again when nobody reads it");
            let _ = reply.send(if keeper.remove(id).await { Ok(removed) } else { Err(busy()) });
        });
    }
}

/// The one task that `text` names.
async fn find(keeper: &Keeper, text: &str, open: Vec<local::Task>) -> Result<(TaskId, local::Task), Failure> {
    let is_name = (PREFIX_MIN..=ID_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_name {
        let message = format!("`{text}` names no task: give its id, or at least the first {PREFIX_MIN} digits");
        return Err(Failure::new(code::USAGE, message, "hawker ls lists all tasks"));
    }
    let prefix = text.to_ascii_lowercase();
    let (stored, _) = keeper.list().await;
    let mut found: Vec<local::Task> = open.into_iter().filter(|task| task.task.starts_with(&prefix)).collect();
    for summary in stored.iter().filter(|summary| summary.task.to_string().starts_with(&prefix)) {
        if !found.iter().any(|task| task.task == summary.task.to_string()) {
            found.push(stored_task(summary));
        }
    }
    let hint = "hawker ls lists all tasks";
    match found.len() {
        0 => Err(Failure::other(format!("no task {text} here"), hint)),
        1 => {
            let task = found.swap_remove(0);
            let id = task.task.parse().map_err(|_| Failure::other("a task without a name", hint))?;
            Ok((id, task))
        }
        several => Err(Failure::other(format!("{several} tasks begin with {text}"), hint)),
    }
}

fn open_task(id: TaskId, running: &Running) -> local::Task {
    let file = running.shared().file();
    let (origin, peer) = running.shared().bytes_by_source();
    let (state, digest) = match running.state {
        State::Sealed(root) => (local::TaskState::Sealed, format!("blake3:{root}")),
        State::Idle => (local::TaskState::Partial, String::new()),
        State::Queued | State::Downloading | State::Sealing => (local::TaskState::Running, String::new()),
    };
    local::Task {
        task: id.to_string(),
        url: shown(&running.about.url),
        length: running.about.geometry.length(),
        piece_bytes: running.about.geometry.piece_bytes(),
        pieces_have: file.received().len(),
        state: state.into(),
        bytes_have: file.bytes_received(),
        digest,
        last_read_unix_ms: crate::clock::unix_ms(),
        neighbors: count(running.neighbors.len()),
        is_pinned: file.is_pinned(),
        bytes: Some(local::Traffic { origin, peer, cache: 0, uploaded: 0 }),
        bytes_per_s: running.bytes_per_s,
    }
}

fn stored_task(summary: &TaskSummary) -> local::Task {
    let is_sealed = summary.state == TaskState::Sealed;
    let geometry = summary.geometry;
    let bytes_have = if is_sealed { geometry.length() } else { summary.bytes_received.unwrap_or(0) };
    let pieces = bytes_have.div_ceil(u64::from(geometry.piece_bytes()));
    local::Task {
        task: summary.task.to_string(),
        url: shown(summary.url.as_deref().unwrap_or_default()),
        length: geometry.length(),
        piece_bytes: geometry.piece_bytes(),
        pieces_have: u32::try_from(pieces).unwrap_or(u32::MAX),
        state: if is_sealed { local::TaskState::Sealed } else { local::TaskState::Partial }.into(),
        bytes_have,
        last_read_unix_ms: summary.last_read_unix_ms,
        is_pinned: summary.is_pinned,
        ..Default::default()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
