//! Operations under way: what is done, what is left, and what comes of it. Both engines drive these.

mod file;
mod receive;
mod transmit;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(crate) use file::{Answer, FileOp};
pub(crate) use receive::Receive;
pub(crate) use transmit::{Next, Transmit};

use crate::op::{File, Op, Outcome, SocketOptions};

/// One operation under way.
pub(crate) enum Work {
    Accept {
        listener: File,
    },
    /// `socket` is there once the connection is under way.
    Connect {
        to: SocketAddr,
        options: SocketOptions,
        socket: Option<File>,
    },
    Transmit(Transmit),
    Receive(Receive),
    /// `None` while a pool thread has it.
    File(Option<FileOp>),
    Timer,
}

/// How far an attempt on a nonblocking socket got.
pub(crate) enum Attempt {
    Finished,
    /// Again when the socket is ready.
    Blocked,
    /// Again in the next turn: others wait too.
    Yielded,
    /// Again when the next chunk of the file has been read.
    NeedsChunk,
    Failed(io::Error),
}

impl Work {
    pub(crate) fn new(op: Op) -> Self {
        match op {
            Op::Accept { listener } => Self::Accept { listener },
            Op::Connect { to, options } => Self::Connect { to, options, socket: None },
            Op::Transmit { socket, head, body, strategy } => {
                Self::Transmit(Transmit::new(socket, head, body, strategy))
            }
            Op::Receive { socket, body, tail } => Self::Receive(Receive::new(socket, body, tail)),
            Op::Timer { .. } => Self::Timer,
            Op::Read { file, block, range, offset } => FileOp::read_block(file, block, range, offset).into(),
            Op::Write { file, block, range, offset } => FileOp::write_block(file, block, range, offset).into(),
            Op::ReadBytes { file, bytes, offset } => FileOp::read_bytes(file, bytes, offset).into(),
            Op::WriteBytes { file, bytes, offset } => FileOp::write_bytes(file, bytes, offset).into(),
            Op::Open { path, flags, mode } => FileOp::Open { path, flags: flags | crate::OFlags::CLOEXEC, mode }.into(),
            Op::Allocate { file, len } => FileOp::Allocate { file, len }.into(),
            Op::Sync { file, data_only } => FileOp::Sync { file, data_only }.into(),
            Op::Rename { from, to } => FileOp::Rename { from, to }.into(),
            Op::Unlink { path } => FileOp::Unlink { path }.into(),
            Op::Close { file } => FileOp::Close { file: Arc::into_inner(file) }.into(),
        }
    }

    /// The outcome of work that ends in an error before it is done.
    ///
    /// # Panics
    /// When a pool thread has the file operation: the pool ends it.
    pub(crate) fn fail(self, error: io::Error) -> Outcome {
        match self {
            Self::Accept { .. } => Outcome::Accepted(Err(error)),
            Self::Connect { .. } => Outcome::Connected(Err(error)),
            Self::Transmit(transmit) => transmit.finish(Err(error)),
            Self::Receive(receive) => receive.fail(error),
            Self::File(op) => op.expect("a file operation ends where it is").finish(Err(error)),
            Self::Timer => Outcome::Timer(Err(error)),
        }
    }

    /// The socket and direction this work keeps busy.
    #[cfg(debug_assertions)]
    pub(crate) fn lane(&self) -> Option<(i32, Direction)> {
        use std::os::fd::AsRawFd;
        match self {
            Self::Accept { listener } => Some((listener.as_raw_fd(), Direction::In)),
            Self::Receive(receive) => Some((receive.socket().as_raw_fd(), Direction::In)),
            Self::Transmit(transmit) => Some((transmit.socket().as_raw_fd(), Direction::Out)),
            _ => None,
        }
    }
}

impl From<FileOp> for Work {
    fn from(op: FileOp) -> Self {
        Self::File(Some(op))
    }
}

/// A direction of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    In,
    Out,
}

/// Takes one connection of a listener that has one.
pub(crate) fn accepted(socket: OwnedFd, peer: SocketAddr) -> Outcome {
    Outcome::Accepted(Ok((Arc::new(socket), crate::net::canonical(peer))))
}
