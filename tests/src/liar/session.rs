//! The liar's session with a real scheduler.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hawker_api::scheduler::agent_message::Message as Said;
use hawker_api::scheduler::scheduler_client::SchedulerClient;
use hawker_api::scheduler::scheduler_message::Message as Told;
use hawker_api::scheduler::{AgentMessage, Announce, BadHost, Finished, Heartbeat, Hello, SchedulerMessage};
use hawker_api::session;
use hawker_proto::{Geometry, HostId, TaskId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::Identity;

const HEARTBEAT: Duration = Duration::from_millis(500);

/// What the scheduler said so far.
#[derive(Debug, Default)]
struct Heard {
    is_welcome: bool,
    is_over: bool,
    addresses: HashMap<HostId, SocketAddr>,
    bans: Vec<HostId>,
}

/// A session that lasts as long as this value, or until the scheduler ends it.
#[derive(Debug)]
pub struct Session {
    say: mpsc::Sender<Said>,
    heard: Arc<Mutex<Heard>>,
}

impl Session {
    /// Joins the cluster; peers will dial `peer_address`.
    #[must_use]
    pub fn join(scheduler: SocketAddr, identity: &Identity, peer_address: SocketAddr) -> Self {
        let (say, said) = mpsc::channel(64);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (identity, shared) = (identity.clone(), Arc::clone(&heard));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // Its end is an answer too: the test looks at `is_over`.
            let result = runtime.block_on(run(scheduler, &identity, peer_address, said, &shared));
            println!("liar {peer_address}: session ended: {result:?}");
            lock(&shared).is_over = true;
        });
        Self { say, heard }
    }

    /// Whether the scheduler took it.
    #[must_use]
    pub fn is_welcome(&self) -> bool {
        lock(&self.heard).is_welcome
    }

    /// Whether the scheduler ended it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        lock(&self.heard).is_over
    }

    /// Where the scheduler says a host is.
    #[must_use]
    pub fn address_of(&self, host: HostId) -> Option<SocketAddr> {
        lock(&self.heard).addresses.get(&host).copied()
    }

    /// Every host that the scheduler named as a neighbor.
    #[must_use]
    pub fn neighbors(&self) -> Vec<(HostId, SocketAddr)> {
        lock(&self.heard).addresses.iter().map(|(host, address)| (*host, *address)).collect()
    }

    /// Whom the scheduler banned, as far as this host was told.
    #[must_use]
    pub fn bans(&self) -> Vec<HostId> {
        lock(&self.heard).bans.clone()
    }

    /// Says that this host has all of a task.
    pub fn announce(&self, task: TaskId, geometry: Geometry) {
        self.say(Said::Announce(Announce {
            task: task.0.to_vec(),
            geometry: Some(geometry.into()),
            is_complete: true,
            has_ranges: true,
            is_shared: true,
            ..Announce::default()
        }));
        self.say(Said::Finished(Finished { task: task.0.to_vec() }));
    }

    /// Says that this host downloads a task and has nothing of it yet.
    pub fn announce_running(&self, task: TaskId, geometry: Geometry) {
        let have = vec![0; geometry.piece_count().div_ceil(8) as usize];
        self.say(Said::Announce(Announce {
            task: task.0.to_vec(),
            geometry: Some(geometry.into()),
            have,
            is_running: true,
            has_ranges: true,
            is_shared: true,
            ..Announce::default()
        }));
    }

    /// Complains of a host.
    pub fn complain(&self, host: HostId, task: TaskId) {
        self.say(Said::BadHost(BadHost { host: host.0.to_vec(), task: task.0.to_vec() }));
    }

    fn say(&self, said: Said) {
        // Lost when the session is over, as it would be anywhere.
        let _ = self.say.blocking_send(said);
    }
}

async fn run(
    scheduler: SocketAddr,
    identity: &Identity,
    peer_address: SocketAddr,
    mut said: mpsc::Receiver<Said>,
    heard: &Mutex<Heard>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let endpoint = Endpoint::from_shared(format!("http://{scheduler}")).map_err(|error| text(&error))?;
    let mut client = SchedulerClient::new(endpoint.connect().await.map_err(|error| text(&error))?);
    let (up, requests) = mpsc::channel(64);
    let stream = client.session(ReceiverStream::new(requests)).await.map_err(|error| text(&error))?;
    let mut told = stream.into_inner();
    let mut next = async || -> Result<Told, String> {
        let message: Option<SchedulerMessage> = told.message().await.map_err(|error| text(&error))?;
        message.and_then(|message| message.message).ok_or_else(|| "closed".to_owned())
    };
    let say = async |said: Said| {
        let message = AgentMessage { message: Some(said) };
        up.send(message).await.map_err(|_| "closed".to_owned())
    };
    let Told::Challenge(challenge) = next().await? else { return Err("no challenge".to_owned()) };
    let hello = Hello { peer_address: peer_address.to_string(), ..Hello::default() };
    let nonce = identity.nonce();
    let (hello, _) = session::answer(&challenge, hello, &identity.key, Some(&identity.cluster), nonce)
        .map_err(|error| text(&error))?;
    say(Said::Hello(hello)).await?;
    let Told::Welcome(_) = next().await? else { return Err("no welcome".to_owned()) };
    lock(heard).is_welcome = true;
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            message = next() => hear(&mut lock(heard), message?),
            message = said.recv() => match message {
                Some(message) => say(message).await?,
                None => return Ok(()),
            },
            _ = beat.tick() => say(Said::Heartbeat(Heartbeat::default())).await?,
        }
    }
}

fn hear(heard: &mut Heard, message: Told) {
    let add = match message {
        Told::Neighbors(neighbors) => neighbors.add,
        Told::Ready(ready) => ready.neighbors,
        Told::Ban(ban) => {
            heard.bans.extend(hawker_api::field::host_id("host", &ban.host));
            return;
        }
        _ => return,
    };
    let known = add.iter().filter_map(|neighbor| hawker_api::field::neighbor(neighbor).ok());
    heard.addresses.extend(known.map(|(host, address, _)| (host, address)));
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
