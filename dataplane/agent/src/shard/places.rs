//! What each shard's downloads hold at parents, for the host's other shards to see.

use std::sync::atomic::{AtomicU64, Ordering};

use hawker_swarm::Held;

/// A word per shard: four counts of 16 bits. Each is written by its shard alone; one that is a turn old does no harm.
#[derive(Debug)]
pub(super) struct PlaceBoard {
    shards: Vec<AtomicU64>,
}

impl PlaceBoard {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn post(&self, shard: usize, held: Held) {
        let counts = held.served.into_iter().chain(held.queued);
        let word = counts.fold(0, |word, count| word << 16 | u64::from(u16::try_from(count).unwrap_or(u16::MAX)));
        self.shards[shard].store(word, Ordering::Relaxed);
    }

    /// What all shards but this one hold.
    pub(super) fn elsewhere(&self, shard: usize) -> Held {
        let others = self.shards.iter().enumerate().filter(|(other, _)| *other != shard);
        others.fold(Held::default(), |sum, (_, word)| {
            let word = word.load(Ordering::Relaxed);
            let count = |nth: u32| u32::try_from(word >> (16 * (3 - nth)) & u64::from(u16::MAX)).unwrap_or(u32::MAX);
            sum.plus(held([count(0), count(1)], [count(2), count(3)]))
        })
    }
}

/// What one shard tells the others; that it waits for a first word does not concern them.
const fn held(served: [u32; 2], queued: [u32; 2]) -> Held {
    Held { served, queued, unanswered: [0; 2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_sees_the_sum_of_all_others() {
        let board = PlaceBoard::new(3);
        board.post(0, held([1, 2], [3, 70_000]));
        board.post(1, held([10, 20], [30, 40]));
        assert_eq!(board.elsewhere(2), held([11, 22], [33, 65_575]));
        assert_eq!(board.elsewhere(0), held([10, 20], [30, 40]));
    }
}
