//! Every bound and every constant of policy, one named line each.

use core::time::Duration;

const MIB: u64 = 1024 * 1024;

/// How a [`crate::Download`] behaves. Every queue, table and wait of it is bounded by a line here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadConfig {
    /// Neighbors of the task, at most 255 (availability is counted in a byte); what others say
    /// means nothing.
    pub neighbors_max: usize,
    /// Neighbors at which requests of the host, of all its downloads, wait for a grant at the same time. More would
    /// lengthen every queue of the swarm without moving a byte.
    pub queued_max: u32,
    /// Of these, neighbors that are distant (a round trip is long beside a block) and have not said yet whether we have
    /// to wait. More would grant at the same time, to a host that is served enough before it can tell the others: each
    /// of their slots is lost for a round trip.
    pub unanswered_max: u32,
    /// A host that this many neighbors serve waits at no more: it leaves the slots to those who need them.
    pub granted_enough: u32,
    /// ... but this many when slots are idle anyway.
    pub granted_max: u32,
    /// Block runs that wait at one parent, beside those of a round trip. What waits is chosen by what was rare when it
    /// was asked for, so the less of it the better; the parent sends the first block while it is asked for more.
    pub runs_waiting: usize,
    /// Neighbors at which the same piece may wait.
    pub promises_max: u32,
    /// A request that waited this long no longer counts for `queued_max`: a parent that grants nothing must not keep
    /// others from being asked.
    pub queued_patience: Duration,
    /// Pieces of which some blocks are here or on their way. Bounds the per-block state.
    pub active_pieces_max: usize,
    /// Blocks in one request at most.
    pub run_blocks_max: u32,
    /// Block runs kept at a granted parent at least, so that its link never waits for us.
    pub runs_min: usize,
    /// Block runs asked of one neighbor at most.
    pub runs_max: usize,
    /// Work kept at a granted parent at most, in time at its measured rate, ...
    pub work_max: Duration,
    /// ... beside what is under way for so many round trips: a request through links that are full is late, and the
    /// parent would run dry before it comes.
    pub round_trips_ahead: u32,
    /// Pieces compared by a rarest-first choice, counted from the lowest one that is wanted.
    pub window_pieces: u32,
    /// One choice in this many goes for the next piece the local reader lacks.
    pub reader_one_in: u32,
    /// A granted request never times out before this.
    pub timeout_min: Duration,
    /// ... and always after this without a byte.
    pub timeout_max: Duration,
    /// Blocks that a parent will need longer for are also waited for elsewhere.
    pub hedge_after: Duration,
    /// How often the endgame looks for blocks to take over.
    pub steal_every: Duration,
    /// Time for neighbors to say what they have before the scheduler is asked for a lease.
    pub start_patience: Duration,
    /// A question to the scheduler is asked again after this.
    pub ask_patience: Duration,
    /// Smallest origin lease asked for.
    pub lease_bytes_min: u64,
    /// Largest origin lease asked for.
    pub lease_bytes_max: u64,
    /// Time of work asked for in one lease, and how long before its end the next one is asked for.
    pub lease_ahead: Duration,
    /// Leases held at the same time by a host without neighbors (parallel ranges).
    pub leases_alone_max: usize,
    /// Leases held at the same time by a host with neighbors: the current one and the next.
    pub leases_max: usize,
    /// Wait before the next lease is asked for when the last one held nothing that this host lacked.
    pub return_pause: Duration,
    /// Shortest wait before a host without a scheduler goes to the origin; the longest is twice as long.
    pub away_wait_min: Duration,
    /// Bad blocks from one neighbor until it is banned for the task.
    pub bad_blocks_max: u32,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        Self {
            neighbors_max: 64,
            // Of 32-40 neighbors. Simulated, seeds 1-3, for 10, 11 and 16: 64 hosts, 256 MiB 1.048-1.051, 1.047-1.048 and
            // 1.043-1.044; 1,000 hosts, 8 MiB 1.374-1.387, 1.384-1.389 and 1.384-1.402; 50 hosts, 64 MiB with 8 1.062-1.066,
            // with 10-16 1.051-1.057; 50 hosts without a scheduler for a third of the time 1.07-1.09, 1.09-1.12, 1.07-1.24.
            queued_max: 11,
            // Simulated, seeds 1-3, with 1, 2, 3 and 11, by round trip: 16 hosts, 128 MiB at 100 Mbit/s, 40 ms 1.14-1.16,
            // 1.14-1.15, 1.16-1.18 and 1.29-1.33; 64 hosts, 256 MiB at 1 Gbit/s, 10 ms 1.23-1.24, 1.22-1.23, 1.25-1.26 and
            // 1.36-1.37, 0.2 ms 1.05 with all.
            unanswered_max: 2,
            granted_enough: 2,
            granted_max: 16,
            // Simulated, 64 hosts, 256 MiB: 1 1.047, 2 1.053; 50 hosts, 64 MiB: 1.146, 1.158.
            runs_waiting: 1,
            promises_max: 2,
            queued_patience: Duration::from_millis(250),
            active_pieces_max: 512,
            run_blocks_max: 8,
            runs_min: 2,
            runs_max: 64,
            work_max: Duration::from_millis(50),
            // Simulated, 8 hosts, 200 Mbit/s, 256 MiB, 10 and 20 ms one way: 0 1.12-1.13 and 1.57-1.61, 1 1.10-1.11 and
            // 1.34-1.40, 2 1.06-1.07 and 1.12-1.14, 4 1.06 and 1.12-1.13, 6 1.06-1.07 and 1.11-1.14. With 0.1 ms alike.
            round_trips_ahead: 4,
            window_pieces: 512,
            // Longest wait of a reader, 64 hosts, origin eight times as fast as a host: 2 11 % of the transfer, 3 13 %, 4 14 %.
            reader_one_in: 2,
            timeout_min: Duration::from_millis(100),
            timeout_max: Duration::from_secs(2),
            hedge_after: Duration::from_millis(50),
            steal_every: Duration::from_millis(20),
            start_patience: Duration::from_millis(2),
            ask_patience: Duration::from_secs(2),
            lease_bytes_min: 4 * MIB,
            lease_bytes_max: 64 * MIB,
            lease_ahead: Duration::from_millis(500),
            leases_alone_max: 4,
            leases_max: 2,
            return_pause: Duration::from_millis(100),
            away_wait_min: Duration::from_secs(2),
            bad_blocks_max: 2,
        }
    }
}

