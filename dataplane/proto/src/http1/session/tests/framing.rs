//! Heads: lines, targets, fields, and where a body ends.

use super::*;
use crate::http1::{HTTP_FIELDS_MAX, HTTP_LINE_BYTES_MAX};

/// A POST with `fields`, one per line, and `body`.
fn post(fields: &str, body: &str) -> String {
    let lines: String = fields.lines().map(|line| format!("{line}\r\n")).collect();
    format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}")
}

fn get(line: &str) -> String {
    format!("{line}\r\nHost: h\r\n\r\n")
}

#[test]
fn content_length_with_two_readings_is_refused() {
    for (name, value) in [
        ("empty", ""),
        ("plus", "+5"),
        ("minus", "-5"),
        ("hexadecimal", "0x5"),
        ("underscore", "5_0"),
        ("space", "5 5"),
        ("leading zeros", "005"),
        ("2^63", "9223372036854775808"),
        ("beyond 2^64", "99999999999999999999"),
        ("list of equals", "5,5"),
        ("list of others", "5, 6"),
        ("two equal", "5\nContent-Length: 5"),
        ("two others", "5\nContent-Length: 6"),
        ("not-a-number among two", "5\ncontent-length: x"),
    ] {
        let bytes = post(&format!("Content-Length: {value}"), "");
        assert_refused(&[(name, &bytes, Refusal::ContentLength)]);
    }
    for fields in ["Content-Length: 5\nTransfer-Encoding: chunked", "transfer-encoding: gzip\nCONTENT-LENGTH: 0"] {
        assert_refused(&[("both", &post(fields, "0\r\n\r\n"), Refusal::TwoLengths)]);
    }
    assert_refused(&[("too long", &post("Content-Length: 1048577", ""), Refusal::BodyTooLong)]);
    assert_taken(&[("longest", &post("Content-Length: 1048576", "")), ("none", &post("Content-Length: 0", ""))]);
}

#[test]
fn transfer_encoding_other_than_chunked_is_refused() {
    for (value, expected) in [
        ("", Refusal::TransferEncoding),
        ("identity", Refusal::TransferEncoding),
        ("gzip", Refusal::TransferEncoding),
        ("chunked, identity", Refusal::TransferEncoding),
        (",chunked", Refusal::TransferEncoding),
        ("chunked,", Refusal::TransferEncoding),
        ("xchunked", Refusal::TransferEncoding),
        ("chunkedchunked", Refusal::TransferEncoding),
        ("chunked;q=1", Refusal::TransferEncoding),
        ("\"chunked\"", Refusal::TransferEncoding),
        ("\u{b}chunked", Refusal::Field),
        ("chunked, chunked", Refusal::TransferEncoding),
        ("chunked\nTransfer-Encoding: chunked", Refusal::TransferEncoding),
        ("chunked\nTransfer-Encoding: identity", Refusal::TransferEncoding),
        ("gzip, chunked", Refusal::UnknownCoding),
        ("identity, chunked", Refusal::UnknownCoding),
    ] {
        assert_refused(&[("coding", &post(&format!("Transfer-Encoding: {value}"), "0\r\n\r\n"), expected)]);
    }
    let old = "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let closed = "POST / HTTP/1.0\r\nHost: h\r\n\r\nbody";
    assert_refused(&[("TE in 1.0", old, Refusal::TransferEncoding), ("until close", closed, Refusal::NoLength)]);
    assert_taken(&[("other case", &post("transfer-encoding: CHUNKED", "0\r\n\r\n"))]);
}

#[test]
fn line_with_two_readings_is_refused() {
    for (name, fields, expected) in [
        ("bare LF", "A: b\nC: d", Refusal::BareControl),
        ("bare CR", "A: b\rC: d", Refusal::BareControl),
        ("CR CR LF", "A: b\r", Refusal::BareControl),
        ("LF CR", "A: b\n\r", Refusal::BareControl),
        ("NUL in a value", "A: \0", Refusal::BareControl),
        ("NUL in a name", "A\0: b", Refusal::BareControl),
        ("control character in a value", "A: \u{1}", Refusal::Field),
        ("DEL in a value", "A: \u{7f}", Refusal::Field),
        ("obs-fold by a space", "A: b\r\n c", Refusal::Field),
        ("obs-fold by a tab", "A: b\r\n\tc", Refusal::Field),
        ("space before the first field", " A: b", Refusal::Field),
        ("space before the colon", "A : b", Refusal::Field),
        ("tab before the colon", "A\t: b", Refusal::Field),
        ("no colon", "A b", Refusal::Field),
        ("empty name", ": b", Refusal::Field),
        ("invalid name", "A(: b", Refusal::Field),
        ("name beyond ASCII", "\u{e4}: b", Refusal::Field),
    ] {
        let bytes = format!("GET / HTTP/1.1\r\n{fields}\r\nHost: h\r\n\r\n");
        assert_refused(&[(name, &bytes, expected)]);
    }
    let whole = "GET / HTTP/1.1\nHost: h\n\n";
    assert_refused(&[("LF alone everywhere", whole, Refusal::BareControl)]);
}

