//! Requests that come in. What two servers could read as two different requests is refused (RFC 9112, section 11.2),
//! some of it stricter than the RFC asks: this is no server for old browsers, and a proxy may stand on either side.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::head::{HeadScan, content_length, is_connection_option, items, parse_fields, values};
use super::{BodyFraming, Refusal, RequestHead, is_token_byte};

/// First byte of a TLS record that holds a handshake: RFC 8446, section 5.1.
const TLS_HANDSHAKE: u8 = 22;

/// A request, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub head: RequestHead,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub version_minor: u8,
    /// Where its body ends: never `UntilClose`.
    pub framing: BodyFraming,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// The client would send another request over this connection.
    pub is_kept_alive: bool,
}

/// Takes requests off the front of what has arrived, the same however it arrives.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestReader {
    scan: HeadScan,
    skipped: usize,
}

impl RequestReader {
    /// The request head at the start of `buf` and how many bytes it takes; `None` when it has not all arrived yet. `buf`
    /// starts with what earlier calls saw.
    pub(super) fn read(&mut self, buf: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
        // Some clients send one CR LF too many behind a body: RFC 9112, section 2.2.
        if self.skipped == 0 {
            match buf {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => self.skipped = 2,
                _ => {}
            }
        }
        let head = &buf[self.skipped.min(buf.len())..];
        match head.first().copied() {
            None => return Ok(None),
            Some(TLS_HANDSHAKE) => return Err(Refusal::Tls),
            Some(byte) if !is_token_byte(byte) => return Err(Refusal::RequestLine),
            Some(_) => {}
        }
        let found = self.scan.scan(head).map_err(|error| Refusal::of_head(error, self.scan.is_in_first_line()))?;
        let Some(head_bytes) = found else { return Ok(None) };
        let request = parse_request(&head[..head_bytes])?;
        Ok(Some((request, self.skipped + head_bytes)))
    }
}

/// `head` ends with its empty line, and all its lines end in CR LF.
fn parse_request(head: &[u8]) -> Result<Request, Refusal> {
    let line_end = head.iter().position(|byte| *byte == b'\r').ok_or(Refusal::RequestLine)?;
    let (method, target, version) = request_line(&head[..line_end])?;
    let version_minor = version_minor(version)?;
    if method == "CONNECT" {
        return Err(Refusal::Connect);
    }
    check_target(target)?;
    let fields = parse_fields(&head[line_end + 2..]).map_err(|error| Refusal::of_head(error, false))?;
    let host = host(&fields, version_minor)?.to_owned();
    let framing = framing(method, &fields, version_minor)?;
    let expects_continue = expects_continue(&fields, version_minor)?;
    let is_kept_alive =
        !is_connection_option(&fields, "close") && (version_minor == 1 || is_connection_option(&fields, "keep-alive"));
    let headers: Vec<(String, String)> = fields.into_iter().filter(|(name, _)| name != "host").collect();
    let head = RequestHead { method: method.to_owned(), target: target.to_owned(), host, headers };
    Ok(Request { head, version_minor, framing, expects_continue, is_kept_alive })
}

/// Single spaces and nothing else between the three: servers that split at any white space see other targets.
fn request_line(line: &[u8]) -> Result<(&str, &str, &str), Refusal> {
    let line = core::str::from_utf8(line).map_err(|_| Refusal::RequestLine)?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    let is_method = !method.is_empty() && method.bytes().all(is_token_byte);
    if is_method { Ok((method, target, version)) } else { Err(Refusal::RequestLine) }
}

fn version_minor(version: &str) -> Result<u8, Refusal> {
    match version.as_bytes() {
        b"HTTP/1.0" => Ok(0),
        b"HTTP/1.1" => Ok(1),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Refusal::Version)
        }
        _ => Err(Refusal::RequestLine),
    }
}

/// `absolute-form` names a second host beside Host's and is refused although RFC 9112 wants it taken: only clients of a
/// forward proxy send it.
fn check_target(target: &str) -> Result<(), Refusal> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b'\\';
    if !target.starts_with('/') || !target.bytes().all(is_plain) {
        return Err(Refusal::Target);
    }
    let mut escapes = target.split('%').skip(1);
    let is_text = |escape: &str| {
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).is_some_and(|byte| !byte.is_ascii_control())
    };
    let path = target.split('?').next().unwrap_or_default().to_ascii_lowercase();
    let path = path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let is_steady = !path.split('/').any(|segment| segment == "." || segment == "..");
    if escapes.all(is_text) && is_steady { Ok(()) } else { Err(Refusal::Target) }
}

fn host(fields: &[(String, String)], version_minor: u8) -> Result<&str, Refusal> {
    let mut hosts = values(fields, "host");
    let (first, second) = (hosts.next(), hosts.next());
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(&byte);
    match (first, second) {
        (None, None) if version_minor == 0 => Ok(""),
        (Some(host), None) if !host.is_empty() && host.bytes().all(is_host_byte) => Ok(host),
        _ => Err(Refusal::Host),
    }
}

/// Where the body ends: RFC 9112, section 6.3.
fn framing(method: &str, fields: &[(String, String)], version_minor: u8) -> Result<BodyFraming, Refusal> {
    let length = content_length(fields).map_err(|error| Refusal::of_head(error, false))?;
    if values(fields, "transfer-encoding").next().is_some() {
        if length.is_some() {
            return Err(Refusal::TwoLengths);
        }
        return coding(fields, version_minor).map(|()| BodyFraming::Chunked);
    }
    match length {
        Some(0) => Ok(BodyFraming::Empty),
        Some(length) => Ok(BodyFraming::Length(length)),
        // Such a body would end with the connection; read as empty it would be the next request.
        None if version_minor == 0 && matches!(method, "POST" | "PUT" | "PATCH") => Err(Refusal::NoLength),
        None => Ok(BodyFraming::Empty),
    }
}

/// Exactly `chunked` is taken. Whether another list means 400 or 501 depends on whether the body's end is known.
fn coding(fields: &[(String, String)], version_minor: u8) -> Result<(), Refusal> {
    let is_chunked = |item: &str| item.eq_ignore_ascii_case("chunked");
    let mut codings: Vec<&str> = items(fields, "transfer-encoding").collect();
    let is_last_chunked = codings.pop().is_some_and(is_chunked);
    let is_coding = |item: &&str| !item.is_empty() && item.bytes().all(is_token_byte) && !is_chunked(item);
    match (is_last_chunked && version_minor == 1, codings.is_empty()) {
        (true, true) => Ok(()),
        (true, false) if codings.iter().all(is_coding) => Err(Refusal::UnknownCoding),
        _ => Err(Refusal::TransferEncoding),
    }
}

/// HTTP/1.0 knows no Expect: RFC 9110, section 10.1.1.
fn expects_continue(fields: &[(String, String)], version_minor: u8) -> Result<bool, Refusal> {
    let mut expected = items(fields, "expect");
    match (expected.next(), expected.next()) {
        _ if version_minor == 0 => Ok(false),
        (None, _) => Ok(false),
        (Some(item), None) if item.eq_ignore_ascii_case("100-continue") => Ok(true),
        _ => Err(Refusal::Expectation),
    }
}
