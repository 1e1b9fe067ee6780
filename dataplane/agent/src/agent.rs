//! Starting and stopping an agent: both halves, in order.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawker_proto::{HostId, HostKey};
use hawker_ring::{Slab, SlabLimits};
use hawker_scheduler::HostInfo;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::config::AgentConfig;
use crate::control::director::{self, Ask, Parts, Queues};
use crate::control::http;
use crate::control::link::{INBOX_MAX, LinkFacts, OUTBOX_MAX, Outbox};
use crate::control::local_api::{self, LocalApi};
use crate::control::local_scheduler::LocalScheduler;
use crate::control::mirror::{self, Mirror, MirrorParts};
use crate::control::origin::{BlockSource, OriginClient, Transports};
use crate::control::scheduler_link::{self, SessionConfig};
use crate::control::status::AgentFacts;
use crate::control::tags::TagBook;
use crate::seam::{EVENT_QUEUE_MAX, HTTP_QUEUE_MAX, HttpRequest, ShardCommand, ShardEvent};
use crate::shard::{self, Shards};
use crate::{Pulse, StartError};

/// Threads of the control half.
const CONTROL_THREADS_MAX: usize = 4;
/// Questions that wait for the director.
const ASK_QUEUE_MAX: usize = 1024;
/// Block memory that origins in control may hold: enough for 4 streams of 4 MiB.
const ORIGIN_BLOCK_BYTES: usize = 16 * 1024 * 1024;
/// How often answers to HTTP clients are counted while the agent waits for their end.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long sessions and sockets may take to close after the shards have.
const RUNTIME_STOP: Duration = Duration::from_secs(1);
/// The host's secret, in the data directory.
const KEY_FILE: &str = "host.key";

/// A running node agent.
///
/// Starting, stopping and dropping block: call them outside of an async runtime, or on its blocking threads.
#[derive(Debug)]
pub struct Agent {
    /// `None` once stopped.
    running: Option<Live>,
    facts: Arc<AgentFacts>,
    api: Arc<LocalApi>,
    pulse: Pulse,
    socket: Option<PathBuf>,
    drain: Duration,
}

#[derive(Debug)]
struct Live {
    runtime: Runtime,
    shards: Shards,
}

impl Agent {
    /// Starts an agent. When this returns, its ports and its socket answer.
    ///
    /// # Errors
    /// The configuration, the data directory, a port or the engine: see [`StartError`]. Nothing is left running.
    pub fn start(config: AgentConfig) -> Result<Self, StartError> {
        check(&config)?;
        prepare_directory(&config.data_dir)?;
        let key = Arc::new(host_key(&config.data_dir.join(KEY_FILE))?);
        let runtime = runtime()?;
        let (events, shard_events) = mpsc::channel(EVENT_QUEUE_MAX);
        let (requests, http_requests) = mpsc::channel(HTTP_QUEUE_MAX);
        let shards = shard::start(&config, Arc::clone(&key), &events, &requests)?;
        // The shards alone hold the queues, which end with them.
        drop((events, requests));
        let live = Live { runtime, shards };
        let pulse = Pulse { shards: live.shards.counters.clone(), director: Arc::default() };
        match assemble(&config, &key, &live, shard_events, http_requests, &pulse) {
            Ok((facts, api)) => {
                Ok(Self { running: Some(live), facts, api, pulse, socket: config.socket, drain: config.drain })
            }
            Err(error) => {
                live.stop();
                Err(error)
            }
        }
    }

    /// Where peers connect; `None` when this agent serves none.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.facts.peer_address
    }

    /// Where /healthz and /metrics answer.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.facts.http_address
    }

    /// The command line's socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Which engine runs, and why.
    #[must_use]
    pub fn engine(&self) -> (&'static str, &str) {
        (self.facts.detection.kind.name(), &self.facts.detection.reason)
    }

    /// Signs of life of this agent's threads.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// A connection to this agent's local API without a path: for the process that the agent lives in.
    ///
    /// # Errors
    /// No descriptor is left, or the agent was stopped.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let Some(live) = &self.running else { return Err(io::ErrorKind::NotConnected.into()) };
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let _entered = live.runtime.enter();
        let stream = tokio::net::UnixStream::from_std(ours)?;
        live.runtime.spawn(Arc::clone(&self.api).connection(stream));
        Ok(theirs)
    }

    /// Takes nothing new, lets running gets end (as long as the configured drain time), closes everything.
    pub fn stop(mut self) {
        self.finish(self.drain);
    }

    fn finish(&mut self, drain: Duration) {
        let Some(live) = self.running.take() else { return };
        if !drain.is_zero() {
            let (reply, drained) = oneshot::channel();
            let asks = self.facts.asks.clone();
            // Patience ends: whoever still waits is cut off.
            let drained = async {
                asks.send(Ask::Drain { reply }).await.ok();
                drained.await.ok();
                while self.facts.sum(|shard| &shard.http_requests) > 0 {
                    tokio::time::sleep(DRAIN_POLL).await;
                }
            };
            // Within the runtime: a timeout needs its clock from the start.
            let _ = live.runtime.block_on(async { tokio::time::timeout(drain, drained).await });
        }
        live.stop();
        if let Some(path) = &self.socket {
            // Gone already is as good.
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.finish(Duration::ZERO);
    }
}

