//! Which engine this host can run, and why: a ladder whose broken rung is named, for logs and metrics.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::engine::{Engine, EngineConfig, EngineKind};
use crate::op::{Body, Completion, File, Op, Outcome, Strategy, TailBuf, Token};
use crate::uring::{RingError, Stage, Uring, probe};

/// What the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineChoice {
    /// io_uring if the host has it, else epoll.
    #[default]
    Auto,
    Uring,
    Epoll,
}

impl std::str::FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(format!("engine {text:?} is none of auto, uring, epoll")),
        }
    }
}

/// The engine to open and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    pub kind: EngineKind,
    /// `epoll`, or the kernel release whose io_uring this host has at least: `uring-6.1`, `uring-6.12`, `uring-6.15`.
    pub tier: String,
    /// One sentence for people.
    pub reason: String,
}

/// io_uring was demanded and this host does not have it. The host's configuration is at fault, or its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    pub reason: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring was asked for, but {}; use engine auto or epoll", self.reason)
    }
}

impl std::error::Error for Unavailable {}

/// Climbs the ladder: the operator's choice, io_uring_setup(2) with our flags, the features and opcodes that we use,
/// and a few bytes through a socket pair.
///
/// # Errors
/// `choice` is `Uring` and a rung broke.
pub fn detect(choice: EngineChoice) -> Result<Detection, Unavailable> {
    let epoll = |reason| Detection { kind: EngineKind::Epoll, tier: "epoll".to_owned(), reason };
    if choice == EngineChoice::Epoll {
        return Ok(epoll("epoll was asked for".to_owned()));
    }
    match climb() {
        Ok(tier) => {
            let asked = if choice == EngineChoice::Uring { "io_uring was asked for and" } else { "io_uring" };
            let reason = format!("{asked} passed its checks on Linux {}", release());
            Ok(Detection { kind: EngineKind::Uring, tier: tier.to_owned(), reason })
        }
        Err(reason) if choice == EngineChoice::Uring => Err(Unavailable { reason }),
        Err(reason) => Ok(epoll(reason)),
    }
}

/// Small: a ring for a moment's test.
fn test_config() -> EngineConfig {
    EngineConfig { ring_entries: 8, ..EngineConfig::default() }
}

fn climb() -> Result<&'static str, String> {
    let tier = probe(&test_config()).map_err(|error| why(&error))?;
    self_test().map_err(|error| format!("io_uring failed its self-test over a socket pair: {error}"))?;
    Ok(tier)
}

fn why(error: &RingError) -> String {
    let errno = Errno::from_io_error(&error.source);
    let source = &error.source;
    match (error.stage, errno) {
        (Stage::Setup, Some(Errno::PERM | Errno::ACCESS)) => why_denied(),
        (Stage::Setup, Some(Errno::NOSYS)) => "this kernel has no io_uring (io_uring_setup: ENOSYS)".to_owned(),
        (Stage::Setup, Some(Errno::INVAL)) => {
            format!("this kernel's io_uring is too old: DEFER_TASKRUN needs Linux 6.1, this is {}", release())
        }
        (Stage::Setup, Some(Errno::NOMEM)) => {
            "io_uring_setup has no memory (ENOMEM): raise RLIMIT_MEMLOCK or the memory limit".to_owned()
        }
        (Stage::Setup, _) => format!("io_uring_setup failed: {source}"),
        (Stage::Features, _) => "this io_uring may lose completions or cannot time out (gVisor?)".to_owned(),
        (Stage::Opcodes, _) => format!("this io_uring lacks an operation that Hawker uses: {source}"),
        (Stage::Workers, _) => format!("io_uring's worker threads cannot be bounded: {source}"),
    }
}

/// EPERM has three causes with three remedies.
fn why_denied() -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let has_filter =
        std::fs::read_to_string("/proc/thread-self/status").is_ok_and(|status| has_seccomp_filter(&status));
    explain_denial(sysctl.as_deref().map(str::trim), has_filter)
}

