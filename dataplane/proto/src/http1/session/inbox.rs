//! Bytes that came and are not used yet.

use alloc::vec::Vec;

use crate::http1::HTTP_HEAD_BYTES_MAX;

/// One head of the largest kind, and the empty line that may precede it: what pipelined requests may hold in memory.
pub(super) const INBOX_BYTES_MAX: usize = HTTP_HEAD_BYTES_MAX + 2;

/// A queue of bytes. Taking from it moves nothing, so that a thousand small requests in one read cost one copy.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(super) fn room(&self) -> usize {
        INBOX_BYTES_MAX - self.bytes().len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room());
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// An empty one holds no memory: idle connections are many.
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        assert!(self.taken <= self.bytes.len());
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
