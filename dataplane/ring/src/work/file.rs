//! File operations, and what their partial results mean.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::op::{File, Outcome};
use crate::slab::{BLOCK_BYTES, Block};

/// A file operation under way; owns its buffer and its file.
pub(crate) enum FileOp {
    Read(Transfer),
    Write(Transfer),
    Open {
        path: CString,
        flags: OFlags,
        mode: Mode,
    },
    Allocate {
        file: File,
        len: u64,
    },
    Sync {
        file: File,
        data_only: bool,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Unlink {
        path: CString,
    },
    /// `None`: others hold the file, nothing is to be closed.
    Close {
        file: Option<OwnedFd>,
    },
}

/// Bytes between a file and memory.
pub(crate) struct Transfer {
    pub(crate) file: File,
    pub(crate) buffer: Buffer,
    offset: u64,
    done: usize,
}

/// The memory of a transfer.
pub(crate) enum Buffer {
    Block(Block, Range<usize>),
    Bytes(Vec<u8>),
}

/// What a file operation gave.
#[derive(Debug)]
pub(crate) enum Answer {
    Count(usize),
    Opened(OwnedFd),
}

impl FileOp {
    pub(crate) fn read_block(file: File, block: Block, range: Range<usize>, offset: u64) -> Self {
        Self::Read(Transfer::new(file, Buffer::block(block, range), offset))
    }

    pub(crate) fn write_block(file: File, block: Block, range: Range<usize>, offset: u64) -> Self {
        Self::Write(Transfer::new(file, Buffer::block(block, range), offset))
    }

    pub(crate) fn read_bytes(file: File, bytes: Vec<u8>, offset: u64) -> Self {
        Self::Read(Transfer::new(file, Buffer::Bytes(bytes), offset))
    }

    pub(crate) fn write_bytes(file: File, bytes: Vec<u8>, offset: u64) -> Self {
        Self::Write(Transfer::new(file, Buffer::Bytes(bytes), offset))
    }

    /// Takes the result of one system call or ring completion; `None`: try again for what is left.
    pub(crate) fn progress(&mut self, result: Result<Answer, Errno>) -> Option<io::Result<Answer>> {
        let answer = match result {
            Ok(answer) => answer,
            Err(Errno::INTR) => return None,
            Err(error) => return Some(self.stop(error)),
        };
        match (self, answer) {
            (Self::Read(transfer), Answer::Count(count)) => transfer.read(count),
            (Self::Write(transfer), Answer::Count(count)) => transfer.wrote(count),
            (_, answer) => Some(Ok(answer)),
        }
    }

    fn stop(&self, error: Errno) -> io::Result<Answer> {
        match self {
            // O_DIRECT: the rest of a read that ended at the file's end is not aligned. A call that was wrong from
            // the start fails with nothing done.
            Self::Read(transfer) if error == Errno::INVAL && transfer.done > 0 => Ok(Answer::Count(transfer.done)),
            _ => Err(error.into()),
        }
    }

    /// Runs to the end on this thread, which may block.
    pub(crate) fn run(&mut self) -> io::Result<Answer> {
        loop {
            let result = self.call();
            if let Some(result) = self.progress(result) {
                return result;
            }
        }
    }

    fn call(&mut self) -> Result<Answer, Errno> {
        let done = || Answer::Count(0);
        match self {
            Self::Read(transfer) => {
                let offset = transfer.position();
                let (file, memory) = transfer.file_and_memory();
                rustix::io::pread(file, memory, offset).map(Answer::Count)
            }
            Self::Write(transfer) => {
                rustix::io::pwrite(&transfer.file, transfer.rest(), transfer.position()).map(Answer::Count)
            }
            Self::Open { path, flags, mode } => rustix::fs::open(path.as_c_str(), *flags, *mode).map(Answer::Opened),
            Self::Allocate { file, len } => {
                rustix::fs::fallocate(file, FallocateFlags::empty(), 0, *len).map(|()| done())
            }
            Self::Sync { file, data_only: true } => rustix::fs::fdatasync(file).map(|()| done()),
            Self::Sync { file, data_only: false } => rustix::fs::fsync(file).map(|()| done()),
            Self::Rename { from, to } => rustix::fs::rename(from.as_c_str(), to.as_c_str()).map(|()| done()),
            Self::Unlink { path } => rustix::fs::unlink(path.as_c_str()).map(|()| done()),
            Self::Close { file } => {
                drop(file.take());
                Ok(done())
            }
        }
    }

    pub(crate) fn finish(self, result: io::Result<Answer>) -> Outcome {
        match self {
            Self::Read(transfer) => {
                let result = result.map(|_| transfer.done);
                match transfer.buffer {
                    Buffer::Block(block, _) => Outcome::Read { result, block },
                    Buffer::Bytes(bytes) => Outcome::ReadBytes { result, bytes },
                }
            }
            Self::Write(transfer) => {
                let result = result.map(|_| transfer.done);
                match transfer.buffer {
                    Buffer::Block(block, _) => Outcome::Wrote { result, block },
                    Buffer::Bytes(bytes) => Outcome::WroteBytes { result, bytes },
                }
            }
            Self::Open { .. } => Outcome::Opened(result.map(|answer| match answer {
                Answer::Opened(fd) => Arc::new(fd),
                Answer::Count(_) => unreachable!("an open gives a descriptor"),
            })),
            // What a close reports is lost: whoever needs to know syncs first.
            Self::Close { .. } if !matches!(&result, Err(error) if crate::is_cancelled(error)) => Outcome::Done(Ok(())),
            _ => Outcome::Done(result.map(drop)),
        }
    }
}

impl Transfer {
    fn new(file: File, buffer: Buffer, offset: u64) -> Self {
        Self { file, buffer, offset, done: 0 }
    }

    fn read(&mut self, count: usize) -> Option<io::Result<Answer>> {
        self.done += count;
        (count == 0 || self.rest().is_empty()).then_some(Ok(Answer::Count(self.done)))
    }

    fn wrote(&mut self, count: usize) -> Option<io::Result<Answer>> {
        self.done += count;
        if self.rest().is_empty() {
            return Some(Ok(Answer::Count(self.done)));
        }
        (count == 0).then(|| Err(io::ErrorKind::WriteZero.into()))
    }

    /// The file offset of the rest.
    pub(crate) fn position(&self) -> u64 {
        self.offset.saturating_add(self.done as u64)
    }

    /// The memory that is left to write to the file.
    pub(crate) fn rest(&self) -> &[u8] {
        match &self.buffer {
            Buffer::Block(block, range) => &block.as_slice()[range.clone()][self.done..],
            Buffer::Bytes(bytes) => &bytes[self.done..],
        }
    }

    /// The file, and the memory that is left to fill from it.
    pub(crate) fn file_and_memory(&mut self) -> (&OwnedFd, &mut [u8]) {
        let memory = match &mut self.buffer {
            Buffer::Block(block, range) => &mut block.as_mut_slice()[range.clone()][self.done..],
            Buffer::Bytes(bytes) => &mut bytes[self.done..],
        };
        (&self.file, memory)
    }
}

impl Buffer {
    fn block(block: Block, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= BLOCK_BYTES, "range {range:?} is not in a block");
        Self::Block(block, range)
    }
}
