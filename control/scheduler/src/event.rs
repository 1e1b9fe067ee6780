//! What goes into a [`Cluster`](crate::Cluster) and what comes out: the nouns of one agent's session.
//!
//! hawker-api has a message for each; shells convert. Whatever comes from an agent is checked here again for meaning
//! (is there such a task, is it his lease), never trusted.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::trust::{SignedAllowance, SignedLease};
use hawker_proto::{Geometry, HostId, PieceIndex, PieceMap, PublicKey, Stripes, TaskId};

/// Hash of `scheme://host:port` of an origin: whose budget a fetch is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub [u8; 32]);

/// An agent's own name for one of its open wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantId(pub u64);

/// A host that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInfo {
    /// Follows from `key`.
    pub id: HostId,
    /// Goes into its leases.
    pub key: PublicKey,
    /// Where peers dial it.
    pub address: SocketAddr,
    /// "zone" steers neighbors; others are for people.
    pub labels: Vec<(String, String)>,
    /// Asked to go to the origin first.
    pub is_seed: bool,
    /// What its link carries, bytes/s; 0 when unknown.
    pub link_bytes_per_s: u64,
}

/// How content is named in a want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantKey {
    /// By URL and what else makes up its key.
    Resolve(ResolveKey),
    /// By name, when the agent already knows it.
    Task(TaskId),
    /// By digest; when no task with it is known, by the key.
    Digest(Digest, Option<ResolveKey>),
}

/// BLAKE3 of `registry/repository:tag`, or of `registry/repository@digest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagKey(pub [u8; 32]);

/// What a name in a registry stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFact {
    /// Of the manifest: `sha256:hex` or `sha512:hex`. Only agents look into it.
    pub digest: String,
    /// Of the manifest.
    pub media_type: String,
    /// Bytes of the manifest.
    pub length: u64,
    /// Whether the registry gives it to anybody.
    pub is_public: bool,
    /// How long ago the registry said so.
    pub age: Duration,
}

/// Why a resolve gave no task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveFailure {
    /// The origin answered, and the answer holds for everybody with the same key.
    pub is_final: bool,
    /// HTTP status, 0 when there was none.
    pub status: u16,
    /// For people.
    pub text: String,
}

/// What the resolver learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// What the URL names now.
    pub task: TaskId,
    /// Its form.
    pub geometry: Geometry,
    /// Opaque; goes back out with Ready and Resolve.
    pub validators: Vec<u8>,
    /// How long it may be given to others.
    pub valid: Duration,
    /// Whether it may be given to others at all.
    pub is_shared: bool,
    /// Whether the origin serves ranges.
    pub has_ranges: bool,
    /// When the content's digest is known.
    pub digest: Option<Digest>,
    /// What the resolver's GET yields: bytes `0..arriving_bytes`.
    pub arriving_bytes: u64,
    /// All of it, when it is small, public and goes by its digest; else empty.
    pub inline: Vec<u8>,
}

/// How an agent came by a task that it announces, so that a restarted scheduler can answer wants for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The key it was resolved by.
    pub key: ResolveKey,
    /// As in [`Resolution`].
    pub validators: Vec<u8>,
    /// How long the answer still holds.
    pub valid: Duration,
}

/// All that a host has of one task. Replaces what was known of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Which task.
    pub task: TaskId,
    /// Its form.
    pub geometry: Geometry,
    /// Verified and stored at the host.
    pub have: PieceMap,
    /// Whether a download runs there.
    pub is_running: bool,
    /// Leases it is fetching.
    pub leases: Vec<SignedLease>,
    /// Whence it could be fetched, when the host can.
    pub origin: Option<OriginId>,
    /// As in [`Resolution`].
    pub has_ranges: bool,
    /// As in [`Resolution`].
    pub is_shared: bool,
    /// When the host knows it.
    pub source: Option<Source>,
    /// When the content's digest is known.
    pub digest: Option<Digest>,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Fetched to the end.
    Complete,
    /// The holder has no use for the rest.
    Returned,
    /// Network, 5xx, 429, stall; with what Retry-After said.
    Failed {
        /// Zero when the origin said nothing.
        retry_after: Duration,
    },
    /// 401 or 403: no more leases of this task for this host.
    Refused,
    /// The origin's content is no longer this task.
    Changed,
}

