//! The trait that both engines implement, and the door to them.

use std::io;
use std::time::Duration;

use crate::detect::Detection;
use crate::op::{Completion, Op, Token};
use crate::waker::Waker;

/// A thread's access to the kernel. Every operation completes exactly once, by [`Engine::turn`].
///
/// Made, used and dropped on one thread. Dropping it cancels what is in flight and waits for the kernel to let go of
/// every buffer; what it does not let go of within [`EngineConfig::drain_limit`] is leaked, never reused.
pub trait Engine {
    /// Takes an operation; the kernel sees it in the next turn. Never blocks and never fails: errors are completions.
    fn submit(&mut self, token: Token, op: Op);

    /// Asks for an early end. The operation still completes exactly once: with an error for which
    /// [`crate::is_cancelled`] holds, or as if nothing had happened when it was too late. An unknown token is ignored.
    /// A cancelled transfer may have moved some bytes: its stream is of no further use unless it had not begun.
    fn cancel(&mut self, token: Token);

    /// Submits, waits until something completed, [`Waker::wake`] was called or `wait` is over (`None`: without end;
    /// zero: polls), and appends completions to `out`. May return without any.
    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>);

    /// A handle by which other threads end this engine's wait.
    fn waker(&self) -> Waker;

    /// Operations submitted and not yet completed.
    fn in_flight(&self) -> usize;

    /// Which engine this is.
    fn kind(&self) -> EngineKind;
}

/// The two engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    Uring,
    Epoll,
}

impl EngineKind {
    /// The name used in configuration and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Bounds of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Submission queue entries of a ring; a power of two. More operations than this are submitted in several goes.
    pub ring_entries: u32,
    /// Kernel worker threads of a ring, at most, for files and for anything else each.
    pub ring_workers: u32,
    /// Threads for file operations of an epoll engine, started with the first such operation.
    pub file_threads: usize,
    /// How long a dropped engine waits for the kernel before it leaks what the kernel still holds.
    pub drain_limit: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { ring_entries: 256, ring_workers: 4, file_threads: 4, drain_limit: Duration::from_secs(10) }
    }
}

/// Opens an engine for the calling thread.
///
/// # Errors
/// The kernel refuses a ring or descriptors (EMFILE, ENOMEM): ours or the host's limits.
pub fn open(detection: &Detection, config: &EngineConfig) -> io::Result<Box<dyn Engine>> {
    match detection.kind {
        EngineKind::Uring => Ok(Box::new(crate::uring::Uring::new(config)?)),
        EngineKind::Epoll => Ok(Box::new(crate::epoll::Epoll::new(config)?)),
    }
}
