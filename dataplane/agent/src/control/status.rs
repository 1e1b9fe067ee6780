//! Figures of the whole agent, for `hawker status` and /metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use hawker_api::local;
use hawker_proto::HostId;
use hawker_ring::{Budget, Detection};
use tokio::sync::{mpsc, oneshot};

use super::director::{Ask, Snapshot};
use super::link::Outbox;
use crate::counters::{Counter, ShardCounters};

/// Tasks in one status: more are for `hawker ls`.
const STATUS_TASKS_MAX: usize = 64;

/// What is fixed at start, and where moving figures are read.
#[derive(Debug)]
pub(crate) struct AgentFacts {
    pub(crate) host: HostId,
    pub(crate) detection: Detection,
    pub(crate) counters: Vec<Arc<ShardCounters>>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) peer_address: Option<SocketAddr>,
    pub(crate) http_address: Option<SocketAddr>,
    pub(crate) cluster: Option<Outbox>,
    /// Empty without one.
    pub(crate) scheduler_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) started: Instant,
    /// `None` when no guard watches.
    pub(crate) restarts: Option<u32>,
    pub(crate) asks: mpsc::Sender<Ask>,
}

impl AgentFacts {
    /// The director's figures; `None` while the agent stops.
    pub(crate) async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Status { reply }).await.ok()?;
        answer.await.ok()
    }

    /// The sum of one counter over all shards.
    pub(crate) fn sum(&self, counter: impl Fn(&ShardCounters) -> &Counter) -> u64 {
        self.counters.iter().map(|shard| counter(shard).value()).sum()
    }

    /// Everything that `hawker status` shows.
    pub(crate) async fn report(&self) -> Option<local::StatusReport> {
        let snapshot = self.snapshot().await?;
        let usage = snapshot.usage;
        let optional = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let scheduler = self.cluster.as_ref().map(|cluster| {
            let facts = cluster.facts();
            local::SchedulerLink {
                url: self.scheduler_url.clone(),
                is_connected: facts.is_connected(),
                epoch: facts.epoch(),
                reason: facts.reason(),
            }
        });
        let is_current = |task: &local::Task| task.state == i32::from(local::TaskState::Running);
        let mut tasks = snapshot.tasks;
        tasks.sort_by_key(|task| !is_current(task));
        tasks.truncate(STATUS_TASKS_MAX);
        Some(local::StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.to_string(),
            engine: self.detection.kind.name().to_owned(),
            engine_reason: self.detection.reason.clone(),
            shards: u32::try_from(self.counters.len()).unwrap_or(u32::MAX),
            peer_address: optional(self.peer_address),
            http_address: optional(self.http_address),
            scheduler: Some(scheduler.unwrap_or_default()),
            running_tasks: snapshot.running_tasks,
            neighbors: snapshot.neighbors,
            bytes: Some(local::Traffic {
                origin: self.sum(|shard| &shard.origin_bytes),
                peer: self.sum(|shard| &shard.peer_bytes),
                cache: snapshot.cache_bytes,
                uploaded: self.sum(|shard| &shard.uploaded_bytes),
            }),
            disk: Some(local::Disk {
                used: usage.used,
                limit: usage.limit,
                reserved: usage.reserved,
                data_dir: self.data_dir.display().to_string(),
            }),
            memory: Some(local::Memory {
                resident: resident_bytes().unwrap_or(0),
                blocks: self.budget.bytes_drawn() as u64,
                blocks_max: self.budget.bytes_max() as u64,
            }),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            tasks,
            is_guarded: self.restarts.is_some(),
            restarts: self.restarts.unwrap_or(0),
        })
    }
}

/// RssAnon + RssShmem: what this process keeps from others. File pages are the kernel's to take back.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((field("RssAnon:")? + field("RssShmem:")?) * 1024)
}
