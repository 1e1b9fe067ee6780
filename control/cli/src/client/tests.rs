//! Downloads against an agent that the test plays.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hawker_api::frame;
use hawker_api::local::{Done, Error, Event, Get, Opened, Progress, Range, Request, event, request};
use hawker_proto::resolve::Digest;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sha2::Digest as _;
use tempfile::TempDir;

use super::*;

/// An odd length, larger than one step of copying.
const CONTENT_BYTES: usize = 9_000_001;

struct Silent;

impl Watch for Silent {
    fn progress(&mut self, _: &Progress) {}
    fn note(&mut self, _: &str) {}
}

/// A directory with the agent's content in it, and the socket.
struct Stage {
    directory: TempDir,
    bytes: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; CONTENT_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        std::fs::create_dir(directory.path().join("agent")).unwrap();
        std::fs::create_dir(directory.path().join("user")).unwrap();
        std::fs::write(directory.path().join("agent/content"), &bytes).unwrap();
        Self { directory, bytes }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent/socket")
    }

    fn content(&self) -> PathBuf {
        self.directory.path().join("agent/content")
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("user/file")
    }

    /// What the user's directory holds.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("user")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// An agent that plays one scene per connection.
    fn agent<F>(&self, scenes: Vec<F>) -> JoinHandle<()>
    where
        F: FnOnce(&mut Scene) + Send + 'static,
    {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let content = self.content();
        thread::spawn(move || {
            for scene in scenes {
                let (socket, _) = listener.accept().unwrap();
                let content = File::open(&content).unwrap();
                let mut played = Scene { socket, content, get: Get::default() };
                played.get = played.read_get();
                scene(&mut played);
            }
        })
    }

    fn get(&self, order: &Order, placing: &Placing) -> Result<Outcome, Failure> {
        get(&Door::at(&self.socket()), order, placing, &mut Silent, &Stop::default())
    }

    fn copy(&self) -> Placing {
        Placing::Copy { target: self.target(), overwrite: false }
    }

    fn sha256(&self) -> Digest {
        Digest::Sha256(sha2::Sha256::digest(&self.bytes).into())
    }
}

struct Scene {
    socket: UnixStream,
    content: File,
    get: Get,
}

impl Scene {
    fn read_get(&mut self) -> Get {
        let mut buffer = Vec::new();
        loop {
            if let Some((request, _)) = frame::decode::<Request>(&buffer).unwrap() {
                let Some(request::Request::Get(get)) = request.request else { panic!("not a get") };
                return get;
            }
            let mut chunk = [0; 4096];
            let count = self.socket.read(&mut chunk).unwrap();
            assert!(count > 0, "the client hung up");
            buffer.extend_from_slice(&chunk[..count]);
        }
    }

