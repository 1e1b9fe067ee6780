//! A client's bytes: the conversation is the same however they are cut, and ends. The first byte says what the shell does
//! with requests, the second how the bytes are cut; the rest comes over the wire.
#![no_main]

use hawker_proto::Instant;
use hawker_proto::http1::{
    BodyFraming, Content, HttpSession, Reply, ReplyBody, Request, SessionConfig, SessionInput, SessionOutput, select,
};
use libfuzzer_sys::fuzz_target;

const CONTENT: Content<'static> = Content { length: 100_000, etag: Some("\"a\""), last_modified: Some(784_111_777) };
const SENT_AT_ONCE: u64 = 7_000;

/// What a shell that does at once what it is told sees, one line each, and how many bytes went out.
struct Shell {
    session: HttpSession,
    takes_bodies: bool,
    loses_content: bool,
    log: Vec<String>,
    sent_bytes: u64,
}

impl Shell {
    fn new(habit: u8) -> Self {
        let config = SessionConfig { body_bytes_max: 1 << 20, ..SessionConfig::default() };
        let session = HttpSession::new(config, Instant::ZERO);
        Self { session, takes_bodies: habit & 1 != 0, loses_content: habit & 2 != 0, log: Vec::new(), sent_bytes: 0 }
    }

    fn handle(&mut self, input: SessionInput<'_>) {
        self.session.handle(Instant::ZERO, input);
    }

    fn bytes(&mut self, mut bytes: &[u8], part: usize) {
        while !bytes.is_empty() && self.session.room() > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(part).min(self.session.room()));
            self.handle(SessionInput::Bytes(now));
            self.settle();
            bytes = later;
        }
    }

    fn settle(&mut self) {
        while let Some(output) = self.session.poll(Instant::ZERO) {
            self.session.assert_invariants();
            self.obey(output);
        }
    }

    fn obey(&mut self, output: SessionOutput) {
        match output {
            SessionOutput::Request(request) => {
                self.log.push(format!("{request:?}"));
                if self.takes_bodies && request.framing != BodyFraming::Empty {
                    self.handle(SessionInput::TakeBody);
                } else {
                    self.answer(&request);
                }
            }
            SessionOutput::Refused(refusal) | SessionOutput::BodyRefused(refusal) => {
                self.log.push(format!("{refusal:?}"));
                self.reply(refusal.status(), ReplyBody::Inline(b"{}".to_vec()));
            }
            SessionOutput::Body(bytes) => {
                match self.log.last_mut().filter(|line| line.starts_with("body")) {
                    Some(line) => line.extend(bytes.iter().copied().map(char::from)),
                    None => self.log.push(format!("body{}", bytes.iter().copied().map(char::from).collect::<String>())),
                }
                self.handle(SessionInput::BodyTaken);
            }
            SessionOutput::BodyEnd => {
                self.log.push("end".to_owned());
                self.reply(201, ReplyBody::Inline(Vec::new()));
            }
            SessionOutput::Send { bytes, body } => {
                let body_bytes = body.map_or(0, |body| body.length().min(SENT_AT_ONCE));
                self.sent_bytes += bytes.len() as u64 + body_bytes;
                if self.loses_content {
                    self.handle(SessionInput::ContentLost { upto: 40_000 });
                }
                self.handle(SessionInput::Sent { body_bytes });
            }
            other => self.log.push(format!("{other:?}")),
        }
    }

    fn answer(&mut self, request: &Request) {
        let selection = select(&request.head, &CONTENT);
        let reply = Reply::selected(selection, CONTENT.length, u64::MAX, Vec::new(), b"{}".to_vec());
        self.handle(SessionInput::Reply(reply.expect("a selection is of its content")));
    }

    fn reply(&mut self, status: u16, body: ReplyBody) {
        let reply = Reply::new(status, Vec::new(), body).expect("an answer of ours");
        self.handle(SessionInput::Reply(reply));
    }
}

/// The whole conversation of a client that sends `bytes` and then ends its side.
fn conversation(habit: u8, bytes: &[u8], part: usize) -> (Vec<String>, u64) {
    let mut shell = Shell::new(habit);
    shell.bytes(bytes, part);
    shell.handle(SessionInput::Eof);
    shell.settle();
    assert_eq!(shell.log.last().map(String::as_str), Some("Close"), "it ends with its client");
    assert!(shell.session.deadline().is_none() && shell.session.room() == 0);
    (shell.log, shell.sent_bytes)
}

fuzz_target!(|input: &[u8]| {
    let [habit, part, bytes @ ..] = input else { return };
    let whole = conversation(*habit, bytes, usize::MAX);
    assert_eq!(conversation(*habit, bytes, usize::from(*part) + 1), whole);
});
