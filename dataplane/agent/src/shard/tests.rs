//! Whole data planes over loopback: store, engines, links and machines, with the test in control's place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::frame::{Frame, FrameKind, HEAD_BYTES, Head};
use hawker_proto::hash::{block_value, root_of_bytes};
use hawker_proto::identity::{ClusterKey, HostKey};
use hawker_proto::trust::{Lease, SignedLease};
use hawker_proto::{BlockIndex, ByteRange, Geometry, HostId, PieceIndex, TaskId};
use hawker_ring::{Budget, EngineChoice, Slab, SlabLimits};
use hawker_scheduler::Neighbor;
use hawker_storage::{TaskMeta, WriteMode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Shards, start};
use crate::config::{AgentConfig, DiskLimit, MirrorConfig, Rates, WriteChoice};
use crate::seam::{EVENT_QUEUE_MAX, HTTP_QUEUE_MAX, HttpRequest, KeeperRequest, OriginEnd, ShardCommand, ShardEvent};
use crate::share::SharedTask;

/// Far beyond what any step takes; a test that waits this long has hung.
pub(super) const HANG: Duration = Duration::from_secs(60);

/// A data plane and the events it sent.
pub(super) struct Plane {
    pub(super) shards: Shards,
    pub(super) events: mpsc::Receiver<ShardEvent>,
    /// What HTTP clients ask, for whoever answers.
    pub(super) requests: mpsc::Receiver<HttpRequest>,
    key: Arc<HostKey>,
    _directory: tempfile::TempDir,
}

/// Content that repeats nowhere near a block.
pub(super) fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11).to_le_bytes()
    });
    words.take(length).collect()
}

fn config(data_dir: &Path, engine: EngineChoice, rates: Rates) -> AgentConfig {
    AgentConfig {
        data_dir: data_dir.to_owned(),
        scheduler: None,
        advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
        peer_port: Some(0),
        http: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)),
        socket: None,
        cluster_key: Some(ClusterKey::from_bytes([7; 32])),
        is_insecure_allowed: false,
        is_seed: false,
        labels: Vec::new(),
        engine,
        shards: Some(2),
        rates,
        disk: DiskLimit::Unlimited,
        write: WriteChoice::Auto,
        drain: Duration::from_secs(1),
        restarts: None,
        mirror: MirrorConfig::default(),
    }
}

