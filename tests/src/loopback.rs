//! A scheduler, agents and nginx on loopback: for tests that need no shaped links, only peers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hawker_proto::TaskId;
use serde_json::Value;

use crate::cluster::{ask, clean};
use crate::nginx::{Behaviour, Nginx};
use crate::process::{Ended, Process, Scratch};
use crate::{files, free_address, workspace};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// The cluster key of every such cluster.
pub const CLUSTER_KEY: [u8; 32] = [0xab; 32];

/// Processes on loopback that trust each other. Agents are named by their number, from 0.
#[derive(Debug)]
pub struct Loopback {
    // Dropped in this order.
    agents: Vec<Process>,
    _scheduler: Process,
    scheduler_address: SocketAddr,
    nginx: Nginx,
    scratch: Scratch,
}

impl Loopback {
    /// Starts everything and waits until all agents have their scheduler. Callers ask for nginx first.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start(engine: &str, agents: usize) -> Self {
        let scratch = Scratch::new();
        let root = scratch.join("root");
        std::fs::create_dir(&root).expect("room");
        let key = scratch.join("cluster.key");
        crate::cluster::write_cluster_key(&key);
        let nginx = Nginx::start(&scratch, free_address(), &root, Behaviour::default(), None);
        let scheduler_address = free_address();
        let mut command = Command::new(workspace::hawker());
        command.arg("scheduler").args(["--listen", &scheduler_address.to_string()]);
        command.arg("--data-dir").arg(scratch.join("scheduler")).arg("--cluster-key").arg(&key);
        clean(&mut command);
        let mut scheduler = Process::start(scratch.path(), "scheduler", command);
        scheduler.wait_until(READY_WITHIN, "listening", || std::net::TcpStream::connect(scheduler_address).is_ok());
        let mut cluster = Self { agents: Vec::new(), _scheduler: scheduler, scheduler_address, nginx, scratch };
        for _ in 0..agents {
            cluster.start_agent(engine);
        }
        for index in 0..agents {
            cluster.wait_until_connected(index);
        }
        cluster
    }

    fn start_agent(&mut self, engine: &str) {
        let index = self.agents.len();
        let mut command = Command::new(workspace::hawker());
        command.arg("agent").args(["--scheduler", &format!("http://{}", self.scheduler_address)]);
        command.args(["--peer-port", "0", "--http-port", "0", "--engine", engine, "--limit-disk", "8GiB"]);
        command.arg("--data-dir").arg(self.data_dir(index)).arg("--socket").arg(self.socket(index));
        command.arg("--cluster-key").arg(self.scratch.join("cluster.key"));
        clean(&mut command);
        // Who closed which link, and why: the test's answer to "how often".
        command.env("RUST_LOG", "info,hawker_agent=debug");
        self.agents.push(Process::start(self.scratch.path(), &format!("agent-{index}"), command));
    }

    fn wait_until_connected(&mut self, index: usize) {
        let socket = self.socket(index);
        self.agents[index].wait_until(READY_WITHIN, "connected to its scheduler", || {
            ask(&socket, &["status"]).is_some_and(|status| status["scheduler"]["is_connected"] == true)
        });
    }

    /// Where the scheduler listens.
    #[must_use]
    pub fn scheduler(&self) -> SocketAddr {
        self.scheduler_address
    }

    /// The origin.
    #[must_use]
    pub fn nginx(&self) -> &Nginx {
        &self.nginx
    }

    /// Where an agent keeps its tasks.
    #[must_use]
    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.scratch.join(&format!("data-{index}"))
    }

    /// Puts content on the origin.
    ///
    /// # Panics
    /// When there is no room.
    pub fn publish(&self, name: &str, content: &[u8]) {
        std::fs::write(self.scratch.join("root").join(name), content).expect("room on the origin");
    }

    /// Starts a download by an agent. Its output goes to [`Self::output`].
    #[must_use]
    pub fn start_get(&self, index: usize, name: &str, content: &[u8]) -> Process {
        let digest = format!("sha256:{}", files::sha256_bytes(content));
        let mut command = Command::new(workspace::hawker());
        command.args(["get", &self.nginx.url(name), "--json", "--digest", &digest, "-o"]);
        command.arg(self.output(index, name)).arg("--socket").arg(self.socket(index));
        clean(&mut command);
        // A file may be asked for again, and each answer is one of its own.
        static GETS: AtomicU32 = AtomicU32::new(0);
        let number = GETS.fetch_add(1, Ordering::Relaxed);
        Process::start(self.scratch.path(), &format!("get-{index}-{name}-{number}"), command)
    }

    /// Downloads by an agent and compares.
    ///
    /// # Panics
    /// When the download does not end within `limit`, or with anything but `content`.
    pub fn get(&self, index: usize, name: &str, content: &[u8], limit: Duration) -> Value {
        self.assert_right(index, name, content, &self.start_get(index, name, content).wait(limit))
    }

    /// What a download that has ended reports.
    ///
    /// # Panics
    /// When it ended with anything but `content`.
    pub fn assert_right(&self, index: usize, name: &str, content: &[u8], ended: &Ended) -> Value {
        assert_eq!(ended.code(), Some(0), "agent {index}, {name}: {}", ended.stderr);
        let output = self.output(index, name);
        let is_right = std::fs::read(&output).expect("an output") == content;
        assert!(is_right, "agent {index}, {name}: wrong bytes in {}", output.display());
        ended.json()
    }

    /// Where [`Self::get`] puts the file.
    #[must_use]
    pub fn output(&self, index: usize, name: &str) -> PathBuf {
        self.scratch.join(&format!("output-{index}-{name}"))
    }

    /// The JSON answer of an agent to a command.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn ask(&self, index: usize, arguments: &[&str]) -> Value {
        ask(&self.socket(index), arguments).unwrap_or_else(|| panic!("agent {index} answers {arguments:?}"))
    }

    /// Takes a task away from an agent.
    ///
    /// # Panics
    /// When the agent does not do it.
    pub fn remove(&self, index: usize, task: TaskId) {
        let _removed = self.ask(index, &["rm", &task.to_string()]);
    }

    /// The process of an agent.
    pub fn agent(&mut self, index: usize) -> &mut Process {
        &mut self.agents[index]
    }

    /// What the scheduler counts, by the name that Prometheus sees.
    ///
    /// # Panics
    /// When it shows no such figure.
    #[must_use]
    pub fn scheduler_count(&self, name: &str) -> u64 {
        let text = http_get(self.scheduler_address, "/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    fn socket(&self, index: usize) -> PathBuf {
        self.scratch.join(&format!("agent-{index}.sock"))
    }
}

/// The body of a plain GET.
fn http_get(address: SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(READY_WITHIN)).expect("a timeout");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("text");
    text
}
