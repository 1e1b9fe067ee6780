//! How to reach an agent: at a socket, or inside this process.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hawker_agent::Agent;

use super::connection::Connection;
use crate::exit::{Exit, Failure};

/// The way to one agent; it may be gone through again and again.
#[derive(Clone, Debug)]
pub(crate) enum Door<'a> {
    Socket(PathBuf),
    Inside(&'a Agent),
}

impl Door<'_> {
    pub(crate) fn at(socket: &Path) -> Self {
        Self::Socket(socket.to_path_buf())
    }

    pub(crate) fn try_open(&self) -> io::Result<Connection> {
        let stream = match self {
            Self::Socket(path) => UnixStream::connect(path)?,
            Self::Inside(agent) => agent.connect()?,
        };
        Ok(Connection::new(stream))
    }

    pub(crate) fn open(&self) -> Result<Connection, Failure> {
        self.try_open().map_err(|error| {
            Failure::new(Exit::AgentUnreachable, format!("no agent answers at {self}: {error}"))
                .hint("start one with `hawker agent` or `hawker up`, or name its socket with --socket")
        })
    }

    pub(crate) fn lost(&self, why: &str) -> Failure {
        Failure::new(Exit::AgentUnreachable, format!("lost the agent at {self}: {why}"))
            .hint("see its log; run the command again when it is back")
    }
}

impl fmt::Display for Door<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Inside(_) => f.write_str("this process"),
        }
    }
}
