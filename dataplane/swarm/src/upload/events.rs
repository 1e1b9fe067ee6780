//! What goes into an [`Upload`](super::Upload) and what comes out.

use core::ops::Range;

use hawker_proto::{BlockIndex, PieceIndex};

/// A link that this shard accepted. Given by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What happened on the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadInput {
    /// A child linked up.
    LinkUp {
        /// The link.
        link: LinkId,
    },
    /// The link is gone; its `Send`s need no `BlockSent`.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// The child asks for a run of blocks that this host has (the shell answers `Gone` for others itself).
    Request {
        /// The link.
        link: LinkId,
        /// The channel, which names the task on this link.
        channel: u16,
        /// Which piece.
        piece: PieceIndex,
        /// Which blocks of it, within the piece.
        blocks: Range<u32>,
    },
    /// The child no longer wants what it asked of this piece.
    Cancel {
        /// The link.
        link: LinkId,
        /// The channel.
        channel: u16,
        /// Which piece.
        piece: PieceIndex,
    },
    /// A `Send` is done: its last byte is in the socket, or it was answered with `Gone`.
    BlockSent {
        /// The link.
        link: LinkId,
        /// What was sent; 0 when nothing was.
        bytes: u32,
    },
    /// A slot of the host came free elsewhere: try again to take one.
    SlotFreed,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadOutput {
    /// Tell the child that its request waits behind others.
    Queued {
        /// The link.
        link: LinkId,
        /// The channel.
        channel: u16,
        /// Of the request.
        piece: PieceIndex,
        /// Links before it.
        position: u32,
    },
    /// Tell the child that the link may be served now.
    Granted {
        /// The link.
        link: LinkId,
        /// The channel of its first request.
        channel: u16,
        /// For this many blocks ...
        blocks: u32,
        /// ... or this long.
        millis: u32,
    },
    /// Send one block, and answer with `BlockSent`.
    Send {
        /// The link.
        link: LinkId,
        /// The channel.
        channel: u16,
        /// Which piece.
        piece: PieceIndex,
        /// Which block of it.
        block: BlockIndex,
    },
    /// The slot taken for a link goes back to the host.
    ReleaseSlot,
    /// The child asks for more than a correct child does, or for no blocks: close the link.
    Refuse {
        /// The link.
        link: LinkId,
    },
}
