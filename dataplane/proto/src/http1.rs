//! HTTP/1.1. As an origin's client needs it: request heads out, response heads and chunked bodies in, and what an answer
//! means. As a server needs it: `HttpSession`, and what part of a content a request asks for (`select`). Bytes come from outside, so that every reading that two parsers could differ on is refused (RFC 9112, section
//! 11.2): a bare LF, a folded line, two lengths, `Content-Length: +5`. httparse splits the lines; the rules are ours.

mod answer;
mod chunked;
mod conditional;
mod date;
mod forward;
mod head;
mod incoming;
mod range;
mod redirect;
mod refusal;
mod reply;
mod request;
mod response;
mod session;

use core::fmt;

pub use answer::{MalformedReason, OriginAnswer, interpret, is_transient};
pub use chunked::{ChunkStep, ChunkedDecoder};
pub use conditional::{Content, Selection, select};
pub use date::{http_date, parse_date};
pub use forward::forwardable_headers;
pub use incoming::Request;
pub use range::{ContentRange, range_header};
pub use redirect::{REDIRECTS_MAX, RedirectError, headers_after_redirect, redirect_target};
pub use refusal::Refusal;
pub use reply::{HTTP_INLINE_BYTES_MAX, Reply, ReplyBody, ReplyError};
pub use request::{RequestError, RequestHead};
pub use response::{BodyFraming, ResponseHead, parse_response};
pub use session::{HttpSession, SessionConfig, SessionInput, SessionOutput};

/// Bytes of a head, at most, and of all trailers together a quarter of that.
pub const HTTP_HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of one line of a head, at most.
pub const HTTP_LINE_BYTES_MAX: usize = 8 * 1024;
/// Fields of a head, at most.
pub const HTTP_FIELDS_MAX: usize = 100;

/// Bytes that are no HTTP/1.1 response which has only one reading. The origin's fault (or that of something between);
/// the remedy is to close the connection and ask elsewhere or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// They do not start with `HTTP/1.0` or `HTTP/1.1`.
    NotHttp1,
    /// More than [`HTTP_HEAD_BYTES_MAX`] bytes of head.
    HeadTooLarge,
    /// A line of more than [`HTTP_LINE_BYTES_MAX`] bytes.
    LineTooLong,
    /// More than [`HTTP_FIELDS_MAX`] fields.
    TooManyFields,
    /// A line that does not end in CR LF, or a control character in one.
    BareControl,
    /// A status line that is none.
    StatusLine,
    /// A field without a valid name, a folded one, or a space before the colon.
    Field,
    /// A Content-Length that is not one plain number, or two of them.
    ContentLength,
    /// A Transfer-Encoding other than exactly `chunked`, or one on HTTP/1.0.
    TransferEncoding,
    /// Both Content-Length and Transfer-Encoding.
    TwoLengths,
    /// A body where the status allows none.
    UnexpectedBody,
    /// A chunk's size that is no plain hexadecimal number of at most 16 digits.
    ChunkSize,
    /// A chunk's extension of more than 1 KiB or with control characters.
    ChunkExtension,
    /// A chunk's data that is not followed by CR LF.
    ChunkEnd,
    /// A trailer that is malformed, too long, or names a field that belongs into the head.
    Trailer,
    /// A body longer than was agreed to take.
    BodyTooLong,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp1 => "the origin does not answer in HTTP/1.1",
            Self::HeadTooLarge => "the response head is larger than 32 KiB",
            Self::LineTooLong => "a line of the response head is longer than 8 KiB",
            Self::TooManyFields => "the response has more than 100 header fields",
            Self::BareControl => "a line of the response holds a control character or does not end in CR LF",
            Self::StatusLine => "the response has an invalid status line",
            Self::Field => "the response has an invalid header field",
            Self::ContentLength => "the response's Content-Length is not one plain number",
            Self::TransferEncoding => "the response's Transfer-Encoding is not `chunked`",
            Self::TwoLengths => "the response has both Content-Length and Transfer-Encoding",
            Self::UnexpectedBody => "the response announces a body that its status forbids",
            Self::ChunkSize => "the response's body has an invalid chunk size",
            Self::ChunkExtension => "the response's body has an invalid chunk extension",
            Self::ChunkEnd => "a chunk of the response's body does not end where it said",
            Self::Trailer => "the response's body has an invalid trailer",
            Self::BodyTooLong => "the response's body is longer than agreed",
        })
    }
}

impl core::error::Error for HttpError {}

/// A byte that may stand in a header name or a method: RFC 9110, section 5.6.2.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

/// A byte that may stand in a header value: RFC 9110, section 5.5.
const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)
}

/// A number in digits only, without leading zeros, below 2^63: the form that every parser reads alike.
fn parse_number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|number| is_plain && *number < 1 << 63)
}

#[cfg(test)]
mod tests;
