//! Peers, schedulers and agents that are older or newer by a protocol version: the common one is spoken, or both are
//! named and the work goes on without the other. What a newer one adds to a version is passed over.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hawker_api::scheduler::agent_message::Message as Said;
use hawker_api::scheduler::scheduler_message::Message as Told;
use hawker_api::scheduler::scheduler_server::{Scheduler, SchedulerServer};
use hawker_api::scheduler::{AgentMessage, Challenge, Heartbeat, Hello, SchedulerMessage, Welcome};
use hawker_api::session;
use hawker_proto::frame::{ErrorCode, Frame, Hello as Offer};
use hawker_proto::handshake::{LinkKind, Side, Transcript};
use hawker_proto::{Geometry, HostKey, PublicKey};
use hawker_tests::cluster::{ask, clean};
use hawker_tests::liar::{Identity, Link, Message, Session};
use hawker_tests::loopback::{CLUSTER_KEY, Loopback};
use hawker_tests::nginx::{Behaviour, Nginx};
use hawker_tests::process::{Process, Scratch, wait_until};
use hawker_tests::{files, free_address, on_both_engines, workspace};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_mins(1);
const LENGTH: usize = (4 << 20) + 1;
/// What is older, newer, and newer but still able to speak the version of this build.
const OLDER: RangeInclusive<u16> = 0..=0;
const NEWER: RangeInclusive<u16> = 2..=2;
const BOTH: RangeInclusive<u16> = 1..=2;
const ADVICE: &str = "update the older one";

fn obstacle() -> Option<&'static str> {
    workspace::find_program("nginx").is_none().then_some("nginx is not installed")
}

#[test]
fn peers_of_other_versions_are_told_why_or_spoken_to_in_the_common_one() {
    on_both_engines("peers_of_other_versions", obstacle(), |engine| {
        let cluster = Loopback::start(engine, 2);
        let content = files::random_bytes(LENGTH, 61);
        cluster.publish("file", &content);
        let report = cluster.get(0, "file", &content, LIMIT);
        let task = report["task"].as_str().expect("a task").parse().expect("an id");
        let geometry = Geometry::of_length(LENGTH as u64).expect("a length");

        // As children of an agent.
        let child = Identity::new(1, CLUSTER_KEY);
        let session = Session::join(cluster.scheduler(), &child, free_address());
        wait_until(LIMIT, "welcome", || session.is_welcome());
        session.announce_running(task, geometry);
        wait_until(LIMIT, "told of a neighbor", || !session.neighbors().is_empty());
        let (_, address) = session.neighbors()[0];
        for versions in [OLDER, NEWER] {
            let refusal =
                Link::dial_speaking(address, &child, versions.clone()).expect_err("nothing in common").to_string();
            let named = format!("the dialer speaks {} to {}, the acceptor 1 to 1", versions.start(), versions.end());
            assert!(refusal.contains("Version") && refusal.contains(&named) && refusal.contains(ADVICE), "{refusal}");
        }
        let mut link = Link::dial_speaking(address, &child, BOTH).expect("both speak version 1");
        link.assert_serves(1, task, &content);
        drop((link, session));

        // As its parents: they say that they have everything, and nobody else is left that has it.
        let parents: Vec<Stranger> =
            [OLDER, NEWER].into_iter().zip(2..).map(|(versions, seed)| Stranger::start(seed, versions)).collect();
        let sessions: Vec<Session> = parents
            .iter()
            .map(|parent| {
                let session = Session::join(cluster.scheduler(), &parent.identity, parent.address);
                wait_until(LIMIT, "welcome", || session.is_welcome());
                session.announce(task, geometry);
                session
            })
            .collect();
        cluster.remove(0, task);
        let report = cluster.get(1, "file", &content, LIMIT);
        println!("{engine}: beside parents of other versions {} s", report["seconds"]);
        assert_eq!(report["peer_bytes"], 0);
        for parent in &parents {
            let heard = lock(&parent.heard).clone();
            let named = format!("the acceptor {} to {}", parent.versions.start(), parent.versions.end());
            assert!(heard.iter().all(|text| text.contains(&named) && text.contains(ADVICE)), "{heard:?}");
            // 100 ms, 200 ms, ... 2 s between dials.
            let dials = parent.dials.load(Ordering::Relaxed);
            assert!(dials <= 40 && heard.len() <= dials as usize, "{dials} dials");
        }
        assert!(parents.iter().any(|parent| !lock(&parent.heard).is_empty()), "nobody was dialed");
        assert!(sessions.iter().all(|session| !session.is_over() && session.bans().is_empty()));
        assert_eq!(cluster.scheduler_count("hawker_scheduler_banned"), 0, "another version is no lie");
    });
}