impl Live {
    fn stop(self) {
        let Self { runtime, shards } = self;
        runtime.block_on(async {
            for handle in &shards.handles {
                handle.send(ShardCommand::Stop).await;
            }
        });
        for thread in shards.threads {
            if thread.join().is_err() {
                tracing::error!("a shard had panicked");
            }
        }
        runtime.shutdown_timeout(RUNTIME_STOP);
    }
}

/// Refuses what would be unsafe or useless before anything is opened.
fn check(config: &AgentConfig) -> Result<(), StartError> {
    let reason = |reason: &str| Err(StartError::Config { reason: reason.to_owned() });
    if config.scheduler.is_some() && config.peer_port.is_none() {
        return reason("an agent with a scheduler needs a peer port: other agents fetch from it");
    }
    if config.peer_port.is_some() && config.advertise.is_unspecified() {
        return reason("--advertise must be an address that other agents can reach, not 0.0.0.0 or ::");
    }
    let is_open = config.peer_port.is_some() && !config.advertise.is_loopback();
    if is_open && config.cluster_key.is_none() && !config.is_insecure_allowed {
        let address = SocketAddr::new(config.advertise, config.peer_port.unwrap_or(0));
        return Err(StartError::NeedsClusterKey { address });
    }
    Ok(())
}

/// Before a key is read from it, or written to it: it must be nobody else's.
fn prepare_directory(path: &Path) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(|error| StartError::DataDir { path: path.to_owned(), error })?;
    hawker_storage::check_data_dir(path).map_err(StartError::Store)
}

/// The host's key: drawn once, kept for good, read by nobody else.
fn host_key(path: &Path) -> Result<HostKey, StartError> {
    let failed = |error| StartError::HostKey { path: path.to_owned(), error };
    match fs::read(path) {
        Ok(bytes) => {
            let seed = <[u8; 32]>::try_from(bytes.as_slice())
                .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "it must hold exactly 32 bytes")))?;
            Ok(HostKey::from_seed(seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let seed = random().map_err(failed)?;
            write_key(path, &seed).map_err(failed)?;
            Ok(HostKey::from_seed(seed))
        }
        Err(error) => Err(failed(error)),
    }
}

fn write_key(path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    // Whole or not at all: half a key would lock the agent out of its own data directory.
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(seed)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

fn runtime() -> Result<Runtime, StartError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(CONTROL_THREADS_MAX))
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| StartError::Io { what: "start the control threads", error })
}

/// Opens the control half around running shards and sets it going.
fn assemble(
    config: &AgentConfig,
    key: &Arc<HostKey>,
    live: &Live,
    shard_events: mpsc::Receiver<ShardEvent>,
    http_requests: mpsc::Receiver<HttpRequest>,
    pulse: &Pulse,
) -> Result<(Arc<AgentFacts>, Arc<LocalApi>), StartError> {
    let _entered = live.runtime.enter();
    let io = |what| move |error| StartError::Io { what, error };
    let shards = &live.shards;
    let socket = config.socket.as_deref().map(listen_socket).transpose()?;
    let trusts = mirror::trusts(&config.mirror).map_err(|reason| StartError::Config { reason })?;

    let (asks, ask_queue) = mpsc::channel(ASK_QUEUE_MAX);
    let (links, link_events) = mpsc::channel(INBOX_MAX);
    let own_facts = Arc::new(LinkFacts::default());
    let host = HostInfo {
        id: key.host_id(),
        key: key.public(),
        address: shards.peer_address.unwrap_or_else(|| SocketAddr::new(config.advertise, 1)),
        labels: Vec::new(),
        is_seed: true,
        link_bytes_per_s: link_bytes_per_s(config),
    };
    let own_seed = random().map_err(io("draw a key"))?;
    let own = LocalScheduler::new(own_seed, host, &own_facts);
    let own_key = own.public_key();
    let (own_outbox, own_inbox) = mpsc::channel(OUTBOX_MAX);
    live.runtime.spawn(own.run(own_inbox, links.clone()));
    let cluster = open_session(config, key, live, links);

    let limits = SlabLimits { bytes_max: ORIGIN_BLOCK_BYTES, reserve_blocks: 0 };
    let slab = Slab::new(limits, Arc::clone(&shards.budget)).map_err(io("reserve block memory"))?;
    let scheduler_url = config.scheduler.clone().unwrap_or_default();
    let transports = Transports::new(trusts);
    let tags = TagBook::new(key.host_id(), cluster.clone());
    let mirror = open_mirror(config, key.host_id(), live, &transports, &asks, &tags);
    let facts = Arc::new(AgentFacts {
        host: key.host_id(),
        detection: shards.detection.clone(),
        counters: shards.counters.clone(),
        budget: Arc::clone(&shards.budget),
        peer_address: shards.peer_address,
        http_address: shards.http_address,
        cluster: cluster.clone(),
        scheduler_url,
        data_dir: config.data_dir.clone(),
        started: Instant::now(),
        restarts: config.restarts,
        asks,
    });
    let parts = Parts {
        host: key.host_id(),
        key: Arc::clone(key),
        cluster_key: config.cluster_key.clone(),
        write: config.write,
        has_peers: config.scheduler.is_some(),
        limits: shards.limits,
        shards: shards.handles.clone(),
        client: OriginClient::new(transports),
        blocks: BlockSource::new(slab, Arc::clone(&shards.rates)),
        tags,
        cluster,
        own: Outbox::new(own_outbox, own_facts),
        own_key,
    };
    let queues = Queues { asks: ask_queue, shards: shard_events, links: link_events };
    live.runtime.spawn(director::run(parts, queues, Arc::clone(&pulse.director)));
    let api = LocalApi::new(Arc::clone(&facts), mirror.tags().clone(), shards.limits.commands);
    live.runtime.spawn(http::serve(http_requests, shards.handles.clone(), Arc::clone(&facts), mirror));
    if let Some(listener) = socket {
        live.runtime.spawn(Arc::clone(&api).serve(listener));
    }
    Ok((facts, api))
}

