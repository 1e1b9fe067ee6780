//! Jobs: requests that take operations. A job issues the operations of a stage together and goes on when all have
//! completed. A task has one job at a time; what else is asked of it waits.

use std::collections::VecDeque;
use std::io;

use hawker_proto::{Geometry, TaskId};

use super::Store;
use super::close::CloseWork;
use super::create::Create;
use super::grow::Grow;
use super::meta_file::{ReadMeta, SetMeta};
use super::open_task::OpenWork;
use super::persist::{Persist, Purpose};
use super::remove::{Removal, Why};
use crate::meta::TaskMeta;
use crate::op::{File, OpId, OpOk, OpResult, Output, SpoolId, StoreOp, WriteMode};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct JobId(u64);

/// Which file an operation is about: where what it opens is kept, and what its error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Content,
    Direct,
    Table,
    Batches,
    Meta,
    Directory,
    Other,
}

const ROLES: usize = 7;

/// A request about one task.
#[derive(Debug)]
pub(super) enum Request {
    Create(Box<Create>),
    Open { request: u64 },
    Persist(Purpose),
    Remove(Why),
    SetMeta { meta: Box<TaskMeta> },
    ReadMeta { request: u64 },
}

impl Request {
    pub(super) fn create(request: u64, geometry: Geometry, meta: TaskMeta, write_mode: WriteMode) -> Self {
        Self::Create(Box::new(Create::new(request, geometry, meta, write_mode)))
    }

    /// Bytes that it holds while it waits: those of an adopted spool.
    pub(super) fn reserved(&self) -> u64 {
        if let Self::Create(create) = self { create.charged() } else { 0 }
    }
}

#[derive(Debug)]
pub(super) enum Work {
    Create(Box<Create>),
    Open(OpenWork),
    Persist(Persist),
    Remove(Removal),
    SetMeta(SetMeta),
    ReadMeta(ReadMeta),
    Grow(Grow),
    Close(CloseWork),
    Spool {
        request: u64,
        spool: SpoolId,
    },
    /// Syncs the catalog for the jobs in `Store::sync_running`.
    Sync,
    /// Waits for operations of which nobody wants to know; `lingering` bytes are free afterwards.
    Discard {
        lingering: u64,
    },
}

/// The operations of a job: those under way, and what the completed ones gave.
#[derive(Debug)]
pub(super) struct JobIo {
    pub(super) id: JobId,
    pub(super) stage: u32,
    waiting: u32,
    files: [Option<File>; ROLES],
    read: Vec<(Role, Vec<u8>)>,
    errors: Vec<(Role, io::Error)>,
}

impl JobIo {
    pub(super) fn file(&self, role: Role) -> Option<&File> {
        self.files[role as usize].as_ref()
    }

    pub(super) fn set_file(&mut self, role: Role, file: File) {
        self.files[role as usize] = Some(file);
    }

    pub(super) fn take_file(&mut self, role: Role) -> Option<File> {
        self.files[role as usize].take()
    }

    pub(super) fn take_read(&mut self, role: Role) -> Option<Vec<u8>> {
        let place = self.read.iter().position(|(of, _)| *of == role)?;
        Some(self.read.swap_remove(place).1)
    }

    /// The errors since the last call.
    pub(super) fn take_errors(&mut self) -> Vec<(Role, io::Error)> {
        std::mem::take(&mut self.errors)
    }

    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.take_errors().into_iter().next().map(|(_, error)| error)
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Job {
    task: Option<TaskId>,
    work: Work,
    io: JobIo,
}

impl Job {
    /// Bytes that the job has reserved and that no task holds yet.
    pub(super) fn reserved(&self) -> u64 {
        if let Work::Create(create) = &self.work { create.charged() } else { 0 }
    }

    pub(super) fn lingering(&self) -> u64 {
        match &self.work {
            Work::Remove(removal) => removal.bytes(),
            Work::Discard { lingering } => *lingering,
            _ => 0,
        }
    }
}

/// What a job wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on with this stage once the issued operations have completed; at once when there are none.
    Go(u32),
    /// Somebody drives the job again.
    Park(u32),
    Done,
}

impl Store {
    /// Asks something of a task, now or when its job has ended.
    pub(super) fn ask(&mut self, task: TaskId, request: Request) {
        let waiting = self.busy.entry(task).or_insert_with(|| {
            self.idle.push_back(task);
            VecDeque::new()
        });
        waiting.push_back(request);
    }

    pub(super) fn is_busy(&self, task: TaskId) -> bool {
        self.busy.contains_key(&task)
    }

