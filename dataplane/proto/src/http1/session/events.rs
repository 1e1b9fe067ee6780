//! What goes into a session and what comes out.

use alloc::vec::Vec;
use core::time::Duration;

use crate::ByteRange;
use crate::http1::{Refusal, Reply, Request};

/// The limits of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// From accept to the first byte.
    pub first_byte_limit: Duration,
    /// From the first byte of a head to its last. Any client of ours sends a head at once.
    pub head_limit: Duration,
    /// From the end of an answer to the next byte. Longer than the 90 s after which Go's default transport drops an
    /// idle connection, so that the client is who ends it and no request meets a socket that closes.
    pub idle_limit: Duration,
    /// A request body that is waited for brings `body_window_bytes` in every such time, or all that was left.
    pub body_window: Duration,
    /// See `body_window`.
    pub body_window_bytes: u64,
    /// Bytes of a request body, at most.
    pub body_bytes_max: u64,
    /// Bytes of a body that nobody wanted which are read to keep the connection; more, and it ends behind the answer.
    pub drain_bytes_max: u64,
    /// A `Send` of nothing is done within this.
    pub send_limit: Duration,
    /// And longer by as much as its bytes take at this rate.
    pub send_bytes_per_s_min: u64,
    /// Content bytes of one `Send`, at most.
    pub send_bytes_max: u64,
    /// From the end of our side to the end of theirs.
    pub linger_limit: Duration,
    /// Bytes that are read and thrown away at the end of a connection, at most.
    pub linger_bytes_max: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            first_byte_limit: Duration::from_secs(10),
            head_limit: Duration::from_secs(10),
            idle_limit: Duration::from_secs(95),
            body_window: Duration::from_secs(10),
            body_window_bytes: 10 << 10,
            // Larger than any image layer seen; a push streams through and is stored nowhere.
            body_bytes_max: 64 << 30,
            drain_bytes_max: 64 << 10,
            send_limit: Duration::from_secs(30),
            send_bytes_per_s_min: 8 << 10,
            // One sendfile on a shard: ARCHITECTURE, "Serve".
            send_bytes_max: 1 << 20,
            // nginx's lingering_timeout.
            linger_limit: Duration::from_secs(5),
            linger_bytes_max: 1 << 20,
        }
    }
}

/// What happened. What makes no sense at its time changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionInput<'a> {
    /// Bytes came: at most `HttpSession::room` of them. A shell that brings more loses the session.
    Bytes(&'a [u8]),
    /// The client will send no more. It may still read.
    Eof,
    /// The socket is broken, to read or to write.
    Failed,
    /// The request's body is wanted: it comes as `Body`s and a `BodyEnd`, and the client that waits for a 100 gets it.
    TakeBody,
    /// The last `Body` is dealt with. Until then the next one waits, and the client with it.
    BodyTaken,
    /// The answer to the last `Request` or `Refused`. Before the body's end it means that no more of it is wanted.
    Reply(Reply),
    /// The content's bytes up to offset `upto` are here, from where the answer's range begins.
    Available {
        /// Offset in the content.
        upto: u64,
    },
    /// The content's bytes before offset `upto` are right, as far as they are here, and no other will come: the answer
    /// ends behind them, short of its length, which the client sees.
    ContentLost {
        /// Offset in the content.
        upto: u64,
    },
    /// The last `Send` is done: all its `bytes`, and so many bytes of its range, from its start. Fewer than asked for,
    /// and the rest is asked for again with new time: a shell that held the client back (a rate limit) says so this way.
    Sent {
        /// Bytes of the content.
        body_bytes: u64,
    },
    /// Take no further request: the process stops.
    Finish,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOutput {
    /// A request: reply to it. The next one comes when its answer is sent and its body read.
    Request(Request),
    /// Bytes that are no request we take: reply with `Refusal::status` and a body that tells why. The connection ends
    /// behind it.
    Refused(Refusal),
    /// Bytes of the request's body; say `BodyTaken`.
    Body(Vec<u8>),
    /// The request's body has ended where it should.
    BodyEnd,
    /// The request's body is broken or too long: undo what was done with it, and reply with `Refusal::status`.
    BodyRefused(Refusal),
    /// Send `bytes`, then the content's `body`, and say `Sent`. Both as one transmission where the kernel can; there is
    /// one at a time.
    Send {
        /// Heads and inline bodies; may be empty.
        bytes: Vec<u8>,
        /// Bytes of the content, never empty.
        body: Option<ByteRange>,
    },
    /// The request is done with; for the log. The shell may forget it.
    Answered {
        /// Content bytes that went out.
        content_bytes: u64,
        /// The whole answer went out.
        is_complete: bool,
    },
    /// The client is gone or lost before its answer: undo what was done for it, and do not reply.
    Abandoned,
    /// `shutdown(SHUT_WR)`: the client sees a clean end. Go on reading: a close with unread bytes would be a reset,
    /// which may take from the client what it has not read yet (RFC 9112, section 9.6).
    ShutdownWrite,
    /// Cancel what is under way and close the socket. Nothing follows.
    Close,
}
