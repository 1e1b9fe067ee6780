//! The data directory: who may own it, its lock, and the names in it.

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use hawker_proto::TaskId;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::OpenError;

/// The files of a task, in the order of [`TaskPart::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskPart {
    Content,
    Table,
    Batches,
    Meta,
}

impl TaskPart {
    pub(crate) const ALL: [Self; 4] = [Self::Content, Self::Table, Self::Batches, Self::Meta];

    fn extension(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Table => "table",
            Self::Batches => "batches",
            Self::Meta => "meta",
        }
    }

    /// A bit for a set of parts.
    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// All parts of a task.
pub(crate) const ALL_PARTS: u8 = 0b1111;

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    /// flock(2) lives as long as the descriptor.
    _lock: OwnedFd,
}

impl Directory {
    /// Checks, locks and completes the directory. `check_format` runs before anything is made or changed.
    pub(crate) fn open(
        dir: &Path,
        check_format: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        let root = std::path::absolute(dir).map_err(|source| io_error("name", dir, source))?;
        match std::fs::symlink_metadata(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(&root);
                made.map_err(|source| io_error("create", &root, source))?;
            }
            Err(source) => return Err(io_error("look at", &root, source)),
            Ok(_) => {}
        }
        check_owner(&root)?;
        check_format(&root.join("catalog"))?;
        let lock = lock(&root)?;
        let directory = Self { root, _lock: lock };
        directory.make_children()?;
        Ok(directory)
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.root.join("catalog")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// The directory of a task's files.
    pub(crate) fn of_task(&self, task: TaskId) -> PathBuf {
        self.shard(task.0[0])
    }

    /// One of the 256 directories of tasks.
    pub(crate) fn shard(&self, first_byte: u8) -> PathBuf {
        self.root.join("tasks").join(format!("{first_byte:02x}"))
    }

    pub(crate) fn part(&self, task: TaskId, part: TaskPart) -> CString {
        c_path(&self.of_task(task).join(format!("{task}.{}", part.extension())))
    }

    pub(crate) fn spool(&self, number: u64) -> CString {
        c_path(&self.incoming().join(number.to_string()))
    }

    /// All 256 directories of tasks are made at once, so that none has to be made durable later.
    fn make_children(&self) -> Result<(), OpenError> {
        let mut made = self.make(&self.incoming())?;
        made |= self.make(&self.root.join("tasks"))?;
        let mut made_shard = false;
        for byte in 0..=u8::MAX {
            // Nobody else can have put anything here: `tasks` was checked.
            match DirBuilder::new().mode(0o700).create(self.shard(byte)) {
                Ok(()) => made_shard = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(io_error("create", &self.shard(byte), source)),
            }
        }
        if made_shard {
            sync_dir(&self.root.join("tasks"))?;
        }
        if made {
            sync_dir(&self.root)?;
        }
        Ok(())
    }

    fn make(&self, path: &Path) -> Result<bool, OpenError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_owner(path).map(|()| false),
            Err(source) => Err(io_error("create", path, source)),
        }
    }
}

/// The task and part that a name in a directory of tasks stands for; `None` for a name that is not ours.
pub(crate) fn parse_part(name: &[u8]) -> Option<(TaskId, TaskPart)> {
    let (id, extension) = std::str::from_utf8(name).ok()?.split_once('.')?;
    let part = TaskPart::ALL.into_iter().find(|part| part.extension() == extension)?;
    Some((id.parse().ok()?, part))
}

/// Whether a name in `incoming/` is ours: a number.
pub(crate) fn is_spool_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// A path for the kernel.
///
/// # Panics
/// Never: the root passed [`std::fs::symlink_metadata`], so it holds no NUL, and what is joined to it is ours.
pub(crate) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path that the kernel has taken before")
}

pub(crate) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { doing, path: path.to_owned(), source }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), OpenError> {
    let synced = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|dir| rustix::fs::fsync(&dir));
    synced.map_err(|errno| io_error("sync", path, errno.into()))
}

/// A directory that others can write to is one where they can swap what was verified; one that is reached by a
/// symbolic link may be swapped as a whole.
fn check_owner(path: &Path) -> Result<(), OpenError> {
    let found = std::fs::symlink_metadata(path).map_err(|source| io_error("look at", path, source))?;
    let path = path.to_owned();
    let expected = rustix::process::geteuid().as_raw();
    if found.is_symlink() {
        return Err(OpenError::Symlink { path });
    }
    if !found.is_dir() {
        return Err(OpenError::NotADirectory { path });
    }
    if found.uid() != expected {
        return Err(OpenError::ForeignOwner { path, owner: found.uid(), expected });
    }
    if found.mode() & 0o022 != 0 {
        return Err(OpenError::WritableByOthers { path, mode: found.mode() & 0o7777 });
    }
    Ok(())
}

/// Refuses a data directory that others could change, as opening it does: for what is kept in it beside the store.
///
/// # Errors
/// [`OpenError`]; nothing was changed.
pub fn check_data_dir(dir: &Path) -> Result<(), OpenError> {
    let root = std::path::absolute(dir).map_err(|source| io_error("name", dir, source))?;
    check_owner(&root)
}

fn lock(root: &Path) -> Result<OwnedFd, OpenError> {
    let path = root.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| io_error("open", &path, errno.into()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: root.to_owned() }),
        Err(errno) => Err(io_error("lock", &path, errno.into())),
    }
}
