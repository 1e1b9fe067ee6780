//! One agent's stream: who it is, then what it says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hawker_api::scheduler::scheduler_server::Scheduler;
use hawker_api::scheduler::{
    AgentMessage, Challenge, Config, Hello, SchedulerMessage, Welcome, agent_message, scheduler_message,
};
use hawker_api::{field, session};
use hawker_proto::handshake::{Side, Transcript};
use hawker_proto::{ClusterKey, HostKey};
use hawker_scheduler::{HostInfo, Input};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ServerConfig;
use crate::convert;
use crate::core::{Core, Event, MESSAGES_MAX, Sender};
use crate::identity::Identity;

/// Whoever has not proved itself by then is cut off.
const HELLO_WAIT: Duration = Duration::from_secs(5);
/// Streams that have not proved themselves yet.
const STRANGERS_MAX: usize = 1_024;
const HEARTBEAT_MS: u32 = 1_000;
const PROGRESS_MS: u32 = 200;
const CACHED_TASKS_MAX: u32 = 4_096;
const LABELS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 64;

/// The gRPC service.
#[derive(Clone, Debug)]
pub(crate) struct SchedulerService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    key: HostKey,
    cluster_key: Option<ClusterKey>,
    epoch: u64,
    /// The cluster forgets a silent host; a little before, its stream ends, so that it knows.
    silence: Duration,
    core: Core,
    sessions: AtomicU64,
    strangers: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

impl SchedulerService {
    pub(crate) fn new(config: &ServerConfig, identity: &Identity, core: Core, stopping: watch::Receiver<bool>) -> Self {
        let shared = Shared {
            key: identity.key.clone(),
            cluster_key: config.cluster_key.clone(),
            epoch: identity.epoch,
            silence: config.cluster.gone_after.mul_f32(0.9),
            core,
            sessions: AtomicU64::new(0),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            stopping,
        };
        Self { shared: Arc::new(shared) }
    }
}

#[tonic::async_trait]
impl Scheduler for SchedulerService {
    type SessionStream = ReceiverStream<Result<SchedulerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let stranger = Arc::clone(&self.shared.strangers)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many streams are waiting to prove themselves"))?;
        if *self.shared.stopping.borrow() {
            return Err(Status::unavailable("the scheduler is stopping"));
        }
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|_| Status::internal("the system gives no random bytes"))?;
        let challenge = session::challenge(&self.shared.key, self.shared.cluster_key.as_ref(), nonce);
        let (messages, stream) = mpsc::channel(MESSAGES_MAX);
        let from = request.remote_addr();
        let visit = Visit { shared: Arc::clone(&self.shared), said: request.into_inner(), messages, from };
        tokio::spawn(visit.run(challenge, stranger));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream, from challenge to end.
struct Visit {
    shared: Arc<Shared>,
    said: Streaming<AgentMessage>,
    messages: Sender,
    from: Option<SocketAddr>,
}

impl Visit {
    async fn run(mut self, challenge: Challenge, stranger: OwnedSemaphorePermit) {
        let mut stopping = self.shared.stopping.clone();
        let hello = tokio::select! {
            met = timeout(HELLO_WAIT, self.meet(challenge)) => {
                met.unwrap_or_else(|_| Err(Status::deadline_exceeded("no Hello within 5 s")))
            }
            _ = stopping.wait_for(|is_stopping| *is_stopping) => Err(Status::unavailable("the scheduler is stopping")),
        };
        drop(stranger);
        match hello {
            Ok(info) => self.serve(info).await,
            Err(status) => {
                tracing::info!(from = ?self.from, reason = status.message(), "session refused");
                // The agent may be gone.
                let _ = self.messages.try_send(Err(status));
            }
        }
    }

