//! Agents and a scheduler over loopback, with a real gRPC client.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hawker_api::scheduler::agent_message::Message as Said;
use hawker_api::scheduler::scheduler_client::SchedulerClient;
use hawker_api::scheduler::scheduler_message::Message as Told;
use hawker_api::scheduler::{
    AgentMessage, AskLease, Challenge, Finished, Geometry, Heartbeat, Hello, LeaseDone, LeaseOutcome, Resolved,
    SchedulerMessage, Want, Welcome,
};
use hawker_api::{field, session};
use hawker_proto::{ClusterKey, HostKey, PublicKey};
use hawker_server::{Server, ServerConfig, ServerError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// Nothing here takes longer unless it is broken.
const LONG: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

struct Running {
    address: SocketAddr,
    key: PublicKey,
    epoch: u64,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    async fn start(config: ServerConfig) -> Self {
        let server = Server::bind(config).await.unwrap();
        let (address, key, epoch) = (server.address(), server.public_key(), server.epoch());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { address, key, epoch, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(LONG, self.task).await.expect("it stops in time").unwrap().unwrap();
    }
}

fn config(data_dir: &Path) -> ServerConfig {
    let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), data_dir.to_path_buf());
    config.cluster_key = Some(cluster_key());
    config
}

fn cluster_key() -> ClusterKey {
    ClusterKey::from_bytes([5; 32])
}

async fn connect(address: SocketAddr) -> Channel {
    Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A stream that has been opened and challenged.
struct Stream {
    say: mpsc::Sender<AgentMessage>,
    told: Streaming<SchedulerMessage>,
    challenge: Challenge,
}

impl Stream {
    async fn open(address: SocketAddr) -> Self {
        let mut client = SchedulerClient::new(connect(address).await);
        let (say, said) = mpsc::channel(64);
        let mut told = client.session(ReceiverStream::new(said)).await.unwrap().into_inner();
        let Some(Told::Challenge(challenge)) = told.message().await.unwrap().unwrap().message else {
            panic!("the scheduler speaks first")
        };
        Self { say, told, challenge }
    }

    async fn say(&self, said: Said) {
        self.say.send(AgentMessage { message: Some(said) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<Told, Status> {
        let message = timeout(LONG, self.told.message()).await.expect("an answer in time")?;
        message.and_then(|message| message.message).ok_or_else(|| Status::cancelled("the stream ended"))
    }

    /// The next message that `pick` takes; others are passed over.
    async fn until<T>(&mut self, pick: impl Fn(Told) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await.unwrap()) {
                return found;
            }
        }
    }
}

fn hello(port: u16) -> Hello {
    Hello { peer_address: format!("0.0.0.0:{port}"), ..Hello::default() }
}

async fn join(address: SocketAddr, number: u8) -> (Stream, Welcome) {
    let mut stream = Stream::open(address).await;
    let key = HostKey::from_seed([number; 32]);
    let cluster = cluster_key();
    let (hello, transcript) =
        session::answer(&stream.challenge, hello(7000 + u16::from(number)), &key, Some(&cluster), [number; 32])
            .unwrap();
    stream.say(Said::Hello(hello)).await;
    let Told::Welcome(welcome) = stream.next().await.unwrap() else { panic!("welcome comes next") };
    session::check_welcome(&welcome, &transcript, Some(&cluster)).unwrap();
    (stream, welcome)
}

fn want(number: u8) -> Said {
    Said::Want(Want { want: 1, resolve_key: vec![number; 32], origin: vec![9; 32], ..Want::default() })
}

fn resolved(number: u8, length: u64) -> Said {
    let geometry = hawker_proto::Geometry::of_length(length).unwrap();
    Said::Resolved(Resolved {
        want: 1,
        task: vec![number; 32],
        geometry: Some(Geometry::from(geometry)),
        validators: b"\"etag\"".to_vec(),
        valid_ms: 60_000,
        is_shared: true,
        has_ranges: true,
        digest: String::new(),
        arriving_bytes: 16 * MIB,
        inline: Vec::new(),
    })
}

#[tokio::test]
async fn agent_with_another_cluster_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let key = HostKey::from_seed([1; 32]);
    for wrong in [Some(ClusterKey::from_bytes([6; 32])), None] {
        let mut stream = Stream::open(server.address).await;
        let mut challenge = stream.challenge.clone();
        // An agent without key would refuse by itself; this one lies.
        challenge.is_insecure = wrong.is_none();
        let (hello, _) = session::answer(&challenge, hello(7000), &key, wrong.as_ref(), [2; 32]).unwrap();
        stream.say(Said::Hello(hello)).await;
        assert_eq!(stream.next().await.unwrap_err().code(), Code::Unauthenticated);
    }
    server.stop().await;
}

#[tokio::test]
async fn replayed_hello_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let key = HostKey::from_seed([1; 32]);
    let mut first = Stream::open(server.address).await;
    let (hello, _) = session::answer(&first.challenge, hello(7000), &key, Some(&cluster_key()), [2; 32]).unwrap();
    first.say(Said::Hello(hello.clone())).await;
    assert!(matches!(first.next().await, Ok(Told::Welcome(_))));
    let mut second = Stream::open(server.address).await;
    second.say(Said::Hello(hello)).await;
    assert_eq!(second.next().await.unwrap_err().code(), Code::Unauthenticated);
    server.stop().await;
}

