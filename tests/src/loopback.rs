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
use crate::process::{Ended, Process, Scratch, wait_until};
use crate::{files, free_address, http_get, workspace};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// The cluster key of every such cluster.
pub const CLUSTER_KEY: [u8; 32] = [0xab; 32];

/// Processes on loopback that trust each other. Agents are named by their number, from 0.
#[derive(Debug)]
pub struct Loopback {
    // Dropped in this order.
    agents: Vec<Process>,
    scheduler: Process,
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
        Self::start_after(engine, agents, ":", &[])
    }

    /// The same, with a line of shell in a process before it becomes the scheduler or an agent: limits, say. The agents
    /// take theirs in order, as far as they go.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start_after(engine: &str, agents: usize, scheduler_line: &str, agent_lines: &[&str]) -> Self {
        let scratch = Scratch::new();
        let root = scratch.join("root");
        std::fs::create_dir(&root).expect("room");
        let key = scratch.join("cluster.key");
        crate::cluster::write_cluster_key(&key);
        let nginx = Nginx::start(&scratch, free_address(), &root, Behaviour::default(), None);
        let scheduler_address = free_address();
        let mut command = hawker_after(scheduler_line);
        command.arg("scheduler").args(["--listen", &scheduler_address.to_string()]);
        command.arg("--data-dir").arg(scratch.join("scheduler")).arg("--cluster-key").arg(&key);
        clean(&mut command);
        let mut scheduler = Process::start(scratch.path(), "scheduler", command);
        scheduler.wait_until(READY_WITHIN, "listening", || std::net::TcpStream::connect(scheduler_address).is_ok());
        let mut cluster = Self { agents: Vec::new(), scheduler, scheduler_address, nginx, scratch };
        for index in 0..agents {
            cluster.start_agent(engine, agent_lines.get(index).unwrap_or(&":"));
        }
        for index in 0..agents {
            cluster.wait_until_connected(index);
        }
        cluster
    }

    fn start_agent(&mut self, engine: &str, line: &str) {
        let index = self.agents.len();
        let mut command = hawker_after(line);
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
        self.start_get_with(index, name, content, &[])
    }

    /// The same with more arguments.
    #[must_use]
    pub fn start_get_with(&self, index: usize, name: &str, content: &[u8], more: &[&str]) -> Process {
        let digest = format!("sha256:{}", files::sha256_bytes(content));
        let mut command = Command::new(workspace::hawker());
        command.args(["get", &self.nginx.url(name), "--json", "--digest", &digest, "-o"]);
        command.arg(self.output(index, name)).arg("--socket").arg(self.socket(index)).args(more);
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

    /// Where an agent listens: for peers, and for HTTP.
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn listeners(&self, index: usize) -> [SocketAddr; 2] {
        // It joins its scheduler before it says so.
        wait_until(READY_WITHIN, "the agent's addresses", || self.agents[index].stdout().contains(" for http"));
        let text = self.agents[index].stdout();
        let address = |before: &str| text.split(before).next()?.rsplit(' ').next()?.parse().ok();
        [" for peers", " for http"].map(|before| address(before).unwrap_or_else(|| panic!("no address in {text}")))
    }

    /// The process of the scheduler.
    pub fn scheduler_process(&mut self) -> &mut Process {
        &mut self.scheduler
    }

    /// What the scheduler counts, by the name that Prometheus sees.
    ///
    /// # Panics
    /// When it shows no such figure.
    #[must_use]
    pub fn scheduler_count(&self, name: &str) -> u64 {
        let text = http_get(self.scheduler_address, "/metrics", "");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// Where an agent's commands connect.
    #[must_use]
    pub fn socket(&self, index: usize) -> PathBuf {
        self.scratch.join(&format!("agent-{index}.sock"))
    }
}

/// The binary, in a process that runs a line of shell first. Its pid is the program's own.
#[must_use]
pub fn hawker_after(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{line} && exec \"$@\"")).arg("sh").arg(workspace::hawker());
    command
}
