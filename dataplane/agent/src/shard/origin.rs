//! Leased ranges from the origin: fetched here when it is plain HTTP, by the control half otherwise.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hawker_proto::hash::block_value;
use hawker_proto::http1::{
    OriginAnswer, RequestHead, ResponseHead, interpret, is_transient, parse_response, range_header,
};
use hawker_proto::url::Url;
use hawker_proto::{BLOCK_BYTES, ByteRange, Instant, TaskId};
use hawker_ring::{Block, Body, File, Op, Outcome, Received, Strategy, TailBuf, Token};
use hawker_swarm::LeaseId;

use super::stream::{Arrived, Stream};
use super::{Purpose, SLAB_PAUSE, Shard};
use crate::rates::take_all;
use crate::seam::{OriginEnd, OriginSpec, ShardEvent, Trouble};

/// No first byte after this long: the range goes elsewhere.
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(10);
/// No further byte after this long: the range goes elsewhere.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a failure that says nothing of when to come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const BROKEN: OriginEnd = OriginEnd::Failed { retry_after: RETRY_AFTER, trouble: Trouble::Broken };
/// How often a fetch's progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Bytes of a response head taken at once.
const HEAD_STEP_BYTES: usize = 8 * 1024;
/// Bytes of a body asked for at once until the origin has shown its pace: a stall is seen by what did not come, so a
/// slow origin is asked for little at a time.
const STEP_BYTES_MIN: usize = 4 * 1024;
const STEP_BYTES_FIRST: usize = 16 * 1024;
/// A step that took so long is followed by a smaller one; one that took less than a tenth of it by a whole block.
const STEP_LONG: Duration = Duration::from_secs(1);
/// Idle connections kept for the next lease, and for how long.
const IDLE_SOCKETS_MAX: usize = 16;
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// A kept-alive connection to an origin that carries nothing now.
pub(super) struct IdleSocket {
    address: SocketAddr,
    socket: File,
    since: Instant,
}

/// One GET that this shard runs.
pub(super) struct Fetch {
    task: TaskId,
    lease: LeaseId,
    range: ByteRange,
    next: u64,
    origin: OriginSpec,
    address: SocketAddr,
    socket: Option<File>,
    /// The connection served another lease before: its end before a byte means only that it was idle too long.
    is_reused: bool,
    is_reusable: bool,
    state: State,
    /// Bytes received and not yet used: a head, then the start of the body.
    inbox: Vec<u8>,
    /// Length of the block on its way.
    length: usize,
    /// Of it, asked for at once.
    step_bytes: usize,
    step_began: Instant,
    token: Option<u64>,
    deadline: Instant,
    reported: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Sending,
    Head,
    Body,
    /// For rate or memory.
    Waiting,
}

impl Fetch {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Shard {
    /// Begins to fetch a range: on this shard when the origin is plain HTTP at a known address, else in control. The
    /// range from byte 0 is always control's, which still holds the open answer of the resolve.
    pub(super) fn start_stream(&mut self, task: TaskId, lease: LeaseId, range: ByteRange) {
        let Some(driver) = self.downloads.get_mut(&task) else { return };
        let ends = driver.lease_ends.remove(&lease);
        driver.streams.insert(lease, Stream { from: range.start(), upto: range.start(), ends });
        let origin = driver.origin.as_ref().filter(|origin| range.start() > 0 && origin.is_range_ok);
        let direct = origin.and_then(|origin| origin.direct.map(|address| (origin.clone(), address)));
        let Some((origin, address)) = direct else {
            self.events.push(ShardEvent::FetchOrigin { task, serial: lease.0, range });
            return;
        };
        let fetch = Fetch {
            task,
            lease,
            range,
            next: range.start(),
            origin,
            address,
            socket: None,
            is_reused: false,
            is_reusable: false,
            state: State::Connecting,
            inbox: Vec::new(),
            length: 0,
            step_bytes: STEP_BYTES_FIRST,
            step_began: self.now,
            token: None,
            deadline: self.now + FIRST_BYTE_LIMIT,
            reported: self.now,
        };
        let id = self.next_fetch;
        self.next_fetch += 1;
        self.fetches.insert(id, fetch);
        self.connect_fetch(id, true);
    }

