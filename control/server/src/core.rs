//! The task that owns the cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hawker_api::scheduler::SchedulerMessage;
use hawker_proto::trust::SignedLease;
use hawker_proto::{HostId, Instant};
use hawker_scheduler::{Cluster, HostInfo, Input, Output, Status, ToHost};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant as Clock;

use crate::identity::Identity;
use crate::{ServerConfig, convert};

/// Events waiting for the cluster, over all agents: when it is full, agents wait in their sockets.
const EVENTS_MAX: usize = 4_096;
/// Bytes of them: room for some dozens of the largest announcements, of 512 KiB of piece map each.
const EVENTS_BYTES_MAX: u32 = 32 << 20;
/// Events taken before time and messages are looked at.
const BATCH: usize = 64;
/// Messages waiting for one agent. A join of 10,000 hosts brings one agent a few dozen; one that lets a thousand pile
/// up does not read.
pub(crate) const MESSAGES_MAX: usize = 1_024;

/// What a session tells the core.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, through a queue that counts bytes; boxed it would be an allocation a message"
)]
pub(crate) enum Event {
    /// A host has proved itself.
    Opened { session: u64, info: HostInfo, messages: Sender, held: oneshot::Sender<()> },
    /// It said something.
    Said { session: u64, host: HostId, input: Input, _room: OwnedSemaphorePermit },
    /// Its stream is over.
    Closed { session: u64, host: HostId },
    /// Somebody wants to know how things are.
    Status(oneshot::Sender<Status>),
}

/// Where a session's messages go.
pub(crate) type Sender = mpsc::Sender<Result<SchedulerMessage, tonic::Status>>;

/// A handle on the core.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    events: mpsc::Sender<Event>,
    /// Bytes that may be said.
    room: Arc<Semaphore>,
}

impl Core {
    pub(crate) fn start(
        config: &ServerConfig,
        identity: &Identity,
        seed: u64,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let (events, taken) = mpsc::channel(EVENTS_MAX);
        let cluster = Cluster::new(config.cluster.clone(), identity.key.clone(), identity.epoch, seed);
        let owner = Owner { cluster, sessions: HashMap::new(), started: Clock::now() };
        tokio::spawn(owner.run(taken, stopping));
        Self::new(events)
    }

    fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, room: Arc::new(Semaphore::new(EVENTS_BYTES_MAX as usize)) }
    }

    /// What an agent said, once there is room for it; false when the core is gone.
    pub(crate) async fn said(&self, session: u64, host: HostId, input: Input) -> bool {
        let bytes = u32::try_from(bytes_of(&input)).unwrap_or(u32::MAX).min(EVENTS_BYTES_MAX);
        match Arc::clone(&self.room).acquire_many_owned(bytes).await {
            Ok(room) => self.tell(Event::Said { session, host, input, _room: room }).await,
            Err(_closed) => false,
        }
    }

    /// Waits while the core has much to do; false when it is gone.
    pub(crate) async fn tell(&self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.tell(Event::Status(answer)).await;
        status.await.ok()
    }
}

/// Memory that an input takes.
fn bytes_of(input: &Input) -> usize {
    let more = match input {
        Input::Announce { announcement, .. } => {
            let source = announcement.source.as_ref().map_or(0, |source| source.validators.len());
            let leases = announcement.leases.len() * size_of::<SignedLease>();
            announcement.have.piece_count() as usize / 8 + leases + source
        }
        Input::Resolved { resolution, .. } => resolution.validators.len(),
        Input::ResolveFailed { failure, .. } => failure.text.len(),
        Input::Progress { leases, .. } => leases.len() * size_of::<(u64, u64)>(),
        _ => 0,
    };
    size_of::<Event>() + more
}

struct Owner {
    cluster: Cluster,
    sessions: HashMap<HostId, Session>,
    started: Clock,
}

/// An agent's open stream. Dropping it ends the stream.
struct Session {
    number: u64,
    messages: Sender,
    _held: oneshot::Sender<()>,
}

