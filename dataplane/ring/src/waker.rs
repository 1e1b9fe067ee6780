//! Ends another thread's wait, at the price of one write(2) per turn however many call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Ends an engine's wait from any thread; outlives the engine harmlessly.
#[derive(Clone, Debug)]
pub struct Waker {
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    eventfd: OwnedFd,
    /// Set by the first wake since the engine last looked: later ones need not write.
    is_rung: AtomicBool,
}

impl Waker {
    /// `flags`: epoll reads it nonblocking; a ring needs it blocking, or reads of it would not wait.
    pub(crate) fn new(flags: EventfdFlags) -> io::Result<Self> {
        let eventfd = eventfd(0, flags | EventfdFlags::CLOEXEC)?;
        Ok(Self { bell: Arc::new(Bell { eventfd, is_rung: AtomicBool::new(false) }) })
    }

    /// Makes the engine's current or next turn return. What was written before this call is visible after that turn.
    pub fn wake(&self) {
        if self.bell.is_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        #[expect(clippy::host_endian_bytes, reason = "eventfd(2): an integer in host byte order")]
        let one = 1u64.to_ne_bytes();
        // A counter that is full (EAGAIN) is a bell that has been rung.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.bell.eventfd, &one));
    }

    /// The engine has seen the bell. Whoever wakes from here on writes again; whoever woke before has published what
    /// the caller of this turn is about to look at.
    pub(crate) fn reset(&self) {
        self.bell.is_rung.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }
}
