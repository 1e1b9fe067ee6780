//! Frames and descriptors over the socket.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hawker_api::frame;
use hawker_api::local::{Event, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Most events fit; a longer one grows the buffer, up to the frame's own bound.
const READ_BYTES: usize = 64 * 1024;

/// Descriptors that may wait for their event. An agent sends one per connection.
const DESCRIPTORS_MAX: usize = 4;

/// A connected agent.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    buffer: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// What came within the time given.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack, matched at once")]
pub(crate) enum Heard {
    /// An event, and the descriptor that came before or with it, if it is one that carries one.
    Event(Event, Option<OwnedFd>),
    Silence,
    Closed,
}

impl Connection {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, buffer: Vec::new(), descriptors: VecDeque::new() }
    }

    pub(crate) fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::encode(request, &mut bytes).map_err(io::Error::other)?;
        self.socket.write_all(&bytes)
    }

    /// The next event, waiting for it at most `wait`; zero only looks.
    pub(crate) fn hear(&mut self, wait: Duration) -> io::Result<Heard> {
        loop {
            let decoded = frame::decode::<Event>(&self.buffer).map_err(io::Error::other)?;
            if let Some((event, taken)) = decoded {
                self.buffer.drain(..taken);
                let is_opened = matches!(event.event, Some(hawker_api::local::event::Event::Opened(_)));
                let descriptor = if is_opened { self.descriptors.pop_front() } else { None };
                return Ok(Heard::Event(event, descriptor));
            }
            match self.read(wait) {
                Ok(0) if self.buffer.is_empty() => return Ok(Heard::Closed),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_silence(&error) => return Ok(Heard::Silence),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::Closed),
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, wait: Duration) -> io::Result<usize> {
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        if wait.is_zero() {
            flags |= RecvFlags::DONTWAIT;
        } else {
            self.socket.set_read_timeout(Some(wait))?;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let start = self.buffer.len();
        self.buffer.resize(start + READ_BYTES, 0);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut self.buffer[start..])],
            &mut ancillary,
            flags,
        );
        let count = received.as_ref().map_or(0, |message| message.bytes);
        self.buffer.truncate(start + count);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                // More than the bound are closed here.
                let room = DESCRIPTORS_MAX - self.descriptors.len();
                self.descriptors.extend(descriptors.take(room));
            }
        }
        received?;
        Ok(count)
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
