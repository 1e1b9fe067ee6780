//! Shards: the threads that move bytes. Each owns an engine, its links, its downloads and a slab.
//!
//! One turn: take commands, let the kernel work, hand completions to the machines, run what the machines want, submit.
//! Nothing here blocks but the engine's own wait.

mod assembly;
mod child;
mod download;
mod http;
mod keeper;
mod link;
mod notices;
mod origin;
mod parent;
mod places;
mod serve;
mod signing;
mod slots;
mod start;
mod stream;
#[cfg(test)]
mod tests;
mod unsent;
mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hawker_proto::identity::{ClusterKey, HostKey, PublicKey};
use hawker_proto::{BlockIndex, HostId, Instant, PieceIndex, TaskId};
use hawker_ring::{Completion, Engine, File, Op, Outcome, Slab, SocketOptions, Token};
use hawker_swarm::{DownloadInput, LinkId, Places, Upload, UploadInput, UploadOutput};
use tokio::sync::mpsc;

use crate::clock;
use crate::counters::ShardCounters;
use crate::limits::Limits;
use crate::rates::Meter;
use crate::seam::{ShardCommand, ShardEvent, ShardHandle};
use crate::share::SharedTask;

use download::Driver;
use http::{HttpPurpose, HttpSide};
use keeper::Keeper;
use link::Link;
use notices::Notices;
use origin::Fetch;
use places::PlaceBoard;
use serve::Recent;
use slots::SlotPool;
use unsent::Unsent;

pub use start::{Shards, start};

/// Commands taken in one turn: a flood of them must not keep completions waiting.
const COMMANDS_PER_TURN_MAX: usize = 256;
/// How long a shard without work sleeps: an upper bound on how late it sees what no wake announces.
const IDLE_WAIT: Duration = Duration::from_millis(500);
/// How long an acceptor that hit a limit (EMFILE) pauses.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Retry when the slab is empty: blocks come back within a write's time.
const SLAB_PAUSE: Duration = Duration::from_millis(2);
/// The store has this long to make everything durable at the end; a hung disk must not keep the process.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// Reports waiting for control beyond which those that peers can cause at will are dropped.
const PEER_EVENTS_MAX: usize = 1024;
/// How often empty slab memory is given back.
const TRIM_EVERY: Duration = Duration::from_secs(2);

/// Who this host is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: Arc<HostKey>,
    pub(crate) host: HostId,
    pub(crate) cluster: Option<ClusterKey>,
}

/// What an operation was for; found again by its token.
#[derive(Debug)]
enum Purpose {
    Accept,
    AcceptPause,
    Dial {
        link: u32,
    },
    Receive {
        link: u32,
    },
    Transmit {
        link: u32,
    },
    /// A block of a task on its way to disk.
    Write {
        task: TaskId,
        run: u64,
        piece: PieceIndex,
        block: BlockIndex,
    },
    /// A block on its way from disk to a peer.
    ServeRead {
        link: u32,
        channel: u16,
        piece: PieceIndex,
        block: BlockIndex,
    },
    Origin {
        fetch: u64,
    },
    Store {
        op: hawker_storage::OpId,
    },
    Http(HttpPurpose),
    Close,
}

/// Reports to control; what its queue does not take is offered again next turn.
#[derive(Debug)]
struct EventQueue<T> {
    sender: mpsc::Sender<T>,
    backlog: VecDeque<T>,
}

impl<T> EventQueue<T> {
    fn new(sender: mpsc::Sender<T>) -> Self {
        Self { sender, backlog: VecDeque::new() }
    }

    fn push(&mut self, event: T) {
        self.backlog.push_back(event);
        self.flush();
    }

    /// Whether what peers cause may be added: they must not fill the memory while control is slow.
    fn has_room(&self) -> bool {
        self.backlog.len() < PEER_EVENTS_MAX
    }

    fn flush(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.sender.try_send(event) {
                self.backlog.push_front(event);
                return;
            }
        }
    }
}

/// The host's limits as this shard draws from them.
#[derive(Debug)]
struct Meters {
    up: Meter,
    down: Meter,
    origin: Meter,
}

/// A block that waits for upload rate or for memory to be read into.
#[derive(Clone, Copy, Debug)]
struct DelayedSend {
    link: u32,
    channel: u16,
    piece: PieceIndex,
    block: BlockIndex,
    is_paid: bool,
}

