//! The first 32 bytes of every frame, and the table of what each kind may hold.

use super::{
    BLOCK_BYTES, CONTROL_BYTES_MAX, ERROR_TEXT_BYTES_MAX, ErrorCode, FrameError, HEAD_BYTES, REQUEST_BLOCKS_MAX,
};
use crate::trust::BATCH_BYTES_MAX;
use crate::wire::Reader;
use crate::{BlockIndex, Geometry, PieceIndex};

/// What makes a first frame ours, and not that of some other protocol on the same port.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"HAWKER\0\x01");
pub(super) const FLAG_SECURED: u8 = 1;
const HELLO_BYTES: u32 = 72;
const AUTH_BYTES: u32 = 96;
const OPEN_BYTES: u32 = 32;

/// A frame's first 32 bytes, already checked: its kind is known, its payload bounded, its indices in bounds of the
/// protocol (not yet of the task: only the caller knows which task the channel is).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) kind: FrameKind,
    pub(super) flags: u8,
    pub(super) length: u32,
    pub(super) channel: u16,
    pub(super) piece: u32,
    pub(super) block: u32,
    pub(super) count: u32,
    pub(super) aux: u64,
}

impl Head {
    /// The head of a BLOCK whose `length` bytes of payload follow.
    ///
    /// # Panics
    /// When `channel` is 0, or `length` 0 or above [`BLOCK_BYTES`], or `block` beyond the largest piece: bugs of the
    /// caller.
    #[must_use]
    pub fn block(channel: u16, piece: PieceIndex, block: BlockIndex, length: u32) -> Self {
        let head = Self { channel, piece: piece.0, block: block.0, length, ..Self::empty(FrameKind::Block) };
        assert_eq!(head.check(), Ok(()), "{head:?}");
        head
    }

    pub(super) const fn empty(kind: FrameKind) -> Self {
        Self { kind, flags: 0, length: 0, channel: 0, piece: 0, block: 0, count: 0, aux: 0 }
    }

    /// The head of 32 bytes from outside.
    ///
    /// # Errors
    /// The bytes are no head of this version: the peer's fault. Where the next frame starts is no longer known, so the
    /// remedy is to close the link.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(bytes);
        let length = reader.u32()?;
        let kind = FrameKind::from_byte(reader.u8()?)?;
        let head = Self {
            kind,
            length,
            flags: reader.u8()?,
            channel: reader.u16()?,
            piece: reader.u32()?,
            block: reader.u32()?,
            count: reader.u32()?,
            aux: reader.u64()?,
        };
        if reader.u32()? != 0 {
            return Err(FrameError::BadField(kind, "reserved"));
        }
        head.check()?;
        Ok(head)
    }

    /// The bytes of the module's diagram.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.channel.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.piece.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.block.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.aux.to_le_bytes());
        bytes
    }

    /// What the frame is.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The task's channel, 0 for a frame about the link.
    #[must_use]
    pub const fn channel(&self) -> u16 {
        self.channel
    }

    /// The piece, 0 for a frame that names none.
    #[must_use]
    pub const fn piece(&self) -> PieceIndex {
        PieceIndex(self.piece)
    }

    /// The block, 0 for a frame that names none.
    #[must_use]
    pub const fn block_index(&self) -> BlockIndex {
        BlockIndex(self.block)
    }

    /// Bytes that follow the head: at most [`CONTROL_BYTES_MAX`], which is also [`BLOCK_BYTES`].
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        self.length
    }

    pub(super) fn check(&self) -> Result<(), FrameError> {
        let shape = self.kind.shape();
        let bad = |field| Err(FrameError::BadField(self.kind, field));
        if !(shape.payload_min..=shape.payload_max).contains(&self.length) {
            return Err(FrameError::BadLength(self.kind, self.length));
        }
        if self.flags & !shape.flags != 0 {
            return bad("flags");
        }
        let is_about_task = shape.fields & CHANNEL != 0;
        if shape.fields & CHANNEL_OR_LINK == 0 && is_about_task != (self.channel != 0) {
            return bad("channel");
        }
        let is_unused = |field: u8| shape.fields & field == 0;
        if is_unused(PIECE) && self.piece != 0 {
            return bad("piece");
        }
        if is_unused(BLOCK) && self.block != 0 {
            return bad("block");
        }
        if is_unused(COUNT) && self.count != 0 {
            return bad("count");
        }
        if is_unused(AUX) && self.aux != 0 {
            return bad("aux");
        }
        self.check_kind()
    }

    fn check_kind(&self) -> Result<(), FrameError> {
        let bad = |field| Err(FrameError::BadField(self.kind, field));
        if self.block >= REQUEST_BLOCKS_MAX {
            return bad("block");
        }
        match self.kind {
            FrameKind::Hello if self.aux != MAGIC => Err(FrameError::NotHawker),
            FrameKind::Open if Geometry::from_parts(self.aux, self.count).is_none() => bad("geometry"),
            FrameKind::Have if !self.piece.is_multiple_of(8) => bad("piece"),
            FrameKind::Have if u64::from(self.piece) + u64::from(self.length) * 8 > 1 << 32 => bad("piece"),
            FrameKind::Request if !(1..=REQUEST_BLOCKS_MAX - self.block).contains(&self.count) => bad("count"),
            FrameKind::Granted if self.aux > u64::from(u32::MAX) => bad("aux"),
            FrameKind::Error if ErrorCode::from_number(self.count).is_none() => bad("count"),
            _ => Ok(()),
        }
    }
}

