//! Commands that ask an agent what it has: `status`, `ls`, `stat`, `rm`.

use std::path::PathBuf;

use clap::Args;

/// Which agent, and in what form.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// Socket of the agent (default: /run/hawker/agent.sock as root, else $XDG_RUNTIME_DIR/hawker/agent.sock)
    #[arg(long, env = "HAWKER_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the agent: engine and why, scheduler, neighbors, bytes by source, disk
#[derive(Args, Debug)]
#[command(long_about = "\
Shows what the agent of this host does: which engine drives it and why, whether it reaches its scheduler, running \
downloads, neighbors, bytes by source (origin, peers, cache), disk and memory.

JSON keys: engine, engine_reason, scheduler, guard {restarts}, tasks[], neighbors, bytes {origin, peer, cache, uploaded}, disk {used, limit}, \
memory.")]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) target: Target,
}

/// List what the agent has or downloads
#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Show one task of the agent
#[derive(Args, Debug)]
pub(crate) struct StatArguments {
    /// Task id, as `hawker ls` shows it; the first 6 digits are enough when they name one task
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Remove a task from the agent's disk
#[derive(Args, Debug)]
#[command(long_about = "\
Removes a task from the agent's disk. Files that `hawker get` wrote stay as they are. A task that is being downloaded or \
sent cannot be removed; the agent says so.")]
pub(crate) struct RemoveArguments {
    /// Task id, as `hawker ls` shows it; the first 6 digits are enough when they name one task
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) target: Target,
}
