//! One peer connection as frames: what arrived and is not parsed, what waits to be sent.
//!
//! A receive asks for the rest of a block *and* a few KiB after it, so that a block and the next heads cost one system
//! call; the few bytes of a block that came with its head are copied into place, and the block stays aligned.

use std::collections::VecDeque;
use std::ops::Range;

use hawker_proto::frame::{Frame, FrameError, FrameKind, HEAD_BYTES, Head};
use hawker_ring::{Block, Body};

/// Bytes asked for beside a block: room for some heads, small enough to copy.
pub(super) const TAIL_BYTES: usize = 4096;
/// Control bytes that may wait on a link whose peer does not read; beyond it the link is closed.
pub(super) const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Payload bytes of a frame of the handshake, or of one that a child sends, at most: an ERROR with its text. Nobody makes
/// us keep more room for it before it proved who it is.
const SHORT_PAYLOAD_BYTES_MAX: u32 = 256;
/// Below this, more announcements are encoded.
pub(super) const OUTBOX_BYTES_LOW: usize = 128 * 1024;

/// What the bytes of a link mean next.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// A control frame.
    Frame(Frame),
    /// A block's head: give the wire a block with [`Wire::begin_block`].
    BlockHead(Head),
    /// A whole block: its bytes are `0..length` of the memory.
    Block { head: Head, block: Block, length: usize },
    /// Nothing more until bytes arrive.
    Starved,
}

/// A block on its way in.
#[derive(Debug)]
struct Incoming {
    head: Head,
    block: Block,
    filled: usize,
    length: usize,
}

/// A block on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) head: [u8; HEAD_BYTES],
    pub(super) body: Body,
    pub(super) length: u32,
}

/// Framing and queues of one connection; the shard submits its operations.
#[derive(Debug)]
pub(super) struct Wire {
    /// Payload bytes of a control frame that the peer may send now.
    payload_max: u32,
    inbox: Vec<u8>,
    parsed: usize,
    incoming: Option<Incoming>,
    /// Head and length of the block that a receive holds now.
    receiving: Option<(Head, usize)>,
    outbox: Vec<u8>,
    blocks: VecDeque<Outgoing>,
    /// An emptied buffer to encode into while the other is being sent.
    spare: Vec<u8>,
}

impl Wire {
    /// A wire that takes short frames only: those of a handshake, or of a child.
    pub(super) fn new() -> Self {
        Self {
            payload_max: SHORT_PAYLOAD_BYTES_MAX,
            inbox: Vec::new(),
            parsed: 0,
            incoming: None,
            receiving: None,
            outbox: Vec::new(),
            blocks: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Takes control frames of up to so many payload bytes from now on.
    pub(super) fn expect_payload(&mut self, payload_max: u32) {
        self.payload_max = payload_max;
    }

    /// Queues a control frame; it leaves before any block that is not being sent already.
    pub(super) fn push(&mut self, frame: &Frame) {
        frame.encode_into(&mut self.outbox);
    }

    /// Queues a block behind the others.
    pub(super) fn push_block(&mut self, block: Outgoing) {
        self.blocks.push_back(block);
    }

    /// Control bytes that wait.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// What to transmit next: all control frames, then one block if there is one. The third part is the block's length.
    pub(super) fn next_transmit(&mut self) -> Option<(Vec<u8>, Body, u32)> {
        if self.outbox.is_empty() && self.blocks.is_empty() {
            return None;
        }
        let mut head = std::mem::replace(&mut self.outbox, std::mem::take(&mut self.spare));
        let Some(block) = self.blocks.pop_front() else { return Some((head, Body::None, 0)) };
        head.extend_from_slice(&block.head);
        Some((head, block.body, block.length))
    }

    /// Takes back the buffer of a finished transmit.
    pub(super) fn recycle(&mut self, mut head: Vec<u8>) {
        head.clear();
        // A rare large announcement must not stay allocated on every link.
        if head.capacity() <= TAIL_BYTES * 4 {
            self.spare = head;
        }
    }

    /// What the received bytes mean.
    ///
    /// # Errors
    /// The peer's fault: a head or payload that the protocol does not allow. Close the link.
    pub(super) fn next_event(&mut self) -> Result<WireEvent, FrameError> {
        if let Some(incoming) = self.incoming.take() {
            if incoming.filled == incoming.length {
                let Incoming { head, block, length, .. } = incoming;
                return Ok(WireEvent::Block { head, block, length });
            }
            self.incoming = Some(incoming);
            return Ok(WireEvent::Starved);
        }
        let rest = &self.inbox[self.parsed..];
        let Some(head_bytes) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(WireEvent::Starved) };
        let head = Head::decode(head_bytes)?;
        if head.kind() == FrameKind::Block {
            self.parsed += HEAD_BYTES;
            return Ok(WireEvent::BlockHead(head));
        }
        if head.payload_bytes() > self.payload_max {
            return Err(FrameError::BadLength(head.kind(), head.payload_bytes()));
        }
        let end = HEAD_BYTES + head.payload_bytes() as usize;
        let Some(payload) = rest.get(HEAD_BYTES..end) else { return Ok(WireEvent::Starved) };
        let frame = Frame::decode(&head, payload)?;
        self.parsed += end;
        Ok(WireEvent::Frame(frame))
    }

    /// Puts back a block head that cannot be served now (no memory, no rate): it comes again from `next_event`.
    pub(super) fn postpone(&mut self) {
        self.parsed -= HEAD_BYTES;
    }

    /// Receives the block of `head` into `block`.
    pub(super) fn begin_block(&mut self, head: Head, mut block: Block) {
        let length = head.payload_bytes() as usize;
        let rest = &self.inbox[self.parsed..];
        let filled = rest.len().min(length);
        block.as_mut_slice()[..filled].copy_from_slice(&rest[..filled]);
        self.parsed += filled;
        self.incoming = Some(Incoming { head, block, filled, length });
    }

    /// What to receive next: the rest of the block, and how much to take after it.
    pub(super) fn next_receive(&mut self) -> (Option<(Block, Range<usize>)>, usize) {
        self.inbox.drain(..self.parsed);
        self.parsed = 0;
        if let Some(incoming) = self.incoming.take() {
            self.receiving = Some((incoming.head, incoming.length));
            return (Some((incoming.block, incoming.filled..incoming.length)), TAIL_BYTES);
        }
        let wanted = self.inbox.first_chunk::<HEAD_BYTES>().and_then(|head| Head::decode(head).ok());
        let payload = wanted.map_or(0, |head| head.payload_bytes() as usize + HEAD_BYTES);
        (None, payload.saturating_sub(self.inbox.len()).max(TAIL_BYTES))
    }

    /// Takes what a receive brought: the block it was given, now full, and the bytes after it.
    pub(super) fn received(&mut self, block: Option<Block>, tail: &[u8]) {
        if let (Some((head, length)), Some(block)) = (self.receiving.take(), block) {
            self.incoming = Some(Incoming { head, block, filled: length, length });
        }
        self.inbox.extend_from_slice(tail);
    }

    /// Whether a block is on its way into memory.
    pub(super) fn is_mid_block(&self) -> bool {
        self.receiving.is_some()
    }
}

#[cfg(test)]
mod tests {
    use hawker_proto::{BlockIndex, PieceIndex};
    use hawker_ring::{Budget, Slab, SlabLimits};

