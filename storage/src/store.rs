//! The store's machine.

use std::collections::VecDeque;
use std::path::Path;

use hawker_proto::{Geometry, Instant, TaskId};

use crate::error::OpenError;
use crate::op::{Input, Output};
use crate::space::{Space, Usage};

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes that the data directory may take; `None` keeps a quarter of the file system free.
    pub limit_bytes: Option<u64>,
    /// The machine's boot, see [`crate::blocking::read_boot_id`].
    pub boot_id: [u8; 16],
    /// The moment of opening on the monotonic clock of [`Store::handle`].
    pub now: Instant,
    /// The same moment on the wall clock, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Tasks that the store keeps open though nobody uses them. Each takes up to four descriptors.
    pub open_tasks_max: usize,
}

impl StoreConfig {
    /// The usual store.
    #[must_use]
    pub fn new(boot_id: [u8; 16], now: Instant, unix_ms: u64) -> Self {
        Self { limit_bytes: None, boot_id, now, unix_ms, open_tasks_max: 128 }
    }
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Pieces are missing, or not yet known to survive a power cut.
    Unsealed,
    /// Whole, checked and durable.
    Sealed,
}

/// A line of [`Store::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    /// The task's name.
    pub task: TaskId,
    /// Its length and pieces.
    pub geometry: Geometry,
    /// How far it is.
    pub state: TaskState,
    /// Bytes of the pieces that are here; `None` for an unsealed task that was not opened yet.
    pub bytes_received: Option<u64>,
    /// When it was last read, in milliseconds since 1970.
    pub last_read_unix_ms: u64,
    /// When it was created, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Where it came from; `None` when the task is not open: [`Input::ReadMeta`] has it.
    pub url: Option<String>,
    /// Whether every local caller has to prove access anew.
    pub is_credentialed: bool,
    /// Whether somebody keeps it from eviction.
    pub is_pinned: bool,
}

/// What opening a data directory did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Tasks found.
    pub tasks: u64,
    /// Slots looked at.
    pub slots_read: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Files of tasks that were opened.
    pub task_files_opened: u64,
    /// Slots dropped: damaged, doubled, or without their files.
    pub slots_dropped: u64,
    /// Files deleted that belong to no task.
    pub orphans_deleted: u64,
    /// Whether the former store was closed by [`Input::Close`].
    pub was_clean: bool,
    /// Whether the machine has not booted since.
    pub is_same_boot: bool,
}

/// The store of one data directory.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    space: Space,
    outputs: VecDeque<Output>,
    report: OpenReport,
}

impl Store {
    /// Opens a data directory, making it when it is not there. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let _ = dir;
        let space = Space::new(config.limit_bytes);
        Ok(Self { config, space, outputs: VecDeque::new(), report: OpenReport::default() })
    }

    /// Takes a request or the answer to an operation.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.config.now = now;
        drop(input);
    }

    /// The next operation or answer.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come again with [`Input::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// When it does not: a bug.
    pub fn assert_invariants(&self) {
        assert!(self.outputs.len() < usize::MAX);
    }

    /// All tasks.
    pub fn list(&self) -> impl Iterator<Item = TaskSummary> + '_ {
        std::iter::empty()
    }

    /// Where the bytes are.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.space.usage()
    }

    /// The newest task of a ResolveKey.
    #[must_use]
    pub fn find_by_resolve(&self, key: &[u8; 32]) -> Option<TaskId> {
        let _ = key;
        None
    }

    /// The task of a whole digest, `sha256:` or `blake3:` and 64 hexadecimal digits.
    #[must_use]
    pub fn find_by_digest(&self, digest: &str) -> Option<TaskId> {
        let _ = digest;
        None
    }

    /// Whether the store has the task, and how far it is.
    #[must_use]
    pub fn state(&self, task: TaskId) -> Option<TaskState> {
        let _ = task;
        None
    }

    /// What opening did.
    #[must_use]
    pub fn report(&self) -> OpenReport {
        self.report
    }
}
