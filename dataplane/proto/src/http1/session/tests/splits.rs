//! Any split of any bytes is the same conversation, and nothing that comes breaks the machine.

use proptest::collection::vec as any_vec;
use proptest::prelude::*;

use super::*;

/// Bytes that come near to being requests.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(
        &[
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /content HTTP/1.1\r\nHost: h\r\n\r\n",
            "HEAD /content HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
            "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
            "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "0\r\nA: b\r\n\r\n",
            "GET /",
            " HTTP/1.1\r\n",
            "Host: h\r\n",
            "Content-Length: 2\r\n",
            "\r\n",
            "\r",
            "\n",
            "\u{16}",
            "x",
        ][..],
    );
    let tokens = any_vec(token.prop_map(|token| token.as_bytes().to_vec()), 0..10);
    (tokens, any_vec(any::<u8>(), 0..4)).prop_map(|(tokens, tail)| [tokens.concat(), tail].concat())
}

fn habit() -> impl Strategy<Value = Habit> {
    prop::sample::select(&[Habit::Takes, Habit::Ignores][..])
}

/// What the shell and the client see of `bytes` that come in the parts that `cuts` make, and of the client's end.
fn conversation(habit: Habit, bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut shell = Shell::new(habit);
    let mut start = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]).filter(|cut| *cut <= bytes.len()) {
        shell.bytes(&bytes[start..cut], usize::MAX);
        start = cut;
    }
    shell.handle(SessionInput::Eof);
    assert!(shell.is_closed(), "{:?}", shell.log);
    (shell.log, shell.wire)
}

/// What a shell may do, at a time that makes sense or not.
#[derive(Clone, Debug)]
enum Act {
    Bytes(Vec<u8>),
    Input(SessionInput<'static>),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => near_requests().prop_map(Act::Bytes),
        1 => any_vec(any::<u8>(), 0..40).prop_map(Act::Bytes),
        1 => Just(Act::Bytes(vec![b'a'; 40_000])),
        2 => Just(Act::Input(SessionInput::TakeBody)),
        2 => Just(Act::Input(SessionInput::BodyTaken)),
        3 => (any::<u64>(), 0..9_000u64, 200..599u16).prop_map(|(available, start, status)| {
            let range = range(start.min(5_000), start);
            let body = ReplyBody::Content { range, total: start, available };
            let made = Reply::new(status, Vec::new(), body).unwrap_or_else(|_| reply(200, &[], text("x")));
            Act::Input(SessionInput::Reply(made))
        }),
        2 => any::<u64>().prop_map(|upto| Act::Input(SessionInput::Available { upto })),
        1 => any::<u64>().prop_map(|upto| Act::Input(SessionInput::ContentLost { upto })),
        4 => (0..3_000u64).prop_map(|body_bytes| Act::Input(SessionInput::Sent { body_bytes })),
        1 => Just(Act::Input(SessionInput::Eof)),
        1 => Just(Act::Input(SessionInput::Finish)),
        1 => Just(Act::Input(SessionInput::Failed)),
        2 => (0..120u64).prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn conversation_is_the_same_however_its_bytes_are_split(
        bytes in near_requests(),
        habit in habit(),
        mut cuts in any_vec(0usize..400, 0..8),
    ) {
        cuts.sort_unstable();
        let whole = conversation(habit, &bytes, &[]);
        prop_assert_eq!(&conversation(habit, &bytes, &cuts), &whole);
        let all: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&conversation(habit, &bytes, &all), &whole);
    }

    #[test]
    fn bytes_that_are_anything_are_taken_without_panic(bytes in any_vec(any::<u8>(), 0..300), habit in habit()) {
        let _ = conversation(habit, &bytes, &[]);
        let started = [b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat();
        let _ = conversation(habit, &started, &[]);
    }

    #[test]
    fn shell_that_does_anything_breaks_nothing(acts in any_vec(act(), 0..40)) {
        let mut session = HttpSession::new(config(), Instant::ZERO);
        let (mut now, mut open, mut is_closed) = (Instant::ZERO, 0u32, false);
        for act in acts {
            match &act {
                Act::Bytes(bytes) => session.handle(now, SessionInput::Bytes(bytes)),
                Act::Input(input) => session.handle(now, input.clone()),
                Act::Wait(seconds) => now += Duration::from_secs(*seconds),
            }
            session.assert_invariants();
            while let Some(output) = session.poll(now) {
                prop_assert!(!is_closed, "nothing follows a close");
                match output {
                    SessionOutput::Request(_) | SessionOutput::Refused(_) => open += 1,
                    SessionOutput::Answered { .. } | SessionOutput::Abandoned => open -= 1,
                    SessionOutput::Close => is_closed = true,
                    _ => {}
                }
                prop_assert!(open <= 1, "one request at a time");
                session.assert_invariants();
            }
            prop_assert!(session.deadline().is_none_or(|at| at > now), "what was due is done");
        }
        prop_assert!(!is_closed || open == 0, "every request has its end");
    }
}
