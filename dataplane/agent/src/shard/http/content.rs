//! Bytes of a content on their way to a client: by reference when they are in memory and known to be right, else read
//! and compared first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::http1::SessionInput;
use hawker_proto::{BLOCK_BYTES, BlockIndex, ByteRange, PieceIndex};
use hawker_ring::{Block, Body, Op};

use super::connection::Held;
use super::exchange::{Content, TaskContent};
use super::{CHECKS_MAX, HttpPurpose, Purpose, Shard};
use crate::shard::SLAB_PAUSE;

/// How far ahead of a client the stored pieces are counted.
const LOOKAHEAD_BYTES: u64 = 8 << 20;

/// How the next bytes of a task can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// By reference, up to this offset.
    Until(u64),
    /// This block is read and compared before.
    Check(PieceIndex, BlockIndex),
    /// They are not here any more.
    Missing,
}

impl TaskContent {
    /// The end of the stored bytes from where the client is, `end` at most.
    pub(super) fn stored_until(&self, end: u64) -> u64 {
        let (file, geometry) = (self.task.file(), self.task.geometry());
        let mut upto = self.rest.start();
        while let Some((piece, _)) = geometry.block_at(upto).filter(|_| upto < end) {
            if !file.has_piece(piece) {
                break;
            }
            upto = geometry.piece_range(piece).end();
        }
        self.task.readable_until(upto.min(end))
    }

    fn next(&self, range: ByteRange, fresh_until: u64, mut is_resident: impl FnMut(u64, u64) -> bool) -> Next {
        let (file, geometry) = (self.task.file(), self.task.geometry());
        let Some((first, block)) = geometry.block_at(range.start()) else { return Next::Missing };
        if !file.has_piece(first) {
            return Next::Missing;
        }
        let mut end = range.start();
        while let Some((piece, block)) = geometry.block_at(end).filter(|_| end < range.end()) {
            if !file.has_piece(piece) || !file.is_checked(piece, block) {
                break;
            }
            end = geometry.block_range(piece, block).end();
        }
        let end = end.min(range.end());
        let is_by_reference = end > range.start() && is_resident(range.start(), end);
        if is_by_reference {
            return Next::Until(end);
        }
        // The rest of this block alone.
        let block_end = geometry.block_range(first, block).end().min(range.end());
        let is_fresh = fresh_until >= block_end && file.is_checked(first, block);
        if is_fresh || (end > block_end && is_resident(range.start(), block_end)) {
            return Next::Until(block_end);
        }
        Next::Check(first, block)
    }
}

