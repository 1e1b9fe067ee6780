//! Disks: when a block that arrived now is written.

use hawker_proto::Instant;

use crate::network::time_of;

/// Blocks that an agent keeps in memory, on their way to the disk; beyond it, it stops to receive.
const MEMORY_BYTES: u32 = 96 * 1024 * 1024;

/// A host's disk: it writes what arrived, one block after the other. What is read for uploads comes from memory.
#[derive(Debug)]
pub(crate) struct Disk {
    bytes_per_s: u64,
    free_at: Instant,
}

impl Disk {
    /// Zero is no limit.
    pub(crate) const fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: if bytes_per_s == 0 { u64::MAX } else { bytes_per_s }, free_at: Instant::ZERO }
    }

    /// When a block that arrives now is written.
    pub(crate) fn write(&mut self, now: Instant, bytes: u32) -> Instant {
        self.free_at = self.free_at.max(now) + time_of(bytes, self.bytes_per_s);
        self.free_at
    }

    /// Before this there is no memory for one more block.
    pub(crate) fn has_room_at(&self) -> Instant {
        let memory = time_of(MEMORY_BYTES, self.bytes_per_s);
        Instant::ZERO + self.free_at.since(Instant::ZERO).saturating_sub(memory)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn blocks_are_written_one_after_the_other_and_wait_in_bounded_memory() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut disk = Disk::new(u64::from(MEMORY_BYTES) / 2);
        assert_eq!(disk.write(at(10), MEMORY_BYTES), at(12));
        assert_eq!(disk.has_room_at(), at(10));
        assert_eq!(disk.write(at(11), MEMORY_BYTES), at(14));
        assert_eq!(disk.has_room_at(), at(12));
        let mut unlimited = Disk::new(0);
        assert_eq!(unlimited.write(at(3), MEMORY_BYTES), at(3));
    }
}
