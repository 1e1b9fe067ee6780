//! One request and its answer.

use alloc::vec::Vec;

use super::body::{Incoming, Wanted};
use super::events::SessionConfig;
use crate::ByteRange;
use crate::http1::{BodyFraming, Reply, ReplyBody, Request};

/// What the session knows of the request that is being answered.
#[derive(Debug)]
pub(super) struct Exchange {
    is_head_request: bool,
    version_minor: u8,
    /// Another request may follow.
    pub(super) is_kept: bool,
    pub(super) body: Incoming,
    pub(super) wanted: Wanted,
    /// The client waits for a 100.
    pub(super) awaits_continue: bool,
    /// The shell knows that the body has ended, or that it never will.
    pub(super) is_body_told: bool,
    /// What is to be sent behind the head; `None` until the reply.
    pub(super) outgoing: Option<Outgoing>,
    /// Content bytes that went out.
    pub(super) content_bytes: u64,
}

/// The content of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outgoing {
    /// Not sent yet.
    pub(super) rest: ByteRange,
    /// Bytes before this offset are here.
    pub(super) available: u64,
    /// No more will be.
    pub(super) is_lost: bool,
}

impl Exchange {
    pub(super) fn new(request: &Request, config: &SessionConfig) -> Self {
        let body = Incoming::new(request.framing, config.body_bytes_max);
        Self {
            is_head_request: request.head.method == "HEAD",
            version_minor: request.version_minor,
            is_kept: request.is_kept_alive,
            is_body_told: body.is_done(),
            awaits_continue: request.expects_continue && !body.is_done(),
            body,
            wanted: Wanted::Undecided,
            outgoing: None,
            content_bytes: 0,
        }
    }

    /// The answer to bytes that are no request.
    pub(super) const fn refused() -> Self {
        Self {
            is_head_request: false,
            version_minor: 1,
            is_kept: false,
            body: Incoming::new(BodyFraming::Empty, 0),
            wanted: Wanted::Undecided,
            awaits_continue: false,
            is_body_told: true,
            outgoing: None,
            content_bytes: 0,
        }
    }

    /// Takes the answer; what is to be sent of it now is appended to `outbox`.
    pub(super) fn reply(&mut self, reply: &Reply, outbox: &mut Vec<u8>, config: &SessionConfig) {
        // A client that was not told to continue may send its body or not: nobody can say where the next request starts.
        self.is_kept &= !self.awaits_continue && self.body.is_short(config.drain_bytes_max);
        self.awaits_continue = false;
        self.wanted = Wanted::Drained;
        self.is_body_told = true;
        let connection = match (self.is_kept, self.version_minor) {
            (true, 0) => Some("keep-alive"),
            (true, _) => None,
            (false, _) => Some("close"),
        };
        outbox.extend_from_slice(&reply.encode_head(connection));
        let mut outgoing = Outgoing::default();
        match reply.body() {
            _ if self.is_head_request => {}
            ReplyBody::Inline(bytes) => outbox.extend_from_slice(bytes),
            ReplyBody::Content { range, available, .. } => {
                outgoing = Outgoing { rest: *range, available: *available, is_lost: false };
            }
        }
        self.outgoing = Some(outgoing);
    }

    /// Nothing of what comes from now on matters: no byte of it is looked at.
    pub(super) fn is_deaf(&self) -> bool {
        self.outgoing.is_some() && !self.is_kept
    }
}

impl Outgoing {
    /// What can be sent now, if anything.
    pub(super) fn next(&self, bytes_max: u64) -> Option<ByteRange> {
        let end = self.available.min(self.rest.end()).min(self.rest.start().saturating_add(bytes_max));
        ByteRange::new(self.rest.start(), end).filter(|range| !range.is_empty())
    }

    /// `bytes` of the content went out.
    pub(super) fn advance(&mut self, bytes: u64) {
        let start = self.rest.start().saturating_add(bytes).min(self.rest.end());
        self.rest = ByteRange::new(start, self.rest.end()).expect("start was cut at the end");
    }

    /// Nothing more will be sent.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty() || (self.is_lost && self.available <= self.rest.start())
    }
}
