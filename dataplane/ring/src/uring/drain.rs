//! The end of a ring: nothing is freed while the kernel may still write to it.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::ring::Kind;
use super::{Uring, file_answer, own};
use crate::core::Key;
use crate::op::cancelled;
use crate::work::Work;

/// How long a dropped engine waits for progress before it asks the kernel again.
const CANCEL_INTERVAL: Duration = Duration::from_millis(10);

impl Drop for Uring {
    fn drop(&mut self) {
        if self.drain() {
            return;
        }
        // The kernel still knows addresses of ours (a disk that hangs): lose the memory rather than reuse it.
        self.core.leak_away();
        std::mem::forget(std::mem::take(&mut self.scratch));
        self.bell.leak();
    }
}

impl Uring {
    /// Cancels everything and waits until the kernel has let go of every buffer. Closing a ring does not do that:
    /// disk I/O in flight goes on and writes to memory that was freed (seen in 10 of 10 runs, Linux 6.18).
    fn drain(&mut self) -> bool {
        let deadline = Instant::now() + self.drain_limit;
        while self.ring.in_kernel() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Again each time: a socket's request that is between two waits is not found, and waits once more.
            self.ring.push_cancel_all();
            while self.ring.in_kernel() > 0 && self.drain_some(left.min(CANCEL_INTERVAL)) {}
        }
        true
    }

    /// Whether the kernel has let go of anything within `wait`.
    fn drain_some(&mut self, wait: Duration) -> bool {
        self.ring.enter(Some(wait));
        let before = self.ring.in_kernel();
        while let Some((kind, key, result)) = self.ring.pop() {
            match kind {
                Kind::Io | Kind::Poll | Kind::Chunk => self.discard(key, result),
                Kind::Cancel | Kind::Bell => {}
            }
        }
        self.ring.in_kernel() < before
    }

    /// An operation whose outcome nobody will see: descriptors in it are closed, its memory is free.
    fn discard(&mut self, key: Key, result: Result<u32, Errno>) {
        match &mut self.core.active_mut(key).work {
            Work::Accept { .. } => drop(result.map(own)),
            Work::File(Some(op)) => drop(file_answer(op, result)),
            _ => {}
        }
        self.core.fail(key, cancelled());
    }
}
