//! A scheduler, a parent that holds the file, and children that come and go: one cluster an engine, so that no child
//! finds a parent of the other engine.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hawker_ring::EngineKind;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::Deserialize;

use super::agent::AgentOrder;
use super::origin::Origin;
use crate::Options;
use crate::content::{Content, heat};
use crate::error::BenchError;
use crate::measure::ProcessCpu;
use crate::options::WriteMode;
use crate::process::{Process, Scratch, hawker};
use crate::worker::Order;

/// On two loaded cores an agent starts within a second.
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// As `hawker get` takes it: a run that hangs is a failure with a message.
const GET_TIMEOUT: &str = "300s";

/// One engine's cluster.
pub(super) struct Cluster<'a> {
    pub(super) engine: EngineKind,
    options: &'a Options,
    directory: &'a Scratch,
    origin: &'a Origin,
    content: &'a Content,
    cluster_key: String,
    scheduler: String,
    scheduler_port: u16,
    /// Before the scheduler, so that it ends first: an agent complains of a scheduler that has gone.
    pub(super) parent: Node,
    _scheduler: Process,
    /// The parent's file, for its pages, and what `get` said of it.
    parent_file: PathBuf,
    digest: String,
    children: u32,
}

/// An agent of a cluster.
pub(super) struct Node {
    pub(super) process: Process,
    socket: PathBuf,
    directory: PathBuf,
    pub(super) port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        // The process may still hold the files, which are gone from the disk when it has ended too.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What `hawker get --json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Said {
    bytes: u64,
    origin_bytes: u64,
    peer_bytes: u64,
    digest: String,
}

impl<'a> Cluster<'a> {
    /// Starts scheduler and parent, and has the parent get the file.
    pub(super) fn start(
        engine: EngineKind,
        options: &'a Options,
        directory: &'a Scratch,
        (origin, content): (&'a Origin, &'a Content),
    ) -> Result<Self, BenchError> {
        let home = directory.subdirectory(&format!("cluster-{}", engine.name()))?;
        let cluster_key = draw_key()?;
        let mut command = hawker(options);
        command.args(["scheduler", "--listen", "127.0.0.1:0", "--with-parent", "--data-dir"]).arg(&home);
        command.env("HAWKER_CLUSTER_KEY_TEXT", &cluster_key);
        let (scheduler_process, line) = Process::start("scheduler", command)?;
        let address: std::net::SocketAddr = line
            .split_whitespace()
            .find_map(|word| word.parse().ok())
            .ok_or_else(|| BenchError::Process(format!("the scheduler did not say where it listens: {line}")))?;
        let scheduler = format!("http://{address}");
        let order = |directory: &Path, socket: &Path| AgentOrder {
            engine: engine.name().to_owned(),
            write: WriteMode::Buffered,
            data_dir: directory.join("data"),
            socket: socket.to_owned(),
            scheduler: scheduler.clone(),
            cluster_key: cluster_key.clone(),
            may_dial: None,
        };
        let parent = Node::start(options, directory, &format!("{}-parent", engine.name()), order)?;
        let mut cluster = Self {
            engine,
            options,
            directory,
            origin,
            content,
            scheduler,
            scheduler_port: address.port(),
            _scheduler: scheduler_process,
            parent_file: parent.directory.join("file"),
            parent,
            cluster_key,
            digest: String::new(),
            children: 0,
        };
        cluster.digest = Get::start(&cluster, &cluster.parent)?.end()?.said.digest;
        Ok(cluster)
    }

    /// A fresh agent without a task. With `only`, it can reach no other agent than that one.
    pub(super) fn child(&mut self, write: WriteMode, only: Option<&Node>) -> Result<Node, BenchError> {
        self.children += 1;
        let name = format!("{}-child-{}", self.engine.name(), self.children);
        let may_dial = only.map(|node| vec![self.scheduler_port, self.origin.port(), node.port]);
        Node::start(self.options, self.directory, &name, |directory, socket| AgentOrder {
            engine: self.engine.name().to_owned(),
            write,
            data_dir: directory.join("data"),
            socket: socket.to_owned(),
            scheduler: self.scheduler.clone(),
            cluster_key: self.cluster_key.clone(),
            may_dial,
        })
    }

    /// Puts the parent's file into the page cache, should it have left.
    pub(super) fn heat_parent(&self) -> Result<(), BenchError> {
        heat(&self.parent_file, self.content.bytes())
    }
}

