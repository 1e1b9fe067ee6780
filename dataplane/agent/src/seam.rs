//! The seam between the two halves of the agent: what control tells shards, and what shards report.
//!
//! Both queues are bounded. A shard never waits for control: what does not fit is kept and offered again next turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::hash::{ChainingValue, Root};
use hawker_proto::http1::{OriginAnswer, Refusal, Reply, Request, ResponseHead};
use hawker_proto::identity::PublicKey;
use hawker_proto::trust::{SignedAllowance, SignedLease};
use hawker_proto::{ByteRange, Geometry, HostId, PieceIndex, Stripes, TaskId};
use hawker_ring::{Block, Waker};
use hawker_scheduler::Neighbor;
use hawker_storage::{CreateError, File, SealError, SpoolError, SpoolId, TaskMeta, TaskSummary, Usage, WriteMode};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::control::validators::ValidatorSet;
use crate::rates::Bucket;
use crate::share::SharedTask;

/// Commands a shard's queue holds before senders wait.
pub const COMMAND_QUEUE_MAX: usize = 1024;
/// Events the control half's queue holds before shards keep them.
pub const EVENT_QUEUE_MAX: usize = 4096;
/// Requests of HTTP clients that the control half's queue holds before shards keep them: one a connection.
pub const HTTP_QUEUE_MAX: usize = 1024;
/// Bytes of one answer that control brings and that have not left yet.
pub const HTTP_STREAM_BYTES_MAX: usize = 1 << 20;

/// Where a task's bytes can be had when no peer has them.
#[derive(Clone)]
pub struct OriginSpec {
    /// As the caller gave it, credentials in the query included: never logged.
    pub url: String,
    /// The caller's headers, sent to the URL's own host only.
    pub headers: Vec<(String, String)>,
    /// What the resolve's answer named the version by: leased fetches are pinned to it.
    pub validators: ValidatorSet,
    /// False when the origin ignores Range: one stream from byte 0, no parallel leases.
    pub is_range_ok: bool,
    /// Whether the content's digest was known before it was asked for.
    pub is_named: bool,
    /// The literal address of a plain-http origin that answers without redirect, so that shards may fetch from it;
    /// `None`: control fetches.
    pub direct: Option<SocketAddr>,
}

impl std::fmt::Debug for OriginSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL's query and the headers may hold credentials.
        f.debug_struct("OriginSpec").field("is_range_ok", &self.is_range_ok).field("direct", &self.direct).finish()
    }
}

impl OriginSpec {
    /// Whether `answer` is about other content than the `length` bytes that were resolved. Asked of every answer:
    /// an origin may ignore conditions, and then says it in its head at most.
    #[must_use]
    pub fn is_contradicted(&self, length: u64, answer: &OriginAnswer, head: &ResponseHead) -> bool {
        let is_other = |total: Option<u64>| total.is_some_and(|total| total != length);
        match answer {
            OriginAnswer::Partial { total, .. } => is_other(*total) || self.validators.differ(head),
            // An answer that ignores Range must say that it does not ignore the condition for another version.
            OriginAnswer::Whole { length } => is_other(*length) || !self.validators.confirm(head),
            _ => false,
        }
    }
}

/// How a fetch of a leased range ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginEnd {
    /// Every byte of the range arrived.
    Complete,
    /// It broke, stalled or was throttled; the rest may be tried after a pause.
    Failed { retry_after: Duration, trouble: Trouble },
    /// The origin says no (4xx, changed content, nonsense): trying again is useless.
    Refused { status: u16 },
}

/// Why a fetch failed that may do better later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// None of the origin's: it was stopped.
    Stopped,
    /// The origin answered this status.
    Status(u16),
    /// No connection, or one that broke.
    Broken,
    /// Nothing came for so long.
    Silent(Duration),
}

/// Work for the keeper: the shard that owns the store. Every request is answered on its channel.
#[derive(Debug)]
pub enum KeeperRequest {
    /// Reserve space for a new task, or open it when the store has it.
    Create {
        task: TaskId,
        geometry: Geometry,
        meta: Box<TaskMeta>,
        write: WriteMode,
        reply: oneshot::Sender<Result<Arc<SharedTask>, CreateError>>,
    },
    /// Open a task the store has; `None` when it has not.
    Open { task: TaskId, reply: oneshot::Sender<Option<Arc<SharedTask>>> },
    /// Open a file for a body of a length nobody knows.
    Spool { reply: oneshot::Sender<Result<(SpoolId, File), SpoolError>> },
    /// Let a spool grow to `bytes` in all.
    ReserveSpool { spool: SpoolId, bytes: u64, reply: oneshot::Sender<Result<(), SpoolError>> },
    /// Make a whole spool a task: its pieces are received, `records` holds their blocks' values.
    Adopt(Box<AdoptRequest>),
    /// Throw a spool away.
    DropSpool { spool: SpoolId },
    /// All pieces are here: make them durable and seal the task under `root`.
    Seal { task: TaskId, root: Root, reply: oneshot::Sender<Result<(), SealError>> },
    /// Delete a task; false when it is pinned or unknown.
    Remove { task: TaskId, reply: oneshot::Sender<bool> },
    /// Everything the store has.
    List { reply: oneshot::Sender<(Vec<TaskSummary>, Usage)> },
    /// Replace what is known of a task's origin, after a revalidation.
    SetMeta { task: TaskId, meta: Box<TaskMeta> },
    /// The newest task resolved under a key, with what its origin said then.
    FindResolved { key: [u8; 32], reply: oneshot::Sender<Option<(TaskSummary, TaskMeta)>> },
}

