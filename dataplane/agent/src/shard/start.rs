//! Opens the store and the engines, and starts a thread a shard.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use hawker_proto::Instant;
use hawker_proto::identity::HostKey;
use hawker_ring::{Budget, Detection, EngineConfig, File, Slab, SlabLimits, SocketOptions, Waker};
use hawker_storage::{Store, StoreConfig};
use hawker_swarm::{Places, Upload, UploadConfig};
use rustix::process::{Resource, getrlimit};
use tokio::sync::mpsc;

use super::http::HttpSide;
use super::keeper::Keeper;
use super::notices::Notices;
use super::places::PlaceBoard;
use super::serve::Recent;
use super::slots::SlotPool;
use super::unsent::Unsent;
use super::{EventQueue, Identity, Meters, Shard};
use crate::StartError;
use crate::clock;
use crate::config::{AgentConfig, DiskLimit};
use crate::counters::ShardCounters;
use crate::limits::Limits;
use crate::rates::{HostRates, Meter};
use crate::seam::{COMMAND_QUEUE_MAX, HttpRequest, ShardCommand, ShardEvent, ShardHandle};

/// Shards by default: one receiving core carries about 4 GB/s, and a host of 128 cores must not pay for 128.
const SHARDS_DEFAULT_MAX: usize = 4;
/// Links served at the same time by the whole host. Simulated makespan at 1,000 hosts: 1 or 2 flows 1.06, 4: 1.09,
/// 8: 1.15 of the bound.
const UPLOAD_SLOTS: u32 = 2;
/// Blocks of each shard that only serving may take, so that two full relays cannot starve each other.
const SERVE_BLOCKS: usize = 16;
/// Pending connections of the listener.
const BACKLOG: u16 = 1024;

/// The running data plane.
#[derive(Debug)]
pub struct Shards {
    /// One mailbox a shard; shard 0 keeps the store.
    pub handles: Vec<ShardHandle>,
    /// Where peers connect.
    pub peer_address: Option<SocketAddr>,
    /// Where HTTP clients connect.
    pub http_address: Option<SocketAddr>,
    /// One a shard: sums are the agent's.
    pub counters: Vec<Arc<ShardCounters>>,
    /// The host's limits.
    pub rates: Arc<HostRates>,
    /// Block memory of the process.
    pub budget: Arc<Budget>,
    /// Which engine runs, and why.
    pub detection: Detection,
    /// What there may be of everything.
    pub limits: Limits,
    /// To be joined after [`ShardCommand::Stop`].
    pub threads: Vec<JoinHandle<()>>,
}

/// What one shard thread is born with; its engine is made on the thread itself.
struct Seed {
    index: usize,
    limits: Limits,
    detection: Detection,
    identity: Arc<Identity>,
    commands: mpsc::Receiver<ShardCommand>,
    events: mpsc::Sender<ShardEvent>,
    http: HttpSide,
    counters: Arc<ShardCounters>,
    rates: Arc<HostRates>,
    budget: Arc<Budget>,
    slots: Arc<SlotPool>,
    board: Arc<PlaceBoard>,
    listener: Option<File>,
    keeper: Option<Keeper>,
    socket_options: SocketOptions,
    ready: std_mpsc::Sender<(usize, std::io::Result<Waker>)>,
    handles: std_mpsc::Receiver<Vec<ShardHandle>>,
    /// The store closes only after every shard has let go of its tasks.
    last_out: Arc<Barrier>,
}