impl Owner {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut stopping: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.cluster.deadline().map(|at| self.started + Duration::from_nanos(at.as_nanos()));
            let wake = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                taken = events.recv_many(&mut batch, BATCH) => if taken == 0 { return },
                () = wake => self.input(Input::Tick),
                // Dropping the sessions ends every stream.
                _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
            }
            for event in batch.drain(..) {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Opened { session, info, messages, held } => {
                // A host that comes again replaces itself: its older stream is dead, or a copy of its key is.
                self.sessions.insert(info.id, Session { number: session, messages, _held: held });
                self.input(Input::Join(info));
            }
            Event::Said { session, host, input, .. } if self.is_current(session, host) => self.input(input),
            Event::Closed { session, host } if self.is_current(session, host) => {
                self.sessions.remove(&host);
                self.input(Input::Disconnected { host });
            }
            Event::Said { .. } | Event::Closed { .. } => {}
            Event::Status(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.cluster.status());
            }
        }
    }

    fn is_current(&self, session: u64, host: HostId) -> bool {
        self.sessions.get(&host).is_some_and(|current| current.number == session)
    }

    fn input(&mut self, input: Input) {
        let now = Instant::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        self.cluster.handle(now, unix_ms, input);
        let mut lost = Vec::new();
        while let Some(Output::Send { host, message }) = self.cluster.poll() {
            let is_own_ban = message == ToHost::Ban { host };
            let Some(session) = self.sessions.get(&host) else { continue };
            let is_taken = session.messages.try_send(Ok(convert::message_of(message))).is_ok();
            if is_own_ban || !is_taken {
                tracing::info!(host = %host.short(), is_own_ban, "session ended: banned, or it does not read");
                self.sessions.remove(&host);
                lost.push(host);
            }
        }
        for host in lost {
            self.cluster.handle(now, unix_ms, Input::Disconnected { host });
        }
    }
}

#[cfg(test)]
mod tests {
    use hawker_proto::{Geometry, PieceMap, TaskId};
    use hawker_scheduler::{Announcement, ResolveFailure, WantId};

    use super::*;

    fn announcement(host: HostId) -> Input {
        let geometry = Geometry::of_stream(1 << 42).unwrap();
        let announcement = Announcement {
            task: TaskId([1; 32]),
            geometry,
            have: PieceMap::full(geometry.piece_count()),
            is_running: false,
            leases: Vec::new(),
            origin: None,
            has_ranges: true,
            is_shared: true,
            source: None,
            digest: None,
        };
        Input::Announce { host, announcement }
    }

    /// Lets 200 hosts say something; how much of it is in the queue when nobody takes it, and how many in all.
    async fn say(input_of: fn(HostId) -> Input) -> (usize, usize) {
        let (events, mut taken) = mpsc::channel(EVENTS_MAX);
        let core = Core::new(events);
        for number in 0..200 {
            let (core, host) = (core.clone(), HostId([number; 32]));
            tokio::spawn(async move { core.said(1, host, input_of(host)).await });
        }
        drop(core);
        // One thread: each of them runs until it waits.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let queued = taken.len();
        let mut all = 0;
        while taken.recv().await.is_some() {
            all += 1;
        }
        (queued, all)
    }

    #[tokio::test]
    async fn what_hosts_say_waits_for_room_by_its_bytes() {
        let (queued, all) = say(announcement).await;
        let bytes = bytes_of(&announcement(HostId([0; 32])));
        assert!(bytes > 256 << 10, "{bytes}: a bit a piece");
        assert!(queued > 0 && queued * bytes <= EVENTS_BYTES_MAX as usize, "{queued} of {bytes} bytes");
        assert_eq!(all, 200, "the rest comes when there is room");
    }

    #[tokio::test]
    async fn short_messages_do_not_wait_and_long_texts_do() {
        assert_eq!(say(|host| Input::Heartbeat { host }).await, (200, 200));
        let (queued, all) = say(|host| {
            let failure = ResolveFailure { is_final: false, status: 0, text: "x".repeat(2 << 20) };
            Input::ResolveFailed { host, want: WantId(1), failure }
        })
        .await;
        assert!(queued <= 16 && all == 200, "{queued} of {all}");
    }
}