/// The request of [`KeeperRequest::Adopt`].
#[derive(Debug)]
pub struct AdoptRequest {
    /// The spool, every byte of it written.
    pub spool: SpoolId,
    /// The task that it becomes.
    pub task: TaskId,
    /// Its geometry, now that the length is known.
    pub geometry: Geometry,
    /// Where it came from.
    pub meta: TaskMeta,
    /// One row a piece, one value a block.
    pub records: Vec<Vec<ChainingValue>>,
    /// The answer.
    pub reply: oneshot::Sender<Result<Arc<SharedTask>, CreateError>>,
}

/// What control tells a shard.
#[derive(Debug)]
pub enum ShardCommand {
    /// For the keeper, shard 0.
    Keeper(KeeperRequest),
    /// Begin to fetch what `task` lacks. `is_alone`: no peer can help, go to the origin at once.
    StartDownload { task: Arc<SharedTask>, origin: Option<OriginSpec>, is_alone: bool },
    /// Nobody wants it any more: stop fetching, keep what is there.
    StopDownload { task: TaskId },
    /// Serve this task to peers from now on.
    Share { task: Arc<SharedTask> },
    /// Stop serving it.
    Unshare { task: TaskId },
    /// The scheduler's choice of whom to exchange with.
    Neighbors { task: TaskId, add: Vec<Neighbor>, remove: Vec<HostId> },
    /// What this host brings into its zone from neighbors in others.
    Imports { task: TaskId, stripes: Stripes },
    /// The right to fetch a range of the task from its origin, for so long.
    Lease { task: TaskId, lease: SignedLease, valid: Duration },
    /// No range is free to fetch; ask again after `retry_after`.
    NoLease { task: TaskId, retry_after: Duration },
    /// A right to originate this task without a lease, for when the scheduler is away; it replaces the former.
    Allowance { task: TaskId, allowance: SignedAllowance },
    /// Whether the scheduler can be reached, and whose signatures count.
    Scheduler { is_connected: bool, keys: Vec<PublicKey> },
    /// Bytes of a leased range that control fetched: `length` bytes at `offset`, hashed already.
    OriginData { task: TaskId, serial: u64, offset: u64, block: Block, length: usize, value: ChainingValue },
    /// The fetch that control ran for this lease is over.
    OriginEnd { task: TaskId, serial: u64, end: OriginEnd },
    /// Whether control answers this download's questions itself, because the scheduler is away.
    SetAlone { task: TaskId, is_alone: bool },
    /// The callers' own limit on what this task may receive.
    Limit { task: TaskId, bucket: Option<Arc<Bucket>> },
    /// A stored piece of a task that this shard downloads turned out bad.
    PieceLost { task: TaskId, piece: PieceIndex },
    /// A peer's connection, accepted by shard 0 and handed to the least loaded shard.
    Connection { socket: Arc<std::os::fd::OwnedFd>, from: SocketAddr },
    /// Give no HTTP answer again without control.
    ForgetAnswers,
    /// A task has new pieces to announce.
    Changed { task: TaskId },
    /// An HTTP client's connection, accepted by shard 0 and handed to the shards in turn.
    HttpConnection { socket: Arc<std::os::fd::OwnedFd>, from: SocketAddr },
    /// What becomes of a request of an HTTP client.
    Http(HttpCommand),
    /// A reader of a task that this shard downloads lacks this piece, and none before it.
    SetReader { task: TaskId, piece: PieceIndex },
    /// An upload slot of the host was freed.
    SlotFreed,
    /// Finish what is granted, take nothing new.
    Drain,
    /// Close everything and end the thread.
    Stop,
}

/// A request on a connection; no two of an agent's life have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HttpId {
    /// Which shard has the connection.
    pub shard: usize,
    /// Which of its connections, counted from its start.
    pub connection: u64,
    /// Which of the connection's requests.
    pub request: u64,
}

/// A request that an HTTP client made of this host.
#[derive(Debug)]
pub struct HttpRequest {
    /// Its name.
    pub id: HttpId,
    /// Who asks.
    pub from: SocketAddr,
    /// What is asked for.
    pub request: Box<Request>,
    /// Where its body comes, once it was asked for; `None`: it has none.
    pub body: Option<mpsc::Receiver<BodyPart>>,
    /// How its answer ended; closed early when the client is gone.
    pub end: oneshot::Receiver<Sent>,
}

