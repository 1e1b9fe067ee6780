//! One request of an HTTP client, as the code that answers it sees it. Its bytes move on a shard; here is what to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::http1::{Refusal, Reply, ReplyBody, Request};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::seam::{
    BodyPart, HTTP_STREAM_BYTES_MAX, HttpAction, HttpCommand, HttpContent, HttpId, HttpRequest, Sent, ShardCommand,
    ShardHandle,
};
use crate::share::SharedTask;

/// Bytes of one push to a shard: a large one is cut, so that the first of them leave early.
const PUSH_BYTES_MAX: usize = 256 * 1024;

/// One request. Dropped without an answer it is answered 500, and its connection ends.
#[derive(Debug)]
pub(crate) struct Exchange {
    line: Line,
    from: SocketAddr,
    request: Request,
    body: Option<mpsc::Receiver<BodyPart>>,
    /// A part of the body was given out, and the shard waits for word that it is dealt with.
    is_lent: bool,
    is_body_asked: bool,
    is_answered: bool,
    keep: Option<Duration>,
    end: End,
}

/// Why no more of a request's body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is broken or too long: undo what was done with it, and answer with [`Refusal::status`].
    Refused(Refusal),
    /// The client is gone.
    Gone,
}

/// The client is gone, or was told that no more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl Exchange {
    /// The exchange of a request that `shard` read.
    pub(crate) fn new(shard: ShardHandle, asked: HttpRequest) -> Self {
        let HttpRequest { id, from, request, body, end } = asked;
        let line = Line { shard, id };
        Self {
            line,
            from,
            request: *request,
            body,
            is_lent: false,
            is_body_asked: false,
            is_answered: false,
            keep: None,
            end: End::Open(end),
        }
    }

    /// What is asked for.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// The client's address.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// The next bytes of the request's body, `None` at its end. The first call asks the client for them; the next ones
    /// say that the bytes before are dealt with.
    ///
    /// # Errors
    /// See [`BodyError`]. Nothing more comes then.
    pub(crate) async fn body(&mut self) -> Result<Option<Vec<u8>>, BodyError> {
        let Some(parts) = &mut self.body else { return Ok(None) };
        if !self.is_body_asked {
            self.line.say(HttpAction::TakeBody).await;
            self.is_body_asked = true;
        } else if self.is_lent {
            self.line.say(HttpAction::BodyTaken).await;
            self.is_lent = false;
        }
        match parts.recv().await {
            Some(BodyPart::Bytes(bytes)) => {
                self.is_lent = true;
                Ok(Some(bytes))
            }
            Some(BodyPart::End) => {
                self.body = None;
                Ok(None)
            }
            Some(BodyPart::Refused(refusal)) => Err(BodyError::Refused(refusal)),
            None => Err(BodyError::Gone),
        }
    }

    /// Resolves when the client is gone; then no answer reaches anybody.
    pub(crate) async fn gone(&mut self) {
        self.end.wait().await;
    }

    /// Lets the shard give the answer that follows again by itself, for so long, to whoever asks for the same target with
    /// the same Host, Authorization and Accept, by GET or HEAD. It does so with a 200 of at most 64 KiB in memory, or with
    /// all or a part of a task that is whole and that its ETag alone tells from others; control hears nothing of it, and
    /// nobody can take it back before, but by no longer sharing the task.
    pub(crate) fn keep(&mut self, keep: Duration) {
        self.keep = Some(keep);
    }

    /// Answers with what the reply carries in memory; returns when that is out or the client is gone.
    ///
    /// # Panics
    /// When the reply's body is a content: see [`Self::reply_task`] and [`Self::reply_stream`].
    pub(crate) async fn reply(mut self, reply: Reply) -> Sent {
        assert!(matches!(reply.body(), ReplyBody::Inline(_)), "a content needs somebody who has it");
        self.answer(reply, HttpContent::Inline).await;
        self.end.wait().await
    }

    /// Answers with a content that is `task`'s bytes: the shard sends pieces as they arrive, straight from the store, and
    /// keeps the task from eviction meanwhile. `available` of the reply counts for nothing.
    ///
    /// # Panics
    /// When the reply's content has another length than the task.
    pub(crate) async fn reply_task(mut self, reply: Reply, task: Arc<SharedTask>) -> TaskReply {
        if let ReplyBody::Content { total, .. } = reply.body() {
            assert_eq!(*total, task.geometry().length(), "the reply is of another content");
        }
        self.answer(reply, HttpContent::Task(task)).await;
        TaskReply(self.promise())
    }

    /// Answers with a content whose bytes, in the reply's range, come from [`StreamReply::push`].
    pub(crate) async fn reply_stream(mut self, reply: Reply) -> StreamReply {
        let left = reply.length();
        let window = Arc::new(Semaphore::new(HTTP_STREAM_BYTES_MAX));
        self.answer(reply, HttpContent::Stream(Arc::clone(&window))).await;
        StreamReply { promise: self.promise(), window, left }
    }

    async fn answer(&mut self, reply: Reply, content: HttpContent) {
        self.is_answered = true;
        let keep = self.keep;
        self.line.say(HttpAction::Reply { reply: Box::new(reply), content, keep }).await;
    }

    fn promise(&mut self) -> Promise {
        let end = std::mem::replace(&mut self.end, End::Over(Sent::default()));
        Promise { line: self.line.clone(), end }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_answered && !self.end.is_over() {
            self.line.say_soon(HttpAction::Fail);
        }
    }
}

