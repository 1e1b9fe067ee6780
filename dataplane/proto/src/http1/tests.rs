//! The cases are those of request smuggling and response splitting: see RFC 9112, section 11, and http-garden.

use super::*;
use crate::ByteRange;
use crate::url::Url;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use proptest::collection::vec as any_vec;
use proptest::prelude::*;

fn parse(text: &str) -> Result<ResponseHead, HttpError> {
    let (head, head_bytes) = parse_response(text.as_bytes())?.expect("a whole head");
    assert_eq!(head_bytes, text.len());
    Ok(head)
}

/// A head of `status` with `fields`, one per line.
fn head(status: u16, fields: &str) -> ResponseHead {
    let lines: String = fields.lines().map(|line| format!("{}\r\n", line.trim())).collect();
    parse(&format!("HTTP/1.1 {status} Reason\r\n{lines}\r\n")).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

#[test]
fn response_head_is_taken_apart() {
    let bytes =
        b"HTTP/1.0 206 Partial Content\r\nETag:\t\"a\" \r\nSet-Cookie: a\r\nset-cookie: b\r\nEmpty:\r\n\r\nbody";
    let (head, head_bytes) = parse_response(bytes).unwrap().unwrap();
    assert_eq!(&bytes[head_bytes..], b"body");
    assert_eq!((head.status, head.version_minor), (206, 0));
    assert_eq!(head.header("etag"), Some("\"a\""));
    assert_eq!(head.header("EMPTY"), Some(""));
    assert_eq!(head.values("Set-Cookie").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(head.header("absent"), None);
    assert!(parse("HTTP/1.1 200\r\n\r\n").is_ok(), "a status line without a reason");
    assert!(head.framing(false).is_ok());
}

#[test]
fn value_beyond_ascii_keeps_its_bytes() {
    let (head, _) = parse_response(b"HTTP/1.1 200 OK\r\nA: \xa0\xff\x85\r\nB: \xc3\xa9\r\n\r\n").unwrap().unwrap();
    assert_eq!(head.header("a"), Some("\u{a0}\u{ff}\u{85}"), "nothing but spaces and tabs is trimmed");
    assert_eq!(head.header("b"), Some("é"));
}

#[test]
fn head_with_two_readings_is_refused() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", HttpError::NotHttp1),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", HttpError::NotHttp1),
        ("HTTP/2 200 OK\r\n\r\n", HttpError::NotHttp1),
        ("HTTP/1.2 200 OK\r\n\r\n", HttpError::NotHttp1),
        ("HTTP/1.257 200 OK\r\n\r\n", HttpError::NotHttp1),
        ("HTTP/1.1x 200 OK\r\n\r\n", HttpError::NotHttp1),
        ("HTTP/1.1\t200 OK\r\n\r\n", HttpError::NotHttp1),
        ("HTTP/1.1  200 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 +20 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 600 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 200 O\u{1}K\r\n\r\n", HttpError::StatusLine),
        ("HTTP/1.1 200 OK\n\n", HttpError::BareControl),
        ("HTTP/1.1 200 OK\r\nA: b\n\r\n", HttpError::BareControl),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", HttpError::BareControl),
        ("HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n", HttpError::BareControl),
        ("HTTP/1.1 200 OK\r\nA: \u{0}\r\n\r\n", HttpError::BareControl),
        ("HTTP/1.1 200 OK\r\nA: \u{1}\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nA: \u{7f}\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nA b\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nA(: b\r\n\r\n", HttpError::Field),
        ("HTTP/1.1 200 OK\r\nÄ: b\r\n\r\n", HttpError::Field),
    ] {
        assert_eq!(parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn head_beyond_a_limit_is_refused() {
    let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(parse(&fields(HTTP_FIELDS_MAX)).is_ok());
    assert_eq!(parse(&fields(HTTP_FIELDS_MAX + 1)), Err(HttpError::TooManyFields));

    let line = |length: usize| format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(length - 5));
    assert!(parse(&line(HTTP_LINE_BYTES_MAX)).is_ok());
    assert_eq!(parse(&line(HTTP_LINE_BYTES_MAX + 2)), Err(HttpError::LineTooLong));

    let large = format!("HTTP/1.1 200 OK\r\n{}", format!("a: {}\r\n", "b".repeat(4000)).repeat(9));
    assert_eq!(parse_response(&large.as_bytes()[..HTTP_HEAD_BYTES_MAX - 1]), Ok(None));
    assert_eq!(parse_response(large.as_bytes()), Err(HttpError::HeadTooLarge));
    assert_eq!(parse_response(&[b'H'; 1]), Ok(None));
    assert_eq!(parse_response(b""), Ok(None));
}

#[test]
fn body_ends_where_the_head_says() {
    for (status, fields, expected) in [
        (200, "Content-Length: 5", BodyFraming::Length(5)),
        (200, "Content-Length: 0", BodyFraming::Length(0)),
        (200, "Content-Length: 9223372036854775807", BodyFraming::Length(i64::MAX.unsigned_abs())),
        (200, "Transfer-Encoding: chunked", BodyFraming::Chunked),
        (200, "transfer-encoding: CHUNKED", BodyFraming::Chunked),
        (200, "", BodyFraming::UntilClose),
        (404, "Content-Length: 5", BodyFraming::Length(5)),
        (204, "", BodyFraming::Empty),
        (204, "Content-Length: 0", BodyFraming::Empty),
        (304, "Content-Length: 5", BodyFraming::Empty),
        (304, "Transfer-Encoding: chunked", BodyFraming::Empty),
        (100, "", BodyFraming::Empty),
    ] {
        assert_eq!(head(status, fields).framing(false), Ok(expected), "{status} {fields}");
    }
    for fields in ["Content-Length: 5", "Transfer-Encoding: chunked", ""] {
        assert_eq!(head(200, fields).framing(true), Ok(BodyFraming::Empty), "HEAD, {fields}");
    }
}

#[test]
fn body_with_two_ends_is_refused() {
    let lengths =
        ["", "+5", "-5", "0x5", "5_0", "5 5", "05", "5,5", "5, 6", "5;", "9223372036854775808", "99999999999999999999"];
    for length in lengths {
        let head = head(200, &format!("Content-Length: {length}"));
        assert_eq!(head.framing(false), Err(HttpError::ContentLength), "{length:?}");
        assert_eq!(head.framing(true), Err(HttpError::ContentLength), "{length:?}");
    }
    for fields in ["Content-Length: 5\nContent-Length: 5", "Content-Length: 5\nContent-Length: 6"] {
        assert_eq!(head(200, fields).framing(false), Err(HttpError::ContentLength), "{fields}");
    }
    for fields in ["Transfer-Encoding: chunked\nContent-Length: 5", "content-length: 5\nTRANSFER-ENCODING: chunked"] {
        assert_eq!(head(200, fields).framing(false), Err(HttpError::TwoLengths), "{fields}");
    }
    for encoding in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, identity",
        ",chunked",
        "chunked,",
        "chunked, chunked",
        "xchunked",
        "chunkedchunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\nTransfer-Encoding: chunked",
        "chunked\nTransfer-Encoding: identity",
    ] {
        let head = head(200, &format!("Transfer-Encoding: {encoding}"));
        assert_eq!(head.framing(false), Err(HttpError::TransferEncoding), "{encoding:?}");
    }
    let old = parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(old.framing(false), Err(HttpError::TransferEncoding));
    for (status, fields) in
        [(204, "Content-Length: 5"), (100, "Content-Length: 5"), (204, "Transfer-Encoding: chunked")]
    {
        assert_eq!(head(status, fields).framing(false), Err(HttpError::UnexpectedBody), "{status} {fields}");
    }
}

