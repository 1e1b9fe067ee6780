//! Bodies of requests, pipelining, and what becomes of the connection.

use super::*;

const GET: &str = "GET /b HTTP/1.1\r\nHost: h\r\n\r\n";

fn put(fields: &str, body: &str) -> String {
    format!("PUT /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}")
}

#[test]
fn chunks_with_two_readings_are_refused() {
    for (name, body) in [
        ("empty size", "\r\n\r\n"),
        ("0x", "0x1\r\nx\r\n0\r\n\r\n"),
        ("underscore", "1_0\r\n"),
        ("plus", "+1\r\nx\r\n0\r\n\r\n"),
        ("minus", "-1\r\nx\r\n0\r\n\r\n"),
        ("space before", " 1\r\nx\r\n0\r\n\r\n"),
        ("space behind", "1 \r\nx\r\n0\r\n\r\n"),
        ("17 digits", "00000000000000001\r\nx\r\n0\r\n\r\n"),
        ("longest prefix that is a number", "1g\r\nx\r\n0\r\n\r\n"),
        ("extension with a bare CR", "1;a\rb\r\nx\r\n0\r\n\r\n"),
        ("extension with a bare LF", "1;a\nb\r\nx\r\n0\r\n\r\n"),
        ("line that ends in LF", "1\nx\r\n0\r\n\r\n"),
        ("line that ends in CR and another", "1\rXx\r\n0\r\n\r\n"),
        ("data that ends in nothing", "1\r\nx0\r\n\r\n"),
        ("data that ends in LF", "1\r\nx\n0\r\n\r\n"),
        ("data that ends in CR and another", "1\r\nx\rX0\r\n\r\n"),
        ("trailer that frames", "0\r\nContent-Length: 5\r\n\r\n"),
        ("trailer that is none", "0\r\nx\r\n\r\n"),
    ] {
        let bytes = put("Transfer-Encoding: chunked", body);
        assert_eq!(refusal(bytes.as_bytes()), Some("Chunk".to_owned()), "{name}: {body:?}");
    }
    let huge_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(2000));
    assert_eq!(refusal(put("Transfer-Encoding: chunked", &huge_extension).as_bytes()), Some("Chunk".to_owned()));
    let many_trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_eq!(refusal(put("Transfer-Encoding: chunked", &many_trailers).as_bytes()), Some("Chunk".to_owned()));
    for body in ["100001\r\n", "fffffffffffffffe\r\n", "1\r\nx\r\n100000\r\n"] {
        let bytes = put("Transfer-Encoding: chunked", body);
        assert_eq!(refusal(bytes.as_bytes()), Some("BodyTooLong".to_owned()), "{body:?}");
    }
}

#[test]
fn body_comes_whole_and_the_next_request_behind_it() {
    for body in [
        put("Content-Length: 5", "12345"),
        put("Transfer-Encoding: chunked", "3;x=\"y\"\r\n123\r\n2\r\n45\r\n0\r\nA: b\r\n\r\n"),
        put("Content-Length: 5", "12345\r\n"),
    ] {
        let shell = Shell::run(Habit::Takes, format!("{body}{GET}").as_bytes());
        let expected = ["PUT /a", "body:12345", "body end", "answered 0 true", "GET /b", "answered 0 true"];
        assert_eq!(shell.log, expected, "{body:?}");
        assert!(shell.session.is_idle());
    }
}

#[test]
fn body_that_nobody_wants_is_read_or_ends_the_connection() {
    for method in ["GET", "HEAD", "PUT"] {
        let short = format!("{method} /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345{GET}");
        let shell = Shell::run(Habit::Ignores, short.as_bytes());
        assert_eq!(shell.log, [&format!("{method} /a"), "answered 0 true", "GET /b", "answered 0 true"]);
        assert!(!shell.wire().contains("Connection"), "{}", shell.wire());
    }
    for fields in ["Content-Length: 65537", "Transfer-Encoding: chunked", "Content-Length: 5\r\nExpect: 100-continue"] {
        let shell = Shell::run(Habit::Ignores, format!("{}{GET}", put(fields, "")).as_bytes());
        assert_eq!(shell.log, ["PUT /a", "answered 0 true", "fin"], "{fields}");
        assert!(shell.wire().contains("\r\nConnection: close\r\n"));
    }
}

