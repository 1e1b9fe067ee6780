//! The keeper: the shard that owns the store, runs its operations and answers requests about tasks.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hawker_proto::{Geometry, Instant, TaskId};
use hawker_ring::{Op, Outcome};
use hawker_storage::{
    Adopt, CreateError, File, FileSystemSpace, Input, OpId, OpOk, OpenTaskError, Output, SealError, SpoolError,
    SpoolId, Store, StoreOp, TaskFile, TaskMeta, TaskSummary, WriteMode,
};
use tokio::sync::oneshot;

use super::{Purpose, Shard};
use crate::seam::{KeeperRequest, ShardEvent};
use crate::share::SharedTask;

/// How often the file system is asked how full it is.
const SPACE_EVERY: Duration = Duration::from_secs(10);

type Reply<T> = oneshot::Sender<T>;

/// A question to the store that is not answered yet.
enum Pending {
    Create {
        task: TaskId,
        recipe: Option<Box<Recipe>>,
        reply: Reply<Result<Arc<SharedTask>, CreateError>>,
    },
    /// The store had the task that was to be created: it is continued, or created anew when it turns out damaged.
    Continue {
        task: TaskId,
        recipe: Option<Box<Recipe>>,
        reply: Reply<Result<Arc<SharedTask>, CreateError>>,
    },
    Open {
        reply: Reply<Option<Arc<SharedTask>>>,
    },
    Find {
        summary: TaskSummary,
        reply: Reply<Option<(TaskSummary, TaskMeta)>>,
    },
    Spool {
        reply: Reply<Result<(SpoolId, File), SpoolError>>,
    },
    Reserve {
        reply: Reply<Result<(), SpoolError>>,
    },
}

/// What a task is created from.
#[derive(Clone)]
struct Recipe {
    geometry: Geometry,
    meta: TaskMeta,
    write_mode: WriteMode,
}

/// The store, and who waits for its answers.
pub(super) struct Keeper {
    store: Store,
    directory: PathBuf,
    next_request: u64,
    pending: HashMap<u64, Pending>,
    sealing: HashMap<TaskId, Vec<Reply<Result<(), SealError>>>>,
    removing: HashMap<TaskId, Vec<Reply<bool>>>,
    /// Tasks that somebody holds: one task has one shared form, however often it is opened.
    shared: HashMap<TaskId, Weak<SharedTask>>,
    space_at: Instant,
    is_closing: bool,
    is_closed: bool,
}

impl Keeper {
    pub(super) fn new(store: Store, directory: PathBuf) -> Self {
        Self {
            store,
            directory,
            next_request: 0,
            pending: HashMap::new(),
            sealing: HashMap::new(),
            removing: HashMap::new(),
            shared: HashMap::new(),
            space_at: Instant::ZERO,
            is_closing: false,
            is_closed: false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.store.deadline()
    }

    /// Whether the store has said its last word.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn ask(&mut self, pending: Pending) -> u64 {
        self.next_request += 1;
        self.pending.insert(self.next_request, pending);
        self.next_request
    }

    fn share(&mut self, file: Arc<TaskFile>) -> Arc<SharedTask> {
        let id = file.id();
        let known = self.shared.get(&id).and_then(Weak::upgrade).filter(|shared| Arc::ptr_eq(shared.file(), &file));
        known.unwrap_or_else(|| {
            let shared = Arc::new(SharedTask::new(file));
            self.shared.retain(|_, task| task.strong_count() > 0);
            self.shared.insert(id, Arc::downgrade(&shared));
            shared
        })
    }

    fn on_request(&mut self, now: Instant, request: KeeperRequest) {
        match request {
            KeeperRequest::Create { task, geometry, meta, write, reply } => {
                self.create(now, task, Recipe { geometry, meta: *meta, write_mode: write }, reply);
            }
            KeeperRequest::Open { task, reply } => {
                let request = self.ask(Pending::Open { reply });
                self.store.handle(now, Input::Open { request, task });
            }
            KeeperRequest::Spool { reply } => {
                let request = self.ask(Pending::Spool { reply });
                self.store.handle(now, Input::Spool { request });
            }
            KeeperRequest::ReserveSpool { spool, bytes, reply } => {
                let request = self.ask(Pending::Reserve { reply });
                self.store.handle(now, Input::ReserveSpool { request, spool, bytes });
            }
            KeeperRequest::Adopt(adopt) => {
                let request = self.ask(Pending::Create { task: adopt.task, recipe: None, reply: adopt.reply });
                let (spool, task, geometry) = (adopt.spool, adopt.task, adopt.geometry);
                let (meta, records) = (adopt.meta, adopt.records);
                let adopt = Adopt { request, spool, task, geometry, meta, records };
                self.store.handle(now, Input::Adopt(Box::new(adopt)));
            }
            KeeperRequest::DropSpool { spool } => self.store.handle(now, Input::DropSpool { spool }),
            KeeperRequest::Seal { task, root, reply } => {
                self.sealing.entry(task).or_default().push(reply);
                self.store.handle(now, Input::Seal { task, root });
            }
            KeeperRequest::SetMeta { task, meta } => self.store.handle(now, Input::SetMeta { task, meta: *meta }),
            KeeperRequest::Remove { task, reply } => self.remove(now, task, reply),
            KeeperRequest::List { reply } => answer(reply, (self.store.list().collect(), self.store.usage())),
            KeeperRequest::FindResolved { key, reply } => self.find(now, &key, reply),
        }
    }

