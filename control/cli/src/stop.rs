//! When a command must end early: Ctrl-C, SIGTERM, or a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure};

/// Looked at between short steps of work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    is_asked: Arc<AtomicBool>,
    deadline: Option<(Instant, Duration)>,
    /// Who may be in `wait`.
    waiter: Option<Thread>,
}

impl Stop {
    /// Stops at the first SIGINT or SIGTERM. The second one ends the process at once, whatever it is doing.
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        Self::watch(true)
    }

    /// The same, but for the second one, which says no more than the first.
    pub(crate) fn on_first_signal() -> Result<Self, Failure> {
        Self::watch(false)
    }

    fn watch(does_second_end: bool) -> Result<Self, Failure> {
        let stop = Self { waiter: Some(thread::current()), ..Self::default() };
        let asked = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|error| Failure::io("cannot watch for signals", &error))?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            let watch = |kind| signal(kind).map_err(|error| Failure::io("cannot watch for signals", &error));
            (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?)
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                        }
                        if does_second_end && asked.is_asked() {
                            std::process::exit(Exit::Interrupted as i32);
                        }
                        asked.ask();
                    }
                });
            })
            .map_err(|error| Failure::io("cannot watch for signals", &error))?;
        Ok(stop)
    }

    /// The same, and not later than `limit` from now.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        let deadline = Instant::now().checked_add(limit).map(|at| (at, limit));
        // The earlier of the two.
        let deadline = match (self.deadline, deadline) {
            (Some(old), Some(new)) => Some(if old.0 <= new.0 { old } else { new }),
            (old, new) => old.or(new),
        };
        Self { is_asked: Arc::clone(&self.is_asked), deadline, waiter: self.waiter.clone() }
    }

    /// Whether a signal came.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// Asks everybody who shares this to end.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        if let Some(waiter) = &self.waiter {
            waiter.unpark();
        }
    }

    /// Waits until somebody asks. For the thread that called [`Self::on_signals`].
    pub(crate) fn wait(&self) {
        while !self.is_asked() {
            thread::park();
        }
    }

    /// Fails once the command must end.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.is_asked() {
            return Err(Failure::interrupted());
        }
        match self.deadline {
            Some((at, limit)) if Instant::now() >= at => {
                Err(Failure::new(Exit::Timeout, format!("not done after {limit:?}"))
                    .hint("what has arrived is kept: the same command goes on from there; --timeout gives it longer"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_holds() {
        let stop = Stop::default().within(Duration::ZERO).within(Duration::from_hours(1));
        assert_eq!(stop.check().unwrap_err().exit, Exit::Timeout);
        assert!(Stop::default().within(Duration::MAX).check().is_ok());
    }

    #[test]
    fn all_who_share_a_stop_see_it() {
        let stop = Stop::default();
        let shared = stop.within(Duration::from_hours(1));
        stop.ask();
        assert_eq!(shared.check().unwrap_err().exit, Exit::Interrupted);
    }
}
