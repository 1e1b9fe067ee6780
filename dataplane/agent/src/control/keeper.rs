//! The store as control sees it: questions to the shard that keeps it.

use std::sync::Arc;

use hawker_proto::hash::Root;
use hawker_proto::{ChainingValue, Geometry, TaskId};
use hawker_storage::{CreateError, File, SealError, SpoolError, SpoolId, TaskMeta, TaskSummary, Usage, WriteMode};
use tokio::sync::oneshot;

use crate::seam::{AdoptRequest, KeeperRequest, ShardCommand, ShardHandle};
use crate::share::SharedTask;

/// Asks the keeper. Every answer has a form that a closed store gives too.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    shard: ShardHandle,
}

impl Keeper {
    pub(crate) fn new(shard: ShardHandle) -> Self {
        Self { shard }
    }

    async fn ask<T>(&self, request: KeeperRequest, reply: oneshot::Receiver<T>) -> Option<T> {
        if !self.shard.send(ShardCommand::Keeper(request)).await {
            return None;
        }
        reply.await.ok()
    }

    /// Makes room for a task, or opens it when it is here.
    pub(crate) async fn create(
        &self,
        task: TaskId,
        geometry: Geometry,
        meta: TaskMeta,
        write: WriteMode,
    ) -> Result<Arc<SharedTask>, CreateError> {
        let (reply, answer) = oneshot::channel();
        let request = KeeperRequest::Create { task, geometry, meta: Box::new(meta), write, reply };
        self.ask(request, answer).await.unwrap_or(Err(CreateError::Closed))
    }

    pub(crate) async fn open(&self, task: TaskId) -> Option<Arc<SharedTask>> {
        let (reply, answer) = oneshot::channel();
        self.ask(KeeperRequest::Open { task, reply }, answer).await.flatten()
    }

    /// A file for a body of unknown length.
    pub(crate) async fn spool(&self) -> Result<(SpoolId, File), SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.ask(KeeperRequest::Spool { reply }, answer).await.unwrap_or(Err(SpoolError::Closed))
    }

    pub(crate) async fn reserve_spool(&self, spool: SpoolId, bytes: u64) -> Result<(), SpoolError> {
        let (reply, answer) = oneshot::channel();
        let request = KeeperRequest::ReserveSpool { spool, bytes, reply };
        self.ask(request, answer).await.unwrap_or(Err(SpoolError::Closed))
    }

    /// Throws a spool away; for destructors.
    pub(crate) fn drop_spool(&self, spool: SpoolId) {
        // Not when the whole runtime ends: then the store removes it at the next start.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shard = self.shard.clone();
            let request = ShardCommand::Keeper(KeeperRequest::DropSpool { spool });
            runtime.spawn(async move { shard.send(request).await });
        }
    }

    /// Makes a whole spool a task. `values` are of all blocks, in order.
    pub(crate) async fn adopt(
        &self,
        spool: SpoolId,
        task: TaskId,
        geometry: Geometry,
        meta: TaskMeta,
        values: &[ChainingValue],
    ) -> Result<Arc<SharedTask>, CreateError> {
        let (reply, answer) = oneshot::channel();
        let records = values.chunks(geometry.blocks_per_piece() as usize).map(<[_]>::to_vec).collect();
        let request = AdoptRequest { spool, task, geometry, meta, records, reply };
        self.ask(KeeperRequest::Adopt(Box::new(request)), answer).await.unwrap_or(Err(CreateError::Closed))
    }

    pub(crate) async fn seal(&self, task: TaskId, root: Root) -> Result<(), SealError> {
        let (reply, answer) = oneshot::channel();
        self.ask(KeeperRequest::Seal { task, root, reply }, answer).await.unwrap_or(Err(SealError::NotFound))
    }

    /// False when it is pinned, or not here.
    pub(crate) async fn remove(&self, task: TaskId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.ask(KeeperRequest::Remove { task, reply }, answer).await.unwrap_or(false)
    }

    pub(crate) async fn list(&self) -> (Vec<TaskSummary>, Usage) {
        let (reply, answer) = oneshot::channel();
        self.ask(KeeperRequest::List { reply }, answer).await.unwrap_or_default()
    }

    pub(crate) async fn set_meta(&self, task: TaskId, meta: TaskMeta) {
        self.shard.send(ShardCommand::Keeper(KeeperRequest::SetMeta { task, meta: Box::new(meta) })).await;
    }

    pub(crate) async fn find_resolved(&self, key: [u8; 32]) -> Option<(TaskSummary, TaskMeta)> {
        let (reply, answer) = oneshot::channel();
        self.ask(KeeperRequest::FindResolved { key, reply }, answer).await.flatten()
    }
}
