//! HTTP clients of this host: their connections live on shards, whoever answers them lives in control.
//!
//! A connection is a [`HttpSession`], which decides, and at most one receive, one transmit and one read of the disk. What
//! control says comes as [`HttpCommand`]; bytes of tasks never pass through it.

mod connection;
mod content;
mod exchange;
mod kept;
mod readers;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::http1::{SessionConfig, SessionInput};
use hawker_proto::{BlockIndex, Instant, PieceIndex, TaskId};
use hawker_ring::{File, Op, Outcome, SocketOptions, Token};
use rustix::net::{RecvFlags, Shutdown};
use tokio::sync::mpsc;

use super::{ACCEPT_PAUSE, EventQueue, Purpose, Shard};
use crate::seam::{HttpRequest, ShardCommand};

use connection::Connection;
use kept::KeptAnswers;
use readers::Readers;

/// How often clocks are looked at: they count seconds.
const TICK: Duration = Duration::from_millis(500);
/// A client that takes nothing for so long may lose its place to a new one.
const STUCK: Duration = Duration::from_secs(5);
/// Blocks that are read from disk at the same time, for all clients of a shard: a slow disk must not take the block
/// memory of peers.
const CHECKS_MAX: usize = 8;
/// Bytes that are thrown away at the end, so that the last ones sent are not taken back by a reset.
const LAST_BYTES_MAX: usize = 256 * 1024;

/// What an operation for a client was for.
#[derive(Clone, Copy, Debug)]
pub(super) enum HttpPurpose {
    Accept,
    AcceptPause,
    Receive {
        connection: u64,
    },
    Transmit {
        connection: u64,
    },
    /// A block on its way from disk, to be compared before it leaves.
    Check {
        connection: u64,
        piece: PieceIndex,
        block: BlockIndex,
    },
}

/// A shard's part of the HTTP port.
pub(super) struct HttpSide {
    /// On shard 0.
    listener: Option<File>,
    accepting: Option<u64>,
    pub(super) requests: EventQueue<HttpRequest>,
    config: SessionConfig,
    connections: HashMap<u64, Connection>,
    connections_max: usize,
    next_connection: u64,
    /// Who gets the next connection.
    next_shard: usize,
    readers: HashMap<TaskId, Readers>,
    kept: KeptAnswers,
    /// Reads of the disk under way, and who waits for one.
    checks: usize,
    waiting_checks: VecDeque<u64>,
    /// Who waits for upload rate or block memory.
    delayed: HashSet<u64>,
    tick_at: Instant,
}

impl HttpSide {
    pub(super) fn new(listener: Option<File>, requests: mpsc::Sender<HttpRequest>, connections_max: usize) -> Self {
        Self {
            listener,
            accepting: None,
            requests: EventQueue::new(requests),
            config: SessionConfig::default(),
            connections: HashMap::new(),
            connections_max,
            next_connection: 0,
            next_shard: 0,
            readers: HashMap::new(),
            kept: KeptAnswers::default(),
            checks: 0,
            waiting_checks: VecDeque::new(),
            delayed: HashSet::new(),
            tick_at: Instant::ZERO,
        }
    }

    /// What is asked next is control's to answer.
    pub(super) fn forget_answers(&mut self) {
        self.kept = KeptAnswers::default();
    }

    fn get(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }
}

impl Shard {
    pub(super) fn accept_http(&mut self) {
        if let Some(listener) = self.http.listener.clone().filter(|_| !self.is_draining) {
            let token = self.submit(Op::Accept { listener }, Purpose::Http(HttpPurpose::Accept));
            self.http.accepting = Some(token);
        }
    }

    pub(super) fn on_http_outcome(&mut self, purpose: HttpPurpose, outcome: Outcome) {
        match (purpose, outcome) {
            (HttpPurpose::Accept, Outcome::Accepted(result)) => self.on_http_accepted(result),
            (HttpPurpose::AcceptPause, Outcome::Timer(_)) => self.accept_http(),
            (HttpPurpose::Receive { connection }, Outcome::Received { result, tail, .. }) => {
                self.on_http_received(connection, result.ok(), tail);
            }
            (HttpPurpose::Transmit { connection }, Outcome::Transmitted { result, .. }) => {
                self.on_http_transmitted(connection, result.is_ok());
            }
            (HttpPurpose::Check { connection, piece, block }, Outcome::Read { result, block: memory }) => {
                self.on_http_checked(connection, piece, block, result, memory);
            }
            (purpose, outcome) => unreachable!("{purpose:?} was answered by {outcome:?}"),
        }
    }

