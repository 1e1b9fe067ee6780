//! The peer protocol, version 1: binary frames on a persistent connection between two hosts.
//!
//! A child dials a parent; requests go one way and blocks the other (a two-way exchange is two connections). Every
//! frame is a head of 32 bytes, then `length` bytes of payload. All integers are little-endian. A field that a frame
//! does not use is zero, and anything else is refused, so that a later version can give it a meaning.
//!
//! ```text
//!   0          4       5        6            8         12        16        20       28          32
//!   | length   | type  | flags  | channel    | piece   | block   | count   | aux    | reserved 0 | payload ...
//!   | u32      | u8    | u8     | u16        | u32     | u32     | u32     | u64    | u32        | length bytes
//!
//!   type            uses                                    payload
//!    1 HELLO        aux = "HAWKER\0\1", flags 1 = secured   72: version_min u16 | version_max u16 | roles u8 | 0 x 3
//!                                                               | nonce 32 | host public key 32
//!    2 AUTH                                                 96: mac 32 | signature 64            (see `handshake`)
//!    3 OPEN         channel, count = piece bytes,           32: task id
//!                   aux = length of the task
//!    4 CLOSE        channel
//!    5 HAVE         channel, piece = first of the window,   0..=256 KiB: a bitmap; piece `first + i` is bit i % 8 of
//!                   a multiple of 8                             byte i / 8. One bits are pieces the sender now has
//!    6 RECORDS      channel                                 an encoded `trust::RecordBatch`
//!    7 REQUEST      channel, piece, block = first,
//!                   count = blocks
//!    8 QUEUED       channel, piece, count = position
//!    9 GRANTED      channel, count = blocks,
//!                   aux = milliseconds
//!   10 BLOCK        channel, piece, block                   1..=256 KiB: the block's bytes
//!   11 CANCEL       channel, piece
//!   12 BAD_PIECE    channel, piece, block
//!   13 GONE         channel, piece
//!   14 ERROR        channel or 0, count = code              0..=256: UTF-8 text for a person
//!   15 PING         aux
//!   16 PONG         aux = the ping's
//!   17 GOODBYE
//! ```
//!
//! Channel 0 is the link itself; OPEN binds any other number to a task until CLOSE. The parent answers OPEN with HAVE
//! (empty when it has nothing yet) or with ERROR on that channel. RECORDS go before the HAVE of their pieces. A REQUEST
//! is answered by QUEUED, then GRANTED, then BLOCKs; a grant is the link's, and what it does not cover queues again.
//!
//! Not here: encryption and congestion (the link's), who may have what (membership and the task id suffice), and how
//! many requests a child keeps open (`hawker-swarm`'s).

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::geometry::PIECE_BYTES_MAX;
use crate::trust::BATCH_BYTES_MAX;
use crate::wire::{DecodeError, Reader};
use crate::{BLOCK_BYTES, BlockIndex, Geometry, PieceIndex, PieceMap, PublicKey, Signature, TaskId};

/// Bytes of every frame's head.
pub const HEAD_BYTES: usize = 32;
/// Payload bytes of any frame but BLOCK, at most. A bitmap of this size shows 2^21 pieces.
pub const CONTROL_BYTES_MAX: u32 = 256 * 1024;
/// Bytes of an ERROR's text, at most.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;
/// Blocks in one REQUEST, at most: a whole piece.
pub const REQUEST_BLOCKS_MAX: u32 = PIECE_BYTES_MAX / BLOCK_BYTES;

/// A HELLO's role bit: the sender wants pieces.
pub const ROLE_WANTS: u8 = 1;
/// A HELLO's role bit: the sender serves pieces.
pub const ROLE_SERVES: u8 = 2;

/// What makes a first frame ours, and not that of some other protocol on the same port.
const MAGIC: u64 = u64::from_le_bytes(*b"HAWKER\0\x01");
const FLAG_SECURED: u8 = 1;
const HELLO_BYTES: u32 = 72;
const AUTH_BYTES: u32 = 96;
const OPEN_BYTES: u32 = 32;

