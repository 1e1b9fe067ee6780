//! Whoever is not of the cluster gets nothing from beyond loopback: every listener, method and path is named here with
//! what it grants, so that a new one fails these tests until somebody has decided.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hawker_api::scheduler::agent_message::Message as Said;
use hawker_api::scheduler::scheduler_client::SchedulerClient;
use hawker_api::scheduler::scheduler_message::Message as Told;
use hawker_api::scheduler::{AgentMessage, Hello, Welcome};
use hawker_api::session;
use hawker_proto::ClusterKey;
use hawker_proto::frame::{Frame, ROLE_WANTS};
use hawker_proto::handshake::{Handshake, HandshakeConfig};
use hawker_tests::cluster::{ask, clean};
use hawker_tests::island::Island;
use hawker_tests::liar::{Identity, Link, Message};
use hawker_tests::loopback::CLUSTER_KEY;
use hawker_tests::process::{Process, Scratch};
use hawker_tests::{http_get, workspace};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const LIMIT: Duration = Duration::from_secs(30);

/// As everybody but this host sees it.
const HOST: &str = "203.0.113.1";
const SCHEDULER: &str = "203.0.113.1:7300";
const PEERS: &str = "203.0.113.1:7310";
const HTTP: &str = "127.0.0.1:7311";

/// What a method or a path grants to somebody on another machine who proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grants {
    /// An answer: it says only that the process lives.
    Life,
    Nothing,
}

/// Every gRPC method of the scheduler's port.
const METHODS: [(&str, Grants); 5] = [
    ("grpc.health.v1.Health/Check", Grants::Life),
    ("grpc.health.v1.Health/Watch", Grants::Life),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Grants::Nothing),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Grants::Nothing),
    ("hawker.scheduler.v1.Scheduler/Session", Grants::Nothing),
];

/// Every path of an HTTP port.
const PATHS: [(&str, Grants); 2] = [("/healthz", Grants::Life), ("/metrics", Grants::Nothing)];

/// Where production code listens or adds services, and how often: a new place needs a decision here.
const PLACES: [(&str, &str, usize); 8] = [
    ("control/server/src/http.rs", ".route(\"", 2),
    ("control/server/src/http.rs", ".add_service(", 3),
    ("control/server/src/http.rs", "Routes::new(", 1),
    ("control/server/src/lib.rs", "Listener::bind(", 1),
    // Those of PATHS, and /v2: the registry mirror.
    ("dataplane/agent/src/control/http/mod.rs", "path == \"/", 3),
    ("dataplane/agent/src/control/local_api/mod.rs", "Listener::bind(", 1),
    ("dataplane/agent/src/shard/start.rs", "net::listen(", 1),
    ("dataplane/ring/src/net.rs", ".listen(", 1),
];

/// Only tests and the demo, whose listeners are on loopback, live here.
const LEFT_OUT: [&str; 3] = ["control/cli/src/demo/origin.rs", "/testing.rs", "/tests.rs"];

#[test]
fn every_place_that_listens_is_known() {
    let mut found: BTreeSet<(String, &str, usize)> = BTreeSet::new();
    let words: BTreeSet<&str> = PLACES.iter().map(|(_, word, _)| *word).collect();
    for room in ["dataplane", "control", "storage"] {
        let mut directories = vec![workspace::root().join(room)];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("a room").flatten() {
                let path = entry.path();
                let name = path.strip_prefix(workspace::root()).expect("of the workspace").display().to_string();
                if path.is_dir() {
                    directories.push(path);
                } else if name.contains("/src/") && !LEFT_OUT.iter().any(|left| name.ends_with(left)) {
                    let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    let text = text.expect("a source");
                    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                    let counts = words.iter().map(|word| (name.clone(), *word, code.matches(word).count()));
                    found.extend(counts.filter(|(_, _, count)| *count > 0));
                }
            }
        }
    }
    let known = PLACES.iter().map(|(file, word, count)| ((*file).to_owned(), *word, *count)).collect();
    assert_eq!(found, known, "decide what strangers get there, and extend the tables of this test");
}

/// A scheduler and an agent that can be reached from elsewhere, on an island.
struct Cluster {
    _scheduler: Process,
    agent: Process,
    island: Island,
    scratch: Scratch,
}

