//! Answers: heads, bodies from memory and from a content that is still arriving, and how they end.

use super::*;

fn get(version: u8, fields: &str) -> String {
    format!("GET /a HTTP/1.{version}\r\nHost: h\r\n{fields}\r\n")
}

/// The bytes that `answer` to `request` makes, and whether the connection goes on.
fn answered(request: &str, answer: Reply) -> (String, bool) {
    let mut shell = Shell::run(Habit::Waits, request.as_bytes());
    shell.handle(SessionInput::Reply(answer));
    (shell.wire(), shell.session.is_idle())
}

#[test]
fn answer_has_its_golden_bytes() {
    let answer = reply(404, &[("Content-Type", "application/json"), ("X", " \u{e9}\t")], text("{}"));
    let head = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nX: \u{e9}\r\nContent-Length: 2\r\n";
    let mut shell = Shell::run(Habit::Waits, get(1, "").as_bytes());
    shell.handle(SessionInput::Reply(answer));
    assert_eq!(shell.wire, format!("{head}\r\n{{}}").as_bytes());
}

#[test]
fn connection_goes_on_as_both_sides_say() {
    for (version, fields, said, is_kept) in [
        (1, "", "", true),
        (1, "Connection: keep-alive\r\n", "", true),
        (1, "Connection: close\r\n", "Connection: close\r\n", false),
        (1, "Connection: keep-alive, close\r\n", "Connection: close\r\n", false),
        (0, "", "Connection: close\r\n", false),
        (0, "Connection: Keep-Alive\r\n", "Connection: keep-alive\r\n", true),
    ] {
        let (wire, is_idle) = answered(&get(version, fields), reply(200, &[], text("")));
        assert_eq!(wire, format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{said}\r\n"), "{version} {fields}");
        assert_eq!(is_idle, is_kept, "{version} {fields}");
    }
    let mut shell = Shell::run(Habit::Waits, get(1, "").as_bytes());
    shell.handle(SessionInput::Finish);
    shell.handle(SessionInput::Reply(reply(200, &[], text(""))));
    assert!(shell.wire().contains("Connection: close"));
    assert_eq!(shell.log.last().unwrap(), "fin");
    let mut idle = Shell::new(Habit::Waits);
    idle.handle(SessionInput::Finish);
    assert_eq!(idle.log, ["fin"]);
}

#[test]
fn head_204_and_304_have_no_body() {
    let head = get(1, "").replace("GET", "HEAD");
    for body in [text("12345"), ReplyBody::Content { range: range(0, 5), total: 5, available: 0 }] {
        let (wire, is_idle) = answered(&head, reply(200, &[], body));
        assert_eq!((wire.as_str(), is_idle), ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), "as GET would");
    }
    for (status, phrase) in [(204, "No Content"), (304, "Not Modified")] {
        let (wire, is_idle) = answered(&get(1, ""), reply(status, &[("ETag", "\"a\"")], text("")));
        assert_eq!((wire, is_idle), (format!("HTTP/1.1 {status} {phrase}\r\nETag: \"a\"\r\n\r\n"), true));
    }
}

#[test]
fn part_of_a_content_says_which() {
    let (wire, is_idle) = answered(&get(1, ""), reply(206, &[], content(range(250, 255), 255)));
    let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 250-254/3000\r\nContent-Length: 5\r\n\r\n";
    assert_eq!((wire, is_idle), (format!("{head}\u{fa}\0\u{1}\u{2}\u{3}"), true));
}

#[test]
fn content_goes_out_as_it_arrives() {
    let mut shell = Shell::run(Habit::Waits, get(1, "").as_bytes());
    shell.handle(SessionInput::Reply(reply(206, &[], content(range(1_000, 3_000), 0))));
    let head_bytes = shell.wire.len();
    assert!(shell.wire().ends_with("\r\n\r\n"), "the head goes ahead");
    assert_eq!(shell.session.deadline(), None, "the client owes nothing while the content is not here");
    for (upto, sent) in [(999, 0), (1_001, 1), (1_500, 500), (1_200, 500), (u64::MAX, 2_000)] {
        shell.handle(SessionInput::Available { upto });
        assert_eq!(shell.wire.len() - head_bytes, sent, "{upto}");
    }
    assert_eq!(shell.log, ["GET /a", "answered 2000 true"]);
    assert!(shell.wire[head_bytes..].iter().zip(1_000_u64..).all(|(byte, at)| u64::from(*byte) == at % 251));
}