/// What a frame is: the type byte of its head. Each is explained at the [`Frame`] of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// See [`Frame::Hello`].
    Hello = 1,
    /// See [`Frame::Auth`].
    Auth = 2,
    /// See [`Frame::Open`].
    Open = 3,
    /// See [`Frame::Close`].
    Close = 4,
    /// See [`Frame::Have`].
    Have = 5,
    /// See [`Frame::Records`].
    Records = 6,
    /// See [`Frame::Request`].
    Request = 7,
    /// See [`Frame::Queued`].
    Queued = 8,
    /// See [`Frame::Granted`].
    Granted = 9,
    /// A block's bytes. The one frame that is no [`Frame`]: its payload goes straight into block memory.
    Block = 10,
    /// See [`Frame::Cancel`].
    Cancel = 11,
    /// See [`Frame::BadPiece`].
    BadPiece = 12,
    /// See [`Frame::Gone`].
    Gone = 13,
    /// See [`Frame::Error`].
    Error = 14,
    /// See [`Frame::Ping`].
    Ping = 15,
    /// See [`Frame::Pong`].
    Pong = 16,
    /// See [`Frame::Goodbye`].
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

/// A frame's first 32 bytes, already checked: its kind is known, its payload bounded, its indices in bounds of the
/// protocol (not yet of the task: only the caller knows which task the channel is).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    kind: FrameKind,
    flags: u8,
    length: u32,
    channel: u16,
    piece: u32,
    block: u32,
    count: u32,
    aux: u64,
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

    const fn empty(kind: FrameKind) -> Self {
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

    fn check(&self) -> Result<(), FrameError> {
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

/// Who a host says it is, before it proves it: see [`crate::handshake`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version it speaks.
    pub version_min: u16,
    /// Newest protocol version it speaks.
    pub version_max: u16,
    /// 32 random bytes of this connection.
    pub nonce: [u8; 32],
    /// Its public key.
    pub host: PublicKey,
    /// [`ROLE_WANTS`] and [`ROLE_SERVES`]: one or both.
    pub roles: u8,
    /// Whether it has a cluster key, and so demands and gives proof of it.
    pub is_secured: bool,
}

/// Why a peer cannot do what was asked; its number goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// The other side broke the protocol. The link closes.
    Protocol = 1,
    /// The other side did not prove that it belongs here. The link closes.
    Unauthorized = 2,
    /// Not a task of this host: ask another parent.
    NoSuchTask = 3,
    /// The task is here, with another length or piece length: the scheduler or one of us is wrong.
    WrongGeometry = 4,
    /// A limit of this host is reached: come back later, or ask another parent.
    Busy = 5,
    /// The disk did not give the bytes: ask another parent.
    ReadFailed = 6,
    /// This host no longer talks to the other about this task (on channel 0: at all).
    Banned = 7,
    /// This host is about to stop: ask another parent.
    Draining = 8,
    /// No version in common. The link closes.
    Version = 9,
}

impl ErrorCode {
    const ALL: [Self; 9] = [
        Self::Protocol,
        Self::Unauthorized,
        Self::NoSuchTask,
        Self::WrongGeometry,
        Self::Busy,
        Self::ReadFailed,
        Self::Banned,
        Self::Draining,
        Self::Version,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u32 == number)
    }
}