impl Cluster {
    fn start(engine: &str) -> Self {
        let island = Island::up(&["203.0.113.1/32"], "127.0.0.1 localhost\n");
        let scratch = Scratch::new();
        let key = scratch.join("cluster.key");
        std::fs::write(&key, "ab".repeat(32)).expect("room");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("our own file");
        let start = |name: &str, arguments: &[&str]| {
            let mut command = island.command(&workspace::hawker());
            command.args(arguments).arg("--cluster-key").arg(&key);
            command.arg("--data-dir").arg(scratch.join(&format!("data-{name}")));
            if name == "agent" {
                command.arg("--socket").arg(scratch.join("agent.sock"));
            }
            clean(&mut command);
            Process::start(scratch.path(), name, command)
        };
        let scheduler = start("scheduler", &["scheduler", "--listen", SCHEDULER]);
        let url = format!("http://{SCHEDULER}");
        let agent = ["agent", "--scheduler", &url, "--advertise", HOST, "--engine", engine, "--limit-disk", "8GiB"];
        let mut agent = start("agent", &agent);
        let socket = scratch.join("agent.sock");
        agent.wait_until(LIMIT, "connected to its scheduler", || {
            ask(&socket, &["status"]).is_some_and(|status| status["scheduler"]["is_connected"] == true)
        });
        Self { _scheduler: scheduler, agent, island, scratch }
    }
}

fn on_both_engines(test: &str, check: impl Fn(&Cluster)) {
    hawker_tests::on_both_engines(test, Island::obstacle().as_deref(), |engine| check(&Cluster::start(engine)));
}

