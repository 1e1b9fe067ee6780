//! The session with the cluster's scheduler: proves who we are, comes back forever, and never makes anybody wait.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hawker_api::field;
use hawker_api::scheduler::agent_message::Message as Up;
use hawker_api::scheduler::scheduler_client::SchedulerClient;
use hawker_api::scheduler::scheduler_message::Message as Down;
use hawker_api::scheduler::{self, AgentMessage, SchedulerMessage};
use hawker_api::session as handshake;
use hawker_proto::handshake::HandshakeError;
use hawker_proto::{ClusterKey, HostKey, PublicKey};
use hawker_scheduler::Input;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::link::{LinkEvent, LinkFacts, Side, Welcome};
use super::origin::jittered;
use super::wire;

/// First and longest pause between tries to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// TCP and HTTP/2 set-up, then each step of the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked, then given up: a scheduler whose host died sends no FIN.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages handed to HTTP/2 and not yet sent.
const STREAM_QUEUE_MAX: usize = 64;
/// Bounds on what a scheduler may ask for.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// What a session needs to know of this host.
pub(crate) struct SessionConfig {
    /// `http://host:port`.
    pub(crate) url: String,
    pub(crate) key: Arc<HostKey>,
    pub(crate) cluster: Option<ClusterKey>,
    pub(crate) peer_address: SocketAddr,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) is_seed: bool,
    pub(crate) link_bytes_per_s: u64,
}

/// Why a session ended or did not begin.
#[derive(Debug)]
enum SessionError {
    Url(tonic::transport::Error),
    Transport(String),
    Status(tonic::Status),
    Timeout,
    Closed,
    Field(field::FieldError),
    Handshake(handshake::SessionError),
    Order(&'static str),
    Overrun,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => write!(f, "not a scheduler's URL: {error}"),
            Self::Transport(reason) => write!(f, "cannot connect: {reason}"),
            Self::Status(status) => write!(f, "the scheduler answers {:?}: {}", status.code(), status.message()),
            Self::Timeout => f.write_str("the scheduler does not answer"),
            Self::Closed => f.write_str("the scheduler closed the session"),
            Self::Field(error) => write!(f, "the scheduler sends nonsense: {error}"),
            Self::Handshake(error @ handshake::SessionError::Handshake(HandshakeError::Version { .. })) => error.fmt(f),
            Self::Handshake(error) => write!(f, "the scheduler cannot be trusted: {error}"),
            Self::Overrun => f.write_str("the scheduler is too slow for what this host has to say"),
            Self::Order(expected) => write!(f, "the scheduler speaks out of turn, {expected} was expected"),
        }
    }
}

