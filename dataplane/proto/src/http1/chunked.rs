//! Chunked bodies (RFC 9112, section 7.1), taken as they arrive: byte by byte gives the same as all at once.

use core::ops::Range;

use super::{HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, HttpError, is_token_byte, is_value_byte};

const SIZE_DIGITS_MAX: u8 = 16;
const EXTENSION_BYTES_MAX: u32 = 1024;
const TRAILER_BYTES_MAX: usize = HTTP_HEAD_BYTES_MAX / 4;

/// Fields that mean something only in a head; in a trailer they are an attack.
const NOT_IN_TRAILERS: [&str; 6] =
    ["content-encoding", "content-length", "content-range", "host", "trailer", "transfer-encoding"];
/// Longer than any of those.
const NAME_BYTES_KEPT: usize = 24;

/// What one call of [`ChunkedDecoder::feed`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkStep {
    /// Bytes of the input that are done with; feed the rest again.
    pub consumed: usize,
    /// Which bytes of the input are body; may be empty.
    pub data: Range<usize>,
}

/// Takes the framing off a chunked body. Holds a few bytes of state, never data; trailers are checked and skipped.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Bytes of body that may still come.
    budget: u64,
    /// Bytes of this chunk that are still to come.
    remaining: u64,
    digits: u8,
    extension_bytes: u32,
    trailer_bytes: usize,
    trailer_fields: usize,
    name: [u8; NAME_BYTES_KEPT],
    name_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
    Failed(HttpError),
}

impl ChunkedDecoder {
    /// A decoder of a body of at most `body_bytes_max` bytes.
    #[must_use]
    pub const fn new(body_bytes_max: u64) -> Self {
        Self {
            state: State::Size,
            budget: body_bytes_max,
            remaining: 0,
            digits: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
            name: [0; NAME_BYTES_KEPT],
            name_bytes: 0,
        }
    }

    /// Takes bytes off the front of `input`, up to and with the first run of body bytes in it. Call again with what is
    /// left until all is consumed or [`Self::is_done`]; what is left then belongs to the next response.
    ///
    /// # Errors
    /// The bytes are no chunked body, or it is longer than agreed: the origin's fault; close the connection. Every
    /// later call says the same.
    pub fn feed(&mut self, input: &[u8]) -> Result<ChunkStep, HttpError> {
        for (index, byte) in input.iter().copied().enumerate() {
            if self.state == State::Data {
                let available = (input.len() - index) as u64;
                let taken = usize::try_from(self.remaining.min(available)).unwrap_or(0);
                self.remaining -= taken as u64;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(ChunkStep { consumed: index + taken, data: index..index + taken });
            }
            if self.state == State::Done {
                return Ok(ChunkStep { consumed: index, data: index..index });
            }
            match self.step(byte) {
                Ok(state) => self.state = state,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            }
        }
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        Ok(ChunkStep { consumed: input.len(), data: input.len()..input.len() })
    }

    /// Whether the body and its trailers have ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The state after a byte that is not data.
    fn step(&mut self, byte: u8) -> Result<State, HttpError> {
        match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => Ok(State::SizeLf),
            (State::Size, b';') if self.digits > 0 => Ok(State::Extension),
            (State::Size, digit) => self.add_digit(digit),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, byte) => {
                self.extension_bytes += 1;
                let is_taken = is_value_byte(byte) && self.extension_bytes <= EXTENSION_BYTES_MAX;
                if is_taken { Ok(State::Extension) } else { Err(HttpError::ChunkExtension) }
            }
            (State::SizeLf, b'\n') => self.start_data(),
            (State::SizeLf, _) => Err(HttpError::ChunkSize),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                (self.digits, self.extension_bytes) = (0, 0);
                Ok(State::Size)
            }
            (State::DataCr | State::DataLf, _) => Err(HttpError::ChunkEnd),
            (State::Data | State::Done, _) => Ok(self.state),
            (State::Failed(error), _) => Err(error),
            (_, byte) => self.step_trailer(byte),
        }
    }

    fn add_digit(&mut self, byte: u8) -> Result<State, HttpError> {
        let digit = char::from(byte).to_digit(16).ok_or(HttpError::ChunkSize)?;
        if self.digits == SIZE_DIGITS_MAX {
            return Err(HttpError::ChunkSize);
        }
        self.digits += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn start_data(&mut self) -> Result<State, HttpError> {
        self.budget = self.budget.checked_sub(self.remaining).ok_or(HttpError::BodyTooLong)?;
        Ok(if self.remaining == 0 { State::TrailerStart } else { State::Data })
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, HttpError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(HttpError::Trailer);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerName, b':') => self.end_name(),
            (State::TrailerStart, byte) if is_token_byte(byte) => {
                self.trailer_fields += 1;
                self.name_bytes = 0;
                self.keep_name_byte(byte);
                let is_taken = self.trailer_fields <= HTTP_FIELDS_MAX;
                if is_taken { Ok(State::TrailerName) } else { Err(HttpError::Trailer) }
            }
            (State::TrailerName, byte) if is_token_byte(byte) => {
                self.keep_name_byte(byte);
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, byte) if is_value_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(HttpError::Trailer),
        }
    }

    fn keep_name_byte(&mut self, byte: u8) {
        if let Some(slot) = self.name.get_mut(self.name_bytes) {
            *slot = byte.to_ascii_lowercase();
        }
        self.name_bytes += 1;
    }

    fn end_name(&self) -> Result<State, HttpError> {
        let name = self.name.get(..self.name_bytes).unwrap_or_default();
        let is_refused = NOT_IN_TRAILERS.iter().any(|refused| refused.as_bytes() == name);
        if is_refused { Err(HttpError::Trailer) } else { Ok(State::TrailerValue) }
    }
}
