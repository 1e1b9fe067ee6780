//! One HTTP/1.1 connection from a client: bytes in, requests out in order, answers in, what to send out.
//!
//! Requests that come early wait in the inbox, which holds one head of the largest kind; when it is full, `room` is
//! zero, the shell reads no more, and TCP holds the client back. Every wait for the client has an end; the waits for the
//! shell (a reply, `BodyTaken`, content) are the shell's to end. A connection ends by a clean FIN behind what was right,
//! and by a reset only when the client is gone, reads nothing, or sends without end.

mod body;
mod events;
mod exchange;
mod flow;
mod inbox;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

pub use events::{SessionConfig, SessionInput, SessionOutput};

use body::Wanted;
use exchange::Exchange;
use inbox::{INBOX_BYTES_MAX, Inbox};

use super::incoming::RequestReader;
use super::{BodyFraming, Refusal, Reply};
use crate::{ByteRange, Instant};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The machine of one connection.
#[derive(Debug)]
pub struct HttpSession {
    config: SessionConfig,
    phase: Phase,
    inbox: Inbox,
    reader: RequestReader,
    /// Heads and inline bodies, not handed out to be sent yet.
    outbox: Vec<u8>,
    sending: Option<Sending>,
    /// When the client must have sent what is waited for.
    read_by: Option<Instant>,
    /// Body bytes that came since the window began.
    window_bytes: u64,
    /// Bytes that may still come and be thrown away.
    deaf_bytes_left: u64,
    is_eof: bool,
    is_finishing: bool,
    outputs: VecDeque<SessionOutput>,
}

#[derive(Debug)]
enum Phase {
    /// Between requests, or in a head.
    Head,
    /// A request is being answered.
    Exchange(Exchange),
    /// Our side has ended; the client's has not.
    Lingering,
    Closed,
}

/// What the shell sends now.
#[derive(Clone, Copy, Debug)]
struct Sending {
    content_bytes: u64,
    by: Instant,
}

