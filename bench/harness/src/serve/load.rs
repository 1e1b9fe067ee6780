//! The load generator: one thread, raw sockets, what comes is copied into warm memory and forgotten.

use std::io::IoSliceMut;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hawker_agent::proto::frame::{Frame, FrameKind, HEAD_BYTES, Head};
use hawker_agent::proto::{BlockIndex, PieceIndex};
use hawker_ring::{BLOCK_BYTES, SocketOptions, net};
use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::error::BenchError;
use crate::process::socket_options;

/// Pieces that a connection has asked for, so that the pipe does not run dry between two: as a child's link does.
const PIECES_AHEAD: u64 = 2;
/// A server that says nothing for so long has failed.
const SILENCE_MAX: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// Latencies are kept to 0.1 %, up to a minute.
const LATENCY_DIGITS: u8 = 3;
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const CHANNEL: u16 = 1;

/// Whom to ask for what.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) connections: u32,
    pub(super) piece_bytes: u32,
    pub(super) file_bytes: u64,
    /// `None`: any.
    pub(super) core: Option<usize>,
}

/// What came of one pull.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// Of each block: from when it was the next one due on its connection to its last byte.
    pub(super) latency_ns: Histogram<u64>,
}

/// Connections that stand.
#[derive(Debug)]
pub(super) struct Load {
    poll: std::os::fd::OwnedFd,
    connections: Vec<Connection>,
    pieces_in_file: u64,
    piece_bytes: u32,
    core: Option<usize>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    next_piece: u64,
    /// Not yet asked for in this pull.
    pieces_to_ask: u64,
    /// Asked for and not yet received.
    blocks_due: u64,
    blocks_per_piece: u32,
    due_since: Instant,
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    body_left: usize,
}

impl Load {
    pub(super) fn connect(plan: &Plan) -> Result<Self, BenchError> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(poll_failed)?;
        // Whole pieces only: the file's short tail would be a size of its own.
        let pieces_in_file = plan.file_bytes / u64::from(plan.piece_bytes);
        assert!(pieces_in_file > 0, "the options were checked");
        let block_bytes = u32::try_from(BLOCK_BYTES).expect("a block is smaller than 4 GiB");
        let mut connections = Vec::new();
        for index in 0..u64::from(plan.connections) {
            let socket = TcpStream::connect(plan.address).map_err(BenchError::io("connect to the bench's server"))?;
            let options = SocketOptions { notsent_lowat: None, ..socket_options() };
            net::tune(&socket, &options).map_err(BenchError::io("set up a connection (cubic)"))?;
            socket.set_nonblocking(true).map_err(BenchError::io("set up a connection"))?;
            epoll::add(&poll, &socket, epoll::EventData::new_u64(index), epoll::EventFlags::IN).map_err(poll_failed)?;
            connections.push(Connection {
                socket,
                // Spread over the file: all at one place would be served from the processor's cache.
                next_piece: index * pieces_in_file / u64::from(plan.connections),
                pieces_to_ask: 0,
                blocks_due: 0,
                blocks_per_piece: plan.piece_bytes / block_bytes,
                due_since: Instant::now(),
                head: [0; HEAD_BYTES],
                head_filled: 0,
                body_left: 0,
            });
        }
        let buffer = vec![1; BLOCK_BYTES];
        Ok(Self { poll, connections, pieces_in_file, piece_bytes: plan.piece_bytes, core: plan.core, buffer })
    }

    /// Pulls about `bytes`, the same number of pieces over every connection, on a thread that stays on its core.
    pub(super) fn pull(&mut self, bytes: u64) -> Result<Pulled, BenchError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.core.map_or(Ok(()), super::stay_on)?;
                self.pull_here(bytes)
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn pull_here(&mut self, bytes: u64) -> Result<Pulled, BenchError> {
        let Self { poll, connections, pieces_in_file, buffer, .. } = self;
        let pieces_each = bytes.div_ceil(u64::from(self.piece_bytes)).div_ceil(connections.len() as u64);
        let mut latency_ns = Histogram::new_with_max(LATENCY_NS_MAX, LATENCY_DIGITS)
            .map_err(|error| BenchError::Process(format!("no histogram: {error}")))?;
        let started = Instant::now();
        for connection in connections.iter_mut() {
            connection.pieces_to_ask = pieces_each;
            connection.due_since = Instant::now();
            for _ in 0..PIECES_AHEAD {
                connection.ask(*pieces_in_file)?;
            }
        }
        let mut connections_left = connections.len();
        let mut events = Vec::with_capacity(connections.len());
        while connections_left > 0 {
            events.clear();
            match epoll::wait(&*poll, rustix::buffer::spare_capacity(&mut events), Some(&SILENCE_MAX)) {
                Err(Errno::INTR) => continue,
                result => result.map_err(poll_failed)?,
            };
            if events.is_empty() {
                return Err(BenchError::Process("the bench's server fell silent".to_owned()));
            }
            for event in &events {
                let index = usize::try_from(event.data.u64()).expect("an index was given");
                let connection = &mut connections[index];
                connection.receive(buffer, &mut latency_ns, *pieces_in_file)?;
                if connection.blocks_due == 0 {
                    connections_left -= 1;
                }
            }
        }
        let bytes = pieces_each * connections.len() as u64 * u64::from(self.piece_bytes);
        Ok(Pulled { bytes, elapsed: started.elapsed(), latency_ns })
    }
}

