//! Waits for the client end; waits for the shell do not.

use super::*;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";

fn limits() -> SessionConfig {
    config()
}

/// Waits until the deadline, `just` before which nothing happens.
fn expire(shell: &mut Shell) {
    let deadline = shell.session.deadline().expect("a deadline");
    let lines = shell.log.len();
    shell.wait(deadline.since(shell.now) - Duration::from_nanos(1));
    assert_eq!(shell.log.len(), lines, "early: {:?}", shell.log);
    shell.wait(Duration::from_nanos(1));
}

#[test]
fn client_that_says_nothing_is_let_go() {
    let mut shell = Shell::new(Habit::Waits);
    assert_eq!(shell.session.deadline(), Some(Instant::ZERO + limits().first_byte_limit));
    expire(&mut shell);
    assert_eq!((shell.log.as_slice(), shell.wire.len()), (&["fin".to_owned()][..], 0), "no 408, which is asked again");
    expire(&mut shell);
    assert_eq!(shell.log, ["fin", "close"]);
}

#[test]
fn slow_head_is_cut_off() {
    let mut shell = Shell::new(Habit::Waits);
    shell.wait(Duration::from_secs(9));
    for byte in &GET[..9] {
        shell.bytes(&[*byte], 1);
        shell.wait(Duration::from_secs(1));
    }
    assert_eq!(shell.session.deadline(), Some(Instant::ZERO + Duration::from_secs(9) + limits().head_limit));
    expire(&mut shell);
    assert_eq!(shell.log, ["fin"]);
}

#[test]
fn idle_connection_is_kept_for_a_while() {
    let mut shell = Shell::run(Habit::Takes, GET);
    shell.wait(limits().idle_limit - Duration::from_secs(1));
    shell.bytes(GET, 1);
    assert_eq!(shell.log, ["GET /a", "answered 0 true"].repeat(2));
    expire(&mut shell);
    assert_eq!(shell.log.last().unwrap(), "fin");
}

#[test]
fn pipelined_head_that_is_cut_has_a_heads_time() {
    let mut shell = Shell::run(Habit::Takes, &[GET, b"GE"].concat());
    assert_eq!(shell.session.deadline(), Some(Instant::ZERO + limits().head_limit));
    expire(&mut shell);
    assert_eq!(shell.log.last().unwrap(), "fin");
}

#[test]
fn slow_body_is_cut_off_and_a_steady_one_is_not() {
    let head = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
    let mut steady = Shell::run(Habit::Takes, head);
    for _ in 0..5 {
        steady.bytes(&[b'x'; 10_240], usize::MAX);
        expire(&mut steady);
        assert_eq!(steady.log.len(), 2, "{:?}", steady.log.last());
    }
    let mut slow = Shell::run(Habit::Takes, head);
    for _ in 0..9 {
        slow.wait(Duration::from_secs(1));
        slow.bytes(&[b'x'; 1_000], usize::MAX);
    }
    expire(&mut slow);
    assert_eq!(slow.log[2..], ["abandoned", "fin"]);

    let mut unwanted = Shell::run(Habit::Ignores, b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(unwanted.log, ["PUT /a"]);
    expire(&mut unwanted);
    assert_eq!(unwanted.log, ["PUT /a", "answered 0 true", "fin"]);
}

#[test]
fn shell_may_take_its_time() {
    let mut shell = Shell::run(Habit::Waits, b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx");
    shell.wait(Duration::from_hours(1));
    shell.session.handle(shell.now, SessionInput::TakeBody);
    assert!(matches!(shell.session.poll(shell.now), Some(SessionOutput::Body(_))));
    shell.wait(Duration::from_hours(1));
    assert_eq!(shell.session.deadline(), None);
    shell.handle(SessionInput::BodyTaken);
    assert_eq!(shell.session.deadline(), Some(shell.now + limits().body_window), "now the client is to send");
}

#[test]
fn client_that_reads_nothing_is_cut_off() {
    let mut session = HttpSession::new(limits(), Instant::ZERO);
    session.handle(Instant::ZERO, SessionInput::Bytes(GET));
    assert!(matches!(session.poll(Instant::ZERO), Some(SessionOutput::Request(_))));
    session.handle(Instant::ZERO, SessionInput::Reply(reply(200, &[], content(range(0, 3_000), 3_000))));
    assert!(matches!(session.poll(Instant::ZERO), Some(SessionOutput::Send { .. })));
    let deadline = session.deadline().unwrap();
    assert!(deadline >= Instant::ZERO + limits().send_limit);
    assert_eq!(session.poll(deadline), Some(SessionOutput::Abandoned));
    assert_eq!(session.poll(deadline), Some(SessionOutput::Close));
    assert_eq!((session.poll(deadline), session.deadline()), (None, None));
}

#[test]
fn large_send_may_take_longer() {
    let config = SessionConfig { send_bytes_max: 1 << 20, ..limits() };
    let mut session = HttpSession::new(config.clone(), Instant::ZERO);
    session.handle(Instant::ZERO, SessionInput::Bytes(GET));
    let _ = session.poll(Instant::ZERO);
    let body = ReplyBody::Content { range: range(0, 1 << 20), total: 1 << 20, available: 1 << 20 };
    session.handle(Instant::ZERO, SessionInput::Reply(reply(200, &[], body)));
    let _ = session.poll(Instant::ZERO);
    assert_eq!(session.deadline(), Some(Instant::ZERO + config.send_limit + Duration::from_secs(128)));
}

#[test]
fn what_comes_after_the_end_is_read_in_bounds_and_forgotten() {
    let mut shell = Shell::run(Habit::Takes, b"BAD\r\n\r\n");
    assert_eq!(shell.log.last().unwrap(), "fin");
    shell.bytes(&vec![b'x'; 2 << 20], 1 << 16);
    assert_eq!((shell.session.room(), shell.log.last().unwrap().as_str()), (0, "fin"), "it reads no more, but waits");
    expire(&mut shell);
    assert!(shell.is_closed());
}

#[test]
fn bytes_that_came_in_time_count_when_they_are_looked_at_late() {
    let mut session = HttpSession::new(limits(), Instant::ZERO);
    session.handle(Instant::ZERO, SessionInput::Bytes(GET));
    let late = Instant::ZERO + Duration::from_hours(1);
    assert!(matches!(session.poll(late), Some(SessionOutput::Request(_))));
}
