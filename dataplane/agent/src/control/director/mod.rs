//! The director: one actor that owns every get, every resolve and every task of this host.
//!
//! It decides and never waits: what takes time (the store, an origin, a scheduler) runs elsewhere and comes back as an
//! event. A get passes through a *flight* (URL to task, one for all callers that ask the same) and then waits at its
//! *task* (bytes arriving, one for all flights that lead there).

mod about;
mod announce;
mod early;
mod flight;
mod hashing;
mod landing;
mod named;
mod report;
mod running;
mod scheduling;
mod shards;
mod task;
mod vouch;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hawker_proto::hash::Root;
use hawker_proto::resolve::ResolveKey;
use hawker_proto::trust::SignedLease;
use hawker_proto::{ClusterKey, HostId, HostKey, PieceIndex, PublicKey, TaskId};
use hawker_scheduler::{Input, WantId};
use hawker_storage::{CreateError, SealError, TaskMeta, TaskSummary};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::caller::{CallerEvent, CallerId, Failure, GetRequest, tell};
use super::keeper::Keeper;
use super::link::{LinkEvent, Outbox, Side, Welcome};
use super::origin::{BlockSource, OriginClient, OriginError, Resolution, Spooled};
use super::tags::TagBook;
use crate::config::WriteChoice;
use crate::counters::Counter;
use crate::limits::Limits;
use crate::seam::{OriginEnd, ShardCommand, ShardEvent, ShardHandle};
use crate::share::SharedTask;

pub(crate) use named::digest_of_bytes;
pub(crate) use report::Snapshot;

use about::About;
use early::Early;
use flight::Flight;
use running::Running;

/// Callers that wait at the same time.
const CALLERS_MAX: usize = 4096;
/// Cached tasks told to a scheduler.
pub(crate) const CACHED_ANNOUNCED_MAX: u32 = 4096;
/// Answers that come after nobody waited any longer.
const LATE_WANTS_MAX: usize = 1024;
/// Events of our own that wait.
const INTERNAL_QUEUE_MAX: usize = 1024;
/// How often what is due by time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often memory of origins is given back.
const TRIM_EVERY: u32 = 20;

/// What others ask of the director.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Content for a caller.
    Get { caller: CallerId, request: Box<GetRequest>, events: mpsc::Sender<CallerEvent> },
    /// The caller waits no longer.
    Gone { caller: CallerId },
    /// The disk did not give back a piece; it is cleared.
    Lost { task: TaskId, piece: PieceIndex },
    /// Everything about this agent.
    Status { reply: oneshot::Sender<Snapshot> },
    /// What one task looks like, by its id or the beginning of it.
    Stat { task: String, reply: oneshot::Sender<Result<hawker_api::local::Task, Failure>> },
    /// Deletes a task; answers with the bytes it freed.
    Remove { task: String, reply: oneshot::Sender<Result<hawker_api::local::Removed, Failure>> },
    /// Takes no new callers, lets peers go; answers when the callers that were here are served.
    Drain { reply: oneshot::Sender<()> },
}

/// What comes back from work that the director started.
#[derive(Debug)]
enum Internal {
    Found { want: WantId, found: Option<Box<(TaskSummary, TaskMeta)>> },
    Resolved { want: WantId, result: Result<Resolution, OriginError> },
    FlightChecked { want: WantId, about: Box<About>, result: Result<(), OriginError> },
    CallerChecked { caller: CallerId, task: TaskId, result: Result<(), OriginError> },
    Spooling { want: WantId, bytes: u64 },
    Spooled { want: WantId, about: Box<About>, result: Result<Spooled, OriginError> },
    Opened { want: WantId, about: Box<About>, result: Result<Arc<SharedTask>, CreateError> },
    PeerOpened { task: TaskId, shared: Option<Arc<SharedTask>>, report: bool },
    FetchOver { task: TaskId, serial: u64, end: OriginEnd, error: Option<OriginError> },
    Verified { task: TaskId, root: Root, result: std::io::Result<hawker_proto::resolve::Digest> },
    Sealed { task: TaskId, root: Root, result: Result<(), SealError> },
    Vouched { task: TaskId, lease: Box<SignedLease>, count: usize },
}

