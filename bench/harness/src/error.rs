//! Why a bench has no figures.

use std::fmt;
use std::io;

/// Why a bench has no figures.
#[derive(Debug)]
pub enum BenchError {
    /// The options contradict each other or the scenario: the caller's.
    Usage(String),
    /// The host cannot run this: an engine, a congestion control or Landlock is missing.
    Host(String),
    /// A process of the bench failed or said what was not expected; its own words went to standard error.
    Process(String),
    /// What was measured was not what the row's name says, such as a fetch that the origin had a part in.
    Invalid(String),
    /// The kernel refused something.
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl BenchError {
    /// For `map_err`: an I/O error and what was tried.
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io { what, error }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Host(text) | Self::Process(text) => f.write_str(text),
            Self::Invalid(text) => write!(f, "this run measured something else: {text}"),
            Self::Io { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for BenchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