/// Starts the shards of an agent.
///
/// # Errors
/// The data directory, the engine, a port or a thread could not be had; nothing is left running.
pub fn start(
    config: &AgentConfig,
    key: Arc<HostKey>,
    events: &mpsc::Sender<ShardEvent>,
    requests: &mpsc::Sender<HttpRequest>,
) -> Result<Shards, StartError> {
    let count = config.shards.unwrap_or_else(default_shards).max(1);
    let limits = limits(count)?;
    let detection =
        hawker_ring::detect(config.engine).map_err(|error| StartError::Engine { reason: error.to_string() })?;
    let keeper = open_store(config)?;
    let (listener, peer_address) = listen(config.peer_port.map(|port| SocketAddr::new(config.advertise, port)))?;
    let (http_listener, http_address) = listen(config.http)?;
    let cluster = config.cluster_key.clone();
    let identity = Arc::new(Identity { host: key.host_id(), key, cluster });
    let rates = Arc::new(HostRates::new(config.rates));
    let budget = Budget::new(Budget::BYTES_DEFAULT);
    let slots = Arc::new(SlotPool::new(UPLOAD_SLOTS, count));
    let board = Arc::new(PlaceBoard::new(count));
    let last_out = Arc::new(Barrier::new(count));
    let (ready, readied) = std_mpsc::channel();
    let (mut keeper, mut listener, mut http_listener) = (Some(keeper), listener, http_listener);
    let mut launched = Vec::new();
    for index in 0..count {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE_MAX);
        let (handle_sender, handles) = std_mpsc::channel();
        let counters = Arc::new(ShardCounters::default());
        let seed = Seed {
            index,
            limits,
            detection: detection.clone(),
            identity: Arc::clone(&identity),
            commands,
            events: events.clone(),
            http: HttpSide::new(http_listener.take(), requests.clone(), limits.http.div_ceil(count)),
            counters: Arc::clone(&counters),
            rates: Arc::clone(&rates),
            budget: Arc::clone(&budget),
            slots: Arc::clone(&slots),
            board: Arc::clone(&board),
            listener: listener.take(),
            keeper: keeper.take(),
            socket_options: socket_options(config),
            ready: ready.clone(),
            handles,
            last_out: Arc::clone(&last_out),
        };
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || seed.run());
        let thread = thread.map_err(|error| StartError::Io { what: "start a shard's thread", error })?;
        launched.push((sender, handle_sender, counters, thread));
    }
    let wakers = gather_wakers(&readied, count)?;
    let handles: Vec<ShardHandle> = launched
        .iter()
        .zip(wakers)
        .map(|((commands, ..), waker)| ShardHandle { commands: commands.clone(), waker })
        .collect();
    let mut shards = Shards {
        handles: handles.clone(),
        peer_address,
        http_address,
        counters: Vec::new(),
        rates,
        budget,
        detection,
        limits,
        threads: Vec::new(),
    };
    for (_, handle_sender, counters, thread) in launched {
        handle_sender.send(handles.clone()).map_err(|_| thread_died())?;
        shards.counters.push(counters);
        shards.threads.push(thread);
    }
    Ok(shards)
}

/// What the process's limit of open files allows.
fn limits(shards: usize) -> Result<Limits, StartError> {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = Limits::descriptors_min(shards);
    let limits = Limits::of(descriptors, shards).ok_or(StartError::Descriptors { limit: descriptors, needed })?;
    if limits != Limits::FULL {
        tracing::warn!(descriptors, ?limits, "few open files are allowed: raise the limit to serve more at a time");
    }
    Ok(limits)
}

fn open_store(config: &AgentConfig) -> Result<Keeper, StartError> {
    let boot_id = hawker_storage::blocking::read_boot_id()
        .map_err(|error| StartError::Io { what: "read this boot's id from /proc", error })?;
    let mut store_config = StoreConfig::new(boot_id, clock::now(), clock::unix_ms());
    store_config.limit_bytes = match config.disk {
        DiskLimit::KeepFree => None,
        DiskLimit::Bytes(bytes) => Some(bytes),
        DiskLimit::Unlimited => Some(u64::MAX),
    };
    let store = Store::open(&config.data_dir, store_config).map_err(StartError::Store)?;
    Ok(Keeper::new(store, config.data_dir.clone()))
}

fn listen(address: Option<SocketAddr>) -> Result<(Option<File>, Option<SocketAddr>), StartError> {
    let Some(address) = address else { return Ok((None, None)) };
    let failed = |error| StartError::Listen { address, error };
    let listener = hawker_ring::net::listen(address, BACKLOG).map_err(failed)?;
    let address = hawker_ring::net::local_address(&listener).map_err(failed)?;
    Ok((Some(listener), Some(address)))
}