#[test]
fn every_listener_method_and_path_refuses_strangers() {
    on_both_engines("every_listener_method_and_path_refuses_strangers", |cluster| {
        // What the kernel says, whatever the code does.
        let listeners = tcp_listeners(cluster.agent.id());
        let known = [SCHEDULER, PEERS, HTTP].map(|address| address.parse().expect("an address"));
        assert_eq!(listeners, BTreeSet::from(known), "decide what strangers get there, and extend this test");
        let socket = std::fs::metadata(cluster.scratch.join("agent.sock")).expect("a socket");
        assert_eq!(socket.permissions().mode() & 0o777, 0o660, "owner and group alone give commands");

        let methods: BTreeSet<String> = [
            hawker_api::scheduler::DESCRIPTOR,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .flat_map(methods_of)
        .collect();
        let known: BTreeSet<String> = METHODS.iter().map(|(method, _)| (*method).to_owned()).collect();
        assert_eq!(methods, known, "decide what strangers get there, and extend this test");
        for (method, grants) in METHODS {
            let code = cluster.island.run(|| block_on(call(method)));
            match grants {
                Grants::Life => assert_eq!(code, Code::Ok, "{method}"),
                Grants::Nothing => assert!(
                    matches!(code, Code::Unauthenticated | Code::InvalidArgument),
                    "{method} answers strangers with {code:?}"
                ),
            }
        }
        for (path, grants) in PATHS {
            let status = cluster.island.run(|| status_of(SCHEDULER, path));
            assert_eq!(status, if grants == Grants::Life { 200 } else { 401 }, "{path} of the scheduler");
            let status = cluster.island.run(|| status_of(HTTP, path));
            assert_eq!(status, 200, "{path} of the agent, from its own host");
        }
        let status = cluster.island.run(|| status_of(HTTP, "/v2/"));
        assert_eq!(status, 200, "the mirror, from its own host");
        let outside = SocketAddr::new(HOST.parse().expect("an address"), 7311);
        let connected = cluster.island.run(|| TcpStream::connect_timeout(&outside, LIMIT).is_ok());
        assert!(!connected, "the agent's HTTP port can be reached from elsewhere");
    });
}

#[test]
fn links_and_sessions_take_no_replay_no_reflection_and_no_wrong_key() {
    on_both_engines("links_and_sessions_take_no_replay_no_reflection_and_no_wrong_key", |cluster| {
        cluster.island.run(strangers_on_peer_links);
        cluster.island.run(|| block_on(strangers_in_sessions()));
    });
}

fn strangers_on_peer_links() {
    let to: SocketAddr = PEERS.parse().expect("an address");
    let member = Identity::new(1, CLUSTER_KEY);
    Link::dial(to, &member).expect("a member is taken");
    assert!(Link::dial(to, &Identity::new(1, [7; 32])).is_err(), "another cluster's key");

    let nobody = HandshakeConfig { host_key: &member.key, cluster: None, nonce: [1; 32], roles: ROLE_WANTS };
    let (_, hello) = Handshake::dial(&nobody);
    let mut link = Link::connect(to).expect("it listens");
    link.send(&hello).expect("it reads");
    assert!(is_refused(&mut link), "no key at all");

    // What a member said once, word for word.
    let config = HandshakeConfig { cluster: Some(&member.cluster), nonce: [2; 32], ..nobody };
    let (mut handshake, hello) = Handshake::dial(&config);
    let mut link = Link::connect(to).expect("it listens");
    link.send(&hello).expect("it reads");
    let mut said = vec![hello];
    let mut heard = Vec::new();
    loop {
        let Message::Frame(frame) = link.receive().expect("it answers a member") else { panic!("no block was asked") };
        let step = handshake.handle(&frame).expect("it proves itself");
        heard.push(frame);
        for frame in step.send {
            link.send(&frame).expect("it reads");
            said.push(frame);
        }
        if step.done.is_some() {
            break;
        }
    }
    let mut replay = Link::connect(to).expect("it listens");
    for frame in &said {
        // It may hang up before the last one.
        let _ = replay.send(frame);
    }
    assert!(is_refused(&mut replay), "an old handshake");

    // What the agent itself says, given back to it.
    let mut mirror = Link::connect(to).expect("it listens");
    let Some(Frame::Hello(theirs)) = heard.first() else { panic!("it says who it is first: {heard:?}") };
    mirror.send(&Frame::Hello(hawker_proto::frame::Hello { roles: ROLE_WANTS, ..*theirs })).expect("it reads");
    let auth = loop {
        match mirror.receive() {
            Ok(Message::Frame(frame @ Frame::Auth { .. })) => break Some(frame),
            Ok(Message::Frame(Frame::Hello(_))) => {}
            // Refused at once is as good.
            _ => break None,
        }
    };
    if let Some(auth) = auth {
        let _ = mirror.send(&auth);
        assert!(is_refused(&mut mirror), "its own proof");
    }

    let mut rude = Link::connect(to).expect("it listens");
    rude.send(&Frame::Auth { mac: [0; 32], signature: hawker_proto::Signature([0; 64]) }).expect("it reads");
    assert!(is_refused(&mut rude), "a proof of nothing");
}

/// Whether the agent ends the link without a frame that only members get.
fn is_refused(link: &mut Link) -> bool {
    loop {
        match link.receive() {
            Ok(Message::Frame(Frame::Hello(_) | Frame::Auth { .. })) => {}
            Ok(Message::Frame(Frame::Error { .. })) => return true,
            Ok(_) => return false,
            Err(error) => {
                let is_silence = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                return !is_silence;
            }
        }
    }
}

async fn strangers_in_sessions() {
    let member = Identity::new(2, CLUSTER_KEY);
    let answered = |key: Option<[u8; 32]>| {
        let key = key.map(ClusterKey::from_bytes);
        let host = member.key.clone();
        move |challenge: &_| session::answer(challenge, hello(), &host, key.as_ref(), [3; 32]).expect("an answer").0
    };
    let said = std::sync::Mutex::new(None);
    let welcome = open(|challenge| {
        let hello = answered(Some(CLUSTER_KEY))(challenge);
        *said.lock().expect("one thread") = Some(hello.clone());
        hello
    })
    .await
    .expect("a member is taken");
    let said = said.into_inner().expect("one thread").expect("said");
    assert_eq!(open(answered(Some([7; 32]))).await.unwrap_err(), Code::Unauthenticated, "another cluster's key");
    // `answer` itself refuses to go on without a key, so the proof is left out.
    let without = |challenge: &_| Hello { mac: Vec::new(), ..answered(Some(CLUSTER_KEY))(challenge) };
    assert_eq!(open(without).await.unwrap_err(), Code::Unauthenticated, "no key at all");
    assert_eq!(open(|_| said.clone()).await.unwrap_err(), Code::Unauthenticated, "an old Hello");
    let mirror = |challenge: &hawker_api::scheduler::Challenge| Hello {
        mac: welcome.mac.clone(),
        signature: welcome.signature.clone(),
        public_key: challenge.public_key.clone(),
        ..said.clone()
    };
    assert_eq!(open(mirror).await.unwrap_err(), Code::Unauthenticated, "the scheduler's own proof");
}

fn hello() -> Hello {
    Hello { peer_address: "203.0.113.1:9".to_owned(), ..Hello::default() }
}

/// Opens a session with what `answer` makes of the challenge.
async fn open(answer: impl Fn(&hawker_api::scheduler::Challenge) -> Hello) -> Result<Welcome, Code> {
    let mut client = SchedulerClient::new(channel().await);
    let (up, requests) = tokio::sync::mpsc::channel(4);
    let mut told = client.session(ReceiverStream::new(requests)).await.expect("a challenge").into_inner();
    let first = told.message().await.expect("a challenge").and_then(|told| told.message);
    let Some(Told::Challenge(challenge)) = first else { panic!("no challenge: {first:?}") };
    up.send(AgentMessage { message: Some(Said::Hello(answer(&challenge))) }).await.expect("it reads");
    match told.message().await {
        Ok(Some(told)) => match told.message {
            Some(Told::Welcome(welcome)) => Ok(welcome),
            other => panic!("neither welcome nor refusal: {other:?}"),
        },
        Ok(None) => panic!("the stream ended without a word"),
        Err(status) => Err(status.code()),
    }
}

/// Calls a method with one empty message. The first answer counts, but the challenge, which everybody gets.
async fn call(method: &'static str) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel().await);
    grpc.ready().await.expect("it listens");
    let path = format!("/{method}").parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let (up, requests) = tokio::sync::mpsc::channel(4);
    up.send(()).await.expect("room");
    let is_endless = method.ends_with("/Session");
    let _open = is_endless.then_some(up);
    let answered = grpc.streaming(tonic::Request::new(ReceiverStream::new(requests)), path, codec).await;
    let mut answers = match answered {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status.code(),
    };
    for _ in 0..=usize::from(is_endless) {
        match answers.message().await {
            Ok(Some(())) => {}
            Ok(None) => return Code::Unknown,
            Err(status) => return status.code(),
        }
    }
    Code::Ok
}

async fn channel() -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{SCHEDULER}")).expect("a URL");
    endpoint.timeout(LIMIT).connect().await.expect("the scheduler listens")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("an answer in time") })
}

