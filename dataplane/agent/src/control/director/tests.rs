//! The director between a real store, a real origin, a scheduler that the test plays, and shards that only listen.

mod named;

use std::collections::VecDeque;

use hawker_proto::trust::Lease;
use hawker_proto::{ByteRange, Geometry};
use hawker_scheduler::{HostInfo, LeaseOutcome, Neighbor, ToHost, WantKey};
use hawker_storage::{Output, Store, StoreConfig, blocking};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::clock;
use crate::control::link::{INBOX_MAX, LinkFacts, OUTBOX_MAX};
use crate::control::local_scheduler::LocalScheduler;
use crate::control::testing::{Origin, asked_range, blocks, content, serve, shard};
use crate::seam::{KeeperRequest, OriginEnd};

const MIB: u64 = 1 << 20;
/// Far beyond what any step takes; a test that waits this long has hung.
const HANG: Duration = Duration::from_secs(60);

/// Everything around one director.
struct World {
    asks: mpsc::Sender<Ask>,
    shard_events: mpsc::Sender<ShardEvent>,
    links: mpsc::Sender<LinkEvent>,
    /// What the director says to the cluster's scheduler.
    inbox: mpsc::Receiver<Input>,
    facts: Arc<LinkFacts>,
    tags: TagBook,
    /// What it says to the shard, without the keeper's part.
    commands: mpsc::UnboundedReceiver<ShardCommand>,
    scheduler: HostKey,
    host: Arc<HostKey>,
    next_caller: u64,
    /// The store makes no task while this is held.
    store: Arc<tokio::sync::Mutex<()>>,
    /// Tasks that the store was asked to make.
    creates: watch::Receiver<usize>,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (handle, mut mailbox) = shard();
        let (to_test, commands) = mpsc::unbounded_channel();
        let mut keeper = StoreKeeper::open(dir.path());
        let (store, (count, creates)) = (Arc::default(), watch::channel(0));
        let gate: Arc<tokio::sync::Mutex<()>> = Arc::clone(&store);
        tokio::spawn(async move {
            while let Some(command) = mailbox.recv().await {
                match command {
                    ShardCommand::Keeper(request) => {
                        if matches!(request, KeeperRequest::Create { .. }) {
                            count.send_modify(|count| *count += 1);
                            drop(gate.lock().await);
                        }
                        keeper.answer(request);
                    }
                    other => drop(to_test.send(other)),
                }
            }
        });
        let host = Arc::new(HostKey::from_seed([3; 32]));
        let (asks, ask_queue) = mpsc::channel(64);
        let (shard_events, shard_queue) = mpsc::channel(64);
        let (links, link_queue) = mpsc::channel(INBOX_MAX);
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        let facts = Arc::new(LinkFacts::default());
        let own_facts = Arc::new(LinkFacts::default());
        let own = LocalScheduler::new([4; 32], info_of(&host), &own_facts);
        let own_key = own.public_key();
        let (own_outbox, own_inbox) = mpsc::channel(OUTBOX_MAX);
        tokio::spawn(own.run(own_inbox, links.clone()));
        let cluster = Outbox::new(outbox, Arc::clone(&facts));
        let tags = TagBook::new(host.host_id(), Some(cluster.clone()));
        let parts = Parts {
            host: host.host_id(),
            key: Arc::clone(&host),
            cluster_key: None,
            write: WriteChoice::Buffered,
            has_peers: true,
            limits: crate::limits::Limits::FULL,
            shards: vec![handle],
            client: OriginClient::with_roots(rustls::RootCertStore::empty()),
            blocks: blocks(),
            tags: tags.clone(),
            cluster: Some(cluster),
            own: Outbox::new(own_outbox, own_facts),
            own_key,
        };
        let queues = Queues { asks: ask_queue, shards: shard_queue, links: link_queue };
        tokio::spawn(run(parts, queues, Arc::default()));
        let scheduler = HostKey::from_seed([5; 32]);
        Self {
            asks,
            shard_events,
            links,
            inbox,
            facts,
            tags,
            commands,
            scheduler,
            host,
            next_caller: 1,
            store,
            creates,
            _dir: dir,
        }
    }

    /// Opens a session with a scheduler so slow that two seconds are no silence, however busy the machine is.
    async fn connect(&self) {
        self.facts.measured(Duration::from_secs(1));
        self.connect_fast().await;
    }

    async fn connect_fast(&self) {
        self.facts.connected(7);
        let keys = vec![self.scheduler.public()];
        let welcome = Welcome { keys, progress: Duration::from_secs(60), cached_tasks_max: 10 };
        self.links.send(LinkEvent::Up(welcome)).await.unwrap();
    }

    async fn get(&mut self, url: &str, headers: &[(&str, &str)]) -> mpsc::Receiver<CallerEvent> {
        let header =
            |(name, value): &(&str, &str)| hawker_api::local::Header { name: (*name).into(), value: (*value).into() };
        let headers = headers.iter().map(header).collect();
        let get = hawker_api::local::Get { url: url.to_owned(), headers, ..Default::default() };
        self.ask(GetRequest::parse(get).unwrap()).await
    }

    async fn ask(&mut self, request: GetRequest) -> mpsc::Receiver<CallerEvent> {
        let (events, receiver) = mpsc::channel(32);
        let caller = CallerId(self.next_caller);
        self.next_caller += 1;
        self.asks.send(Ask::Get { caller, request: Box::new(request), events }).await.unwrap();
        receiver
    }

    async fn said(&mut self) -> Input {
        timeout(HANG, self.inbox.recv()).await.expect("the director says something").unwrap()
    }

    async fn want(&mut self) -> WantId {
        match self.said().await {
            Input::Want { want, key: WantKey::Resolve(_), origin: Some(_), .. } => want,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, message: ToHost) {
        self.links.send(LinkEvent::Message(Side::Cluster, message)).await.unwrap();
    }

    /// The next command that is not about sharing.
    async fn command(&mut self) -> ShardCommand {
        loop {
            match timeout(HANG, self.commands.recv()).await.expect("a command for the shard").unwrap() {
                ShardCommand::Share { .. } | ShardCommand::Scheduler { .. } => {}
                other => return other,
            }
        }
    }

    async fn started(&mut self) -> (Arc<SharedTask>, bool) {
        match self.command().await {
            ShardCommand::StartDownload { task, is_alone, origin } => {
                assert!(origin.is_some());
                (task, is_alone)
            }
            other => panic!("{other:?}"),
        }
    }

    fn ready(&self, want: WantId, task: TaskId, length: u64) -> ToHost {
        ToHost::Ready {
            want,
            task,
            geometry: Geometry::of_length(length).unwrap(),
            validators: Vec::new(),
            neighbors: vec![Neighbor {
                id: self.scheduler.host_id(),
                address: "127.0.0.1:9".parse().unwrap(),
                is_remote: false,
            }],
            has_ranges: true,
            is_shared: true,
            inline: Vec::new(),
        }
    }

    fn lease(&self, task: TaskId, end: u64) -> ToHost {
        let range = ByteRange::new(0, end).unwrap();
        let holder = self.host.public();
        let lease = Lease { task, range, holder, epoch: 7, serial: 1, expires_unix_ms: u64::MAX };
        ToHost::Lease { lease: lease.sign(&self.scheduler), valid: Duration::from_secs(60) }
    }
}

