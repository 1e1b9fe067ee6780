//! A scheduler and agents as processes of the `hawker` binary, each in a network namespace of a lab.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, Shape};
use crate::nginx::{Behaviour, Nginx};
use crate::process::{Process, Scratch};
use crate::workspace;

/// Two busy cores start nine processes within a few seconds; this is when something is wrong.
const READY_WITHIN: Duration = Duration::from_secs(30);

const SCHEDULER_PORT: u16 = 7300;

/// What a cluster should be like.
#[derive(Clone, Debug)]
pub struct Wish {
    pub hosts: u32,
    /// Of every link, as `tc` writes it.
    pub rate: &'static str,
    /// `auto`, `uring` or `epoll`.
    pub engine: &'static str,
    /// A program that runs the agents, such as one that denies them system calls first.
    pub wrapper: Option<PathBuf>,
    /// The agents' settings file.
    pub settings: String,
}

impl Wish {
    /// Agents as they are out of the box.
    #[must_use]
    pub fn new(hosts: u32, rate: &'static str, engine: &'static str) -> Self {
        Self { hosts, rate, engine, wrapper: None, settings: String::new() }
    }
}

/// Agents on h1..hN, a scheduler on a host of its own, nginx on `origin`: its link carries nothing but content.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: processes, then the lab they run in, then their files.
    agents: Vec<Option<Process>>,
    scheduler: Option<Process>,
    nginx: Nginx,
    lab: Lab,
    scratch: Scratch,
    wish: Wish,
}