fn methods_of(descriptor: &[u8]) -> Vec<String> {
    let files = FileDescriptorSet::decode(descriptor).expect("a descriptor").file;
    let mut methods = Vec::new();
    for file in &files {
        for service in &file.service {
            let names = service.method.iter();
            methods.extend(names.map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    methods
}

/// The status of a GET.
fn status_of(address: &str, path: &str) -> u16 {
    let text = http_get(address.parse().expect("an address"), path, "");
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {text}"))
}

/// Every TCP listener in the network namespace of a process, which nobody else is in. No other kind of port is open.
fn tcp_listeners(process: u32) -> BTreeSet<SocketAddr> {
    let table = |name: &str| {
        let path = Path::new("/proc").join(process.to_string()).join("net").join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    for name in ["tcp6", "udp", "udp6", "raw", "raw6"] {
        let text = table(name);
        let is_open = |line: &&str| name != "tcp6" || line.split_whitespace().nth(3) == Some("0A");
        assert_eq!(text.lines().skip(1).find(is_open), None, "{name}");
    }
    let text = table("tcp");
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = lines.filter(|fields| fields.get(3) == Some(&"0A"));
    let address = |fields: Vec<&str>| {
        let (ip, port) = fields[1].split_once(':').expect("an address");
        let ip = u32::from_be(u32::from_str_radix(ip, 16).expect("hex"));
        SocketAddr::new(Ipv4Addr::from(ip).into(), u16::from_str_radix(port, 16).expect("hex"))
    };
    listening.map(address).collect()
}