#[tokio::test]
async fn message_before_hello_ends_the_stream() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let mut stream = Stream::open(server.address).await;
    stream.say(want(1)).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn stream_without_hello_is_closed_after_five_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let mut stream = Stream::open(server.address).await;
    let started = std::time::Instant::now();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn two_agents_get_one_resolve_each_other_and_leases_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let (mut first, welcome) = join(server.address, 1).await;
    let (mut second, _) = join(server.address, 2).await;
    assert_eq!(field::public_key("key", &welcome.scheduler_keys[0]), Ok(server.key));

    first.say(want(1)).await;
    assert!(matches!(first.next().await, Ok(Told::Resolve(_))));
    second.say(want(1)).await;
    assert!(matches!(second.next().await, Ok(Told::Wait(_))));
    first.say(resolved(1, 100 * MIB)).await;

    let lease = first.until(|told| if let Told::Lease(lease) = told { Some(lease) } else { None }).await;
    let signed = field::signed_lease("lease", &lease.lease).unwrap();
    assert_eq!(signed.verify(&[server.key]), Ok(()));
    assert_eq!(signed.lease.epoch, server.epoch);
    assert_eq!((signed.lease.range.start(), signed.lease.range.end()), (0, 16 * MIB));

    let ready = second.until(|told| if let Told::Ready(ready) = told { Some(ready) } else { None }).await;
    assert_eq!(ready.validators, b"\"etag\"");
    let (neighbor, address, is_remote) = field::neighbor(&ready.neighbors[0]).unwrap();
    assert!(!is_remote, "neither has a zone");
    assert_eq!(neighbor, HostKey::from_seed([1; 32]).host_id());
    assert_eq!(address, "127.0.0.1:7001".parse().unwrap(), "an unspecified ip is where the stream comes from");
    let add = first.until(|told| if let Told::Neighbors(neighbors) = told { Some(neighbors.add) } else { None }).await;
    assert_eq!(field::neighbor(&add[0]).unwrap().0, HostKey::from_seed([2; 32]).host_id());

    second.say(Said::AskLease(AskLease { task: vec![1; 32], ..AskLease::default() })).await;
    let lease = second.until(|told| if let Told::Lease(lease) = told { Some(lease) } else { None }).await;
    let next = field::signed_lease("lease", &lease.lease).unwrap().lease;
    assert_eq!(next.range.start(), 16 * MIB, "the next bytes");

    let outcome = LeaseOutcome::Complete.into();
    let done = LeaseDone { serial: next.serial, upto: next.range.end(), outcome, retry_after_ms: 0 };
    second.say(Said::LeaseDone(done)).await;
    second.say(Said::Finished(Finished { task: vec![1; 32] })).await;
    first.say(Said::AskLease(AskLease { task: vec![1; 32], ..AskLease::default() })).await;
    let none = first.until(|told| if let Told::NoLease(none) = told { Some(none) } else { None }).await;
    assert!(none.is_done, "somebody has everything");
    server.stop().await;
}

#[tokio::test]
async fn malformed_message_ends_only_its_own_stream() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let (mut good, _) = join(server.address, 1).await;
    let (mut bad, _) = join(server.address, 2).await;
    bad.say(Said::Finished(Finished { task: vec![1; 5] })).await;
    let status = bad.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("task"), "{}", status.message());
    good.say(Said::Heartbeat(Heartbeat::default())).await;
    good.say(want(1)).await;
    assert!(matches!(good.next().await, Ok(Told::Resolve(_))));
    server.stop().await;
}

#[tokio::test]
async fn restart_keeps_the_key_raises_the_epoch_and_ends_streams() {
    let directory = tempfile::tempdir().unwrap();
    let first = Running::start(config(directory.path())).await;
    let (key, epoch) = (first.key, first.epoch);
    let (mut stream, welcome) = join(first.address, 1).await;
    assert_eq!(welcome.epoch, epoch);
    first.stop().await;
    assert!(stream.next().await.is_err(), "the agent learns of it at once");
    let second = Running::start(config(directory.path())).await;
    assert_eq!((second.key, second.epoch), (key, epoch + 1));
    let (_stream, welcome) = join(second.address, 1).await;
    assert_eq!(welcome.epoch, epoch + 1);
    second.stop().await;
}

#[tokio::test]
async fn listener_beyond_loopback_needs_a_key_or_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let mut open = config(directory.path());
    open.listen = "0.0.0.0:0".parse().unwrap();
    open.cluster_key = None;
    let refused = Server::bind(open.clone()).await.unwrap_err();
    assert!(matches!(refused, ServerError::NoClusterKey(_)));
    assert!(refused.to_string().contains("--insecure"), "{refused}");
    open.is_insecure = true;
    assert!(Server::bind(open.clone()).await.is_ok());
    (open.is_insecure, open.cluster_key) = (false, Some(cluster_key()));
    assert!(Server::bind(open).await.is_ok());
}

async fn http_get(address: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_and_metrics_answer_on_the_same_port() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let (_stream, _) = join(server.address, 1).await;
    let health = http_get(server.address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let metrics = http_get(server.address, "/metrics").await;
    assert!(metrics.contains("hawker_scheduler_hosts_connected 1\n"), "{metrics}");
    assert!(metrics.contains("hawker_scheduler_leased_bytes_total 0\n"), "{metrics}");

    let channel = connect(server.address).await;
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: "hawker.scheduler.v1.Scheduler".into() };
    let answer = client.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    server.stop().await;
}

#[tokio::test]
async fn reflection_names_the_service() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};

    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(config(directory.path())).await;
    let channel = connect(server.address).await;
    let mut client = ServerReflectionClient::new(channel);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"hawker.scheduler.v1.Scheduler".to_string()), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health".to_string()), "{names:?}");
    drop(answers);
    drop(client);
    server.stop().await;
}
