//! Peers that lie or fail, as real sockets against real agents, on both engines: honest hosts end with the right bytes,
//! leave the liar alone in time, and pass nothing on that is not proven.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawker_proto::frame::Frame;
use hawker_proto::{BlockIndex, Geometry, HostId, PieceIndex, TaskId};
use hawker_tests::liar::{Identity, Lie, Link, Parent, Session, Subject};
use hawker_tests::loopback::{CLUSTER_KEY, Loopback};
use hawker_tests::process::{Process, wait_until};
use hawker_tests::{files, workspace};

const LIMIT: Duration = Duration::from_mins(1);

/// 96 pieces and one byte: more than the first GET of a resolve brings.
const LENGTH: usize = (6 << 20) + 1;

fn on_both_engines(test: &str, check: impl Fn(&'static str)) {
    let obstacle = workspace::find_program("nginx").is_none().then_some("nginx is not installed");
    hawker_tests::on_both_engines(test, obstacle, check);
}

/// Has agent 0 download new content, so that there is an honest holder with proofs.
fn prepare(cluster: &Loopback, name: &str, seed: u64) -> (TaskId, Vec<u8>) {
    let content = files::random_bytes(LENGTH, seed);
    cluster.publish(name, &content);
    let report = cluster.get(0, name, &content, LIMIT);
    (report["task"].as_str().expect("a task").parse().expect("an id"), content)
}

fn geometry() -> Geometry {
    Geometry::of_length(LENGTH as u64).expect("a length")
}

/// Joins with nothing, waits until the scheduler has named a host that is not `liar`, and links up with it.
fn join_as_child(cluster: &Loopback, identity: &Identity, task: TaskId, liar: Option<HostId>) -> (Session, Link) {
    let session = Session::join(cluster.scheduler(), identity, hawker_tests::free_address());
    wait_until(LIMIT, "welcome", || session.is_welcome());
    session.announce_running(task, geometry());
    let honest = || session.neighbors().into_iter().find(|(host, _)| Some(*host) != liar);
    wait_until(LIMIT, "told of a neighbor", || honest().is_some());
    let (_, address) = honest().expect("just seen");
    let link = Link::dial(address, identity).expect("an honest parent takes a member");
    (session, link)
}

/// What an honest host shows of a task, and then no longer has: the liar alone says that it has it.
fn take_over(cluster: &Loopback, name: &str, seed: u64, other_records: &[u8]) -> Subject {
    let (task, content) = prepare(cluster, name, seed);
    let identity = Identity::new(200, CLUSTER_KEY);
    let (session, mut link) = join_as_child(cluster, &identity, task, None);
    let records = link.collect(1, task, geometry()).expect("records");
    drop((session, link));
    cluster.remove(0, task);
    Subject { task, content, records, other_records: other_records.to_vec() }
}

#[test]
fn lying_and_failing_parents_are_left_and_everybody_ends_with_the_right_bytes() {
    on_both_engines("lying_and_failing_parents", |engine| {
        let cluster = Loopback::start(engine, 2);
        let other = take_over(&cluster, "other", 7_000, &[]);
        let only = std::env::var("HAWKER_LIE").ok();
        let lies = Lie::ALL.into_iter().filter(|lie| only.as_ref().is_none_or(|only| *only == format!("{lie:?}")));
        let cases: Vec<Case> =
            lies.zip(1..).map(|(lie, number)| Case::start(&cluster, lie, number, &other.records[0])).collect();
        // All at once: a liar must not hold up the downloads beside it either.
        let gets: Vec<Process> =
            cases.iter().map(|case| cluster.start_get(1, &case.name, &case.subject.content)).collect();
        let mut told = 0;
        for (case, get) in cases.iter().zip(gets) {
            let report = cluster.assert_right(1, &case.name, &case.subject.content, &get.wait(LIMIT));
            told += usize::from(case.assert_left(engine, &report));
        }
        // A download may be over before its liar has said a word.
        assert!(told * 3 >= cases.len() * 2, "only {told} of {} lies were told", cases.len());
        for case in &cases {
            let witness = Identity::new(201, CLUSTER_KEY);
            let (_session, mut link) = join_as_child(&cluster, &witness, case.subject.task, Some(case.host));
            link.assert_serves(1, case.subject.task, &case.subject.content);
        }
        assert_eq!(cluster.scheduler_count("hawker_scheduler_banned"), 0, "one reporter bans nobody");
    });
}

/// A lie, the parent that tells it, and the task it is about.
struct Case {
    lie: Lie,
    name: String,
    subject: Arc<Subject>,
    host: HostId,
    parent: Parent,
    /// The scheduler believes the liar as long as this lives.
    _session: Session,
}

impl Case {
    fn start(cluster: &Loopback, lie: Lie, number: u8, other_records: &[u8]) -> Self {
        let name = format!("{lie:?}");
        let subject = Arc::new(take_over(cluster, &name, 7_000 + u64::from(number), other_records));
        let identity = Identity::new(number, CLUSTER_KEY);
        let parent = Parent::start(lie, &identity, &subject);
        let session = Session::join(cluster.scheduler(), &identity, parent.address);
        wait_until(LIMIT, "welcome", || session.is_welcome());
        session.announce(subject.task, geometry());
        Self { lie, name, subject, host: identity.key.host_id(), parent, _session: session }
    }

    /// The liar was left alone in time; false when it was not even asked.
    fn assert_left(&self, engine: &str, report: &serde_json::Value) -> bool {
        let [dials, opens, requests, lies, bad_pieces] = self.parent.seen.counts();
        let (lie, seconds) = (self.lie, &report["seconds"]);
        println!(
            "{engine} {lie:?}: {seconds} s, {dials} dials, {requests} requests, {lies} lies, {bad_pieces} BAD_PIECE"
        );
        assert_eq!(report["peer_bytes"], 0, "{lie:?}: nothing of the liar's counts");
        assert_eq!(report["origin_bytes"], LENGTH, "{lie:?}: each byte leaves the origin once");
        if lie.is_proven() {
            // Two are enough; a run of blocks may be under way when the second comes. All may be here after one.
            assert!(lies <= 3, "{lie:?} was told {lies} times");
            assert!(opens <= 2, "{lie:?}: {opens} channels");
        } else {
            // 100 ms, 200 ms, ... 2 s between dials, and as long as it takes at most 10 s.
            assert!(dials <= 12 && lies <= 30, "{lie:?}: {dials} dials, {lies} lies");
        }
        let is_about_bytes = matches!(lie, Lie::WrongBytes | Lie::SwappedPieces);
        assert_eq!(
            bad_pieces,
            u32::from(is_about_bytes && lies > 0),
            "{lie:?}: the first wrong block is told the parent"
        );
        lies > 0
    }
}

#[test]
fn a_host_that_lies_to_all_its_neighbors_is_banned_from_the_cluster() {
    on_both_engines("a_host_that_lies_to_all", |engine| {
        let cluster = Loopback::start(engine, 4);
        let subject = Arc::new(take_over(&cluster, "file", 7_100, &[]));
        let identity = Identity::new(1, CLUSTER_KEY);
        let parent = Parent::start(Lie::WrongBytes, &identity, &subject);
        let session = Session::join(cluster.scheduler(), &identity, parent.address);
        wait_until(LIMIT, "welcome", || session.is_welcome());
        session.announce(subject.task, geometry());
        let gets: Vec<Process> = (1..4).map(|index| cluster.start_get(index, "file", &subject.content)).collect();
        for (index, get) in (1..).zip(gets) {
            let _report = cluster.assert_right(index, "file", &subject.content, &get.wait(LIMIT));
        }
        wait_until(LIMIT, "banned", || session.is_over());
        assert_eq!(session.bans(), [identity.key.host_id()], "it is told why");
        assert_eq!(cluster.scheduler_count("hawker_scheduler_banned"), 1);
        let again = Session::join(cluster.scheduler(), &identity, parent.address);
        wait_until(LIMIT, "refused", || again.is_over());
    });
}

#[test]
fn one_lying_child_evicts_nobody() {
    on_both_engines("one_lying_child", |engine| {
        let cluster = Loopback::start(engine, 2);
        let (task, content) = prepare(&cluster, "file", 7_200);
        let liar = Identity::new(1, CLUSTER_KEY);
        let (session, mut link) = join_as_child(&cluster, &liar, task, None);
        let (honest, _) = session.neighbors()[0];
        let _records = link.collect(1, task, geometry()).expect("records");
        // Everything is bad, it says, again and again, to the parent and to the scheduler.
        for _ in 0..100 {
            for piece in (0..geometry().piece_count()).map(PieceIndex) {
                link.send(&Frame::BadPiece { channel: 1, piece, block: BlockIndex(0) }).expect("the link stays");
            }
            session.complain(honest, task);
        }
        let report = cluster.get(1, "file", &content, LIMIT);
        assert_eq!(report["origin_bytes"], 0, "the parent still serves everything: {report}");
        assert_eq!(report["peer_bytes"], LENGTH);
        link.assert_serves(2, task, &content);
        assert_eq!(cluster.scheduler_count("hawker_scheduler_banned"), 0);
        assert!(session.bans().is_empty() && !session.is_over());
    });
}

#[test]
fn a_host_whose_disk_rots_repairs_itself_and_is_not_banned() {
    on_both_engines("a_host_whose_disk_rots", |engine| {
        let cluster = Loopback::start(engine, 2);
        let (task, content) = prepare(&cluster, "file", 7_300);
        let path = content_file(&cluster.data_dir(0), &content);
        // In the page cache, behind the agent's back: it wrote these bytes and believes that it knows them.
        let file = std::fs::File::options().write(true).open(&path).expect("the content");
        file.write_all_at(&[content[70_000] ^ 1], 70_000).expect("room");
        let is_repaired = || std::fs::read(&path).expect("the content") == content;
        // On a busy machine the origin is the faster one and what was to be asked of the host is bought, but one copy at
        // most: whoever comes later asks the host.
        for _ in 0..3 {
            let report = cluster.get(1, "file", &content, LIMIT);
            assert!(report["peer_bytes"].as_u64() > Some(0), "the rest is asked of it: {report}");
            let patience = Instant::now() + Duration::from_secs(4);
            while !is_repaired() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(20));
            }
            if is_repaired() {
                break;
            }
            cluster.remove(1, task);
            std::fs::remove_file(cluster.output(1, "file")).expect("the output");
        }
        wait_until(LIMIT, "repaired", is_repaired);
        wait_until(LIMIT, "sealed again", || cluster.ask(0, &["stat", &task.to_string()])["state"] == "sealed");
        assert_eq!(cluster.scheduler_count("hawker_scheduler_banned"), 0);
        let identity = Identity::new(1, CLUSTER_KEY);
        cluster.remove(1, task);
        let (_session, mut link) = join_as_child(&cluster, &identity, task, None);
        link.assert_serves(1, task, &content);
    });
}