/// An answer whose bytes are a task's. Dropped before its end it ends behind the bytes that are stored then.
#[derive(Debug)]
pub(crate) struct TaskReply(Promise);

impl TaskReply {
    /// Resolves when the answer is over, whole or not.
    pub(crate) async fn sent(&mut self) -> Sent {
        self.0.end.wait().await
    }

    /// The download failed: the answer ends behind the stored bytes before offset `upto` of the task; `u64::MAX` for all
    /// that are stored.
    pub(crate) fn lost(&self, upto: u64) {
        self.0.line.say_soon(HttpAction::Lost { upto });
    }
}

/// An answer whose bytes control brings. Dropped before its last byte it ends short, which the client sees.
#[derive(Debug)]
pub(crate) struct StreamReply {
    promise: Promise,
    /// Bytes that may still be on their way.
    window: Arc<Semaphore>,
    /// Bytes of the answer that were not pushed yet.
    left: u64,
}

impl StreamReply {
    /// Sends the next bytes; waits while 1 MiB is on its way. Bytes beyond the answer's length are thrown away.
    ///
    /// # Errors
    /// The client is gone: whatever brings the bytes may stop.
    pub(crate) async fn push(&mut self, mut bytes: Vec<u8>) -> Result<(), Gone> {
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        while !bytes.is_empty() {
            let rest = bytes.split_off(bytes.len().min(PUSH_BYTES_MAX));
            let count = u32::try_from(bytes.len()).expect("cut before");
            // Closed when the answer is over; what leaves the shard comes back as permits.
            self.window.acquire_many(count).await.map_err(|_| Gone)?.forget();
            self.left -= u64::from(count);
            self.promise.line.say(HttpAction::Push(bytes)).await;
            bytes = rest;
        }
        Ok(())
    }

    /// No more bytes will come: the answer ends behind those that were pushed.
    pub(crate) fn lost(&mut self) {
        self.left = 0;
        self.promise.line.say_soon(HttpAction::Lost { upto: u64::MAX });
    }

    /// Resolves when the answer is over, whole or not. Call it behind the last push, or when the client may be gone.
    pub(crate) async fn sent(&mut self) -> Sent {
        self.promise.end.wait().await
    }
}

/// Ends an answer that nobody stands behind any more.
#[derive(Debug)]
struct Promise {
    line: Line,
    end: End,
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.end.is_over() {
            self.line.say_soon(HttpAction::Lost { upto: u64::MAX });
        }
    }
}

/// How an answer ends.
#[derive(Debug)]
enum End {
    Open(oneshot::Receiver<Sent>),
    Over(Sent),
}

impl End {
    /// Safe to cancel and to call again.
    async fn wait(&mut self) -> Sent {
        match self {
            Self::Over(sent) => *sent,
            Self::Open(receiver) => {
                // A shard that has ended sends nothing more.
                let sent = receiver.await.unwrap_or_default();
                *self = Self::Over(sent);
                sent
            }
        }
    }

    fn is_over(&mut self) -> bool {
        match self {
            Self::Over(_) => true,
            Self::Open(receiver) => match receiver.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => false,
                result => {
                    *self = Self::Over(result.unwrap_or_default());
                    true
                }
            },
        }
    }
}

/// To the shard that has the connection.
#[derive(Clone, Debug)]
struct Line {
    shard: ShardHandle,
    id: HttpId,
}

impl Line {
    async fn say(&self, action: HttpAction) {
        // A shard that has ended has closed the connection.
        self.shard.send(ShardCommand::Http(HttpCommand { id: self.id, action })).await;
    }

    fn say_soon(&self, action: HttpAction) {
        self.shard.send_soon(ShardCommand::Http(HttpCommand { id: self.id, action }));
    }
}
