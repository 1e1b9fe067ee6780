//! Answers to send: a head that says exactly one thing, and where the body comes from.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::request::push_line;
use super::{ContentRange, HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, Selection, http_date, is_token_byte, is_value_byte};
use crate::ByteRange;

/// Fields that the session sets: where the body ends, and what becomes of the connection.
const RESERVED: [&str; 7] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"];
/// Room for what is added to a head: the status line, Date, Content-Length, Content-Range, Connection.
const ADDED_BYTES_MAX: usize = 512;

/// Bytes of an inline body, at most: the largest manifest that the distribution specification lets registries refuse.
/// What is larger is a content, which holds no memory of the session.
pub const HTTP_INLINE_BYTES_MAX: usize = 4 << 20;

/// An answer, checked: it cannot be taken for two answers or for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: ReplyBody,
}

/// What an answer carries. Give the same for HEAD as for GET: the session knows which it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// These bytes, in memory; may be empty, at most [`HTTP_INLINE_BYTES_MAX`].
    Inline(Vec<u8>),
    /// Bytes of a content that the shell holds or gets. With status 206 the session adds Content-Range.
    Content {
        /// Which bytes of the content.
        range: ByteRange,
        /// Bytes of the whole content.
        total: u64,
        /// The bytes from `range.start` up to this offset of the content are here; see `SessionInput::Available`.
        available: u64,
    },
}

/// An answer that cannot be sent: the fault of whoever made it. Values are not repeated, since they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// Not within 200..=599.
    Status,
    /// A header name that is no token.
    HeaderName(String),
    /// The value of this header holds a control character.
    HeaderValue(String),
    /// This header is the session's to set.
    Reserved(String),
    /// A line of more than 8 KiB, or nearly 32 KiB or 100 fields in all.
    TooLarge,
    /// A range beyond the content, an empty one with 206, content with 204 or 304, or an inline body that is too long.
    Body,
}

