//! How a command ends: a code for scripts, and words for people.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Why a command ended. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// None of the others.
    Other = 1,
    /// The command line asks for something that cannot be; an existing FILE without `--overwrite` too.
    Usage = 2,
    /// The origin answered, and its answer was no.
    OriginRefused = 3,
    /// The content is not what `--digest` promised.
    DigestMismatch = 4,
    /// No room where FILE or the store lies.
    DiskFull = 5,
    /// `--timeout` passed.
    Timeout = 6,
    /// No agent answers at the socket.
    AgentUnreachable = 7,
    /// SIGINT or SIGTERM; 128 + SIGINT, as shells count.
    Interrupted = 130,
}

impl Exit {
    /// The exit that an agent's error names. Codes of a newer agent count as `Other`.
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            2 => Self::Usage,
            3 => Self::OriginRefused,
            4 => Self::DigestMismatch,
            5 => Self::DiskFull,
            6 => Self::Timeout,
            7 => Self::AgentUnreachable,
            _ => Self::Other,
        }
    }
}

/// What a command that failed tells its user: what failed, the value that failed, and what to do next.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// Empty when there is nothing to advise.
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: String::new() }
    }

    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(Exit::Other, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An operation on a file or socket that failed; a full disk has an exit of its own.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(Exit::DiskFull, format!("{what}: {error}"))
                    .hint("free some space, then run the command again")
            }
            _ => Self::other(format!("{what}: {error}")),
        }
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Prints to standard error and gives the process its code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("hawker: {}", self.message);
        if !self.hint.is_empty() {
            eprintln!("  {}", self.hint);
        }
        ExitCode::from(self.exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_agents_and_of_processes_are_the_same_numbers() {
        for code in 1..=7 {
            assert_eq!(Exit::from_code(code) as u32, code);
        }
        assert_eq!(Exit::from_code(0), Exit::Other);
        assert_eq!(Exit::from_code(99), Exit::Other);
    }

    #[test]
    fn a_full_disk_has_its_own_code() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(Failure::io("x", &full).exit, Exit::DiskFull);
        assert_eq!(Failure::io("x", &io::Error::from_raw_os_error(5)).exit, Exit::Other);
    }
}