fn info_of(host: &HostKey) -> HostInfo {
    HostInfo {
        id: host.host_id(),
        key: host.public(),
        address: "127.0.0.1:1".parse().unwrap(),
        labels: Vec::new(),
        is_seed: true,
        link_bytes_per_s: 0,
    }
}

/// A keeper that runs the store's operations at once.
struct StoreKeeper {
    store: Store,
    next_request: u64,
}

impl StoreKeeper {
    fn open(dir: &std::path::Path) -> Self {
        let mut config = StoreConfig::new([1; 16], clock::now(), clock::unix_ms());
        // Whatever the disk of the machine looks like: by default a quarter of it stays free.
        config.limit_bytes = Some(1 << 30);
        Self { store: Store::open(&dir.join("store"), config).unwrap(), next_request: 1 }
    }

    /// Hands `input` over and returns what comes of it.
    fn run(&mut self, input: hawker_storage::Input) -> VecDeque<Output> {
        self.store.handle(clock::now(), input);
        let mut outputs = VecDeque::new();
        while let Some(output) = self.store.poll() {
            match output {
                Output::Op { op, what } => {
                    let result = blocking::run(what);
                    self.store.handle(clock::now(), hawker_storage::Input::OpDone { op, result });
                }
                other => outputs.push_back(other),
            }
        }
        outputs
    }

