//! Deadlines in user space: one argument of the turn's wait instead of one kernel operation each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::core::Key;

/// Timers of an engine, by deadline, then by order of submission.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    /// Entries whose timer was cancelled; they leave when their time comes, or when they are too many.
    cancelled: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    deadline: Instant,
    sequence: u64,
    key: Key,
}

/// A wait that no process lives to see, where `Instant` ends earlier than the caller's `Duration`.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Timers {
    pub(crate) fn insert(&mut self, key: Key, after: Duration) {
        let now = Instant::now();
        let deadline = now.checked_add(after).unwrap_or_else(|| now + FOREVER);
        self.sequence += 1;
        self.heap.push(Reverse(Entry { deadline, sequence: self.sequence, key }));
    }

    /// The first deadline. That of a cancelled timer wakes a turn for nothing, once.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.deadline)
    }

    /// The next timer that is due. The caller knows by the key's generation whether it was cancelled.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Key> {
        if self.deadline()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.key)
    }

    /// One timer was cancelled; entries of the dead are dropped once they outnumber the living.
    pub(crate) fn cancelled(&mut self, is_live: impl Fn(Key) -> bool) {
        self.cancelled += 1;
        if self.cancelled > 64 && self.cancelled * 2 > self.heap.len() {
            self.heap.retain(|Reverse(entry)| is_live(entry.key));
            self.cancelled = 0;
        }
    }
}
