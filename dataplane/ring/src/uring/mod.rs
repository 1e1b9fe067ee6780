//! The io_uring engine: one ring per thread, one enter per turn.

mod drain;
mod entries;
mod ring;
mod scratch;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use crate::core::{Core, Key, Phase};
use crate::engine::{Engine, EngineConfig, EngineKind};
use crate::op::{Completion, Op, Outcome, Token, cancelled};
use crate::waker::Waker;
use crate::work::{Answer, Attempt, Direction, FileOp, Next, Work, accepted};

use ring::{Kind, Ring};
pub(crate) use ring::{RingError, Stage, probe};
use scratch::{Bell, Scratch};

/// Requests are pushed in `turn` and nowhere else, so what they point to outlives the enter that submits them.
pub(crate) struct Uring {
    ring: Ring,
    core: Core,
    /// By slot: addresses that stay where they are while the kernel knows them.
    scratch: Vec<Scratch>,
    /// By slot: what the kernel has of it, for cancellation.
    kinds: Vec<Kind>,
    bell: Bell,
    is_bell_armed: bool,
    is_rung: bool,
    cancels: Vec<Key>,
    drain_limit: Duration,
}

impl Uring {
    pub(crate) fn new(config: &EngineConfig) -> io::Result<Self> {
        let waker = Waker::new(EventfdFlags::empty())?;
        let ring = Ring::new(config).map_err(|error| error.source)?;
        Ok(Self {
            ring,
            core: Core::new(waker),
            scratch: Vec::new(),
            kinds: Vec::new(),
            bell: Bell::new(),
            is_bell_armed: false,
            is_rung: false,
            cancels: Vec::new(),
            drain_limit: config.drain_limit,
        })
    }

    fn start_queued(&mut self) {
        if !self.is_bell_armed {
            self.ring.push(
                &entries::bell(self.core.waker.fd(), &self.bell),
                Kind::Bell,
                Key { slot: 0, generation: 0 },
            );
            self.is_bell_armed = true;
        }
        while self.scratch.len() < self.core.slot_count() {
            self.scratch.push(Scratch::new());
            self.kinds.push(Kind::Io);
        }
        for _ in 0..self.core.queued() {
            if let Some(key) = self.core.dequeue() {
                self.start(key);
            }
        }
        // Behind what they cancel: a request that was queued in this turn is found.
        for key in self.cancels.drain(..) {
            if self.core.is_live(key) {
                self.ring.push_cancel(self.kinds[key.index()], key);
            }
        }
    }

    /// Starts an operation, or goes on with it.
    fn start(&mut self, key: Key) {
        let active = self.core.active_mut(key);
        if active.is_cancelled {
            self.core.fail(key, cancelled());
            return;
        }
        match &mut active.work {
            Work::Accept { listener } => {
                let entry = entries::accept(listener, &mut self.scratch[key.index()]);
                self.push(key, Kind::Io, &entry);
            }
            Work::Connect { to, options, socket } => match crate::net::start_connect(*to, options) {
                Ok(connecting) => {
                    let entry = entries::poll(&connecting, Direction::Out);
                    *socket = Some(connecting);
                    self.push(key, Kind::Poll, &entry);
                }
                Err(error) => self.core.fail(key, error),
            },
            Work::Transmit(_) => self.transmit(key),
            Work::Receive(receive) if receive.is_finished() => self.core.complete(key, finish_receive),
            Work::Receive(receive) => {
                let entry = entries::receive(receive, &mut self.scratch[key.index()]);
                self.push(key, Kind::Io, &entry);
            }
            Work::File(op) => match op.as_mut().expect("a ring leaves file operations in their slots") {
                FileOp::Close { file: None } => self.core.complete(key, |work| finish_file(work, Ok(Answer::Count(0)))),
                op => {
                    let entry = entries::file(op);
                    self.push(key, Kind::Io, &entry);
                }
            },
            Work::Timer => unreachable!("timers are not queued"),
        }
    }

    fn push(&mut self, key: Key, kind: Kind, entry: &io_uring::squeue::Entry) {
        self.core.active_mut(key).phase = Phase::Away;
        self.kinds[key.index()] = kind;
        self.ring.push(entry, kind, key);
    }

