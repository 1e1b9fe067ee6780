//! What an operator may set, and the bounds of everything that grows.

use core::time::Duration;

/// How a [`Cluster`](crate::Cluster) decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Bounds of memory.
    pub limits: Limits,
    /// Fewest neighbors of a peer while there are that many: below about 30 rare pieces get stuck behind one link.
    pub degree_min: u32,
    /// Neighbors a peer that joins is given.
    pub degree_target: u32,
    /// Most neighbors of a peer.
    pub degree_max: u32,
    /// Open requests (leases and resolves) at one origin, over all hosts.
    pub origin_connections_max: u32,
    /// Bytes/s leased at one origin, over all hosts; 0 is no limit.
    pub origin_bytes_per_s: u64,
    /// Silence after which a host is not chosen any more.
    pub suspect_after: Duration,
    /// Silence after which a host is forgotten.
    pub gone_after: Duration,
    /// After its stream broke, how long a host keeps its place.
    pub reconnect_grace: Duration,
    /// Silence of a resolver after which another one resolves.
    pub resolve_silence: Duration,
    /// How long an ask for a lease may wait in line.
    pub ask_hold: Duration,
    /// In the first half minute of a scheduler's life, no lease is given of a task that was announced until for so
    /// long nobody more has announced it (at most [`SETTLE_MAX`]): what other hosts have must not be fetched twice. What is
    /// leased although some host has it, because the origin is faster, does not wait.
    pub settle: Duration,
}

/// Longest wait for announcements after a restart, per task.
pub const SETTLE_MAX: Duration = Duration::from_secs(2);

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            degree_min: 30,
            degree_target: 32,
            degree_max: 40,
            // nginx and Apache serve this many from one worker without queueing; 16 x 64 MiB in flight fill any link.
            origin_connections_max: 16,
            origin_bytes_per_s: 0,
            suspect_after: Duration::from_secs(4),
            gone_after: Duration::from_secs(10),
            reconnect_grace: Duration::from_secs(3),
            resolve_silence: Duration::from_secs(15),
            ask_hold: Duration::from_secs(2),
            settle: Duration::from_millis(300),
        }
    }
}

impl ClusterConfig {
    /// For an agent without a scheduler: it is the only host, so nobody can announce anything else.
    #[must_use]
    pub fn alone() -> Self {
        Self { settle: Duration::ZERO, gone_after: Duration::from_secs(1 << 32), ..Self::default() }
    }
}

/// Bounds. What is beyond them is refused with a time to ask again, never queued without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hosts at a time.
    pub hosts_max: usize,
    /// Tasks at a time.
    pub tasks_max: usize,
    /// Origins at a time.
    pub origins_max: usize,
    /// Tasks one host has or fetches: 4,096 cached and 256 running.
    pub tasks_per_host_max: usize,
    /// Open wants of one host.
    pub wants_per_host_max: usize,
    /// Answers of resolves remembered.
    pub resolves_max: usize,
    /// Complete holders kept per task while nobody links with them.
    pub cached_holders_max: u32,
    /// Bytes of validators.
    pub validators_bytes_max: usize,
    /// Bytes of text in a failure.
    pub text_bytes_max: usize,
    /// Pieces of a task: their states take 4 bytes each.
    pub pieces_max: u32,
    /// Hosts banned at a time, and hosts complained of at a time.
    pub bans_max: usize,
    /// Zones told apart; hosts of further ones count as of none.
    pub zones_max: usize,
    /// Names in registries remembered: 400 bytes each.
    pub tags_max: usize,
    /// Bytes of contents that ride inline.
    pub inline_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hosts_max: 16_384,
            tasks_max: 262_144,
            origins_max: 65_536,
            tasks_per_host_max: 4_096 + 256,
            wants_per_host_max: 512,
            resolves_max: 262_144,
            cached_holders_max: 128,
            validators_bytes_max: 4_096,
            text_bytes_max: 512,
            pieces_max: 1 << 22,
            bans_max: 1_024,
            zones_max: 1_024,
            tags_max: 65_536,
            inline_bytes_max: 64 << 20,
        }
    }
}
