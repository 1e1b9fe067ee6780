//! Connections that waste what they take: thousands of them, slow or silent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hawker_proto::frame::Frame;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a connection says before it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// Nothing.
    Idle,
    /// Half of an HTTP head.
    Head,
    /// A head of 15 KiB without an end.
    LongHead,
    /// HTTP/2's preface and settings, and no request.
    Http2,
    /// Half of a peer's frame.
    Frame,
}

impl Slow {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Idle, Self::Head, Self::LongHead, Self::Http2, Self::Frame];

    fn words(self) -> Vec<u8> {
        match self {
            Self::Idle => Vec::new(),
            Self::Head => b"GET /healthz HTTP/1.1\r\nHost: he".to_vec(),
            Self::LongHead => [b"GET /healthz HTTP/1.1\r\nX: ".as_slice(), vec![b'a'; 15 << 10].as_slice()].concat(),
            Self::Http2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            Self::Frame => {
                let mut frame = Frame::Have { channel: 1, first_piece: 0, bits: vec![1; 256 << 10] }.encode();
                frame.truncate(4 << 10);
                frame
            }
        }
    }
}

/// Lets this process hold a crowd's connections.
///
/// # Panics
/// When the system grants fewer than `needed` descriptors.
pub fn raise_descriptors(needed: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit is allowed");
    assert!(maximum.is_none_or(|maximum| maximum >= needed), "{maximum:?} open files are too few for this test");
}

/// Connections that are kept open, and replaced as soon as the other end closes them. Closes all when dropped.
#[derive(Debug)]
pub struct Crowd {
    ends: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Opens `count` connections, to the addresses in turn, and goes on replacing those that were closed.
    ///
    /// # Panics
    /// When no thread can be had.
    #[must_use]
    pub fn gather(to: &[SocketAddr], count: usize) -> Self {
        let (ends, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (to, is_over, counter) = (to.to_vec(), Arc::clone(&ends), Arc::clone(&opened));
        let thread = std::thread::Builder::new().name("crowd".to_owned());
        let thread = thread.spawn(move || run(&to, count, &is_over, &counter)).expect("a thread");
        Self { ends, opened, thread: Some(thread) }
    }

    /// Connections made so far, replacements counted.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(to: &[SocketAddr], count: usize, is_over: &AtomicBool, opened: &AtomicUsize) {
    let mut crowd: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !is_over.load(Ordering::Relaxed) {
        let mut news = 0;
        for (place, index) in crowd.iter_mut().zip(0..) {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            if place.as_mut().is_none_or(is_closed) {
                *place = connect(to[index % to.len()], Slow::ALL[index / to.len() % Slow::ALL.len()]);
                news += 1;
                opened.fetch_add(1, Ordering::Relaxed);
            }
            // A flood, but not one that is about who gets the two cores: 2,000 a second once all are there.
            if opened.load(Ordering::Relaxed) > count && news % 20 == 19 {
                std::thread::sleep(Duration::from_millis(10));
                news = 0;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A listener whose queue is full does not answer: somebody else's turn then.
fn connect(to: SocketAddr, slow: Slow) -> Option<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&to, Duration::from_millis(200)).ok()?;
    socket.set_nonblocking(true).ok()?;
    // It may be sent away at once.
    let _ = socket.write(&slow.words());
    Some(socket)
}

fn is_closed(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 4096]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
