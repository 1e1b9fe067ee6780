//! One suite, two engines: every test is a function of a [`Rig`], run by `on_both_engines!`.
#![allow(dead_code, unused_macros, unused_imports, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawker_ring::{
    BLOCK_BYTES, Block, Budget, Completion, Engine, EngineChoice, EngineConfig, File, Op, Outcome, Slab, SlabLimits,
    Token, detect, open,
};

/// Makes a test of each function for each engine.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod uring { $(#[test] fn $name() { super::common::run(hawker_ring::EngineChoice::Uring, super::$name); })* }
        mod epoll { $(#[test] fn $name() { super::common::run(hawker_ring::EngineChoice::Epoll, super::$name); })* }
    };
}
pub(crate) use on_both_engines;

/// A test that has not ended by then hangs; nothing here takes a second.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Opens the engine, or says by name why the test was skipped.
pub(crate) fn open_engine(choice: EngineChoice) -> Option<Box<dyn Engine>> {
    match detect(choice) {
        Ok(detection) => Some(open(&detection, &EngineConfig::default()).expect("the engine opens")),
        Err(unavailable) => {
            eprintln!("skipped: {unavailable}");
            None
        }
    }
}

pub(crate) fn run(choice: EngineChoice, test: fn(&mut Rig<'_>)) {
    let Some(mut engine) = open_engine(choice) else { return };
    let mut rig = Rig::new(&mut *engine);
    test(&mut rig);
    assert!(rig.done.is_empty(), "completions that the test did not ask for: {:?}", rig.done);
}

/// An engine and its completions by token.
pub(crate) struct Rig<'a> {
    pub(crate) engine: &'a mut dyn Engine,
    next_token: u64,
    out: Vec<Completion>,
    done: HashMap<u64, Outcome>,
}

impl<'a> Rig<'a> {
    pub(crate) fn new(engine: &'a mut dyn Engine) -> Self {
        Self { engine, next_token: 0, out: Vec::new(), done: HashMap::new() }
    }

    pub(crate) fn submit(&mut self, op: Op) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.engine.submit(token, op);
        token
    }

    /// One turn; what completed is kept for `finish`.
    pub(crate) fn turn(&mut self, wait: Option<Duration>) -> usize {
        self.engine.turn(wait, &mut self.out);
        let count = self.out.len();
        for completion in self.out.drain(..) {
            let before = self.done.insert(completion.token.0, completion.outcome);
            assert!(before.is_none(), "{:?} completed twice", completion.token);
        }
        count
    }

    pub(crate) fn is_done(&self, token: Token) -> bool {
        self.done.contains_key(&token.0)
    }

    pub(crate) fn finish(&mut self, token: Token) -> Outcome {
        let started = Instant::now();
        loop {
            if let Some(outcome) = self.done.remove(&token.0) {
                return outcome;
            }
            let left = TIME_MAX.checked_sub(started.elapsed()).unwrap_or_else(|| panic!("{token:?} hangs"));
            self.turn(Some(left));
        }
    }

    pub(crate) fn run(&mut self, op: Op) -> Outcome {
        let token = self.submit(op);
        self.finish(token)
    }

    pub(crate) fn open(&mut self, path: &std::path::Path, flags: hawker_ring::OFlags) -> File {
        let Outcome::Opened(result) =
            self.run(Op::Open { path: c_path(path), flags, mode: hawker_ring::Mode::from_raw_mode(0o600) })
        else {
            panic!("not an open")
        };
        result.expect("the file opens")
    }

    pub(crate) fn done(&mut self, op: Op) -> std::io::Result<()> {
        let Outcome::Done(result) = self.run(op) else { panic!("not a plain outcome") };
        result
    }
}

pub(crate) fn c_path(path: &std::path::Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_str().expect("utf-8")).expect("no NUL")
}

/// A nonblocking connection for the engine, and its blocking other end.
pub(crate) fn connection() -> (File, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let ours = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    ours.set_nonblocking(true).expect("nonblocking");
    let (theirs, _) = listener.accept().expect("accept");
    theirs.set_read_timeout(Some(TIME_MAX)).expect("timeout");
    // In every kernel; BBR, where it is the default, paces loopback and slow readers down to seconds.
    let options = hawker_ring::SocketOptions {
        congestion: Some("reno".into()),
        // A test may write more than this before anybody reads.
        notsent_lowat: None,
        ..Default::default()
    };
    for socket in [&ours, &theirs] {
        hawker_ring::net::tune(socket, &options).expect("tune");
    }
    (Arc::new(OwnedFd::from(ours)), theirs)
}

/// The same with send buffers so small that a sender soon waits.
pub(crate) fn narrow_connection() -> (File, TcpStream) {
    let (ours, theirs) = connection();
    let options = hawker_ring::SocketOptions { send_buffer_bytes: Some(64 * 1024), ..Default::default() };
    hawker_ring::net::tune(&ours, &options).expect("tune");
    (ours, theirs)
}

pub(crate) fn listener() -> (File, SocketAddr) {
    let listener =
        hawker_ring::net::listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), 128).expect("listener opens");
    let address = hawker_ring::net::local_address(&listener).expect("address");
    (listener, address)
}

/// Bytes that differ by position, so that a byte at the wrong place is seen.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn slab(blocks: usize) -> Slab {
    let bytes_max = (blocks * BLOCK_BYTES).next_multiple_of(hawker_ring::QUANTUM_BYTES);
    Slab::new(SlabLimits { bytes_max, reserve_blocks: 0 }, Budget::new(bytes_max)).expect("slab")
}

pub(crate) fn block() -> Block {
    slab(1).take().expect("a block")
}

pub(crate) fn read_in_thread(mut stream: TcpStream, length: usize) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).expect("the peer's bytes");
        bytes
    })
}

pub(crate) fn write_in_thread(
    mut stream: TcpStream,
    bytes: Vec<u8>,
    step: usize,
) -> std::thread::JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        stream.set_nodelay(true).expect("nodelay");
        for part in bytes.chunks(step) {
            stream.write_all(part).expect("write");
        }
        stream
    })
}

/// Ends a connection by RST.
pub(crate) fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
}

pub(crate) fn temporary_directory() -> tempfile::TempDir {
    // A disk, where /tmp may be tmpfs: O_DIRECT is meant.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory")
}

pub(crate) fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or_else(|| panic!("{error} has no number"))
}