    /// The task has no job: begins what waits.
    pub(super) fn next_request(&mut self, task: TaskId) {
        let waiting = self.busy.get_mut(&task).expect("an idle task was busy");
        let Some(request) = waiting.pop_front() else {
            self.busy.remove(&task);
            return;
        };
        match request {
            Request::Create(create) => self.start_create(task, create),
            Request::Open { request } => self.start_open(task, request),
            Request::Persist(purpose) => self.start_persist(task, purpose),
            Request::Remove(why) => self.start_remove(task, why),
            Request::SetMeta { meta } => self.start_set_meta(task, *meta),
            Request::ReadMeta { request } => self.start_read_meta(task, request),
        }
    }

    /// The job of the task has ended, or there was none.
    pub(super) fn end_request(&mut self, task: TaskId) {
        self.idle.push_back(task);
    }

    /// Begins a job. With a task, that task is busy until the job ends.
    pub(super) fn start(&mut self, task: Option<TaskId>, work: Work) -> JobId {
        self.counter += 1;
        let id = JobId(self.counter);
        let io = JobIo { id, stage: 0, waiting: 0, files: Default::default(), read: Vec::new(), errors: Vec::new() };
        self.jobs.insert(id, Job { task, work, io });
        self.drive(id);
        id
    }

    /// Goes on with a job whose operations have all completed.
    pub(super) fn drive(&mut self, id: JobId) {
        let Some(Job { task, mut work, mut io }) = self.jobs.remove(&id) else { return };
        loop {
            assert_eq!(io.waiting, 0);
            let step = match (&mut work, task) {
                (Work::Create(create), Some(task)) => self.step_create(task, create, &mut io),
                (Work::Open(open), Some(task)) => self.step_open(task, open, &mut io),
                (Work::Persist(persist), Some(task)) => self.step_persist(task, persist, &mut io),
                (Work::Remove(removal), Some(task)) => self.step_remove(task, removal, &mut io),
                (Work::SetMeta(set), Some(task)) => self.step_set_meta(task, set, &mut io),
                (Work::ReadMeta(read), Some(task)) => self.step_read_meta(task, read, &mut io),
                (Work::Grow(grow), _) => self.step_grow(grow, &mut io),
                (Work::Spool { request, spool }, _) => self.step_spool(*request, *spool, &mut io),
                (Work::Sync, _) => self.step_sync(&mut io),
                (Work::Close(close), _) => self.step_close(close, &mut io),
                (Work::Discard { lingering }, _) => {
                    self.space.release_lingering(*lingering);
                    Step::Done
                }
                (work, None) => unreachable!("{work:?} is about a task"),
            };
            match step {
                Step::Go(stage) => {
                    io.stage = stage;
                    if io.waiting == 0 {
                        continue;
                    }
                }
                Step::Park(stage) => io.stage = stage,
                Step::Done => {
                    assert_eq!(io.waiting, 0, "a job ends with its operations");
                    if let Some(task) = task {
                        self.end_request(task);
                    }
                    return;
                }
            }
            self.jobs.insert(id, Job { task, work, io });
            return;
        }
    }

    pub(super) fn issue(&mut self, io: &mut JobIo, role: Role, what: StoreOp) {
        self.counter += 1;
        let op = OpId(self.counter);
        self.ops.insert(op, (io.id, role));
        io.waiting += 1;
        self.outputs.push_back(Output::Op { op, what });
    }

    /// What a parked job waits for has failed.
    pub(super) fn fail_job(&mut self, id: JobId, error: &io::Error) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.io.errors.push((Role::Other, copy_of(error)));
        }
    }

    /// Runs operations of which only the end matters.
    pub(super) fn discard(&mut self, ops: Vec<StoreOp>, lingering: u64) {
        if ops.is_empty() {
            self.space.release_lingering(lingering);
            return;
        }
        self.counter += 1;
        let id = JobId(self.counter);
        let mut io =
            JobIo { id, stage: 0, waiting: 0, files: Default::default(), read: Vec::new(), errors: Vec::new() };
        for op in ops {
            self.issue(&mut io, Role::Other, op);
        }
        self.jobs.insert(id, Job { task: None, work: Work::Discard { lingering }, io });
    }

    pub(super) fn complete(&mut self, op: OpId, result: OpResult) {
        let (id, role) = self.ops.remove(&op).expect("an operation is answered once");
        let io = &mut self.jobs.get_mut(&id).expect("a job outlives its operations").io;
        match result {
            Ok(OpOk::Opened(file)) => io.set_file(role, file),
            Ok(OpOk::Bytes(bytes)) => io.read.push((role, bytes)),
            Ok(OpOk::Done) => {}
            Err(error) => io.errors.push((role, error)),
        }
        io.waiting -= 1;
        if io.waiting == 0 {
            self.drive(id);
        }
    }
}

/// A page of a mapped file could not be read or written.
pub(super) fn lost() -> io::Error {
    rustix::io::Errno::IO.into()
}

/// One failure for several jobs.
fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