impl Shard {
    /// Tells the session how much of a task is here.
    pub(super) fn note_available(&mut self, id: u64) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        let Some(exchange) = &mut connection.exchange else { return };
        let Content::Task(content) = &mut exchange.content else { return };
        let wanted = content.rest.start().saturating_add(LOOKAHEAD_BYTES).min(content.rest.end());
        let upto = content.stored_until(wanted);
        let is_starved = upto < wanted && !content.is_lost;
        let missing = content.task.geometry().block_at(upto).filter(|_| is_starved);
        content.stored_until = upto;
        content.lacked = missing.map(|(piece, _)| piece);
        connection.session.handle(now, SessionInput::Available { upto });
    }

    /// Sends what the session wants sent, as far as that can leave now.
    pub(super) fn go_on_sending(&mut self, id: u64) {
        let now = self.now;
        let Some(connection) = self.http.get(id).filter(|connection| connection.transmit.is_none()) else { return };
        let Some(held) = &connection.held else { return };
        let Some(range) = held.body else { return self.transmit_held(id, Body::None, 0) };
        let Some(exchange) = &mut connection.exchange else { return };
        let is_local = connection.is_local;
        match &mut exchange.content {
            Content::Inline => unreachable!("{range} of an answer without a content"),
            Content::Stream(content) => {
                if let Some(chunk) = content.chunks.pop_front() {
                    let bytes = chunk.len() as u64;
                    self.transmit_held(id, Body::Bytes(chunk), bytes);
                }
            }
            Content::Task(_) if connection.checking.is_some() => {}
            Content::Task(content) => match content.next(range, connection.fresh_until, |start, end| {
                self.recent.is_resident(now, &content.task, start, end)
            }) {
                Next::Until(end) => {
                    let (file, offset) = (Arc::clone(content.task.file().content()), range.start());
                    let mut length = end - offset;
                    if !is_local {
                        length = length.min(u64::from(BLOCK_BYTES));
                        let bytes = u32::try_from(length).unwrap_or(BLOCK_BYTES);
                        if let Err(wait) = self.meters.up.take(now, bytes) {
                            return self.delay_http(id, wait);
                        }
                    }
                    let is_more = offset + length < content.stored_until;
                    connection.cork(is_more);
                    self.transmit_held(id, Body::File { file, offset, length }, length);
                }
                Next::Check(piece, block) => self.check_for_http(id, piece, block),
                Next::Missing => self.wait_for_piece(id, range),
            },
        }
    }

    fn transmit_held(&mut self, id: u64, body: Body, bytes: u64) {
        let held = self.http.get(id).and_then(|connection| connection.held.take());
        if let Some(Held { head, .. }) = held {
            self.transmit_http(id, head, body, bytes);
        }
    }

    /// What was here is not any more: the head leaves alone, and the rest when the piece is here again.
    fn wait_for_piece(&mut self, id: u64, range: ByteRange) {
        let now = self.now;
        let Some(connection) = self.http.get(id) else { return };
        let Some(exchange) = &mut connection.exchange else { return };
        let Content::Task(content) = &mut exchange.content else { return };
        content.lacked = content.task.geometry().block_at(range.start()).map(|(piece, _)| piece);
        if content.is_lost {
            connection.session.handle(now, SessionInput::ContentLost { upto: range.start() });
            self.renew_held(id);
        }
    }

    /// A session that waits for what cannot be sent yet is told so: it counts the client's time, which this is not.
    pub(super) fn renew_held(&mut self, id: u64) {
        let now = self.now;
        let Some(connection) = self.http.get(id).filter(|connection| connection.is_held()) else { return };
        let Some(held) = &connection.held else { return };
        if held.head.is_empty() {
            connection.held = None;
            connection.session.handle(now, SessionInput::Sent { body_bytes: 0 });
        } else {
            self.transmit_held(id, Body::None, 0);
        }
    }

    pub(super) fn delay_http(&mut self, id: u64, wait: Duration) {
        self.http.delayed.insert(id);
        self.wake_after(wait);
    }

    /// Has a block read, or waits for its turn.
    fn check_for_http(&mut self, id: u64, piece: PieceIndex, block: BlockIndex) {
        if self.http.checks >= CHECKS_MAX {
            if !self.http.waiting_checks.contains(&id) {
                self.http.waiting_checks.push_back(id);
            }
            return;
        }
        let Some(memory) = self.slab.take_reserved() else { return self.delay_http(id, SLAB_PAUSE) };
        let Some(connection) = self.http.get(id) else { return };
        let Some(Content::Task(content)) = connection.exchange.as_ref().map(|exchange| &exchange.content) else {
            return;
        };
        let task = Arc::clone(&content.task);
        connection.checking = Some(Arc::clone(&task));
        self.http.checks += 1;
        let range = task.geometry().block_range(piece, block);
        let length = usize::try_from(range.length()).unwrap_or(BLOCK_BYTES as usize);
        let file = Arc::clone(task.file().content());
        let op = Op::Read { file, block: memory, range: 0..length, offset: range.start() };
        self.submit(op, Purpose::Http(HttpPurpose::Check { connection: id, piece, block }));
    }

    /// A block came from disk. It leaves by reference all the same: its pages are in memory now, and block memory is not
    /// for clients that may read slowly.
    pub(super) fn on_http_checked(
        &mut self,
        id: u64,
        piece: PieceIndex,
        block: BlockIndex,
        result: io::Result<usize>,
        memory: Block,
    ) {
        self.http.checks -= 1;
        if let Some(connection) = self.http.get(id)
            && let Some(task) = connection.checking.take()
        {
            connection.fresh_until = task.geometry().block_range(piece, block).end();
            self.check_block(&task, piece, block, result, &memory);
        }
        drop(memory);
        self.go_on_sending(id);
        self.drive_http(id);
        while self.http.checks < CHECKS_MAX
            && let Some(next) = self.http.waiting_checks.pop_front()
        {
            self.go_on_sending(next);
            self.drive_http(next);
        }
    }
}
