//! The daemon around the scheduler: one port that speaks gRPC (sessions, health, reflection) and HTTP/1.1
//! (`/healthz`, `/metrics`).
//!
//! One tokio task owns the [`Cluster`](hawker_scheduler::Cluster); sessions feed it through a bounded queue and hear
//! from it through bounded queues of their own, so that neither a flood nor an agent that does not read can grow it.
//! Its key and epoch are on disk; everything else is learned from agents again after a restart.

mod accept;
mod convert;
mod core;
mod http;
mod identity;
mod session;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hawker_proto::{ClusterKey, PublicKey};
use hawker_scheduler::ClusterConfig;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::accept::Room;
use crate::core::Core;
use crate::identity::Identity;

/// Open streams are told to end at shutdown; whoever does not read that is cut off after this.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// How to run a scheduler.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen, gRPC and HTTP alike. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Holds the signing key and the epoch; made when missing.
    pub data_dir: PathBuf,
    /// Proves membership. Without one only a loopback listener starts, unless `is_insecure`.
    pub cluster_key: Option<ClusterKey>,
    /// The operator said that anybody may join.
    pub is_insecure: bool,
    /// Opens `/metrics` and reflection to callers that are not on this machine.
    pub bearer_token: Option<String>,
    /// How the cluster decides.
    pub cluster: ClusterConfig,
}

impl ServerConfig {
    /// A scheduler on `listen` with everything else as most want it.
    #[must_use]
    pub fn new(listen: SocketAddr, data_dir: PathBuf) -> Self {
        Self {
            listen,
            data_dir,
            cluster_key: None,
            is_insecure: false,
            bearer_token: None,
            cluster: ClusterConfig::default(),
        }
    }
}

/// Why a scheduler does not start, or stopped.
#[derive(Debug)]
pub enum ServerError {
    /// The listener is reachable from elsewhere and nobody need prove anything: the operator's to decide.
    NoClusterKey(SocketAddr),
    /// The address is taken, or not ours.
    Listen(SocketAddr, io::Error),
    /// Key or epoch cannot be read or written, or another scheduler uses the directory.
    DataDir(PathBuf, io::Error),
    /// The system gives no random bytes.
    Random(io::Error),
    /// The process may open too few files: the operator's to change.
    Descriptors(u64),
    /// Serving ended with an error.
    Serve(tonic::transport::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClusterKey(listen) => write!(
                f,
                "{listen} can be reached from other machines, and there is no cluster key: give one with --cluster-key \
                 FILE, listen on 127.0.0.1, or say --insecure"
            ),
            Self::Listen(listen, error) => write!(f, "cannot listen on {listen}: {error}"),
            Self::DataDir(path, error) => write!(f, "cannot use the data directory {}: {error}", path.display()),
            Self::Random(error) => write!(f, "the system gives no random bytes: {error}"),
            Self::Descriptors(limit) => write!(
                f,
                "this process may open {limit} files, and a scheduler needs {}: raise the limit (ulimit -n, \
                 LimitNOFILE= in a systemd unit)",
                accept::DESCRIPTORS_MIN
            ),
            Self::Serve(error) => write!(f, "serving failed: {error}"),
        }
    }
}

impl std::error::Error for ServerError {}

/// A scheduler that listens but does not serve yet.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    address: SocketAddr,
    identity: Identity,
    room: Room,
}

impl Server {
    /// Opens the data directory, raises the epoch and listens.
    ///
    /// # Errors
    /// Every [`ServerError`] but `Serve`.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let is_open = config.cluster_key.is_none() && !config.is_insecure;
        if is_open && !config.listen.ip().is_loopback() {
            return Err(ServerError::NoClusterKey(config.listen));
        }
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = Room::of(descriptors).ok_or(ServerError::Descriptors(descriptors))?;
        let listen_error = |error| ServerError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let identity = identity::open(&config.data_dir)?;
        Ok(Self { config, listener, address, identity, room })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its leases are checked with.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.identity.key.public()
    }

    /// Which life this is.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.identity.epoch
    }

    /// Serves until `shutdown` resolves, then ends all streams. Agents go on with what they have.
    ///
    /// # Errors
    /// [`ServerError::Random`], [`ServerError::Serve`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { config, listener, address, identity, room } = self;
        let (stop, stopping) = watch::channel(false);
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| ServerError::Random(io::Error::other(error)))?;
        let core = Core::start(&config, &identity, u64::from_le_bytes(seed), stopping.clone());
        let service = session::SchedulerService::new(&config, &identity, core.clone(), stopping.clone());
        tracing::info!(%address, epoch = identity.epoch, key = %identity.key.public(), "scheduler listens");
        let serving = http::serve(listener, room, service, core, config.bearer_token.clone(), stopping);
        tokio::pin!(serving);
        tokio::select! {
            result = &mut serving => return result,
            () = shutdown => {}
        }
        // Nobody listens any more only when serving has ended.
        let _ = stop.send(true);
        match tokio::time::timeout(SHUTDOWN_WAIT, serving).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!("some connections did not close in time and were cut off");
                Ok(())
            }
        }
    }
}

/// Binds and serves: see [`Server`].
///
/// # Errors
/// [`ServerError`].
pub async fn run(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
    Server::bind(config).await?.run(shutdown).await
}
