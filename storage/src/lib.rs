//! Where bytes live and when they may go: reserve, commit, pin, evict, recover.
//!
//! [`Store`] is a machine with one owner: requests go in, [`StoreOp`]s and answers come out, and a shell runs the
//! operations. [`TaskFile`] is one open task, shared by all threads. `FORMAT.md` shows every byte on disk.
#![deny(unsafe_code)]

mod batches;
pub mod blocking;
mod catalog;
mod codec;
mod directory;
mod error;
#[expect(unsafe_code, reason = "files as memory: the one module that maps")]
mod mapping;
mod meta;
mod op;
mod slot;
mod space;
mod store;
mod table;
mod task_file;

pub use directory::check_data_dir;
pub use error::{BatchError, CreateError, OpenError, OpenTaskError, RecordError, SealError, SpoolError};
pub use meta::{META_BYTES_MAX, TaskMeta};
pub use op::{Adopt, File, FileSystemSpace, Input, OpId, OpOk, OpResult, Output, SpoolId, StoreOp, WriteMode};
pub use rustix::fs::{Mode, OFlags};
pub use space::Usage;
pub use store::{OpenReport, Store, StoreConfig, TaskState, TaskSummary};
pub use task_file::{DIRECT_ALIGNMENT, Pin, TaskFile, WritePlan};

/// Version of the files. A newer major version is refused and left alone; a newer minor one is read.
pub const FORMAT_MAJOR: u16 = 1;