#[test]
fn client_that_waits_for_100_gets_it_when_its_body_is_wanted() {
    let mut shell = Shell::run(Habit::Takes, put("Content-Length: 2\r\nExpect: 100-Continue", "").as_bytes());
    assert_eq!(shell.wire(), "HTTP/1.1 100 Continue\r\n\r\n");
    shell.bytes(b"ok", 1);
    assert_eq!(shell.log, ["PUT /a", "body:ok", "body end", "answered 0 true"]);
    assert!(shell.wire().ends_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/a"));
    let old = Shell::run(Habit::Takes, b"PUT / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(old.wire(), "", "HTTP/1.0 knows no 100");
}

#[test]
fn nothing_is_read_of_what_follows_a_refused_request() {
    let shell = Shell::run(Habit::Takes, format!("BAD\r\n\r\n{GET}{GET}").as_bytes());
    assert_eq!(shell.log, ["refused RequestLine", "answered 0 true", "fin"]);
    let shell = Shell::run(Habit::Takes, format!("{}{GET}", put("Transfer-Encoding: chunked", "1\r\nxyz")).as_bytes());
    assert_eq!(shell.log, ["PUT /a", "body:x", "body refused Chunk", "answered 0 true", "fin"]);
    let shell =
        Shell::run(Habit::Takes, format!("GET /a HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n{GET}").as_bytes());
    assert_eq!(shell.log, ["GET /a", "answered 0 true", "fin"]);
}

#[test]
fn broken_body_is_told_once() {
    let mut session = HttpSession::new(config(), Instant::ZERO);
    session.handle(Instant::ZERO, SessionInput::Bytes(put("Transfer-Encoding: chunked", "x").as_bytes()));
    assert!(matches!(session.poll(Instant::ZERO), Some(SessionOutput::Request(_))));
    session.handle(Instant::ZERO, SessionInput::TakeBody);
    assert_eq!(session.poll(Instant::ZERO), Some(SessionOutput::BodyRefused(Refusal::Chunk)));
    session.handle(Instant::ZERO, SessionInput::Bytes(b"x\r\n"));
    assert_eq!(session.poll(Instant::ZERO), None, "the shell replies when it can");
}

#[test]
fn upgrade_is_not_taken_up() {
    let head = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let shell = Shell::run(Habit::Takes, format!("{head}{GET}").as_bytes());
    assert_eq!(shell.log, ["GET /a", "answered 0 true", "GET /b", "answered 0 true"], "what follows is HTTP/1.1");
}

#[test]
fn pipelined_requests_wait_in_bounded_memory() {
    let mut shell = Shell::run(Habit::Waits, GET.repeat(2000).as_bytes());
    assert_eq!((shell.requests.len(), shell.session.room()), (1, 0), "one at a time, and no more is read");
    for count in 2..50 {
        let request = shell.requests[0].clone();
        shell.answer(&request);
        shell.settle();
        assert_eq!(shell.requests.len(), count);
        assert!(shell.session.room() >= GET.len(), "and then some more");
    }
}

#[test]
fn body_waits_until_the_shell_can_take_more() {
    let mut shell = Shell::new(Habit::Waits);
    shell.bytes(put("Content-Length: 100000", "").as_bytes(), usize::MAX);
    shell.bytes(&[b'x'; 100_000], usize::MAX);
    assert_eq!((shell.log.len(), shell.session.room()), (1, 0), "nothing of it comes unasked");
    shell.session.handle(shell.now, SessionInput::TakeBody);
    let Some(SessionOutput::Body(first)) = shell.session.poll(shell.now) else { panic!("no body") };
    shell.bytes(&[b'x'; 100_000], usize::MAX);
    assert_eq!((shell.session.poll(shell.now), shell.session.room()), (None, 0), "one part at a time");
    shell.session.handle(shell.now, SessionInput::BodyTaken);
    let Some(SessionOutput::Body(second)) = shell.session.poll(shell.now) else { panic!("no more body") };
    assert!(first.len() + second.len() < 70_000);
}

#[test]
fn client_that_ends_in_the_middle_is_no_request() {
    for bytes in ["", "GET / HT", "\r\n"] {
        let mut shell = Shell::run(Habit::Takes, bytes.as_bytes());
        shell.handle(SessionInput::Eof);
        assert_eq!(shell.log, ["close"], "{bytes:?}");
    }
    for body in [put("Content-Length: 5", "1234"), put("Transfer-Encoding: chunked", "4\r\n1234\r\n")] {
        let mut shell = Shell::run(Habit::Takes, body.as_bytes());
        shell.handle(SessionInput::Eof);
        assert_eq!(shell.log, ["PUT /a", "body:1234", "abandoned", "close"], "a cut body is not its end");
    }
}

#[test]
fn client_that_ends_its_side_gets_its_answers() {
    let mut shell = Shell::new(Habit::Waits);
    shell.bytes(GET.repeat(2).as_bytes(), usize::MAX);
    shell.handle(SessionInput::Eof);
    let request = shell.requests[0].clone();
    for _ in 0..2 {
        shell.answer(&request);
        shell.settle();
    }
    assert_eq!(shell.log, ["GET /b", "answered 0 true", "GET /b", "answered 0 true", "close"]);
}

#[test]
fn broken_socket_ends_everything_at_once() {
    let mut shell = Shell::run(Habit::Waits, GET.as_bytes());
    shell.handle(SessionInput::Failed);
    assert_eq!(shell.log, ["GET /b", "abandoned", "close"]);
    assert_eq!((shell.session.deadline(), shell.session.room()), (None, 0));
    let mut shell = Shell::new(Habit::Waits);
    shell.handle(SessionInput::Bytes(&[b'x'; 40_000]));
    assert!(shell.is_closed(), "more than there is room for");
}
