//! A few threads for what has no nonblocking form: files. They own what they work on, so memory is safe even when a
//! disk hangs and nobody waits for them any more.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::Key;
use crate::engine::EngineConfig;
use crate::waker::Waker;
use crate::work::{Answer, FileOp};

/// A file operation at its end.
pub(super) struct Finished {
    pub(super) key: Key,
    pub(super) op: FileOp,
    pub(super) result: io::Result<Answer>,
}

pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    threads_max: usize,
    drain_limit: Duration,
}

struct Shared {
    /// Taken per file operation, by this engine's threads only. A disk operation costs a hundred times more.
    state: Mutex<State>,
    /// There is a job, or it is time to stop.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
    waker: Waker,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Key, FileOp)>,
    finished: Vec<Finished>,
    idle: usize,
    threads: usize,
    is_stopping: bool,
}

impl Pool {
    pub(super) fn new(config: &EngineConfig, waker: Waker) -> Self {
        let state = Mutex::new(State::default());
        let shared = Shared { state, work: Condvar::new(), ended: Condvar::new(), waker };
        let threads_max = config.file_threads.max(1);
        Self { shared: Arc::new(shared), threads: 0, threads_max, drain_limit: config.drain_limit }
    }

    /// # Errors
    /// No thread runs and none can be started; the operation comes back.
    pub(super) fn push(&mut self, key: Key, op: FileOp) -> Result<(), (FileOp, io::Error)> {
        let (idle, waiting) = {
            let state = self.shared.lock();
            (state.idle, state.jobs.len())
        };
        if idle <= waiting && self.threads < self.threads_max {
            match self.start_thread() {
                Ok(()) => self.threads += 1,
                Err(error) if self.threads == 0 => return Err((op, error)),
                // Those that run do it later.
                Err(_) => {}
            }
        }
        self.shared.lock().jobs.push_back((key, op));
        self.shared.work.notify_one();
        Ok(())
    }

    /// Takes back an operation that no thread has begun.
    pub(super) fn withdraw(&self, key: Key) -> Option<FileOp> {
        let mut state = self.shared.lock();
        let position = state.jobs.iter().position(|(queued, _)| *queued == key)?;
        state.jobs.remove(position).map(|(_, op)| op)
    }

    pub(super) fn take_finished(&self, finished: &mut Vec<Finished>) {
        if self.threads > 0 {
            finished.append(&mut self.shared.lock().finished);
        }
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.lock().threads += 1;
        let thread = thread::Builder::new().name("hawker-file".into()).spawn(move || shared.run());
        if thread.is_err() {
            self.shared.lock().threads -= 1;
        }
        thread.map(drop)
    }
}

impl Drop for Pool {
    /// Waits for what runs; what does not end in time keeps its memory and its descriptors.
    fn drop(&mut self) {
        let deadline = Instant::now() + self.drain_limit;
        let mut state = self.shared.lock();
        state.is_stopping = true;
        let jobs = std::mem::take(&mut state.jobs);
        self.shared.work.notify_all();
        while state.threads > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.ended.wait_timeout(state, left);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        let finished = std::mem::take(&mut state.finished);
        drop(state);
        // Here and not with the last thread's handle, which may outlive its thread's farewell.
        drop((jobs, finished));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of ours panics with the lock held, and the state is whole at every step.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some((key, mut op)) = self.next_job() {
            let result = op.run();
            self.lock().finished.push(Finished { key, op, result });
            self.waker.wake();
        }
        self.lock().threads -= 1;
        self.ended.notify_all();
    }

    fn next_job(&self) -> Option<(Key, FileOp)> {
        let mut state = self.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
