//! The demo's processes: a scheduler and agents, each with an address and a directory of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use hawker_api::local::{Status, StatusReport, event, request};

use crate::client::{Door, ask};
use crate::exit::{Exit, Failure};
use crate::stop::Stop;

/// On two loaded cores 64 agents start within a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Lines of a process's log that are shown when it failed.
const LOG_LINES: usize = 15;

/// A child of the demo. Killed with this value: it holds nothing that anybody needs later.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    child: Child,
    log: PathBuf,
    // Held open, so that what the child prints does not kill it.
    stdout: Option<BufReader<ChildStdout>>,
    socket: PathBuf,
}

/// What all agents of a demo share.
#[derive(Clone, Debug)]
pub(super) struct Common<'a> {
    pub(super) directory: &'a Path,
    pub(super) cluster_key: &'a Path,
    pub(super) scheduler: SocketAddr,
    pub(super) engine: &'a str,
    pub(super) host_rate: u64,
    pub(super) disk_bytes: u64,
}

impl Host {
    /// Starts a scheduler on any free port, and returns where it listens.
    pub(super) fn scheduler(directory: &Path, cluster_key: &Path) -> Result<(Self, SocketAddr), Failure> {
        let mut command = hawker("scheduler")?;
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(directory.join("scheduler"));
        command.arg("--cluster-key").arg(cluster_key);
        let mut host = Self::start("scheduler", directory, command)?;
        let mut line = String::new();
        if let Some(stdout) = &mut host.stdout {
            // A process that fails closes its end, so this does not wait for ever.
            stdout.read_line(&mut line).map_err(|error| host.failed(&error.to_string()))?;
        }
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        address.map_or_else(|| Err(host.failed("it did not say where it listens")), Ok).map(|address| (host, address))
    }

    /// Starts the agent at 127.0.0.(2 + `index`).
    pub(super) fn agent(index: u8, common: &Common<'_>) -> Result<Self, Failure> {
        let address = Ipv4Addr::new(127, 0, 0, 2 + index);
        let directory = common.directory.join(format!("agent-{index}"));
        let socket = directory.join("socket");
        std::fs::create_dir(&directory).map_err(|error| Failure::io(directory.display(), &error))?;
        let mut command = hawker("agent")?;
        command.args(["--scheduler", &format!("http://{}", common.scheduler)]);
        command.args(["--advertise", &address.to_string(), "--peer-port", "0", "--http-port", "0"]);
        command.args(["--engine", common.engine, "--limit-disk", &common.disk_bytes.to_string(), "--no-guard"]);
        command.arg("--data-dir").arg(directory.join("data")).arg("--socket").arg(&socket);
        command.arg("--cluster-key").arg(common.cluster_key);
        if common.host_rate > 0 {
            let rate = common.host_rate.to_string();
            command.args(["--limit-up", &rate, "--limit-down", &rate]);
        }
        let mut host = Self::start(&address.to_string(), common.directory, command)?;
        host.socket = socket;
        Ok(host)
    }

    pub(super) fn door(&self) -> Door<'static> {
        Door::at(&self.socket)
    }

    /// Waits until the agent answers and has its scheduler.
    pub(super) fn wait_until_ready(&mut self, stop: &Stop) -> Result<StatusReport, Failure> {
        let limit = stop.within(READY_WITHIN);
        loop {
            match limit.check() {
                Err(failure) if failure.exit == Exit::Timeout => return Err(self.failed("it is not ready in time")),
                checked => checked?,
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&status.to_string()));
            }
            if let Ok(report) = self.status(&limit)
                && report.scheduler.as_ref().is_some_and(|link| link.is_connected)
            {
                return Ok(report);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn status(&self, stop: &Stop) -> Result<StatusReport, Failure> {
        let mut found = None;
        ask(&self.door(), request::Request::Status(Status {}), stop, |event| {
            if let event::Event::Status(report) = event {
                found = Some(report);
            }
            Ok(false)
        })?;
        found.ok_or_else(|| Failure::other("no status"))
    }

    /// Seconds of CPU it has used, in user mode and in the kernel.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        cpu_ticks(&stat) as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// A failure of this process, with the end of its log.
    pub(super) fn failed(&self, why: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        Failure::other(format!("{} of the demo failed: {why}", self.name)).hint(tail)
    }

    fn start(name: &str, directory: &Path, mut command: Command) -> Result<Self, Failure> {
        let cannot = |error: &std::io::Error| Failure::io(format_args!("cannot start {name}"), error);
        let log = directory.join(format!("{name}.log"));
        let stderr = File::create(&log).map_err(|error| cannot(&error))?;
        let mut child = command
            .arg("--with-parent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| cannot(&error))?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { name: name.to_owned(), child, log, stdout, socket: PathBuf::new() })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a fresh cluster key that only this user can read.
pub(super) fn write_cluster_key(path: &Path) -> Result<(), Failure> {
    let text = crate::keys::generate()?;
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))
}

/// This binary again, in an environment without settings that are meant for the user's own agent.
fn hawker(command_name: &str) -> Result<Command, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::io("cannot find the hawker binary", &error))?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HAWKER_")) {
        if name != "HAWKER_LOG" {
            command.env_remove(name);
        }
    }
    command.arg(command_name);
    Ok(command)
}

/// Fields 14 and 15 of proc_pid_stat(5). The second field is a name that may hold spaces, so counting starts after it.
fn cpu_ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    ticks() + ticks()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a ) name) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), 42);
        assert_eq!(cpu_ticks(""), 0);
    }
}