    /// The handshake, up to and without Welcome's effect: the host is not in the cluster yet.
    async fn meet(&mut self, challenge: Challenge) -> Result<HostInfo, Status> {
        self.send(scheduler_message::Message::Challenge(challenge.clone()))?;
        let hello = match self.said.message().await? {
            Some(AgentMessage { message: Some(agent_message::Message::Hello(hello)) }) => hello,
            Some(_) => return Err(Status::invalid_argument("the first message must be Hello")),
            None => return Err(Status::cancelled("the stream ended before Hello")),
        };
        let shared = Arc::clone(&self.shared);
        let cluster_key = shared.cluster_key.as_ref();
        let transcript = session::check_hello(&challenge, &hello, cluster_key).map_err(|error| {
            let text = error.to_string();
            match error {
                session::SessionError::Field(_) => Status::invalid_argument(text),
                session::SessionError::Handshake(_) => Status::unauthenticated(text),
            }
        })?;
        let info = host_info(&hello, &transcript, self.from)?;
        let mut welcome = Welcome {
            mac: Vec::new(),
            signature: Vec::new(),
            epoch: shared.epoch,
            scheduler_keys: vec![shared.key.public().0.to_vec()],
            config: Some(Config {
                heartbeat_ms: HEARTBEAT_MS,
                progress_ms: PROGRESS_MS,
                cached_tasks_max: CACHED_TASKS_MAX,
            }),
        };
        session::prove_welcome(&mut welcome, &transcript, &shared.key, cluster_key);
        self.send(scheduler_message::Message::Welcome(welcome))?;
        Ok(info)
    }

    async fn serve(mut self, info: HostInfo) {
        let host = info.id;
        let session = self.shared.sessions.fetch_add(1, Ordering::Relaxed);
        tracing::info!(host = %host.short(), from = ?self.from, address = %info.address, "agent joined");
        let messages = self.messages.clone();
        let (held, mut let_go) = oneshot::channel();
        if !self.shared.core.tell(Event::Opened { session, info, messages, held }).await {
            return;
        }
        let reason = loop {
            let said = tokio::select! {
                said = timeout(self.shared.silence, self.said.message()) => said,
                // The core is done with this session, or stops.
                _ = &mut let_go => break None,
            };
            let message = match said {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None) | Err(_)) => break None,
                Err(_) => break Some(Status::deadline_exceeded("no heartbeat in time")),
            };
            match convert::input_of(host, message) {
                Ok(input) => {
                    let is_goodbye = matches!(input, Input::Leave { .. });
                    if !self.shared.core.tell(Event::Said { session, host, input }).await || is_goodbye {
                        break None;
                    }
                }
                Err(error) => break Some(Status::invalid_argument(error.to_string())),
            }
        };
        if let Some(status) = &reason {
            // A full queue means that nobody reads.
            let _ = self.messages.try_send(Err(status.clone()));
        }
        tracing::info!(host = %host.short(), reason = reason.as_ref().map(Status::message), "agent's stream ended");
        self.shared.core.tell(Event::Closed { session, host }).await;
    }

    fn send(&self, message: scheduler_message::Message) -> Result<(), Status> {
        self.messages
            .try_send(Ok(SchedulerMessage { message: Some(message) }))
            .map_err(|_| Status::cancelled("the stream ended"))
    }
}

fn host_info(hello: &Hello, transcript: &Transcript, from: Option<SocketAddr>) -> Result<HostInfo, Status> {
    let peer = transcript.peer(Side::Dialer);
    let mut address = field::address("peer_address", &hello.peer_address)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if address.ip().is_unspecified() {
        let from = from.ok_or_else(|| Status::invalid_argument("peer_address must name an ip"))?;
        address.set_ip(from.ip().to_canonical());
    }
    let is_short = |text: &str| text.len() <= LABEL_BYTES_MAX;
    if hello.labels.len() > LABELS_MAX || !hello.labels.iter().all(|(name, value)| is_short(name) && is_short(value)) {
        return Err(Status::invalid_argument("at most 16 labels of at most 64 bytes"));
    }
    Ok(HostInfo {
        id: peer.host,
        key: peer.key,
        address,
        labels: hello.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        is_seed: hello.is_seed,
        link_bytes_per_s: hello.link_bytes_per_s,
    })
}