#[test]
fn value_beyond_ascii_keeps_its_bytes() {
    let shell = Shell::run(Habit::Waits, b"GET / HTTP/1.1\r\nHost:\th \r\nA: \xa0\xff\x85\r\nB: \xc3\xa9\t\r\n\r\n");
    let head = &shell.requests[0].head;
    assert_eq!(head.host, "h");
    assert_eq!(head.header("a"), Some("\u{a0}\u{ff}\u{85}"), "nothing but spaces and tabs is trimmed");
    assert_eq!(head.header("B"), Some("\u{e9}"));
}

#[test]
fn head_beyond_a_limit_is_refused() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
    assert_taken(&[("most fields", &fields(HTTP_FIELDS_MAX))]);
    assert_refused(&[("a field more", &fields(HTTP_FIELDS_MAX + 1), Refusal::HeadTooLarge)]);

    let line = |length: usize| format!("GET / HTTP/1.1\r\nHost: h\r\na: {}\r\n\r\n", "b".repeat(length - 5));
    assert_taken(&[("longest field", &line(HTTP_LINE_BYTES_MAX))]);
    assert_refused(&[("longer field", &line(HTTP_LINE_BYTES_MAX + 2), Refusal::HeadTooLarge)]);

    let target = |length: usize| get(&format!("GET /{} HTTP/1.1", "a".repeat(length - 16)));
    assert_taken(&[("longest target", &target(HTTP_LINE_BYTES_MAX))]);
    assert_refused(&[("longer target", &target(HTTP_LINE_BYTES_MAX + 2), Refusal::TargetTooLong)]);

    let head = format!("GET / HTTP/1.1\r\n{}", format!("a: {}\r\n", "b".repeat(4000)).repeat(9));
    assert_refused(&[("long head", &head, Refusal::HeadTooLarge)]);
}

#[test]
fn request_line_with_two_readings_is_refused() {
    for (name, line, expected) in [
        ("two spaces", "GET  / HTTP/1.1", Refusal::RequestLine),
        ("tab", "GET\t/ HTTP/1.1", Refusal::RequestLine),
        ("space in the target", "GET /a b HTTP/1.1", Refusal::RequestLine),
        ("space at the end", "GET / HTTP/1.1 ", Refusal::RequestLine),
        ("space at the start", " GET / HTTP/1.1", Refusal::RequestLine),
        ("no target", "GET HTTP/1.1", Refusal::RequestLine),
        ("HTTP/0.9", "GET /", Refusal::RequestLine),
        ("no method", "/ HTTP/1.1", Refusal::RequestLine),
        ("method that is no token", "G(T / HTTP/1.1", Refusal::RequestLine),
        ("method beyond ASCII", "G\u{e4}T / HTTP/1.1", Refusal::RequestLine),
        ("8-bit overflow of the version", "GET / HTTP/1.257", Refusal::RequestLine),
        ("more behind the version", "GET / HTTP/1.1x", Refusal::RequestLine),
        ("small letters in the version", "GET / http/1.1", Refusal::RequestLine),
        ("version without a minor", "GET / HTTP/1", Refusal::RequestLine),
        ("HTTP/1.2", "GET / HTTP/1.2", Refusal::Version),
        ("HTTP/2.0", "GET / HTTP/2.0", Refusal::Version),
        ("HTTP/0.9 by name", "GET / HTTP/0.9", Refusal::Version),
        ("absolute-form", "GET http://h/ HTTP/1.1", Refusal::Target),
        ("absolute-form with another host", "GET http://evil/ HTTP/1.1", Refusal::Target),
        ("authority-form", "GET h:80 HTTP/1.1", Refusal::Target),
        ("CONNECT", "CONNECT h:80 HTTP/1.1", Refusal::Connect),
        ("asterisk", "OPTIONS * HTTP/1.1", Refusal::Target),
        ("fragment", "GET /a#b HTTP/1.1", Refusal::Target),
        ("backslash", "GET /a\\b HTTP/1.1", Refusal::Target),
        ("beyond ASCII", "GET /\u{e4} HTTP/1.1", Refusal::Target),
        ("dot segment", "GET /a/../b HTTP/1.1", Refusal::Target),
        ("dot segment at the end", "GET /a/. HTTP/1.1", Refusal::Target),
        ("encoded dots", "GET /a/%2e%2E/b HTTP/1.1", Refusal::Target),
        ("encoded slash before dots", "GET /a%2f..%2fb HTTP/1.1", Refusal::Target),
        ("encoded backslash before dots", "GET /a%5C../b HTTP/1.1", Refusal::Target),
        ("encoded NUL", "GET /a%00 HTTP/1.1", Refusal::Target),
        ("encoded line end", "GET /?a=%0d%0ab HTTP/1.1", Refusal::Target),
        ("cut escape", "GET /a%2 HTTP/1.1", Refusal::Target),
        ("escape of no digits", "GET /a%zz HTTP/1.1", Refusal::Target),
        ("escape with a sign", "GET /a%+2 HTTP/1.1", Refusal::Target),
    ] {
        assert_refused(&[(name, &get(line), expected)]);
    }
}