    /// What `pick` finds among what comes of `input`.
    fn pick<T>(&mut self, input: hawker_storage::Input, pick: impl FnMut(Output) -> Option<T>) -> Option<T> {
        self.run(input).into_iter().find_map(pick)
    }

    fn create(&mut self, input: hawker_storage::Input) -> Result<Arc<SharedTask>, CreateError> {
        let created = self.pick(input, |output| match output {
            Output::Created { result, .. } => Some(result.map(|file| Arc::new(SharedTask::new(file)))),
            _ => None,
        });
        created.unwrap()
    }

    fn find(&mut self, key: &[u8; 32]) -> Option<(TaskSummary, TaskMeta)> {
        let task = self.store.find_by_resolve(key)?;
        let summary = self.store.list().find(|summary| summary.task == task)?;
        let meta = self.pick(hawker_storage::Input::ReadMeta { request: 0, task }, |output| match output {
            Output::Meta { result, .. } => result.ok(),
            _ => None,
        });
        Some(summary).zip(meta)
    }

    fn answer(&mut self, request: KeeperRequest) {
        use hawker_storage::Input;
        let number = self.next_request;
        self.next_request += 1;
        match request {
            KeeperRequest::Create { task, geometry, meta, write, reply } => {
                let input = Input::Create { request: number, task, geometry, meta: *meta, write_mode: write };
                let _ = reply.send(self.create(input));
            }
            KeeperRequest::Open { task, reply } => {
                let shared = self.pick(Input::Open { request: number, task }, |output| match output {
                    Output::Opened { result: Ok(file), .. } => Some(Arc::new(SharedTask::new(file))),
                    _ => None,
                });
                let _ = reply.send(shared);
            }
            KeeperRequest::Spool { reply } => {
                let spool = self.pick(Input::Spool { request: number }, |output| match output {
                    Output::Spooling { result, .. } => Some(result),
                    _ => None,
                });
                let _ = reply.send(spool.unwrap());
            }
            KeeperRequest::ReserveSpool { spool, bytes, reply } => {
                let input = Input::ReserveSpool { request: number, spool, bytes };
                let reserved = self.pick(input, |output| match output {
                    Output::SpoolReserved { result, .. } => Some(result),
                    _ => None,
                });
                let _ = reply.send(reserved.unwrap());
            }
            KeeperRequest::Adopt(adopt) => {
                let crate::seam::AdoptRequest { spool, task, geometry, meta, records, reply } = *adopt;
                let adopt = hawker_storage::Adopt { request: number, spool, task, geometry, meta, records };
                let _ = reply.send(self.create(Input::Adopt(Box::new(adopt))));
            }
            KeeperRequest::Seal { task, root, reply } => {
                let sealed = self.pick(Input::Seal { task, root }, |output| match output {
                    Output::Sealed { result, .. } => Some(result),
                    _ => None,
                });
                let _ = reply.send(sealed.unwrap());
            }
            KeeperRequest::Remove { task, reply } => {
                let is_removed = |output: &Output| matches!(output, Output::Removed { .. });
                let _ = reply.send(self.run(Input::Remove { task }).iter().any(is_removed));
            }
            KeeperRequest::List { reply } => drop(reply.send((self.store.list().collect(), self.store.usage()))),
            KeeperRequest::FindResolved { key, reply } => drop(reply.send(self.find(&key))),
            other => panic!("{other:?}"),
        }
    }
}