    fn connect_fetch(&mut self, id: u64, may_reuse: bool) {
        let now = self.now;
        self.idle_sockets.retain(|idle| now.since(idle.since) < IDLE_LIMIT);
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        let address = fetch.address;
        let idle = self.idle_sockets.iter().position(|idle| idle.address == address).filter(|_| may_reuse);
        fetch.is_reused = idle.is_some();
        fetch.inbox.clear();
        if let Some(index) = idle {
            fetch.socket = Some(self.idle_sockets.swap_remove(index).socket);
            self.send_request(id);
            return;
        }
        let options = self.socket_options.clone();
        self.submit_fetch(id, State::Connecting, Op::Connect { to: address, options });
    }

    fn submit_fetch(&mut self, id: u64, state: State, op: Op) {
        let token = self.submit(op, Purpose::Origin { fetch: id });
        if let Some(fetch) = self.fetches.get_mut(&id) {
            fetch.state = state;
            fetch.token = Some(token);
        }
    }

    fn send_request(&mut self, id: u64) {
        let Some(fetch) = self.fetches.get(&id) else { return };
        let Some(socket) = fetch.socket.clone() else { return };
        match request_head(&fetch.origin, fetch.range) {
            Some(head) => {
                let op = Op::Transmit { socket, head, body: Body::None, strategy: Strategy::Copy };
                self.submit_fetch(id, State::Sending, op);
            }
            None => self.end_fetch(id, OriginEnd::Refused { status: 0 }),
        }
    }

    pub(super) fn on_origin_outcome(&mut self, id: u64, outcome: Outcome) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        fetch.token = None;
        match outcome {
            Outcome::Connected(Ok(socket)) => {
                fetch.socket = Some(socket);
                self.send_request(id);
            }
            Outcome::Transmitted { result: Ok(_), .. } => self.receive_head(id),
            Outcome::Received { result: Ok(received), block, tail } => self.on_origin_bytes(id, received, block, &tail),
            Outcome::Connected(Err(error))
            | Outcome::Transmitted { result: Err(error), .. }
            | Outcome::Received { result: Err(error), .. } => self.on_fetch_error(id, &error),
            outcome => unreachable!("a fetch asks for sockets only: {outcome:?}"),
        }
    }

    fn on_fetch_error(&mut self, id: u64, error: &io::Error) {
        let Some(fetch) = self.fetches.get(&id) else { return };
        if fetch.is_reused && fetch.inbox.is_empty() && matches!(fetch.state, State::Sending | State::Head) {
            self.connect_fetch(id, false);
            return;
        }
        tracing::debug!(%error, "an origin's connection failed");
        self.end_fetch(id, BROKEN);
    }

    fn receive_head(&mut self, id: u64) {
        let Some(socket) = self.fetches.get(&id).and_then(|fetch| fetch.socket.clone()) else { return };
        let tail = TailBuf::up_to(Vec::new(), HEAD_STEP_BYTES);
        self.submit_fetch(id, State::Head, Op::Receive { socket, body: None, tail });
    }

    fn on_origin_bytes(
        &mut self,
        id: u64,
        received: Received,
        block: Option<(Block, std::ops::Range<usize>)>,
        tail: &[u8],
    ) {
        let now = self.now;
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        if received.is_eof {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            self.on_fetch_error(id, &error);
            return;
        }
        match (fetch.state, block) {
            (State::Body, Some((block, range))) => {
                fetch.deadline = now + STALL_LIMIT;
                let length = fetch.length;
                fetch.step_bytes = next_step(fetch.step_bytes, now.since(fetch.step_began));
                if range.end < length {
                    self.receive_body(id, block, range.end);
                } else {
                    self.on_origin_block(id, block, length);
                }
            }
            _ => {
                fetch.inbox.extend_from_slice(tail);
                self.parse_answer(id);
            }
        }
    }

