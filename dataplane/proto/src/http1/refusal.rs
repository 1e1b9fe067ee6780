//! Requests that are not taken, and what to answer to them.

use core::fmt;

use super::HttpError;

/// Why a request is refused: the client's fault, or that of something between. The answer says [`Self::status`], and
/// the connection ends behind it, because where the next request would start is not certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A TLS ClientHello on a port that speaks plain HTTP.
    Tls,
    /// A request line that is not `METHOD SP TARGET SP VERSION`.
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1, the preface of HTTP/2 among them.
    Version,
    /// A target that is not `/` and what follows it, or one that two servers could read as two things.
    Target,
    /// A request line of more than 8 KiB.
    TargetTooLong,
    /// A field line of more than 8 KiB, or more than 32 KiB or 100 fields in all.
    HeadTooLarge,
    /// A line that does not end in CR LF, or NUL.
    BareControl,
    /// A field without a valid name, a folded one, a space before the colon, a control character in a value.
    Field,
    /// CONNECT: this is no tunnel.
    Connect,
    /// No Host in HTTP/1.1, several, or one that names no host.
    Host,
    /// A Content-Length that is not one plain number, or two of them.
    ContentLength,
    /// `chunked` is not the last coding, or stands there twice, or in HTTP/1.0: where the body ends is anybody's guess.
    TransferEncoding,
    /// A known end, but another coding before `chunked`.
    UnknownCoding,
    /// Both Content-Length and Transfer-Encoding.
    TwoLengths,
    /// A method that has a body, in HTTP/1.0 and without a Content-Length.
    NoLength,
    /// More body than is taken.
    BodyTooLong,
    /// An Expect other than `100-continue`.
    Expectation,
    /// Chunks that are none.
    Chunk,
}

impl Refusal {
    /// The status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoLength => 411,
            Self::BodyTooLong => 413,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::Connect | Self::UnknownCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// What a fault in a body means.
    pub(super) const fn of_body(error: HttpError) -> Self {
        match error {
            HttpError::BodyTooLong => Self::BodyTooLong,
            _ => Self::Chunk,
        }
    }

    /// What a fault in the lines of a head means.
    pub(super) const fn of_head(error: HttpError, is_in_first_line: bool) -> Self {
        match error {
            HttpError::BareControl => Self::BareControl,
            HttpError::LineTooLong if is_in_first_line => Self::TargetTooLong,
            HttpError::LineTooLong | HttpError::HeadTooLarge | HttpError::TooManyFields => Self::HeadTooLarge,
            HttpError::ContentLength => Self::ContentLength,
            _ => Self::Field,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "this port speaks plain HTTP, and the client began with TLS: use http:// for it",
            Self::RequestLine => "the request line is not a method, a target and a version",
            Self::Version => "this port speaks HTTP/1.0 and HTTP/1.1 only",
            Self::Target => "the request's target is not a plain path and query",
            Self::TargetTooLong => "the request line is longer than 8 KiB",
            Self::HeadTooLarge => "the request's head is too large: 8 KiB a line, 32 KiB and 100 fields in all",
            Self::BareControl => "a line of the request holds NUL or does not end in CR LF",
            Self::Field => "the request has an invalid header field",
            Self::Connect => "this port is no proxy for CONNECT",
            Self::Host => "the request needs exactly one Host header that names a host",
            Self::ContentLength => "the request's Content-Length is not one plain number",
            Self::TransferEncoding => "the request's Transfer-Encoding does not say where its body ends",
            Self::UnknownCoding => "the request has a Transfer-Encoding other than chunked",
            Self::TwoLengths => "the request has both Content-Length and Transfer-Encoding",
            Self::NoLength => "the request has a body without a Content-Length",
            Self::BodyTooLong => "the request's body is longer than is taken here",
            Self::Expectation => "the request expects something other than 100-continue",
            Self::Chunk => "the request's body is not properly chunked",
        })
    }
}

impl core::error::Error for Refusal {}
