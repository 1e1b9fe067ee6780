//! What a shard counts. One writer each, relaxed: readers want totals, not order.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only its shard changes and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. By the owning shard alone: a load and a store, no locked instruction.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Replaces the value: for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One shard's counters; sums over shards are the agent's.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Body bytes from origins, fetched by this shard or sent to it by control.
    pub origin_bytes: Counter,
    /// Block bytes from peers that matched their records.
    pub peer_bytes: Counter,
    /// Block bytes sent to peers.
    pub uploaded_bytes: Counter,
    /// Blocks from peers that differed from their records.
    pub bad_blocks: Counter,
    /// Pieces stored and recorded.
    pub pieces: Counter,
    /// Links this shard dialed, open now.
    pub links_out: Counter,
    /// Links this shard serves, open now.
    pub links_in: Counter,
    /// Peer connections refused: bad handshakes, nonsense frames, limits.
    pub refused: Counter,
    /// Connections of HTTP clients, open now.
    pub http_connections: Counter,
    /// Connections of HTTP clients that were closed, or not taken, because there were too many.
    pub http_refused: Counter,
    /// Requests of HTTP clients that are being answered now.
    pub http_requests: Counter,
    /// Of the requests of HTTP clients, those that the shard answered without control.
    pub http_kept: Counter,
    /// Answers to HTTP clients by the first digit of their status: 2 to 5.
    pub http_answers: [Counter; 4],
    /// Bytes of bodies that HTTP clients were sent.
    pub http_bytes: Counter,
    /// Turns of the shard's loop.
    pub turns: Counter,
    /// Bytes of blocks this shard's slab holds.
    pub slab_bytes: Counter,
}