impl Plane {
    pub(super) fn start(seed: u8, engine: EngineChoice, rates: Rates, scheduler: &HostKey) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = Arc::new(HostKey::from_seed([seed; 32]));
        let (sender, events) = mpsc::channel(EVENT_QUEUE_MAX);
        let data_dir = directory.path().join("data");
        let (sender_http, requests) = mpsc::channel(HTTP_QUEUE_MAX);
        let shards = start(&config(&data_dir, engine, rates), Arc::clone(&key), &sender, &sender_http).unwrap();
        for handle in &shards.handles {
            let keys = vec![scheduler.public()];
            assert!(handle.try_send(ShardCommand::Scheduler { is_connected: true, keys }));
        }
        Self { shards, events, requests, key, _directory: directory }
    }

    pub(super) async fn create(&self, task: TaskId, geometry: Geometry, write: WriteMode) -> Arc<SharedTask> {
        let (reply, answer) = oneshot::channel();
        let meta = Box::new(TaskMeta { url: "http://origin/file".to_owned(), ..TaskMeta::default() });
        let request = KeeperRequest::Create { task, geometry, meta, write, reply };
        assert!(self.shards.handles[0].send(ShardCommand::Keeper(request)).await);
        let shared = timeout(HANG, answer).await.unwrap().unwrap().unwrap();
        for handle in &self.shards.handles {
            handle.send(ShardCommand::Share { task: Arc::clone(&shared) }).await;
        }
        shared
    }

    /// The shard that downloads `task`.
    async fn to_owner(&self, task: TaskId, command: ShardCommand) {
        let number = u64::from_le_bytes(task.0[..8].try_into().unwrap());
        let owner = usize::try_from(number % self.shards.handles.len() as u64).unwrap();
        assert!(self.shards.handles[owner].send(command).await);
    }

    pub(super) async fn event(&mut self) -> ShardEvent {
        timeout(HANG, self.events.recv()).await.expect("an event within the limit").expect("running shards")
    }

    /// Plays origin and scheduler until the task is complete; returns the root.
    async fn run_as_source(&mut self, task: TaskId, bytes: &[u8], scheduler: &HostKey) -> hawker_proto::Root {
        let budget = Budget::new(8 * 1024 * 1024);
        let mut slab = Slab::new(SlabLimits { bytes_max: 8 * 1024 * 1024, reserve_blocks: 0 }, budget).unwrap();
        let geometry = Geometry::of_length(bytes.len() as u64).unwrap();
        let mut serial = 0;
        loop {
            match self.event().await {
                ShardEvent::AskLease { task, .. } => {
                    serial += 1;
                    let range = ByteRange::new(0, bytes.len() as u64).unwrap();
                    let lease = signed_lease(task, range, &self.key, serial, scheduler);
                    self.to_owner(task, ShardCommand::Lease { task, lease, valid: HANG }).await;
                }
                ShardEvent::FetchOrigin { serial, range, .. } => {
                    let mut offset = range.start();
                    while offset < range.end() {
                        let Some(mut block) = slab.take() else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        let (piece, index) = geometry.block_at(offset).unwrap();
                        let range = geometry.block_range(piece, index);
                        let part = &bytes[size(range.start())..size(range.end())];
                        let length = part.len();
                        block.as_mut_slice()[..length].copy_from_slice(part);
                        let value = block_value(offset, part);
                        let data = ShardCommand::OriginData { task, serial, offset, block, length, value };
                        self.to_owner(task, data).await;
                        offset += length as u64;
                    }
                    self.to_owner(task, ShardCommand::OriginEnd { task, serial, end: OriginEnd::Complete }).await;
                }
                ShardEvent::Complete { root, .. } => return root,
                ShardEvent::Failed { error, .. } => panic!("{error:?}"),
                _ => {}
            }
        }
    }

    /// Lets peers do it all: asks for leases are answered with "not now".
    async fn run_as_child(&mut self, task: TaskId) -> hawker_proto::Root {
        loop {
            match self.event().await {
                ShardEvent::AskLease { task, .. } => {
                    let retry_after = Duration::from_millis(200);
                    self.to_owner(task, ShardCommand::NoLease { task, retry_after }).await;
                }
                ShardEvent::Complete { root, .. } => return root,
                ShardEvent::Failed { error, .. } => panic!("{error:?}"),
                ShardEvent::FetchOrigin { .. } => panic!("{task:?} is fetched from the origin twice"),
                _ => {}
            }
        }
    }

    pub(super) async fn stop(self) {
        for handle in &self.shards.handles {
            handle.send(ShardCommand::Stop).await;
        }
        for thread in self.shards.threads {
            thread.join().unwrap();
        }
    }
}

fn signed_lease(task: TaskId, range: ByteRange, holder: &HostKey, serial: u64, scheduler: &HostKey) -> SignedLease {
    let lease = Lease { task, range, holder: holder.public(), epoch: 1, serial, expires_unix_ms: u64::MAX };
    lease.sign(scheduler)
}

fn read_back(task: &SharedTask) -> Vec<u8> {
    let length = usize::try_from(task.geometry().length()).unwrap();
    hawker_storage::blocking::read_at(task.file().content(), length, 0).unwrap()
}

