//! Real processes, ended by their own pid, with logs that outlive a failed test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A directory of a test's own: gone when the test passes, kept and named when it fails.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

impl Scratch {
    /// An empty directory.
    ///
    /// # Panics
    /// When there is no room for one.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making a directory is no default value")]
    pub fn new() -> Self {
        Self(Some(tempfile::Builder::new().prefix("hawker-test-").tempdir().expect("a temporary directory")))
    }

    /// Where it is.
    ///
    /// # Panics
    /// Never: the directory lives as long as this value.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("taken on drop only").path()
    }

    /// A file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.0.take()
        {
            eprintln!("logs and files are kept in {}", directory.keep().display());
        }
    }
}

/// A child process that does not outlive this value.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process that ended left.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code, `None` after a signal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not: the test's subject promised it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{}\n{}", self.stdout, self.stderr))
    }
}

impl Process {
    /// Starts `command` with its output in `directory`/`name`.{stdout,stderr}.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(directory: &Path, name: &str, mut command: Command) -> Self {
        let log = directory.join(name);
        let output = |kind: &str| {
            File::options().create(true).append(true).open(log.with_extension(kind)).expect("room for a log")
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sends a signal; nothing when it has ended.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the pid is still its own.
        if self.is_running() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
            kill_process(pid, signal).expect("our own child");
        }
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        // Reaped by drop.
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it has not after `limit`.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Ended { status, stdout: self.stdout(), stderr: self.stderr() };
            }
            assert!(Instant::now() < deadline, "{} still runs after {limit:?}\n{}", self.name, self.tail());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it has not ended after `limit`.
    #[must_use]
    pub fn stop(mut self, limit: Duration) -> Ended {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Waits until `is_ready` says so.
    ///
    /// # Panics
    /// When it ends first, or is not ready after `limit`.
    pub fn wait_until(&mut self, limit: Duration, what: &str, mut is_ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !is_ready() {
            assert!(self.is_running(), "{} ended before {what}\n{}", self.name, self.tail());
            assert!(Instant::now() < deadline, "{}: not {what} after {limit:?}\n{}", self.name, self.tail());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What it printed so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.log.with_extension("stdout"))
    }

    /// What it logged so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.log.with_extension("stderr"))
    }

    fn tail(&self) -> String {
        let stderr = self.stderr();
        let lines: Vec<&str> = stderr.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ({})\n{}", self.name, self.log.with_extension("stderr").display(), self.tail());
        }
    }
}

/// Waits until `is_so`.
///
/// # Panics
/// When it is not after `limit`.
pub fn wait_until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what} after {limit:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A running child of a process.
#[must_use]
pub fn child_of(parent: u32) -> Option<Pid> {
    let names = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut pids = names.filter_map(|name| name.parse::<i32>().ok());
    let wanted = format!("PPid:\t{parent}");
    // One that has ended and is yet to be waited for is no agent.
    let is_wanted = |status: &str| status.lines().any(|line| line == wanted) && !status.contains("State:\tZ");
    pids.find(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_wanted(&status)))
        .and_then(Pid::from_raw)
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
