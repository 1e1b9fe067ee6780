//! How much of what costs a descriptor there may be at a time.
//!
//! With enough of them each kind has its own bound. With fewer, all kinds shrink, so that their sum never reaches the
//! limit: what is refused is refused with words, and what runs is never short of one.

/// Descriptors that belong to none of the kinds: the runtime, the store, listeners, and connections being closed.
const OWN: u64 = 64;
/// A shard's: engine, waker, files that the store writes or syncs for a moment.
const OWN_PER_SHARD: u64 = 8;
/// What must be left for the kinds.
const WORK_MIN: u64 = 64;
/// A download: content twice (buffered, direct), table, batches, and two connections to its origin.
const PER_DOWNLOAD: u64 = 6;
/// A task that is served only: its files.
const PER_TASK: u64 = 4;

/// Bounds of one agent, from the process's limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downloads that run, and resolves: others queue.
    pub downloads: usize,
    /// Tasks that nobody here waits for and shards still serve without asking.
    pub idle_tasks: usize,
    /// Connections of commands on this host.
    pub commands: usize,
    /// Connections to the HTTP port.
    pub http: usize,
    /// Links a shard dials: the host's neighbor pool.
    pub child_links: usize,
    /// Links a shard serves; what comes on top is closed before its handshake.
    pub parent_links: usize,
    /// Accepted connections of a shard that are within their handshake, beside those. A handshake takes a round trip
    /// and a millisecond: 20,000 connections a second still leave it 12 ms.
    pub strangers: usize,
}

impl Limits {
    /// Bounds when descriptors are no concern.
    pub const FULL: Self = Self {
        downloads: 256,
        idle_tasks: 512,
        commands: 4096,
        http: 1024,
        child_links: 64,
        parent_links: 1024,
        strangers: 256,
    };

    /// What an agent of so many shards needs at least to work.
    #[must_use]
    pub const fn descriptors_min(shards: usize) -> u64 {
        OWN + OWN_PER_SHARD * shards as u64 + WORK_MIN
    }

    /// Bounds that fit in `descriptors`, `None` when these are fewer than [`Self::descriptors_min`].
    #[must_use]
    pub fn of(descriptors: u64, shards: usize) -> Option<Self> {
        if descriptors < Self::descriptors_min(shards) {
            return None;
        }
        let rest = descriptors - OWN - OWN_PER_SHARD * shards as u64;
        if rest >= Self::FULL.sum(shards) {
            return Some(Self::FULL);
        }
        // Downloads that run also serve; the links of a small agent are few.
        let share = |hundredths: u64, each: u64, most: usize| {
            usize::try_from(rest * hundredths / 100 / each).unwrap_or(usize::MAX).clamp(1, most)
        };
        let links = |hundredths, most| share(hundredths, shards as u64, most);
        Some(Self {
            downloads: share(40, PER_DOWNLOAD, Self::FULL.downloads),
            idle_tasks: share(10, PER_TASK, Self::FULL.idle_tasks),
            commands: share(20, 1, Self::FULL.commands),
            http: share(5, 1, Self::FULL.http),
            child_links: links(10, Self::FULL.child_links),
            parent_links: links(10, Self::FULL.parent_links),
            strangers: links(5, Self::FULL.strangers),
        })
    }

    /// Descriptors that all of it takes.
    fn sum(&self, shards: usize) -> u64 {
        let links = self.child_links + self.parent_links + self.strangers;
        PER_DOWNLOAD * self.downloads as u64
            + PER_TASK * self.idle_tasks as u64
            + (self.commands + self.http + links * shards) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_together_stay_below_the_limit() {
        for shards in 1..=4 {
            let least = Limits::descriptors_min(shards);
            assert_eq!(Limits::of(least - 1, shards), None);
            for descriptors in (least..40_000).step_by(7) {
                let limits = Limits::of(descriptors, shards).unwrap();
                let own = OWN + OWN_PER_SHARD * shards as u64;
                // The clamp to one may take a few of those that are the agent's own.
                let slack = if descriptors < 2 * least { 16 } else { 0 };
                assert!(limits.sum(shards) + own <= descriptors + slack, "{descriptors}, {shards}: {limits:?}");
            }
        }
        assert_eq!(Limits::of(1 << 20, 4), Some(Limits::FULL));
    }
}
