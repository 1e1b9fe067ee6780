//! The store's machine: what it holds, how it is opened and asked. What requests do stands in the submodules.

mod admit;
mod close;
mod create;
mod grow;
mod jobs;
mod meta_file;
mod open_task;
mod persist;
mod recovery;
mod remove;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::{Geometry, Instant, TaskId};

use crate::catalog::{Catalog, SlotIndex};
use crate::directory::{Directory, TaskPart};
use crate::error::{CreateError, OpenError, OpenTaskError, SealError, SpoolError};
use crate::op::{File, FileSystemSpace, Input, OpId, Output, SpoolId};
use crate::slot::{ContentDigest, Slot};
use crate::space::{Space, Usage};
use crate::task_file::TaskFile;

use admit::Admission;
use jobs::{Job, JobId, Request, Role};
use persist::Purpose;
use remove::{Lingering, Why};

/// Requests that may wait for space at once; more are answered with `Busy`.
const ADMISSIONS_MAX: usize = 256;
/// How long a request waits for the files of evicted tasks to be let go of.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks while somebody waits for space or for files to be let go of.
const TICK_WAITING: Duration = Duration::from_millis(20);
/// Between two looks at the tasks that arrive: how long a signed batch may wait in memory.
const TICK_ARRIVING: Duration = Duration::from_millis(100);
/// A power cut costs what was received in this time, or in this many bytes.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
const FLUSH_BYTES: u64 = 1 << 30;
/// The slot's time of last read is stored at most so often: an older one only ages the task a little.
const LAST_READ_STORE_MS: u64 = 60_000;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes that the tasks may take on disk; `None` keeps a quarter of the file system free, and 15 % of it while more
    /// is wanted.
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
    /// Names looked at in the directories of tasks; none after a clean close in the same boot.
    pub names_read: u64,
    /// Slots dropped: damaged, doubled, or without their files.
    pub slots_dropped: u64,
    /// Files deleted that belong to no task.
    pub orphans_deleted: u64,
    /// Whether the former store was closed by [`Input::Close`].
    pub was_clean: bool,
    /// Whether the machine has not booted since.
    pub is_same_boot: bool,
}

/// A task of the catalog.
#[derive(Debug)]
struct Entry {
    index: SlotIndex,
    geometry: Geometry,
    instance: u64,
    is_sealed: bool,
    charged: u64,
    last_read_unix_ms: u64,
    last_read_stored_ms: u64,
    open: Option<OpenTask>,
}

/// What the store holds of an open task, besides what all threads share.
#[derive(Debug)]
struct OpenTask {
    file: Arc<TaskFile>,
    table: File,
    batches: File,
    /// When it was opened or used last, in the order of `Store::opened`.
    used: u64,
    flushed_at: Instant,
    /// `bytes_received` at that time.
    flushed_bytes: u64,
    /// Whether the task's slot and names are known to survive a power cut.
    has_durable_names: bool,
}

/// A body of unknown length.
#[derive(Debug)]
struct Spool {
    file: File,
    reserved: u64,
}

/// How far the store is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    Closing,
    Closed,
}

/// The store of one data directory. See [`Input`] and [`Output`].
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    directory: Directory,
    catalog: Catalog,
    report: OpenReport,
    space: Space,
    tasks: HashMap<TaskId, Entry>,
    by_resolve: HashMap<[u8; 32], TaskId>,
    by_digest: HashMap<ContentDigest, TaskId>,
    /// Tasks by last read, in milliseconds since 1970.
    by_age: BTreeSet<(u64, TaskId)>,
    /// Open tasks by `OpenTask::used`.
    opened: BTreeMap<u64, TaskId>,
    /// Whether a task was opened since idle ones were looked for.
    has_opened: bool,
    /// Open tasks that are not sealed.
    arriving: BTreeSet<TaskId>,
    spools: BTreeMap<SpoolId, Spool>,
    lingering: Vec<Lingering>,
    /// Bytes of removed tasks whose files could not be unlinked. They count until the directory is opened anew.
    stuck_bytes: u64,

    /// Tasks with a job, and the requests that wait for its end.
    busy: BTreeMap<TaskId, VecDeque<Request>>,
    /// Tasks whose job has ended.
    idle: VecDeque<TaskId>,
    admissions: VecDeque<Admission>,
    jobs: BTreeMap<JobId, Job>,
    ops: HashMap<OpId, (JobId, Role)>,
    sync_running: Option<Vec<JobId>>,
    sync_waiting: Vec<JobId>,
    slot_waiting: Vec<JobId>,
    is_growing: bool,
    retries: Vec<JobId>,

    outputs: VecDeque<Output>,
    counter: u64,
    now: Instant,
    ticked_at: Instant,
    life: Life,
    /// The catalog could not be synced: what is there is served, nothing new is taken.
    is_broken: bool,
}