pub(super) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// One source and `children` that swap among themselves; every one ends with the right bytes.
fn swarm_gets(engine: EngineChoice, length: usize, children: u8, write: WriteMode) {
    runtime().block_on(async {
        let scheduler = HostKey::from_seed([99; 32]);
        let bytes = content(length);
        let task = TaskId([u8::try_from(length % 256).unwrap() ^ 0x55; 32]);
        let geometry = Geometry::of_length(length as u64).unwrap();
        let mut planes: Vec<Plane> =
            (0..=children).map(|seed| Plane::start(seed + 1, engine, Rates::default(), &scheduler)).collect();
        let addresses: Vec<(HostId, SocketAddr)> =
            planes.iter().map(|plane| (plane.key.host_id(), plane.shards.peer_address.unwrap())).collect();
        let mut tasks = HashMap::new();
        for (index, plane) in planes.iter().enumerate() {
            let shared = plane.create(task, geometry, write).await;
            plane
                .to_owner(
                    task,
                    ShardCommand::StartDownload { task: Arc::clone(&shared), origin: None, is_alone: false },
                )
                .await;
            let others = addresses.iter().filter(|(host, _)| *host != plane.key.host_id());
            let add = others.map(|(id, address)| Neighbor { id: *id, address: *address, is_remote: false }).collect();
            plane.to_owner(task, ShardCommand::Neighbors { task, add, remove: Vec::new() }).await;
            tasks.insert(index, shared);
        }
        let mut source = planes.remove(0);
        let expected = root_of_bytes(&bytes);
        let run = async {
            let (root, plane) = (source.run_as_source(task, &bytes, &scheduler).await, source);
            (root, plane)
        };
        let mut running = Vec::new();
        for mut plane in planes {
            running.push(tokio::spawn(async move { (plane.run_as_child(task).await, plane) }));
        }
        let (root, source) = run.await;
        assert_eq!(root, expected);
        let mut done = vec![source];
        for child in running {
            let (root, plane) = child.await.unwrap();
            assert_eq!(root, expected);
            done.push(plane);
        }
        for shared in tasks.values() {
            assert!(read_back(shared) == bytes, "a store holds other bytes");
        }
        let from_origin: u64 =
            done.iter().flat_map(|plane| &plane.shards.counters).map(|one| one.origin_bytes.value()).sum();
        assert_eq!(from_origin, length as u64, "each byte left the origin once");
        drop(tasks);
        for plane in done {
            plane.stop().await;
        }
    });
}

pub(super) const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Epoll];

#[test]
fn child_gets_every_length_from_a_parent_on_both_engines() {
    for engine in ENGINES {
        for length in [1, 4095, 256 * 1024, 256 * 1024 + 1, 5 * 1024 * 1024 + 4097] {
            swarm_gets(engine, length, 1, WriteMode::Buffered);
        }
    }
}

#[test]
fn direct_writes_give_the_same_bytes_on_both_engines() {
    for engine in ENGINES {
        swarm_gets(engine, 9 * 1024 * 1024 + 4097, 1, WriteMode::Direct);
    }
}

#[test]
fn four_hosts_swap_and_the_origin_sends_once_on_both_engines() {
    for engine in ENGINES {
        swarm_gets(engine, 32 * 1024 * 1024 + 1, 3, WriteMode::Buffered);
    }
}

/// A child of our own making on a plain socket, through the handshake.
fn raw_child(to: SocketAddr, key: &HostKey) -> std::net::TcpStream {
    use hawker_proto::handshake::{Handshake, HandshakeConfig};
    use std::io::Write as _;
    let cluster = ClusterKey::from_bytes([7; 32]);
    let roles = hawker_proto::frame::ROLE_WANTS;
    let config = HandshakeConfig { host_key: key, cluster: Some(&cluster), nonce: [3; 32], roles };
    let (mut handshake, hello) = Handshake::dial(&config);
    let mut socket = std::net::TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    socket.write_all(&hello.encode()).unwrap();
    loop {
        let step = handshake.handle(&read_frame(&mut socket).unwrap()).unwrap();
        for frame in step.send {
            socket.write_all(&frame.encode()).unwrap();
        }
        if step.done.is_some() {
            return socket;
        }
    }
}