/// What a frame is: the type byte of its head. Each is explained at the [`super::Frame`] of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// See [`super::Frame::Hello`].
    Hello = 1,
    /// See [`super::Frame::Auth`].
    Auth = 2,
    /// See [`super::Frame::Open`].
    Open = 3,
    /// See [`super::Frame::Close`].
    Close = 4,
    /// See [`super::Frame::Have`].
    Have = 5,
    /// See [`super::Frame::Records`].
    Records = 6,
    /// See [`super::Frame::Request`].
    Request = 7,
    /// See [`super::Frame::Queued`].
    Queued = 8,
    /// See [`super::Frame::Granted`].
    Granted = 9,
    /// A block's bytes. The one frame that is no [`super::Frame`]: its payload goes straight into block memory.
    Block = 10,
    /// See [`super::Frame::Cancel`].
    Cancel = 11,
    /// See [`super::Frame::BadPiece`].
    BadPiece = 12,
    /// See [`super::Frame::Gone`].
    Gone = 13,
    /// See [`super::Frame::Error`].
    Error = 14,
    /// See [`super::Frame::Ping`].
    Ping = 15,
    /// See [`super::Frame::Pong`].
    Pong = 16,
    /// See [`super::Frame::Goodbye`].
    Goodbye = 17,
}

/// Which head fields a kind uses, and how long its payload may be.
struct Shape {
    fields: u8,
    flags: u8,
    payload_min: u32,
    payload_max: u32,
}

const CHANNEL: u8 = 1;
const PIECE: u8 = 2;
const BLOCK: u8 = 4;
const COUNT: u8 = 8;
const AUX: u8 = 16;
/// The frame may be about a task or about the link.
const CHANNEL_OR_LINK: u8 = 32;

impl FrameKind {
    const ALL: [Self; 17] = [
        Self::Hello,
        Self::Auth,
        Self::Open,
        Self::Close,
        Self::Have,
        Self::Records,
        Self::Request,
        Self::Queued,
        Self::Granted,
        Self::Block,
        Self::Cancel,
        Self::BadPiece,
        Self::Gone,
        Self::Error,
        Self::Ping,
        Self::Pong,
        Self::Goodbye,
    ];

    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        let index = usize::from(byte).wrapping_sub(1);
        Self::ALL.get(index).copied().ok_or(FrameError::UnknownKind(byte))
    }

    /// The module's table.
    fn shape(self) -> Shape {
        let (fields, payload_min, payload_max) = match self {
            Self::Hello => (AUX, HELLO_BYTES, HELLO_BYTES),
            Self::Auth => (0, AUTH_BYTES, AUTH_BYTES),
            Self::Open => (CHANNEL | COUNT | AUX, OPEN_BYTES, OPEN_BYTES),
            Self::Close => (CHANNEL, 0, 0),
            Self::Have => (CHANNEL | PIECE, 0, CONTROL_BYTES_MAX),
            Self::Records => (CHANNEL, 1, RECORDS_BYTES_MAX),
            Self::Request => (CHANNEL | PIECE | BLOCK | COUNT, 0, 0),
            Self::Queued => (CHANNEL | PIECE | COUNT, 0, 0),
            Self::Granted => (CHANNEL | COUNT | AUX, 0, 0),
            Self::Block => (CHANNEL | PIECE | BLOCK, 1, BLOCK_BYTES),
            Self::Cancel | Self::Gone => (CHANNEL | PIECE, 0, 0),
            Self::BadPiece => (CHANNEL | PIECE | BLOCK, 0, 0),
            Self::Error => (CHANNEL_OR_LINK | COUNT, 0, ERROR_TEXT_BYTES_MAX_U32),
            Self::Ping | Self::Pong => (AUX, 0, 0),
            Self::Goodbye => (0, 0, 0),
        };
        let flags = if matches!(self, Self::Hello) { FLAG_SECURED } else { 0 };
        Shape { fields, flags, payload_min, payload_max }
    }
}

const ERROR_TEXT_BYTES_MAX_U32: u32 = 256;
const RECORDS_BYTES_MAX: u32 = 64 * 1024;
const _: () = assert!(ERROR_TEXT_BYTES_MAX_U32 as usize == ERROR_TEXT_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= RECORDS_BYTES_MAX as usize && RECORDS_BYTES_MAX <= CONTROL_BYTES_MAX);