/// What the director is born with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) host: HostId,
    pub(crate) key: Arc<HostKey>,
    pub(crate) cluster_key: Option<ClusterKey>,
    pub(crate) write: WriteChoice,
    /// Whether other hosts can reach this one.
    pub(crate) has_peers: bool,
    pub(crate) limits: Limits,
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) client: OriginClient,
    pub(crate) blocks: BlockSource,
    /// `None`: no scheduler is configured.
    pub(crate) cluster: Option<Outbox>,
    pub(crate) tags: TagBook,
    pub(crate) own: Outbox,
    pub(crate) own_key: PublicKey,
}

/// Somebody who waits.
#[derive(Debug)]
struct Caller {
    request: GetRequest,
    events: mpsc::Sender<CallerEvent>,
    place: Place,
    /// Its own credentials were accepted by the origin, or none are needed.
    is_proven: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Flight(WantId),
    Task(TaskId),
}

/// See the module.
pub(crate) struct Director {
    parts: Parts,
    keeper: Keeper,
    internal: mpsc::Sender<Internal>,
    callers: HashMap<CallerId, Caller>,
    flights: HashMap<WantId, Flight>,
    flights_by_key: HashMap<ResolveKey, WantId>,
    tasks: HashMap<TaskId, Running>,
    tasks_by_key: HashMap<ResolveKey, TaskId>,
    /// Downloads that wait for others to end, oldest first.
    queue: VecDeque<TaskId>,
    /// Flights that wait for others to end, oldest first.
    queued_flights: VecDeque<WantId>,
    /// What came for a task before it was open, and until when it counts.
    early: VecDeque<(TaskId, Early, Instant)>,
    /// Wants whose flight has landed without the scheduler's answer.
    late: HashMap<WantId, TaskId>,
    next_want: u64,
    keys: Vec<PublicKey>,
    /// Of the session that is open.
    session: Option<Welcome>,
    /// The session ended then, if it did.
    down_at: Option<Instant>,
    progress_at: Instant,
    ticks: u32,
    /// Names that the cluster gave wrong bytes for, and until when they are fetched alone.
    distrusted: HashMap<ResolveKey, Instant>,
    /// A permit for each thread that may hash contents.
    hashers: Arc<Semaphore>,
    /// Bytes that callers found here.
    cache_bytes: u64,
    draining: Option<oneshot::Sender<()>>,
}

impl std::fmt::Debug for Director {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Director")
            .field("callers", &self.callers.len())
            .field("flights", &self.flights.len())
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

/// The queues a director reads.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) shards: mpsc::Receiver<ShardEvent>,
    pub(crate) links: mpsc::Receiver<LinkEvent>,
}

/// Runs the director until nobody can ask it anything any more.
pub(crate) async fn run(parts: Parts, mut queues: Queues, turns: Arc<Counter>) {
    let (internal, mut results) = mpsc::channel(INTERNAL_QUEUE_MAX);
    let mut director = Director::new(parts, internal);
    director.introduce().await;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.add(1);
        let due = director.next_due();
        tokio::select! {
            ask = queues.asks.recv() => match ask {
                Some(ask) => director.on_ask(ask).await,
                None => return,
            },
            Some(event) = queues.shards.recv() => director.on_shard(event).await,
            Some(event) = queues.links.recv() => director.on_link(event).await,
            Some(result) = results.recv() => director.on_internal(result).await,
            () = tokio::time::sleep_until(due) => director.on_due().await,
            _ = tick.tick() => director.on_tick().await,
        }
        director.start_queued_flights();
    }
}

