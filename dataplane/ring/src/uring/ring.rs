//! The ring itself: pushing, entering, popping, and counting what the kernel holds.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use crate::core::Key;
use crate::engine::EngineConfig;

/// What a request was for; the top byte of its user_data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The operation's own request.
    Io = 1,
    /// Its socket is ready.
    Poll = 2,
    /// A chunk of the file that it sends has been read.
    Chunk = 3,
    /// A cancellation; its own completion says nothing that the other's does not.
    Cancel = 4,
    /// The eventfd.
    Bell = 5,
}

impl Kind {
    fn of(byte: u64) -> Self {
        match byte {
            1 => Self::Io,
            2 => Self::Poll,
            3 => Self::Chunk,
            4 => Self::Cancel,
            5 => Self::Bell,
            _ => unreachable!("user_data of kind {byte} was never submitted"),
        }
    }
}

/// user_data = kind: 8 bits | generation: 24 | slot: 32.
fn user_data(kind: Kind, key: Key) -> u64 {
    debug_assert!(key.generation <= Key::GENERATION_MAX);
    (kind as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.slot)
}

fn parse_user_data(user_data: u64) -> (Kind, Key) {
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the slot")]
    let slot = user_data as u32;
    let generation = (user_data >> 32) as u32 & Key::GENERATION_MAX;
    (Kind::of(user_data >> 56), Key { slot, generation })
}

/// A ring and the number of requests that have no completion yet. Not Send: SINGLE_ISSUER means this thread.
pub(crate) struct Ring {
    ring: IoUring,
    in_kernel: usize,
    thread: PhantomData<*const ()>,
}

/// Why there is no ring.
#[derive(Debug)]
pub(crate) struct RingError {
    pub(crate) source: io::Error,
    pub(crate) stage: Stage,
}

/// The rung of the detection ladder that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// io_uring_setup(2).
    Setup,
    /// A feature flag that we depend on.
    Features,
    /// An opcode that we use.
    Opcodes,
    /// REGISTER_IOWQ_MAX_WORKERS.
    Workers,
}

/// The tier of the kernel's ring: what later work may build on.
pub(crate) fn probe(config: &EngineConfig) -> Result<&'static str, RingError> {
    let ring = Ring::new(config)?;
    let params = ring.ring.params();
    Ok(match () {
        () if params.is_feature_no_iowait() => "uring-6.15",
        () if params.is_feature_min_timeout() => "uring-6.12",
        () => "uring-6.1",
    })
}

const OPCODES: [u8; 12] = [
    opcode::Accept::CODE,
    opcode::AsyncCancel2::CODE,
    opcode::Close::CODE,
    opcode::Fallocate::CODE,
    opcode::Fsync::CODE,
    opcode::OpenAt::CODE,
    opcode::PollAdd::CODE,
    opcode::Read::CODE,
    opcode::RecvMsg::CODE,
    opcode::RenameAt::CODE,
    opcode::SendMsg::CODE,
    opcode::UnlinkAt::CODE,
];

impl Ring {
    pub(crate) fn new(config: &EngineConfig) -> Result<Self, RingError> {
        let at = |stage| move |source| RingError { source, stage };
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            // Without it a turn that only polls would not learn that completions wait to be run.
            .setup_taskrun_flag()
            // One bad request must not keep those behind it from the kernel.
            .setup_submit_all()
            .setup_cqsize(config.ring_entries.saturating_mul(4))
            .setup_clamp()
            .dontfork()
            .build(config.ring_entries)
            .map_err(at(Stage::Setup))?;
        let params = ring.params();
        // NODROP: no completion is lost on overflow (gVisor loses them). EXT_ARG: a wait with a timeout.
        // SUBMIT_STABLE: message headers may change once they are submitted.
        if !(params.is_feature_nodrop() && params.is_feature_ext_arg() && params.is_feature_submit_stable()) {
            return Err(at(Stage::Features)(io::ErrorKind::Unsupported.into()));
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(at(Stage::Opcodes))?;
        if !OPCODES.iter().all(|&opcode| probe.is_supported(opcode)) {
            return Err(at(Stage::Opcodes)(io::ErrorKind::Unsupported.into()));
        }
        // Files and the rest; unbounded the kernel would start as many as RLIMIT_NPROC allows.
        let mut workers = [config.ring_workers; 2];
        ring.submitter().register_iowq_max_workers(&mut workers).map_err(at(Stage::Workers))?;
        Ok(Self { ring, in_kernel: 0, thread: PhantomData })
    }

    /// Requests without completion, those not yet submitted included.
    pub(crate) fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    /// Queues a request. What it points to stays valid and in place until its completion; what the kernel copies at
    /// submission (headers, vectors, paths), until the end of this turn's last enter.
    pub(crate) fn push(&mut self, entry: &squeue::Entry, kind: Kind, key: Key) {
        let entry = entry.clone().user_data(user_data(kind, key));
        while self.ring.submission().is_full() {
            self.submit();
        }
        // SAFETY: `entries` makes requests from operations that stay in their slots, with the memory and descriptors
        // that they own, until their completion was popped; `Drop` drains or leaks them.
        let result = unsafe { self.ring.submission().push(&entry) };
        result.expect("the queue was not full");
        self.in_kernel += 1;
    }

    pub(crate) fn push_cancel(&mut self, kind: Kind, key: Key) {
        let entry = opcode::AsyncCancel::new(user_data(kind, key)).build();
        self.push(&entry, Kind::Cancel, key);
    }

    pub(crate) fn push_cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.push(&entry, Kind::Cancel, Key { slot: 0, generation: 0 });
    }

    /// Submits what is queued and waits for a completion; `Some(0)`: does not wait; `None`: without end.
    pub(crate) fn enter(&mut self, pause: Option<Duration>) {
        if pause == Some(Duration::ZERO) {
            self.submit();
            return;
        }
        let timespec = Timespec::from(pause.unwrap_or_default());
        let args = if pause.is_some() { SubmitArgs::new().timespec(&timespec) } else { SubmitArgs::new() };
        let result = self.ring.submitter().submit_with_args(1, &args);
        check_enter(result);
    }

    fn submit(&mut self) {
        let queue = self.ring.submission();
        let is_idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        if !is_idle {
            check_enter(self.ring.submit());
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Kind, Key, Result<u32, Errno>)> {
        let entry = self.ring.completion().next()?;
        self.in_kernel -= 1;
        let (kind, key) = parse_user_data(entry.user_data());
        let result = entry.result();
        let result = u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
        Some((kind, key, result))
    }
}

/// Interrupted, timed out, or full until completions are taken (EAGAIN, EBUSY): the turn goes on. Anything else is a
/// ring used wrongly.
fn check_enter(result: io::Result<usize>) {
    let Err(error) = result else { return };
    let errno = Errno::from_io_error(&error);
    let is_passing = matches!(errno, Some(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY | Errno::NOMEM));
    assert!(is_passing, "io_uring_enter: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_names_what_was_put_in() {
        for kind in [Kind::Io, Kind::Poll, Kind::Chunk, Kind::Cancel, Kind::Bell] {
            for key in [
                Key { slot: 0, generation: 0 },
                Key { slot: u32::MAX, generation: Key::GENERATION_MAX },
                Key { slot: 7, generation: 1 },
            ] {
                assert_eq!(parse_user_data(user_data(kind, key)), (kind, key));
            }
        }
    }
}
