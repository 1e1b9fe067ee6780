//! The guard: a process without threads that starts the agent, listens to its signs of life, and kills and restarts it when
//! they stay away.
//!
//! Why: the kernel accepts connections for a process that is stopped or hangs, so that a client of the mirror would wait
//! for it as long as its own timeouts are; containerd's are half a minute a layer. A port that nobody listens at costs
//! nothing: the client asks the registry.

mod line;
mod policy;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as BlockingDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::net::UnixDatagram;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::exit::Failure;
pub(crate) use line::Line;
use policy::{End, Life, Next};

/// How often an agent gives a sign of life, and how often the guard looks for one.
const BEAT: Duration = Duration::from_millis(250);
/// Looks without a sign before the agent is killed: a second at least. Looks are counted, not time: a guard that was itself stopped,
/// or whose machine slept, has missed one look.
const SILENT_MAX: u32 = 5;
/// How long a killed process may take to be gone before that is worth a word.
const GONE_LOOKS: u32 = 8;
/// Longest message, either way.
const MESSAGE_BYTES_MAX: usize = 256;

/// A sign of life while the agent starts or ends.
const ALIVE: &[u8] = b"alive";
/// The same of an agent that answers.
const RUNS: &[u8] = b"runs";
/// Followed by what hangs.
const STUCK: &[u8] = b"stuck ";
const STOP: &[u8] = b"stop";
const END: &[u8] = b"end";

/// Runs the agent that this command line describes, again and again, until it ends on purpose.
pub(crate) fn watch() -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the guard", &error))?;
    runtime.block_on(guard())
}

async fn guard() -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::io("cannot watch for signals", &error))?;
    let mut deaths = 0;
    let mut restarts = 0;
    loop {
        let life = match Ward::start(restarts) {
            Ok(ward) => ward.watch(&mut signals).await,
            Err(error) if restarts == 0 => return Err(Failure::io("cannot start the agent", &error)),
            Err(error) => {
                tracing::error!(%error, "the agent cannot be started again yet");
                Life { end: End::Killed(0), has_run: true, lasted: Duration::ZERO, is_asked: false }
            }
        };
        match policy::next(&life, restarts, &mut deaths) {
            Next::End(code) => return Ok(ExitCode::from(code)),
            Next::Restart(pause) => {
                tracing::warn!(end = %life.end, ?pause, "the agent is gone and is started again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = signals.asked() => return Ok(ExitCode::SUCCESS),
                }
                restarts += 1;
            }
        }
    }
}

/// What reaches the guard from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// True when somebody asks to end, false when a child changed.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            _ = self.child.recv() => false,
        }
    }
}

/// The agent's process.
struct Ward {
    child: Child,
    line: UnixDatagram,
    started: Instant,
    has_run: bool,
    /// Looks since the last sign of life.
    silent: u32,
    is_killed: bool,
    asked: u32,
}

impl Ward {
    fn start(restarts: u32) -> io::Result<Self> {
        let (ours, theirs) = BlockingDatagram::pair()?;
        ours.set_nonblocking(true)?;
        let line = UnixDatagram::from_std(ours)?;
        // This very program, even when a newer one has taken its place on disk: the two must understand each other.
        let child = Command::new("/proc/self/exe")
            .arg0("hawker")
            .args(std::env::args_os().skip(1))
            .args(["--guarded", &restarts.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        tracing::info!(pid = child.id(), restarts, "the guard started the agent");
        Ok(Self { child, line, started: Instant::now(), has_run: false, silent: 0, is_killed: false, asked: 0 })
    }

    /// Until it is gone.
    async fn watch(mut self, signals: &mut Signals) -> Life {
        let mut look = tokio::time::interval(BEAT);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut message = [0; MESSAGE_BYTES_MAX];
        loop {
            tokio::select! {
                // Fails once the agent is gone, which its end tells as well.
                Ok(length) = self.line.recv(&mut message) => self.on_message(&message[..length]),
                _ = look.tick() => self.on_look(),
                is_asked = signals.next() => if is_asked {
                    self.on_asked();
                },
            }
            // Interrupted waits are tried again at the next look.
            if let Ok(Some(status)) = self.child.try_wait() {
                let is_asked = self.asked > 0;
                return Life { end: end_of(status), has_run: self.has_run, lasted: self.started.elapsed(), is_asked };
            }
        }
    }

    fn on_message(&mut self, message: &[u8]) {
        self.silent = 0;
        self.has_run |= message == RUNS;
        if let Some(what) = message.strip_prefix(STUCK) {
            let what = String::from_utf8_lossy(what).into_owned();
            self.kill(&format!("{what} of the agent does nothing any more"));
        }
    }

    fn on_look(&mut self) {
        self.silent += 1;
        if self.silent == SILENT_MAX {
            self.kill("the agent gave no sign of life for a second");
        }
        if self.is_killed && self.silent == SILENT_MAX + GONE_LOOKS {
            tracing::error!("the killed agent is not gone: it waits for a disk, perhaps");
        }
    }

    fn on_asked(&mut self) {
        self.asked += 1;
        let message = if self.asked == 1 { STOP } else { END };
        // One that reads nothing any more is killed for its silence.
        let _ = self.line.try_send(message);
    }

    fn kill(&mut self, why: &str) {
        if self.is_killed {
            return;
        }
        self.is_killed = true;
        tracing::error!(pid = self.child.id(), "{why}: it is killed");
        // Fails only when it is gone, which the next look sees.
        let _ = self.child.kill();
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(u8::try_from(code).unwrap_or(1)),
        (None, signal) => End::Killed(signal.unwrap_or(0)),
    }
}