impl From<field::FieldError> for SessionError {
    fn from(error: field::FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<handshake::SessionError> for SessionError {
    fn from(error: handshake::SessionError) -> Self {
        Self::Handshake(error)
    }
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(status)
    }
}

/// Keeps a session until the director is gone: sends what comes from `outbox`, reports to `events`.
pub(crate) async fn run(
    config: SessionConfig,
    mut outbox: mpsc::Receiver<Input>,
    events: mpsc::Sender<LinkEvent>,
    facts: Arc<LinkFacts>,
) {
    let mut backoff = BACKOFF_MIN;
    let mut last_reason = String::new();
    while !events.is_closed() {
        let result = connect(&config, &facts).await;
        let error = match result {
            Ok(session) => {
                backoff = BACKOFF_MIN;
                last_reason.clear();
                tracing::info!(scheduler = %config.url, epoch = session.epoch, "scheduler session is open");
                serve(session, &mut outbox, &events, &facts).await
            }
            Err(error) => error,
        };
        let reason = error.to_string();
        if reason != last_reason {
            tracing::warn!(scheduler = %config.url, %reason, "no scheduler session");
        }
        facts.disconnected(reason.clone());
        last_reason = reason;
        tokio::time::sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

struct Session {
    to: mpsc::Sender<AgentMessage>,
    from: Streaming<SchedulerMessage>,
    welcome: Welcome,
    heartbeat: Duration,
    epoch: u64,
}

async fn connect(config: &SessionConfig, facts: &LinkFacts) -> Result<Session, SessionError> {
    let endpoint = Endpoint::from_shared(config.url.clone())
        .map_err(SessionError::Url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = in_time(endpoint.connect()).await?.map_err(|error| SessionError::Transport(innermost(&error)))?;
    let mut client: SchedulerClient<Channel> = SchedulerClient::new(channel)
        .max_decoding_message_size(scheduler::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(scheduler::MESSAGE_BYTES_MAX);
    let (to, requests) = mpsc::channel(STREAM_QUEUE_MAX);
    let mut from = in_time(client.session(ReceiverStream::new(requests))).await??.into_inner();
    let Some(Down::Challenge(challenge)) = next(&mut from).await? else {
        return Err(SessionError::Order("a challenge"));
    };
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| SessionError::Transport(error.to_string()))?;
    let cluster = config.cluster.as_ref();
    let (hello, transcript) = handshake::answer(&challenge, hello(config), &config.key, cluster, nonce)?;
    let asked = std::time::Instant::now();
    let message = AgentMessage { message: Some(Up::Hello(hello)) };
    to.send(message).await.map_err(|_| SessionError::Closed)?;
    let Some(Down::Welcome(welcome)) = next(&mut from).await? else {
        return Err(SessionError::Order("a welcome"));
    };
    facts.measured(asked.elapsed());
    handshake::check_welcome(&welcome, &transcript, cluster)?;
    session(to, from, &welcome)
}

/// What this host says of itself; keys, nonce and proofs are the session's.
fn hello(config: &SessionConfig) -> scheduler::Hello {
    scheduler::Hello {
        peer_address: config.peer_address.to_string(),
        labels: config.labels.iter().cloned().collect(),
        is_seed: config.is_seed,
        link_bytes_per_s: config.link_bytes_per_s,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    }
}

fn session(
    to: mpsc::Sender<AgentMessage>,
    from: Streaming<SchedulerMessage>,
    welcome: &scheduler::Welcome,
) -> Result<Session, SessionError> {
    let keys: Vec<PublicKey> =
        welcome.scheduler_keys.iter().map(|key| field::public_key("scheduler_keys", key)).collect::<Result<_, _>>()?;
    let config = welcome.config.unwrap_or_default();
    let interval = |millis: u32, default: Duration| match millis {
        0 => default,
        millis => Duration::from_millis(u64::from(millis)).clamp(INTERVAL_MIN, INTERVAL_MAX),
    };
    Ok(Session {
        to,
        from,
        heartbeat: interval(config.heartbeat_ms, Duration::from_secs(1)),
        epoch: welcome.epoch,
        welcome: Welcome {
            keys,
            progress: interval(config.progress_ms, Duration::from_millis(500)),
            cached_tasks_max: config.cached_tasks_max.min(super::director::CACHED_ANNOUNCED_MAX) as usize,
        },
    })
}

/// Carries messages both ways until the session breaks.
async fn serve(
    mut session: Session,
    outbox: &mut mpsc::Receiver<Input>,
    events: &mpsc::Sender<LinkEvent>,
    facts: &LinkFacts,
) -> SessionError {
    // What was queued for the session before is answered by the announcements that follow.
    while outbox.try_recv().is_ok() {}
    facts.connected(session.epoch);
    if events.send(LinkEvent::Up(session.welcome.clone())).await.is_err() {
        return SessionError::Closed;
    }
    let error = tokio::select! {
        ended = carry(&mut session, outbox, events, facts) => ended.err().unwrap_or(SessionError::Closed),
        () = facts.overrun() => SessionError::Overrun,
    };
    facts.disconnected(error.to_string());
    let _ = events.send(LinkEvent::Down).await;
    error
}

async fn carry(
    session: &mut Session,
    outbox: &mut mpsc::Receiver<Input>,
    events: &mpsc::Sender<LinkEvent>,
    facts: &LinkFacts,
) -> Result<(), SessionError> {
    let mut beat = tokio::time::interval(session.heartbeat);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = session.from.message() => {
                let Some(message) = message? else { return Ok(()) };
                if let Some(message) = wire::decode(message)? {
                    let event = LinkEvent::Message(Side::Cluster, message);
                    events.send(event).await.map_err(|_| SessionError::Closed)?;
                }
            }
            input = outbox.recv() => {
                let Some(input) = input else { return Ok(()) };
                let is_goodbye = matches!(input, Input::Leave { .. });
                if let Some(message) = wire::encode(input) {
                    session.to.send(message).await.map_err(|_| SessionError::Closed)?;
                    beat.reset();
                }
                if is_goodbye {
                    return Ok(());
                }
            }
            _ = beat.tick() => {
                let message = Up::Heartbeat(scheduler::Heartbeat {
                    running_tasks: facts.running_tasks.load(Ordering::Relaxed),
                    stored_bytes: facts.stored_bytes.load(Ordering::Relaxed),
                });
                let message = AgentMessage { message: Some(message) };
                session.to.send(message).await.map_err(|_| SessionError::Closed)?;
            }
        }
    }
}

async fn next(from: &mut Streaming<SchedulerMessage>) -> Result<Option<Down>, SessionError> {
    let message = in_time(from.message()).await??.ok_or(SessionError::Closed)?;
    Ok(message.message)
}

async fn in_time<F: Future>(future: F) -> Result<F::Output, SessionError> {
    tokio::time::timeout(CONNECT_TIMEOUT, future).await.map_err(|_| SessionError::Timeout)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
