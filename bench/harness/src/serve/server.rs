//! The measured side: one thread, one engine, blocks of one file to whoever asks.
//!
//! It speaks the peer protocol from REQUEST on: no HELLO, OPEN or grants, which are the agent's work and not the
//! engine's. All connections are served at once, each block by one Transmit.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hawker_agent::proto::frame::{FrameKind, HEAD_BYTES, Head};
use hawker_agent::proto::{BlockIndex, PieceIndex};
use hawker_ring::{
    BLOCK_BYTES, Body, Completion, Engine, EngineChoice, EngineConfig, File, Op, Outcome, Received, Strategy, TailBuf,
    Token, detect, net, open,
};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::process::socket_options;
use crate::worker::{say_ready, wait_for_end};

const ACCEPT: Token = Token(u64::MAX);
const BACKLOG: u16 = 1024;
/// Heads taken from a socket at once.
const HEADS_MAX: usize = 16;
/// Requests of one connection that wait; more is a peer that does not know this server.
const REQUESTS_MAX: usize = 64;

/// What a serving worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServeOrder {
    /// As `--engine` takes it.
    pub(crate) engine: String,
    pub(crate) strategy: crate::Strategy,
    pub(crate) file: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) piece_bytes: u32,
    /// `None`: any.
    pub(crate) core: Option<usize>,
}

/// Serves until standard input ends.
pub(crate) fn serve(order: &ServeOrder) -> Result<(), BenchError> {
    let mut server = Server::open(order)?;
    // The engine's thread waits for the kernel alone, so another one sees the end.
    std::thread::spawn(|| {
        wait_for_end();
        std::process::exit(0);
    });
    let address = net::local_address(&server.listener).map_err(BenchError::io("find our own port"))?;
    say_ready(&address.to_string())?;
    server.run()
}

struct Server {
    engine: Box<dyn Engine>,
    listener: File,
    file: File,
    bytes: u64,
    piece_bytes: u64,
    strategy: Strategy,
    connections: Vec<Connection>,
}

/// A peer. Slots are not used again: a bench's peers stay as long as its server.
struct Connection {
    socket: File,
    requests: VecDeque<Request>,
    /// Heads for reuse while no Transmit has them.
    head: Option<Vec<u8>>,
    /// Bytes of a head that has not come whole.
    partial: Vec<u8>,
    is_open: bool,
}

/// Blocks of one piece that are still to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    channel: u16,
    piece: PieceIndex,
    next_block: u32,
    blocks_left: u32,
}