impl Connection {
    /// Asks for the next piece, if there is one in this pull.
    fn ask(&mut self, pieces_in_file: u64) -> Result<(), BenchError> {
        if self.pieces_to_ask == 0 {
            return Ok(());
        }
        let piece =
            PieceIndex(u32::try_from(self.next_piece % pieces_in_file).expect("a task has 2^32 pieces at most"));
        let count = self.blocks_per_piece;
        let bytes = Frame::Request { channel: CHANNEL, piece, block: BlockIndex(0), count }.encode();
        // 32 bytes into a send buffer that holds at most a few of them.
        match rustix::io::write(&self.socket, &bytes) {
            Ok(written) if written == bytes.len() => {}
            Ok(_) => return Err(BenchError::Process("the bench's server takes no requests".to_owned())),
            Err(error) => return Err(BenchError::Io { what: "ask the bench's server", error: error.into() }),
        }
        self.next_piece += 1;
        self.pieces_to_ask -= 1;
        self.blocks_due += u64::from(count);
        Ok(())
    }

    /// Takes what has come: one call, or a few while the socket has more. Others wait meanwhile, so a block at most.
    fn receive(&mut self, buffer: &mut [u8], latency_ns: &mut Histogram<u64>, pieces: u64) -> Result<(), BenchError> {
        let body = self.body_left;
        let mut parts = [IoSliceMut::new(&mut buffer[..body]), IoSliceMut::new(&mut self.head[self.head_filled..])];
        // The head behind the body comes with it: one call a block when it is all there.
        let parts = if body == 0 { &mut parts[1..] } else { &mut parts[..] };
        let count = match rustix::io::readv(&self.socket, parts) {
            Ok(0) => return Err(BenchError::Process("the bench's server closed a connection".to_owned())),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(BenchError::Io { what: "receive from the bench's server", error: error.into() }),
        };
        self.body_left -= count.min(body);
        if body > 0 && self.body_left == 0 {
            self.block_done(latency_ns, pieces)?;
        }
        self.head_filled += count - count.min(body);
        if self.head_filled == HEAD_BYTES {
            self.take_head()?;
        }
        Ok(())
    }

    fn block_done(&mut self, latency_ns: &mut Histogram<u64>, pieces_in_file: u64) -> Result<(), BenchError> {
        let now = Instant::now();
        let nanoseconds = u64::try_from((now - self.due_since).as_nanos()).unwrap_or(LATENCY_NS_MAX);
        latency_ns.saturating_record(nanoseconds);
        self.due_since = now;
        self.blocks_due -= 1;
        if self.blocks_due.is_multiple_of(u64::from(self.blocks_per_piece)) {
            self.ask(pieces_in_file)?;
        }
        Ok(())
    }

    fn take_head(&mut self) -> Result<(), BenchError> {
        let wrong = || BenchError::Process("the bench's server sent something else than blocks".to_owned());
        let head = Head::decode(&self.head).map_err(|_| wrong())?;
        if head.kind() != FrameKind::Block || self.blocks_due == 0 {
            return Err(wrong());
        }
        self.body_left = usize::try_from(head.payload_bytes()).map_err(|_| wrong())?;
        self.head_filled = 0;
        Ok(())
    }
}

fn poll_failed(error: Errno) -> BenchError {
    BenchError::Io { what: "wait for sockets", error: error.into() }
}
