//! The two schedulers an agent talks to, behind one pair of channels: the cluster's, over a session that comes and
//! goes, and one of its own in this process, which answers when there is no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hawker_proto::PublicKey;
use hawker_scheduler::{Input, ToHost};
use tokio::sync::{Notify, mpsc};

/// Messages to a scheduler that wait to be sent: all that is said when a session opens fits in it twice (a want of each
/// of 4,096 callers, an announcement of each open task).
pub(crate) const OUTBOX_MAX: usize = 16 * 1024;
/// How often whoever waits for room in an outbox looks.
const ROOM_PAUSE: Duration = Duration::from_millis(50);
/// Messages from schedulers that wait for the director.
pub(crate) const INBOX_MAX: usize = 1024;

/// Which scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The cluster's: its leases make records that everybody believes.
    Cluster,
    /// Our own: what is fetched under its leases is good for this host alone.
    Own,
}

/// What comes from a scheduler.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A session is open; announce what is here.
    Up(Welcome),
    /// It is gone. Said once for each `Up`.
    Down,
    /// A message of it.
    Message(Side, ToHost),
}

/// What a scheduler says of itself when a session opens.
#[derive(Clone, Debug)]
pub(crate) struct Welcome {
    /// Keys that sign its leases.
    pub(crate) keys: Vec<PublicKey>,
    /// How often it wants Progress.
    pub(crate) progress: Duration,
    /// Cached tasks it wants to hear of.
    pub(crate) cached_tasks_max: usize,
}

/// Figures of the session that others read at any time.
#[derive(Debug, Default)]
pub(crate) struct LinkFacts {
    is_connected: AtomicBool,
    epoch: AtomicU64,
    /// Smoothed, in microseconds; 0 while unknown.
    round_trip_us: AtomicU64,
    reason: std::sync::Mutex<String>,
    overrun: Notify,
    /// For heartbeats.
    pub(crate) running_tasks: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
}

impl LinkFacts {
    pub(crate) fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn round_trip(&self) -> Option<Duration> {
        match self.round_trip_us.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Why there is no session.
    pub(crate) fn reason(&self) -> String {
        self.lock().clone()
    }

    pub(crate) fn connected(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.is_connected.store(true, Ordering::Relaxed);
        self.lock().clear();
    }

    pub(crate) fn disconnected(&self, reason: String) {
        self.is_connected.store(false, Ordering::Relaxed);
        *self.lock() = reason;
    }

    /// Resolves when something that counts could not be queued for the session that is open.
    pub(crate) async fn overrun(&self) {
        loop {
            self.overrun.notified().await;
            // A permit may be left of an earlier session.
            if !self.is_connected() {
                return;
            }
        }
    }

    /// Smooths as TCP does (RFC 6298: 7/8 old, 1/8 new).
    pub(crate) fn measured(&self, sample: Duration) {
        let sample = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.round_trip_us.load(Ordering::Relaxed);
        let smoothed = if old == 0 { sample } else { (old.saturating_mul(7).saturating_add(sample)) / 8 };
        self.round_trip_us.store(smoothed.max(1), Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Where to put messages for a scheduler.
///
/// The director must not wait for a scheduler, which may wait for it. Nor may it lose what a scheduler counts on: a host
/// that never said what it has is given no leases, and a lease that never ended keeps its range from others. So a queue
/// that is full ends the session, and the next one begins with announcements of all that is here.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Input>,
    facts: Arc<LinkFacts>,
}

impl Outbox {
    pub(crate) fn new(sender: mpsc::Sender<Input>, facts: Arc<LinkFacts>) -> Self {
        Self { sender, facts }
    }

    pub(crate) fn facts(&self) -> &Arc<LinkFacts> {
        &self.facts
    }

    /// Sends `input`; false when there is no session, or none any more because its queue is full.
    pub(crate) fn send(&self, input: Input) -> bool {
        if !self.facts.is_connected() {
            return false;
        }
        let is_sent = self.sender.try_send(input).is_ok();
        if !is_sent {
            self.facts.disconnected("the scheduler is too slow for what this host has to say".to_owned());
            self.facts.overrun.notify_one();
        }
        is_sent
    }

    /// Whether there is room for what may be said later as well: the rest belongs to what must be said now.
    pub(crate) fn has_room(&self) -> bool {
        self.sender.capacity() > self.sender.max_capacity() / 2
    }

    /// Sends `input`, waiting for room: for paced announcements.
    pub(crate) async fn send_patiently(&self, input: Input) -> bool {
        while self.facts.is_connected() && !self.has_room() {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        self.send(input)
    }
}

#[cfg(test)]
mod tests {
    use hawker_proto::{HostId, TaskId};

    use super::*;

    #[tokio::test]
    async fn full_queue_ends_the_session_and_loses_nothing_silently() {
        let (sender, mut queue) = mpsc::channel(4);
        let facts = Arc::new(LinkFacts::default());
        facts.connected(1);
        let outbox = Outbox::new(sender, Arc::clone(&facts));
        let left = |number| Input::Left { host: HostId([1; 32]), task: TaskId([number; 32]) };
        assert!(outbox.send(left(0)) && outbox.send(left(1)) && !outbox.has_room());
        assert!(outbox.send(left(2)) && outbox.send(left(3)) && facts.is_connected());
        assert!(!outbox.send(left(4)), "there is no room");
        assert!(!facts.is_connected(), "what was lost is said again in the next session");
        facts.overrun().await;
        while queue.try_recv().is_ok() {}
        assert!(!outbox.send(left(5)), "not in this session, which lacks a message");
        facts.connected(2);
        assert!(outbox.send(left(6)) && queue.recv().await == Some(left(6)));
    }

    #[test]
    fn round_trip_is_smoothed_and_starts_at_the_first_sample() {
        let facts = LinkFacts::default();
        assert_eq!(facts.round_trip(), None);
        facts.measured(Duration::from_millis(8));
        assert_eq!(facts.round_trip(), Some(Duration::from_millis(8)));
        facts.measured(Duration::from_millis(16));
        assert_eq!(facts.round_trip(), Some(Duration::from_millis(9)));
    }
}
