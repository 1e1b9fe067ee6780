//! What an agent is told at start: resolved values only. Flags, TOML and environment are the command line's business.

mod mirror;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hawker_proto::identity::ClusterKey;
use hawker_ring::EngineChoice;

pub use mirror::{CredentialsPolicy, MirrorConfig, RegistryConfig, TagPolicy, TagRule};

/// All that an agent needs to know to start.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where tasks live; one agent per directory. Created 0700 when missing.
    pub data_dir: PathBuf,
    /// `http://host:port` of the scheduler; without one the agent schedules for itself and talks to no peer.
    pub scheduler: Option<String>,
    /// The address other agents reach this one at; the peer port binds it.
    pub advertise: IpAddr,
    /// TCP port for peers, 0 for any free one; `None`: this agent serves nobody (the embedded `get`).
    pub peer_port: Option<u16>,
    /// Where `/metrics` and `/healthz` listen; `None` for nowhere.
    pub http: Option<SocketAddr>,
    /// The command line's socket; `None` for none.
    pub socket: Option<PathBuf>,
    /// Proof of membership. `None` is `--insecure`: allowed beyond loopback only because the user said so.
    pub cluster_key: Option<ClusterKey>,
    /// Whether a missing `cluster_key` beyond loopback was asked for.
    pub is_insecure_allowed: bool,
    /// Whether the scheduler should give this agent origin leases first.
    pub is_seed: bool,
    /// Topology and other facts, such as `zone=a`.
    pub labels: Vec<(String, String)>,
    /// Which engine drives the shards.
    pub engine: EngineChoice,
    /// Shard threads; `None` for min(4, usable cores).
    pub shards: Option<usize>,
    /// Bytes per second, `None` for unlimited.
    pub rates: Rates,
    /// How much disk the store may use.
    pub disk: DiskLimit,
    /// How blocks are written.
    pub write: WriteChoice,
    /// How long SIGTERM waits for running uploads and downloads.
    pub drain: Duration,
    /// How often a guard has started this agent again; `None` when none watches over it.
    pub restarts: Option<u32>,
    /// How it stands for registries on `http`.
    pub mirror: MirrorConfig,
}

/// Bytes per second over the whole host, `None` for unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// To peers.
    pub up: Option<u64>,
    /// From peers and origins together.
    pub down: Option<u64>,
    /// From origins alone.
    pub origin: Option<u64>,
}

/// How much disk the store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskLimit {
    /// Keep a quarter of the file system free, the default for an agent: the kubelet starts evicting at 15 %.
    KeepFree,
    /// At most so many bytes.
    Bytes(u64),
    /// Until the file system is full: for the embedded `get`, which downloads what the user asked for.
    Unlimited,
}

/// How blocks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteChoice {
    /// Direct for tasks larger than a quarter of free memory or without peers, else buffered.
    Auto,
    /// O_DIRECT: least CPU, nothing stays in the page cache.
    Direct,
    /// Through the page cache, from which fresh pieces are served.
    Buffered,
}
