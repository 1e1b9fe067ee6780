//! What both engines share: operations by slot and generation, the queue of those to start, timers, completions.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::op::{Completion, Op, Outcome, Token, cancelled};
use crate::timers::Timers;
use crate::waker::Waker;
use crate::work::{Answer, FileOp, Transmit, Work};

/// Names one operation for as long as it is in flight: a slot is used again, a key is not (for 2^24 uses of its slot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Key {
    pub(crate) const GENERATION_MAX: u32 = 0x00ff_ffff;

    pub(crate) const fn index(self) -> usize {
        self.slot as usize
    }
}

/// An operation in flight.
pub(crate) struct Active {
    pub(crate) work: Work,
    pub(crate) phase: Phase,
    /// Asked to end early, and not yet at an end.
    pub(crate) is_cancelled: bool,
}

/// Who has an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// We: it starts, or goes on, in the next turn.
    Queued,
    /// We: it waits for its time.
    Timed,
    /// The kernel, or a thread of the pool.
    Away,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    active: Option<Active>,
}

/// How many chunk buffers are kept for reuse; more transmissions by copy at once allocate.
const SPARE_CHUNKS_MAX: usize = 4;

/// The engine-neutral half of an engine.
pub(crate) struct Core {
    slots: Vec<Slot>,
    /// Tokens by slot, on their own so that `cancel` scans few cache lines: a map would cost every operation to
    /// save the rare cancel some hundreds of nanoseconds.
    tokens: Vec<Token>,
    free: Vec<u32>,
    queue: VecDeque<Key>,
    timers: Timers,
    done: Vec<Completion>,
    spare_chunks: Vec<Vec<u8>>,
    pub(crate) waker: Waker,
    #[cfg(debug_assertions)]
    lanes: std::collections::HashSet<(i32, crate::work::Direction)>,
}

