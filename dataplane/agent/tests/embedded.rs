//! A whole agent, alone, against origins of every temper, through its local API.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hawker_agent::Agent;
use hawker_agent::config::AgentConfig;
use hawker_agent::embedded::embedded_config;
use hawker_api::frame;
use hawker_api::local::{self, Event, Request, event, request};
use hawker_ring::EngineChoice;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const MIB: usize = 1024 * 1024;

/// How an origin behaves.
#[derive(Clone, Copy, PartialEq)]
enum Temper {
    Ranges,
    /// Answers every request with the whole.
    Whole,
    /// ... and does not say how long it is.
    Chunked,
    /// Hangs up in the middle of every second answer.
    Breaks,
    Gone,
}

struct Origin {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    fn start(content: Vec<u8>, temper: Temper) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (served, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, log, content) = (Arc::clone(&served), Arc::clone(&requests), Arc::new(content));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (count, log, content) = (Arc::clone(&count), Arc::clone(&log), Arc::clone(&content));
                std::thread::spawn(move || answer(stream, &content, temper, &count, &log));
            }
        });
        Self { address, served, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/file.bin?q=1", self.address)
    }
}

fn answer(mut stream: TcpStream, content: &[u8], temper: Temper, served: &AtomicU64, log: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let range = head.split_once("range: bytes=").filter(|_| matches!(temper, Temper::Ranges | Temper::Breaks));
    let range = range.and_then(|(_, rest)| rest.split_once("\r\n")).and_then(|(range, _)| range.split_once('-'));
    let range = range.map(|(start, last)| {
        let (start, last) = (start.parse::<usize>().unwrap(), last.parse::<usize>().unwrap());
        (start, (last + 1).min(content.len()))
    });
    let number = {
        let mut log = log.lock().unwrap();
        log.push(head);
        log.len()
    };
    let fields = "etag: \"e1\"\r\nconnection: close\r\n";
    let (status, body) = match range {
        _ if temper == Temper::Gone => ("404 No\r\ncontent-length: 0".to_owned(), &[][..]),
        Some((start, _)) if start >= content.len() => {
            (format!("416 No\r\ncontent-length: 0\r\ncontent-range: bytes */{}", content.len()), &[][..])
        }
        Some((start, end)) => {
            let total = content.len();
            let fields = format!("content-range: bytes {start}-{}/{total}\r\ncontent-length: {}", end - 1, end - start);
            (format!("206 Some\r\n{fields}"), &content[start..end])
        }
        None if temper == Temper::Chunked => ("200 Yes\r\ntransfer-encoding: chunked".to_owned(), content),
        None => (format!("200 Yes\r\ncontent-length: {}", content.len()), content),
    };
    let body = if temper == Temper::Breaks && number % 2 == 0 { &body[..body.len() / 2] } else { body };
    let mut send = |bytes: &[u8]| stream.write_all(bytes).is_ok();
    if !send(format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes()) {
        return;
    }
    for part in body.chunks(64 * 1024) {
        let is_sent = if temper == Temper::Chunked {
            send(format!("{:x}\r\n", part.len()).as_bytes()) && send(part) && send(b"\r\n")
        } else {
            send(part)
        };
        if !is_sent {
            return;
        }
        served.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    if temper == Temper::Chunked {
        send(b"0\r\n\r\n");
    }
}

/// A command line of one get.
struct Caller {
    stream: UnixStream,
    buffer: Vec<u8>,
    content: Option<File>,
}

impl Caller {
    fn get(agent: &Agent, url: &str, change: impl FnOnce(&mut local::Get)) -> Self {
        let mut get = local::Get { url: url.to_owned(), ..Default::default() };
        change(&mut get);
        let mut bytes = Vec::new();
        frame::encode(&Request { request: Some(request::Request::Get(get)) }, &mut bytes).unwrap();
        let mut stream = agent.connect().unwrap();
        stream.write_all(&bytes).unwrap();
        Self { stream, buffer: Vec::new(), content: None }
    }

    fn next(&mut self) -> event::Event {
        loop {
            if let Some((event, taken)) = frame::decode::<Event>(&self.buffer).unwrap() {
                self.buffer.drain(..taken);
                return event.event.unwrap();
            }
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let slices = &mut [IoSliceMut::new(&mut bytes)];
            let got = recvmsg(self.stream.as_fd(), slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
            assert!(got.bytes > 0, "the agent hung up");
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.content = fds.last().map(|fd: OwnedFd| File::from(fd));
                }
            }
            self.buffer.extend_from_slice(&bytes[..got.bytes]);
        }
    }

    /// Waits for the end; checks on the way that what is said to be ready is right.
    fn finish(mut self, content: &[u8]) -> Result<local::Done, local::Error> {
        loop {
            match self.next() {
                event::Event::Opened(opened) => {
                    assert_eq!(opened.length, content.len() as u64);
                    assert!(self.content.as_ref().unwrap().write_at(b"x", 0).is_err(), "content is read-only");
                }
                event::Event::Progress(progress) => {
                    for range in progress.ready {
                        self.check(content, range.start, range.end);
                    }
                }
                event::Event::Done(done) => {
                    self.check(content, 0, content.len() as u64);
                    assert_eq!(done.digest, format!("blake3:{}", hawker_proto::hash::root_of_bytes(content)));
                    return Ok(done);
                }
                event::Event::Error(error) => return Err(error),
                other => panic!("{other:?}"),
            }
        }
    }

    fn check(&self, content: &[u8], start: u64, end: u64) {
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        let mut bytes = vec![0; range.len()];
        self.content.as_ref().unwrap().read_exact_at(&mut bytes, start).unwrap();
        assert!(bytes == content[range], "[{start}, {end}) is wrong");
    }
}

fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn start(part: &Path, engine: EngineChoice) -> Agent {
    Agent::start(AgentConfig { engine, ..embedded_config(part) }).unwrap()
}

/// Runs `test` on both engines where the host has both.
fn on_both_engines(test: impl Fn(EngineChoice)) {
    test(EngineChoice::Epoll);
    if hawker_ring::detect(EngineChoice::Uring).is_ok() {
        test(EngineChoice::Uring);
    } else {
        eprintln!("skipped on uring: this host has none");
    }
}

#[test]
fn file_in_ranges_arrives_whole_and_once() {
    on_both_engines(|engine| {
        let dir = tempfile::tempdir().unwrap();
        let content = content(40 * MIB + 1);
        let origin = Origin::start(content.clone(), Temper::Ranges);
        let agent = start(&dir.path().join("part"), engine);
        let done = Caller::get(&agent, &origin.url(), |_| ()).finish(&content).unwrap();
        assert_eq!((done.origin_bytes, done.cache_bytes), (content.len() as u64, 0));
        assert_eq!(origin.served.load(Ordering::Relaxed), content.len() as u64, "no byte twice");
        agent.stop();
    });
}

#[test]
fn origin_without_ranges_or_without_a_length_serves_too() {
    on_both_engines(|engine| {
        for (temper, length) in [
            (Temper::Whole, 5 * MIB + 3),
            (Temper::Chunked, 5 * MIB + 3),
            (Temper::Chunked, 100),
            (Temper::Ranges, 1),
            (Temper::Ranges, 256 * 1024),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let content = content(length);
            let origin = Origin::start(content.clone(), temper);
            let agent = start(&dir.path().join("part"), engine);
            Caller::get(&agent, &origin.url(), |_| ()).finish(&content).unwrap();
            assert_eq!(origin.requests.lock().unwrap().len(), 1, "one GET");
            agent.stop();
        }
    });
}

