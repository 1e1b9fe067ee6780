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

mod error;
mod have;
mod head;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

pub use error::{ErrorCode, FrameError};
pub use have::{apply_have, have_windows};
pub use head::{FrameKind, Head};

use crate::geometry::PIECE_BYTES_MAX;
use crate::wire::Reader;
use crate::{BLOCK_BYTES, BlockIndex, Geometry, PieceIndex, PublicKey, Signature, TaskId};
use head::{FLAG_SECURED, MAGIC};

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
        /// Blocks it sends before the link queues again, or more when they take next to no time.
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

#[cfg(test)]
mod tests;
