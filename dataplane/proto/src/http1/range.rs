//! HTTP's inclusive ranges, in and out.

use alloc::format;
use alloc::string::String;
use core::fmt;

use super::parse_number;
use crate::ByteRange;

/// What a Content-Range says; at least one of the two is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes of the body, never empty; `None` in a 416.
    pub range: Option<ByteRange>,
    /// Bytes of the whole content, `None` when the origin does not know.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Parses `bytes 0-4/10`, `bytes 0-4/*` or `bytes */10`; `None` for anything else, other units and ranges beyond
    /// the total among it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, text) = text.split_once(' ')?;
        let (range, total) = text.split_once('/')?;
        let total = if total == "*" { None } else { Some(parse_number(total)?) };
        let range = if range == "*" { None } else { Some(parse_inclusive(range)?) };
        let is_within = match (range, total) {
            (Some(range), Some(total)) => range.end() <= total,
            (None, None) => false,
            _ => true,
        };
        (unit.eq_ignore_ascii_case("bytes") && is_within).then_some(Self { range, total })
    }
}

impl fmt::Display for ContentRange {
    /// The header's value. A range that is empty cannot be said in HTTP and is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.range.filter(|range| !range.is_empty()) {
            Some(range) => write!(f, "bytes {}-{}/", range.start(), range.end() - 1)?,
            None => f.write_str("bytes */")?,
        }
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

/// What a client's Range asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedRange {
    /// Nothing that is understood, or several ranges: the answer is the whole, which RFC 9110, section 14.2, allows. A
    /// multipart answer has no client among those that pull images.
    Whole,
    /// These bytes, never empty, within the content.
    Part(ByteRange),
    /// Bytes beyond the content, or none.
    Unsatisfiable,
}

/// What Range `text` means for content of `length` bytes: RFC 9110, section 14.1.2.
pub(super) fn asked_range(text: &str, length: u64) -> AskedRange {
    let spec = text.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = spec.and_then(|(_, spec)| spec.trim_matches([' ', '\t']).split_once('-')) else {
        return AskedRange::Whole;
    };
    let (start, end) = match (saturating_number(first), saturating_number(last)) {
        (None, Some(0)) if first.is_empty() => return AskedRange::Unsatisfiable,
        // Of nothing, the last bytes are all of it; Content-Range cannot say that.
        (None, Some(_)) if first.is_empty() && length == 0 => return AskedRange::Whole,
        (None, Some(suffix)) if first.is_empty() => (length.saturating_sub(suffix), length),
        (Some(start), None) if last.is_empty() => (start, length),
        (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(length)),
        _ => return AskedRange::Whole,
    };
    match ByteRange::new(start, end).filter(|range| !range.is_empty()) {
        Some(range) => AskedRange::Part(range),
        None => AskedRange::Unsatisfiable,
    }
}

/// A number in digits; one beyond 2^64 lies as far beyond any content as 2^64 does.
fn saturating_number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn parse_inclusive(text: &str) -> Option<ByteRange> {
    let (first, last) = text.split_once('-')?;
    let range = ByteRange::new(parse_number(first)?, parse_number(last)?.checked_add(1)?)?;
    (!range.is_empty()).then_some(range)
}

/// The value of a Range header that asks for `range`.
///
/// # Panics
/// When `range` is empty, which HTTP cannot say.
#[must_use]
pub fn range_header(range: ByteRange) -> String {
    assert!(!range.is_empty(), "HTTP has no empty range");
    format!("bytes={}-{}", range.start(), range.end() - 1)
}
