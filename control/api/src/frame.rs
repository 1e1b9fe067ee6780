//! Framing of the local socket: a little-endian u32 length, at most 1 MiB, and that many bytes of protobuf.
//!
//! It works on buffers only, so that a blocking command line and an async agent share it.

use std::fmt;

use prost::Message;

/// Largest message on the local socket. A peer that names more is refused before anything is allocated for it.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of the length before each message.
pub const HEAD_BYTES: usize = 4;

/// Appends `message` with its length to `out`.
///
/// # Errors
/// [`FrameError::TooLong`]: ours, the message must be split (see `TaskList.more`). `out` is unchanged then.
pub fn encode(message: &impl Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let length = message.encoded_len();
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let head = u32::try_from(length).map_err(|_| FrameError::TooLong(length))?;
    out.extend_from_slice(&head.to_le_bytes());
    message.encode(out).map_err(|_| FrameError::TooLong(length))
}

/// How many bytes follow this head.
///
/// # Errors
/// [`FrameError::TooLong`]: the other side's fault; the connection cannot be used any further.
pub fn payload_bytes(head: [u8; HEAD_BYTES]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

/// Takes the first whole message off `buffer`: the message and the bytes it took, or `None` while it is incomplete.
///
/// # Errors
/// The bytes are no frame, or their payload is no `M`: the other side's fault; the connection is of no further use.
pub fn decode<M: Message + Default>(buffer: &[u8]) -> Result<Option<(M, usize)>, FrameError> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = payload_bytes(*head)?;
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let message = M::decode(payload).map_err(|_| FrameError::Malformed)?;
    Ok(Some((message, HEAD_BYTES + length)))
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A message of so many bytes, more than [`FRAME_BYTES_MAX`].
    TooLong(usize),
    /// The payload is not protobuf of the expected message.
    Malformed,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "a message of {length} bytes; at most {FRAME_BYTES_MAX} are taken"),
            Self::Malformed => f.write_str("the message is not valid protobuf of its type"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Event, Removed, Request, Stat, event, request};

    fn request_of(task: &str) -> Request {
        Request { request: Some(request::Request::Stat(Stat { task: task.into() })) }
    }

    #[test]
    fn message_split_anywhere_is_put_together() {
        let (first, second) = (request_of("ab"), request_of(&"c".repeat(64)));
        let mut bytes = Vec::new();
        encode(&first, &mut bytes).unwrap();
        encode(&second, &mut bytes).unwrap();
        for cut in 0..bytes.len() {
            let mut buffer = Vec::new();
            let mut seen = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some((message, taken)) = decode::<Request>(&buffer).unwrap() {
                    seen.push(message);
                    buffer.drain(..taken);
                }
            }
            assert_eq!(seen, [first.clone(), second.clone()], "cut at {cut}");
        }
    }

    #[test]
    fn frame_above_the_cap_is_refused_before_its_bytes_arrive() {
        let head = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
        assert_eq!(decode::<Request>(&head), Err(FrameError::TooLong(FRAME_BYTES_MAX + 1)));
        let long =
            Event { event: Some(event::Event::Removed(Removed { task: "x".repeat(FRAME_BYTES_MAX), bytes_freed: 0 })) };
        let mut out = Vec::new();
        assert!(matches!(encode(&long, &mut out), Err(FrameError::TooLong(_))));
        assert!(out.is_empty());
    }

    #[test]
    fn payload_that_is_no_message_is_malformed() {
        assert_eq!(decode::<Request>(&[2, 0, 0, 0, 0xff, 0xff]), Err(FrameError::Malformed));
    }
}
