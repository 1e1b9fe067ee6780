//! What goes into the store's machine and what comes out: requests, answers, and operations for a shell to run.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hawker_proto::{ChainingValue, Geometry, Root, TaskId};
use rustix::fs::{Mode, OFlags};

use crate::error::{CreateError, OpenTaskError, SealError, SpoolError};
use crate::meta::TaskMeta;
use crate::task_file::TaskFile;

/// An open file. Operations hold a clone until they complete, so that a descriptor is never closed under the kernel.
pub type File = Arc<OwnedFd>;

/// Names one operation from [`Output::Op`] to its [`Input::OpDone`]; never used twice by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Names one body of unknown length that is being spooled into `incoming/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// How the blocks of a task reach its content file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// O_DIRECT: nobody will ask this host for the bytes soon. Falls back to `Buffered` where the file system has none.
    Direct,
    /// Through the page cache, so that sendfile can serve the fresh bytes.
    Buffered,
}

/// One operation of the kernel. The shell runs it on its engine and answers with [`Input::OpDone`], exactly once.
#[derive(Clone, Debug)]
pub enum StoreOp {
    /// `open(2)`; answered with [`OpOk::Opened`].
    Open { path: CString, flags: OFlags, mode: Mode },
    /// `fallocate(2)` with mode 0 from offset 0: the file has `len` bytes afterwards.
    Allocate { file: File, len: u64 },
    /// Writes all of `bytes` at `offset`.
    Write { file: File, bytes: Vec<u8>, offset: u64 },
    /// Reads exactly `len` bytes at `offset`, fewer only at the end of the file; answered with [`OpOk::Bytes`].
    Read { file: File, len: usize, offset: u64 },
    /// `fdatasync(2)`, or `fsync(2)` when not `data_only`. Covers memory stores into a mapping of the file.
    Sync { file: File, data_only: bool },
    /// `rename(2)`.
    Rename { from: CString, to: CString },
    /// `unlink(2)`.
    Unlink { path: CString },
    /// Lets go of the file where a slow close (an unlinked large file) stalls nobody.
    Close { file: File },
}

/// What an operation gave.
#[derive(Debug)]
pub enum OpOk {
    /// Of [`StoreOp::Open`].
    Opened(File),
    /// Of [`StoreOp::Read`].
    Bytes(Vec<u8>),
    /// Of all others.
    Done,
}

/// The answer to a [`StoreOp`].
pub type OpResult = io::Result<OpOk>;

/// What the file system says of itself (`statvfs`), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystemSpace {
    /// Size of the file system.
    pub total_bytes: u64,
    /// Bytes that an unprivileged process may still take.
    pub available_bytes: u64,
}

/// Requests. Answers carry `request`, which is the caller's own name for it.
#[derive(Debug)]
pub enum Input {
    /// Reserve space for a task and make its files. Answered with [`Output::Created`].
    Create { request: u64, task: TaskId, geometry: Geometry, meta: TaskMeta, write_mode: WriteMode },
    /// Open a task of the catalog. Answered with [`Output::Opened`].
    Open { request: u64, task: TaskId },
    /// All pieces are received and the caller knows the root. Answered with [`Output::Sealed`].
    Seal { task: TaskId, root: Root },
    /// Make everything received so far durable. Answered with [`Output::Durable`] or [`Output::Failed`].
    Flush { task: TaskId },
    /// Forget a task, pinned or not. Answered with [`Output::Removed`].
    Remove { task: TaskId },
    /// The task was read: it moves to the young end of the eviction order.
    Touch { task: TaskId },
    /// As [`Input::Remove`], for a task that failed.
    Drop { task: TaskId },
    /// Replace the meta file, after a revalidation. No answer; a failure leaves the former one.
    SetMeta { task: TaskId, meta: TaskMeta },
    /// Read the meta file without opening the task. Answered with [`Output::Meta`].
    ReadMeta { request: u64, task: TaskId },
    /// Open a file in `incoming/` for a body of unknown length. Answered with [`Output::Spooling`].
    Spool { request: u64 },
    /// Let the spool grow to `bytes` in all. Answered with [`Output::SpoolReserved`]; write no byte beyond it.
    ReserveSpool { request: u64, spool: SpoolId, bytes: u64 },
    /// Make a whole spool an unsealed task with all its pieces: one row of `records` a piece, one value a block.
    /// Answered with [`Output::Created`]. The spool is gone afterwards, whatever the answer.
    Adopt(Box<Adopt>),
    /// Throw a spool away.
    DropSpool { spool: SpoolId },
    /// How full the file system is; moves the limit when the store keeps a share of the file system free.
    FileSystem(FileSystemSpace),
    /// The operation completed.
    OpDone { op: OpId, result: OpResult },
    /// [`crate::Store::deadline`] has passed.
    Tick,
    /// Flush everything and mark the store as cleanly closed. Answered with [`Output::Closed`]; nothing else is
    /// taken afterwards.
    Close,
}

/// The request of [`Input::Adopt`].
#[derive(Debug)]
pub struct Adopt {
    /// The caller's name for the request.
    pub request: u64,
    /// The spool that holds the content, every byte of it written.
    pub spool: SpoolId,
    /// The task that it becomes.
    pub task: TaskId,
    /// Its geometry, now that the length is known.
    pub geometry: Geometry,
    /// Where it came from.
    pub meta: TaskMeta,
    /// Chaining values of the blocks of every piece, in order.
    pub records: Vec<Vec<ChainingValue>>,
}

/// Answers, news, and operations to run.
#[derive(Debug)]
pub enum Output {
    /// Run this and answer with [`Input::OpDone`].
    Op { op: OpId, what: StoreOp },
    /// The task has its files and its space.
    Created { request: u64, result: Result<Arc<TaskFile>, CreateError> },
    /// The task as it was left.
    Opened { request: u64, result: Result<Arc<TaskFile>, OpenTaskError> },
    /// The task survives a power cut from here on.
    Sealed { task: TaskId, result: Result<(), SealError> },
    /// The task is out of the catalog and its files are unlinked.
    Removed { task: TaskId },
    /// The task was chosen for eviction: let go of its `TaskFile`, its bytes count until then.
    Evicted { task: TaskId },
    /// What was received when the flush began survives a power cut.
    Durable { task: TaskId },
    /// The disk lost what it was given: the task is being removed.
    Failed { task: TaskId, error: io::Error },
    /// The meta file of a task.
    Meta { request: u64, result: Result<TaskMeta, OpenTaskError> },
    /// A file to spool into.
    Spooling { request: u64, result: Result<(SpoolId, File), SpoolError> },
    /// The spool may grow.
    SpoolReserved { request: u64, result: Result<(), SpoolError> },
    /// Everything is on disk.
    Closed,
}