impl Store {
    /// Opens a data directory, making it when it is not there. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]: each names the path and what to do; nothing was changed.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let directory = Directory::open(dir, Catalog::check_format)?;
        let (catalog, opened) = Catalog::open(&directory, config.boot_id)?;
        let space = Space::new(config.limit_bytes);
        let mut store = Self {
            directory,
            catalog,
            report: OpenReport::default(),
            space,
            tasks: HashMap::new(),
            by_resolve: HashMap::new(),
            by_digest: HashMap::new(),
            by_age: BTreeSet::new(),
            opened: BTreeMap::new(),
            has_opened: false,
            arriving: BTreeSet::new(),
            spools: BTreeMap::new(),
            lingering: Vec::new(),
            stuck_bytes: 0,
            busy: BTreeMap::new(),
            idle: VecDeque::new(),
            admissions: VecDeque::new(),
            jobs: BTreeMap::new(),
            ops: HashMap::new(),
            sync_running: None,
            sync_waiting: Vec::new(),
            slot_waiting: Vec::new(),
            is_growing: false,
            retries: Vec::new(),
            outputs: VecDeque::new(),
            counter: 0,
            now: config.now,
            ticked_at: config.now,
            life: Life::Running,
            is_broken: false,
            config,
        };
        store.recover(opened)?;
        Ok(store)
    }

    /// Takes a request, or the answer to an operation.
    ///
    /// # Panics
    /// When an operation is answered that was not asked for.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::OpDone { op, result } => self.complete(op, result),
            Input::FileSystem(space) => self.set_file_system(space),
            Input::Tick => {}
            Input::Close => self.close(),
            request if self.life == Life::Running => self.begin(request),
            request => self.refuse(request),
        }
        if self.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.tick();
        }
        self.settle();
    }

    /// The next operation or answer.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come again, with [`Input::Tick`] if nothing else.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if !self.admissions.is_empty() || !self.retries.is_empty() {
            return Some(self.ticked_at + TICK_WAITING);
        }
        let has_more = !self.arriving.is_empty() || !self.lingering.is_empty();
        has_more.then(|| self.ticked_at + TICK_ARRIVING)
    }

    /// All tasks.
    pub fn list(&self) -> impl Iterator<Item = TaskSummary> + '_ {
        self.tasks.iter().filter_map(|(task, entry)| {
            let slot = self.catalog.get(entry.index)?;
            let file = entry.open.as_ref().map(|open| &open.file);
            let bytes_received = match file {
                Some(file) => Some(file.bytes_received()),
                None => entry.is_sealed.then_some(entry.geometry.length()),
            };
            Some(TaskSummary {
                task: *task,
                geometry: entry.geometry,
                state: self.state_of(entry),
                bytes_received,
                last_read_unix_ms: entry.last_read_unix_ms,
                created_unix_ms: slot.created_unix_ms,
                url: file.map(|file| file.meta().url.clone()),
                is_credentialed: slot.is_credentialed,
                is_pinned: file.is_some_and(|file| file.is_pinned()),
            })
        })
    }

    /// Where the bytes are.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.space.usage()
    }

    /// The newest task of a ResolveKey. Open it: [`TaskFile::meta`] has the validators.
    #[must_use]
    pub fn find_by_resolve(&self, key: &[u8; 32]) -> Option<TaskId> {
        self.by_resolve.get(key).copied()
    }

    /// The task of a whole digest, `sha256:` or `blake3:` and 64 hexadecimal digits. A sealed task is found by its
    /// BLAKE3 too.
    #[must_use]
    pub fn find_by_digest(&self, digest: &str) -> Option<TaskId> {
        self.by_digest.get(&ContentDigest::parse(digest)?).copied()
    }

    /// Where the content of a task stands, whether the store has it or not: for a hard link that its user asked for.
    #[must_use]
    pub fn content_path(&self, task: TaskId) -> PathBuf {
        let path = self.directory.part(task, TaskPart::Content);
        PathBuf::from(OsStr::from_bytes(path.as_bytes()))
    }

    /// Whether the store has the task, and how far it is.
    #[must_use]
    pub fn state(&self, task: TaskId) -> Option<TaskState> {
        self.tasks.get(&task).map(|entry| self.state_of(entry))
    }

    fn state_of(&self, entry: &Entry) -> TaskState {
        let is_sealed = entry.open.as_ref().map_or(entry.is_sealed, |open| open.file.is_sealed());
        if is_sealed { TaskState::Sealed } else { TaskState::Unsealed }
    }

    /// What opening did.
    #[must_use]
    pub fn report(&self) -> OpenReport {
        self.report
    }

    /// Checks what must always hold. Looks at every task: for tests, and now and then.
    ///
    /// # Panics
    /// When it does not: a bug.
    pub fn assert_invariants(&self) {
        let Usage { limit, ceiling, .. } = self.usage();
        let mut counted = Usage { limit, ceiling, ..Usage::default() };
        let mut slots = BTreeSet::new();
        for (task, entry) in &self.tasks {
            let into = if entry.is_sealed { &mut counted.used } else { &mut counted.reserved };
            *into += entry.charged;
            assert!(slots.insert(entry.index), "{task} shares its slot");
            assert!(self.by_age.contains(&(entry.last_read_unix_ms, *task)));
            let is_arriving = entry.open.is_some() && !entry.is_sealed;
            assert_eq!(self.arriving.contains(task), is_arriving, "{task}");
            let Some(slot) = self.catalog.get(entry.index) else {
                assert!(self.catalog.is_torn(), "a live slot is sound");
                continue;
            };
            assert_eq!((slot.task, slot.instance, slot.root.is_some()), (*task, entry.instance, entry.is_sealed));
        }
        assert_eq!(self.by_age.len(), self.tasks.len());
        assert_eq!(self.opened.len(), self.tasks.values().filter(|entry| entry.open.is_some()).count());
        counted.reserved += self.spools.values().map(|spool| spool.reserved).sum::<u64>();
        counted.reserved += self.jobs.values().map(Job::reserved).sum::<u64>();
        counted.reserved += self.admissions.iter().map(Admission::reserved).sum::<u64>();
        counted.reserved += self.busy.values().flatten().map(Request::reserved).sum::<u64>();
        counted.lingering += self.stuck_bytes;
        counted.lingering += self.jobs.values().map(Job::lingering).sum::<u64>();
        counted.lingering += self.lingering.iter().map(Lingering::bytes).sum::<u64>();
        assert_eq!(counted, self.usage());
        assert!(self.ops.values().all(|(job, _)| self.jobs.contains_key(job)), "an operation of no job");
        assert!(self.admissions.len() <= ADMISSIONS_MAX);
    }

    /// Whether nothing that the catalog says may be promised.
    fn is_catalog_lost(&self) -> bool {
        self.is_broken || self.catalog.is_torn()
    }

    fn set_file_system(&mut self, space: FileSystemSpace) {
        self.space.set_file_system(space);
        while self.space.excess() > 0 && self.evict_oldest() {}
    }

    fn begin(&mut self, request: Input) {
        match request {
            Input::Create { request, task, geometry, meta, write_mode } => {
                self.ask(task, Request::create(request, geometry, meta, write_mode));
            }
            Input::Adopt(adopt) => self.adopt(*adopt),
            Input::Open { request, task } => self.ask(task, Request::Open { request }),
            Input::Seal { task, root } => self.ask(task, Request::Persist(Purpose::Seal { root })),
            Input::Flush { task } => self.ask(task, Request::Persist(Purpose::Flush { is_asked: true })),
            Input::Remove { task } | Input::Drop { task } => self.ask(task, Request::Remove(Why::Asked)),
            Input::SetMeta { task, meta } => self.ask(task, Request::SetMeta { meta: Box::new(meta) }),
            Input::ReadMeta { request, task } => self.ask(task, Request::ReadMeta { request }),
            Input::Touch { task } => self.touch(task),
            Input::Spool { request } => self.start_spool(request),
            Input::ReserveSpool { request, spool, bytes } => self.reserve_spool(request, spool, bytes),
            Input::DropSpool { spool } => self.drop_spool(spool),
            Input::OpDone { .. } | Input::FileSystem(_) | Input::Tick | Input::Close => {
                unreachable!("handle takes these itself")
            }
        }
    }

    /// A store that is closing takes nothing new; every question is answered all the same.
    fn refuse(&mut self, request: Input) {
        let answer = match request {
            Input::Create { request, .. } => Output::Created { request, result: Err(CreateError::Closed) },
            Input::Adopt(adopt) => Output::Created { request: adopt.request, result: Err(CreateError::Closed) },
            Input::Open { request, .. } => Output::Opened { request, result: Err(OpenTaskError::Closed) },
            Input::ReadMeta { request, .. } => Output::Meta { request, result: Err(OpenTaskError::Closed) },
            Input::Seal { task, .. } => Output::Sealed { task, result: Err(SealError::NotFound) },
            Input::Spool { request } => Output::Spooling { request, result: Err(SpoolError::Closed) },
            Input::ReserveSpool { request, .. } => Output::SpoolReserved { request, result: Err(SpoolError::Closed) },
            Input::Flush { task } => Output::Failed { task, error: std::io::ErrorKind::BrokenPipe.into() },
            Input::Remove { task } | Input::Drop { task } => Output::Removed { task },
            _ => return,
        };
        self.outputs.push_back(answer);
    }

    fn tick(&mut self) {
        self.ticked_at = self.now;
        self.reap();
        for job in std::mem::take(&mut self.retries) {
            self.drive(job);
        }
        self.look_at_open_tasks();
        self.has_opened = true;
    }

    /// Whatever has become possible is begun.
    fn settle(&mut self) {
        loop {
            self.admit();
            let Some(task) = self.idle.pop_front() else { break };
            self.next_request(task);
        }
        if std::mem::take(&mut self.has_opened) {
            self.close_idle_tasks();
        }
        self.finish_close();
    }

    fn unix_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.now.since(self.config.now).as_millis()).unwrap_or(u64::MAX);
        self.config.unix_ms.saturating_add(elapsed)
    }

    fn touch(&mut self, task: TaskId) {
        let unix_ms = self.unix_ms();
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        self.by_age.remove(&(entry.last_read_unix_ms, task));
        entry.last_read_unix_ms = unix_ms;
        self.by_age.insert((unix_ms, task));
        if entry.last_read_stored_ms.saturating_add(LAST_READ_STORE_MS) <= unix_ms {
            entry.last_read_stored_ms = unix_ms;
            self.catalog.put_last_read(entry.index, task, unix_ms);
        }
        if let Some(open) = entry.open.as_mut() {
            self.counter += 1;
            self.opened.remove(&open.used);
            open.used = self.counter;
            self.opened.insert(open.used, task);
        }
    }

    /// Puts a slot's task into the indices.
    fn insert_task(&mut self, index: SlotIndex, slot: &Slot, last_read_unix_ms: u64, open: Option<OpenTask>) {
        if let Some(open) = &open {
            self.opened.insert(open.used, slot.task);
            if slot.root.is_none() {
                self.arriving.insert(slot.task);
            }
        }
        let is_newest = |known: &TaskId| self.tasks.get(known).is_none_or(|known| known.instance < slot.instance);
        if self.by_resolve.get(&slot.resolve_key).is_none_or(is_newest) {
            self.by_resolve.insert(slot.resolve_key, slot.task);
        }
        for digest in slot.digest.into_iter().chain(slot.root.map(ContentDigest::of_root)) {
            self.by_digest.insert(digest, slot.task);
        }
        self.by_age.insert((last_read_unix_ms, slot.task));
        let entry = Entry {
            index,
            geometry: slot.geometry,
            instance: slot.instance,
            is_sealed: slot.root.is_some(),
            charged: slot.charged,
            last_read_unix_ms,
            last_read_stored_ms: last_read_unix_ms,
            open,
        };
        let former = self.tasks.insert(slot.task, entry);
        assert!(former.is_none(), "{} twice", slot.task);
    }

    /// Takes a task out of all indices, and out of the catalog.
    fn forget_task(&mut self, task: TaskId) -> Option<Entry> {
        let entry = self.tasks.remove(&task)?;
        if let Some(slot) = self.catalog.get(entry.index) {
            if self.by_resolve.get(&slot.resolve_key) == Some(&task) {
                self.by_resolve.remove(&slot.resolve_key);
            }
            for digest in slot.digest.into_iter().chain(slot.root.map(ContentDigest::of_root)) {
                if self.by_digest.get(&digest) == Some(&task) {
                    self.by_digest.remove(&digest);
                }
            }
        }
        self.by_age.remove(&(entry.last_read_unix_ms, task));
        self.arriving.remove(&task);
        if let Some(open) = &entry.open {
            self.opened.remove(&open.used);
        }
        self.catalog.clear(entry.index);
        self.catalog.release(entry.index);
        Some(entry)
    }
}