    use super::*;

    fn slab() -> Slab {
        let limits = SlabLimits { bytes_max: 4 * 1024 * 1024, reserve_blocks: 0 };
        Slab::new(limits, Budget::new(4 * 1024 * 1024)).unwrap()
    }

    /// Feeds `stream` in receives of at most `step` bytes and collects what it means.
    fn events(stream: &[u8], step: usize) -> Vec<String> {
        let (mut wire, mut slab) = (Wire::new(), slab());
        let (mut rest, mut seen) = (stream, Vec::new());
        loop {
            match wire.next_event().unwrap() {
                WireEvent::Frame(frame) => seen.push(format!("{frame:?}")),
                WireEvent::BlockHead(head) => wire.begin_block(head, slab.take().unwrap()),
                WireEvent::Block { head, block, length } => {
                    seen.push(format!("{:?} {:?}", head.piece(), blake3_of(&block.as_slice()[..length])));
                }
                WireEvent::Starved if rest.is_empty() => return seen,
                WireEvent::Starved => {
                    let (body, tail_max) = wire.next_receive();
                    let body = body.map(|(mut block, range)| {
                        let (now, later) = rest.split_at(range.len());
                        block.as_mut_slice()[range].copy_from_slice(now);
                        rest = later;
                        block
                    });
                    let (tail, later) = rest.split_at(rest.len().min(tail_max).min(step));
                    rest = later;
                    wire.received(body, tail);
                }
            }
        }
    }

    fn blake3_of(bytes: &[u8]) -> String {
        hawker_proto::hash::root_of_bytes(bytes).to_string()
    }

    #[test]
    fn any_cut_of_the_stream_means_the_same() {
        let mut stream = Vec::new();
        Frame::Ping { aux: 7 }.encode_into(&mut stream);
        for (piece, length) in [(0u32, 1u32), (1, 5000), (2, 256 * 1024), (3, 4096)] {
            stream.extend_from_slice(&Head::block(1, PieceIndex(piece), BlockIndex(0), length).encode());
            stream.extend((0..length).map(|byte| (byte % 253) as u8));
            Frame::Queued { channel: 1, piece: PieceIndex(piece), position: 3 }.encode_into(&mut stream);
        }
        let whole = events(&stream, usize::MAX);
        assert_eq!(whole.len(), 9);
        for step in [1, 31, 32, 33, 1000, 4095] {
            assert_eq!(events(&stream, step), whole, "{step}");
        }
    }
}