#[test]
fn empty_content_is_content() {
    for temper in [Temper::Ranges, Temper::Whole, Temper::Chunked] {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::start(Vec::new(), temper);
        let agent = start(&dir.path().join("part"), EngineChoice::Auto);
        Caller::get(&agent, &origin.url(), |_| ()).finish(&[]).unwrap();
        agent.stop();
    }
}

#[test]
fn origin_that_breaks_is_asked_for_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(20 * MIB);
    let origin = Origin::start(content.clone(), Temper::Breaks);
    let agent = start(&dir.path().join("part"), EngineChoice::Auto);
    Caller::get(&agent, &origin.url(), |_| ()).finish(&content).unwrap();
    agent.stop();
}

#[test]
fn refusal_reaches_the_caller_with_its_exit_code_and_without_the_query() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(Vec::new(), Temper::Gone);
    let agent = start(&dir.path().join("part"), EngineChoice::Auto);
    let error = Caller::get(&agent, &origin.url(), |_| ()).finish(&[]).unwrap_err();
    assert_eq!(error.code, 3);
    assert!(error.message.contains("404") && !error.message.contains("q=1"), "{}", error.message);
    let error = Caller::get(&agent, "ftp://x/y", |_| ()).finish(&[]).unwrap_err();
    assert_eq!(error.code, 2);
    agent.stop();
}

#[test]
fn wrong_blake3_is_a_mismatch() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(1000);
    let origin = Origin::start(content.clone(), Temper::Ranges);
    let agent = start(&dir.path().join("part"), EngineChoice::Auto);
    let wrong = |get: &mut local::Get| get.digest = format!("blake3:{}", "0".repeat(64));
    assert_eq!(Caller::get(&agent, &origin.url(), wrong).finish(&content).unwrap_err().code, 4);
    agent.stop();
}

#[test]
fn callers_of_one_url_share_one_download() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(12 * MIB);
    let origin = Origin::start(content.clone(), Temper::Ranges);
    let agent = start(&dir.path().join("part"), EngineChoice::Auto);
    let callers: Vec<Caller> = (0..4).map(|_| Caller::get(&agent, &origin.url(), |_| ())).collect();
    for caller in callers {
        caller.finish(&content).unwrap();
    }
    assert_eq!(origin.served.load(Ordering::Relaxed), content.len() as u64);
    let again = Caller::get(&agent, &origin.url(), |_| ()).finish(&content).unwrap();
    assert_eq!((again.origin_bytes, again.cache_bytes), (0, content.len() as u64));
    agent.stop();
}

#[test]
fn next_agent_on_the_same_directory_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("part");
    let content = content(24 * MIB);
    let origin = Origin::start(content.clone(), Temper::Ranges);
    // Slow enough to be interrupted: 20 MB/s and a second to look.
    let limited = |get: &mut local::Get| get.limit_bytes_per_s = 20_000_000;
    let agent = start(&part, EngineChoice::Auto);
    let mut caller = Caller::get(&agent, &origin.url(), limited);
    let half = content.len() as u64 / 2;
    loop {
        if let event::Event::Progress(progress) = caller.next()
            && progress.bytes_done >= half
        {
            break;
        }
    }
    drop(agent);
    let agent = start(&part, EngineChoice::Auto);
    let done = Caller::get(&agent, &origin.url(), |_| ()).finish(&content).unwrap();
    assert!(done.cache_bytes >= half, "{} of {half} bytes were kept", done.cache_bytes);
    agent.stop();
}

#[test]
fn timeout_is_said_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(8 * MIB);
    let origin = Origin::start(content.clone(), Temper::Ranges);
    let agent = start(&dir.path().join("part"), EngineChoice::Auto);
    let slow = |get: &mut local::Get| (get.limit_bytes_per_s, get.timeout_ms) = (1_000_000, 300);
    assert_eq!(Caller::get(&agent, &origin.url(), slow).finish(&content).unwrap_err().code, 6);
    agent.stop();
}