impl Server {
    fn open(order: &ServeOrder) -> Result<Self, BenchError> {
        if let Some(core) = order.core {
            super::stay_on(core)?;
        }
        let choice: EngineChoice = order.engine.parse().map_err(BenchError::Usage)?;
        let detection = detect(choice).map_err(|error| BenchError::Host(error.to_string()))?;
        let engine = open(&detection, &EngineConfig::default()).map_err(BenchError::io("open an engine"))?;
        let file = std::fs::File::open(&order.file).map_err(BenchError::io("open the content"))?;
        let listener = net::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), BACKLOG)
            .map_err(BenchError::io("listen on loopback"))?;
        Ok(Self {
            engine,
            listener,
            file: Arc::new(file.into()),
            bytes: order.bytes,
            piece_bytes: u64::from(order.piece_bytes),
            strategy: order.strategy.into(),
            connections: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<(), BenchError> {
        self.accept();
        let mut completions = Vec::new();
        loop {
            self.engine.turn(None, &mut completions);
            for completion in completions.drain(..) {
                self.complete(completion)?;
            }
        }
    }

    fn accept(&mut self) {
        self.engine.submit(ACCEPT, Op::Accept { listener: File::clone(&self.listener) });
    }

    fn complete(&mut self, Completion { token, outcome }: Completion) -> Result<(), BenchError> {
        match outcome {
            Outcome::Accepted(result) => {
                let (socket, _) = result.map_err(BenchError::io("accept a connection"))?;
                net::tune(&socket, &socket_options()).map_err(BenchError::io("set up a connection (cubic)"))?;
                self.add(socket);
                self.accept();
            }
            Outcome::Received { result, tail, .. } => match result {
                Ok(Received { is_eof: false, .. }) => self.received(index_of(token), tail),
                // The load generator has what it wanted.
                Ok(_) | Err(_) => self.connections[index_of(token)].is_open = false,
            },
            Outcome::Transmitted { result, head, .. } => {
                let index = index_of(token);
                self.connections[index].head = Some(head);
                self.connections[index].is_open &= result.is_ok();
                self.send_next(index);
            }
            _ => unreachable!("nothing else was submitted"),
        }
        Ok(())
    }

    fn add(&mut self, socket: File) {
        let head = Some(Vec::with_capacity(HEAD_BYTES));
        let index = self.connections.len();
        self.connections.push(Connection {
            socket,
            requests: VecDeque::with_capacity(REQUESTS_MAX),
            head,
            partial: Vec::with_capacity(HEAD_BYTES),
            is_open: true,
        });
        self.receive(index, Vec::with_capacity(HEADS_MAX * HEAD_BYTES));
    }

    fn receive(&mut self, index: usize, bytes: Vec<u8>) {
        let socket = File::clone(&self.connections[index].socket);
        let tail = TailBuf::up_to(bytes, HEADS_MAX * HEAD_BYTES);
        self.engine.submit(receive_token(index), Op::Receive { socket, body: None, tail });
    }

    fn received(&mut self, index: usize, bytes: Vec<u8>) {
        let connection = &mut self.connections[index];
        connection.take_heads(&bytes);
        if connection.is_open {
            self.send_next(index);
            self.receive(index, bytes);
        }
    }

    /// Sends the next block, unless one is on its way.
    fn send_next(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(request) = connection.requests.front_mut().filter(|_| connection.is_open) else { return };
        let Some(mut head) = connection.head.take() else { return };
        let block = request.next_block;
        let offset = u64::from(request.piece.0) * self.piece_bytes + u64::from(block) * BLOCK_BYTES as u64;
        let length = self.bytes.saturating_sub(offset).min(BLOCK_BYTES as u64);
        let Ok(length_u32 @ 1..) = u32::try_from(length) else {
            // Beyond the file: no request of this bench's generator.
            connection.is_open = false;
            return;
        };
        head.clear();
        head.extend_from_slice(&Head::block(request.channel, request.piece, BlockIndex(block), length_u32).encode());
        request.next_block += 1;
        request.blocks_left -= 1;
        if request.blocks_left == 0 {
            connection.requests.pop_front();
        }
        let socket = File::clone(&connection.socket);
        let body = Body::File { file: File::clone(&self.file), offset, length };
        self.engine.submit(send_token(index), Op::Transmit { socket, head, body, strategy: self.strategy });
    }
}

impl Connection {
    /// Cuts what came into heads, across receives. Anything but REQUESTs in bounds closes the connection.
    fn take_heads(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.is_open {
            let (now, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = rest;
            let Ok(head) = <&[u8; HEAD_BYTES]>::try_from(self.partial.as_slice()) else { return };
            match request_of(head) {
                Some(request) if self.requests.len() < REQUESTS_MAX => self.requests.push_back(request),
                _ => self.is_open = false,
            }
            self.partial.clear();
        }
    }
}

fn request_of(bytes: &[u8; HEAD_BYTES]) -> Option<Request> {
    let head = Head::decode(bytes).ok().filter(|head| head.kind() == FrameKind::Request)?;
    let Ok(hawker_agent::proto::frame::Frame::Request { channel, piece, block, count }) =
        hawker_agent::proto::frame::Frame::decode(&head, &[])
    else {
        return None;
    };
    Some(Request { channel, piece, next_block: block.0, blocks_left: count })
}

fn receive_token(index: usize) -> Token {
    Token(index as u64 * 2)
}

fn send_token(index: usize) -> Token {
    Token(index as u64 * 2 + 1)
}

fn index_of(token: Token) -> usize {
    usize::try_from(token.0 / 2).expect("a token was made of an index")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_agent::proto::frame::Frame;

    fn connection() -> Connection {
        let (socket, _) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        Connection {
            socket: Arc::new(socket.into()),
            requests: VecDeque::new(),
            head: Some(Vec::new()),
            partial: Vec::new(),
            is_open: true,
        }
    }

    fn request(piece: u32) -> Vec<u8> {
        Frame::Request { channel: 1, piece: PieceIndex(piece), block: BlockIndex(0), count: 4 }.encode()
    }

    #[test]
    fn requests_are_found_wherever_receives_cut_them() {
        let bytes = [request(7), request(8)].concat();
        for cut in 0..=bytes.len() {
            let mut connection = connection();
            connection.take_heads(&bytes[..cut]);
            connection.take_heads(&bytes[cut..]);
            let pieces: Vec<u32> = connection.requests.iter().map(|request| request.piece.0).collect();
            assert_eq!((pieces, connection.is_open), (vec![7, 8], true), "cut at {cut}");
        }
    }

    #[test]
    fn a_peer_that_says_anything_else_is_closed() {
        for bytes in [vec![0xff; HEAD_BYTES], Frame::Ping { aux: 1 }.encode()] {
            let mut connection = connection();
            connection.take_heads(&bytes);
            assert!(!connection.is_open);
        }
    }

    #[test]
    fn a_peer_that_asks_without_end_is_closed() {
        let mut connection = connection();
        connection.take_heads(&request(1).repeat(REQUESTS_MAX));
        assert!(connection.is_open);
        connection.take_heads(&request(1));
        assert!(!connection.is_open);
    }
}