/// One thread of the data plane.
struct Shard {
    index: usize,
    now: Instant,
    engine: Box<dyn Engine>,
    ops: HashMap<u64, Purpose>,
    next_token: u64,
    slab: Slab,
    identity: Arc<Identity>,
    scheduler_keys: Vec<PublicKey>,
    is_scheduler_connected: bool,
    limits: Limits,
    handles: Vec<ShardHandle>,
    commands: mpsc::Receiver<ShardCommand>,
    events: EventQueue<ShardEvent>,
    counters: Arc<ShardCounters>,
    meters: Meters,
    socket_options: SocketOptions,

    links: HashMap<u32, Link>,
    next_link: u32,
    children_by_host: HashMap<HostId, u32>,
    /// Links that have something to send.
    dirty_links: HashSet<u32>,
    /// Links whose next block waits for memory or download rate.
    stalled_links: Vec<u32>,
    unsent: Unsent,

    shared: HashMap<TaskId, Arc<SharedTask>>,
    /// Which channels of served links want to hear of a task's pieces.
    watchers: HashMap<TaskId, Vec<(u32, u16)>>,
    /// Tasks with new pieces to announce.
    changed: HashSet<TaskId>,
    notices: Notices,
    upload: Upload,
    slots: Arc<SlotPool>,
    delayed_sends: VecDeque<DelayedSend>,

    downloads: HashMap<TaskId, Driver>,
    next_run: u64,
    dirty_downloads: HashSet<TaskId>,
    places: Places<TaskId>,
    board: Arc<PlaceBoard>,
    fetches: HashMap<u64, Fetch>,
    next_fetch: u64,
    next_neighbor: u32,
    idle_sockets: Vec<origin::IdleSocket>,

    recent: Recent,
    keeper: Option<Keeper>,
    listener: Option<File>,
    next_shard: usize,
    http: HttpSide,

    /// When something that no completion announces is due.
    wake_at: Option<Instant>,
    trim_at: Instant,
    is_draining: bool,
    is_stopping: bool,
}

impl Shard {
    /// Runs until told to stop. The store closes last, when every shard has let go of its tasks.
    fn run(mut self, last_out: &Barrier) {
        if let Some(listener) = self.listener.clone() {
            self.submit(Op::Accept { listener }, Purpose::Accept);
        }
        self.accept_http();
        let mut completions = Vec::new();
        loop {
            self.take_commands();
            if self.is_stopping {
                break;
            }
            self.turn(&mut completions);
        }
        self.end_all();
        last_out.wait();
        let give_up = clock::now() + CLOSE_LIMIT;
        while !self.close_store() && clock::now() < give_up {
            self.turn(&mut completions);
        }
    }

    /// Closes links and downloads; what they have in flight completes or is cancelled with the engine.
    fn end_all(&mut self) {
        let links: Vec<u32> = self.links.keys().copied().collect();
        for link in links {
            self.close_link(link, "the agent ends");
        }
        let tasks: Vec<TaskId> = self.downloads.keys().copied().collect();
        for task in tasks {
            self.stop_download(task);
        }
        self.end_http();
        self.shared.clear();
        self.watchers.clear();
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        self.counters.turns.add(1);
        self.run_due();
        self.run_machines();
        self.flush_links();
        self.events.flush();
        self.http.requests.flush();
        self.notices.flush(&self.handles);
        let wait = self.wait();
        self.engine.turn(Some(wait), completions);
        self.now = clock::now();
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
    }