#[test]
fn children_that_waste_connections_memory_and_slots_keep_nobody_out() {
    on_both_engines("children_that_waste", |engine| {
        let mut cluster = Loopback::start(engine, 2);
        let (task, content) = prepare(&cluster, "file", 7_400);
        let liar = Identity::new(1, CLUSTER_KEY);
        let (session, mut link) = join_as_child(&cluster, &liar, task, None);
        let (_, address) = session.neighbors()[0];
        let before = memory_bytes(cluster.agent(0).id());

        // Half-open connections, each with a frame that it will never finish; then tasks as large as can be said.
        let long = Frame::Have { channel: 1, first_piece: 0, bits: vec![1; 256 << 10] }.encode();
        let strangers: Vec<TcpStream> = (0..HALF_OPEN)
            .map(|_| {
                let mut socket = TcpStream::connect(address).expect("the agent listens");
                // It may be sent away at once.
                let _ = socket.set_nonblocking(true).and_then(|()| socket.write(&long[..long.len() - 1]));
                socket
            })
            .collect();
        let largest = Geometry::of_stream(hawker_proto::geometry::LENGTH_MAX).expect("the largest");
        for channel in 1..=200u16 {
            let task = TaskId([u8::try_from(channel).expect("below 256"); 32]);
            link.send(&Frame::Open { channel, task, geometry: largest }).expect("the link stays");
        }
        // Children that ask and do not read hold the slots.
        let deaf: Vec<Link> = (0..DEAF)
            .map(|number| {
                let mut link = Link::dial(address, &Identity::new(10 + number, CLUSTER_KEY)).expect("a member");
                // Else the kernel would take it all.
                rustix::net::sockopt::set_socket_recv_buffer_size(link.socket(), 4096).expect("a small buffer");
                link.send(&Frame::Open { channel: 1, task, geometry: geometry() }).expect("the link stays");
                for piece in (0..geometry().piece_count()).map(PieceIndex) {
                    let frame = Frame::Request { channel: 1, piece, block: BlockIndex(0), count: 1 };
                    link.send(&frame).expect("the link stays");
                }
                link
            })
            .collect();

        let start = Instant::now();
        let _report = cluster.get(1, "file", &content, LIMIT);
        let got = start.elapsed();
        let mut child = Link::dial(address, &Identity::new(2, CLUSTER_KEY)).expect("a member is taken in the crowd");
        child.assert_serves(1, task, &content);
        // A grant to each of the deaf, twice its 2 s, over two slots: once, and not for every 16 blocks of the child.
        assert!(start.elapsed() < Duration::from_secs(25), "deaf children held the slots for {:.2?}", start.elapsed());
        let grown = memory_bytes(cluster.agent(0).id()).saturating_sub(before);
        println!("{engine}: got in {got:.2?}, all served by {:.2?}, {} KiB more", start.elapsed(), grown / 1024);
        assert!(grown < 64 << 20, "{grown} bytes for strangers and lies");
        // Nonsense ends the link that it came over, and nothing else.
        link.write(&files::random_bytes(4096, 7)).expect("the agent reads");
        let end = std::iter::from_fn(|| Some(link.receive())).find_map(Result::err).expect("endless otherwise");
        assert_ne!(end.kind(), std::io::ErrorKind::WouldBlock, "the link ends");
        assert!(cluster.agent(0).is_running());
        drop((strangers, deaf));
    });
}

/// Connections that never say who they are: more than an agent has places for.
const HALF_OPEN: usize = 2500;
/// Children that do not read: more than an agent has slots.
const DEAF: u8 = 4;

/// RssAnon of a process.
fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says so");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// The file below `directory` that holds exactly `content`.
fn content_file(directory: &Path, content: &[u8]) -> PathBuf {
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("ours").flatten().map(|entry| entry.path()));
        } else if std::fs::metadata(&path).is_ok_and(|is| is.is_file() && is.len() >= content.len() as u64)
            && std::fs::read(&path).is_ok_and(|bytes| bytes.starts_with(content))
        {
            return path;
        }
    }
    panic!("no content below {}", directory.display());
}