/// A whole frame of any kind but BLOCK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of each side.
    Hello(Hello),
    /// Proof of what HELLO said.
    Auth {
        /// Over the transcript, keyed by the cluster key; zero when neither side has one.
        mac: [u8; 32],
        /// Over the transcript, by the host's key.
        signature: Signature,
    },
    /// The child binds `channel` to a task.
    Open {
        /// Any number but 0 that is not bound.
        channel: u16,
        /// The task.
        task: TaskId,
        /// How the child divides it; the parent refuses another.
        geometry: Geometry,
    },
    /// The child unbinds `channel`; what it still asked for is cancelled.
    Close {
        /// The task's channel.
        channel: u16,
    },
    /// Pieces that the sender now has: see [`apply_have`].
    Have {
        /// The task's channel.
        channel: u16,
        /// First piece of the window, a multiple of 8.
        first_piece: u32,
        /// At most [`CONTROL_BYTES_MAX`] bytes of bitmap; empty says "nothing yet".
        bits: Vec<u8>,
    },
    /// Signed records, before the HAVE of their pieces.
    Records {
        /// The task's channel.
        channel: u16,
        /// An encoded `RecordBatch`, neither decoded nor checked.
        batch: Vec<u8>,
    },
    /// The child asks for a run of blocks of one piece.
    Request {
        /// The task's channel.
        channel: u16,
        /// The piece.
        piece: PieceIndex,
        /// The first block.
        block: BlockIndex,
        /// Blocks, 1 to [`REQUEST_BLOCKS_MAX`].
        count: u32,
    },
    /// The parent noted a request.
    Queued {
        /// The task's channel.
        channel: u16,
        /// The piece.
        piece: PieceIndex,
        /// Requests before it, of all links.
        position: u32,
    },
    /// The parent starts to send.
    Granted {
        /// The channel of the request that comes first.
        channel: u16,
        /// Blocks it sends before the link queues again.
        blocks: u32,
        /// Milliseconds for which the grant holds.
        millis: u32,
    },
    /// The child no longer wants a piece; blocks under way may still arrive.
    Cancel {
        /// The task's channel.
        channel: u16,
        /// The piece.
        piece: PieceIndex,
    },
    /// A block from this parent differs from its record: the parent shall read and check the piece again.
    BadPiece {
        /// The task's channel.
        channel: u16,
        /// The piece.
        piece: PieceIndex,
        /// The block that shows it.
        block: BlockIndex,
    },
    /// The sender no longer has a piece.
    Gone {
        /// The task's channel.
        channel: u16,
        /// The piece.
        piece: PieceIndex,
    },
    /// Something went wrong, on one channel or with the link.
    Error {
        /// The task's channel, 0 for the link.
        channel: u16,
        /// What, for a program.
        code: ErrorCode,
        /// What, for a person; cut at [`ERROR_TEXT_BYTES_MAX`] bytes when encoded.
        text: String,
    },
    /// Answer with a PONG.
    Ping {
        /// To be sent back.
        aux: u64,
    },
    /// The answer to a PING.
    Pong {
        /// The ping's.
        aux: u64,
    },
    /// The sender drains: it finishes what was granted, and is to be asked no more.
    Goodbye,
}

impl Frame {
    /// HAVE of one piece.
    #[must_use]
    pub fn have(channel: u16, piece: PieceIndex) -> Self {
        Self::Have { channel, first_piece: piece.0 & !7, bits: vec![1 << (piece.0 % 8)] }
    }

