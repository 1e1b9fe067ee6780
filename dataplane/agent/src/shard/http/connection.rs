//! One client's connection: runs its session, receives and transmits for it.

use std::net::SocketAddr;
use std::sync::Arc;

use hawker_proto::http1::{HttpSession, Reply, ReplyBody, SessionConfig, SessionInput, SessionOutput};
use hawker_proto::{ByteRange, Instant};
use hawker_ring::{Body, File, Op, Received, Strategy, TailBuf};
use rustix::net::{Shutdown, sockopt};

use super::exchange::Exchange;
use super::{HttpPurpose, Purpose, Shard};
use crate::clock;
use crate::seam::BodyPart;
use crate::share::SharedTask;

/// What a receive asks for: a head is rarely longer, and thousands of clients may be silent.
const HEAD_RECEIVE_BYTES: usize = 4 * 1024;
/// What it asks for while a request's body is coming.
const BODY_RECEIVE_BYTES: usize = 32 * 1024;

/// One connection.
pub(super) struct Connection {
    pub(super) socket: File,
    pub(super) from: SocketAddr,
    /// The client is on this host: the network's limits are not about it.
    pub(super) is_local: bool,
    pub(super) session: HttpSession,
    /// The operation in flight in each direction.
    pub(super) receive: Option<u64>,
    pub(super) transmit: Option<u64>,
    /// Of the content, in the transmit in flight.
    pub(super) transmit_bytes: u64,
    /// What the session wants sent and no transmit carries yet.
    pub(super) held: Option<Held>,
    /// Of this task a block is being read for it.
    pub(super) checking: Option<Arc<SharedTask>>,
    /// The end of the block that was just read and is right, whatever the kernel says of its pages.
    pub(super) fresh_until: u64,
    /// The request that is being answered.
    pub(super) exchange: Option<Exchange>,
    pub(super) requests: u64,
    is_corked: bool,
    /// Where spent receive buffers wait for the next receive.
    spare: Vec<u8>,
    /// Since when nothing is asked for, or its answer goes out.
    idle_since: Instant,
    pub(super) sending_since: Option<Instant>,
}

/// See `Connection::held`.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) head: Vec<u8>,
    pub(super) body: Option<ByteRange>,
}

impl Connection {
    pub(super) fn new(socket: File, from: SocketAddr, is_local: bool, config: SessionConfig, now: Instant) -> Self {
        Self {
            socket,
            from,
            is_local,
            session: HttpSession::new(config, now),
            receive: None,
            transmit: None,
            transmit_bytes: 0,
            held: None,
            checking: None,
            fresh_until: 0,
            exchange: None,
            requests: 0,
            is_corked: false,
            spare: Vec::new(),
            idle_since: now,
            sending_since: None,
        }
    }

    /// Since when it asks for nothing.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.exchange.is_none().then_some(self.idle_since)
    }

    /// Since when the kernel has bytes to send that it does not get rid of.
    pub(super) fn sending_since(&self) -> Option<Instant> {
        self.sending_since
    }

    /// The session waits for something to be sent that cannot be yet, for no fault of the client.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some() && self.transmit.is_none()
    }

    fn receive_bytes(&self) -> usize {
        let is_body = self.exchange.as_ref().is_some_and(|exchange| exchange.body.is_some());
        if is_body { BODY_RECEIVE_BYTES } else { HEAD_RECEIVE_BYTES }
    }
}

impl Shard {
    /// Does what the session wants, and receives more if it takes more.
    pub(super) fn drive_http(&mut self, id: u64) {
        let now = self.now;
        while let Some(connection) = self.http.get(id) {
            let Some(output) = connection.session.poll(now) else { break };
            match output {
                SessionOutput::Request(request) => self.begin_exchange(id, request),
                SessionOutput::Refused(refusal) => {
                    connection.begin_refused();
                    let text = format!("{refusal}\n");
                    self.reply_text(id, refusal.status(), &text);
                }
                SessionOutput::Body(bytes) => connection.tell(BodyPart::Bytes(bytes)),
                SessionOutput::BodyEnd => connection.tell(BodyPart::End),
                SessionOutput::BodyRefused(refusal) => connection.tell(BodyPart::Refused(refusal)),
                SessionOutput::Send { bytes, body } => {
                    connection.held = Some(Held { head: bytes, body });
                    self.go_on_sending(id);
                }
                SessionOutput::Answered { is_complete, .. } => self.end_exchange(id, is_complete),
                SessionOutput::Abandoned => self.end_exchange(id, false),
                SessionOutput::ShutdownWrite => {
                    // A client that is gone is met by the receive.
                    let _ = rustix::net::shutdown(&*connection.socket, Shutdown::Write);
                }
                SessionOutput::Close => return self.close_http(id),
            }
        }
        self.receive_http(id);
    }