/// What comes of a request's body. At most two at a time: the next bytes wait for [`HttpAction::BodyTaken`].
#[derive(Debug)]
pub enum BodyPart {
    /// The next bytes.
    Bytes(Vec<u8>),
    /// It ended where it should.
    End,
    /// It is broken or too long.
    Refused(Refusal),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of its body that the kernel took.
    pub content_bytes: u64,
    /// All of it went out, head included.
    pub is_complete: bool,
}

/// What control says about a request.
#[derive(Debug)]
pub struct HttpCommand {
    /// Which. One that is over already is passed over.
    pub id: HttpId,
    /// What.
    pub action: HttpAction,
}

/// See [`HttpCommand`].
#[derive(Debug)]
pub enum HttpAction {
    /// The body is wanted.
    TakeBody,
    /// The last part of it is dealt with.
    BodyTaken,
    /// The answer; for `keep` the shard may give it to whoever asks the same with the same credentials.
    Reply { reply: Box<Reply>, content: HttpContent, keep: Option<Duration> },
    /// The next bytes of an [`HttpContent::Stream`].
    Push(Vec<u8>),
    /// Bytes of the content from offset `upto` on will not come.
    Lost { upto: u64 },
    /// There will be no answer: the client is told so, and the connection ends.
    Fail,
}

/// Whose bytes an answer's content is.
#[derive(Debug)]
pub enum HttpContent {
    /// It has none but what the reply carries.
    Inline,
    /// A task's, whether they are here or still arrive.
    Task(Arc<SharedTask>),
    /// Those that control pushes. The permits are bytes that it may push: those that left come back.
    Stream(Arc<Semaphore>),
}

/// What a shard reports.
#[derive(Debug)]
pub enum ShardEvent {
    /// The download could use a range of about `bytes`; its origin gave it `rate` bytes per second so far (0: unknown).
    /// With `source_rate` (bytes per second) neighbors have the range, and are slow; `lacked` is what it starves for.
    AskLease { task: TaskId, bytes: u64, rate: u64, source_rate: Option<u64>, lacked: Option<PieceIndex> },
    /// A lease is over: bytes up to `upto` (an offset in the task) are verified and stored here.
    LeaseDone { task: TaskId, serial: u64, upto: u64, end: OriginEnd },
    /// Control should fetch this leased range and send it as `OriginData`.
    FetchOrigin { task: TaskId, serial: u64, range: ByteRange },
    /// Stop such a fetch.
    StopOrigin { task: TaskId, serial: u64 },
    /// Pieces arrived; sent at most every 20 ms for a task.
    Advanced { task: TaskId },
    /// How far a leased fetch that a shard runs is; at most every 100 ms a lease.
    OriginAt { task: TaskId, serial: u64, upto: u64 },
    /// Every piece is received and recorded; the root is BLAKE3 of the content.
    Complete { task: TaskId, root: Root },
    /// The download cannot go on.
    Failed { task: TaskId, error: DownloadError },
    /// A peer opened a task that no shard shares: control shares it if the store has it.
    PeerWants { task: TaskId },
    /// A host sent bytes that differ from their records, repeatedly.
    BadHost { task: TaskId, host: HostId },
    /// A stored piece turned out bad when it was read for a peer; it is not served any more.
    PieceLost { task: TaskId, piece: PieceIndex },
    /// The store gave a task up to make room, or lost it to a failing disk.
    Dropped { task: TaskId, reason: String },
}

/// Why a download ended without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownloadError {
    /// The disk failed or is full; `os_error` is what the kernel said of it.
    Disk { message: String, os_error: Option<i32> },
}

/// A shard's mailbox.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    pub(crate) commands: mpsc::Sender<ShardCommand>,
    pub(crate) waker: Waker,
}

impl ShardHandle {
    /// Sends `command`, waiting while the shard's queue is full. False when the shard has ended.
    pub async fn send(&self, command: ShardCommand) -> bool {
        let is_sent = self.commands.send(command).await.is_ok();
        self.waker.wake();
        is_sent
    }

    /// Sends `command` if the queue has room; for threads that may not wait. False: it was dropped, because the queue
    /// is full or the shard has ended.
    #[must_use]
    pub fn try_send(&self, command: ShardCommand) -> bool {
        let is_sent = self.commands.try_send(command).is_ok();
        self.waker.wake();
        is_sent
    }

    /// Sends `command` at once, or as soon as the queue has room; for the control half where it may not wait.
    pub(crate) fn send_soon(&self, command: ShardCommand) {
        let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) else {
            self.waker.wake();
            return;
        };
        // Without a runtime the whole agent ends, and the connection with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let handle = self.clone();
            runtime.spawn(async move { handle.send(command).await });
        }
    }
}