impl Node {
    /// Starts an agent and waits until its scheduler knows it.
    fn start(
        options: &Options,
        scratch: &Scratch,
        name: &str,
        order: impl FnOnce(&Path, &Path) -> AgentOrder,
    ) -> Result<Self, BenchError> {
        let directory = scratch.subdirectory(name)?;
        let socket = directory.join("socket");
        let (process, line) = Process::worker(options, &Order::Agent(order(&directory, &socket)))?;
        let address: std::net::SocketAddr =
            line.parse().map_err(|_| BenchError::Process(format!("an agent did not say where it listens: {line}")))?;
        let node = Self { process, socket, directory, port: address.port() };
        node.wait_for_scheduler(options)?;
        Ok(node)
    }

    fn wait_for_scheduler(&self, options: &Options) -> Result<(), BenchError> {
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            let mut command = hawker(options);
            command.args(["status", "--json", "--socket"]).arg(&self.socket).stderr(Stdio::null());
            let output = command.output().map_err(BenchError::io("ask an agent how it is"))?;
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if status["scheduler"]["is_connected"] == true {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(BenchError::Process("an agent did not find its scheduler".to_owned()))
    }

    pub(super) fn cpu(&self) -> Result<ProcessCpu, BenchError> {
        ProcessCpu::of(self.process.id()).map_err(self.process.gone())
    }
}

/// A `hawker get` that runs.
pub(super) struct Get<'a> {
    child: Child,
    output: PathBuf,
    content: &'a Content,
    origin_bytes_before: u64,
    origin: &'a Origin,
}

/// A `hawker get` that has ended well.
pub(super) struct Got {
    said: Said,
    output: PathBuf,
    pub(super) cpu_s: f64,
    origin_bytes: u64,
}

impl<'a> Get<'a> {
    /// Has `node` get the content, with a link to it as the outcome: its bytes are written once.
    pub(super) fn start(cluster: &Cluster<'a>, node: &Node) -> Result<Self, BenchError> {
        let output = node.directory.join("file");
        let mut command: Command = hawker(cluster.options);
        command.arg("get").arg(cluster.origin.url()).arg("--output").arg(&output);
        command.args(["--link", "--json", "--timeout", GET_TIMEOUT, "--socket"]).arg(&node.socket);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let origin_bytes_before = cluster.origin.bytes_sent();
        let child = command.spawn().map_err(BenchError::io("start hawker get"))?;
        Ok(Self { child, output, content: cluster.content, origin_bytes_before, origin: cluster.origin })
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> Result<Got, BenchError> {
        // Its CPU time can be read until somebody waits for it, so this only looks.
        let pid = Pid::from_child(&self.child);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            .map_err(|error| BenchError::Io { what: "wait for hawker get", error: error.into() })?;
        let cpu = ProcessCpu::of(self.child.id()).map_err(BenchError::io("read the CPU time of hawker get"))?;
        let mut text = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut text).map_err(BenchError::io("read what hawker get says"))?;
        }
        let status = self.child.wait().map_err(BenchError::io("wait for hawker get"))?;
        if !status.success() {
            return Err(BenchError::Process(format!("hawker get failed: {status}")));
        }
        let said: Said = serde_json::from_str(&text)
            .map_err(|error| BenchError::Process(format!("hawker get said something else than expected: {error}")))?;
        if said.bytes != self.content.bytes() {
            return Err(BenchError::Invalid(format!("hawker get got {} bytes", said.bytes)));
        }
        let origin_bytes = self.origin.bytes_sent() - self.origin_bytes_before;
        Ok(Got { said, output: self.output, cpu_s: cpu.seconds_since(&ProcessCpu::default()), origin_bytes })
    }
}

impl Got {
    /// Whether the child has the parent's content and had it from its peers alone; else the figures are of something
    /// else than their name says.
    pub(super) fn check(&self, cluster: &Cluster<'_>, is_compared: bool) -> Result<(), BenchError> {
        let Said { origin_bytes, peer_bytes, digest, .. } = &self.said;
        if *digest != cluster.digest {
            return Err(BenchError::Invalid(format!("a child has {digest}, its parent {}", cluster.digest)));
        }
        if *origin_bytes + self.origin_bytes > 0 || *peer_bytes < cluster.content.bytes() {
            return Err(BenchError::Invalid(format!(
                "a child had {peer_bytes} bytes from peers and {origin_bytes} from the origin, which sent {}",
                self.origin_bytes
            )));
        }
        if is_compared && !cluster.content.is_equal_to(&self.output)? {
            return Err(BenchError::Invalid("a child's file differs from the content".to_owned()));
        }
        Ok(())
    }
}

/// A cluster key of this bench alone.
fn draw_key() -> Result<String, BenchError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| BenchError::Host(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
