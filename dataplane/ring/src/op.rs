//! What an engine can be asked to do, and what it answers.
//!
//! Operations are composite, so that partial I/O, MSG_MORE, EAGAIN and re-arming stay inside the engine and both
//! engines show their callers one behaviour. An operation owns its buffers and holds its files until its completion.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use rustix::fs::{Mode, OFlags};

use crate::slab::Block;

/// A descriptor that operations share with their caller: an operation's clone keeps the number from being reused.
pub type File = Arc<OwnedFd>;

/// The caller's name for an operation, unique among those in flight on one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One operation. Only one per direction (Accept and Receive; Transmit) may be in flight on a socket.
#[derive(Debug)]
pub enum Op {
    /// One connection of a listener; submit again for the next. EMFILE and the like come back as errors and the
    /// listener lives on: submit again after a pause, since the kernel says EMFILE at once, connection or not.
    Accept { listener: File },
    /// Makes a nonblocking, close-on-exec socket and connects it.
    Connect { to: SocketAddr, options: SocketOptions },
    /// All of `head`, then all of `body`, then one completion. A file that is shorter than its body says is ENODATA,
    /// with the connection at an unknown place. The process must ignore SIGPIPE (Rust's runtime does): sendfile(2)
    /// has no flag for it.
    Transmit { socket: File, head: Vec<u8>, body: Body, strategy: Strategy },
    /// Exactly `body`'s range into the block, then the tail. Ends early at the end of the stream, with the counts.
    /// The caller must not have shut the socket down for writing: then an orderly end and a reset look alike.
    Receive { socket: File, body: Option<(Block, Range<usize>)>, tail: TailBuf },
    /// Fills `range` of the block from the file; fewer bytes only at the file's end.
    Read { file: File, block: Block, range: Range<usize>, offset: u64 },
    /// Writes all of `range` of the block.
    Write { file: File, block: Block, range: Range<usize>, offset: u64 },
    /// Fills `bytes` (its length says how much) from the file; fewer bytes only at the file's end.
    ReadBytes { file: File, bytes: Vec<u8>, offset: u64 },
    /// Writes all of `bytes`.
    WriteBytes { file: File, bytes: Vec<u8>, offset: u64 },
    /// Opens a file, close-on-exec always.
    Open { path: CString, flags: OFlags, mode: Mode },
    /// fallocate(2) of bytes `0..len`: reserves the blocks and grows the file.
    Allocate { file: File, len: u64 },
    /// fsync(2), or fdatasync(2) when `data_only`; of a directory too.
    Sync { file: File, data_only: bool },
    /// rename(2): replaces `to`.
    Rename { from: CString, to: CString },
    /// unlink(2).
    Unlink { path: CString },
    /// Closes the file if this is its last holder, so that a slow close stalls no shard; else only lets go of it.
    Close { file: File },
    /// Completes no earlier than `after` from the time of `submit`. Timers complete in order of their deadlines.
    Timer { after: Duration },
}

/// What follows the head of a [`Op::Transmit`].
#[derive(Debug, Default)]
pub enum Body {
    /// The head is all.
    #[default]
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A range of a block.
    Block(Block, Range<usize>),
    /// Bytes `offset..offset + length` of a file that does not shrink meanwhile.
    File { file: File, offset: u64, length: u64 },
}

/// How a file's bytes get onto a socket; bodies from memory are always copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// sendfile(2): page-cache pages by reference. For resident ranges: it blocks the shard on a cold page.
    Sendfile,
    /// Read into memory, then send, 256 KiB at a time. A cold disk stalls nobody.
    #[default]
    Copy,
}

/// Where a [`Op::Receive`] puts the bytes behind its body. The old contents of `bytes` are overwritten; only its
/// capacity matters, so that one vector serves a connection for life.
#[derive(Debug, Default)]
pub struct TailBuf {
    pub bytes: Vec<u8>,
    pub mode: TailMode,
}

/// How much tail to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TailMode {
    /// All of it; 0 for none.
    Exact(usize),
    /// What has come, this much at most. Waits for a first byte only when there is no body before it: a whole block
    /// is not held back for bytes that nobody may have sent.
    UpTo(usize),
}

impl Default for TailMode {
    fn default() -> Self {
        Self::Exact(0)
    }
}

impl TailBuf {
    /// Exactly `wanted` bytes.
    #[must_use]
    pub fn exact(bytes: Vec<u8>, wanted: usize) -> Self {
        Self { bytes, mode: TailMode::Exact(wanted) }
    }

    /// At most `limit` bytes.
    #[must_use]
    pub fn up_to(bytes: Vec<u8>, limit: usize) -> Self {
        Self { bytes, mode: TailMode::UpTo(limit) }
    }
}

/// What is set on a socket before it is used; `None` leaves the host's choice alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY: heads and bodies are joined by MSG_MORE, so Nagle would only add delay.
    pub is_nodelay: bool,
    /// TCP_NOTSENT_LOWAT in bytes: what may wait unsent in the kernel, and thus how long control frames queue behind bulk.
    pub notsent_lowat: Option<u32>,
    /// SO_SNDBUF in bytes.
    pub send_buffer_bytes: Option<usize>,
    /// SO_RCVBUF in bytes.
    pub receive_buffer_bytes: Option<usize>,
    /// TCP_CONGESTION by name.
    pub congestion: Option<Arc<str>>,
    /// The local address to connect from.
    pub source: Option<IpAddr>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            is_nodelay: true,
            notsent_lowat: Some(128 * 1024),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            congestion: None,
            source: None,
        }
    }
}

/// The one answer to one operation.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub outcome: Outcome,
}

/// What came of an operation; its buffers come back with it, also when it failed.
#[derive(Debug)]
pub enum Outcome {
    /// The nonblocking socket and the peer's address, an IPv4 peer of a dual-stack listener as IPv4.
    Accepted(io::Result<(File, SocketAddr)>),
    Connected(io::Result<File>),
    /// Bytes sent: head and body together.
    Transmitted {
        result: io::Result<u64>,
        head: Vec<u8>,
        body: Body,
    },
    /// `tail` has the length of what was received into it.
    Received {
        result: io::Result<Received>,
        block: Option<(Block, Range<usize>)>,
        tail: Vec<u8>,
    },
    Read {
        result: io::Result<usize>,
        block: Block,
    },
    Wrote {
        result: io::Result<usize>,
        block: Block,
    },
    /// `bytes` keeps its length; the count says how many of them are the file's.
    ReadBytes {
        result: io::Result<usize>,
        bytes: Vec<u8>,
    },
    WroteBytes {
        result: io::Result<usize>,
        bytes: Vec<u8>,
    },
    Opened(io::Result<File>),
    /// Allocate, Sync, Rename, Unlink, Close.
    Done(io::Result<()>),
    Timer(io::Result<()>),
}

/// How a [`Op::Receive`] ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub body_bytes: usize,
    pub tail_bytes: usize,
    /// The peer has sent its last byte, before all that was asked for came.
    pub is_eof: bool,
}

/// The error of an operation that was cancelled before it was done.
#[must_use]
pub fn cancelled() -> io::Error {
    rustix::io::Errno::CANCELED.into()
}

/// Whether an operation ended because of [`crate::Engine::cancel`].
#[must_use]
pub fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error())
}