/// A parent of another version: it says so and hears what the child thinks of it.
struct Stranger {
    identity: Identity,
    versions: RangeInclusive<u16>,
    address: SocketAddr,
    dials: Arc<AtomicU32>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Stranger {
    fn start(seed: u8, versions: RangeInclusive<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let stranger = Self {
            identity: Identity::new(seed, CLUSTER_KEY),
            versions: versions.clone(),
            address,
            dials: Arc::default(),
            heard: Arc::default(),
        };
        let (identity, dials, heard) =
            (stranger.identity.clone(), Arc::clone(&stranger.dials), Arc::clone(&stranger.heard));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                dials.fetch_add(1, Ordering::Relaxed);
                match Link::greet(socket, &identity, versions.clone()) {
                    Ok(Message::Frame(Frame::Error { code: ErrorCode::Version, text, .. })) => lock(&heard).push(text),
                    other => lock(&heard).push(format!("{other:?}")),
                }
            }
        });
        stranger
    }
}

#[test]
fn agents_of_other_versions_are_told_why_or_spoken_to_in_the_common_one() {
    on_both_engines("agents_of_other_versions", obstacle(), |engine| {
        let cluster = Loopback::start(engine, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for versions in [OLDER, NEWER] {
            let agent = NewerAgent { seed: 1, versions: versions.clone() };
            let error = runtime.block_on(agent.join(cluster.scheduler())).expect_err("nothing in common");
            let named = format!("the agent speaks {} to {}, the scheduler 1 to 1", versions.start(), versions.end());
            assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
            assert!(error.message().contains(&named) && error.message().contains(ADVICE), "{error}");
        }
        runtime.block_on(async {
            let (say, mut told) =
                NewerAgent { seed: 1, versions: BOTH }.join(cluster.scheduler()).await.expect("common");
            // A message, a field and an outcome of a lease that this build does not know.
            let novelty = Newer { novelty: Some(vec![1, 2, 3]), ..Newer::default() };
            let heartbeat = NewerHeartbeat { running_tasks: 1, novelty: "new".to_owned() };
            let done = NewerLeaseDone { serial: 1, outcome: 99 };
            say.send(novelty).await.expect("open");
            say.send(Newer { heartbeat: Some(heartbeat), ..Newer::default() }).await.expect("open");
            say.send(Newer { lease_done: Some(done), ..Newer::default() }).await.expect("open");
            // It is answered still: nobody has this.
            let want = hawker_api::scheduler::Want { want: 7, task: vec![5; 32], ..Default::default() };
            say.send(Newer { want: Some(want), ..Newer::default() }).await.expect("open");
            let answer =
                tokio::time::timeout(LIMIT, told.message()).await.expect("in time").expect("open").expect("open");
            assert!(matches!(&answer.message, Some(Told::WantFailed(failed)) if failed.want == 7), "{answer:?}");
        });
        assert_eq!(cluster.scheduler_count("hawker_scheduler_banned"), 0);
    });
}

/// What an agent says, with fields that only a newer version has. On the wire a oneof is its members.
#[derive(Clone, PartialEq, prost::Message)]
struct Newer {
    #[prost(message, optional, tag = "1")]
    hello: Option<Hello>,
    #[prost(message, optional, tag = "2")]
    heartbeat: Option<NewerHeartbeat>,
    #[prost(message, optional, tag = "3")]
    want: Option<hawker_api::scheduler::Want>,
    #[prost(message, optional, tag = "10")]
    lease_done: Option<NewerLeaseDone>,
    #[prost(bytes = "vec", optional, tag = "999")]
    novelty: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NewerHeartbeat {
    #[prost(uint64, tag = "1")]
    running_tasks: u64,
    #[prost(string, tag = "999")]
    novelty: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NewerLeaseDone {
    #[prost(uint64, tag = "1")]
    serial: u64,
    #[prost(int32, tag = "3")]
    outcome: i32,
}

struct NewerAgent {
    seed: u8,
    versions: RangeInclusive<u16>,
}

impl NewerAgent {
    /// Joins, or hears why not.
    async fn join(&self, to: SocketAddr) -> Result<(mpsc::Sender<Newer>, Streaming<SchedulerMessage>), Status> {
        let identity = Identity::new(self.seed, CLUSTER_KEY);
        let channel =
            Endpoint::from_shared(format!("http://{to}")).expect("a URL").connect().await.expect("it listens");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("ready");
        let (say, said) = mpsc::channel(8);
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/hawker.scheduler.v1.Scheduler/Session");
        let codec = tonic_prost::ProstCodec::<Newer, SchedulerMessage>::default();
        let stream = client.streaming(Request::new(ReceiverStream::new(said)), path, codec).await?;
        let mut told = stream.into_inner();
        let Some(Told::Challenge(challenge)) = told.message().await?.and_then(|message| message.message) else {
            panic!("no challenge");
        };
        let hello = self.answer(&challenge, &identity);
        say.send(Newer { hello: Some(hello), ..Newer::default() }).await.expect("open");
        match told.message().await?.and_then(|message| message.message) {
            Some(Told::Welcome(_)) => Ok((say, told)),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&self, challenge: &Challenge, identity: &Identity) -> Hello {
        let (version_min, version_max) = self.versions.clone().into_inner();
        let array = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).expect("32 bytes");
        let offer = |version_min, version_max, nonce, host| Offer {
            version_min,
            version_max,
            nonce,
            host,
            roles: 0,
            is_secured: true,
        };
        let version = |number: u32| u16::try_from(number).expect("a version");
        let ours = offer(version_min, version_max, identity.nonce(), identity.key.public());
        let theirs = offer(
            version(challenge.version_min),
            version(challenge.version_max),
            array(&challenge.nonce),
            PublicKey(array(&challenge.public_key)),
        );
        let mut hello = Hello {
            nonce: ours.nonce.to_vec(),
            public_key: ours.host.0.to_vec(),
            version_min: version_min.into(),
            version_max: version_max.into(),
            peer_address: free_address().to_string(),
            // Who has nothing in common has nothing to prove; the scheduler only sees that it is there.
            mac: vec![0; 32],
            signature: vec![0; 64],
            ..Hello::default()
        };
        if let Ok(transcript) = Transcript::new(LinkKind::Control, ours, theirs) {
            let proof = transcript.prove(Side::Dialer, &identity.key, Some(&identity.cluster));
            (hello.mac, hello.signature) = (proof.mac.to_vec(), proof.signature.0.to_vec());
        }
        hello
    }
}

#[test]
fn schedulers_of_other_versions_are_named_and_done_without_or_spoken_to_in_the_common_one() {
    on_both_engines("schedulers_of_other_versions", obstacle(), |engine| {
        for versions in [OLDER, NEWER, BOTH] {
            let scratch = Scratch::new();
            let scheduler = OtherScheduler::start(versions.clone());
            let agent = Agent::start(&scratch, engine, scheduler.address);
            if versions == BOTH {
                wait_until(LIMIT, "connected", || agent.scheduler()["is_connected"] == true);
                // It heard messages and fields that it does not know, and its session goes on.
                let beats = || scheduler.beats.load(Ordering::Relaxed);
                let before = beats();
                wait_until(LIMIT, "alive", || beats() > before + 2);
                assert_eq!(scheduler.sessions.load(Ordering::Relaxed), 1);
            } else {
                let named =
                    format!("the agent speaks 1 to 1, the scheduler {} to {}", versions.start(), versions.end());
                let reason = || agent.scheduler()["reason"].as_str().unwrap_or_default().to_owned();
                wait_until(LIMIT, "refused", || reason().contains(&named));
                assert!(reason().contains(ADVICE), "{}", reason());
                assert_eq!(agent.scheduler()["is_connected"], false);
            }
            agent.check_get();
        }
    });
}

/// An agent that has no scheduler but the scripted one, and an origin.
struct Agent {
    _process: Process,
    socket: PathBuf,
    nginx: Nginx,
    scratch: PathBuf,
}

impl Agent {
    fn start(scratch: &Scratch, engine: &str, scheduler: SocketAddr) -> Self {
        let root = scratch.join("root");
        std::fs::create_dir(&root).expect("room");
        let nginx = Nginx::start(scratch, free_address(), &root, Behaviour::default(), None);
        let socket = scratch.join("agent.sock");
        let key = scratch.join("cluster.key");
        hawker_tests::cluster::write_cluster_key(&key);
        let mut command = Command::new(workspace::hawker());
        command.args(["agent", "--engine", engine, "--limit-disk", "1GiB", "--peer-port", "0", "--http-port", "0"]);
        command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(&socket).arg("--cluster-key").arg(key);
        command.args(["--scheduler", &format!("http://{scheduler}")]);
        clean(&mut command);
        let mut process = Process::start(scratch.path(), "agent", command);
        process.wait_until(LIMIT, "ready", || ask(&socket, &["status"]).is_some());
        Self { _process: process, socket, nginx, scratch: scratch.path().to_owned() }
    }

    fn scheduler(&self) -> serde_json::Value {
        ask(&self.socket, &["status"]).expect("the agent answers")["scheduler"].clone()
    }

    /// Downloads work, whoever the scheduler is.
    fn check_get(&self) {
        let digest = files::write_random(&self.scratch.join("root/file"), LENGTH as u64, 62);
        let output = self.scratch.join("output");
        let mut command = Command::new(workspace::hawker());
        command.args(["get", &self.nginx.url("file"), "--digest", &format!("sha256:{digest}"), "-o"]).arg(&output);
        command.arg("--socket").arg(&self.socket);
        clean(&mut command);
        let ended = Process::start(&self.scratch, "get", command).wait(LIMIT);
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_eq!(files::sha256(&output).expect("an output"), digest);
    }
}

/// A scheduler that speaks `versions`, lets agents in, and says nothing that they know.
#[derive(Clone)]
struct OtherScheduler {
    address: SocketAddr,
    versions: RangeInclusive<u16>,
    key: HostKey,
    sessions: Arc<AtomicU32>,
    beats: Arc<AtomicU32>,
}

impl OtherScheduler {
    fn start(versions: RangeInclusive<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        listener.set_nonblocking(true).expect("a socket");
        let scheduler = Self {
            address,
            versions,
            key: HostKey::from_seed([77; 32]),
            sessions: Arc::default(),
            beats: Arc::default(),
        };
        let served = scheduler.clone();
        // It serves until the test's process ends.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let server = tonic::transport::Server::builder().add_service(SchedulerServer::new(served));
                server.serve_with_incoming(incoming).await.expect("it serves");
            });
        });
        scheduler
    }

    async fn meet(
        &self,
        mut said: Streaming<AgentMessage>,
        tell: &mpsc::Sender<Result<SchedulerMessage, Status>>,
    ) -> Result<(), Status> {
        let cluster = hawker_proto::ClusterKey::from_bytes(CLUSTER_KEY);
        let (version_min, version_max) = self.versions.clone().into_inner();
        let nonce = Identity::new(78, CLUSTER_KEY).nonce();
        let challenge = Challenge {
            version_min: version_min.into(),
            version_max: version_max.into(),
            ..session::challenge(&self.key, Some(&cluster), nonce)
        };
        let closed = |_| Status::cancelled("gone");
        let say = |message| tell.send(Ok(SchedulerMessage { message }));
        say(Some(Told::Challenge(challenge.clone()))).await.map_err(closed)?;
        let Some(Said::Hello(hello)) = said.message().await?.and_then(|message| message.message) else {
            return Err(Status::cancelled("no Hello"));
        };
        let transcript = session::check_hello(&challenge, &hello, Some(&cluster))
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        assert_eq!(transcript.version(), 1, "the newest that both speak");
        self.sessions.fetch_add(1, Ordering::Relaxed);
        let mut welcome =
            Welcome { epoch: 1, scheduler_keys: vec![self.key.public().0.to_vec()], ..Welcome::default() };
        session::prove_welcome(&mut welcome, &transcript, &self.key, Some(&cluster));
        say(Some(Told::Welcome(welcome))).await.map_err(closed)?;
        // To an agent that does not know a message it is empty.
        say(None).await.map_err(closed)?;
        while let Some(message) = said.message().await? {
            if let Some(Said::Heartbeat(Heartbeat { .. })) = message.message {
                self.beats.fetch_add(1, Ordering::Relaxed);
                say(None).await.map_err(closed)?;
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Scheduler for OtherScheduler {
    type SessionStream = ReceiverStream<Result<SchedulerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (tell, told) = mpsc::channel(16);
        let scheduler = self.clone();
        tokio::spawn(async move {
            if let Err(status) = scheduler.meet(request.into_inner(), &tell).await {
                // The agent may be gone.
                let _ = tell.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