fn open_mirror(
    config: &AgentConfig,
    host: HostId,
    live: &Live,
    transports: &Transports,
    asks: &mpsc::Sender<Ask>,
    tags: &TagBook,
) -> Arc<Mirror> {
    let (transports, asks, book) = (transports.clone(), asks.clone(), tags.clone());
    let parts = MirrorParts { host, transports, asks, shards: live.shards.handles.clone(), book };
    Mirror::new(&config.mirror, &config.data_dir, parts)
}

/// The session with the configured scheduler, if one is.
fn open_session(
    config: &AgentConfig,
    key: &Arc<HostKey>,
    live: &Live,
    links: mpsc::Sender<crate::control::link::LinkEvent>,
) -> Option<Outbox> {
    let (url, peer_address) = config.scheduler.clone().zip(live.shards.peer_address)?;
    let facts = Arc::new(LinkFacts::default());
    facts.disconnected("no session yet".to_owned());
    let session = SessionConfig {
        url,
        key: Arc::clone(key),
        cluster: config.cluster_key.clone(),
        peer_address,
        labels: config.labels.clone(),
        is_seed: config.is_seed,
        link_bytes_per_s: link_bytes_per_s(config),
    };
    let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
    live.runtime.spawn(scheduler_link::run(session, inbox, links, Arc::clone(&facts)));
    Some(Outbox::new(outbox, facts))
}

/// What the host can give and take: its limits when it has some; else unknown, since a NIC's nominal speed says
/// little in a container.
fn link_bytes_per_s(config: &AgentConfig) -> u64 {
    config.rates.up.into_iter().chain(config.rates.down).min().unwrap_or(0)
}

fn listen_socket(path: &Path) -> Result<tokio::net::UnixListener, StartError> {
    local_api::listen(path)
        .and_then(tokio::net::UnixListener::from_std)
        .map_err(|error| StartError::Socket { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn config() -> AgentConfig {
        crate::embedded::embedded_config(Path::new("/nonexistent"))
    }

    #[test]
    fn listener_beyond_loopback_needs_a_cluster_key() {
        let open = AgentConfig {
            advertise: "192.0.2.1".parse().unwrap(),
            peer_port: Some(0),
            is_insecure_allowed: false,
            ..config()
        };
        assert!(matches!(check(&open), Err(StartError::NeedsClusterKey { .. })));
        assert!(check(&AgentConfig { is_insecure_allowed: true, ..open.clone() }).is_ok());
        assert!(check(&AgentConfig { advertise: "127.0.0.1".parse().unwrap(), ..open.clone() }).is_ok());
        assert!(check(&AgentConfig { peer_port: None, ..open }).is_ok());
    }

    #[test]
    fn agent_with_a_scheduler_needs_a_peer_port() {
        let mute = AgentConfig { scheduler: Some("http://127.0.0.1:1".to_owned()), ..config() };
        assert!(matches!(check(&mute), Err(StartError::Config { .. })));
    }

    #[test]
    fn host_key_is_drawn_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let first = host_key(&path).unwrap();
        assert_eq!(host_key(&path).unwrap().seed(), first.seed());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(matches!(host_key(&path), Err(StartError::HostKey { .. })));
    }
}