    fn transmit(&mut self, key: Key) {
        let transmit = self.core.transmit_mut(key);
        if transmit.is_by_reference() {
            match transmit.attempt() {
                Attempt::Finished => self.core.complete(key, finish_transmit),
                Attempt::Failed(error) => self.core.fail(key, error),
                Attempt::Yielded => self.core.requeue(key),
                Attempt::Blocked => {
                    let entry = entries::poll(transmit.socket(), Direction::Out);
                    self.push(key, Kind::Poll, &entry);
                }
                Attempt::NeedsChunk => unreachable!("what is sent by reference is not read"),
            }
            return;
        }
        match transmit.next() {
            Next::Nothing => self.core.complete(key, finish_transmit),
            Next::Memory => {
                let entry = entries::send(transmit, &mut self.scratch[key.index()]);
                self.push(key, Kind::Io, &entry);
            }
            Next::Chunk => {
                let op = self.core.chunk_read(key);
                let op = self.core.transmit_mut(key).reading.insert(op);
                let entry = entries::file(op);
                self.push(key, Kind::Chunk, &entry);
            }
            Next::Sendfile => unreachable!("sent by reference, above"),
        }
    }

    /// Takes what the kernel has finished.
    fn reap(&mut self) {
        while let Some((kind, key, result)) = self.ring.pop() {
            match kind {
                Kind::Io => self.io_done(key, result),
                Kind::Poll => self.poll_done(key),
                Kind::Chunk => self.chunk_done(key, result),
                Kind::Cancel => self.cancel_done(key, result),
                Kind::Bell => {
                    self.is_bell_armed = false;
                    self.is_rung = true;
                    self.core.waker.reset();
                }
            }
        }
    }

    fn io_done(&mut self, key: Key, result: Result<u32, Errno>) {
        let active = self.core.active_mut(key);
        active.phase = Phase::Queued;
        let is_cancelled = active.is_cancelled;
        match &mut active.work {
            Work::Accept { .. } => self.accept_done(key, result),
            Work::Transmit(transmit) => match result {
                Ok(count) => {
                    transmit.sent(count as usize);
                    let is_finished = transmit.next() == Next::Nothing;
                    self.go_on(key, is_finished, finish_transmit);
                }
                Err(error) => self.io_failed(key, error, Direction::Out, is_cancelled),
            },
            Work::Receive(receive) => match result {
                Ok(count) => {
                    receive.received(count as usize);
                    let is_finished = receive.is_finished();
                    self.go_on(key, is_finished, finish_receive);
                }
                Err(error) => self.io_failed(key, error, Direction::In, is_cancelled),
            },
            Work::File(op) => {
                let op = op.as_mut().expect("a ring leaves file operations in their slots");
                let answer = file_answer(op, result);
                match op.progress(answer) {
                    Some(result) => self.core.complete(key, |work| finish_file(work, result)),
                    None => self.core.requeue(key),
                }
            }
            Work::Connect { .. } | Work::Timer => unreachable!("{key:?} is polled or timed"),
        }
    }

    fn go_on(&mut self, key: Key, is_finished: bool, finish: impl FnOnce(Work) -> Outcome) {
        if is_finished {
            self.core.complete(key, finish);
        } else if self.core.active_mut(key).is_cancelled {
            self.core.fail(key, cancelled());
        } else {
            self.core.requeue(key);
        }
    }

    /// The ring itself waits for sockets; EAGAIN comes only from kernels that take O_NONBLOCK for "do not".
    fn io_failed(&mut self, key: Key, error: Errno, direction: Direction, is_cancelled: bool) {
        match error {
            Errno::AGAIN | Errno::INTR | Errno::CANCELED if is_cancelled => self.core.fail(key, cancelled()),
            Errno::INTR => self.core.requeue(key),
            Errno::AGAIN => {
                let entry = match &self.core.active_mut(key).work {
                    Work::Accept { listener } => entries::poll(listener, direction),
                    Work::Transmit(transmit) => entries::poll(transmit.socket(), direction),
                    Work::Receive(receive) => entries::poll(receive.socket(), direction),
                    _ => unreachable!("not an operation of a socket"),
                };
                self.push(key, Kind::Poll, &entry);
            }
            error => self.core.fail(key, error.into()),
        }
    }

    fn accept_done(&mut self, key: Key, result: Result<u32, Errno>) {
        match result {
            Ok(fd) => {
                let socket = own(fd);
                match self.scratch[key.index()].peer() {
                    Some(peer) => self.core.complete(key, |_| accepted(socket, peer)),
                    None => self.core.fail(key, Errno::AFNOSUPPORT.into()),
                }
            }
            Err(error) => {
                let is_cancelled = self.core.active_mut(key).is_cancelled;
                self.io_failed(key, error, Direction::In, is_cancelled);
            }
        }
    }