    fn create(
        &mut self,
        now: Instant,
        task: TaskId,
        recipe: Recipe,
        reply: Reply<Result<Arc<SharedTask>, CreateError>>,
    ) {
        let Recipe { geometry, meta, write_mode } = recipe.clone();
        let request = self.ask(Pending::Create { task, recipe: Some(Box::new(recipe)), reply });
        self.store.handle(now, Input::Create { request, task, geometry, meta, write_mode });
    }

    fn remove(&mut self, now: Instant, task: TaskId, reply: Reply<bool>) {
        let is_removable = self.store.list().any(|summary| summary.task == task && !summary.is_pinned);
        if !is_removable {
            answer(reply, false);
            return;
        }
        self.removing.entry(task).or_default().push(reply);
        self.store.handle(now, Input::Remove { task });
    }

    fn find(&mut self, now: Instant, key: &[u8; 32], reply: Reply<Option<(TaskSummary, TaskMeta)>>) {
        let task = self.store.find_by_resolve(key);
        let summary = task.and_then(|task| self.store.list().find(|summary| summary.task == task));
        let Some(summary) = summary else {
            answer(reply, None);
            return;
        };
        let task = summary.task;
        let request = self.ask(Pending::Find { summary, reply });
        self.store.handle(now, Input::ReadMeta { request, task });
    }

    fn on_created(&mut self, now: Instant, request: u64, result: Result<Arc<TaskFile>, CreateError>) {
        let Some(Pending::Create { task, recipe, reply }) = self.pending.remove(&request) else { return };
        if matches!(result, Err(CreateError::Exists)) {
            let request = self.ask(Pending::Continue { task, recipe, reply });
            self.store.handle(now, Input::Open { request, task });
            return;
        }
        if matches!(result, Err(CreateError::DiskFull { .. })) {
            // Somebody else took the space: the next one has to know what is left.
            self.space_at = Instant::ZERO;
        }
        let result = result.map(|file| self.share(file));
        answer(reply, result);
    }

    fn on_opened(&mut self, now: Instant, request: u64, result: Result<Arc<TaskFile>, OpenTaskError>) {
        let result = result.map(|file| self.share(file));
        match self.pending.remove(&request) {
            Some(Pending::Open { reply }) => answer(reply, result.ok()),
            Some(Pending::Continue { task, recipe: Some(recipe), reply })
                if matches!(result, Err(OpenTaskError::Damaged { .. } | OpenTaskError::NotFound)) =>
            {
                // What is left of it goes first: the store takes requests about one task in their order.
                self.create(now, task, *recipe, reply);
            }
            Some(Pending::Continue { reply, .. }) => {
                answer(reply, result.map_err(|error| CreateError::Disk(io::Error::other(error.to_string()))));
            }
            _ => {}
        }
    }