/// What an agent, or its connection, tells the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A host's stream is open and authenticated. Of a host that is known: it came back; what it does not announce
    /// again soon is forgotten.
    Join(HostInfo),
    /// It drains: everything of it is free at once.
    Leave {
        /// Which host.
        host: HostId,
    },
    /// Its stream broke. It may come back, and may go on with what it has: leases live until they expire.
    Disconnected {
        /// Which host.
        host: HostId,
    },
    /// A sign of life; every other input of a host is one too.
    Heartbeat {
        /// Which host.
        host: HostId,
    },
    /// It wants content.
    Want {
        /// Who asks.
        host: HostId,
        /// Its name for the want.
        want: WantId,
        /// What it wants.
        key: WantKey,
        /// Whose budget is charged. `None`: it has no origin to go to.
        origin: Option<OriginId>,
    },
    /// It is still resolving.
    Resolving {
        /// The resolver.
        host: HostId,
        /// Its name for the want.
        want: WantId,
    },
    /// It resolved.
    Resolved {
        /// The resolver.
        host: HostId,
        /// Its name for the want.
        want: WantId,
        /// What it learned.
        resolution: Resolution,
    },
    /// It could not resolve.
    ResolveFailed {
        /// The resolver.
        host: HostId,
        /// Its name for the want.
        want: WantId,
        /// Why.
        failure: ResolveFailure,
    },
    /// What it has of a task.
    Announce {
        /// Which host.
        host: HostId,
        /// What it has.
        announcement: Announcement,
    },
    /// How far it is.
    Progress {
        /// Which host.
        host: HostId,
        /// Which task.
        task: TaskId,
        /// Pieces it has.
        have_count: u32,
        /// Bytes/s of the task arriving there.
        bytes_per_s: u64,
        /// Per lease: serial, and below which offset everything has arrived.
        leases: Vec<(u64, u64)>,
    },
    /// It could fetch from the origin.
    AskLease {
        /// Which host.
        host: HostId,
        /// Which task.
        task: TaskId,
        /// The most it wants; 0 leaves it to the cluster.
        bytes: u64,
        /// Its measured rate from the origin; 0 when unknown.
        bytes_per_s: u64,
        /// It would buy what hosts have that have everything, since the hosts around it draw only so many bytes/s from
        /// them; `None`: it asks for what nobody has.
        source_bytes_per_s: Option<u64>,
        /// Nothing came to it for long: the first of the pieces, `bytes` of them, that none of its neighbors has, whatever
        /// others say.
        lacked: Option<PieceIndex>,
    },
    /// A lease ended.
    LeaseDone {
        /// Its holder.
        host: HostId,
        /// Which lease.
        serial: u64,
        /// Whole pieces below this offset are stored at the holder.
        upto: u64,
        /// Why it ended.
        outcome: LeaseOutcome,
    },
    /// It has every piece.
    Finished {
        /// Which host.
        host: HostId,
        /// Which task.
        task: TaskId,
    },
    /// It has the task no more.
    Left {
        /// Which host.
        host: HostId,
        /// Which task.
        task: TaskId,
    },
    /// It was sent wrong bytes more than once.
    BadHost {
        /// Who says so.
        reporter: HostId,
        /// Of whom.
        host: HostId,
        /// In which task.
        task: TaskId,
    },
    /// A registry said what a name in it stands for.
    TagSeen {
        /// Who asked the registry.
        host: HostId,
        /// Of which name.
        tag: TagKey,
        /// What it said.
        fact: TagFact,
    },
    /// It cannot ask the registry what a name stands for.
    AskTag {
        /// Who asks.
        host: HostId,
        /// Of which name.
        tag: TagKey,
    },
    /// Nothing happened but time: call when [`Cluster::deadline`](crate::Cluster::deadline) has passed.
    Tick,
}

/// Another host that has, or fetches, the same task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Who.
    pub id: HostId,
    /// Where to dial it.
    pub address: SocketAddr,
    /// It is in another zone than the host that is told: only imports are asked of it.
    pub is_remote: bool,
}

/// What the cluster tells one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHost {
    /// The answer to a want. The host is a peer of the task from now on.
    Ready {
        /// Which want.
        want: WantId,
        /// The task.
        task: TaskId,
        /// Its form.
        geometry: Geometry,
        /// As its resolver gave them.
        validators: Vec<u8>,
        /// Whom to link with. The same hosts are told at the same time.
        neighbors: Vec<Neighbor>,
        /// Whether the origin serves ranges.
        has_ranges: bool,
        /// Whether it may be given to others.
        is_shared: bool,
        /// All of it, if a resolver sent it along; else empty. Only its digest says whether it is that.
        inline: Vec<u8>,
    },
    /// You resolve: one GET of bytes `0..upto`.
    Resolve {
        /// Which want.
        want: WantId,
        /// End of the range.
        upto: u64,
        /// Silence for longer hands it to another.
        valid: Duration,
        /// Of an answer whose time is over, and what it named: revalidate.
        previous: Option<(TaskId, Vec<u8>)>,
    },
    /// Another host resolves. The answer will follow by itself.
    Wait {
        /// Which want.
        want: WantId,
        /// Without an answer for so long, ask again.
        retry: Duration,
    },
    /// The want cannot be met.
    WantFailed {
        /// Which want.
        want: WantId,
        /// Why.
        failure: ResolveFailure,
        /// `None`: never. Else ask again after this.
        retry: Option<Duration>,
    },
    /// Neighbors of a task came or went.
    Neighbors {
        /// Which task.
        task: TaskId,
        /// Link with these.
        add: Vec<Neighbor>,
        /// These are no longer neighbors in this task.
        remove: Vec<HostId>,
    },
    /// What the host brings into its zone from its remote neighbors. Replaces what was said before of the task;
    /// nothing until the first of these
    /// on a stream.
    Imports {
        /// Which task.
        task: TaskId,
        /// Pieces of these stripes, as long as no neighbor of its own zone has them.
        stripes: Stripes,
    },
    /// Fetch this from the origin.
    Lease {
        /// Goes into records.
        lease: SignedLease,
        /// From receipt.
        valid: Duration,
    },
    /// Nothing to lease now.
    NoLease {
        /// Which task.
        task: TaskId,
        /// Ask again after this.
        retry: Duration,
        /// Every byte has left the origin: do not ask again.
        is_done: bool,
        /// The origin's content changed: do not ask again.
        is_changed: bool,
    },
    /// For the time when no scheduler answers. Replaces the former one of the task.
    Allowance {
        /// Which task.
        task: TaskId,
        /// What is allowed.
        allowance: SignedAllowance,
    },
    /// Do not talk to this host.
    Ban {
        /// Whom; perhaps the receiver itself.
        host: HostId,
    },
    /// Announce this task again: a host that had pieces of it is gone.
    Report {
        /// Which task.
        task: TaskId,
    },
    /// The answer to [`Input::AskTag`].
    Tag {
        /// Of which name.
        tag: TagKey,
        /// What a registry said last; `None`: no host has said.
        fact: Option<TagFact>,
    },
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send `message` to `host`; drop it when the host is not connected.
    Send {
        /// To whom.
        host: HostId,
        /// What.
        message: ToHost,
    },
}