    fn parse_answer(&mut self, id: u64) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        match parse_response(&fetch.inbox) {
            Ok(None) => self.receive_head(id),
            Ok(Some((head, head_bytes))) => {
                fetch.inbox.drain(..head_bytes);
                if head.is_interim() {
                    self.parse_answer(id);
                    return;
                }
                let Some(driver) = self.downloads.get(&fetch.task) else {
                    self.fetches.remove(&id);
                    return;
                };
                let length = driver.task.geometry().length();
                match judge(fetch, length, &head) {
                    None => {
                        fetch.is_reusable = head.is_reusable();
                        fetch.deadline = self.now + STALL_LIMIT;
                        self.fill_block(id);
                    }
                    Some(Verdict::ToControl) => self.give_to_control(id),
                    Some(Verdict::End(end)) => self.end_fetch(id, end),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "an origin's answer is not HTTP");
                if fetch.is_reused {
                    // Perhaps the rest of an answer that was longer than it said.
                    return self.connect_fetch(id, false);
                }
                self.end_fetch(id, BROKEN);
            }
        }
    }

    /// Redirects and other things that shards do not do: control fetches this range, and the task's others from now on.
    fn give_to_control(&mut self, id: u64) {
        let Some(fetch) = self.fetches.remove(&id) else { return };
        if let Some(driver) = self.downloads.get_mut(&fetch.task) {
            if let Some(origin) = &mut driver.origin {
                origin.direct = None;
            }
            self.events.push(ShardEvent::FetchOrigin { task: fetch.task, serial: fetch.lease.0, range: fetch.range });
        }
    }

    /// Receives the next block of the body, or ends the fetch after the last.
    fn fill_block(&mut self, id: u64) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        if fetch.next >= fetch.range.end() {
            self.finish_fetch(id);
            return;
        }
        let Some(driver) = self.downloads.get_mut(&fetch.task) else {
            self.fetches.remove(&id);
            return;
        };
        let geometry = driver.task.geometry();
        let Some((piece, block)) = geometry.block_at(fetch.next) else { return };
        let range = geometry.block_range(piece, block);
        let length = u32::try_from(range.length()).unwrap_or(u32::MAX);
        let meters = &mut [&mut driver.meter, &mut self.meters.down, &mut self.meters.origin];
        let paid = take_all(meters, self.now, length);
        let memory = if paid.is_ok() { self.slab.take() } else { None };
        let Some(mut memory) = memory else {
            fetch.state = State::Waiting;
            self.wake_after(paid.err().unwrap_or(SLAB_PAUSE));
            return;
        };
        fetch.length = length as usize;
        let filled = fetch.inbox.len().min(fetch.length);
        memory.as_mut_slice()[..filled].copy_from_slice(&fetch.inbox[..filled]);
        fetch.inbox.drain(..filled);
        if filled == fetch.length {
            self.on_origin_block(id, memory, filled);
            return;
        }
        self.receive_body(id, memory, filled);
    }

    /// Receives the next step of the block whose first `filled` bytes are here.
    fn receive_body(&mut self, id: u64, memory: Block, filled: usize) {
        let now = self.now;
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        let Some(socket) = fetch.socket.clone() else { return };
        fetch.step_began = now;
        let body = Some((memory, filled..fetch.length.min(filled + fetch.step_bytes)));
        self.submit_fetch(id, State::Body, Op::Receive { socket, body, tail: TailBuf::default() });
    }

    fn on_origin_block(&mut self, id: u64, block: Block, length: usize) {
        let now = self.now;
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        let (task, lease, offset) = (fetch.task, fetch.lease, fetch.next);
        let value = block_value(offset, &block.as_slice()[..length]);
        fetch.next += length as u64;
        fetch.state = State::Waiting;
        let upto = fetch.next;
        let is_report_due = now.since(fetch.reported) >= REPORT_EVERY;
        if is_report_due {
            fetch.reported = now;
            self.events.push(ShardEvent::OriginAt { task, serial: lease.0, upto });
        }
        self.on_arrived(task, lease, Arrived { offset, block, length, value });
        self.fill_block(id);
    }

    fn finish_fetch(&mut self, id: u64) {
        if let Some(fetch) = self.fetches.get_mut(&id) {
            let is_clean = fetch.is_reusable && fetch.inbox.is_empty();
            if let Some(socket) = fetch.socket.take().filter(|_| is_clean && self.idle_sockets.len() < IDLE_SOCKETS_MAX)
            {
                self.idle_sockets.push(IdleSocket { address: fetch.address, socket, since: self.now });
            }
        }
        self.end_fetch(id, OriginEnd::Complete);
    }

    fn end_fetch(&mut self, id: u64, end: OriginEnd) {
        if let Some(fetch) = self.fetches.remove(&id) {
            if let Some(token) = fetch.token {
                self.engine.cancel(Token(token));
            }
            self.end_stream(fetch.task, fetch.lease, end);
        }
    }

    pub(super) fn tick_origins(&mut self) {
        let now = self.now;
        let ids: Vec<u64> = self.fetches.keys().copied().collect();
        for id in ids {
            let Some(fetch) = self.fetches.get_mut(&id) else { continue };
            if fetch.state == State::Waiting {
                fetch.deadline = now + STALL_LIMIT;
                self.fill_block(id);
            } else if fetch.deadline <= now {
                tracing::debug!(state = ?fetch.state, "an origin stalls");
                let waited = if fetch.state == State::Body { STALL_LIMIT } else { FIRST_BYTE_LIMIT };
                let trouble = Trouble::Silent(waited);
                self.end_fetch(id, OriginEnd::Failed { retry_after: RETRY_AFTER, trouble });
            }
        }
    }

    /// Ends a stream whose bytes are not wanted any more, without a word to the machine.
    pub(super) fn stop_stream(&mut self, task: TaskId, lease: LeaseId) {
        let running = self.fetches.iter().find(|(_, fetch)| fetch.task == task && fetch.lease == lease);
        let was_streaming = self.downloads.get_mut(&task).is_some_and(|driver| driver.streams.remove(&lease).is_some());
        if let Some(id) = running.map(|(id, _)| *id) {
            if let Some(token) = self.fetches.remove(&id).and_then(|fetch| fetch.token) {
                self.engine.cancel(Token(token));
            }
        } else if was_streaming {
            self.events.push(ShardEvent::StopOrigin { task, serial: lease.0 });
        }
    }
}