impl HttpSession {
    /// The session of a connection that was accepted at `now`.
    #[must_use]
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        assert!(config.send_bytes_max > 0 && config.send_bytes_per_s_min > 0 && config.body_window_bytes > 0);
        Self {
            phase: Phase::Head,
            inbox: Inbox::default(),
            reader: RequestReader::default(),
            outbox: Vec::new(),
            sending: None,
            read_by: Some(now + config.first_byte_limit),
            window_bytes: 0,
            deaf_bytes_left: config.linger_bytes_max,
            is_eof: false,
            is_finishing: false,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: SessionInput<'_>) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        match input {
            SessionInput::Bytes(bytes) if bytes.len() > self.room() => self.fail(),
            SessionInput::Bytes(bytes) => self.receive(now, bytes),
            SessionInput::Eof => self.is_eof = true,
            SessionInput::Failed => self.fail(),
            SessionInput::TakeBody => self.take_body(),
            SessionInput::BodyTaken => self.on_body_taken(),
            SessionInput::Reply(reply) => self.reply(&reply),
            SessionInput::Available { upto } => self.on_available(upto),
            SessionInput::ContentLost { upto } => self.on_content_lost(upto),
            SessionInput::Sent { body_bytes } => self.on_sent(body_bytes),
            SessionInput::Finish => self.is_finishing = true,
        }
    }

    /// The next thing to do. Call until `None` after every `handle`, and when the deadline passes.
    pub fn poll(&mut self, now: Instant) -> Option<SessionOutput> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let is_changed = match self.phase {
                Phase::Head => self.read_request(now),
                Phase::Exchange(_) => self.send(now) || self.read_body() || self.end_exchange(now),
                Phase::Lingering => self.linger(),
                Phase::Closed => false,
            };
            // Last: what came in time counts, however late this process looks at it.
            if !is_changed && !self.expire(now) {
                self.watch_body(now);
                return None;
            }
        }
    }

    /// When to call `poll` if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.read_by.into_iter().chain(self.sending.map(|sending| sending.by)).min()
    }

    /// Bytes that the session takes now; zero: do not read. At least one, and a read should be under way, so that the
    /// client's end is seen.
    #[must_use]
    pub fn room(&self) -> usize {
        match &self.phase {
            _ if self.is_eof => 0,
            Phase::Closed => 0,
            _ if self.is_deaf() => usize::try_from(self.deaf_bytes_left).unwrap_or(usize::MAX).min(INBOX_BYTES_MAX),
            Phase::Head | Phase::Exchange(_) | Phase::Lingering => self.inbox.room(),
        }
    }

    /// Whether nothing is under way: no request, no byte of one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.inbox.is_empty() && self.outputs.is_empty()
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// On a bug of this module.
    pub fn assert_invariants(&self) {
        assert!(self.inbox.bytes().len() <= INBOX_BYTES_MAX);
        match &self.phase {
            Phase::Head => {
                assert!(self.read_by.is_some(), "a head is waited for without end");
                assert!(self.outbox.is_empty() && self.sending.is_none(), "an answer ends before the next request");
            }
            Phase::Exchange(exchange) => {
                assert!(exchange.outgoing.is_none() || exchange.wanted == Wanted::Drained);
                assert!(!exchange.is_deaf() || self.inbox.is_empty());
                assert!(self.sending.is_none_or(|sending| sending.content_bytes <= self.config.send_bytes_max));
            }
            Phase::Lingering => {
                assert!(self.read_by.is_some(), "the client's end is waited for without end");
                assert!(self.outbox.is_empty() && self.inbox.is_empty() && self.sending.is_none());
            }
            Phase::Closed => assert!(self.deadline().is_none() && self.room() == 0),
        }
    }

    fn is_deaf(&self) -> bool {
        match &self.phase {
            Phase::Exchange(exchange) => exchange.is_deaf(),
            Phase::Lingering => true,
            Phase::Head | Phase::Closed => false,
        }
    }

    fn receive(&mut self, now: Instant, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_deaf() {
            self.deaf_bytes_left -= bytes.len() as u64;
            return;
        }
        if matches!(self.phase, Phase::Head) && self.inbox.is_empty() {
            self.read_by = Some(now + self.config.head_limit);
        }
        self.window_bytes += bytes.len() as u64;
        self.inbox.push(bytes);
    }

    /// Takes the next request off the inbox.
    fn read_request(&mut self, now: Instant) -> bool {
        if self.inbox.is_empty() && (self.is_eof || self.is_finishing) {
            return self.end(now);
        }
        let (output, exchange) = match self.reader.read(self.inbox.bytes()) {
            Ok(None) if self.is_eof => return self.end(now),
            Ok(None) => return false,
            Ok(Some((request, head_bytes))) => {
                self.inbox.take(head_bytes);
                if is_longer(request.framing, self.config.body_bytes_max) {
                    (SessionOutput::Refused(Refusal::BodyTooLong), Exchange::refused())
                } else {
                    let exchange = Exchange::new(&request, &self.config);
                    (SessionOutput::Request(request), exchange)
                }
            }
            Err(refusal) => (SessionOutput::Refused(refusal), Exchange::refused()),
        };
        self.reader = RequestReader::default();
        self.read_by = None;
        self.phase = Phase::Exchange(exchange);
        self.outputs.push_back(output);
        true
    }

    fn exchange(&mut self) -> Option<&mut Exchange> {
        match &mut self.phase {
            Phase::Exchange(exchange) => Some(exchange),
            _ => None,
        }
    }

    fn reply(&mut self, reply: &Reply) {
        let Phase::Exchange(exchange) = &mut self.phase else { return };
        if exchange.outgoing.is_some() {
            return;
        }
        exchange.is_kept &= !self.is_finishing;
        exchange.reply(reply, &mut self.outbox, &self.config);
        if exchange.is_deaf() {
            self.inbox.clear();
        }
    }

    fn on_available(&mut self, upto: u64) {
        if let Some(outgoing) = self.exchange().and_then(|exchange| exchange.outgoing.as_mut()) {
            outgoing.available = if outgoing.is_lost { outgoing.available } else { outgoing.available.max(upto) };
        }
    }

    fn on_content_lost(&mut self, upto: u64) {
        if let Some(outgoing) = self.exchange().and_then(|exchange| exchange.outgoing.as_mut()) {
            outgoing.available = outgoing.available.min(upto);
            outgoing.is_lost = true;
        }
    }

    fn on_sent(&mut self, content_bytes: u64) {
        let Some(sending) = self.sending.take() else { return };
        let Some(exchange) = self.exchange() else { return };
        let content_bytes = content_bytes.min(sending.content_bytes);
        exchange.content_bytes += content_bytes;
        if let Some(outgoing) = &mut exchange.outgoing {
            outgoing.advance(content_bytes);
        }
    }

    /// Hands out what can be sent.
    fn send(&mut self, now: Instant) -> bool {
        let bytes_max = self.config.send_bytes_max;
        let outgoing = self.exchange().and_then(|exchange| exchange.outgoing);
        let body = outgoing.and_then(|outgoing| outgoing.next(bytes_max));
        if self.sending.is_some() || (body.is_none() && self.outbox.is_empty()) {
            return false;
        }
        let bytes = core::mem::take(&mut self.outbox);
        let content_bytes = body.map_or(0, ByteRange::length);
        let all_bytes = content_bytes.saturating_add(bytes.len() as u64);
        let by = now + self.config.send_limit + Duration::from_secs(all_bytes / self.config.send_bytes_per_s_min);
        self.sending = Some(Sending { content_bytes, by });
        self.outputs.push_back(SessionOutput::Send { bytes, body });
        true
    }

    /// Goes on to the next request, or to the connection's end, once the answer is out.
    fn end_exchange(&mut self, now: Instant) -> bool {
        let is_sent = self.sending.is_none() && self.outbox.is_empty();
        let Phase::Exchange(exchange) = &mut self.phase else { return false };
        let Some(outgoing) = exchange.outgoing.filter(|outgoing| is_sent && outgoing.is_over()) else {
            return self.is_eof && self.end_unread_body(now);
        };
        let is_complete = outgoing.rest.is_empty();
        exchange.is_kept &= is_complete;
        let is_cut = self.is_eof && !exchange.body.is_done() && self.inbox.is_empty();
        let is_next = exchange.is_kept && !is_cut;
        if is_next && !exchange.body.is_done() {
            return false;
        }
        self.outputs.push_back(SessionOutput::Answered { content_bytes: exchange.content_bytes, is_complete });
        if !is_next {
            return self.end(now);
        }
        let limit = if self.inbox.is_empty() { self.config.idle_limit } else { self.config.head_limit };
        self.phase = Phase::Head;
        self.read_by = Some(now + limit);
        true
    }
}

fn is_longer(framing: BodyFraming, bytes_max: u64) -> bool {
    matches!(framing, BodyFraming::Length(length) if length > bytes_max)
}
