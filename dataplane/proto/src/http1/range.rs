//! HTTP's inclusive ranges, in and out.

use alloc::format;
use alloc::string::String;

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