#[test]
fn content_is_sent_in_bounded_parts_and_asked_for_again_where_it_stopped() {
    let mut shell = Shell::new(Habit::Waits);
    shell.session.handle(shell.now, SessionInput::Bytes(get(1, "").as_bytes()));
    assert!(matches!(shell.session.poll(shell.now), Some(SessionOutput::Request(_))));
    shell.session.handle(shell.now, SessionInput::Reply(reply(200, &[], content(range(0, 3_000), 3_000))));
    let mut next = |sent: Option<u64>| {
        if let Some(body_bytes) = sent {
            shell.session.handle(shell.now, SessionInput::Sent { body_bytes });
        }
        match shell.session.poll(shell.now) {
            Some(SessionOutput::Send { body, .. }) => body,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next(None), Some(range(0, 1_000)));
    assert_eq!(next(Some(10)), Some(range(10, 1_010)));
    assert_eq!(next(Some(0)), Some(range(10, 1_010)));
    assert_eq!(next(Some(u64::MAX)), Some(range(1_010, 2_010)), "no more than was asked for");
    assert_eq!(next(Some(1_000)), Some(range(2_010, 3_000)));
    shell.session.handle(shell.now, SessionInput::Sent { body_bytes: 990 });
    assert_eq!(
        shell.session.poll(shell.now),
        Some(SessionOutput::Answered { content_bytes: 3_000, is_complete: true })
    );
}

#[test]
fn content_that_is_lost_ends_by_a_clean_end_behind_what_is_right() {
    for (available, upto, sent) in [(0, 3_000, 0), (500, 3_000, 500), (500, 200, 500), (0, 0, 0)] {
        let mut shell = Shell::run(Habit::Waits, get(1, "").as_bytes());
        shell.handle(SessionInput::Reply(reply(200, &[], content(range(0, 3_000), available))));
        shell.handle(SessionInput::ContentLost { upto });
        assert_eq!(shell.log, ["GET /a", &format!("answered {sent} false"), "fin"]);
        assert!(shell.wire().contains("Content-Length: 3000\r\n"), "the client sees that it is short");
        shell.bytes(get(1, "").as_bytes(), 7);
        assert_eq!(shell.log.len(), 3, "no request after that");
        shell.handle(SessionInput::Eof);
        assert!(shell.is_closed(), "only when the client has ended, too");
    }
}

#[test]
fn answer_that_would_be_another_is_refused() {
    let made =
        |status: u16, name: &str, value: &str| Reply::new(status, vec![(name.to_owned(), value.to_owned())], text(""));
    for value in ["a\r\nb: c", "a\n", "\r", "\0", "\u{1b}", "\u{7f}"] {
        assert_eq!(made(200, "X", value), Err(ReplyError::HeaderValue("X".to_owned())), "{value:?}");
    }
    for name in ["", "a b", "a:", "a\r\n", "\u{e9}", "a\0"] {
        assert_eq!(made(200, name, "v"), Err(ReplyError::HeaderName(name.to_owned())), "{name:?}");
    }
    for name in ["Content-Length", "transfer-encoding", "CONNECTION", "Upgrade", "Keep-Alive", "Trailer"] {
        assert_eq!(made(200, name, "v"), Err(ReplyError::Reserved(name.to_owned())));
    }
    for status in [0, 99, 100, 101, 199, 600, u16::MAX] {
        assert_eq!(made(status, "X", "v"), Err(ReplyError::Status));
    }
    for (status, body) in [
        (204, text("x")),
        (304, text("x")),
        (200, ReplyBody::Inline(vec![0; crate::http1::HTTP_INLINE_BYTES_MAX + 1])),
        (304, content(range(0, 1), 1)),
        (206, content(range(5, 5), 5)),
        (200, content(range(0, CONTENT_BYTES + 1), 0)),
    ] {
        assert_eq!(Reply::new(status, Vec::new(), body), Err(ReplyError::Body), "{status}");
    }
    assert_eq!(made(200, "X", &"v".repeat(8 * 1024)), Err(ReplyError::TooLarge));
    let many = |count: usize, bytes: usize| vec![("x".to_owned(), "v".repeat(bytes)); count];
    assert_eq!(Reply::new(200, many(97, 1), text("")), Err(ReplyError::TooLarge));
    assert_eq!(Reply::new(200, many(5, 8_000), text("")), Err(ReplyError::TooLarge));
    let largest = Reply::new(206, many(4, 8_000), content(range(0, 1), 0)).unwrap();
    assert!(largest.encode_head(Some("keep-alive")).len() <= crate::http1::HTTP_HEAD_BYTES_MAX);
    assert!(ReplyError::Reserved("X".to_owned()).to_string().contains('X'));
}

#[test]
fn inputs_that_make_no_sense_change_nothing() {
    let mut shell = Shell::new(Habit::Waits);
    let nonsense = [
        SessionInput::TakeBody,
        SessionInput::BodyTaken,
        SessionInput::Reply(reply(200, &[], text(""))),
        SessionInput::Available { upto: 5 },
        SessionInput::ContentLost { upto: 0 },
        SessionInput::Sent { body_bytes: 5 },
        SessionInput::Bytes(b""),
    ];
    for input in nonsense {
        shell.handle(input);
    }
    assert!(shell.log.is_empty() && shell.wire.is_empty());
    shell.bytes(get(1, "").as_bytes(), usize::MAX);
    shell.handle(SessionInput::Reply(reply(200, &[], content(range(0, 10), 5))));
    shell.handle(SessionInput::Reply(reply(500, &[], text("second"))));
    shell.handle(SessionInput::TakeBody);
    shell.handle(SessionInput::Available { upto: 10 });
    assert_eq!(shell.log, ["GET /a", "answered 10 true"]);
    assert!(!shell.wire().contains("second"));
}
