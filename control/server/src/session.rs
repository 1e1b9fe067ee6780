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
use hawker_proto::handshake::{HandshakeError, Side, Transcript};
use hawker_proto::{ClusterKey, HostKey};
use hawker_scheduler::{HostInfo, Input};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ServerConfig;
use crate::accept::{Caller, NoPlace, Place};
use crate::convert;
use crate::core::{Core, Event, MESSAGES_MAX, Sender};
use crate::identity::Identity;

/// Whoever has not proved itself by then is cut off.
const HELLO_WAIT: Duration = Duration::from_secs(5);
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
        let caller = request.extensions().get::<Caller>();
        let Caller(place) = caller.cloned().ok_or_else(|| Status::internal("the connection has no place"))?;
        if *self.shared.stopping.borrow() {
            return Err(Status::unavailable("the scheduler is stopping"));
        }
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|_| Status::internal("the system gives no random bytes"))?;
        let challenge = session::challenge(&self.shared.key, self.shared.cluster_key.as_ref(), nonce);
        let (messages, stream) = mpsc::channel(MESSAGES_MAX);
        // Connections of strangers are few; so are their streams.
        let proof = Proof::begin(place)
            .ok_or_else(|| Status::resource_exhausted("another stream of the connection is proving itself"))?;
        let visit =
            Visit { shared: Arc::clone(&self.shared), said: request.into_inner(), messages, from: proof.0.from() };
        tokio::spawn(visit.run(challenge, proof));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// The one proof that a connection gives at a time.
struct Proof(Arc<Place>);

impl Proof {
    fn begin(place: Arc<Place>) -> Option<Self> {
        place.begin_proof().then(|| Self(place))
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        self.0.end_proof();
    }
}

/// One stream, from challenge to end.
struct Visit {
    shared: Arc<Shared>,
    said: Streaming<AgentMessage>,
    messages: Sender,
    from: SocketAddr,
}

impl Visit {
    async fn run(mut self, challenge: Challenge, proof: Proof) {
        let mut stopping = self.shared.stopping.clone();
        let hello = tokio::select! {
            met = timeout(HELLO_WAIT, self.meet(challenge, &proof.0)) => {
                met.unwrap_or_else(|_| Err(Status::deadline_exceeded("no Hello within 5 s")))
            }
            _ = stopping.wait_for(|is_stopping| *is_stopping) => Err(Status::unavailable("the scheduler is stopping")),
        };
        drop(proof);
        match hello {
            Ok(info) => self.serve(info).await,
            Err(status) => {
                tracing::info!(from = %self.from, reason = status.message(), "session refused");
                // The agent may be gone.
                let _ = self.messages.try_send(Err(status));
            }
        }
    }

    /// The handshake, up to and without Welcome's effect: the host is not in the cluster yet.
    async fn meet(&mut self, challenge: Challenge, place: &Place) -> Result<HostInfo, Status> {
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
                session::SessionError::Handshake(HandshakeError::Version { .. }) => Status::failed_precondition(text),
                session::SessionError::Handshake(_) => Status::unauthenticated(text),
            }
        })?;
        let info = host_info(&hello, &transcript, self.from)?;
        place.become_member().map_err(no_place)?;
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
        tracing::info!(host = %host.short(), from = %self.from, address = %info.address, "agent joined");
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
                    if !self.shared.core.said(session, host, input).await || is_goodbye {
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

fn no_place(reason: NoPlace) -> Status {
    match reason {
        NoPlace::Evicted => Status::unavailable("newer connections needed this one's place"),
        NoPlace::Full(members) => Status::resource_exhausted(format!(
            "{members} agents are connected, as many as this scheduler's limit of open files allows: raise it \
             (ulimit -n, LimitNOFILE= in a systemd unit)"
        )),
    }
}

fn host_info(hello: &Hello, transcript: &Transcript, from: SocketAddr) -> Result<HostInfo, Status> {
    let peer = transcript.peer(Side::Dialer);
    let mut address = field::address("peer_address", &hello.peer_address)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if address.ip().is_unspecified() {
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