async fn origin_of(length: u64) -> Origin {
    let content = content(usize::try_from(length).unwrap());
    Origin::start(move |request| serve(&content, request)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn get_without_a_scheduler_goes_to_the_origin_at_once_and_joins_later() {
    let mut world = World::new();
    let origin = origin_of(3 * MIB).await;
    let mut caller = world.get(&origin.url("/f"), &[]).await;
    let (task, is_alone) = world.started().await;
    assert!(is_alone, "nobody else answers its lease questions");
    assert!(matches!(caller.recv().await, Some(CallerEvent::Opened(_))));
    // Its own scheduler leases what the resolve's body brings.
    let command = world.command().await;
    let ShardCommand::Lease { lease, .. } = command else { panic!("{command:?}") };
    assert_eq!((lease.lease.range.start(), lease.lease.range.end()), (0, 3 * MIB));
    assert!(lease.verify(&[world.scheduler.public()]).is_err() && is_own_serial(lease.lease.serial));

    world.connect().await;
    let Input::Announce { announcement, .. } = world.said().await else { panic!("the running task is announced") };
    assert_eq!((announcement.task, announcement.is_running), (task.id(), true));
    assert!(announcement.source.is_some(), "so that the scheduler can answer others");
    assert!(matches!(world.command().await, ShardCommand::SetAlone { is_alone: false, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_scheduler_is_not_waited_for_and_its_late_answer_counts() {
    let mut world = World::new();
    world.connect_fast().await;
    let origin = origin_of(MIB).await;
    let _caller = world.get(&origin.url("/f"), &[]).await;
    let want = world.want().await;
    let (task, is_alone) = world.started().await;
    assert!(is_alone);
    world.answer(ToHost::Resolve { want, upto: 16 * MIB, valid: Duration::from_secs(5), previous: None }).await;
    let Input::Resolved { resolution, .. } = world.said().await else { panic!("the resolver answers") };
    assert_eq!((resolution.task, resolution.arriving_bytes), (task.id(), 0));
    assert!(matches!(world.said().await, Input::Announce { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduler_that_asks_while_the_store_makes_room_is_told() {
    let mut world = World::new();
    world.connect_fast().await;
    let origin = origin_of(MIB).await;
    let store = Arc::clone(&world.store);
    let held = store.lock().await;
    let _caller = world.get(&origin.url("/f"), &[]).await;
    let want = world.want().await;
    // The scheduler is silent, so the origin is asked; then a task is to be made.
    timeout(HANG, world.creates.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    for want in [want, WantId(u64::MAX)] {
        let valid = Duration::from_secs(5);
        world.answer(ToHost::Resolve { want, upto: 4 * MIB, valid, previous: None }).await;
    }
    // What nobody waits for is answered at once: so both were heard while the store is busy.
    let said = world.said().await;
    assert!(matches!(said, Input::ResolveFailed { want: WantId(u64::MAX), .. }), "{said:?}");
    drop(held);
    let said = world.said().await;
    let Input::Resolved { resolution, .. } = said else { panic!("the resolver answers: {said:?}") };
    assert_eq!(resolution.arriving_bytes, MIB, "the body is still open");
    let (task, is_alone) = world.started().await;
    assert_eq!((task.id(), is_alone), (resolution.task, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn resolver_tells_what_it_learned_and_gets_the_first_lease() {
    let mut world = World::new();
    world.connect().await;
    let origin = origin_of(40 * MIB).await;
    let _caller = world.get(&origin.url("/f"), &[]).await;
    let want = world.want().await;
    world.answer(ToHost::Resolve { want, upto: 4 * MIB, valid: Duration::from_secs(5), previous: None }).await;
    let Input::Resolved { resolution, .. } = world.said().await else { panic!("the resolver answers") };
    assert_eq!((resolution.geometry.length(), resolution.arriving_bytes), (40 * MIB, 4 * MIB));
    assert!(resolution.is_shared && resolution.has_ranges);
    // The lease is here before the task is open, perhaps; it must not be lost.
    world.answer(world.ready(want, resolution.task, 40 * MIB)).await;
    world.answer(world.lease(resolution.task, 4 * MIB)).await;
    let (task, is_alone) = world.started().await;
    assert_eq!((task.id(), is_alone), (resolution.task, false));
    let mut seen = Vec::new();
    for _ in 0..2 {
        match world.command().await {
            ShardCommand::Lease { lease, .. } => {
                assert!(lease.verify(&[world.scheduler.public()]).is_ok());
                seen.push("lease");
            }
            ShardCommand::Neighbors { add, .. } => {
                assert_eq!(add.len(), 1);
                seen.push("neighbors");
            }
            other => panic!("{other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["lease", "neighbors"]);

    // The range is fetched with the body that is open: one request in all.
    let range = ByteRange::new(0, 4 * MIB).unwrap();
    world.shard_events.send(ShardEvent::FetchOrigin { task: task.id(), serial: 1, range }).await.unwrap();
    let mut bytes = 0;
    loop {
        match world.command().await {
            ShardCommand::OriginData { length, .. } => bytes += length,
            ShardCommand::OriginEnd { end, .. } => break assert_eq!(end, OriginEnd::Complete),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((bytes as u64, origin.requests().len()), (4 * MIB, 1));
    let done = ShardEvent::LeaseDone { task: task.id(), serial: 1, upto: 4 * MIB, end: OriginEnd::Complete };
    world.shard_events.send(done).await.unwrap();
    assert!(matches!(world.said().await, Input::LeaseDone { outcome: LeaseOutcome::Complete, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_of_a_task_that_is_never_opened_is_given_back() {
    let mut world = World::new();
    world.connect().await;
    let ToHost::Lease { lease, .. } = world.lease(TaskId([9; 32]), MIB) else { unreachable!() };
    world.answer(ToHost::Lease { lease, valid: Duration::from_millis(200) }).await;
    let said = world.said().await;
    let is_returned = |outcome: &LeaseOutcome| *outcome == LeaseOutcome::Returned;
    assert!(matches!(&said, Input::LeaseDone { serial: 1, upto: 0, outcome, .. } if is_returned(outcome)), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_others_resolved_needs_no_origin() {
    let mut world = World::new();
    world.connect().await;
    let mut caller = world.get("http://127.0.0.1:1/nobody-listens", &[]).await;
    let want = world.want().await;
    world.answer(world.ready(want, TaskId([9; 32]), MIB)).await;
    let (task, is_alone) = world.started().await;
    assert_eq!((task.id(), is_alone), (TaskId([9; 32]), false));
    assert!(matches!(world.command().await, ShardCommand::Neighbors { .. }));
    assert!(matches!(caller.recv().await, Some(CallerEvent::Opened(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_checked_upstream_before_a_byte_is_given() {
    let mut world = World::new();
    world.connect().await;
    let origin = Origin::start(|request| {
        assert_eq!(asked_range(request), Some((0, 1)));
        b"HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
    })
    .await;
    let mut caller = world.get(&origin.url("/f"), &[("Authorization", "Bearer wrong")]).await;
    let want = world.want().await;
    world.answer(world.ready(want, TaskId([9; 32]), MIB)).await;
    let Some(CallerEvent::Failed(failure)) = caller.recv().await else { panic!("refused") };
    assert_eq!(failure.code, 3);
    assert!(failure.message.contains("403") && !failure.message.contains("wrong"), "{}", failure.message);
    while let Ok(command) = world.commands.try_recv() {
        assert!(matches!(command, ShardCommand::Scheduler { .. }), "nothing is shared or begun: {command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_by_the_signature_of_another() {
    let mut world = World::new();
    let origin = Origin::start(|request| {
        if request.contains("x-amz-signature=good") {
            serve(&content(1000), request)
        } else {
            b"HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
        }
    })
    .await;
    let mut good = world.get(&origin.url("/f?x=1&X-Amz-Signature=good"), &[]).await;
    // One URL but for the signature: it joins the same resolve, and the first caller leaves.
    let mut bad = world.get(&origin.url("/f?x=1&X-Amz-Signature=bad"), &[]).await;
    let mut also_good = world.get(&origin.url("/f?x=1&X-Amz-Signature=good"), &[]).await;
    world.asks.send(Ask::Gone { caller: CallerId(1) }).await.unwrap();
    let refused = bad.recv().await;
    assert!(matches!(&refused, Some(CallerEvent::Failed(failure)) if failure.code == 3), "{refused:?}");
    assert!(matches!(also_good.recv().await, Some(CallerEvent::Opened(_))));
    good.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_resolve_is_told_to_the_scheduler_and_the_caller() {
    let mut world = World::new();
    world.connect().await;
    let origin = Origin::start(|_| b"HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()).await;
    let mut caller = world.get(&origin.url("/f"), &[]).await;
    let want = world.want().await;
    world.answer(ToHost::Resolve { want, upto: 16 * MIB, valid: Duration::from_secs(5), previous: None }).await;
    let Input::ResolveFailed { failure, .. } = world.said().await else { panic!("the scheduler hears") };
    assert_eq!((failure.is_final, failure.status), (true, 404));
    assert!(matches!(caller.recv().await, Some(CallerEvent::Failed(failure)) if failure.code == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn last_caller_takes_the_download_with_it_after_a_while() {
    let mut world = World::new();
    world.connect().await;
    let _caller = world.get("http://127.0.0.1:1/f", &[]).await;
    let want = world.want().await;
    world.answer(world.ready(want, TaskId([9; 32]), MIB)).await;
    world.started().await;
    assert!(matches!(world.command().await, ShardCommand::Neighbors { .. }));
    world.asks.send(Ask::Gone { caller: CallerId(1) }).await.unwrap();
    assert!(matches!(world.command().await, ShardCommand::StopDownload { .. }));
    let Input::Announce { announcement, .. } = world.said().await else { panic!("it is a holder now") };
    assert!(!announcement.is_running);
}

#[test]
fn limit_of_a_task_is_the_most_that_a_caller_allows() {
    assert_eq!(limit_of([].into_iter()), None);
    assert_eq!(limit_of([Some(5), Some(9)].into_iter()), Some(9));
    assert_eq!(limit_of([Some(5), None].into_iter()), None);
}

#[test]
fn task_has_one_shard() {
    assert_eq!(shard_index(TaskId([0xff; 32]), 4), 3);
    assert_eq!(shard_index(TaskId([0xff; 32]), 1), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_asked_of_the_scheduler_and_only_while_there_is_one() {
    let mut world = World::new();
    assert_eq!(world.tags.recall("registry.example/a:b").await, None, "nobody to ask");
    world.connect().await;
    let mut sessions = world.tags.sessions();
    timeout(HANG, sessions.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    let fact = hawker_scheduler::TagFact {
        digest: "sha256:00".to_owned(),
        media_type: "application/json".to_owned(),
        length: 2,
        is_public: true,
        age: Duration::from_secs(3),
    };
    world.tags.report("registry.example/a:b", fact.clone());
    let Input::TagSeen { tag, fact: said, .. } = world.said().await else { panic!("it is reported") };
    assert_eq!(said, fact);
    let tags = world.tags.clone();
    let asking = tokio::spawn(async move { tags.recall("registry.example/a:b").await });
    let Input::AskTag { tag: asked, .. } = world.said().await else { panic!("it is asked for") };
    assert_eq!(asked, tag);
    world.answer(ToHost::Tag { tag, fact: Some(fact.clone()) }).await;
    assert_eq!(asking.await.unwrap(), Some(fact));
}
