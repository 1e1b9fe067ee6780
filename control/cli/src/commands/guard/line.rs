//! The agent's end of the line to its guard.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hawker_agent::Pulse;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::{ALIVE, BEAT, END, MESSAGE_BYTES_MAX, RUNS, STOP, STUCK};
use crate::exit::{Exit, Failure};
use crate::stop::Stop;

/// Beats for which a thread may stand still: one and a half seconds. An idle shard sleeps for half a second.
const STILL_MAX: u32 = 6;

/// A guard that listens, at standard input.
#[derive(Debug)]
pub(crate) struct Line {
    socket: UnixDatagram,
    stop: Stop,
}

/// Tells the guard that this process lives; as long as this is, and after it.
#[derive(Debug)]
pub(crate) struct Heart {
    watched: Arc<Mutex<Option<Watched>>>,
}

/// Threads that must move.
#[derive(Debug)]
struct Watched {
    pulse: Pulse,
    /// Each count, and for how many beats it has stood.
    counts: Vec<(u64, u32)>,
}

impl Line {
    /// The line, and what the guard or a signal asks.
    pub(crate) fn open() -> Result<(Stop, Self), Failure> {
        // A service manager signals guard and agent, and the guard passes it on: only the guard knows which is the second.
        let stop = Stop::on_first_signal()?;
        // So that it is found by its name, however it was started.
        let _ = rustix::thread::set_name(c"hawker");
        let cannot = |error: &io::Error| Failure::io("no guard listens at standard input", error);
        let socket = io::stdin().as_fd().try_clone_to_owned().map_err(|error| cannot(&error))?;
        let socket = UnixDatagram::from(socket);
        socket.set_read_timeout(Some(BEAT)).map_err(|error| cannot(&error))?;
        Ok((stop.clone(), Self { socket, stop }))
    }

    /// Starts to beat.
    pub(crate) fn beat(self) -> Result<Heart, Failure> {
        let watched = Arc::new(Mutex::new(None));
        let heart = Heart { watched: Arc::clone(&watched) };
        let thread = thread::Builder::new().name("heartbeat".to_owned());
        thread
            .spawn(move || self.run(&watched))
            .map_err(|error| Failure::io("cannot tell the guard that this process lives", &error))?;
        Ok(heart)
    }

    fn run(&self, watched: &Mutex<Option<Watched>>) {
        loop {
            let message = match watched.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                None => ALIVE.to_vec(),
                Some(watched) => {
                    watched.find_still().map_or_else(|| RUNS.to_vec(), |name| [STUCK, name.as_bytes()].concat())
                }
            };
            // A guard that is stopped reads later; one that is gone starts this process never again.
            let sent = rustix::net::send(&self.socket, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            if sent.is_err_and(|error| !matches!(error, Errno::WOULDBLOCK | Errno::NOBUFS | Errno::INTR)) {
                self.stop.ask();
                return;
            }
            self.obey();
        }
    }

    /// Does what the guard says until the next beat.
    fn obey(&self) {
        let mut message = [0; MESSAGE_BYTES_MAX];
        match self.socket.recv(&mut message) {
            Ok(length) if &message[..length] == STOP => self.stop.ask(),
            Ok(length) if &message[..length] == END => std::process::exit(Exit::Interrupted as i32),
            // Of a newer guard; or time for the next beat.
            Ok(_) | Err(_) => {}
        }
    }
}

impl Heart {
    /// From now on these threads must move, too: the agent answers.
    pub(crate) fn watch(&self, pulse: Pulse) {
        let counts = pulse.counts().into_iter().map(|count| (count, 0)).collect();
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(Watched { pulse, counts });
    }

    /// The threads may end.
    pub(crate) fn watch_nobody(&self) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Watched {
    fn find_still(&mut self) -> Option<String> {
        let now = self.pulse.counts();
        for ((count, beats), now) in self.counts.iter_mut().zip(now) {
            *beats = if *count == now { *beats + 1 } else { 0 };
            *count = now;
        }
        let index = self.counts.iter().position(|(_, beats)| *beats >= STILL_MAX)?;
        Some(self.pulse.name(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_stands_still_is_named_once_it_is_too_long() {
        let pulse = Pulse { shards: vec![Arc::default(), Arc::default()], director: Arc::default() };
        let counts = pulse.counts().into_iter().map(|count| (count, 0)).collect();
        let mut watched = Watched { pulse: pulse.clone(), counts };
        let mut beats = |still: Option<usize>, count: u32| -> Vec<Option<String>> {
            let beat = |_| {
                let shards = pulse.shards.iter().map(|shard| &shard.turns);
                for (index, turns) in shards.chain([&*pulse.director]).enumerate() {
                    if Some(index) != still {
                        turns.add(1);
                    }
                }
                watched.find_still()
            };
            (0..count).map(beat).collect()
        };
        assert!(beats(None, 20).iter().all(Option::is_none));
        for (index, name) in ["shard 0", "shard 1", "the director"].into_iter().enumerate() {
            let found = beats(Some(index), STILL_MAX);
            assert_eq!(found.iter().position(Option::is_some), Some(STILL_MAX as usize - 1), "{name}");
            assert_eq!(found.last().unwrap().as_deref(), Some(name));
            assert!(beats(None, 1)[0].is_none(), "one turn is a sign of life");
        }
    }
}