    /// The frame's head and payload.
    ///
    /// # Panics
    /// As [`Self::encode_into`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// Appends the frame's head and payload to `bytes`, whose memory the caller reuses.
    ///
    /// # Panics
    /// When a field breaks the module's table (channel 0 for a task, too many blocks or bytes): bugs of the caller.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + HEAD_BYTES, 0);
        self.push_payload(bytes);
        let length = u32::try_from(bytes.len() - start - HEAD_BYTES).expect("a bounded payload");
        let head = Head { length, ..self.head() };
        assert_eq!(head.check(), Ok(()), "{head:?}");
        bytes[start..start + HEAD_BYTES].copy_from_slice(&head.encode());
    }

    /// The frame of a checked head and exactly its payload.
    ///
    /// # Errors
    /// The payload means nothing: the peer's fault; close the link. [`FrameError::BadLength`] also for a BLOCK, which
    /// is no `Frame`, and for a payload that is not the head's.
    pub fn decode(head: &Head, payload: &[u8]) -> Result<Self, FrameError> {
        if payload.len() != head.length as usize {
            return Err(FrameError::BadLength(head.kind, u32::try_from(payload.len()).unwrap_or(u32::MAX)));
        }
        let (channel, piece, block) = (head.channel, PieceIndex(head.piece), BlockIndex(head.block));
        let narrow = |aux| u32::try_from(aux).map_err(|_| FrameError::BadField(head.kind, "aux"));
        Ok(match head.kind {
            FrameKind::Hello => Self::Hello(decode_hello(head, payload)?),
            FrameKind::Auth => decode_auth(payload)?,
            FrameKind::Open => decode_open(head, payload)?,
            FrameKind::Close => Self::Close { channel },
            FrameKind::Have => Self::Have { channel, first_piece: head.piece, bits: payload.to_vec() },
            FrameKind::Records => Self::Records { channel, batch: payload.to_vec() },
            FrameKind::Request => Self::Request { channel, piece, block, count: head.count },
            FrameKind::Queued => Self::Queued { channel, piece, position: head.count },
            FrameKind::Granted => Self::Granted { channel, blocks: head.count, millis: narrow(head.aux)? },
            FrameKind::Block => return Err(FrameError::BadLength(head.kind, head.length)),
            FrameKind::Cancel => Self::Cancel { channel, piece },
            FrameKind::BadPiece => Self::BadPiece { channel, piece, block },
            FrameKind::Gone => Self::Gone { channel, piece },
            FrameKind::Error => decode_error(head, payload)?,
            FrameKind::Ping => Self::Ping { aux: head.aux },
            FrameKind::Pong => Self::Pong { aux: head.aux },
            FrameKind::Goodbye => Self::Goodbye,
        })
    }

    /// What the frame is.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.head().kind
    }

    /// The task's channel, 0 for a frame about the link.
    #[must_use]
    pub fn channel(&self) -> u16 {
        self.head().channel
    }

    /// The head, but for the payload's length.
    fn head(&self) -> Head {
        let of = Head::empty;
        let about = |kind, channel: u16| Head { channel, ..of(kind) };
        let on = |kind, channel: u16, piece: PieceIndex| Head { piece: piece.0, ..about(kind, channel) };
        match self {
            Self::Hello(hello) => Head { aux: MAGIC, flags: u8::from(hello.is_secured), ..of(FrameKind::Hello) },
            Self::Auth { .. } => of(FrameKind::Auth),
            Self::Open { channel, geometry, .. } => {
                let (count, aux) = (geometry.piece_bytes(), geometry.length());
                Head { count, aux, ..about(FrameKind::Open, *channel) }
            }
            Self::Close { channel } => about(FrameKind::Close, *channel),
            Self::Have { channel, first_piece, .. } => on(FrameKind::Have, *channel, PieceIndex(*first_piece)),
            Self::Records { channel, .. } => about(FrameKind::Records, *channel),
            Self::Request { channel, piece, block, count } => {
                Head { block: block.0, count: *count, ..on(FrameKind::Request, *channel, *piece) }
            }
            Self::Queued { channel, piece, position } => {
                Head { count: *position, ..on(FrameKind::Queued, *channel, *piece) }
            }
            Self::Granted { channel, blocks, millis } => {
                Head { count: *blocks, aux: u64::from(*millis), ..about(FrameKind::Granted, *channel) }
            }
            Self::Cancel { channel, piece } => on(FrameKind::Cancel, *channel, *piece),
            Self::BadPiece { channel, piece, block } => {
                Head { block: block.0, ..on(FrameKind::BadPiece, *channel, *piece) }
            }
            Self::Gone { channel, piece } => on(FrameKind::Gone, *channel, *piece),
            Self::Error { channel, code, .. } => Head { count: *code as u32, ..about(FrameKind::Error, *channel) },
            Self::Ping { aux } => Head { aux: *aux, ..of(FrameKind::Ping) },
            Self::Pong { aux } => Head { aux: *aux, ..of(FrameKind::Pong) },
            Self::Goodbye => of(FrameKind::Goodbye),
        }
    }

    fn push_payload(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                assert!(is_role(hello.roles), "roles {}", hello.roles);
                bytes.extend_from_slice(&hello.version_min.to_le_bytes());
                bytes.extend_from_slice(&hello.version_max.to_le_bytes());
                bytes.extend_from_slice(&[hello.roles, 0, 0, 0]);
                bytes.extend_from_slice(&hello.nonce);
                bytes.extend_from_slice(&hello.host.0);
            }
            Self::Auth { mac, signature } => {
                bytes.extend_from_slice(mac);
                bytes.extend_from_slice(&signature.0);
            }
            Self::Open { task, .. } => bytes.extend_from_slice(&task.0),
            Self::Have { bits, .. } => bytes.extend_from_slice(bits),
            Self::Records { batch, .. } => bytes.extend_from_slice(batch),
            Self::Error { text, .. } => {
                let end = text.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
                bytes.extend_from_slice(&text.as_bytes()[..end]);
            }
            _ => {}
        }
    }
}

const fn is_role(roles: u8) -> bool {
    roles != 0 && roles & !(ROLE_WANTS | ROLE_SERVES) == 0
}

fn decode_hello(head: &Head, payload: &[u8]) -> Result<Hello, FrameError> {
    let mut reader = Reader::new(payload);
    let (version_min, version_max, roles) = (reader.u16()?, reader.u16()?, reader.u8()?);
    if reader.array()? != [0; 3] {
        return Err(FrameError::BadField(head.kind, "reserved"));
    }
    if !is_role(roles) {
        return Err(FrameError::BadField(head.kind, "roles"));
    }
    let (nonce, host) = (reader.array()?, PublicKey(reader.array()?));
    reader.finish()?;
    let is_secured = head.flags & FLAG_SECURED != 0;
    Ok(Hello { version_min, version_max, nonce, host, roles, is_secured })
}

