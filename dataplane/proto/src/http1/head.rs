//! What the heads of requests and responses share: where one ends, and how fields are read.

use alloc::string::String;
use alloc::vec::Vec;

use super::{HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_LINE_BYTES_MAX, HttpError, parse_number};

/// Looks for the end of a head as it arrives: every byte is looked at once, so that a head which comes byte by byte
/// costs no more than one that comes whole, and fails on the same byte. httparse would also take lines that end in LF
/// alone.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadScan {
    scanned: usize,
    line_start: usize,
    previous: u8,
}

impl HeadScan {
    /// Where the empty line of the head in `buf` ends; `buf` starts with what earlier calls saw.
    pub(super) fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, HttpError> {
        for (index, byte) in buf.iter().copied().enumerate().take(HTTP_HEAD_BYTES_MAX).skip(self.scanned) {
            if (self.previous == b'\r') != (byte == b'\n') || byte == 0 {
                return Err(HttpError::BareControl);
            }
            if byte == b'\n' {
                if index == self.line_start + 1 {
                    return Ok(Some(index + 1));
                }
                self.line_start = index + 1;
            } else if index - self.line_start >= HTTP_LINE_BYTES_MAX {
                return Err(HttpError::LineTooLong);
            }
            self.previous = byte;
        }
        self.scanned = buf.len().min(HTTP_HEAD_BYTES_MAX);
        if buf.len() < HTTP_HEAD_BYTES_MAX { Ok(None) } else { Err(HttpError::HeadTooLarge) }
    }

    /// Whether the first line has not ended.
    pub(super) const fn is_in_first_line(&self) -> bool {
        self.line_start == 0
    }
}

/// The fields of a head from the line behind its first to its empty line.
pub(super) fn parse_fields(lines: &[u8]) -> Result<Vec<(String, String)>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; HTTP_FIELDS_MAX];
    match httparse::parse_headers(lines, &mut fields) {
        Ok(httparse::Status::Complete((bytes, fields))) if bytes == lines.len() => Ok(owned(fields)),
        Err(httparse::Error::TooManyHeaders) => Err(HttpError::TooManyFields),
        _ => Err(HttpError::Field),
    }
}

/// Names in lower case; values that are not UTF-8 are read as Latin-1.
pub(super) fn owned(fields: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    fields.iter().map(|field| (field.name.to_ascii_lowercase(), text_of(field.value))).collect()
}

fn text_of(value: &[u8]) -> String {
    match core::str::from_utf8(value) {
        Ok(text) => String::from(text),
        Err(_) => value.iter().copied().map(char::from).collect(),
    }
}

/// All values of field `name`, in any case and in order.
pub(super) fn values<'a>(fields: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    fields.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The items of all lists of field `name`, without the spaces around them.
pub(super) fn items<'a>(fields: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    values(fields, name).flat_map(|value| value.split(',')).map(|item| item.trim_matches([' ', '\t']))
}

/// Whether `Connection` names `option`.
pub(super) fn is_connection_option(fields: &[(String, String)], option: &str) -> bool {
    items(fields, "connection").any(|item| item.eq_ignore_ascii_case(option))
}

/// The one Content-Length.
pub(super) fn content_length(fields: &[(String, String)]) -> Result<Option<u64>, HttpError> {
    let mut values = values(fields, "content-length");
    let Some(value) = values.next() else { return Ok(None) };
    let length = parse_number(value).ok_or(HttpError::ContentLength)?;
    if values.next().is_some() { Err(HttpError::ContentLength) } else { Ok(Some(length)) }
}