#[test]
fn connection_is_reused_only_when_both_sides_know_where_the_body_ends() {
    for (text, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        ("HTTP/1.1 304 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: foo, Close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        assert_eq!(parse(text).unwrap().is_reusable(), expected, "{text:?}");
    }
    assert!(head(103, "").is_interim() && !head(200, "").is_interim());
}

/// Decodes `body`, fed in parts of `part` bytes; also what was left over.
fn unchunk(body: &[u8], part: usize) -> Result<(Vec<u8>, usize, bool), HttpError> {
    let mut decoder = ChunkedDecoder::new(1 << 20);
    let mut out = Vec::new();
    let mut consumed = 0;
    for input in body.chunks(part) {
        let mut rest = input;
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.feed(rest)?;
            out.extend_from_slice(&rest[step.data]);
            consumed += step.consumed;
            rest = &rest[step.consumed..];
        }
    }
    Ok((out, consumed, decoder.is_done()))
}

#[test]
fn chunked_body_is_taken_as_it_arrives() {
    let body =
        b"4\r\nWiki\r\n00000000000000A;x=\"y;z\"\r\n0123456789\r\n1\r\n\r\r\n0\r\nA: b\r\nAge:\t1\r\n\r\nHTTP/1.1";
    for part in 1..body.len() {
        let (out, consumed, is_done) = unchunk(body, part).unwrap();
        assert_eq!(out, b"Wiki0123456789\r");
        assert!(is_done);
        assert_eq!(&body[consumed..], b"HTTP/1.1", "the next response is left alone");
    }
    let mut decoder = ChunkedDecoder::new(0);
    assert_eq!(decoder.feed(b"0\r\n\r\nx"), Ok(ChunkStep { consumed: 5, data: 5..5 }));
    assert_eq!(decoder.feed(b"x"), Ok(ChunkStep { consumed: 0, data: 0..0 }));
    assert_eq!(decoder.feed(b""), Ok(ChunkStep { consumed: 0, data: 0..0 }));
}