impl Core {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            slots: Vec::new(),
            tokens: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            timers: Timers::default(),
            done: Vec::new(),
            spare_chunks: Vec::new(),
            waker,
            #[cfg(debug_assertions)]
            lanes: std::collections::HashSet::new(),
        }
    }

    pub(crate) fn submit(&mut self, token: Token, op: Op) {
        debug_assert!(self.find(token).is_none(), "{token:?} is in flight already");
        let after = if let Op::Timer { after } = op { Some(after) } else { None };
        let phase = if after.is_some() { Phase::Timed } else { Phase::Queued };
        let work = Work::new(op);
        #[cfg(debug_assertions)]
        if let Some(lane) = work.lane() {
            assert!(self.lanes.insert(lane), "two operations at once on descriptor and direction {lane:?}");
        }
        let key = self.insert(token, Active { work, phase, is_cancelled: false });
        match after {
            Some(after) => self.timers.insert(key, after),
            None => self.queue.push_back(key),
        }
    }

    /// Cancels what is still here. What is away is marked, and its key given: the engine calls it back.
    pub(crate) fn cancel(&mut self, token: Token) -> Option<Key> {
        let key = self.find(token)?;
        let active = self.active_mut(key);
        match active.phase {
            Phase::Away if active.is_cancelled => None,
            Phase::Away => {
                active.is_cancelled = true;
                Some(key)
            }
            Phase::Queued => {
                self.fail(key, cancelled());
                None
            }
            Phase::Timed => {
                self.fail(key, cancelled());
                let (timers, slots) = (&mut self.timers, &self.slots);
                timers.cancelled(|key| slots[key.index()].generation == key.generation);
                None
            }
        }
    }

    /// Operations that have not completed, those whose completion the caller has not seen yet included.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.done.len()
    }

    /// Slots that were ever in use; keys index below this.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Length of the queue now: what is queued from here on belongs to the next turn.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The next operation to start, `None` for an entry whose operation was cancelled meanwhile.
    pub(crate) fn dequeue(&mut self) -> Option<Key> {
        self.queue.pop_front().filter(|key| self.is_live(*key))
    }

    /// The operation goes on in the next turn.
    pub(crate) fn requeue(&mut self, key: Key) {
        self.active_mut(key).phase = Phase::Queued;
        self.queue.push_back(key);
    }

    pub(crate) fn is_live(&self, key: Key) -> bool {
        self.slots.get(key.index()).is_some_and(|slot| slot.generation == key.generation && slot.active.is_some())
    }

    /// # Panics
    /// The operation is not in flight: a bug in an engine.
    pub(crate) fn active_mut(&mut self, key: Key) -> &mut Active {
        let slot = &mut self.slots[key.index()];
        assert_eq!(slot.generation, key.generation, "slot {} was given to another operation", key.slot);
        slot.active.as_mut().expect("an operation completes once")
    }

    /// The operation under way that `key` names, for both to be used at once.
    pub(crate) fn transmit_mut(&mut self, key: Key) -> &mut Transmit {
        let Work::Transmit(transmit) = &mut self.active_mut(key).work else { unreachable!("{key:?} sends nothing") };
        transmit
    }

    /// Ends an operation with what came of it.
    pub(crate) fn complete(&mut self, key: Key, outcome: impl FnOnce(Work) -> Outcome) {
        self.active_mut(key);
        let slot = &mut self.slots[key.index()];
        let active = slot.active.take().expect("checked above");
        slot.generation = if slot.generation == Key::GENERATION_MAX { 0 } else { slot.generation + 1 };
        #[cfg(debug_assertions)]
        if let Some(lane) = active.work.lane() {
            self.lanes.remove(&lane);
        }
        let token = self.tokens[key.index()];
        self.free.push(key.slot);
        let mut work = active.work;
        if let Work::Transmit(transmit) = &mut work {
            self.keep_chunk(transmit.take_chunk());
        }
        self.done.push(Completion { token, outcome: outcome(work) });
    }

    /// Ends an operation with an error.
    pub(crate) fn fail(&mut self, key: Key, error: io::Error) {
        self.complete(key, |work| work.fail(error));
    }

    /// Ends a file operation that is not in its slot.
    pub(crate) fn complete_file(&mut self, key: Key, op: FileOp, result: io::Result<Answer>) {
        self.complete(key, |_| op.finish(result));
    }

    /// Prepares the read of the next window of a file that is sent by copy.
    pub(crate) fn chunk_read(&mut self, key: Key) -> FileOp {
        let mut buffer = self.transmit_mut(key).take_chunk();
        if buffer.capacity() == 0 {
            buffer = self.spare_chunks.pop().unwrap_or_default();
        }
        self.transmit_mut(key).chunk_read(buffer)
    }

    /// Timers that are due complete.
    pub(crate) fn expire(&mut self) {
        if self.timers.deadline().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(key) = self.timers.pop_due(now) {
            if self.is_live(key) {
                self.complete(key, |_| Outcome::Timer(Ok(())));
            }
        }
    }

    /// How long a turn that must end at `deadline` may wait in the kernel; `None`: without end.
    pub(crate) fn pause(&self, deadline: Option<Instant>) -> Option<Duration> {
        if !self.done.is_empty() || !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = [deadline, self.timers.deadline()].into_iter().flatten().min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// Hands over what has completed; whether there was anything.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<Completion>) -> bool {
        let is_any = !self.done.is_empty();
        out.append(&mut self.done);
        is_any
    }

    /// Loses, for good, the memory and descriptors of what the kernel has; the rest can be dropped.
    pub(crate) fn leak_away(&mut self) {
        let away = self.slots.iter_mut().filter_map(|slot| slot.active.take());
        away.filter(|active| active.phase == Phase::Away).for_each(std::mem::forget);
    }

    fn insert(&mut self, token: Token, active: Active) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).expect("fewer operations than 2^32");
            self.slots.push(Slot::default());
            self.tokens.push(token);
            slot
        });
        let index = slot as usize;
        self.tokens[index] = token;
        assert!(self.slots[index].active.is_none(), "slot {slot} was free and in use");
        self.slots[index].active = Some(active);
        Key { slot, generation: self.slots[index].generation }
    }

    fn find(&self, token: Token) -> Option<Key> {
        let mut matches = self.tokens.iter().enumerate().filter(|(_, held)| **held == token).map(|(index, _)| index);
        let index = matches.find(|&index| self.slots[index].active.is_some())?;
        let slot = u32::try_from(index).ok()?;
        Some(Key { slot, generation: self.slots[index].generation })
    }

    fn keep_chunk(&mut self, chunk: Vec<u8>) {
        if chunk.capacity() > 0 && self.spare_chunks.len() < SPARE_CHUNKS_MAX {
            self.spare_chunks.push(chunk);
        }
    }
}