#[test]
fn target_and_method_pass_as_they_are() {
    for target in
        ["/", "//a//b", "/v2/a..b/c.", "/a%20b%C3%A4", "/?next=../x&d=sha256:0|{}", "/a?b?c", "/~a!$&'()*+,;=:@"]
    {
        let shell = Shell::run(Habit::Waits, get(&format!("GET {target} HTTP/1.1")).as_bytes());
        assert_eq!(shell.requests[0].head.target, target);
    }
    for method in ["GETX", "get", "G", "M-SEARCH", "PRI"] {
        let shell = Shell::run(Habit::Waits, get(&format!("{method} / HTTP/1.1")).as_bytes());
        assert_eq!(shell.requests[0].head.method, method, "no method is taken for another");
    }
}

#[test]
fn host_is_there_once_or_the_request_is_refused() {
    for (name, bytes) in [
        ("missing", "GET / HTTP/1.1\r\n\r\n"),
        ("empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("two", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("two equal", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
        ("two in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
        ("space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ] {
        assert_refused(&[(name, bytes, Refusal::Host)]);
    }
    for (bytes, host) in [
        ("GET / HTTP/1.0\r\n\r\n", ""),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "a"),
        ("GET / HTTP/1.1\r\nhOST: [::1]:80\r\n\r\n", "[::1]:80"),
    ] {
        let shell = Shell::run(Habit::Waits, bytes.as_bytes());
        assert_eq!((shell.requests[0].head.host.as_str(), shell.requests[0].head.header("host")), (host, None));
    }
}

#[test]
fn other_protocols_are_told_so() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    assert_eq!(refusal(hello), Some("Tls".to_owned()));
    assert_eq!(refusal(b"\x16"), Some("Tls".to_owned()), "its first byte is enough");
    assert_eq!(refusal(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some("Version".to_owned()));
    assert_eq!(refusal(b"\x05\x01\x00"), Some("RequestLine".to_owned()), "SOCKS");
    assert_eq!(refusal(b"\xff\xfe"), Some("RequestLine".to_owned()));
}

#[test]
fn expectation_other_than_continue_is_refused() {
    for value in ["200-ok", "100-continue, x", "100-continue\nExpect: 100-continue", ""] {
        let bytes = post(&format!("Expect: {value}\nContent-Length: 1"), "x");
        assert_refused(&[("expect", &bytes, Refusal::Expectation)]);
    }
    assert_taken(&[("HTTP/1.0 knows none", "GET / HTTP/1.0\r\nExpect: x\r\n\r\n")]);
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    assert_taken(&[("one", &format!("\r\n{}", get("GET / HTTP/1.1")))]);
    for (name, before) in [("two", "\r\n\r\n"), ("LF", "\n"), ("CR", "\r"), ("space", " \r\n")] {
        assert_refused(&[(name, &format!("{before}{}", get("GET / HTTP/1.1")), Refusal::RequestLine)]);
    }
}

#[test]
fn every_refusal_has_a_status_that_fits_and_a_text() {
    for (refusal, status) in [
        (Refusal::Tls, 400),
        (Refusal::TwoLengths, 400),
        (Refusal::NoLength, 411),
        (Refusal::BodyTooLong, 413),
        (Refusal::TargetTooLong, 414),
        (Refusal::Expectation, 417),
        (Refusal::HeadTooLarge, 431),
        (Refusal::Connect, 501),
        (Refusal::UnknownCoding, 501),
        (Refusal::Version, 505),
    ] {
        assert_eq!(refusal.status(), status);
        assert!(refusal.to_string().contains(['r', 't']));
    }
}
