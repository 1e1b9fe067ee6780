//! One request and what control says about it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::http1::{BodyFraming, Reply, ReplyBody, Request, SessionInput};
use hawker_proto::{ByteRange, PieceIndex};
use hawker_storage::Pin;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Shard;
use super::kept::Question;
use crate::seam::{BodyPart, HttpAction, HttpCommand, HttpContent, HttpId, HttpRequest, Sent};
use crate::share::SharedTask;

/// Parts of a body that wait for control: the next bytes come only when the last are dealt with, then an end.
const BODY_PARTS_MAX: usize = 4;

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Exchange {
    number: u64,
    /// Bytes that are none are answered, too.
    is_request: bool,
    is_head_request: bool,
    is_answered: bool,
    /// What an answer that is kept would be kept under.
    question: Option<Question>,
    pub(super) body: Option<mpsc::Sender<BodyPart>>,
    end: Option<oneshot::Sender<Sent>>,
    pub(super) content: Content,
    /// Bytes of an answer in memory.
    inline_bytes: u64,
    /// Bytes of the content that went out.
    content_bytes: u64,
}

/// Where the answer's bytes come from.
#[derive(Debug)]
pub(super) enum Content {
    Inline,
    Task(TaskContent),
    Stream(StreamContent),
}

/// A task whose bytes are sent.
#[derive(Debug)]
pub(super) struct TaskContent {
    pub(super) task: Arc<SharedTask>,
    /// Keeps it from eviction while it is sent.
    _pin: Pin,
    /// What is not sent yet.
    pub(super) rest: ByteRange,
    /// The bytes up to here are stored, as far as was looked.
    pub(super) stored_until: u64,
    /// Nothing comes that is not stored.
    pub(super) is_lost: bool,
    /// The piece that it waits for.
    pub(super) lacked: Option<PieceIndex>,
}

/// Bytes that control brings.
#[derive(Debug)]
pub(super) struct StreamContent {
    pub(super) chunks: VecDeque<Vec<u8>>,
    /// Up to here they are here.
    upto: u64,
    window: Arc<Semaphore>,
}

impl Exchange {
    /// Nobody was asked: the shard answers itself.
    pub(super) fn unasked(number: u64) -> Self {
        Self {
            number,
            is_request: false,
            is_head_request: false,
            is_answered: false,
            question: None,
            body: None,
            end: None,
            content: Content::Inline,
            inline_bytes: 0,
            content_bytes: 0,
        }
    }

    pub(super) fn tell(&mut self, part: BodyPart) {
        // Control may have lost interest, and answers without the rest.
        let _ = self.body.as_ref().map(|body| body.try_send(part));
    }

    pub(super) fn answer(&mut self, reply: &Reply) {
        self.is_answered = true;
        self.body = None;
        if let ReplyBody::Inline(bytes) = reply.body() {
            self.inline_bytes = if self.is_head_request { 0 } else { bytes.len() as u64 };
        }
    }

    /// `bytes` of the content went out.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.content_bytes += bytes;
        match &mut self.content {
            Content::Inline => {}
            Content::Task(content) => {
                let start = content.rest.start().saturating_add(bytes).min(content.rest.end());
                content.rest = ByteRange::new(start, content.rest.end()).unwrap_or_default();
            }
            Content::Stream(content) => content.window.add_permits(usize::try_from(bytes).unwrap_or(0)),
        }
    }

    fn end(self, is_complete: bool) {
        if let Content::Stream(content) = &self.content {
            content.window.close();
        }
        let inline_bytes = if is_complete { self.inline_bytes } else { 0 };
        let sent = Sent { content_bytes: self.content_bytes + inline_bytes, is_complete };
        // Whoever hears of the end may count on it that the task is let go.
        drop(self.content);
        // Whoever answered may not care.
        let _ = self.end.map(|end| end.send(sent));
    }
}

impl Shard {
    /// Hands a request to control.
    pub(super) fn begin_exchange(&mut self, id: u64, request: Request) {
        let (now, shard) = (self.now, self.index);
        let Some(connection) = self.http.get(id) else { return };
        connection.requests += 1;
        let number = connection.requests;
        let is_head_request = request.head.method == "HEAD";
        let question = Question::of(&request);
        self.counters.http_requests.add(1);
        let known = question.as_ref().and_then(|question| self.http.kept.find(now, question, &request.head));
        let Some(connection) = self.http.get(id) else { return };
        if let Some((reply, task)) = known {
            connection.exchange = Some(Exchange { is_request: true, is_head_request, ..Exchange::unasked(number) });
            self.counters.http_kept.add(1);
            let content = task.map_or(HttpContent::Inline, HttpContent::Task);
            return self.send_reply(id, reply, content, true);
        }
        let (end, ended) = oneshot::channel();
        let (body, parts) = match request.framing {
            BodyFraming::Empty | BodyFraming::Length(0) => (None, None),
            _ => {
                let (sender, parts) = mpsc::channel(BODY_PARTS_MAX);
                (Some(sender), Some(parts))
            }
        };
        connection.exchange = Some(Exchange {
            is_request: true,
            is_head_request,
            question,
            body,
            end: Some(end),
            ..Exchange::unasked(number)
        });
        let (from, request) = (connection.from, Box::new(request));
        let id = HttpId { shard, connection: id, request: number };
        self.http.requests.push(HttpRequest { id, from, request, body: parts, end: ended });
    }

