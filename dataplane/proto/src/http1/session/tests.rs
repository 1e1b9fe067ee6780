//! Cases of request smuggling and response splitting: RFC 9112, section 11, and the bug classes that http-garden lists.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::*;
use crate::ByteRange;
use crate::http1::{ReplyBody, ReplyError, Request};

mod answers;
mod bodies;
mod clocks;
mod framing;
mod splits;

/// Bytes of the content that `/content` stands for; byte i of it is `i % 251`.
const CONTENT_BYTES: u64 = 3_000;

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

fn reply(status: u16, headers: &[(&str, &str)], body: ReplyBody) -> Reply {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Reply::new(status, headers, body).unwrap()
}

fn text(body: &str) -> ReplyBody {
    ReplyBody::Inline(body.as_bytes().to_vec())
}

fn content(range: ByteRange, available: u64) -> ReplyBody {
    ReplyBody::Content { range, total: CONTENT_BYTES, available }
}

fn config() -> SessionConfig {
    SessionConfig { body_bytes_max: 1 << 20, send_bytes_max: 1_000, ..SessionConfig::default() }
}

/// What a shell does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Takes the body, then replies.
    Takes,
    /// Replies at once.
    Ignores,
    /// Says nothing: the test does.
    Waits,
}

/// A connection, and a shell that does at once what it is told.
struct Shell {
    session: HttpSession,
    now: Instant,
    habit: Habit,
    /// What the client received.
    wire: Vec<u8>,
    /// What happened, one line each; bodies joined.
    log: Vec<String>,
    requests: Vec<Request>,
}

impl Shell {
    fn new(habit: Habit) -> Self {
        let session = HttpSession::new(config(), Instant::ZERO);
        Self { session, now: Instant::ZERO, habit, wire: Vec::new(), log: Vec::new(), requests: Vec::new() }
    }

    /// What a shell with `habit` makes of `bytes`, all at once, and of nothing behind them.
    fn run(habit: Habit, bytes: &[u8]) -> Self {
        let mut shell = Self::new(habit);
        shell.bytes(bytes, usize::MAX);
        shell
    }

    fn handle(&mut self, input: SessionInput<'_>) {
        self.session.handle(self.now, input);
        self.settle();
    }

    /// `bytes` in parts of `part`; what the session has no room for is never read.
    fn bytes(&mut self, mut bytes: &[u8], part: usize) {
        while !bytes.is_empty() && self.session.room() > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(part).min(self.session.room()));
            self.handle(SessionInput::Bytes(now));
            bytes = later;
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.session.poll(self.now) {
            self.session.assert_invariants();
            self.obey(output);
        }
        self.session.assert_invariants();
    }

    fn obey(&mut self, output: SessionOutput) {
        match output {
            SessionOutput::Request(request) => {
                self.log.push(format!("{} {}", request.head.method, request.head.target));
                self.requests.push(request.clone());
                match self.habit {
                    Habit::Takes if request.framing == BodyFraming::Empty => self.answer(&request),
                    Habit::Takes => self.session.handle(self.now, SessionInput::TakeBody),
                    Habit::Ignores => self.answer(&request),
                    Habit::Waits => {}
                }
            }
            SessionOutput::Refused(refusal) => self.refuse("refused", refusal),
            SessionOutput::BodyRefused(refusal) => self.refuse("body refused", refusal),
            SessionOutput::Body(bytes) => {
                let bytes: String = bytes.iter().copied().map(char::from).collect();
                match self.log.last_mut().filter(|line| line.starts_with("body:")) {
                    Some(line) => line.push_str(&bytes),
                    None => self.log.push(format!("body:{bytes}")),
                }
                self.session.handle(self.now, SessionInput::BodyTaken);
            }
            SessionOutput::BodyEnd => {
                self.log.push("body end".to_owned());
                let request = self.requests.last().unwrap().clone();
                self.answer(&request);
            }
            SessionOutput::Send { bytes, body } => {
                self.wire.extend_from_slice(&bytes);
                let body = body.unwrap_or_default();
                self.wire.extend((body.start()..body.end()).map(|at| u8::try_from(at % 251).unwrap()));
                self.session.handle(self.now, SessionInput::Sent { body_bytes: body.length() });
            }
            SessionOutput::Answered { content_bytes, is_complete } => {
                self.log.push(format!("answered {content_bytes} {is_complete}"));
            }
            SessionOutput::Abandoned => self.log.push("abandoned".to_owned()),
            SessionOutput::ShutdownWrite => self.log.push("fin".to_owned()),
            SessionOutput::Close => self.log.push("close".to_owned()),
        }
    }

    fn answer(&mut self, request: &Request) {
        let body = if request.head.target == "/content" {
            content(range(0, CONTENT_BYTES), CONTENT_BYTES)
        } else {
            text(&request.head.target)
        };
        self.session.handle(self.now, SessionInput::Reply(reply(200, &[], body)));
    }

    fn refuse(&mut self, what: &str, refusal: Refusal) {
        self.log.push(format!("{what} {refusal:?}"));
        let answer = reply(refusal.status(), &[("Content-Type", "application/json")], text("{}"));
        self.session.handle(self.now, SessionInput::Reply(answer));
    }

    fn wire(&self) -> String {
        self.wire.iter().copied().map(char::from).collect()
    }

    fn is_closed(&self) -> bool {
        self.log.last().is_some_and(|line| line == "close")
    }
}

/// The refusal of `bytes`, with which the connection ends; `None` when they are one request and nothing else.
fn refusal(bytes: &[u8]) -> Option<String> {
    let shell = Shell::run(Habit::Takes, bytes);
    let refused = shell.log.iter().find_map(|line| line.split_once("refused ").map(|(_, refusal)| refusal.to_owned()));
    if refused.is_some() {
        assert_eq!(shell.log.last().map(String::as_str), Some("fin"), "{:?}", shell.log);
        assert!(shell.wire().contains("\r\nConnection: close\r\n"));
    } else {
        assert_eq!(shell.requests.len(), 1, "{:?}", shell.log);
    }
    refused
}

fn assert_refused(cases: &[(&str, &str, Refusal)]) {
    for (name, bytes, expected) in cases {
        assert_eq!(refusal(bytes.as_bytes()), Some(format!("{expected:?}")), "{name}: {bytes:?}");
    }
}

fn assert_taken(cases: &[(&str, &str)]) {
    for (name, bytes) in cases {
        assert_eq!(refusal(bytes.as_bytes()), None, "{name}: {bytes:?}");
    }
}