impl Reply {
    /// An answer with `headers` in order, spaces around their values taken off. For a Date see [`Self::dated`].
    ///
    /// # Errors
    /// See [`ReplyError`]. Headers that come from an upstream may be refused: answer 502 instead.
    pub fn new(status: u16, headers: Vec<(String, String)>, body: ReplyBody) -> Result<Self, ReplyError> {
        if !(200..=599).contains(&status) {
            return Err(ReplyError::Status);
        }
        for (name, value) in &headers {
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err(ReplyError::HeaderName(name.clone()));
            }
            if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
                return Err(ReplyError::Reserved(name.clone()));
            }
            if !value.bytes().all(is_value_byte) {
                return Err(ReplyError::HeaderValue(name.clone()));
            }
        }
        let is_bodiless = matches!(status, 204 | 304);
        let is_right = match &body {
            ReplyBody::Inline(bytes) => bytes.is_empty() || (!is_bodiless && bytes.len() <= HTTP_INLINE_BYTES_MAX),
            ReplyBody::Content { range, total, .. } => {
                range.end() <= *total && !is_bodiless && (status != 206 || !range.is_empty())
            }
        };
        if !is_right {
            return Err(ReplyError::Body);
        }
        let reply = Self { status, headers, body };
        let mut fields = Vec::new();
        let is_short = reply.headers.len() + 5 <= HTTP_FIELDS_MAX && reply.push_headers(&mut fields).is_some();
        if !is_short || fields.len() + ADDED_BYTES_MAX > HTTP_HEAD_BYTES_MAX {
            return Err(ReplyError::TooLarge);
        }
        Ok(reply)
    }

    /// The answer that `selection` means of a content of `total` bytes, of which those up to `available` are here. A 412
    /// or a 416 carries `error` instead, and `headers` are of whichever of the two it is.
    ///
    /// # Errors
    /// See [`ReplyError`]; a selection from a content of other length is [`ReplyError::Body`].
    pub fn selected(
        selection: Selection,
        total: u64,
        available: u64,
        mut headers: Vec<(String, String)>,
        error: Vec<u8>,
    ) -> Result<Self, ReplyError> {
        let content = |range| ReplyBody::Content { range, total, available };
        let body = match selection {
            Selection::Whole => content(ByteRange::from_length(0, total).ok_or(ReplyError::Body)?),
            Selection::Part(range) => content(range),
            Selection::NotModified => ReplyBody::Inline(Vec::new()),
            Selection::PreconditionFailed => ReplyBody::Inline(error),
            Selection::Unsatisfiable => {
                let all = ContentRange { range: None, total: Some(total) };
                headers.push((String::from("Content-Range"), all.to_string()));
                ReplyBody::Inline(error)
            }
        };
        Self::new(selection.status(), headers, body)
    }

    /// The same answer of a content with all or another part of it, as `selection` says; `None` when this is no 200 or 206
    /// of a content, or when the selection has none.
    #[must_use]
    pub fn reselected(&self, selection: Selection) -> Option<Self> {
        let ReplyBody::Content { total, .. } = self.body else { return None };
        let range = match selection {
            Selection::Whole => ByteRange::from_length(0, total)?,
            Selection::Part(range) => range,
            _ => return None,
        };
        let body = ReplyBody::Content { range, total, available: 0 };
        let is_of_content = matches!(self.status, 200 | 206);
        Self::new(selection.status(), self.headers.clone(), body).ok().filter(|_| is_of_content)
    }

    /// The same answer with the Date of `unix_s` seconds since 1970, unless it has one: the session has no clock of the
    /// day.
    #[must_use]
    pub fn dated(mut self, unix_s: u64) -> Self {
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("date")) {
            self.headers.push((String::from("Date"), http_date(unix_s)));
        }
        self
    }

    /// 200 to 599.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Its fields, without those that the session adds.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// What it carries.
    #[must_use]
    pub const fn body(&self) -> &ReplyBody {
        &self.body
    }

    /// Bytes of the body that a GET would get.
    #[must_use]
    pub fn length(&self) -> u64 {
        match &self.body {
            ReplyBody::Inline(bytes) => bytes.len() as u64,
            ReplyBody::Content { range, .. } => range.length(),
        }
    }

    /// The head's bytes. `connection` is the value of Connection, when one must be said.
    pub(super) fn encode_head(&self, connection: Option<&str>) -> Vec<u8> {
        self.try_encode_head(connection).expect("`new` left room for what is added")
    }

    fn try_encode_head(&self, connection: Option<&str>) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ADDED_BYTES_MAX);
        push_line(&mut bytes, &["HTTP/1.1 ", &self.status.to_string(), " ", reason(self.status)])?;
        self.push_headers(&mut bytes)?;
        if let (206, ReplyBody::Content { range, total, .. }) = (self.status, &self.body) {
            let content_range = ContentRange { range: Some(*range), total: Some(*total) };
            push_line(&mut bytes, &["Content-Range: ", &content_range.to_string()])?;
        }
        // RFC 9110, section 8.6: never with 204; with 304 it would have to be the length of a 200.
        if !matches!(self.status, 204 | 304) {
            push_line(&mut bytes, &["Content-Length: ", &self.length().to_string()])?;
        }
        if let Some(connection) = connection {
            push_line(&mut bytes, &["Connection: ", connection])?;
        }
        push_line(&mut bytes, &[])?;
        Some(bytes)
    }

    fn push_headers(&self, bytes: &mut Vec<u8>) -> Option<()> {
        self.headers
            .iter()
            .try_for_each(|(name, value)| push_line(bytes, &[name, ": ", value.trim_matches([' ', '\t'])]))
    }
}

/// The phrases of RFC 9110, section 15; clients ignore them, people read them.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.write_str("the answer's status is not within 200 to 599"),
            Self::HeaderName(name) => write!(f, "{name:?} is not a valid header name"),
            Self::HeaderValue(name) => write!(f, "the value of header {name} holds a control character"),
            Self::Reserved(name) => write!(f, "header {name} is set by the session and cannot be given"),
            Self::TooLarge => f.write_str("the answer's head is too large: 8 KiB a line, 32 KiB and 100 fields in all"),
            Self::Body => f.write_str("the answer's body does not fit its status or its content"),
        }
    }
}

impl core::error::Error for ReplyError {}
