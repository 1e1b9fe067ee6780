//! Somebody who reads a task in order while it arrives, as a container that starts from an image does.

use core::time::Duration;

use hawker_proto::Instant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    /// Blocks that are here one after the other, from the first.
    front: u64,
    moved_at: Instant,
    wait: Duration,
}

impl Reader {
    pub(crate) const fn new(start: Instant) -> Self {
        Self { front: 0, moved_at: start, wait: Duration::ZERO }
    }

    /// Reads on, as far as the blocks reach.
    pub(crate) fn read(&mut self, now: Instant, has_block: impl Fn(u64) -> bool) {
        let before = self.front;
        while has_block(self.front) {
            self.front += 1;
        }
        if self.front > before {
            self.wait = self.wait.max(now.since(self.moved_at));
            self.moved_at = now;
        }
    }

    /// The longest time without a new contiguous byte, from the start on.
    pub(crate) const fn longest_wait(&self) -> Duration {
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_is_the_longest_time_without_a_next_block() {
        let at = |millis: u64| Instant::ZERO + Duration::from_millis(millis);
        let mut reader = Reader::new(at(5));
        reader.read(at(8), |block| block == 1);
        assert_eq!(reader.longest_wait(), Duration::ZERO);
        reader.read(at(9), |block| block < 2);
        reader.read(at(10), |block| block < 3);
        assert_eq!(reader.longest_wait(), Duration::from_millis(4));
    }
}
