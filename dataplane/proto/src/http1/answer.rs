//! What an origin's answer to a GET means. Nothing but the body of a complete and right 200 or 206 is ever kept.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use super::{BodyFraming, ContentRange, HttpError, ResponseHead, parse_date, parse_number};
use crate::ByteRange;
use crate::geometry::LENGTH_MAX;

/// Longest wait that an origin may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// What an origin answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginAnswer {
    /// 206: the body is `range`, which is what was asked for, cut at the end of the content.
    Partial {
        /// The bytes that follow, as many as the range has.
        range: ByteRange,
        /// Bytes of the whole content, if the origin knows.
        total: Option<u64>,
    },
    /// 200: the body is the whole content, whatever range was asked for.
    Whole {
        /// Its bytes; `None` when only the body's end will tell.
        length: Option<u64>,
    },
    /// 416: the content ends before the range. An empty file asked for with a range answers so, with a total of 0.
    OutOfRange {
        /// Bytes of the whole content, if the origin says.
        total: Option<u64>,
    },
    /// 301, 302, 303, 307, 308: ask there. See `redirect_target`.
    Redirect {
        /// A URL, absolute or relative.
        location: String,
        /// Which of the five.
        status: u16,
    },
    /// 304: the version in If-None-Match or If-Modified-Since is still the current one.
    NotModified,
    /// Any other status. See [`is_transient`] for whether to come back.
    Refused {
        /// The status.
        status: u16,
        /// How long the origin asks to wait; at most a day.
        retry_after: Option<Duration>,
    },
    /// An answer that cannot be trusted to be what was asked for. The origin's fault: close the connection.
    Malformed(MalformedReason),
}

/// Why an answer is not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedReason {
    /// Its head has more than one reading.
    Http(HttpError),
    /// A 1xx, which is not the answer yet: skip it (`ResponseHead::is_interim`) and parse again.
    Interim,
    /// Content-Encoding, though only `identity` was accepted: its bytes are not the content's.
    Encoded,
    /// 206 though no range was asked for.
    UnaskedPartial,
    /// 206 in several parts though one range was asked for.
    Multipart,
    /// 206 without a Content-Range, or with one that means nothing.
    ContentRange,
    /// 206 with another range than asked for.
    OtherRange,
    /// Content-Length is not the length of Content-Range.
    OtherLength,
    /// Content beyond 256 TiB.
    TooLong,
    /// A redirect that does not say where to.
    NoLocation,
    /// Two different values of a field that may have one.
    TwoValues,
}

impl fmt::Display for MalformedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => write!(f, "{error}"),
            Self::Interim => f.write_str("an interim response is not the answer"),
            Self::Encoded => f.write_str("the origin sent a Content-Encoding that was not accepted"),
            Self::UnaskedPartial => f.write_str("the origin sent a part (206) though the whole was asked for"),
            Self::Multipart => f.write_str("the origin sent several ranges though one was asked for"),
            Self::ContentRange => f.write_str("the origin sent a part (206) without a valid Content-Range"),
            Self::OtherRange => f.write_str("the origin sent another range than was asked for"),
            Self::OtherLength => f.write_str("the origin's Content-Length and Content-Range contradict each other"),
            Self::TooLong => f.write_str("the origin announces more than 256 TiB"),
            Self::NoLocation => f.write_str("the origin redirects without a Location"),
            Self::TwoValues => f.write_str("the origin sent two values of a header that may have one"),
        }
    }
}

/// Whether a refusal may pass by itself: asking again later, or elsewhere, makes sense.
#[must_use]
pub const fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// What `head` answers to a GET of `asked`, or of the whole content when that is `None`.
#[must_use]
pub fn interpret(asked: Option<ByteRange>, head: &ResponseHead) -> OriginAnswer {
    let framing = match head.framing(false) {
        Ok(framing) => framing,
        Err(error) => return OriginAnswer::Malformed(MalformedReason::Http(error)),
    };
    let answer = match head.status {
        100..=199 => Err(MalformedReason::Interim),
        200 => whole(head, framing),
        206 => partial(asked, head, framing),
        301 | 302 | 303 | 307 | 308 => redirect(head),
        304 => Ok(OriginAnswer::NotModified),
        416 => Ok(OriginAnswer::OutOfRange { total: content_range(head).ok().and_then(|range| range.total) }),
        status => Ok(OriginAnswer::Refused { status, retry_after: retry_after(head) }),
    };
    answer.unwrap_or_else(OriginAnswer::Malformed)
}

fn whole(head: &ResponseHead, framing: BodyFraming) -> Result<OriginAnswer, MalformedReason> {
    check_identity(head)?;
    match framing {
        BodyFraming::Length(length) if length > LENGTH_MAX => Err(MalformedReason::TooLong),
        BodyFraming::Length(length) => Ok(OriginAnswer::Whole { length: Some(length) }),
        BodyFraming::Empty | BodyFraming::Chunked | BodyFraming::UntilClose => Ok(OriginAnswer::Whole { length: None }),
    }
}

fn partial(
    asked: Option<ByteRange>,
    head: &ResponseHead,
    framing: BodyFraming,
) -> Result<OriginAnswer, MalformedReason> {
    check_identity(head)?;
    let asked = asked.ok_or(MalformedReason::UnaskedPartial)?;
    let is_multipart = |value: &str| value.trim_start().to_ascii_lowercase().starts_with("multipart/");
    if head.values("content-type").any(is_multipart) {
        return Err(MalformedReason::Multipart);
    }
    let ContentRange { range: Some(range), total } = content_range(head)? else {
        return Err(MalformedReason::ContentRange);
    };
    if total.unwrap_or(range.end()) > LENGTH_MAX {
        return Err(MalformedReason::TooLong);
    }
    // A server may send less than was asked; when the total does not explain it, that is a cut we could not tell from
    // the content's end.
    let expected_end = total.map_or(asked.end(), |total| asked.end().min(total));
    if range.start() != asked.start() || range.end() != expected_end {
        return Err(MalformedReason::OtherRange);
    }
    match framing {
        BodyFraming::Length(length) if length != range.length() => Err(MalformedReason::OtherLength),
        _ => Ok(OriginAnswer::Partial { range, total }),
    }
}

fn redirect(head: &ResponseHead) -> Result<OriginAnswer, MalformedReason> {
    let location = single(head, "location")?.filter(|location| !location.is_empty());
    let location = location.ok_or(MalformedReason::NoLocation)?.to_owned();
    Ok(OriginAnswer::Redirect { location, status: head.status })
}

fn content_range(head: &ResponseHead) -> Result<ContentRange, MalformedReason> {
    single(head, "content-range")?.and_then(ContentRange::parse).ok_or(MalformedReason::ContentRange)
}

fn single<'a>(head: &'a ResponseHead, name: &str) -> Result<Option<&'a str>, MalformedReason> {
    let mut values = head.values(name);
    let first = values.next();
    if values.all(|other| Some(other) == first) { Ok(first) } else { Err(MalformedReason::TwoValues) }
}

fn check_identity(head: &ResponseHead) -> Result<(), MalformedReason> {
    let mut codings = head.values("content-encoding").flat_map(|value| value.split(',')).map(str::trim);
    let is_identity = codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity"));
    if is_identity { Ok(()) } else { Err(MalformedReason::Encoded) }
}

/// Seconds, or a date counted from the origin's own clock.
fn retry_after(head: &ResponseHead) -> Option<Duration> {
    let value = head.header("retry-after")?;
    let seconds = parse_number(value).or_else(|| {
        let now = head.header("date").and_then(parse_date)?;
        parse_date(value).map(|then| then.saturating_sub(now))
    })?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}