#[test]
fn cut_chunked_body_is_never_done() {
    let body = b"4\r\nWiki\r\n0\r\nA: b\r\n\r\n";
    for length in 0..body.len() {
        assert!(!unchunk(&body[..length], 3).unwrap().2, "{length}");
    }
}

#[test]
fn chunked_body_with_two_readings_is_refused() {
    let many_trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    let long_trailer = format!("0\r\na: {}\r\n\r\n", "b".repeat(8 * 1024));
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(1025));
    for (body, expected) in [
        ("\r\n", HttpError::ChunkSize),
        (";x\r\n", HttpError::ChunkSize),
        ("0x1\r\n", HttpError::ChunkSize),
        ("1_0\r\n", HttpError::ChunkSize),
        ("+1\r\n", HttpError::ChunkSize),
        ("-1\r\n", HttpError::ChunkSize),
        (" 1\r\n", HttpError::ChunkSize),
        ("1 \r\n", HttpError::ChunkSize),
        ("1\t;x\r\n", HttpError::ChunkSize),
        ("1g\r\n", HttpError::ChunkSize),
        ("00000000000000001\r\n", HttpError::ChunkSize),
        ("1\nx", HttpError::ChunkSize),
        ("1\rx", HttpError::ChunkSize),
        ("1\r\rx", HttpError::ChunkSize),
        ("1;a\nx\r\n", HttpError::ChunkExtension),
        ("1;a\u{0}\r\n", HttpError::ChunkExtension),
        ("1;a\rx\r\n", HttpError::ChunkSize),
        (&long_extension, HttpError::ChunkExtension),
        ("1\r\nxy\r\n", HttpError::ChunkEnd),
        ("1\r\nx\n", HttpError::ChunkEnd),
        ("1\r\nx\rX", HttpError::ChunkEnd),
        ("1\r\nx\r\n\r\n", HttpError::ChunkSize),
        ("0\r\n\n", HttpError::Trailer),
        ("0\r\n\rx", HttpError::Trailer),
        ("0\r\n: b\r\n\r\n", HttpError::Trailer),
        ("0\r\na b\r\n\r\n", HttpError::Trailer),
        ("0\r\na: b\n\r\n", HttpError::Trailer),
        ("0\r\na: b\rc\r\n", HttpError::Trailer),
        ("0\r\na: b\r\n c\r\n\r\n", HttpError::Trailer),
        ("0\r\na: \u{0}\r\n\r\n", HttpError::Trailer),
        ("0\r\nContent-Length: 5\r\n\r\n", HttpError::Trailer),
        ("0\r\ntransfer-encoding: chunked\r\n\r\n", HttpError::Trailer),
        ("0\r\nHOST: x\r\n\r\n", HttpError::Trailer),
        (&many_trailers, HttpError::Trailer),
        (&long_trailer, HttpError::Trailer),
        ("100001\r\n", HttpError::BodyTooLong),
        ("ffffffffffffffff\r\n", HttpError::BodyTooLong),
    ] {
        for part in [1, 2, 1000] {
            assert_eq!(unchunk(body.as_bytes(), part), Err(expected), "{body:?}");
        }
    }
    let mut decoder = ChunkedDecoder::new(5);
    assert_eq!(decoder.feed(b"4\r\nWiki").unwrap().data, 3..7);
    assert_eq!(decoder.feed(b"\r\n2\r\nxx"), Err(HttpError::BodyTooLong));
    assert_eq!(decoder.feed(b"0\r\n\r\n"), Err(HttpError::BodyTooLong), "an error is final");
    assert_eq!(decoder.feed(b""), Err(HttpError::BodyTooLong));
}