impl Cluster {
    /// Starts everything and waits until all agents have their scheduler. Callers ask [`Lab::obstacle`] first.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start(wish: Wish) -> Self {
        let scratch = Scratch::new();
        let lab = Lab::up(Shape { hosts: wish.hosts + 1, rate: wish.rate, loss_percent: 0 });
        let root = scratch.join("root");
        std::fs::create_dir(&root).expect("room");
        write_cluster_key(&scratch.join("cluster.key"));
        std::fs::write(scratch.join("agent.toml"), &wish.settings).expect("room");
        let address = format!("{}:80", lab.address("origin")).parse().expect("an address");
        let nginx = Nginx::start(&scratch, address, &root, Behaviour::default(), Some(&lab));
        let agents = (0..wish.hosts).map(|_| None).collect();
        let mut cluster = Self { agents, scheduler: None, nginx, lab, scratch, wish };
        cluster.start_scheduler();
        for index in 0..cluster.host_count() {
            cluster.start_agent(index);
        }
        for index in 0..cluster.host_count() {
            cluster.wait_until_connected(index);
        }
        cluster
    }

    /// How many agents there are.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.agents.len()
    }

    /// The origin.
    #[must_use]
    pub fn nginx(&self) -> &Nginx {
        &self.nginx
    }

    /// Where files for the origin go.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Files and logs of this cluster.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts the scheduler, with what an earlier one left on disk.
    pub fn start_scheduler(&mut self) {
        let host = self.scheduler_host();
        let mut command = self.lab.command(&host, &workspace::hawker());
        command.arg("scheduler").args(["--listen", &format!("{}:{SCHEDULER_PORT}", self.lab.address(&host))]);
        command.arg("--data-dir").arg(self.scratch.join("scheduler"));
        command.arg("--cluster-key").arg(self.scratch.join("cluster.key"));
        clean(&mut command);
        let log = self.scratch.join("scheduler.stdout");
        // Earlier starts wrote to the same file.
        let count = || std::fs::read_to_string(&log).map_or(0, |text| text.matches("listens").count());
        let before = count();
        let mut process = Process::start(self.scratch.path(), "scheduler", command);
        process.wait_until(READY_WITHIN, "listening", || count() > before);
        self.scheduler = Some(process);
    }

    /// Starts an agent, with what an earlier one left on disk.
    pub fn start_agent(&mut self, index: usize) {
        let host = host_name(index);
        let program = workspace::hawker();
        let mut command = match &self.wish.wrapper {
            Some(wrapper) => {
                let mut command = self.lab.command(&host, wrapper);
                command.arg(&program);
                command
            }
            None => self.lab.command(&host, &program),
        };
        let scheduler = format!("http://{}:{SCHEDULER_PORT}", self.lab.address(&self.scheduler_host()));
        command.arg("agent").args(["--scheduler", &scheduler, "--advertise", &self.lab.address(&host)]);
        command.args(["--engine", self.wish.engine, "--limit-disk", "64GiB"]);
        command.arg("--data-dir").arg(self.scratch.join(&format!("data-{host}")));
        command.arg("--socket").arg(self.socket(index));
        command.arg("--cluster-key").arg(self.scratch.join("cluster.key"));
        command.arg("--config").arg(self.scratch.join("agent.toml"));
        clean(&mut command);
        self.agents[index] = Some(Process::start(self.scratch.path(), &format!("agent-{host}"), command));
    }

    /// Kills the scheduler as a crash would.
    pub fn kill_scheduler(&mut self) {
        if let Some(process) = self.scheduler.take() {
            process.kill();
        }
    }

    /// The process of the scheduler.
    ///
    /// # Panics
    /// When none runs.
    pub fn scheduler(&mut self) -> &mut Process {
        self.scheduler.as_mut().expect("a running scheduler")
    }

    /// Takes away what the scheduler left on disk: its key, and how often it has started.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn forget_scheduler(&mut self) {
        assert!(self.scheduler.is_none(), "callers end it first");
        std::fs::remove_dir_all(self.scratch.join("scheduler")).expect("our own directory");
    }

    /// Drops what goes `to` the scheduler (or what comes from it), or lets it pass again.
    ///
    /// # Panics
    /// When iptables does not do it.
    pub fn partition_scheduler(&self, to: bool, is_dropped: bool) {
        let iptables = workspace::find_program("iptables").expect("callers asked for obstacles");
        let (chain, side) = if to { ("INPUT", "--dport") } else { ("OUTPUT", "--sport") };
        let mut command = self.lab.command(&self.scheduler_host(), &iptables);
        command.args([if is_dropped { "-A" } else { "-D" }, chain, "-p", "tcp", side, &SCHEDULER_PORT.to_string()]);
        let output = command.args(["-j", "DROP"]).output().expect("iptables runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// Kills an agent as a crash would.
    pub fn kill_agent(&mut self, index: usize) {
        if let Some(process) = self.agents[index].take() {
            process.kill();
        }
    }

    /// Takes away what an agent left on disk.
    ///
    /// # Panics
    /// When it still runs, or its files cannot be removed.
    pub fn forget_agent(&mut self, index: usize) {
        assert!(self.agents[index].is_none(), "callers end it first");
        std::fs::remove_dir_all(self.scratch.join(&format!("data-{}", host_name(index)))).expect("our own directory");
    }

    /// Waits until the agent has its scheduler.
    ///
    /// # Panics
    /// When it ends, or takes too long.
    pub fn wait_until_connected(&mut self, index: usize) {
        self.wait_for_scheduler(index, true);
    }

    /// Waits until the agent has its scheduler, or knows that it has none.
    ///
    /// # Panics
    /// When it ends, or takes too long.
    pub fn wait_for_scheduler(&mut self, index: usize, is_there: bool) {
        let socket = self.socket(index);
        let agent = self.agents[index].as_mut().expect("a running agent");
        agent.wait_until(READY_WITHIN, "of the right mind about its scheduler", || {
            ask(&socket, &["status"]).is_some_and(|status| status["scheduler"]["is_connected"] == is_there)
        });
    }

    /// Starts a download on a host. Its output goes to [`Self::output`].
    #[must_use]
    pub fn get(&self, index: usize, url: &str, more: &[&str]) -> Process {
        self.get_to(index, url, &self.output(index), more)
    }

    /// The same with an output of its own.
    #[must_use]
    pub fn get_to(&self, index: usize, url: &str, output: &Path, more: &[&str]) -> Process {
        // Each answer is in a file of its own.
        static GETS: AtomicU32 = AtomicU32::new(0);
        let number = GETS.fetch_add(1, Ordering::Relaxed);
        let mut command = self.lab.command(&host_name(index), &workspace::hawker());
        command.args(["get", url, "--json", "-o"]).arg(output);
        command.arg("--socket").arg(self.socket(index)).args(more);
        clean(&mut command);
        Process::start(self.scratch.path(), &format!("get-{}-{number}", host_name(index)), command)
    }

    /// Where [`Self::get`] puts the file.
    #[must_use]
    pub fn output(&self, index: usize) -> PathBuf {
        self.scratch.join(&format!("output-{}", host_name(index)))
    }

    /// `hawker status --json` of a host.
    ///
    /// # Panics
    /// When its agent does not answer.
    #[must_use]
    pub fn status(&self, index: usize) -> Value {
        ask(&self.socket(index), &["status"]).expect("the agent answers")
    }

    /// What the agent of a host shows Prometheus.
    ///
    /// # Panics
    /// When it shows nothing.
    #[must_use]
    pub fn metrics(&self, index: usize) -> String {
        let curl = workspace::find_program("curl").expect("callers asked for obstacles");
        let mut command = self.lab.command(&host_name(index), &curl);
        let output = command.args(["-sf", "http://127.0.0.1:7311/metrics"]).output().expect("curl runs");
        assert!(output.status.success(), "no metrics: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn socket(&self, index: usize) -> PathBuf {
        self.scratch.join(&format!("{}.sock", host_name(index)))
    }

    fn scheduler_host(&self) -> String {
        host_name(self.host_count())
    }
}

/// The JSON answer of a command to the agent at `socket`, `None` when it has none.
#[must_use]
pub fn ask(socket: &Path, arguments: &[&str]) -> Option<Value> {
    let mut command = Command::new(workspace::hawker());
    command.args(arguments).arg("--json").arg("--socket").arg(socket);
    clean(&mut command);
    let output = command.output().ok().filter(|output| output.status.success())?;
    serde_json::from_slice(&output.stdout).ok()
}

/// Takes away the settings of whoever runs the tests, and the guard: an agent's pid is its own.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HAWKER_")) {
        command.env_remove(name);
    }
    command.env("HAWKER_NO_GUARD", "true");
}

/// The cluster key of every cluster of a test.
///
/// # Panics
/// When it cannot be written.
pub fn write_cluster_key(path: &Path) {
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).expect("room");
    file.write_all("ab".repeat(32).as_bytes()).expect("room");
}

fn host_name(index: usize) -> String {
    format!("h{}", index + 1)
}
