//! Response heads, and where the body behind one ends.

use alloc::string::String;
use alloc::vec::Vec;

use super::head::{self, HeadScan, owned};
use super::{HTTP_FIELDS_MAX, HttpError};

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub version_minor: u8,
    /// Fields in order, names in lower case. A value that is not UTF-8 is read as Latin-1.
    pub headers: Vec<(String, String)>,
}

/// Where a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    Empty,
    /// After so many bytes; may be zero.
    Length(u64),
    /// Where the chunks say: see `ChunkedDecoder`.
    Chunked,
    /// Where the connection ends; a cut body looks whole.
    UntilClose,
}

/// The response head at the start of `buf` and how many bytes it takes; `None` when it has not all arrived yet.
///
/// # Errors
/// The bytes are no response head, whatever may follow: the origin's fault; close the connection.
pub fn parse_response(buf: &[u8]) -> Result<Option<(ResponseHead, usize)>, HttpError> {
    let prefix = b"HTTP/1.";
    let common = prefix.len().min(buf.len());
    if buf[..common] != prefix[..common] {
        return Err(HttpError::NotHttp1);
    }
    let Some(head_bytes) = HeadScan::default().scan(buf)? else { return Ok(None) };
    let mut fields = [httparse::EMPTY_HEADER; HTTP_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let status = response.parse(&buf[..head_bytes]).map_err(|error| match error {
        httparse::Error::Version => HttpError::NotHttp1,
        httparse::Error::Status => HttpError::StatusLine,
        httparse::Error::TooManyHeaders => HttpError::TooManyFields,
        _ => HttpError::Field,
    })?;
    if status != httparse::Status::Complete(head_bytes) {
        return Err(HttpError::StatusLine);
    }
    let (Some(status @ 100..=599), Some(version_minor)) = (response.code, response.version) else {
        return Err(HttpError::StatusLine);
    };
    Ok(Some((ResponseHead { status, version_minor, headers: owned(response.headers) }, head_bytes)))
}

impl ResponseHead {
    /// The first value of field `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// All values of field `name`, in any case and in order.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        head::values(&self.headers, name)
    }

    /// The announced length, checked even where it frames nothing (HEAD, 304).
    ///
    /// # Errors
    /// [`HttpError::ContentLength`].
    pub fn content_length(&self) -> Result<Option<u64>, HttpError> {
        head::content_length(&self.headers)
    }

    /// Where the body ends (RFC 9112, section 6.3).
    ///
    /// # Errors
    /// There is more than one reading of it: the origin's fault; close the connection, take no byte of the body.
    pub fn framing(&self, is_head_request: bool) -> Result<BodyFraming, HttpError> {
        let length = self.content_length()?;
        let mut encodings = self.values("transfer-encoding");
        let encoding = encodings.next();
        if let Some(encoding) = encoding {
            if length.is_some() {
                return Err(HttpError::TwoLengths);
            }
            let is_chunked = encoding.eq_ignore_ascii_case("chunked") && encodings.next().is_none();
            if !is_chunked || self.version_minor == 0 {
                return Err(HttpError::TransferEncoding);
            }
        }
        match self.status {
            100..=199 | 204 if encoding.is_some() || length.is_some_and(|length| length != 0) => {
                Err(HttpError::UnexpectedBody)
            }
            100..=199 | 204 | 304 => Ok(BodyFraming::Empty),
            _ if is_head_request => Ok(BodyFraming::Empty),
            _ if encoding.is_some() => Ok(BodyFraming::Chunked),
            _ => Ok(length.map_or(BodyFraming::UntilClose, BodyFraming::Length)),
        }
    }

    /// Whether this is a 1xx, after which the real response follows.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Whether another request may go over the connection once the body has ended exactly where it should.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        let says = |option: &str| head::is_connection_option(&self.headers, option);
        let is_kept = !says("close") && (self.version_minor == 1 || says("keep-alive"));
        is_kept && self.framing(false).is_ok_and(|framing| framing != BodyFraming::UntilClose)
    }
}
