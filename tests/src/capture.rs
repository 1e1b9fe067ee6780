//! Every TCP packet of an island, searched as it passes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, sockopt};

use crate::island::Island;

/// Packets that are not of `but`'s ports, searched for a word.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Seen>,
}

#[derive(Debug)]
struct Seen {
    word: &'static str,
    but: Vec<u16>,
    is_over: AtomicBool,
    bytes: AtomicU64,
    found: Mutex<Vec<String>>,
}

impl Capture {
    /// Looks from now on for `word` in what passes between any ports but those of `but`.
    ///
    /// # Panics
    /// When the kernel gives no packets: islands need root anyway.
    #[must_use]
    pub fn start(island: &Island, word: &'static str, but: Vec<u16>) -> Self {
        let (is_over, bytes, found) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
        let seen = Arc::new(Seen { word, but, is_over, bytes, found });
        let socket = island.run(|| rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL)));
        let socket = socket.expect("root may");
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).expect("root may");
        let tick = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, tick).expect("a socket");
        let looking = Arc::clone(&seen);
        std::thread::spawn(move || {
            // A packet of many segments crosses loopback as one.
            let mut packet = vec![0; 128 << 10];
            while !looking.is_over.load(Ordering::Relaxed) {
                if let Ok((length, _)) = rustix::net::recv(&socket, &mut packet[..], RecvFlags::empty()) {
                    looking.look_at(&packet[..length]);
                }
            }
        });
        Self { seen }
    }

    /// Bytes looked at so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::Relaxed)
    }

    /// Between which ports the word passed so far.
    #[must_use]
    pub fn found(&self) -> Vec<String> {
        self.seen.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.seen.is_over.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    fn look_at(&self, packet: &[u8]) {
        // Ethernet, IPv4 and its length in words, TCP.
        if packet.len() < 54 || packet[12..14] != [8, 0] || packet[23] != 6 {
            return;
        }
        let tcp = 14 + usize::from(packet[14] & 15) * 4;
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let (from, to) = (port(tcp), port(tcp + 2));
        if self.but.contains(&from) || self.but.contains(&to) {
            return;
        }
        self.bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
        if packet.windows(self.word.len()).any(|window| window == self.word.as_bytes()) {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{from} to {to}"));
        }
    }
}