    fn on_http_accepted(&mut self, result: io::Result<(File, SocketAddr)>) {
        self.http.accepting = None;
        match result {
            Ok((socket, from)) => {
                self.hand_over_http(socket, from);
                self.accept_http();
            }
            Err(error) if hawker_ring::is_cancelled(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "the HTTP port accepts nobody for a moment");
                self.submit(Op::Timer { after: ACCEPT_PAUSE }, Purpose::Http(HttpPurpose::AcceptPause));
            }
        }
    }

    /// Gives an accepted connection to the shards in turn.
    fn hand_over_http(&mut self, socket: File, from: SocketAddr) {
        let shard = self.http.next_shard;
        self.http.next_shard = (shard + 1) % self.handles.len();
        if shard == self.index {
            self.adopt_http(socket, from);
        } else if !self.handles[shard].try_send(ShardCommand::HttpConnection { socket, from }) {
            tracing::warn!(shard, "too busy: an HTTP client's connection is closed");
            self.counters.http_refused.add(1);
        }
    }

    /// Takes a connection that was accepted, here or on the shard with the listener.
    pub(super) fn adopt_http(&mut self, socket: File, from: SocketAddr) {
        if self.is_draining || !self.make_room_for_client() {
            self.counters.http_refused.add(1);
            tracing::debug!(%from, "no room for another HTTP client");
            return;
        }
        // The host's own addresses are as near as loopback.
        let own = hawker_ring::net::local_address(&socket).ok().map(|address| address.ip().to_canonical());
        let is_local = from.ip().is_loopback() || own == Some(from.ip());
        let congestion = is_local.then(|| Arc::from("cubic"));
        let options = SocketOptions { congestion, ..SocketOptions::default() };
        if let Err(error) = hawker_ring::net::tune(&socket, &options) {
            tracing::debug!(%error, %from, "setting socket options failed");
        }
        let id = self.http.next_connection;
        self.http.next_connection += 1;
        let connection = Connection::new(socket, from, is_local, self.http.config.clone(), self.now);
        self.http.connections.insert(id, connection);
        self.counters.http_connections.set(self.http.connections.len() as u64);
        self.drive_http(id);
    }

    /// Room for one more client. Whoever asks for nothing goes first, the longest here of them, then who takes nothing:
    /// whoever only opens connections must not keep probes out.
    fn make_room_for_client(&mut self) -> bool {
        if self.http.connections.len() < self.http.connections_max {
            return true;
        }
        let idle = self.http.connections.iter().filter_map(|(id, one)| Some((one.idle_since()?, *id))).min();
        let stuck = || self.http.connections.iter().filter_map(|(id, one)| Some((one.sending_since()?, *id))).min();
        let victim = idle.or_else(|| stuck().filter(|(since, _)| self.now.since(*since) >= STUCK));
        if let Some((_, id)) = victim {
            self.counters.http_refused.add(1);
            self.close_http(id);
        }
        victim.is_some()
    }

    /// What time alone made due.
    pub(super) fn run_http_due(&mut self) {
        for id in std::mem::take(&mut self.http.delayed) {
            self.go_on_sending(id);
            self.drive_http(id);
        }
        if self.now < self.http.tick_at {
            return;
        }
        self.http.tick_at = self.now + TICK;
        let now = self.now;
        self.http.kept.trim(now);
        let is_due = |one: &Connection| one.is_held() || one.session.deadline().is_some_and(|at| at <= now);
        let due: Vec<u64> = self.http.connections.iter().filter(|(_, one)| is_due(one)).map(|(id, _)| *id).collect();
        for id in due {
            self.renew_held(id);
            self.drive_http(id);
        }
    }

    /// A task is no longer served: whoever reads it goes on, and nobody begins.
    pub(super) fn unshare_http(&mut self, task: TaskId) {
        self.http.kept.forget(task);
    }

    /// Lets clients go: those that are answered to the end of their answers.
    pub(super) fn drain_http(&mut self) {
        self.http.listener = None;
        if let Some(token) = self.http.accepting {
            self.engine.cancel(Token(token));
        }
        let all: Vec<u64> = self.http.connections.keys().copied().collect();
        for id in all {
            if let Some(connection) = self.http.get(id) {
                connection.session.handle(self.now, SessionInput::Finish);
                self.drive_http(id);
            }
        }
    }

    /// Ends all connections where they are: behind bytes that are right, and by a clean end.
    pub(super) fn end_http(&mut self) {
        let all: Vec<u64> = self.http.connections.keys().copied().collect();
        for id in all {
            let Some(connection) = self.http.get(id) else { continue };
            // It may be gone already.
            let _ = rustix::net::shutdown(&*connection.socket, Shutdown::Write);
            let mut bytes = [0; 4096];
            for _ in 0..LAST_BYTES_MAX / bytes.len() {
                // What is left unread at a close takes back what the client has not read yet.
                match rustix::net::recv(&*connection.socket, &mut bytes, RecvFlags::DONTWAIT) {
                    Ok((1.., _)) => {}
                    _ => break,
                }
            }
            self.close_http(id);
        }
    }

    fn close_http(&mut self, id: u64) {
        self.end_exchange(id, false);
        let Some(connection) = self.http.connections.remove(&id) else { return };
        for token in [connection.receive, connection.transmit].into_iter().flatten() {
            self.engine.cancel(Token(token));
        }
        self.counters.http_connections.set(self.http.connections.len() as u64);
        self.submit(Op::Close { file: connection.socket }, Purpose::Close);
    }
}