/// The next frame; `None` for a block, whose bytes are skipped.
fn read_frame(socket: &mut std::net::TcpStream) -> Option<Frame> {
    use std::io::Read as _;
    let mut head = [0; HEAD_BYTES];
    socket.read_exact(&mut head).unwrap();
    let head = Head::decode(&head).unwrap();
    let mut payload = vec![0; head.payload_bytes() as usize];
    socket.read_exact(&mut payload).unwrap();
    (head.kind() != FrameKind::Block).then(|| Frame::decode(&head, &payload).unwrap())
}

#[test]
fn channel_bound_to_another_task_after_a_request_harms_nobody() {
    use std::io::Write as _;
    for engine in ENGINES {
        runtime().block_on(async {
            let scheduler = HostKey::from_seed([99; 32]);
            let rates = Rates { up: Some(4_000_000), ..Rates::default() };
            let mut plane = Plane::start(1, engine, rates, &scheduler);
            let mut tasks = Vec::new();
            for (number, length) in [(1, 256 * 1024 * 1024 + 1), (2, 1000)] {
                let (task, geometry) = (TaskId([number; 32]), Geometry::of_length(length).unwrap());
                let shared = plane.create(task, geometry, WriteMode::Buffered).await;
                tasks.push((task, geometry, shared));
            }
            // Of the small task the one block is here, of the large one the first piece: two blocks.
            for (task, geometry, shared) in &tasks {
                let range = geometry.piece_range(PieceIndex(0));
                let values = hawker_proto::hash::block_values(*geometry, 0, &content(size(range.length())));
                hawker_storage::blocking::write_at(shared.file().content(), &content(size(range.length())), 0).unwrap();
                shared.file().put_record(PieceIndex(0), &values).unwrap();
                shared.file().mark_received(PieceIndex(0));
                for handle in &plane.shards.handles {
                    handle.send(ShardCommand::Changed { task: *task }).await;
                }
            }
            let to = plane.shards.peer_address.unwrap();
            let [(large, large_geometry, _), (small, small_geometry, _)] = &tasks[..] else { unreachable!() };
            let frames = [
                Frame::Open { channel: 1, task: *large, geometry: *large_geometry },
                Frame::Request { channel: 1, piece: PieceIndex(0), block: BlockIndex(0), count: 2 },
                Frame::Request { channel: 1, piece: PieceIndex(0), block: BlockIndex(1), count: 1 },
                Frame::Close { channel: 1 },
                Frame::Open { channel: 1, task: *small, geometry: *small_geometry },
                Frame::BadPiece { channel: 1, piece: PieceIndex(u32::MAX), block: BlockIndex(9) },
                Frame::Ping { aux: 77 },
            ];
            let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let answered = tokio::task::spawn_blocking(move || {
                let mut socket = raw_child(to, &HostKey::from_seed([50; 32]));
                socket.write_all(&bytes).unwrap();
                // The block that the small task does not have is answered, and the link lives.
                let mut seen = (false, false);
                while seen != (true, true) {
                    match read_frame(&mut socket) {
                        Some(Frame::Gone { piece: PieceIndex(0), .. }) => seen.0 = true,
                        Some(Frame::Pong { aux: 77 }) => seen.1 = true,
                        _ => {}
                    }
                }
            });
            timeout(HANG, answered).await.expect("an answer").expect("no panic");
            while let Ok(event) = plane.events.try_recv() {
                assert!(!matches!(event, ShardEvent::Failed { .. }), "{event:?}");
            }
            drop(tasks);
            plane.stop().await;
        });
    }
}

/// Lets this process hold so many descriptors, if it may.
pub(super) fn raise_descriptors(needed: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit is allowed");
    assert!(maximum.is_none_or(|maximum| maximum >= needed), "{maximum:?} open files are too few for this test");
}