fn next_step(step_bytes: usize, took: Duration) -> usize {
    if took >= STEP_LONG {
        (step_bytes / 4).max(STEP_BYTES_MIN)
    } else if took < STEP_LONG / 10 {
        BLOCK_BYTES as usize
    } else {
        step_bytes
    }
}

/// What becomes of an answer that is not the leased range.
enum Verdict {
    ToControl,
    End(OriginEnd),
}

/// `None`: the body is exactly the range.
fn judge(fetch: &Fetch, length: u64, head: &ResponseHead) -> Option<Verdict> {
    let answer = interpret(Some(fetch.range), head);
    if fetch.origin.is_contradicted(length, &answer, head) {
        return Some(Verdict::End(OriginEnd::Refused { status: 412 }));
    }
    match answer {
        OriginAnswer::Partial { range, .. } if range == fetch.range => {
            // Chunked ranges are legal and rare.
            let is_measured = head.content_length().ok().flatten() == Some(range.length());
            if is_measured { None } else { Some(Verdict::ToControl) }
        }
        OriginAnswer::Refused { status, retry_after } if is_transient(status) => {
            // Without a pause the lease would count as handed back for no fault of the origin's.
            let retry_after = retry_after.unwrap_or_default().max(RETRY_AFTER);
            Some(Verdict::End(OriginEnd::Failed { retry_after, trouble: Trouble::Status(status) }))
        }
        OriginAnswer::Refused { status, .. } => Some(Verdict::End(OriginEnd::Refused { status })),
        OriginAnswer::OutOfRange { .. } => Some(Verdict::End(OriginEnd::Refused { status: 416 })),
        _ => Some(Verdict::ToControl),
    }
}

/// The GET of a leased range. `None` when the URL or a header cannot be sent, which control would have refused before.
fn request_head(origin: &OriginSpec, range: ByteRange) -> Option<Vec<u8>> {
    let url = Url::parse(&origin.url).ok()?;
    let mut headers = origin.headers.clone();
    headers.push(("accept-encoding".to_owned(), "identity".to_owned()));
    headers.push(("range".to_owned(), range_header(range)));
    if let Some(validator) = origin.validators.pin() {
        headers.push(("if-range".to_owned(), validator));
    }
    let target = url.target().to_owned();
    RequestHead { method: "GET".to_owned(), target, host: url.authority(), headers }.encode().ok()
}
