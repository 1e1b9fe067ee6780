//! The body of a request, as it comes.

use alloc::vec::Vec;

use crate::http1::{BodyFraming, ChunkedDecoder, Refusal};

/// What is still to come of a body.
#[derive(Clone, Debug)]
pub(super) enum Incoming {
    /// So many bytes.
    Length(u64),
    /// What the chunks say.
    Chunked(ChunkedDecoder),
}

/// Whether anybody wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The shell has not said yet.
    Undecided,
    /// The shell takes it; `is_lent`: it has a part and has not given word back.
    Taken { is_lent: bool },
    /// It is read so that the connection can go on, and thrown away.
    Drained,
}

impl Incoming {
    pub(super) const fn new(framing: BodyFraming, body_bytes_max: u64) -> Self {
        match framing {
            BodyFraming::Length(length) => Self::Length(length),
            BodyFraming::Chunked => Self::Chunked(ChunkedDecoder::new(body_bytes_max)),
            BodyFraming::Empty | BodyFraming::UntilClose => Self::Length(0),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// Whether so few bytes are left that reading them is cheaper than a new connection.
    pub(super) fn is_short(&self, bytes_max: u64) -> bool {
        match self {
            Self::Length(left) => *left <= bytes_max,
            Self::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// Takes what belongs to the body off the front of `input`, its data into `data`; returns how many bytes that were.
    /// Data before a fault comes first, the fault with the next call: so it is, too, when they arrive one by one.
    pub(super) fn take(&mut self, input: &[u8], data: &mut Vec<u8>) -> Result<usize, Refusal> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                data.extend_from_slice(&input[..taken]);
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(decoder) => {
                let mut taken = 0;
                while taken < input.len() && !decoder.is_done() {
                    let rest = &input[taken..];
                    let step = match decoder.feed(rest) {
                        Ok(step) => step,
                        Err(_) if taken > 0 => break,
                        Err(error) => return Err(Refusal::of_body(error)),
                    };
                    data.extend_from_slice(&rest[step.data]);
                    taken += step.consumed;
                }
                Ok(taken)
            }
        }
    }
}