    fn submit(&mut self, op: Op, purpose: Purpose) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.ops.insert(token, purpose);
        self.engine.submit(Token(token), op);
        token
    }

    fn dispatch(&mut self, completion: Completion) {
        let Some(purpose) = self.ops.remove(&completion.token.0) else {
            unreachable!("the engine completes each operation once: {completion:?}");
        };
        match (purpose, completion.outcome) {
            (Purpose::Accept, Outcome::Accepted(result)) => self.on_accepted(result),
            (Purpose::AcceptPause, Outcome::Timer(_)) => self.accept_next(),
            (Purpose::Dial { link }, Outcome::Connected(result)) => self.on_dialed(link, result),
            (Purpose::Receive { link }, Outcome::Received { result, block, tail }) => {
                let is_open = result.is_ok_and(|received| !received.is_eof);
                self.on_received(link, is_open, block.map(|(block, _)| block), tail);
            }
            (Purpose::Transmit { link }, Outcome::Transmitted { result, head, .. }) => {
                self.on_transmitted(link, result.is_ok(), head);
            }
            (Purpose::Write { task, run, piece, block }, Outcome::Wrote { result, .. }) => {
                self.on_wrote(task, run, piece, block, result);
            }
            (Purpose::ServeRead { link, channel, piece, block }, Outcome::Read { result, block: memory }) => {
                let send = DelayedSend { link, channel, piece, block, is_paid: true };
                self.on_serve_read(send, result, memory);
            }
            (Purpose::Origin { fetch }, outcome) => self.on_origin_outcome(fetch, outcome),
            (Purpose::Store { op }, outcome) => self.on_store_outcome(op, outcome),
            (Purpose::Http(purpose), outcome) => self.on_http_outcome(purpose, outcome),
            (Purpose::Close, _) => {}
            (purpose, outcome) => unreachable!("{purpose:?} was answered by {outcome:?}"),
        }
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMANDS_PER_TURN_MAX {
            match self.commands.try_recv() {
                Ok(command) => self.on_command(command),
                Err(mpsc::error::TryRecvError::Empty) => return,
                // Every handle is gone: the agent was dropped.
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.is_stopping = true;
                    return;
                }
            }
        }
        self.wake_after(Duration::ZERO);
    }

    fn on_command(&mut self, command: ShardCommand) {
        match command {
            ShardCommand::Keeper(request) => self.on_keeper_request(request),
            ShardCommand::StartDownload { task, origin, is_alone } => self.start_download(&task, origin, is_alone),
            ShardCommand::StopDownload { task } => self.stop_download(task),
            ShardCommand::Share { task } => self.share(task),
            ShardCommand::Unshare { task } => self.unshare(task),
            ShardCommand::Neighbors { task, add, remove } => self.on_neighbors(task, add, &remove),
            ShardCommand::Imports { task, stripes } => self.tell(task, DownloadInput::Imports { stripes }),
            ShardCommand::Lease { task, lease, valid } => self.on_lease(task, lease, valid),
            ShardCommand::NoLease { task, retry_after } => self.on_no_lease(task, retry_after),
            ShardCommand::Allowance { task, allowance } => self.on_allowance(task, allowance),
            ShardCommand::Scheduler { is_connected, keys } => self.on_scheduler(is_connected, keys),
            ShardCommand::OriginData { task, serial, offset, block, length, value } => {
                self.on_control_data(task, serial, stream::Arrived { offset, block, length, value });
            }
            ShardCommand::OriginEnd { task, serial, end } => self.on_control_end(task, serial, end),
            ShardCommand::SetAlone { task, is_alone } => self.set_alone(task, is_alone),
            ShardCommand::Limit { task, bucket } => self.set_limit(task, bucket),
            ShardCommand::PieceLost { task, piece } => self.tell(task, DownloadInput::PieceLost { piece }),
            ShardCommand::Connection { socket, from } => self.adopt_connection(socket, from),
            ShardCommand::Changed { task } => {
                self.changed.insert(task);
            }
            ShardCommand::SetReader { task, piece } => self.tell(task, DownloadInput::Reader { piece }),
            ShardCommand::HttpConnection { socket, from } => self.adopt_http(socket, from),
            ShardCommand::Http(command) => self.on_http_command(command),
            ShardCommand::ForgetAnswers => self.http.forget_answers(),
            ShardCommand::SlotFreed => self.upload.handle(self.now, UploadInput::SlotFreed),
            ShardCommand::Drain => self.drain(),
            ShardCommand::Stop => self.is_stopping = true,
        }
    }

    /// What time alone made due.
    fn run_due(&mut self) {
        if self.wake_at.is_some_and(|at| at <= self.now) {
            self.wake_at = None;
        }
        if self.now >= self.trim_at {
            self.slab.trim();
            self.recent = Recent::default();
            self.trim_at = self.now + TRIM_EVERY;
            self.close_idle_links();
        }
        self.counters.slab_bytes.set(self.slab.bytes() as u64);
        self.tick_downloads();
        self.tick_origins();
        for link in std::mem::take(&mut self.stalled_links) {
            self.pump(link);
        }
        for send in std::mem::take(&mut self.delayed_sends) {
            self.serve_block(send);
        }
        self.run_http_due();
    }

    fn run_machines(&mut self) {
        self.share_places();
        for task in std::mem::take(&mut self.dirty_downloads) {
            self.drive(task);
        }
        if !self.dirty_downloads.is_empty() {
            self.wake_after(Duration::ZERO);
        }
        for task in std::mem::take(&mut self.changed) {
            self.announce_task(task);
            self.feed_readers(task);
        }
        self.drive_upload();
        self.drive_store();
    }

    /// Downloads that had inputs free places in the queues of parents, or need some: all of them take what there is in
    /// turn.
    fn share_places(&mut self) {
        self.places.set_elsewhere(self.board.elsewhere(self.index));
        for task in &self.dirty_downloads {
            if let Some(driver) = self.downloads.get_mut(task) {
                self.places.note(*task, &mut driver.machine);
            }
        }
        while let Some(task) = self.places.whose_turn() {
            if let Some(driver) = self.downloads.get_mut(&task)
                && self.places.offer(task, &mut driver.machine)
            {
                self.dirty_downloads.insert(task);
            }
        }
        self.board.post(self.index, self.places.held());
    }

    fn drive_upload(&mut self) {
        let (slots, index) = (Arc::clone(&self.slots), self.index);
        while let Some(output) = self.upload.poll(self.now, &mut || slots.take(index)) {
            self.on_upload_output(&output);
        }
    }

    fn on_upload_output(&mut self, output: &UploadOutput) {
        match *output {
            UploadOutput::Queued { link: LinkId(link), channel, piece, position } => {
                self.send_frame(link, &hawker_proto::frame::Frame::Queued { channel, piece, position });
            }
            UploadOutput::Granted { link: LinkId(link), channel, blocks, millis } => {
                self.send_frame(link, &hawker_proto::frame::Frame::Granted { channel, blocks, millis });
            }
            UploadOutput::Send { link: LinkId(link), channel, piece, block } => {
                self.serve_block(DelayedSend { link, channel, piece, block, is_paid: false });
            }
            UploadOutput::ReleaseSlot => self.release_slot(),
            UploadOutput::Refuse { link: LinkId(link) } => self.close_link(link, "asked for more than allowed"),
        }
    }

    fn release_slot(&mut self) {
        for shard in self.slots.give_back() {
            if shard == self.index {
                self.upload.handle(self.now, UploadInput::SlotFreed);
            } else if !self.handles[shard].try_send(ShardCommand::SlotFreed) {
                // Its queue is full, so it runs and will ask for a slot by itself within a turn.
                tracing::debug!(shard, "slot notice dropped");
            }
        }
    }

    /// Makes the next wait end after `duration` at the latest.
    fn wake_after(&mut self, duration: Duration) {
        let at = self.now + duration;
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn wait(&self) -> Duration {
        let machines = self.downloads.values().filter_map(Driver::deadline);
        let fetches = self.fetches.values().map(Fetch::deadline);
        let store = self.keeper.as_ref().and_then(Keeper::deadline);
        let next = machines.chain(fetches).chain(store).chain(self.upload.deadline()).chain(self.wake_at).min();
        if self.keeper.as_ref().is_some_and(Keeper::is_closed) {
            return Duration::ZERO;
        }
        let backlog =
            !self.events.backlog.is_empty() || !self.http.requests.backlog.is_empty() || self.notices.are_unsaid();
        let wait = next.map_or(IDLE_WAIT, |at| at.since(self.now)).min(IDLE_WAIT);
        if backlog { wait.min(Duration::from_millis(5)) } else { wait }
    }

    fn on_accepted(&mut self, result: std::io::Result<(File, SocketAddr)>) {
        match result {
            Ok((socket, from)) => {
                self.hand_over(socket, from);
                self.accept_next();
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a peer failed; the listener goes on after a pause");
                self.submit(Op::Timer { after: ACCEPT_PAUSE }, Purpose::AcceptPause);
            }
        }
    }

    fn accept_next(&mut self) {
        if let Some(listener) = self.listener.clone().filter(|_| !self.is_draining) {
            self.submit(Op::Accept { listener }, Purpose::Accept);
        }
    }

    /// Gives an accepted connection to the shards in turn: persistent links hash badly under SO_REUSEPORT.
    fn hand_over(&mut self, socket: File, from: SocketAddr) {
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % self.handles.len();
        if shard == self.index {
            self.adopt_connection(socket, from);
        } else if !self.handles[shard].try_send(ShardCommand::Connection { socket, from }) {
            tracing::warn!(shard, "too busy: a peer's connection is closed");
            self.counters.refused.add(1);
        }
    }

    /// Ends what can end without harm: no new links, uploads finish what is granted.
    fn drain(&mut self) {
        self.is_draining = true;
        self.listener = None;
        self.drain_http();
        let parents: Vec<u32> = self.links.iter().filter(|(_, link)| link.is_parent()).map(|(id, _)| *id).collect();
        for link in parents {
            self.send_frame(link, &hawker_proto::frame::Frame::Goodbye);
        }
    }
}