/// Congestion control is the host's choice, but for loopback: BBR paces it (measured: one sendfile stream 8.0 GB/s with
/// cubic, 1.7 with bbr).
fn socket_options(config: &AgentConfig) -> SocketOptions {
    let congestion = config.advertise.is_loopback().then(|| Arc::from("cubic"));
    // A connection from the advertised address: on a machine with many, peers and limits see who we are.
    let source = config.peer_port.map(|_| config.advertise).filter(|address| !address.is_unspecified());
    let receive_buffer_bytes = None;
    SocketOptions { congestion, source, receive_buffer_bytes, send_buffer_bytes: None, ..SocketOptions::default() }
}

fn default_shards() -> usize {
    // Honours the affinity mask and cgroup quotas.
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(SHARDS_DEFAULT_MAX)
}

fn gather_wakers(
    readied: &std_mpsc::Receiver<(usize, std::io::Result<Waker>)>,
    count: usize,
) -> Result<Vec<Waker>, StartError> {
    let mut wakers: Vec<Option<Waker>> = vec![None; count];
    for _ in 0..count {
        let (index, waker) = readied.recv().map_err(|_| thread_died())?;
        wakers[index] = Some(waker.map_err(|error| StartError::Io { what: "open a shard's engine", error })?);
    }
    wakers.into_iter().collect::<Option<Vec<_>>>().ok_or_else(thread_died)
}

fn thread_died() -> StartError {
    let error = std::io::Error::other("a shard's thread ended");
    StartError::Io { what: "start the shards", error }
}

impl Seed {
    fn run(mut self) {
        let limits = SlabLimits { bytes_max: self.budget.bytes_max(), reserve_blocks: SERVE_BLOCKS };
        let opened = hawker_ring::open(&self.detection, &EngineConfig::default())
            .and_then(|engine| Ok((engine, Slab::new(limits, Arc::clone(&self.budget))?)));
        let (engine, slab) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // The starter is told and gives up; if it is gone already there is nobody to tell.
                drop(self.ready.send((self.index, Err(error))));
                return;
            }
        };
        if self.ready.send((self.index, Ok(engine.waker()))).is_err() {
            return;
        }
        // The starter failed elsewhere and dropped us.
        let Ok(handles) = self.handles.recv() else { return };
        let last_out = Arc::clone(&self.last_out);
        let shard = Shard {
            index: self.index,
            now: clock::now(),
            engine,
            ops: HashMap::new(),
            next_token: 1,
            slab,
            identity: self.identity,
            limits: self.limits,
            scheduler_keys: Vec::new(),
            is_scheduler_connected: false,
            unsent: Unsent::new(handles.len()),
            handles,
            commands: self.commands,
            events: EventQueue::new(self.events),
            http: self.http,
            counters: self.counters,
            meters: Meters {
                up: Meter::new(self.rates.up.clone()),
                down: Meter::new(self.rates.down.clone()),
                origin: Meter::new(self.rates.origin.clone()),
            },
            socket_options: self.socket_options,
            links: HashMap::new(),
            next_link: 0,
            children_by_host: HashMap::new(),
            dirty_links: HashSet::new(),
            stalled_links: Vec::new(),
            shared: HashMap::new(),
            watchers: HashMap::new(),
            changed: HashSet::new(),
            notices: Notices::default(),
            upload: Upload::new(UploadConfig::default()),
            slots: self.slots,
            delayed_sends: VecDeque::new(),
            downloads: HashMap::new(),
            next_run: 0,
            dirty_downloads: HashSet::new(),
            places: Places::default(),
            board: self.board,
            fetches: HashMap::new(),
            next_fetch: 0,
            next_neighbor: 0,
            idle_sockets: Vec::new(),
            recent: Recent::default(),
            keeper: self.keeper.take(),
            listener: self.listener.take(),
            next_shard: 0,
            wake_at: None,
            trim_at: Instant::ZERO,
            is_draining: false,
            is_stopping: false,
        };
        shard.run(&last_out);
    }
}