#[test]
fn content_range_is_read_strictly() {
    let of = |range: Option<(u64, u64)>, total| {
        Some(ContentRange { range: range.map(|(start, end)| ByteRange::new(start, end).unwrap()), total })
    };
    for (text, expected) in [
        ("bytes 0-0/1", of(Some((0, 1)), Some(1))),
        ("bytes 0-4/10", of(Some((0, 5)), Some(10))),
        ("BYTES 5-9/10", of(Some((5, 10)), Some(10))),
        ("bytes 0-4/*", of(Some((0, 5)), None)),
        ("bytes */10", of(None, Some(10))),
        ("bytes */0", of(None, Some(0))),
        ("bytes */*", None),
        ("bytes 0-4", None),
        ("bytes=0-4/10", None),
        ("0-4/10", None),
        ("items 0-4/10", None),
        ("bytes  0-4/10", None),
        ("bytes 0-4/10 ", None),
        ("bytes 4-0/10", None),
        ("bytes 0-10/10", None),
        ("bytes -4/10", None),
        ("bytes 0-/10", None),
        ("bytes 00-4/10", None),
        ("bytes 0-+4/10", None),
        ("bytes 0-4/0x10", None),
        ("bytes 0-4,6-7/10", None),
        ("bytes 0-18446744073709551615/*", None),
        ("bytes 0-9223372036854775807/*", of(Some((0, 1 << 63)), None)),
        ("bytes 0-4/99999999999999999999", None),
        ("", None),
    ] {
        assert_eq!(ContentRange::parse(text), expected, "{text:?}");
    }
}

#[test]
fn range_header_is_inclusive() {
    assert_eq!(range_header(range(0, 1)), "bytes=0-0");
    assert_eq!(range_header(range(5, 10)), "bytes=5-9");
}

#[test]
#[should_panic(expected = "no empty range")]
fn asking_for_no_bytes_is_a_bug() {
    let _ = range_header(range(5, 5));
}

