//! Processes and directories of a bench: gone with the value that names them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use hawker_ring::SocketOptions;

use crate::error::BenchError;
use crate::worker::Order;
use crate::{Options, WORKER_COMMAND};

/// What every bench socket on loopback uses: as the agent does there, and the same for every rival.
const CONGESTION: &str = "cubic";

/// The options of an agent's socket on loopback.
pub(crate) fn socket_options() -> SocketOptions {
    SocketOptions { congestion: Some(Arc::from(CONGESTION)), ..SocketOptions::default() }
}

/// A directory of this process's own, removed with this value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn create(parent: &Path) -> Result<Self, BenchError> {
        let suffix = getrandom::u32().map_err(|error| BenchError::Host(format!("no random numbers: {error}")))?;
        let path = parent.join(format!("hawker-bench-{suffix:08x}"));
        std::fs::create_dir(&path).map_err(BenchError::io("create a directory for the bench"))?;
        // Sockets' paths and processes of other working directories need the whole path.
        let path = path.canonicalize().map_err(BenchError::io("find the bench's directory"))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A directory inside, made when it is not there.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf, BenchError> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).map_err(BenchError::io("create a directory for a process of the bench"))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the user, who sees it where the bench was told to work.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of the bench, killed with this value. Its standard error is ours, so its failures are seen.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// A worker ends when this closes, so that none outlives a bench that was killed.
    _stdin: ChildStdin,
}

impl Process {
    /// Starts a worker and waits for its first line: it is ready then.
    pub(crate) fn worker(options: &Options, order: &Order) -> Result<(Self, String), BenchError> {
        let text = serde_json::to_string(order).map_err(|error| BenchError::Process(error.to_string()))?;
        let mut command = hawker(options);
        command.args([WORKER_COMMAND, &text]);
        Self::start(order.name(), command)
    }

    /// Starts a process that says one line when it is ready.
    pub(crate) fn start(name: &str, mut command: Command) -> Result<(Self, String), BenchError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(BenchError::io("start a process of the bench"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked to be pipes")
        };
        let mut process = Self { name: name.to_owned(), child, stdout: BufReader::new(stdout), _stdin: stdin };
        let mut line = String::new();
        // A process that fails closes its end, so this does not wait for ever.
        process.stdout.read_line(&mut line).map_err(BenchError::io("hear from a process of the bench"))?;
        if line.is_empty() {
            return Err(BenchError::Process(format!("the bench's {name} ended before it was ready")));
        }
        Ok((process, line.trim_end().to_owned()))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What a failed look at this process means.
    pub(crate) fn gone(&self) -> impl Fn(std::io::Error) -> BenchError {
        let name = self.name.clone();
        move |error| BenchError::Process(format!("the bench's {name} is gone: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already; it holds nothing that anybody needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary in an environment without settings that are meant for the user's own agent.
pub(crate) fn hawker(options: &Options) -> Command {
    let mut command = Command::new(&options.program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HAWKER_")) {
        command.env_remove(name);
    }
    // A server's progress is no business of a bench's reader.
    command.env("HAWKER_LOG", std::env::var_os("HAWKER_LOG").unwrap_or_else(|| "warn".into()));
    command
}