    /// The request is over, answered or not.
    pub(super) fn end_exchange(&mut self, id: u64, is_complete: bool) {
        let now = self.now;
        let Some(exchange) = self.http.get(id).and_then(|connection| connection.forget_exchange(now)) else { return };
        if exchange.is_request {
            self.counters.http_requests.add(u64::MAX);
        }
        if let Content::Task(content) = &exchange.content {
            let task = content.task.id();
            self.forget_reader(task, id);
        }
        exchange.end(is_complete);
    }

    /// What control says about a request, if that is not over.
    pub(in crate::shard) fn on_http_command(&mut self, command: HttpCommand) {
        let HttpCommand { id: HttpId { connection: id, request, .. }, action } = command;
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        let Some(exchange) = connection.exchange.as_mut().filter(|exchange| exchange.number == request) else { return };
        match action {
            HttpAction::TakeBody => connection.session.handle(now, SessionInput::TakeBody),
            HttpAction::BodyTaken => connection.session.handle(now, SessionInput::BodyTaken),
            HttpAction::Reply { .. } | HttpAction::Fail if exchange.is_answered => return,
            HttpAction::Reply { reply, content, keep } => self.on_reply(id, *reply, content, keep),
            HttpAction::Push(bytes) => {
                let Content::Stream(content) = &mut exchange.content else { return };
                content.upto += bytes.len() as u64;
                content.chunks.push_back(bytes);
                let upto = content.upto;
                connection.session.handle(now, SessionInput::Available { upto });
            }
            HttpAction::Lost { upto } => self.on_content_lost(id, upto),
            HttpAction::Fail => {
                connection.session.handle(now, SessionInput::Finish);
                self.reply_text(id, 500, "this request was given up; the agent's log says more\n");
            }
        }
        self.drive_http(id);
    }

    fn on_reply(&mut self, id: u64, reply: Reply, content: HttpContent, keep: Option<Duration>) {
        let now = self.now;
        let Some(exchange) = self.http.get(id).and_then(|connection| connection.exchange.as_mut()) else { return };
        if let Some((question, keep)) = exchange.question.take().zip(keep) {
            let (is_kept, task) = match &content {
                HttpContent::Inline => (true, None),
                HttpContent::Task(task) => (true, Some(task)),
                HttpContent::Stream(_) => (false, None),
            };
            if is_kept {
                self.http.kept.keep(now, question, &reply, task, keep);
            }
        }
        self.send_reply(id, reply, content, false);
    }

    /// Sends an answer. `is_all_here`: what is not stored now will not come.
    fn send_reply(&mut self, id: u64, reply: Reply, content: HttpContent, is_all_here: bool) {
        let Some(exchange) = self.http.get(id).and_then(|connection| connection.exchange.as_mut()) else { return };
        let rest = match reply.body() {
            ReplyBody::Content { range, .. } => *range,
            ReplyBody::Inline(_) => ByteRange::default(),
        };
        match content {
            HttpContent::Inline => {}
            HttpContent::Task(task) => {
                let (pin, name) = (task.file().pin(), task.id());
                let content =
                    TaskContent { task, _pin: pin, rest, stored_until: 0, is_lost: is_all_here, lacked: None };
                exchange.content = Content::Task(content);
                self.add_reader(name, id);
            }
            HttpContent::Stream(window) => {
                let (chunks, upto) = (VecDeque::new(), rest.start());
                exchange.content = Content::Stream(StreamContent { chunks, upto, window });
            }
        }
        self.reply_http(id, reply);
        self.note_available(id);
        self.note_reader(id);
    }

    /// No more of the content comes than is here below `upto`.
    fn on_content_lost(&mut self, id: u64, upto: u64) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        let Some(exchange) = &mut connection.exchange else { return };
        let upto = match &mut exchange.content {
            Content::Inline => return,
            Content::Stream(content) => content.upto.min(upto),
            Content::Task(content) => {
                content.is_lost = true;
                content.stored_until(content.rest.end()).min(upto)
            }
        };
        connection.session.handle(now, SessionInput::Available { upto });
        connection.session.handle(now, SessionInput::ContentLost { upto });
        // What is held back for a piece is asked again, and ends.
        self.renew_held(id);
    }
}
