//! Why an agent does not start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why an agent did not start. Nothing is left running.
#[derive(Debug)]
pub enum StartError {
    /// A value of the configuration makes no sense: the user's fault.
    Config {
        /// What, and what to do about it.
        reason: String,
    },
    /// A listener beyond loopback without a cluster key.
    NeedsClusterKey {
        /// Which listener.
        address: SocketAddr,
    },
    /// The engine that was asked for cannot run here.
    Engine {
        /// Why.
        reason: String,
    },
    /// The data directory cannot be used.
    Store(hawker_storage::OpenError),
    /// The data directory cannot be made.
    DataDir {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The host's key in the data directory cannot be read or written.
    HostKey {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A port cannot be had.
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The local socket cannot be had.
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The process may open too few files.
    Descriptors {
        /// So many.
        limit: u64,
        /// So many it needs to work at all.
        needed: u64,
    },
    /// The system refused something else.
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { reason } => f.write_str(reason),
            Self::NeedsClusterKey { address } => write!(
                f,
                "{address} can be reached from other machines: give all hosts the same --cluster-key FILE, \
                 or say --insecure if everybody on this network may join"
            ),
            Self::Engine { reason } => write!(f, "this I/O engine cannot run here: {reason}"),
            Self::Store(error) => error.fmt(f),
            Self::DataDir { path, error } => {
                write!(f, "cannot create data directory {}: {error}; choose another with --data-dir", path.display())
            }
            Self::HostKey { path, error } => write!(f, "cannot use the host key {}: {error}", path.display()),
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Socket { path, error } => write!(f, "cannot listen on socket {}: {error}", path.display()),
            Self::Descriptors { limit, needed } => write!(
                f,
                "this process may open {limit} files, and an agent needs {needed}, better 16384: raise the limit \
                 (ulimit -n, LimitNOFILE= in a systemd unit)"
            ),
            Self::Io { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::DataDir { error, .. }
            | Self::HostKey { error, .. }
            | Self::Listen { error, .. }
            | Self::Socket { error, .. }
            | Self::Io { error, .. } => Some(error),
            Self::Config { .. } | Self::NeedsClusterKey { .. } | Self::Engine { .. } | Self::Descriptors { .. } => None,
        }
    }
}
