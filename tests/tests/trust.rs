//! Who the scheduler lets look inside, and which scheduler an agent lets look at it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hawker_api::scheduler::agent_message::Message as Said;
use hawker_api::scheduler::scheduler_message::Message as Told;
use hawker_api::scheduler::scheduler_server::{Scheduler, SchedulerServer};
use hawker_api::scheduler::{AgentMessage, Challenge, Hello, SchedulerMessage, VERSION, Welcome};
use hawker_tests::cluster::{ask, clean};
use hawker_tests::island::Island;
use hawker_tests::liar::Identity;
use hawker_tests::process::{Process, Scratch, wait_until};
use hawker_tests::scripted::{Scripted, honest};
use hawker_tests::{files, free_address, http_get, workspace};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_mins(1);

/// As everybody but this host sees it.
const SCHEDULER: &str = "203.0.113.1:7300";
const TOKEN: &str = "let-me-look";
const REFLECTION: [&str; 2] = ["v1", "v1alpha"];

#[test]
fn only_the_token_looks_into_a_scheduler_from_elsewhere() {
    let test = "only_the_token_looks_into_a_scheduler_from_elsewhere";
    if let Some(obstacle) = Island::obstacle() {
        return hawker_tests::skip(test, &obstacle);
    }
    let _alone = hawker_tests::exclusive();
    for token in [Some(TOKEN), Some(""), None] {
        let island = Island::up(&["203.0.113.1/32"], "127.0.0.1 localhost\n");
        let scratch = Scratch::new();
        let mut command = island.command(&workspace::hawker());
        command.args(["scheduler", "--listen", "0.0.0.0:7300", "--insecure", "--data-dir"]).arg(scratch.join("data"));
        clean(&mut command);
        token.map(|token| command.env("HAWKER_METRICS_TOKEN", token));
        let mut scheduler = Process::start(scratch.path(), "scheduler", command);
        scheduler.wait_until(LIMIT, "listening", || island.run(|| std::net::TcpStream::connect(SCHEDULER).is_ok()));

        let right = format!("Bearer {TOKEN}");
        let wrong = ["Bearer let-me-loo", "Bearer let-me-look2", "Bearer Let-me-look", TOKEN, "Basic let-me-look"];
        let given = [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer  let-me-look"), Some(&*right)];
        for given in given.into_iter().chain(wrong.map(Some)) {
            let may = token == Some(TOKEN) && given == Some(&*right);
            let fields = given.map_or_else(String::new, |given| format!("Authorization: {given}\r\n"));
            let answer = island.run(|| http_get(SCHEDULER.parse().expect("an address"), "/metrics", &fields));
            let status = if may { "HTTP/1.1 200" } else { "HTTP/1.1 401" };
            assert!(answer.starts_with(status), "{token:?}, {given:?}: {answer}");
            assert_eq!(answer.contains("hawker_scheduler_hosts"), may, "{token:?}, {given:?}: {answer}");
            for version in REFLECTION {
                let is_let_in = island.run(|| block_on(reflect(version, given)));
                assert_eq!(is_let_in, may, "{version}, {token:?}, {given:?}");
            }
        }
        // Twice is not once: the first counts, and a wrong one is not saved by a right one behind it.
        let twice = format!("Authorization: Bearer wrong\r\nAuthorization: {right}\r\n");
        let answer = island.run(|| http_get(SCHEDULER.parse().expect("an address"), "/metrics", &twice));
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        let here = island.run(|| http_get(([127, 0, 0, 1], 7300).into(), "/metrics", ""));
        assert!(here.starts_with("HTTP/1.1 200"), "from its own host: {here}");
        let log = format!("{}{}", scheduler.stdout(), scheduler.stderr());
        assert!(!log.contains(TOKEN), "{log}");
    }
}

/// Whether reflection answers somebody who gives this as authorization.
async fn reflect(version: &str, authorization: Option<&str>) -> bool {
    let endpoint = Endpoint::from_shared(format!("http://{SCHEDULER}")).expect("a URL");
    let mut grpc = tonic::client::Grpc::new(endpoint.timeout(LIMIT).connect().await.expect("it listens"));
    grpc.ready().await.expect("it listens");
    let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo").parse().expect("a path");
    let (up, requests) = tokio::sync::mpsc::channel(1);
    up.send(()).await.expect("room");
    drop(up);
    let mut request = Request::new(ReceiverStream::new(requests));
    if let Some(given) = authorization {
        request.metadata_mut().insert("authorization", given.parse().expect("text"));
    }
    // An empty request asks for nothing that there is: refused as such, by whom it has reached.
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let code = match grpc.streaming(request, path, codec).await {
        Ok(answers) => answers.into_inner().message().await.err().map(|status| status.code()),
        Err(status) => Some(status.code()),
    };
    code != Some(tonic::Code::Unauthenticated)
}

/// An agent with a cluster key whose scheduler is at `scheduler`, and its socket.
fn start_agent(scratch: &Scratch, engine: &str, scheduler: SocketAddr) -> (Process, PathBuf) {
    let socket = scratch.join("agent.sock");
    let mut command = Command::new(workspace::hawker());
    command.args(["agent", "--peer-port", "0", "--http-port", "0", "--engine", engine, "--limit-disk", "8GiB"]);
    command.args(["--scheduler", &format!("http://{scheduler}"), "--cluster-key"]).arg(key(scratch, "ab"));
    command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(&socket);
    clean(&mut command);
    let mut agent = Process::start(scratch.path(), "agent", command);
    agent.wait_until(LIMIT, "ready", || ask(&socket, &["status"]).is_some());
    (agent, socket)
}

/// A file with a cluster key of 32 times `digits`.
fn key(scratch: &Scratch, digits: &str) -> PathBuf {
    let path = scratch.join(&format!("{digits}.key"));
    std::fs::write(&path, digits.repeat(32)).expect("room");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("our own file");
    path
}

/// The agent says in its status why it has no scheduler, and downloads without one.
fn check_alone(scratch: &Scratch, socket: &Path, reason: &str) {
    let why = || ask(socket, &["status"]).map(|status| status["scheduler"].clone()).expect("a status");
    wait_until(LIMIT, reason, || why()["reason"].as_str().is_some_and(|text| text.contains(reason)));
    let content: Arc<[u8]> = files::random_bytes(3_000_001, 9_300).into();
    let served = Arc::clone(&content);
    let origin = Scripted::start(Arc::new(move |request| honest(request, &served, "ETag: \"1\"\r\n")), None);
    let mut command = Command::new(workspace::hawker());
    command.args(["get", &origin.url("file?token=c4nary"), "-H", "Authorization: Bearer c4nary", "-o"]);
    command.arg(scratch.join("file")).arg("--socket").arg(socket);
    clean(&mut command);
    let ended = Process::start(scratch.path(), "get", command).wait(LIMIT);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(std::fs::read(scratch.join("file")).expect("an output") == *content, "wrong bytes");
    assert_eq!(why()["is_connected"], false);
}

#[test]
fn an_agent_tells_nothing_to_a_scheduler_of_another_cluster() {
    hawker_tests::on_both_engines("an_agent_tells_nothing_to_a_scheduler_of_another_cluster", None, |engine| {
        for other in [None, Some("cd")] {
            let scratch = Scratch::new();
            let address = free_address();
            let mut command = Command::new(workspace::hawker());
            command.args(["scheduler", "--listen", &address.to_string(), "--data-dir"]).arg(scratch.join("scheduler"));
            match other {
                Some(digits) => command.arg("--cluster-key").arg(key(&scratch, digits)),
                None => command.arg("--insecure"),
            };
            clean(&mut command);
            let mut scheduler = Process::start(scratch.path(), "scheduler", command);
            scheduler.wait_until(LIMIT, "listening", || std::net::TcpStream::connect(address).is_ok());
            let (_agent, socket) = start_agent(&scratch, engine, address);
            check_alone(&scratch, &socket, "cluster key");
            let figures = http_get(address, "/metrics", "");
            for name in ["hosts", "tasks", "wants", "origins"] {
                let line = format!("hawker_scheduler_{name} 0");
                assert!(figures.lines().any(|figure| figure == line), "{engine}, {other:?}: no `{line}` in {figures}");
            }
        }
    });
}

/// A scheduler that knows no key, and claims to each agent that it is of its cluster: with no proof, without a key,
/// and with what the agent itself said.
#[derive(Clone, Default)]
struct Pretender {
    said: Arc<Mutex<Vec<AgentMessage>>>,
    streams: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl Scheduler for Pretender {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<SchedulerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let number = {
            let mut streams = self.streams.lock().expect("no panic");
            *streams += 1;
            *streams - 1
        };
        let known = self.said.lock().expect("no panic").iter().find_map(hello_of);
        let own = Identity::new(9, [0; 32]).key.public().0.to_vec();
        let challenge = Challenge {
            nonce: known.as_ref().map_or(vec![1; 32], |hello| hello.nonce.clone()),
            public_key: known.filter(|_| number % 3 == 2).map_or(own, |hello| hello.public_key),
            is_insecure: number % 3 == 1,
            version_min: VERSION.into(),
            version_max: VERSION.into(),
        };
        let (down, answers) = tokio::sync::mpsc::channel(8);
        let said = Arc::clone(&self.said);
        tokio::spawn(async move {
            let tell = |message| Ok(SchedulerMessage { message: Some(message) });
            let _ = down.send(tell(Told::Challenge(challenge))).await;
            let mut heard = request.into_inner();
            while let Some(Ok(message)) = heard.next().await {
                let hello = hello_of(&message);
                said.lock().expect("no panic").push(message);
                let Some(hello) = hello else { continue };
                let proof = if number % 3 == 2 { (hello.mac, hello.signature) } else { (vec![0; 32], vec![0; 64]) };
                let welcome =
                    Welcome { mac: proof.0, signature: proof.1, epoch: 1, scheduler_keys: Vec::new(), config: None };
                let _ = down.send(tell(Told::Welcome(welcome))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn hello_of(message: &AgentMessage) -> Option<Hello> {
    match &message.message {
        Some(Said::Hello(hello)) => Some(hello.clone()),
        _ => None,
    }
}

#[test]
fn an_agent_tells_nothing_to_a_scheduler_that_proves_nothing() {
    hawker_tests::on_both_engines("an_agent_tells_nothing_to_a_scheduler_that_proves_nothing", None, |engine| {
        let scratch = Scratch::new();
        let pretender = Pretender::default();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let service = SchedulerServer::new(pretender.clone());
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        let (_agent, socket) = start_agent(&scratch, engine, address);
        // Each lie was told, one of them again.
        wait_until(LIMIT, "lied to", || *pretender.streams.lock().expect("no panic") >= 4);
        check_alone(&scratch, &socket, "");
        let said = pretender.said.lock().expect("no panic").clone();
        assert!(!said.is_empty(), "{engine}: it never answered");
        for message in &said {
            let hello = hello_of(message).unwrap_or_else(|| panic!("{engine}: told before any proof: {message:?}"));
            assert!(!hello.mac.is_empty(), "{engine}: it has a key, and proves it");
        }
        runtime.shutdown_background();
    });
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("an answer in time") })
}