fn decode_auth(payload: &[u8]) -> Result<Frame, FrameError> {
    let mut reader = Reader::new(payload);
    let (mac, signature) = (reader.array()?, Signature(reader.array()?));
    reader.finish()?;
    Ok(Frame::Auth { mac, signature })
}

fn decode_open(head: &Head, payload: &[u8]) -> Result<Frame, FrameError> {
    let mut reader = Reader::new(payload);
    let task = TaskId(reader.array()?);
    reader.finish()?;
    let bad_geometry = FrameError::BadField(head.kind, "geometry");
    let geometry = Geometry::from_parts(head.aux, head.count).ok_or(bad_geometry)?;
    Ok(Frame::Open { channel: head.channel, task, geometry })
}

fn decode_error(head: &Head, payload: &[u8]) -> Result<Frame, FrameError> {
    let code = ErrorCode::from_number(head.count).ok_or(FrameError::BadField(head.kind, "count"))?;
    let text = core::str::from_utf8(payload).map_err(|_| FrameError::BadField(head.kind, "text"))?;
    Ok(Frame::Error { channel: head.channel, code, text: String::from(text) })
}

/// The HAVE frames that show all of `pieces`, windows without a piece left out; one empty frame when there is none,
/// since OPEN wants an answer.
#[must_use]
pub fn have_windows(channel: u16, pieces: &PieceMap) -> Vec<Frame> {
    let bitmap = pieces.to_bytes();
    let firsts = (0..).step_by(CONTROL_BYTES_MAX as usize * 8);
    let windows = firsts.zip(bitmap.chunks(CONTROL_BYTES_MAX as usize));
    let mut frames: Vec<Frame> = windows
        .filter(|(_, bits)| bits.iter().any(|byte| *byte != 0))
        .map(|(first_piece, bits)| Frame::Have { channel, first_piece, bits: bits.to_vec() })
        .collect();
    if frames.is_empty() {
        frames.push(Frame::Have { channel, first_piece: 0, bits: Vec::new() });
    }
    frames
}

/// Adds the pieces of a HAVE window to `pieces` and says how many were new.
///
/// # Errors
/// A bit stands for a piece that the task does not have, or the window does not start at a multiple of 8: the peer's
/// fault. `pieces` is then unchanged.
pub fn apply_have(pieces: &mut PieceMap, first_piece: u32, bits: &[u8]) -> Result<u32, FrameError> {
    let bad = FrameError::BadField(FrameKind::Have, "bits");
    if !first_piece.is_multiple_of(8) {
        return Err(bad);
    }
    let piece_count = u64::from(pieces.piece_count());
    let last = bits.iter().rposition(|byte| *byte != 0);
    if let Some(last) = last {
        let bit = u64::from(7 - bits[last].leading_zeros());
        if u64::from(first_piece) + last as u64 * 8 + bit >= piece_count {
            return Err(bad);
        }
    }
    let mut added = 0;
    for (byte, first) in bits.iter().zip((first_piece..).step_by(8)) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            added += u32::from(pieces.insert(PieceIndex(first + bit)));
        }
    }
    Ok(added)
}

/// Bytes that are no frame of this version: the peer's fault, or it speaks something else. Remedy: close the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No such type byte.
    UnknownKind(u8),
    /// A HELLO without our magic: some other protocol.
    NotHawker,
    /// A payload longer or shorter than its kind allows.
    BadLength(FrameKind, u32),
    /// A field that holds no valid value, or something where its kind has nothing.
    BadField(FrameKind, &'static str),
    /// A payload that ends within a field.
    Payload(DecodeError),
}

impl From<DecodeError> for FrameError {
    fn from(error: DecodeError) -> Self {
        Self::Payload(error)
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(byte) => write!(f, "the peer sent a frame of unknown type {byte}"),
            Self::NotHawker => f.write_str("the peer does not speak Hawker's protocol"),
            Self::BadLength(kind, length) => write!(f, "the peer sent a {kind:?} frame of {length} bytes"),
            Self::BadField(kind, field) => write!(f, "the peer sent a {kind:?} frame whose `{field}` is invalid"),
            Self::Payload(error) => write!(f, "the peer sent a frame that cannot be read: {error}"),
        }
    }
}

impl core::error::Error for FrameError {}

#[cfg(test)]
mod tests;