    fn opened(&self, task: &str) {
        let opened =
            Opened { task: task.to_owned(), length: CONTENT_BYTES as u64, piece_bytes: 262_144, is_length_known: true };
        let descriptors = [self.content.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = encode(event::Event::Opened(opened));
        let sent =
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    fn say(&mut self, event: event::Event) {
        use std::io::Write as _;
        // A client that left is what some tests are about.
        let _ = self.socket.write_all(&encode(event));
    }

    fn ready(&mut self, frontier: u64, ranges: &[(u64, u64)]) {
        let ready = ranges.iter().map(|&(start, end)| Range { start, end }).collect();
        self.say(event::Event::Progress(Progress { frontier, ready, ..Progress::default() }));
    }

    fn done(&mut self, sealed_path: &str) {
        self.say(event::Event::Done(Done {
            task: "t1".to_owned(),
            length: CONTENT_BYTES as u64,
            digest: "blake3:00".to_owned(),
            origin_bytes: 1,
            peer_bytes: 2,
            cache_bytes: 3,
            sealed_path: sealed_path.to_owned(),
            ..Done::default()
        }));
    }

    /// Until the client hangs up.
    fn wait_for_the_end(&mut self) {
        let _ = self.socket.read(&mut [0; 16]);
    }
}

fn encode(event: event::Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&Event { event: Some(event) }, &mut bytes).unwrap();
    bytes
}

fn order(digest: Option<Digest>) -> Order {
    Order {
        url: "http://origin/file".to_owned(),
        headers: vec![("Accept".to_owned(), "*/*".to_owned())],
        digest,
        tag: String::new(),
        application: String::new(),
        limit_bytes_per_s: 0,
        timeout: None,
    }
}

#[test]
fn bytes_that_become_readable_in_any_order_end_in_the_file() {
    let stage = Stage::new();
    let agent = stage.agent(vec![|scene: &mut Scene| {
        assert_eq!(scene.get.url, "http://origin/file");
        assert_eq!(scene.get.headers.len(), 1);
        scene.opened("t1");
        scene.ready(0, &[(4_000_000, 9_000_001)]);
        scene.ready(262_144, &[(1_000_000, 2_000_000)]);
        scene.ready(CONTENT_BYTES as u64, &[]);
        scene.done("");
    }]);
    let outcome = stage.get(&order(None), &stage.copy()).unwrap();
    agent.join().unwrap();
    assert_eq!(std::fs::read(stage.target()).unwrap(), stage.bytes);
    assert_eq!(stage.left(), ["file"]);
    assert_eq!((outcome.origin_bytes, outcome.peer_bytes, outcome.cache_bytes), (1, 2, 3));
    assert_eq!((outcome.task.as_str(), outcome.bytes), ("t1", CONTENT_BYTES as u64));
}

#[test]
fn right_digest_is_reported_and_a_wrong_one_leaves_nothing() {
    let stage = Stage::new();
    let play = |scene: &mut Scene| {
        scene.opened("t1");
        scene.ready(5_000_000, &[]);
        scene.done("");
    };
    let agent = stage.agent(vec![play, play, play]);
    let wrong = Digest::Sha256([7; 32]);
    let failure = stage.get(&order(Some(wrong)), &stage.copy()).unwrap_err();
    assert_eq!(failure.exit, Exit::DigestMismatch);
    assert!(stage.left().is_empty(), "{:?}", stage.left());
    let outcome = stage.get(&order(Some(stage.sha256())), &stage.copy()).unwrap();
    assert_eq!(outcome.digest, stage.sha256().to_string());
    std::fs::remove_file(stage.target()).unwrap();
    let blake3 = Digest::Blake3(*blake3::hash(&stage.bytes).as_bytes());
    assert_eq!(stage.get(&order(Some(blake3)), &stage.copy()).unwrap().digest, blake3.to_string());
    agent.join().unwrap();
    assert_eq!(std::fs::read(stage.target()).unwrap(), stage.bytes);
}

#[test]
fn an_agent_that_comes_back_goes_on_with_the_same_file() {
    let stage = Stage::new();
    let agent = stage.agent(vec![
        |scene: &mut Scene| {
            scene.opened("t1");
            scene.ready(3_000_000, &[]);
        },
        |scene: &mut Scene| {
            scene.opened("t1");
            scene.ready(3_000_000, &[(6_000_000, 7_000_000)]);
            scene.done("");
        },
    ]);
    let outcome = stage.get(&order(Some(stage.sha256())), &stage.copy()).unwrap();
    agent.join().unwrap();
    assert_eq!(outcome.digest, stage.sha256().to_string());
    assert_eq!(std::fs::read(stage.target()).unwrap(), stage.bytes);
}

#[test]
fn another_version_after_a_restart_keeps_nothing_of_the_first() {
    let stage = Stage::new();
    let old = stage.directory.path().join("agent/old");
    std::fs::write(&old, vec![0xee; CONTENT_BYTES + 5_000]).unwrap();
    let agent = stage.agent(vec![
        Box::new(move |scene: &mut Scene| {
            scene.content = File::open(old).unwrap();
            scene.opened("t0");
            scene.ready(CONTENT_BYTES as u64 + 5_000, &[]);
        }) as Box<dyn FnOnce(&mut Scene) + Send>,
        Box::new(|scene: &mut Scene| {
            scene.opened("t1");
            scene.done("");
        }),
    ]);
    stage.get(&order(Some(stage.sha256())), &stage.copy()).unwrap();
    agent.join().unwrap();
    assert!(std::fs::read(stage.target()).unwrap() == stage.bytes);
}

#[test]
fn refusal_of_the_origin_has_its_code_and_leaves_nothing() {
    let stage = Stage::new();
    let agent = stage.agent(vec![|scene: &mut Scene| {
        scene.say(event::Event::Error(Error { code: 3, message: "404".to_owned(), hint: "look".to_owned() }));
    }]);
    let failure = stage.get(&order(None), &stage.copy()).unwrap_err();
    agent.join().unwrap();
    assert_eq!((failure.exit, failure.message.as_str(), failure.hint.as_str()), (Exit::OriginRefused, "404", "look"));
    assert!(stage.left().is_empty());
}

#[test]
fn time_runs_out_while_the_agent_is_silent() {
    let stage = Stage::new();
    let agent = stage.agent(vec![|scene: &mut Scene| {
        scene.opened("t1");
        scene.ready(1_000, &[]);
        scene.wait_for_the_end();
    }]);
    let order = Order { timeout: Some(Duration::from_millis(50)), ..order(None) };
    let failure = stage.get(&order, &stage.copy()).unwrap_err();
    agent.join().unwrap();
    assert_eq!(failure.exit, Exit::Timeout);
    assert!(stage.left().is_empty());
}

#[test]
fn no_agent_is_an_exit_of_its_own() {
    let stage = Stage::new();
    assert_eq!(stage.get(&order(None), &stage.copy()).unwrap_err().exit, Exit::AgentUnreachable);
    assert!(stage.left().is_empty());
}

#[test]
fn a_link_is_made_where_it_can_and_a_copy_where_it_cannot() {
    let stage = Stage::new();
    let sealed = stage.content().display().to_string();
    let play = move |sealed: String| {
        move |scene: &mut Scene| {
            assert!(scene.get.link);
            scene.opened("t1");
            scene.ready(CONTENT_BYTES as u64, &[]);
            scene.done(&sealed);
        }
    };
    let agent = stage.agent(vec![play(sealed), play("/nowhere/at/all".to_owned())]);
    let link = Placing::Link { target: stage.target(), overwrite: true };
    stage.get(&order(Some(stage.sha256())), &link).unwrap();
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(stage.target()), inode(stage.content()));
    stage.get(&order(Some(stage.sha256())), &link).unwrap();
    agent.join().unwrap();
    assert_ne!(inode(stage.target()), inode(stage.content()));
    assert_eq!(std::fs::read(stage.target()).unwrap(), stage.bytes);
}

#[test]
fn left_content_is_checked_where_it_lies() {
    let stage = Stage::new();
    let sealed = stage.content().display().to_string();
    let agent = stage.agent(vec![move |scene: &mut Scene| {
        scene.opened("t1");
        scene.ready(1, &[]);
        scene.done(&sealed);
    }]);
    let outcome = stage.get(&order(Some(stage.sha256())), &Placing::Leave).unwrap();
    agent.join().unwrap();
    assert_eq!(outcome.sealed, Some(stage.content()));
    assert!(stage.left().is_empty());
}

#[test]
fn a_download_that_is_stopped_leaves_nothing_with_an_agent() {
    let stage = Stage::new();
    let stop = Stop::default();
    let asked = stop.clone();
    let agent = stage.agent(vec![move |scene: &mut Scene| {
        scene.opened("t1");
        scene.ready(1_000, &[]);
        asked.ask();
        scene.wait_for_the_end();
    }]);
    let failure = get(&Door::at(&stage.socket()), &order(None), &stage.copy(), &mut Silent, &stop).unwrap_err();
    agent.join().unwrap();
    assert_eq!(failure.exit, Exit::Interrupted);
    assert!(stage.left().is_empty());
}
