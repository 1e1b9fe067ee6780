//! The epoll engine: nonblocking sockets, and a few threads for files. For kernels and containers without io_uring.

mod pool;
mod readiness;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::core::{Core, Key, Phase};
use crate::engine::{Engine, EngineConfig, EngineKind};
use crate::op::{Completion, File, Op, Outcome, Token, cancelled};
use crate::waker::Waker;
use crate::work::{Attempt, Direction, FileOp, Work, accepted};

use pool::{Finished, Pool};
use readiness::{Event, Readiness};

/// Tries first and asks for readiness only on EAGAIN.
pub(crate) struct Epoll {
    core: Core,
    readiness: Readiness,
    pool: Pool,
    events: Vec<Event>,
    finished: Vec<Finished>,
    is_rung: bool,
}

impl Epoll {
    pub(crate) fn new(config: &EngineConfig) -> io::Result<Self> {
        let waker = Waker::new(EventfdFlags::NONBLOCK)?;
        let readiness = Readiness::new(waker.fd())?;
        let pool = Pool::new(config, waker.clone());
        let (events, finished) = (Vec::new(), Vec::new());
        Ok(Self { core: Core::new(waker), readiness, pool, events, finished, is_rung: false })
    }

    fn start_queued(&mut self) {
        for _ in 0..self.core.queued() {
            if let Some(key) = self.core.dequeue() {
                self.start(key);
            }
        }
    }

    /// Starts an operation, or goes on with it now that its socket is ready.
    fn start(&mut self, key: Key) {
        let active = self.core.active_mut(key);
        match &mut active.work {
            Work::Accept { listener } => {
                let listener = File::clone(listener);
                match accept(&listener) {
                    Err(Errno::AGAIN) => self.wait_for(key, &listener, Direction::In),
                    Err(error) => self.core.fail(key, error.into()),
                    Ok(outcome) => self.core.complete(key, |_| outcome),
                }
            }
            Work::Connect { socket: Some(socket), .. } => {
                let socket = File::clone(socket);
                let result = crate::net::connect_result(&socket).map(|()| socket);
                self.core.complete(key, |_| Outcome::Connected(result));
            }
            Work::Connect { to, options, socket } => match crate::net::start_connect(*to, options) {
                Ok(connecting) => {
                    *socket = Some(File::clone(&connecting));
                    self.wait_for(key, &connecting, Direction::Out);
                }
                Err(error) => self.core.fail(key, error),
            },
            Work::Transmit(transmit) => {
                let attempt = transmit.attempt();
                self.attempted(key, attempt, Direction::Out);
            }
            Work::Receive(receive) => {
                let attempt = receive.attempt();
                self.attempted(key, attempt, Direction::In);
            }
            Work::File(op) => {
                let op = op.take().expect("a file operation starts once");
                self.send_to_pool(key, op);
            }
            Work::Timer => unreachable!("timers are not queued"),
        }
    }

    fn attempted(&mut self, key: Key, attempt: Attempt, direction: Direction) {
        match attempt {
            Attempt::Finished => self.core.complete(key, |work| match work {
                Work::Transmit(transmit) => transmit.finish(Ok(())),
                Work::Receive(receive) => receive.finish(),
                _ => unreachable!("only transfers are attempted"),
            }),
            Attempt::Failed(error) => self.core.fail(key, error),
            Attempt::Yielded => self.core.requeue(key),
            Attempt::Blocked => {
                let socket = match &self.core.active_mut(key).work {
                    Work::Transmit(transmit) => File::clone(transmit.socket()),
                    Work::Receive(receive) => File::clone(receive.socket()),
                    _ => unreachable!("only transfers are attempted"),
                };
                self.wait_for(key, &socket, direction);
            }
            Attempt::NeedsChunk => {
                let op = self.core.chunk_read(key);
                self.send_to_pool(key, op);
            }
        }
    }

    fn wait_for(&mut self, key: Key, socket: &File, direction: Direction) {
        match self.readiness.wait_for(socket.as_fd(), direction, key) {
            Ok(()) => self.core.active_mut(key).phase = Phase::Away,
            Err(error) => self.core.fail(key, error),
        }
    }

    fn send_to_pool(&mut self, key: Key, op: FileOp) {
        self.core.active_mut(key).phase = Phase::Away;
        if let Err((op, error)) = self.pool.push(key, op) {
            self.file_done(Finished { key, op, result: Err(error) });
        }
    }

    /// A pool thread has given an operation back, or it never got one.
    fn file_done(&mut self, finished: Finished) {
        let Finished { key, op, result } = finished;
        let active = self.core.active_mut(key);
        let is_cancelled = active.is_cancelled;
        match &mut active.work {
            Work::Transmit(transmit) => match transmit.chunk_done(op, result) {
                _ if is_cancelled => self.core.fail(key, cancelled()),
                Ok(()) => self.core.requeue(key),
                Err(error) => self.core.fail(key, error),
            },
            Work::File(_) => self.core.complete_file(key, op, result),
            _ => unreachable!("{key:?} was not in the pool"),
        }
    }

    fn take_events(&mut self, pause: Option<Duration>) {
        let mut events = std::mem::take(&mut self.events);
        self.readiness.wait(pause, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Ready(key) => self.start(key),
                Event::Bell => {
                    self.is_rung = true;
                    let mut count = [0; 8];
                    // Nothing there is a bell that was read before.
                    let _ = rustix::io::retry_on_intr(|| rustix::io::read(self.core.waker.fd(), &mut count));
                    self.core.waker.reset();
                }
            }
        }
        self.events = events;
    }

    fn take_finished(&mut self) {
        let mut finished = std::mem::take(&mut self.finished);
        self.pool.take_finished(&mut finished);
        for file in finished.drain(..) {
            self.file_done(file);
        }
        self.finished = finished;
    }
}

impl Engine for Epoll {
    fn submit(&mut self, token: Token, op: Op) {
        self.core.submit(token, op);
    }

    fn cancel(&mut self, token: Token) {
        let Some(key) = self.core.cancel(token) else { return };
        let waiting_for = match &self.core.active_mut(key).work {
            Work::Accept { listener } => Some((File::clone(listener), Direction::In)),
            Work::Connect { socket, .. } => socket.clone().map(|socket| (socket, Direction::Out)),
            Work::Transmit(transmit) => Some((File::clone(transmit.socket()), Direction::Out)),
            Work::Receive(receive) => Some((File::clone(receive.socket()), Direction::In)),
            Work::File(_) | Work::Timer => None,
        };
        if let Some((socket, direction)) = waiting_for
            && self.readiness.forget(socket.as_fd(), direction, key)
        {
            self.core.fail(key, cancelled());
        } else if let Some(op) = self.pool.withdraw(key) {
            self.file_done(Finished { key, op, result: Err(cancelled()) });
        }
        // Else a pool thread is at it: it ends when that is done.
    }

    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) {
        let deadline = wait.and_then(|wait| Instant::now().checked_add(wait));
        self.is_rung = false;
        loop {
            self.start_queued();
            let pause = self.core.pause(deadline);
            self.take_events(pause);
            self.take_finished();
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
        EngineKind::Epoll
    }
}

fn accept(listener: &File) -> Result<Outcome, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, peer) = rustix::io::retry_on_intr(|| rustix::net::acceptfrom_with(listener, flags))?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::AFNOSUPPORT)?;
    Ok(accepted(socket, peer))
}
