//! The origin: a wire of its own, shared block by block by the fetches that run.

use std::collections::VecDeque;

use hawker_proto::{BLOCK_BYTES, ByteRange};
use hawker_swarm::LeaseId;

/// Blocks of one fetch on the wire at the same time: its window.
const WINDOW: u32 = 2;

/// One GET.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Get {
    pub(crate) host: u32,
    pub(crate) lease: LeaseId,
    pub(crate) range: ByteRange,
    /// First byte not handed to the wire.
    pub(crate) next: u64,
    /// First byte not yet at the host.
    pub(crate) upto: u64,
    in_flight: u32,
}

pub(crate) struct Origin {
    /// In the order in which they send.
    gets: VecDeque<Get>,
    /// Body bytes sent.
    pub(crate) bytes: u64,
}

impl Origin {
    pub(crate) const fn new() -> Self {
        Self { gets: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn open(&mut self, host: u32, lease: LeaseId, range: ByteRange) {
        let get = Get { host, lease, range, next: range.start(), upto: range.start(), in_flight: 0 };
        self.gets.push_back(get);
    }

    /// The next part of the next body in turn: at most a block, cut at block boundaries of the task.
    pub(crate) fn next_part(&mut self) -> Option<(u32, LeaseId, ByteRange)> {
        for _ in 0..self.gets.len() {
            let mut get = self.gets.pop_front()?;
            let block = u64::from(BLOCK_BYTES);
            let end = (get.next / block + 1).saturating_mul(block).min(get.range.end());
            let part = ByteRange::new(get.next, end).filter(|part| !part.is_empty() && get.in_flight < WINDOW);
            if let Some(part) = part {
                get.next = end;
                get.in_flight += 1;
                self.bytes += part.length();
            }
            self.gets.push_back(get);
            if let Some(part) = part {
                return Some((get.host, get.lease, part));
            }
        }
        None
    }

    /// A part is at its host; the fetch as it stands, `None` when it was closed before.
    pub(crate) fn arrived(&mut self, host: u32, lease: LeaseId, part: ByteRange) -> Option<Get> {
        let index = self.gets.iter().position(|get| get.host == host && get.lease == lease)?;
        let get = &mut self.gets[index];
        get.in_flight -= 1;
        get.upto = get.upto.max(part.end());
        let get = *get;
        if get.upto == get.range.end() {
            self.gets.remove(index);
        }
        Some(get)
    }

    /// Ends a fetch early; what had not arrived.
    pub(crate) fn close(&mut self, host: u32, lease: LeaseId) -> Option<ByteRange> {
        let index = self.gets.iter().position(|get| get.host == host && get.lease == lease)?;
        let get = self.gets.remove(index)?;
        ByteRange::new(get.upto, get.range.end())
    }

    /// Fetches of a host.
    pub(crate) fn of_host(&self, host: u32) -> Vec<LeaseId> {
        self.gets.iter().filter(|get| get.host == host).map(|get| get.lease).collect()
    }
}