    fn receive_http(&mut self, id: u64) {
        let Some(connection) = self.http.get(id).filter(|connection| connection.receive.is_none()) else { return };
        let bytes = connection.session.room().min(connection.receive_bytes());
        if bytes == 0 {
            return;
        }
        let (socket, spare) = (connection.socket.clone(), std::mem::take(&mut connection.spare));
        let receive = Op::Receive { socket, body: None, tail: TailBuf::up_to(spare, bytes) };
        let token = self.submit(receive, Purpose::Http(HttpPurpose::Receive { connection: id }));
        if let Some(connection) = self.http.get(id) {
            connection.receive = Some(token);
        }
    }

    pub(super) fn on_http_received(&mut self, id: u64, received: Option<Received>, tail: Vec<u8>) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        connection.receive = None;
        // The session may have become deaf since the receive began; then it takes less.
        let taken = tail.len().min(connection.session.room());
        connection.session.handle(now, SessionInput::Bytes(&tail[..taken]));
        match received {
            Some(received) if taken == tail.len() => {
                if received.is_eof {
                    connection.session.handle(now, SessionInput::Eof);
                }
            }
            _ => connection.session.handle(now, SessionInput::Failed),
        }
        if tail.capacity() <= HEAD_RECEIVE_BYTES {
            connection.spare = tail;
        }
        self.drive_http(id);
    }

    /// Hands `head` and `body` to the kernel as one; `bytes` of the body are the content's.
    pub(super) fn transmit_http(&mut self, id: u64, head: Vec<u8>, body: Body, bytes: u64) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        let socket = connection.socket.clone();
        let op = Op::Transmit { socket, head, body, strategy: Strategy::Sendfile };
        let token = self.submit(op, Purpose::Http(HttpPurpose::Transmit { connection: id }));
        if let Some(connection) = self.http.get(id) {
            connection.transmit = Some(token);
            connection.transmit_bytes = bytes;
            connection.sending_since = Some(now);
        }
    }

    pub(super) fn on_http_transmitted(&mut self, id: u64, is_sent: bool) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        (connection.transmit, connection.sending_since) = (None, None);
        let bytes = std::mem::take(&mut connection.transmit_bytes);
        if is_sent {
            connection.session.handle(now, SessionInput::Sent { body_bytes: bytes });
            if let Some(exchange) = &mut connection.exchange {
                exchange.sent(bytes);
            }
            self.counters.http_bytes.add(bytes);
            self.note_available(id);
            self.note_reader(id);
        } else {
            connection.session.handle(now, SessionInput::Failed);
        }
        self.drive_http(id);
    }

    /// Answers from the shard itself.
    pub(super) fn reply_text(&mut self, id: u64, status: u16, text: &str) {
        let headers = vec![("Content-Type".to_owned(), "text/plain; charset=utf-8".to_owned())];
        let reply = Reply::new(status, headers, ReplyBody::Inline(text.as_bytes().to_vec()));
        self.reply_http(id, reply.expect("a text of our own is an answer"));
    }

    /// Hands an answer to the session.
    pub(super) fn reply_http(&mut self, id: u64, reply: Reply) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        if let Some(exchange) = &mut connection.exchange {
            exchange.answer(&reply);
        }
        let class = usize::from(reply.status() / 100).clamp(2, 5) - 2;
        let reply = reply.dated(clock::unix_ms() / 1000);
        connection.session.handle(now, SessionInput::Reply(reply));
        self.counters.http_answers[class].add(1);
    }
}

impl Connection {
    /// Bytes that are no request are answered here; nobody else hears of them.
    fn begin_refused(&mut self) {
        self.requests += 1;
        self.exchange = Some(Exchange::unasked(self.requests));
    }

    fn tell(&mut self, part: BodyPart) {
        if let Some(exchange) = &mut self.exchange {
            exchange.tell(part);
        }
    }

    /// Has the kernel keep a last segment that is not full while more follows at once: one of them for each send cost a
    /// sixth of what nginx gives on loopback, whose segments are long.
    pub(super) fn cork(&mut self, is_more: bool) {
        if self.is_corked != is_more && sockopt::set_tcp_cork(&*self.socket, is_more).is_ok() {
            self.is_corked = is_more;
        }
    }

    /// The request is over.
    pub(super) fn forget_exchange(&mut self, now: Instant) -> Option<Exchange> {
        self.idle_since = now;
        self.cork(false);
        self.held = None;
        self.fresh_until = 0;
        self.exchange.take()
    }
}