#[test]
fn partial_answer_must_be_what_was_asked_for() {
    let asked = Some(range(10, 20));
    let partial = |range, total| OriginAnswer::Partial { range, total };
    let malformed = OriginAnswer::Malformed;
    for (fields, expected) in [
        ("Content-Range: bytes 10-19/100\nContent-Length: 10", partial(range(10, 20), Some(100))),
        ("Content-Range: bytes 10-19/100\nTransfer-Encoding: chunked", partial(range(10, 20), Some(100))),
        ("Content-Range: bytes 10-19/100", partial(range(10, 20), Some(100))),
        ("Content-Range: bytes 10-19/*\nContent-Length: 10", partial(range(10, 20), None)),
        ("Content-Range: bytes 10-14/15\nContent-Length: 5", partial(range(10, 15), Some(15))),
        ("Content-Range: bytes 10-19/20\nContent-Encoding: identity", partial(range(10, 20), Some(20))),
        ("Content-Range: bytes 10-14/100\nContent-Length: 5", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 10-14/*\nContent-Length: 5", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 0-19/100\nContent-Length: 20", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 10-20/100\nContent-Length: 11", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 0-9/100\nContent-Length: 10", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 10-19/100\nContent-Length: 11", malformed(MalformedReason::OtherLength)),
        ("Content-Range: bytes 10-19/100\nContent-Length: 0", malformed(MalformedReason::OtherLength)),
        ("Content-Length: 10", malformed(MalformedReason::ContentRange)),
        ("Content-Range: bytes */100", malformed(MalformedReason::ContentRange)),
        ("Content-Range: bytes 10-19/15", malformed(MalformedReason::ContentRange)),
        ("Content-Range: 10-19/100", malformed(MalformedReason::ContentRange)),
        ("Content-Range: bytes 10-19/281474976710657", malformed(MalformedReason::TooLong)),
        ("Content-Range: bytes 10-19/100\nContent-Range: bytes 10-19/200", malformed(MalformedReason::TwoValues)),
        ("Content-Type: Multipart/byteranges; boundary=x\nContent-Length: 10", malformed(MalformedReason::Multipart)),
        ("Content-Range: bytes 10-19/100\nContent-Encoding: gzip", malformed(MalformedReason::Encoded)),
        (
            "Content-Range: bytes 10-19/100\nContent-Length: 10\nContent-Length: 10",
            malformed(MalformedReason::Http(HttpError::ContentLength)),
        ),
    ] {
        assert_eq!(interpret(asked, &head(206, fields)), expected, "{fields}");
    }
    let whole_range = head(206, "Content-Range: bytes 0-9/10\nContent-Length: 10");
    assert_eq!(interpret(None, &whole_range), malformed(MalformedReason::UnaskedPartial));
}

#[test]
fn whole_answer_is_taken_for_a_range_too() {
    for asked in [None, Some(range(10, 20))] {
        let whole = |length| OriginAnswer::Whole { length };
        assert_eq!(interpret(asked, &head(200, "Content-Length: 5")), whole(Some(5)));
        assert_eq!(interpret(asked, &head(200, "Content-Length: 0")), whole(Some(0)));
        assert_eq!(interpret(asked, &head(200, "Transfer-Encoding: chunked")), whole(None));
        assert_eq!(interpret(asked, &head(200, "")), whole(None));
        let malformed = OriginAnswer::Malformed;
        let too_long = head(200, "Content-Length: 281474976710657");
        assert_eq!(interpret(asked, &too_long), malformed(MalformedReason::TooLong));
        for coding in ["gzip", "br", "identity, gzip", "identity\nContent-Encoding: zstd", "x"] {
            let encoded = head(200, &format!("Content-Length: 5\nContent-Encoding: {coding}"));
            assert_eq!(interpret(asked, &encoded), malformed(MalformedReason::Encoded), "{coding}");
        }
    }
}

#[test]
fn every_other_status_keeps_nothing() {
    let asked = Some(range(0, 10));
    for status in [201, 202, 203, 204, 205, 207, 226, 300, 305, 306, 400, 401, 403, 404, 410, 412, 429, 500, 503, 599] {
        let answer = interpret(asked, &head(status, ""));
        assert_eq!(answer, OriginAnswer::Refused { status, retry_after: None });
    }
    assert_eq!(interpret(asked, &head(304, "ETag: \"a\"")), OriginAnswer::NotModified);
    for status in [100, 101, 103] {
        assert_eq!(interpret(asked, &head(status, "")), OriginAnswer::Malformed(MalformedReason::Interim));
    }
    for (fields, total) in [
        ("Content-Range: bytes */0", Some(0)),
        ("Content-Range: bytes */100", Some(100)),
        ("Content-Range: nonsense", None),
        ("", None),
    ] {
        assert_eq!(interpret(asked, &head(416, fields)), OriginAnswer::OutOfRange { total }, "{fields}");
    }
    assert!(is_transient(503) && is_transient(429) && !is_transient(404) && !is_transient(401));
}

#[test]
fn origin_may_ask_to_wait_for_at_most_a_day() {
    for (fields, seconds) in [
        ("Retry-After: 7", Some(7)),
        ("Retry-After: 0", Some(0)),
        ("Retry-After: 999999999", Some(86_400)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\nRetry-After: Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\nRetry-After: Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
        ("Retry-After: Sun, 06 Nov 1994 08:50:37 GMT", None),
        ("Retry-After: -1", None),
        ("Retry-After: soon", None),
    ] {
        let expected = OriginAnswer::Refused { status: 503, retry_after: seconds.map(Duration::from_secs) };
        assert_eq!(interpret(None, &head(503, fields)), expected, "{fields}");
    }
}

#[test]
fn redirect_says_where_to() {
    for status in [301, 302, 303, 307, 308] {
        let expected = OriginAnswer::Redirect { location: "/b".to_owned(), status };
        assert_eq!(interpret(None, &head(status, "Location: /b\nContent-Length: 5")), expected);
        let no_location = OriginAnswer::Malformed(MalformedReason::NoLocation);
        assert_eq!(interpret(None, &head(status, "")), no_location);
        assert_eq!(interpret(None, &head(status, "Location:")), no_location);
        let two = head(status, "Location: /b\nLocation: /c");
        assert_eq!(interpret(None, &two), OriginAnswer::Malformed(MalformedReason::TwoValues));
    }
}

#[test]
fn redirect_target_is_checked() {
    let from = Url::parse("https://origin.example/a/b?c").unwrap();
    let to = |location: &str| redirect_target(&from, location).map(|url| url.to_string());
    assert_eq!(to("d?e#f"), Ok("https://origin.example/a/d?e".to_owned()));
    assert_eq!(to("//cdn.example/x"), Ok("https://cdn.example/x".to_owned()));
    assert_eq!(to("https://cdn.example"), Ok("https://cdn.example/".to_owned()));
    assert_eq!(to("http://origin.example/"), Err(RedirectError::Downgrade));
    assert_eq!(to("//user@cdn.example/"), Err(RedirectError::Location(crate::url::UrlError::Userinfo)));
    for location in ["file:///etc/passwd", "gopher://x/", "http://0x7f.1/", "https://h:99999/", "data:,x"] {
        assert!(matches!(to(location), Err(RedirectError::Location(_))), "{location}");
    }
    let from = Url::parse("http://origin.example/").unwrap();
    assert!(redirect_target(&from, "https://origin.example/").is_ok());
}

#[test]
fn credentials_do_not_leave_their_origin() {
    let headers: Vec<(String, String)> =
        ["Authorization", "Cookie", "PRIVATE-TOKEN", "X-Anything", "ACCEPT", "User-Agent", "Referer"]
            .map(|name| (name.to_owned(), "secret".to_owned()))
            .to_vec();
    let url = |text| Url::parse(text).unwrap();
    let from = url("http://origin.example/a");
    assert_eq!(headers_after_redirect(&from, &url("http://ORIGIN.example:80/b"), &headers), headers);
    for to in [
        "http://other.example/a",
        "http://origin.example:81/a",
        "https://origin.example/a",
        "http://sub.origin.example/a",
        "http://origin.example./a",
    ] {
        let kept = headers_after_redirect(&from, &url(to), &headers);
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ACCEPT", "User-Agent"], "{to}");
    }
}

fn request(headers: &[(&str, &str)]) -> RequestHead {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    RequestHead { method: "GET".to_owned(), target: "/a?b".to_owned(), host: "h:8".to_owned(), headers }
}

#[test]
fn request_has_its_golden_bytes() {
    let bytes = request(&[("Range", "bytes=0-1"), ("X", " é\t")]).encode().unwrap();
    assert_eq!(bytes, "GET /a?b HTTP/1.1\r\nHost: h:8\r\nRange: bytes=0-1\r\nX: é\r\n\r\n".as_bytes());
}

#[test]
fn request_that_would_say_something_else_is_refused() {
    for value in ["a\r\nb: c", "a\n", "\r", "\0", "\u{1b}"] {
        assert_eq!(request(&[("X", value)]).encode(), Err(RequestError::HeaderValue("X".to_owned())), "{value:?}");
    }
    for name in ["", "a b", "a:", "a\r\n", "é", "a\0"] {
        assert_eq!(request(&[(name, "v")]).encode(), Err(RequestError::HeaderName(name.to_owned())), "{name:?}");
    }
    for name in ["Host", "content-length", "TRANSFER-ENCODING", "Upgrade", "TE", "Expect"] {
        assert_eq!(request(&[(name, "v")]).encode(), Err(RequestError::Reserved(name.to_owned())));
    }
    for target in ["", "a", "*", "/ ", "/\r\n", "/é", "http://h/"] {
        let request = RequestHead { target: target.to_owned(), ..request(&[]) };
        assert_eq!(request.encode(), Err(RequestError::Target), "{target:?}");
    }
    for host in ["", "h\r\nX: y", "h h"] {
        let request = RequestHead { host: host.to_owned(), ..request(&[]) };
        assert_eq!(request.encode(), Err(RequestError::Host), "{host:?}");
    }
    for method in ["", "GET ", "G\r\n"] {
        let request = RequestHead { method: method.to_owned(), ..request(&[]) };
        assert_eq!(request.encode(), Err(RequestError::Method), "{method:?}");
    }
    assert_eq!(request(&[("X", &"v".repeat(8 * 1024))]).encode(), Err(RequestError::TooLarge));
    assert_eq!(request(&[("X", "v".repeat(8000).as_str()); 5]).encode(), Err(RequestError::TooLarge));
    assert_eq!(request(&[("X", "v"); 100]).encode(), Err(RequestError::TooLarge));
    let shown = RequestError::HeaderValue("X".to_owned()).to_string();
    assert!(shown.contains('X'), "{shown}");
}

/// Bytes that come near to being a response.
fn near_response() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(
        &[
            "HTTP/1.1 200 OK",
            "HTTP/1.0 206 ",
            "\r\n",
            "\r\n",
            "\n",
            "\r",
            "Content-Length: 5",
            "A: b",
            " c",
            ":",
            "\0",
            "é",
        ][..],
    );
    let tokens = any_vec(token.prop_map(|token| token.as_bytes().to_vec()), 0..12);
    (any::<bool>(), tokens, any_vec(any::<u8>(), 0..8)).prop_map(|(is_started, tokens, tail)| {
        let start: &[u8] = if is_started { b"HTTP/1.1 200 OK\r\n" } else { b"" };
        [start, &tokens.concat(), &tail].concat()
    })
}

fn near_chunked() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(
        &["1\r\nx\r\n", "3;a=b\r\nabc\r\n", "0\r\n", "\r\n", "a: b\r\n", "f", "\r", "\n", ";", "Host: x", " "][..],
    );
    (any_vec(token.prop_map(|token| token.as_bytes().to_vec()), 0..12), any_vec(any::<u8>(), 0..8))
        .prop_map(|(tokens, tail)| [tokens.concat(), tail].concat())
}

