//! What can go wrong, one type per operation, each saying whose fault it is and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use hawker_proto::Root;

/// Why a data directory was not opened. Nothing in it was changed.
#[derive(Debug)]
pub enum OpenError {
    /// The directory is a symbolic link. Name the directory itself.
    Symlink { path: PathBuf },
    /// Something else stands there.
    NotADirectory { path: PathBuf },
    /// The directory belongs to another user, who could change what Hawker verified.
    ForeignOwner { path: PathBuf, owner: u32, expected: u32 },
    /// Group or others may write to the directory.
    WritableByOthers { path: PathBuf, mode: u32 },
    /// Another agent uses the directory.
    Locked { path: PathBuf },
    /// The directory was written by a newer Hawker.
    NewerVersion { path: PathBuf, found: u16, supported: u16 },
    /// A file named `catalog` that is not Hawker's.
    NotACatalog { path: PathBuf },
    /// The file system refused.
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink { path } => {
                write!(f, "data directory {} is a symbolic link; name the directory that it points to", path.display())
            }
            Self::NotADirectory { path } => {
                write!(f, "{} is not a directory; choose another with --data-dir", path.display())
            }
            Self::ForeignOwner { path, owner, expected } => write!(
                f,
                "data directory {} belongs to user {owner}, not to user {expected} who runs hawker; \
                 chown it or choose another with --data-dir",
                path.display()
            ),
            Self::WritableByOthers { path, mode } => write!(
                f,
                "data directory {} may be written by other users (mode {mode:04o}); chmod go-w it first",
                path.display()
            ),
            Self::Locked { path } => write!(
                f,
                "another hawker uses data directory {}; stop it or choose another with --data-dir",
                path.display()
            ),
            Self::NewerVersion { path, found, supported } => write!(
                f,
                "data directory {} has format {found}, this hawker knows up to {supported}; \
                 upgrade hawker or choose another with --data-dir",
                path.display()
            ),
            Self::NotACatalog { path } => {
                write!(f, "{} is not a hawker catalog; choose an empty --data-dir", path.display())
            }
            Self::Io { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Why a task was not created. Nothing is left of it, and no space stays taken.
#[derive(Debug)]
pub enum CreateError {
    /// The store has the task: open it.
    Exists,
    /// The task does not fit, even with everything evicted that may be. Pass the bytes through, or raise the limit.
    OverLimit { needed_bytes: u64, limit_bytes: u64 },
    /// The file system is full (space, quota or inodes). Pass the bytes through.
    DiskFull { needed_bytes: u64, source: io::Error },
    /// Too many tasks wait for space. Pass the bytes through.
    Busy,
    /// The store is closing, or its catalog cannot be written any more.
    Closed,
    /// An adopted spool is not what the caller said: the caller's fault.
    WrongSpool { what: &'static str },
    /// The disk refused.
    Disk(io::Error),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("the task exists"),
            Self::OverLimit { needed_bytes, limit_bytes } => write_over_limit(f, *needed_bytes, *limit_bytes),
            Self::DiskFull { needed_bytes, source } => {
                write!(f, "no room for {needed_bytes} bytes in the data directory: {source}")
            }
            Self::Busy => f.write_str("too many tasks wait for space"),
            Self::Closed => f.write_str(
                "the store takes no new tasks: the agent ends, or its disk failed and it has to be restarted",
            ),
            Self::WrongSpool { what } => write!(f, "cannot adopt the spooled content: {what}"),
            Self::Disk(source) => write!(f, "cannot create a task: {source}"),
        }
    }
}

/// The limit is the user's, or what the disk has.
fn write_over_limit(f: &mut fmt::Formatter<'_>, needed_bytes: u64, limit_bytes: u64) -> fmt::Result {
    write!(
        f,
        "no room for {needed_bytes} bytes: the cache may hold {limit_bytes} (--limit-disk, and what the disk has free)"
    )
}

/// Why a task of the catalog was not opened.
#[derive(Debug)]
pub enum OpenTaskError {
    /// The store has no such task.
    NotFound,
    /// A file of the task is missing or fails its check; the task is being removed. Fetch it again.
    Damaged { what: &'static str },
    /// The store is closing.
    Closed,
    /// The disk refused (or descriptors ran out); the task stays. Try again later.
    Disk(io::Error),
}

impl fmt::Display for OpenTaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such task"),
            Self::Damaged { what } => write!(f, "the task's {what} is damaged; it is dropped"),
            Self::Closed => f.write_str("the store is closing"),
            Self::Disk(source) => write!(f, "cannot open the task: {source}"),
        }
    }
}

/// Why a task was not sealed.
#[derive(Debug)]
pub enum SealError {
    /// The task is not in the store, or not open.
    NotFound,
    /// Pieces are missing; the task stays as it is.
    Incomplete { missing_pieces: u32 },
    /// The records do not merge to the root that the caller gave; the task stays as it is.
    WrongRoot { found: Root },
    /// The catalog has no room and cannot grow; the task stays unsealed.
    CatalogFull(io::Error),
    /// The disk lost what it was given; the task is being removed.
    Disk(io::Error),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("the task is not open"),
            Self::Incomplete { missing_pieces } => write!(f, "{missing_pieces} pieces are missing"),
            Self::WrongRoot { found } => write!(f, "the content's BLAKE3 is {found}, which is not the expected root"),
            Self::CatalogFull(source) => write!(f, "the catalog cannot grow: {source}"),
            Self::Disk(source) => write!(f, "the disk failed to keep the task: {source}"),
        }
    }
}

/// Why a body of unknown length cannot be spooled, or not further.
#[derive(Debug)]
pub enum SpoolError {
    /// It does not fit into the limit. Pass the bytes through.
    OverLimit { needed_bytes: u64, limit_bytes: u64 },
    /// Too many requests wait for space.
    Busy,
    /// No such spool.
    NotFound,
    /// The store is closing.
    Closed,
    /// The disk refused.
    Disk(io::Error),
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverLimit { needed_bytes, limit_bytes } => write_over_limit(f, *needed_bytes, *limit_bytes),
            Self::Busy => f.write_str("too many tasks wait for space"),
            Self::NotFound => f.write_str("no such spool"),
            Self::Closed => f.write_str("the store is closing"),
            Self::Disk(source) => write!(f, "cannot spool: {source}"),
        }
    }
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The task has no such piece.
    NoSuchPiece,
    /// Not one value per block.
    WrongBlockCount { expected: u32 },
    /// The piece has another record already, and records do not change: one of the two signers lies.
    Conflict,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPiece => f.write_str("the task has no such piece"),
            Self::WrongBlockCount { expected } => write!(f, "the piece has {expected} blocks"),
            Self::Conflict => f.write_str("the piece has another record"),
        }
    }
}

/// Why a signed batch was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// The space reserved for the task's batches is used up: somebody sends more than one a piece.
    Full,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no more batches fit")
    }
}

impl std::error::Error for CreateError {}
impl std::error::Error for OpenTaskError {}
impl std::error::Error for SealError {}
impl std::error::Error for SpoolError {}
impl std::error::Error for RecordError {}
impl std::error::Error for BatchError {}
