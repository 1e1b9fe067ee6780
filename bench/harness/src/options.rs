//! What can be chosen.

use std::path::PathBuf;
use std::str::FromStr;

use hawker_ring::{BLOCK_BYTES, EngineChoice, EngineKind, detect};
use serde::{Deserialize, Serialize};

use crate::BenchError;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One shard's ring serves blocks of a hot file to a load generator: what the engine costs, without the agent.
    Serve,
    /// P2: an agent gets a file from another, verified, on disk.
    Fetch,
    /// P2r: A -> B -> C, where B receives and serves at once.
    Relay,
}

/// How a served file's bytes get onto the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// sendfile(2).
    Sendfile,
    /// Read into memory, then send.
    Copy,
}

/// How received blocks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// O_DIRECT.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What to run and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: every engine that this host has, interleaved.
    pub engine: Option<EngineChoice>,
    /// `None`: all that compete. Only [`Scenario::Serve`] has a choice; an agent chooses for itself.
    pub strategy: Option<Strategy>,
    /// `None`: both. Only where something is written, so not in [`Scenario::Serve`].
    pub write: Option<WriteMode>,
    /// Bytes of the file, and bytes that one run of a variant moves.
    pub bytes: u64,
    /// Measured runs of every variant, behind one that warms up.
    pub runs: u32,
    /// Connections of [`Scenario::Serve`], one row each.
    pub connections: Vec<u32>,
    /// Bytes of one request of [`Scenario::Serve`]: a multiple of 256 KiB up to the protocol's largest piece.
    pub piece_bytes: u32,
    /// The `hawker` binary, for processes.
    pub program: PathBuf,
    /// Where the files are: a directory of the bench's own is made in it, and removed. For figures of `Fetch` and
    /// `Relay` that mean something, on the disk that agents would use, not on tmpfs.
    pub data_dir: PathBuf,
}

impl Options {
    /// 1 GiB, five runs, 1 and 64 connections, pieces of 1 MiB, all variants.
    #[must_use]
    pub fn new(program: PathBuf, data_dir: PathBuf) -> Self {
        Self {
            engine: None,
            strategy: None,
            write: None,
            bytes: 1 << 30,
            runs: 5,
            connections: vec![1, 64],
            piece_bytes: 1 << 20,
            program,
            data_dir,
        }
    }

    pub(crate) fn check(&self, scenario: Scenario) -> Result<(), BenchError> {
        let usage = |text: &str| Err(BenchError::Usage(text.to_owned()));
        let is_serve = scenario == Scenario::Serve;
        if self.runs == 0 {
            return usage("a bench needs at least one run");
        }
        if is_serve && self.write.is_some() {
            return usage("bench serve writes nothing: --write is for fetch and relay");
        }
        if !is_serve && self.strategy.is_some() {
            return usage("agents choose how they send by themselves: --strategy is for serve");
        }
        let block_bytes = u32::try_from(BLOCK_BYTES).expect("a block is smaller than 4 GiB");
        let piece_bytes_max = hawker_agent::proto::frame::REQUEST_BLOCKS_MAX * block_bytes;
        let is_piece = self.piece_bytes.is_multiple_of(block_bytes) && self.piece_bytes <= piece_bytes_max;
        if self.piece_bytes == 0 || !is_piece {
            return Err(BenchError::Usage(format!(
                "{} bytes are no piece: it takes a multiple of {block_bytes} up to {piece_bytes_max}",
                self.piece_bytes
            )));
        }
        if is_serve && (self.connections.is_empty() || self.connections.contains(&0)) {
            return usage("bench serve needs at least one connection");
        }
        if self.bytes < u64::from(self.piece_bytes) {
            return usage("the file must be at least one piece long");
        }
        Ok(())
    }

    /// The engines to run, and a note when one that was not asked for by name is missing.
    pub(crate) fn engines(&self) -> Result<(Vec<EngineKind>, Option<String>), BenchError> {
        let host = |error: hawker_ring::Unavailable| BenchError::Host(error.to_string());
        if let Some(choice) = self.engine {
            return Ok((vec![detect(choice).map_err(host)?.kind], None));
        }
        let best = detect(EngineChoice::Auto).map_err(host)?;
        match best.kind {
            EngineKind::Uring => Ok((vec![EngineKind::Uring, EngineKind::Epoll], None)),
            EngineKind::Epoll => Ok((vec![EngineKind::Epoll], Some(format!("without io_uring: {}", best.reason)))),
        }
    }

    pub(crate) fn strategies(&self) -> Vec<Strategy> {
        self.strategy.map_or_else(|| vec![Strategy::Sendfile, Strategy::Copy], |one| vec![one])
    }

    pub(crate) fn write_modes(&self) -> Vec<WriteMode> {
        self.write.map_or_else(|| vec![WriteMode::Direct, WriteMode::Buffered], |one| vec![one])
    }
}

impl Strategy {
    /// As it is typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sendfile => "sendfile",
            Self::Copy => "copy",
        }
    }
}

impl WriteMode {
    /// As it is typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        }
    }
}

impl From<Strategy> for hawker_ring::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Sendfile => Self::Sendfile,
            Strategy::Copy => Self::Copy,
        }
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Sendfile, Self::Copy];
        known.into_iter().find(|one| one.name() == text).ok_or_else(|| format!("`{text}` is none of sendfile, copy"))
    }
}

impl FromStr for WriteMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Direct, Self::Buffered];
        known.into_iter().find(|one| one.name() == text).ok_or_else(|| format!("`{text}` is none of direct, buffered"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new(PathBuf::from("hawker"), PathBuf::from("/tmp"))
    }

    #[test]
    fn the_defaults_fit_every_scenario() {
        for scenario in [Scenario::Serve, Scenario::Fetch, Scenario::Relay] {
            assert!(options().check(scenario).is_ok());
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let refused = |scenario, change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            assert!(matches!(options.check(scenario), Err(BenchError::Usage(_))), "{options:?}");
        };
        refused(Scenario::Fetch, |options| options.runs = 0);
        refused(Scenario::Serve, |options| options.write = Some(WriteMode::Direct));
        refused(Scenario::Fetch, |options| options.strategy = Some(Strategy::Copy));
        refused(Scenario::Relay, |options| options.strategy = Some(Strategy::Copy));
        refused(Scenario::Serve, |options| options.piece_bytes = 0);
        refused(Scenario::Serve, |options| options.piece_bytes = 1000);
        refused(Scenario::Serve, |options| options.piece_bytes = 1 << 30);
        refused(Scenario::Serve, |options| options.connections.clear());
        refused(Scenario::Serve, |options| options.connections = vec![1, 0]);
        refused(Scenario::Fetch, |options| options.bytes = 1);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for strategy in [Strategy::Sendfile, Strategy::Copy] {
            assert_eq!(strategy.name().parse(), Ok(strategy));
        }
        for mode in [WriteMode::Direct, WriteMode::Buffered] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("splice".parse::<Strategy>().is_err());
        assert!("".parse::<WriteMode>().is_err());
    }
}
