//! Who waits for which socket. Registrations are one-shot and level-triggered: armed exactly while somebody waits, so
//! that none outlives its operation and fires for the next owner of its descriptor's number.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::core::Key;
use crate::work::Direction;

/// Something that a wait has brought.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Ready(Key),
    /// The waker's eventfd.
    Bell,
}

/// The operations that wait for one descriptor.
#[derive(Clone, Copy, Debug, Default)]
struct Waiters {
    reader: Option<Key>,
    writer: Option<Key>,
}

pub(super) struct Readiness {
    epoll: OwnedFd,
    /// By descriptor number: the kernel gives out the lowest that is free.
    waiters: Vec<Waiters>,
    buffer: Vec<epoll::Event>,
}

/// More than are ready at once come with the next wait.
const EVENTS_PER_WAIT: usize = 256;
const BELL: u64 = u64::MAX;

impl Readiness {
    pub(super) fn new(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Self { epoll, waiters: Vec::new(), buffer: Vec::with_capacity(EVENTS_PER_WAIT) })
    }

    /// # Errors
    /// The kernel has no memory or no watches left (ENOMEM, ENOSPC), or the descriptor cannot be waited for (EPERM).
    pub(super) fn wait_for(&mut self, socket: BorrowedFd<'_>, direction: Direction, key: Key) -> io::Result<()> {
        let index = index_of(socket);
        if self.waiters.len() <= index {
            self.waiters.resize(index + 1, Waiters::default());
        }
        let mut waiters = self.waiters[index];
        let place = waiters.place(direction);
        assert!(place.is_none(), "two operations wait for descriptor {index}, {direction:?}");
        *place = Some(key);
        self.arm(socket, waiters)?;
        self.waiters[index] = waiters;
        Ok(())
    }

    /// Takes back a wait; false if `key` does not wait.
    pub(super) fn forget(&mut self, socket: BorrowedFd<'_>, direction: Direction, key: Key) -> bool {
        let Some(waiters) = self.waiters.get_mut(index_of(socket)) else { return false };
        let place = waiters.place(direction);
        if *place != Some(key) {
            return false;
        }
        *place = None;
        let waiters = *waiters;
        self.arm(socket, waiters).expect("a registration that exists can be changed");
        true
    }

    /// Waits for readiness, `None`: without end, and appends what came.
    pub(super) fn wait(&mut self, pause: Option<Duration>, events: &mut Vec<Event>) {
        let timeout = pause.map(in_whole_milliseconds);
        self.buffer.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.buffer), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => unreachable!("epoll_wait on our own descriptor: {error}"),
        }
        for position in 0..self.buffer.len() {
            let event = self.buffer[position];
            if event.data.u64() == BELL {
                events.push(Event::Bell);
            } else {
                self.ready(event, events);
            }
        }
    }

    fn ready(&mut self, event: epoll::Event, events: &mut Vec<Event>) {
        use epoll::EventFlags as Flags;
        let index = usize::try_from(event.data.u64()).expect("the index of a descriptor");
        let mut waiters = self.waiters[index];
        let flags = event.flags;
        let ended = Flags::ERR | Flags::HUP;
        if flags.intersects(Flags::IN | Flags::RDHUP | ended) {
            events.extend(waiters.reader.take().map(Event::Ready));
        }
        if flags.intersects(Flags::OUT | ended) {
            events.extend(waiters.writer.take().map(Event::Ready));
        }
        self.waiters[index] = waiters;
        if waiters.reader.is_some() || waiters.writer.is_some() {
            let number = i32::try_from(index).expect("the index of a descriptor");
            // SAFETY: an operation still waits for this descriptor and holds it open.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            self.arm(socket, waiters).expect("a registration that exists can be changed");
        }
    }

    /// Tells the kernel who waits. Whether it knows the descriptor is its own affair: a number may have been closed
    /// and given out again since we last looked.
    fn arm(&self, socket: BorrowedFd<'_>, waiters: Waiters) -> io::Result<()> {
        let mut flags = epoll::EventFlags::ONESHOT;
        flags.set(epoll::EventFlags::IN | epoll::EventFlags::RDHUP, waiters.reader.is_some());
        flags.set(epoll::EventFlags::OUT, waiters.writer.is_some());
        if waiters.reader.is_none() && waiters.writer.is_none() {
            // An empty registration would still report a hang-up.
            return Ok(epoll::delete(&self.epoll, socket)?);
        }
        let data = epoll::EventData::new_u64(index_of(socket) as u64);
        match epoll::modify(&self.epoll, socket, data, flags) {
            Err(Errno::NOENT) => Ok(epoll::add(&self.epoll, socket, data, flags)?),
            result => Ok(result?),
        }
    }
}

impl Waiters {
    fn place(&mut self, direction: Direction) -> &mut Option<Key> {
        match direction {
            Direction::In => &mut self.reader,
            Direction::Out => &mut self.writer,
        }
    }
}

fn index_of(socket: BorrowedFd<'_>) -> usize {
    usize::try_from(socket.as_raw_fd()).expect("a descriptor is not negative")
}

/// Rounded up, so that a timer is due when its wait ends; and whole, so that epoll_wait(2) takes it and Linux 5.11's
/// successor is not needed.
fn in_whole_milliseconds(pause: Duration) -> Timespec {
    /// What fits the call's int, 24 days: the turn goes round once more.
    const MILLIS_MAX: u128 = i32::MAX as u128;
    let millis = pause.as_nanos().div_ceil(1_000_000).min(MILLIS_MAX);
    let millis = u64::try_from(millis).unwrap_or(0);
    Timespec::try_from(Duration::from_millis(millis)).expect("an int of milliseconds")
}
