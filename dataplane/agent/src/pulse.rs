//! Signs of life: which of the threads that an agent cannot do without still turn.

use std::sync::Arc;

use crate::counters::{Counter, ShardCounters};

/// Counts that grow as long as all is well: each shard's turns (at least two a second, shards never sleep longer) and the
/// director's (ten a second). Whoever watches decides how long one may stand still.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// In their order.
    pub shards: Vec<Arc<ShardCounters>>,
    /// One a turn of its loop.
    pub director: Arc<Counter>,
}

impl Pulse {
    /// The counts now, always in the same order.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        let shards = self.shards.iter().map(|shard| shard.turns.value());
        shards.chain([self.director.value()]).collect()
    }

    /// Whose count stands at `index` of [`Self::counts`].
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        if index < self.shards.len() { format!("shard {index}") } else { "the director".to_owned() }
    }
}