    /// An answer of the store; what concerns more than the one who asked comes back as an event.
    fn on_answer(&mut self, now: Instant, output: Output) -> Option<ShardEvent> {
        match output {
            Output::Created { request, result } => self.on_created(now, request, result),
            Output::Opened { request, result } => self.on_opened(now, request, result),
            Output::Meta { request, result } => {
                if let Some(Pending::Find { summary, reply }) = self.pending.remove(&request) {
                    answer(reply, result.ok().map(|meta| (summary, meta)));
                }
            }
            Output::Spooling { request, result } => {
                if let Some(Pending::Spool { reply }) = self.pending.remove(&request) {
                    answer(reply, result);
                }
            }
            Output::SpoolReserved { request, result } => {
                if let Some(Pending::Reserve { reply }) = self.pending.remove(&request) {
                    answer(reply, result);
                }
            }
            Output::Sealed { task, result } => {
                let mut replies = self.sealing.remove(&task).unwrap_or_default();
                // One sealed it; a second asker learns from a second answer, there is one root.
                if let Some(reply) = replies.pop() {
                    answer(reply, result);
                }
                if !replies.is_empty() {
                    self.sealing.insert(task, replies);
                }
            }
            Output::Removed { task } => {
                self.shared.remove(&task);
                for reply in self.removing.remove(&task).unwrap_or_default() {
                    answer(reply, true);
                }
                return Some(ShardEvent::Dropped { task, reason: "removed".to_owned() });
            }
            Output::Evicted { task } => {
                self.shared.remove(&task);
                return Some(ShardEvent::Dropped { task, reason: "evicted to make room".to_owned() });
            }
            Output::Failed { task, error } => {
                self.shared.remove(&task);
                return Some(ShardEvent::Dropped { task, reason: format!("the disk failed: {error}") });
            }
            Output::Durable { .. } => {}
            Output::Closed => self.is_closed = true,
            Output::Op { .. } => unreachable!("operations are run, not answered"),
        }
        None
    }

    fn measure_space(&mut self, now: Instant) {
        if now < self.space_at {
            return;
        }
        self.space_at = now + SPACE_EVERY;
        match rustix::fs::statvfs(&self.directory) {
            Ok(found) => {
                let total_bytes = found.f_blocks.saturating_mul(found.f_frsize);
                let available_bytes = found.f_bavail.saturating_mul(found.f_frsize);
                let space = FileSystemSpace { total_bytes, available_bytes };
                self.store.handle(now, Input::FileSystem(space));
            }
            Err(error) => tracing::warn!(%error, "cannot tell how full the disk is"),
        }
    }
}

/// An asker that is gone needs no answer; what was asked for stays in the store.
fn answer<T>(reply: Reply<T>, value: T) {
    drop(reply.send(value));
}

impl Shard {
    pub(super) fn on_keeper_request(&mut self, request: KeeperRequest) {
        let Some(keeper) = &mut self.keeper else {
            unreachable!("control asks the keeper, which is shard 0");
        };
        keeper.on_request(self.now, request);
    }

    /// Runs what the store wants.
    pub(super) fn drive_store(&mut self) {
        let now = self.now;
        let Some(mut keeper) = self.keeper.take() else { return };
        keeper.measure_space(now);
        if keeper.store.deadline().is_some_and(|at| at <= now) {
            keeper.store.handle(now, Input::Tick);
        }
        while let Some(output) = keeper.store.poll() {
            if let Output::Op { op, what } = output {
                self.submit(ring_op(what), Purpose::Store { op });
            } else if let Some(event) = keeper.on_answer(now, output) {
                self.events.push(event);
            }
        }
        self.keeper = Some(keeper);
    }

    pub(super) fn on_store_outcome(&mut self, op: OpId, outcome: Outcome) {
        let result = match outcome {
            Outcome::Opened(result) => result.map(OpOk::Opened),
            Outcome::ReadBytes { result, mut bytes } => result.map(|count| {
                bytes.truncate(count);
                OpOk::Bytes(bytes)
            }),
            Outcome::WroteBytes { result, .. } => result.map(|_| OpOk::Done),
            Outcome::Done(result) => result.map(|()| OpOk::Done),
            outcome => unreachable!("the store asks for files only: {outcome:?}"),
        };
        if let Some(keeper) = &mut self.keeper {
            keeper.store.handle(self.now, Input::OpDone { op, result });
        }
    }

    /// Closes the store cleanly: everything durable, the catalog marked. True once that is done.
    pub(super) fn close_store(&mut self) -> bool {
        let now = self.now;
        let Some(keeper) = &mut self.keeper else { return true };
        if !keeper.is_closing {
            keeper.is_closing = true;
            keeper.store.handle(now, Input::Close);
        }
        keeper.is_closed
    }
}

fn ring_op(what: StoreOp) -> Op {
    match what {
        StoreOp::Open { path, flags, mode } => Op::Open { path, flags, mode },
        StoreOp::Allocate { file, len } => Op::Allocate { file, len },
        StoreOp::Write { file, bytes, offset } => Op::WriteBytes { file, bytes, offset },
        StoreOp::Read { file, len, offset } => Op::ReadBytes { file, bytes: vec![0; len], offset },
        StoreOp::Sync { file, data_only } => Op::Sync { file, data_only },
        StoreOp::Rename { from, to } => Op::Rename { from, to },
        StoreOp::Unlink { path } => Op::Unlink { path },
        StoreOp::Close { file } => Op::Close { file },
    }
}
