//! Receiving: exact bytes into a block, then the next head, in one call when both have come.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags};

use super::Attempt;
use crate::op::{File, Outcome, Received, TailBuf, TailMode};
use crate::slab::{BLOCK_BYTES, Block};

/// A reception under way.
pub(crate) struct Receive {
    socket: File,
    body: Option<(Block, Range<usize>)>,
    body_bytes: usize,
    body_done: usize,
    tail: Vec<u8>,
    tail_mode: TailMode,
    tail_done: usize,
    is_eof: bool,
    /// SO_RCVLOWAT as we set it; 1, as sockets are made, before and after.
    low_water: usize,
}

/// Waiting for less than this is left to the kernel's way: a wake-up for every segment.
const LOW_WATER_MIN: usize = 8 * 1024;
/// Waiting for more than this at once would want a larger receive buffer than a socket begins with.
const LOW_WATER_MAX: usize = 64 * 1024;

impl Receive {
    pub(crate) fn new(socket: File, body: Option<(Block, Range<usize>)>, tail: TailBuf) -> Self {
        let body_bytes = body.as_ref().map_or(0, |(_, range)| {
            assert!(range.start <= range.end && range.end <= BLOCK_BYTES, "range {range:?} is not in a block");
            range.len()
        });
        let TailBuf { bytes: mut tail, mode: tail_mode } = tail;
        let (TailMode::Exact(wanted) | TailMode::UpTo(wanted)) = tail_mode;
        tail.resize(wanted, 0);
        Self { socket, body, body_bytes, body_done: 0, tail, tail_mode, tail_done: 0, is_eof: false, low_water: 1 }
    }

    pub(crate) fn socket(&self) -> &File {
        &self.socket
    }

    /// Whether all that is worth waiting for has come.
    pub(crate) fn is_finished(&self) -> bool {
        let has_tail = match self.tail_mode {
            TailMode::Exact(wanted) => self.tail_done == wanted,
            TailMode::UpTo(limit) => limit == 0 || self.tail_done > 0 || self.body_bytes > 0,
        };
        self.is_eof || (self.body_done == self.body_bytes && has_tail)
    }

    /// Bytes without which this is not finished.
    fn lacking(&self) -> usize {
        let of_tail = match self.tail_mode {
            TailMode::Exact(wanted) => wanted - self.tail_done,
            TailMode::UpTo(_) => usize::from(self.body_bytes == 0),
        };
        self.body_bytes - self.body_done + of_tail
    }

    /// Before a wait: says that it need not end before much of what lacks has come, if much lacks. On a link of
    /// 200 Mbit/s a segment comes every 60 us, and a wake-up for each costs more than all else that its bytes cost.
    /// The kernel wakes the waiter earlier when the window is full or memory short, so this can only save.
    /// False: any byte ends the wait.
    pub(crate) fn wait_for_much(&mut self) -> bool {
        let lacking = self.lacking();
        self.set_low_water(if lacking < LOW_WATER_MIN { 1 } else { lacking.min(LOW_WATER_MAX) });
        self.low_water > 1
    }

    fn set_low_water(&mut self, bytes: usize) {
        if bytes != self.low_water && crate::net::set_receive_low_water(&self.socket, bytes).is_ok() {
            self.low_water = bytes;
        }
    }

    /// Whether the kernel may sit on what has come until all has: not when some bytes are enough.
    pub(crate) fn is_wait_all(&self) -> bool {
        matches!(self.tail_mode, TailMode::Exact(_) | TailMode::UpTo(0))
    }

    /// Where the next bytes go: the rest of the body, and the rest of the tail.
    pub(crate) fn parts(&mut self) -> [&mut [u8]; 2] {
        [body_rest(&mut self.body, self.body_done), &mut self.tail[self.tail_done..]]
    }

    /// `count` bytes have come into what `parts` gave; 0 is the end of the stream.
    pub(crate) fn received(&mut self, count: usize) {
        let of_body = count.min(self.body_bytes - self.body_done);
        self.body_done += of_body;
        self.tail_done += count - of_body;
        assert!(self.tail_done <= self.tail.len(), "received more than was asked for");
        self.is_eof = count == 0;
    }

    /// Receives until done or until the socket is empty.
    pub(crate) fn attempt(&mut self) -> Attempt {
        while !self.is_finished() {
            match self.receive() {
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait_for_much();
                    return Attempt::Blocked;
                }
                Err(error) => return Attempt::Failed(error.into()),
            }
        }
        Attempt::Finished
    }

    fn receive(&mut self) -> Result<(), Errno> {
        let body = body_rest(&mut self.body, self.body_done);
        let tail = &mut self.tail[self.tail_done..];
        let (has_body, has_tail) = (!body.is_empty(), !tail.is_empty());
        let mut slices = [IoSliceMut::new(body), IoSliceMut::new(tail)];
        let slices = &mut slices[usize::from(!has_body)..1 + usize::from(has_tail)];
        let message =
            rustix::net::recvmsg(&self.socket, slices, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT)?;
        self.received(message.bytes);
        Ok(())
    }

    /// Whether the stream's end that a ring reported was a reset: a ring that waits for all bytes reports what came
    /// and swallows the error behind it, and the next call finds an orderly end. The state tells: after a peer's FIN
    /// a connection that we have not shut down is in CLOSE_WAIT.
    pub(crate) fn is_reset(&self) -> bool {
        /// include/net/tcp_states.h
        const TCP_CLOSE: u8 = 7;
        self.is_eof && tcp_state(&self.socket) == Some(TCP_CLOSE)
    }

    pub(crate) fn finish(mut self) -> Outcome {
        self.set_low_water(1);
        self.tail.truncate(self.tail_done);
        let is_eof = self.is_eof;
        let result = Ok(Received { body_bytes: self.body_done, tail_bytes: self.tail_done, is_eof });
        Outcome::Received { result, block: self.body, tail: self.tail }
    }

    pub(crate) fn fail(mut self, error: io::Error) -> Outcome {
        self.set_low_water(1);
        self.tail.truncate(self.tail_done);
        Outcome::Received { result: Err(error), block: self.body, tail: self.tail }
    }
}

fn body_rest(body: &mut Option<(Block, Range<usize>)>, done: usize) -> &mut [u8] {
    match body {
        Some((block, range)) => &mut block.as_mut_slice()[range.clone()][done..],
        None => &mut [],
    }
}

/// The first byte of struct tcp_info; `None` for what is not TCP.
fn tcp_state(socket: &OwnedFd) -> Option<u8> {
    use std::os::fd::AsRawFd;
    let mut state = 0u8;
    let mut length: libc::socklen_t = 1;
    // SAFETY: getsockopt(2) writes at most `length` bytes to a live value of that size; a shorter length than the
    // structure's asks for its beginning.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length == 1).then_some(state)
}