impl DownloadConfig {
    /// # Panics
    /// When no download could work by these figures.
    pub(crate) fn assert_sane(&self) {
        assert!((1..=255).contains(&self.neighbors_max), "availability is counted in a byte");
        assert!(
            self.queued_max > 0
                && self.unanswered_max > 0
                && self.granted_enough > 0
                && self.granted_enough <= self.granted_max
                && self.runs_waiting > 0
                && self.promises_max > 0
        );
        assert!((1..=64).contains(&self.run_blocks_max) && self.runs_min > 0 && self.runs_min <= self.runs_max);
        assert!(self.runs_waiting <= self.runs_max && self.active_pieces_max > 0 && self.reader_one_in > 0);
        assert!(!self.timeout_min.is_zero() && self.timeout_min <= self.timeout_max && !self.steal_every.is_zero());
        assert!(0 < self.lease_bytes_min && self.lease_bytes_min <= self.lease_bytes_max);
        assert!(self.leases_max > 0 && self.leases_alone_max > 0 && self.bad_blocks_max > 0);
    }
}

/// How an [`crate::Upload`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadConfig {
    /// Links served by the shard.
    pub links_max: usize,
    /// Requests waiting on one link; a correct child keeps far fewer.
    pub requests_per_link_max: usize,
    /// Blocks of one grant, unless they are sent too soon; then the link queues again.
    pub grant_blocks: u32,
    /// A grant goes on until so long has passed, whatever its blocks. When it ends, the child must find another parent:
    /// what takes a round trip must be short beside the grant.
    pub grant_duration_min: Duration,
    /// Time of one grant; then the link queues again.
    pub grant_duration: Duration,
    /// `Send`s of one link not yet answered by `BlockSent`.
    pub sends_per_link_max: u32,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            links_max: 4096,
            requests_per_link_max: 256,
            grant_blocks: 16,
            // As long as 16 blocks of 64 KiB take on one of two slots at 1 Gbit/s, so that little changes there. Simulated, 64
            // hosts, 4 GiB at 25 Gbit/s, round trips of 0.2 and 1 ms: none 1.13, 8 ms 1.043 and 1.16, 12 ms 1.043 and 1.10, 16 ms
            // 1.042 and 1.08, 24 ms 1.07 with 1 ms.
            grant_duration_min: Duration::from_millis(16),
            grant_duration: Duration::from_secs(2),
            sends_per_link_max: 2,
        }
    }
}