/// What a client sees that tries to parse after every part it receives.
fn parse_in_parts(bytes: &[u8], cuts: &[usize]) -> Result<Option<(ResponseHead, usize)>, HttpError> {
    for cut in cuts.iter().copied().filter(|cut| *cut < bytes.len()) {
        if let Some(found) = parse_response(&bytes[..cut])? {
            return Ok(Some(found));
        }
    }
    parse_response(bytes)
}

proptest! {
    #[test]
    fn head_means_the_same_however_it_is_split(
        bytes in near_response(),
        mut cuts in any_vec(0usize..150, 0..6),
    ) {
        cuts.sort_unstable();
        prop_assert_eq!(parse_in_parts(&bytes, &cuts), parse_response(&bytes));
    }

    #[test]
    fn any_bytes_after_a_status_line_parse_or_fail_without_panic(bytes in any_vec(any::<u8>(), 0..200)) {
        let _ = parse_response(&bytes);
        if let Ok(Some((head, _))) = parse_response(&[b"HTTP/1.1 206 OK\r\n", &bytes[..], b"\r\n\r\n"].concat()) {
            let _ = interpret(Some(range(0, 5)), &head);
            let _ = head.is_reusable();
        }
    }

    #[test]
    fn any_field_values_are_interpreted_without_panic(
        status in 100u16..600,
        length in "[0-9+, ]{0,20}",
        content_range in "(bytes )?[0-9*-]{0,20}/?[0-9*]{0,20}",
        asked in prop::option::of((0u64..100, 1u64..100)),
    ) {
        let fields = format!("Content-Length: {length}\nContent-Range: {content_range}");
        let asked = asked.map(|(start, length)| range(start, start + length));
        if let OriginAnswer::Partial { range, total } = interpret(asked, &head(status, &fields)) {
            let asked = asked.unwrap();
            prop_assert!(asked.contains(range) && range.start() == asked.start() && !range.is_empty());
            prop_assert!(total.is_none_or(|total| range.end() <= total));
        }
    }

    #[test]
    fn chunked_body_means_the_same_however_it_is_split(bytes in near_chunked(), part in 1usize..20) {
        let whole = unchunk(&bytes, usize::MAX);
        prop_assert_eq!(unchunk(&bytes, part), whole);
    }

    #[test]
    fn what_was_chunked_comes_back(
        chunks in any_vec(any_vec(any::<u8>(), 1..40), 0..8),
        part in 1usize..30,
    ) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        prop_assert_eq!(unchunk(&body, part), Ok((chunks.concat(), body.len(), true)));
    }

    #[test]
    fn content_range_survives_the_wire(start in 0u64..1 << 50, length in 1u64..1 << 50, rest in prop::option::of(0u64..99)) {
        let range = range(start, start + length);
        let total = rest.map(|rest| range.end() + rest);
        let shown = total.map_or("*".to_owned(), |total| total.to_string());
        let text = format!("bytes {}/{shown}", range_header(range).trim_start_matches("bytes="));
        prop_assert_eq!(ContentRange::parse(&text), Some(ContentRange { range: Some(range), total }));
    }

    #[test]
    fn any_request_is_encoded_to_one_head_or_refused(
        target in "/[\\PC\r\n ]{0,20}",
        name in "[a-zA-Z\r\n: é-]{0,12}",
        value in "[\\PC\r\n\t]{0,20}",
    ) {
        let mut request = request(&[(&name, &value)]);
        request.target = target;
        if let Ok(bytes) = request.encode() {
            let text = String::from_utf8(bytes).unwrap();
            prop_assert!(text.ends_with("\r\n\r\n"));
            prop_assert_eq!(text.matches(['\r', '\n']).count(), 8, "three lines and the empty one");
        }
    }
}

#[test]
fn errors_say_whose_fault_it_is() {
    let shown = vec![
        HttpError::TwoLengths.to_string(),
        MalformedReason::Http(HttpError::ContentLength).to_string(),
        MalformedReason::Encoded.to_string(),
        RedirectError::Downgrade.to_string(),
    ];
    assert!(shown.iter().all(|text| text.contains("origin") || text.contains("response")), "{shown:?}");
}
