//! Which part of a content answers a request, if any: ranges and preconditions (RFC 9110, sections 13 and 14).

use super::range::{AskedRange, asked_range};
use super::{RequestHead, parse_date};
use crate::ByteRange;

/// What is known of a content that could be the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// Bytes.
    pub length: u64,
    /// As the ETag header says it, quotes and `W/` included.
    pub etag: Option<&'a str>,
    /// Seconds since 1970. Whoever gives it vouches that the content did not change within that second, as for a
    /// Last-Modified that is 60 s older than the origin's Date: If-Range trusts it.
    pub last_modified: Option<u64>,
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200 with all of it.
    Whole,
    /// 206 with these bytes, never empty, within the content.
    Part(ByteRange),
    /// 416 with what Content-Range says of the whole.
    Unsatisfiable,
    /// 304: what the client has is current.
    NotModified,
    /// 412: the content is not what the client wanted a part of.
    PreconditionFailed,
}

impl Selection {
    /// The status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Whole => 200,
            Self::Part(_) => 206,
            Self::NotModified => 304,
            Self::PreconditionFailed => 412,
            Self::Unsatisfiable => 416,
        }
    }
}

/// What answers `request` when it could be answered with all of `content`; the steps are in the order of RFC 9110,
/// section 13.2.2. A field that is malformed, or there twice where it may be once, is as if it were not there.
#[must_use]
pub fn select(request: &RequestHead, content: &Content<'_>) -> Selection {
    let is_get = request.method == "GET";
    let is_read = is_get || request.method == "HEAD";
    if is_other_than_wanted(request, content) {
        return Selection::PreconditionFailed;
    }
    if is_known_to_client(request, content, is_read) {
        return if is_read { Selection::NotModified } else { Selection::PreconditionFailed };
    }
    // Range means something with GET only: RFC 9110, section 14.2.
    let range = single(request, "range").filter(|_| is_get && is_range_current(request, content));
    match range.map(|range| asked_range(range, content.length)) {
        None | Some(AskedRange::Whole) => Selection::Whole,
        Some(AskedRange::Part(range)) => Selection::Part(range),
        Some(AskedRange::Unsatisfiable) => Selection::Unsatisfiable,
    }
}

fn is_other_than_wanted(request: &RequestHead, content: &Content<'_>) -> bool {
    if request.values("if-match").next().is_some() {
        let strong = content.etag.filter(|etag| !etag.starts_with("W/"));
        return !request.values("if-match").any(|list| list == "*" || tags(list).any(|tag| Some(tag) == strong));
    }
    let since = single(request, "if-unmodified-since").and_then(parse_date);
    since.zip(content.last_modified).is_some_and(|(since, modified)| modified > since)
}

fn is_known_to_client(request: &RequestHead, content: &Content<'_>, is_read: bool) -> bool {
    if request.values("if-none-match").next().is_some() {
        let ours = content.etag.map(opaque);
        let is_ours = |list: &str| list == "*" || tags(list).any(|tag| Some(opaque(tag)) == ours);
        return request.values("if-none-match").any(is_ours);
    }
    let since = single(request, "if-modified-since").filter(|_| is_read).and_then(parse_date);
    since.zip(content.last_modified).is_some_and(|(since, modified)| modified <= since)
}

/// Without If-Range a range is taken of whatever there is now.
fn is_range_current(request: &RequestHead, content: &Content<'_>) -> bool {
    let mut validators = request.values("if-range");
    match (validators.next(), validators.next()) {
        (None, _) => true,
        // A weak tag is never equal here: the bytes behind it may differ.
        (Some(tag), None) if tag.starts_with('"') => content.etag == Some(tag),
        (Some(date), None) => content.last_modified.is_some() && parse_date(date) == content.last_modified,
        _ => false,
    }
}

fn single<'a>(request: &'a RequestHead, name: &str) -> Option<&'a str> {
    let mut values = request.values(name);
    values.next().filter(|_| values.next().is_none())
}

/// A tag without what says that it is weak.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The tags of a list, up to the first thing that is none. A comma may stand within a tag.
fn tags(mut list: &str) -> impl Iterator<Item = &str> {
    core::iter::from_fn(move || {
        list = list.trim_start_matches([' ', '\t', ',']);
        let prefix = list.len() - opaque(list).len();
        let quoted = list[prefix..].strip_prefix('"')?;
        let end = prefix + quoted.find('"')? + 2;
        let (tag, rest) = list.split_at(end);
        list = rest;
        Some(tag)
    })
}