impl Director {
    fn new(parts: Parts, internal: mpsc::Sender<Internal>) -> Self {
        let keys = if parts.cluster.is_some() { Vec::new() } else { vec![parts.own_key] };
        Self {
            keeper: Keeper::new(parts.shards[0].clone()),
            internal,
            callers: HashMap::new(),
            flights: HashMap::new(),
            flights_by_key: HashMap::new(),
            tasks: HashMap::new(),
            tasks_by_key: HashMap::new(),
            queue: VecDeque::new(),
            queued_flights: VecDeque::new(),
            early: VecDeque::new(),
            late: HashMap::new(),
            next_want: 1,
            keys,
            session: None,
            down_at: None,
            progress_at: Instant::now(),
            ticks: 0,
            distrusted: HashMap::new(),
            hashers: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))),
            cache_bytes: 0,
            draining: None,
            parts,
        }
    }

    /// Tells the shards whose signatures count before anything runs.
    async fn introduce(&self) {
        let is_connected = self.parts.cluster.is_none();
        self.tell_all(|| ShardCommand::Scheduler { is_connected, keys: self.keys.clone() }).await;
    }

    async fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Get { caller, request, events } => self.on_get(caller, *request, events).await,
            Ask::Gone { caller } => self.on_gone(caller).await,
            Ask::Lost { task, piece } => self.on_lost(task, piece).await,
            // Whoever asked may have hung up; nothing is lost then.
            Ask::Status { reply } => self.on_status(reply),
            Ask::Stat { task, reply } => self.on_stat(task, reply),
            Ask::Remove { task, reply } => self.on_remove(task, reply).await,
            Ask::Drain { reply } => self.on_drain(reply).await,
        }
    }

    async fn on_internal(&mut self, result: Internal) {
        match result {
            Internal::Found { want, found } => self.on_found(want, found.map(|found| *found)).await,
            Internal::Resolved { want, result } => self.on_resolved(want, result).await,
            Internal::FlightChecked { want, about, result } => self.on_flight_checked(want, *about, result).await,
            Internal::CallerChecked { caller, task, result } => self.on_caller_checked(caller, task, result).await,
            Internal::Spooling { want, bytes } => self.on_spooling(want, bytes),
            Internal::Spooled { want, about, result } => self.on_spooled(want, *about, result).await,
            Internal::Opened { want, about, result } => self.on_opened(want, *about, result).await,
            Internal::PeerOpened { task, shared, report } => self.on_peer_opened(task, shared, report).await,
            Internal::FetchOver { task, serial, end, error } => self.on_fetch_over(task, serial, end, error).await,
            Internal::Verified { task, root, result } => self.on_verified(task, root, result).await,
            Internal::Sealed { task, root, result } => self.on_sealed(task, root, result).await,
            Internal::Vouched { task, lease, count } => self.on_vouched(task, *lease, count).await,
        }
    }

    async fn on_get(&mut self, caller: CallerId, request: GetRequest, events: mpsc::Sender<CallerEvent>) {
        let refusal = if self.draining.is_some() {
            Some("this agent is stopping")
        } else if self.callers.len() >= CALLERS_MAX {
            Some("this agent serves too many downloads")
        } else {
            None
        };
        if let Some(reason) = refusal {
            tell(&events, CallerEvent::Failed(Failure::other(reason, "try again in a moment")));
            return;
        }
        let is_proven = !request.is_credentialed;
        // Placed at once by what follows; the want of no flight until then.
        let place = Place::Flight(WantId(0));
        self.callers.insert(caller, Caller { request, events, place, is_proven });
        self.place(caller).await;
    }

    async fn on_gone(&mut self, caller: CallerId) {
        let Some(gone) = self.callers.remove(&caller) else { return };
        match gone.place {
            Place::Flight(want) => self.leave_flight(want, caller),
            Place::Task(task) => self.leave_task(task, caller).await,
        }
    }

    async fn on_drain(&mut self, reply: oneshot::Sender<()>) {
        if let Some(cluster) = &self.parts.cluster {
            cluster.send(Input::Leave { host: self.parts.host });
        }
        self.tell_all(|| ShardCommand::Drain).await;
        self.draining = Some(reply);
        self.finish_drain();
    }

    fn finish_drain(&mut self) {
        if self.callers.is_empty()
            && let Some(reply) = self.draining.take_if(|reply| !reply.is_closed())
        {
            // The stopper may have lost patience.
            let _ = reply.send(());
        }
    }

    async fn on_tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TRIM_EVERY) {
            self.parts.blocks.trim();
        }
        self.tick_flights();
        self.tick_early();
        self.tick_tasks().await;
        self.tick_progress();
        self.forget_idle().await;
        self.finish_drain();
        for facts in [Some(&self.parts.own), self.parts.cluster.as_ref()].into_iter().flatten().map(Outbox::facts) {
            let running = self.tasks.values().filter(|task| task.is_active()).count() as u64;
            facts.running_tasks.store(running, Ordering::Relaxed);
        }
    }

    /// Whether the cluster's scheduler can be asked now.
    fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// Sends to the scheduler that answers for `side`.
    fn say(&self, side: Side, input: Input) -> bool {
        self.outbox(side).is_some_and(|outbox| outbox.send(input))
    }

    fn outbox(&self, side: Side) -> Option<&Outbox> {
        match side {
            Side::Own => Some(&self.parts.own),
            Side::Cluster => self.parts.cluster.as_ref(),
        }
    }

    /// The shard that runs the downloads of `task`.
    fn shard_of(&self, task: TaskId) -> &ShardHandle {
        &self.parts.shards[shard_index(task, self.parts.shards.len())]
    }

    async fn tell_shard(&self, task: TaskId, command: ShardCommand) {
        // A shard that has ended takes the agent with it; nobody is left to tell.
        self.shard_of(task).send(command).await;
    }

    async fn tell_all(&self, command: impl Fn() -> ShardCommand) {
        for shard in &self.parts.shards {
            shard.send(command()).await;
        }
    }

    /// Ends a caller's wait with an error.
    fn fail_caller(&mut self, caller: CallerId, failure: &Failure) {
        if let Some(caller) = self.callers.remove(&caller) {
            tell(&caller.events, CallerEvent::Failed(failure.clone()));
        }
    }

    /// Runs `work` elsewhere; its event comes back through the director's own queue.
    fn spawn(&self, work: impl Future<Output = Internal> + Send + 'static) -> tokio::task::AbortHandle {
        let internal = self.internal.clone();
        tokio::spawn(async move {
            // A director that has ended wants no results.
            let _ = internal.send(work.await).await;
        })
        .abort_handle()
    }
}

/// Which of `shards` owns `task`.
pub(crate) fn shard_index(task: TaskId, shards: usize) -> usize {
    let (first, _) = task.0.split_first_chunk::<8>().expect("a TaskId has 32 bytes");
    let remainder = u64::from_le_bytes(*first) % shards as u64;
    usize::try_from(remainder).unwrap_or(0)
}

/// Set in the serials of our own scheduler's leases, so that they never meet those of the cluster's.
const OWN_SERIAL: u64 = 1 << 62;

/// The serial of one of our own leases as shards know it.
pub(crate) const fn own_serial(serial: u64) -> u64 {
    serial | OWN_SERIAL
}

/// The serial as our own scheduler knows it.
pub(crate) const fn bare_serial(serial: u64) -> u64 {
    serial & !OWN_SERIAL
}

const fn is_own_serial(serial: u64) -> bool {
    serial & OWN_SERIAL != 0
}

/// The limit of one task: the largest that a caller asked for, none when a caller asked for none.
fn limit_of(requests: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let mut largest = None;
    for limit in requests {
        largest = Some(limit?.max(largest.unwrap_or(0)));
    }
    largest
}
