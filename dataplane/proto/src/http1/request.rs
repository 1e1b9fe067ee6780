//! Request heads.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::head;
use super::{HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_LINE_BYTES_MAX, is_token_byte, is_value_byte};

/// Fields that say where a message ends or what becomes of the connection: ours to set, never a user's.
const RESERVED: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "proxy-connection"];

/// The head of a request: one to send, which has no body, or one that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// `GET` or `HEAD` in one to send; any token, `CONNECT` excepted, in one that came.
    pub method: String,
    /// Path and query: `Url::target`. One that came starts with `/`, is printable ASCII, and its path has no dot segment,
    /// not even an encoded one; it is as the client wrote it otherwise.
    pub target: String,
    /// The Host header: `Url::authority`. Empty when an HTTP/1.0 client sent none.
    pub host: String,
    /// All other fields, in order; in a head that came, names are in lower case, and a value that is not UTF-8 is read
    /// as Latin-1.
    pub headers: Vec<(String, String)>,
}

impl RequestHead {
    /// The first value of field `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// All values of field `name`, in any case and in order.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        head::values(&self.headers, name)
    }

    /// The bytes to send.
    ///
    /// # Errors
    /// Something in it cannot be sent, or would end the head early: the fault of the user who gave that header or URL.
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
        if !is_token(&self.method) {
            return Err(RequestError::Method);
        }
        if !self.target.starts_with('/') || !self.target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RequestError::Target);
        }
        if self.host.is_empty() || !self.host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RequestError::Host);
        }
        if self.headers.len() >= HTTP_FIELDS_MAX {
            return Err(RequestError::TooLarge);
        }
        let mut bytes = Vec::new();
        push_line(&mut bytes, &[&self.method, " ", &self.target, " HTTP/1.1"]).ok_or(RequestError::TooLarge)?;
        push_line(&mut bytes, &["Host: ", &self.host]).ok_or(RequestError::TooLarge)?;
        for (name, value) in &self.headers {
            if !is_token(name) {
                return Err(RequestError::HeaderName(name.clone()));
            }
            if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
                return Err(RequestError::Reserved(name.clone()));
            }
            if !value.bytes().all(is_value_byte) {
                return Err(RequestError::HeaderValue(name.clone()));
            }
            push_line(&mut bytes, &[name, ": ", value.trim_matches([' ', '\t'])]).ok_or(RequestError::TooLarge)?;
        }
        push_line(&mut bytes, &[]).ok_or(RequestError::TooLarge)?;
        Ok(bytes)
    }
}

/// Appends one line; `None` when it, or the head with it, is too long.
pub(super) fn push_line(bytes: &mut Vec<u8>, parts: &[&str]) -> Option<()> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 2;
    if length > HTTP_LINE_BYTES_MAX || bytes.len() + length > HTTP_HEAD_BYTES_MAX {
        return None;
    }
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    Some(())
}

/// Why a request cannot be sent: the fault of the user who gave the URL or the header. Values are not repeated, since
/// they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The method is no token.
    Method,
    /// The target does not start with `/`, or holds a space, a control character or something beyond ASCII.
    Target,
    /// The host holds such a character, or is empty.
    Host,
    /// A header name that is no token.
    HeaderName(String),
    /// The value of this header holds a control character.
    HeaderValue(String),
    /// This header is Hawker's to set.
    Reserved(String),
    /// A line of more than 8 KiB, or more than 32 KiB or 100 fields in all.
    TooLarge,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("the method is not a word of letters"),
            Self::Target => f.write_str("the URL's path holds a character that must be percent-encoded"),
            Self::Host => f.write_str("the URL's host cannot be sent in a Host header"),
            Self::HeaderName(name) => write!(f, "{name:?} is not a valid header name"),
            Self::HeaderValue(name) => write!(f, "the value of header {name} holds a control character"),
            Self::Reserved(name) => write!(f, "header {name} is set by Hawker and cannot be given"),
            Self::TooLarge => {
                f.write_str("the request's headers are too large: 8 KiB a line, 32 KiB and 100 fields in all")
            }
        }
    }
}

impl core::error::Error for RequestError {}