fn explain_denial(sysctl: Option<&str>, has_filter: bool) -> String {
    match sysctl {
        Some("2") => "io_uring is disabled for everybody (sysctl kernel.io_uring_disabled=2)".to_owned(),
        // 1 lets the privileged through: a filter may still be what stopped us, but the sysctl has to go first.
        Some("1") if !rustix::process::geteuid().is_root() => {
            "io_uring is disabled for the unprivileged (sysctl kernel.io_uring_disabled=1): needs CAP_SYS_ADMIN or \
             the group in kernel.io_uring_group"
                .to_owned()
        }
        _ if has_filter => "a seccomp filter denies io_uring_setup (EPERM), as container runtimes do by default: \
             allow io_uring_setup, io_uring_enter and io_uring_register in its profile"
            .to_owned(),
        Some("1") => "io_uring is disabled for the unprivileged (sysctl kernel.io_uring_disabled=1)".to_owned(),
        _ => "io_uring_setup is not permitted (EPERM) by a security module".to_owned(),
    }
}

/// proc_pid_status(5): 2 is filter mode.
fn has_seccomp_filter(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// A message through the engine as it will run: headers in two parts, WAITALL, the loop and the drain.
fn self_test() -> io::Result<()> {
    const TIME_MAX: Duration = Duration::from_secs(5);
    let (left, right) = std::os::unix::net::UnixStream::pair()?;
    let (left, right) = (File::new(left.into()), File::new(right.into()));
    let mut engine = Uring::new(&test_config())?;
    let message = b"hawker".to_vec();
    engine.submit(Token(1), Op::Receive { socket: left, body: None, tail: TailBuf::exact(Vec::new(), 12) });
    let body = Body::Bytes(message.clone());
    engine.submit(Token(2), Op::Transmit { socket: right, head: message, body, strategy: Strategy::Copy });
    let started = Instant::now();
    let mut out = Vec::new();
    while engine.in_flight() > 0 {
        let Some(left) = TIME_MAX.checked_sub(started.elapsed()) else { return Err(io::ErrorKind::TimedOut.into()) };
        engine.turn(Some(left), &mut out);
    }
    out.into_iter().try_for_each(check_self_test)
}

fn check_self_test(completion: Completion) -> io::Result<()> {
    match completion.outcome {
        Outcome::Transmitted { result, .. } => result.map(drop),
        Outcome::Received { result, tail, .. } => {
            result?;
            if tail == b"hawkerhawker" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_its_cause() {
        assert!(explain_denial(Some("2"), true).contains("io_uring_disabled=2"));
        assert!(explain_denial(Some("0"), true).contains("seccomp"));
        assert!(explain_denial(None, true).contains("seccomp"), "kernels below 6.6 have no sysctl");
        assert!(explain_denial(Some("0"), false).contains("security module"));
    }

    #[test]
    fn filter_mode_is_read_from_the_status_file() {
        assert!(has_seccomp_filter("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!has_seccomp_filter("Seccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(!has_seccomp_filter(""));
    }

    #[test]
    fn every_broken_rung_has_a_reason() {
        let reason =
            |stage, errno: Errno| why(&RingError { source: io::Error::from_raw_os_error(errno.raw_os_error()), stage });
        assert!(reason(Stage::Setup, Errno::NOSYS).contains("ENOSYS"));
        assert!(reason(Stage::Setup, Errno::INVAL).contains("6.1"));
        assert!(reason(Stage::Setup, Errno::NOMEM).contains("MEMLOCK"));
        assert!(reason(Stage::Setup, Errno::MFILE).contains("io_uring_setup failed"));
        assert!(reason(Stage::Features, Errno::NOTSUP).contains("lose completions"));
        assert!(reason(Stage::Opcodes, Errno::NOTSUP).contains("lacks an operation"));
        assert!(reason(Stage::Workers, Errno::NOTSUP).contains("bounded"));
    }
}
