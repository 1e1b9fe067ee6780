//! The host's upload slots, lent to whichever shard has a link to serve.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Upload slots of the host. A slot changes hands at most every few milliseconds (a grant is up to 64 blocks), so a
/// shared counter costs nothing that can be measured.
#[derive(Debug)]
pub(super) struct SlotPool {
    free: AtomicU32,
    /// Per shard: whether it found no slot and wants to hear of the next.
    waiting: Vec<AtomicBool>,
}

impl SlotPool {
    pub(super) fn new(slots: u32, shards: usize) -> Self {
        Self { free: AtomicU32::new(slots), waiting: (0..shards).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Takes a slot for `shard`. False: none is free, and the shard will be told.
    pub(super) fn take(&self, shard: usize) -> bool {
        // Announce first, then try: a slot given back in between is either taken here or seen as waited for.
        self.waiting[shard].store(true, Ordering::SeqCst);
        let taken = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1)).is_ok();
        if taken {
            self.waiting[shard].store(false, Ordering::SeqCst);
        }
        taken
    }

    /// Gives a slot back; the shards in the result wait for one.
    pub(super) fn give_back(&self) -> impl Iterator<Item = usize> + '_ {
        self.free.fetch_add(1, Ordering::SeqCst);
        let waits = |waiting: &AtomicBool| waiting.swap(false, Ordering::SeqCst);
        self.waiting.iter().enumerate().filter(move |(_, waiting)| waits(waiting)).map(|(shard, _)| shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_that_found_none_is_told_once() {
        let pool = SlotPool::new(1, 3);
        assert!(pool.take(0));
        assert!(!pool.take(1));
        assert!(!pool.take(2));
        assert_eq!(pool.give_back().collect::<Vec<_>>(), [1, 2]);
        assert!(pool.take(2));
        assert_eq!(pool.give_back().count(), 0);
    }
}
