//! The task that owns the cluster.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hawker_api::scheduler::SchedulerMessage;
use hawker_proto::{HostId, Instant};
use hawker_scheduler::{Cluster, HostInfo, Input, Output, Status, ToHost};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant as Clock;

use crate::identity::Identity;
use crate::{ServerConfig, convert};

/// Events waiting for the cluster, over all agents: when it is full, agents wait in their sockets.
const EVENTS_MAX: usize = 4_096;
/// Events taken before time and messages are looked at.
const BATCH: usize = 64;
/// Messages waiting for one agent. A join of 10,000 hosts brings one agent a few dozen; one that lets a thousand pile
/// up does not read.
pub(crate) const MESSAGES_MAX: usize = 1_024;

/// What a session tells the core.
#[derive(Debug)]
pub(crate) enum Event {
    /// A host has proved itself.
    Opened { session: u64, info: HostInfo, messages: Sender, held: oneshot::Sender<()> },
    /// It said something.
    Said { session: u64, host: HostId, input: Input },
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
        Self { events }
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
            Event::Said { session, host, input } if self.is_current(session, host) => self.input(input),
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
