//! What goes wrong with frames, here and at the peer.

use core::fmt;

use super::FrameKind;
use crate::wire::DecodeError;

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

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u32 == number)
    }
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
