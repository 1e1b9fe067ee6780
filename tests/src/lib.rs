//! What the end-to-end tests stand on: real processes of the `hawker` binary, nginx as origin, a lab of network
//! namespaces, files that a seed describes.
//!
//! A test that needs what this machine does not have calls [`skip`] and returns: it is named and counted at the end of
//! `tests/run` instead of failing or vanishing.

pub mod caller;
pub mod capture;
pub mod cluster;
pub mod containerd;
pub mod crowd;
pub mod disk;
pub mod files;
mod fuse;
pub mod images;
pub mod island;
pub mod lab;
pub mod liar;
pub mod loopback;
pub mod memory;
pub mod nginx;
pub mod origin;
pub mod podman;
pub mod process;
pub mod registry;
pub mod rig;
pub mod scripted;
pub mod tls;
pub mod token;
pub mod workspace;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Says on stderr, and in the file that `tests/run` names in `HAWKER_SKIPPED`, that `test` did not run and why.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    let Some(path) = std::env::var_os("HAWKER_SKIPPED") else { return };
    let line = format!("{test}: {reason}\n");
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    // The report is a convenience: a test must not fail because it cannot be written.
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("cannot write {}: {error}", path.display());
    }
}

/// Whether files of full size are asked for (`HAWKER_FULL=1`).
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os("HAWKER_FULL").is_some_and(|value| value == "1")
}

/// Whether io_uring works here; kernels, sysctls and container runtimes may deny it.
#[must_use]
pub fn has_io_uring() -> bool {
    hawker_ring::detect(hawker_ring::EngineChoice::Uring).is_ok()
}

/// An address on loopback that nobody listens at. Somebody else may take it before it is used.
///
/// # Panics
/// When loopback has no free port.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    listener.local_addr().expect("a bound listener has an address")
}

/// The whole answer to a plain GET with the head fields `fields`, each ending in CRLF.
///
/// # Panics
/// When nobody answers at `address`, or not with text.
#[must_use]
pub fn http_get(address: SocketAddr, path: &str, fields: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("a timeout");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{fields}\r\n").expect("it reads");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("text");
    text
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Both engines, or the one that works here.
#[must_use]
pub fn engines(test: &str) -> Vec<&'static str> {
    if has_io_uring() {
        return vec!["uring", "epoll"];
    }
    skip(test, "half of it: this kernel or container has no io_uring");
    vec!["epoll"]
}

/// Runs `check` on each engine that this machine has, one test at a time; not at all when there is an `obstacle`.
pub fn on_both_engines(test: &str, obstacle: Option<&str>, check: impl Fn(&'static str)) {
    if let Some(obstacle) = obstacle {
        return skip(test, obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let start = std::time::Instant::now();
        check(engine);
        println!("{test}: {engine} {:.1} s", start.elapsed().as_secs_f64());
    }
}

/// Held by tests that start clusters: several at once on two cores would measure each other.
pub fn exclusive() -> MutexGuard<'static, ()> {
    // A test that failed while it held the lock left nothing behind that the next one could trip over.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