    fn poll_done(&mut self, key: Key) {
        let active = self.core.active_mut(key);
        if active.is_cancelled {
            self.core.fail(key, cancelled());
            return;
        }
        match &mut active.work {
            Work::Connect { socket, .. } => {
                let socket = socket.take().expect("a connection that is polled is under way");
                let result = crate::net::connect_result(&socket).map(|()| socket);
                self.core.complete(key, |_| Outcome::Connected(result));
            }
            _ => self.core.requeue(key),
        }
    }

    /// A socket's request that was between two waits was not found; it waits again, and is cancelled again. One of a
    /// file is at the disk, and ends when that is done.
    fn cancel_done(&mut self, key: Key, result: Result<u32, Errno>) {
        let is_missed = matches!(result, Err(Errno::NOENT | Errno::ALREADY));
        if is_missed && self.core.is_live(key) && self.kinds[key.index()] != Kind::Chunk {
            let active = self.core.active_mut(key);
            let is_of_socket = !matches!(active.work, Work::File(_) | Work::Timer);
            if is_of_socket && active.is_cancelled {
                self.cancels.push(key);
            }
        }
    }

    fn chunk_done(&mut self, key: Key, result: Result<u32, Errno>) {
        let active = self.core.active_mut(key);
        let is_cancelled = active.is_cancelled;
        active.phase = Phase::Queued;
        let transmit = self.core.transmit_mut(key);
        let op = transmit.reading.as_mut().expect("a chunk is being read");
        let answer = file_answer(op, result);
        let Some(result) = op.progress(answer) else {
            let entry = entries::file(op);
            self.push(key, Kind::Chunk, &entry);
            return;
        };
        let op = transmit.reading.take().expect("checked above");
        match transmit.chunk_done(op, result) {
            _ if is_cancelled => self.core.fail(key, cancelled()),
            Ok(()) => self.core.requeue(key),
            Err(error) => self.core.fail(key, error),
        }
    }
}

impl Engine for Uring {
    fn submit(&mut self, token: Token, op: Op) {
        self.core.submit(token, op);
    }

    fn cancel(&mut self, token: Token) {
        if let Some(key) = self.core.cancel(token) {
            self.cancels.push(key);
        }
    }

    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) {
        let deadline = wait.and_then(|wait| Instant::now().checked_add(wait));
        self.is_rung = false;
        loop {
            self.start_queued();
            let pause = self.core.pause(deadline);
            self.ring.enter(pause);
            self.reap();
            self.core.expire();
            let is_any = self.core.drain_into(out);
            let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if is_any || self.is_rung || is_over {
                return;
            }
        }
    }

    fn waker(&self) -> Waker {
        self.core.waker.clone()
    }

    fn in_flight(&self) -> usize {
        self.core.in_flight()
    }

    fn kind(&self) -> EngineKind {
        EngineKind::Uring
    }
}

fn finish_transmit(work: Work) -> Outcome {
    let Work::Transmit(transmit) = work else { unreachable!("a transmission was asked for") };
    transmit.finish(Ok(()))
}

fn finish_receive(work: Work) -> Outcome {
    let Work::Receive(receive) = work else { unreachable!("a reception was asked for") };
    if receive.is_reset() { receive.fail(Errno::CONNRESET.into()) } else { receive.finish() }
}

fn finish_file(work: Work, result: io::Result<Answer>) -> Outcome {
    let Work::File(Some(op)) = work else { unreachable!("a file operation was asked for") };
    op.finish(result)
}

/// A ring's result as what a system call would have given; takes ownership of descriptors in it.
fn file_answer(op: &mut FileOp, result: Result<u32, Errno>) -> Result<Answer, Errno> {
    if let FileOp::Close { file } = op
        && result != Err(Errno::CANCELED)
        && let Some(fd) = file.take()
    {
        // The kernel has closed it: forget our claim, or the number would be closed again under its next owner.
        std::mem::forget(fd);
    }
    match op {
        FileOp::Open { .. } => result.map(|fd| Answer::Opened(own(fd))),
        _ => result.map(|count| Answer::Count(count as usize)),
    }
}

fn own(fd: u32) -> OwnedFd {
    let fd = RawFd::try_from(fd).expect("a descriptor is not negative");
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has heard of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// SINGLE_ISSUER: the kernel refuses other threads, and so does the compiler.
const _: fn() = || {
    trait AmbiguousIfSend<A> {
        fn check() {}
    }
    struct IsSend;
    impl<T: ?Sized> AmbiguousIfSend<()> for T {}
    impl<T: ?Sized + Send> AmbiguousIfSend<IsSend> for T {}
    <Uring as AmbiguousIfSend<_>>::check();
};
