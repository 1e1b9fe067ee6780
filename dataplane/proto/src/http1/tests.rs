//! The cases are those of request smuggling and response splitting: see RFC 9112, section 11, and http-garden.

use super::*;
use crate::ByteRange;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use proptest::collection::vec as any_vec;
use proptest::prelude::*;

mod answer;
mod chunked;
mod select;

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
