//! Bodies that are cut, too long, chunked, slow or silent; connections that break; certificates.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hawker_tests::files;
use hawker_tests::scripted::{Act, Request, Scripted, chunked, honest, part_head, slowly, whole};
use hawker_tests::tls::Identity;

use crate::cases::{Case, Ground, V1, later, once, once_later, script, seconds};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(crate) fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = without_ranges(ground);
    cases.extend(wrong_lengths(ground));
    cases.extend(chunks(ground));
    cases.extend(late(ground));
    cases.extend(broken(ground));
    cases
}

fn text(text: impl Into<String>) -> Act {
    Act::Text(text.into())
}

/// What a request of a part of `length` bytes asks for.
fn asked(request: &Request, length: usize) -> Range<usize> {
    let range = request.range.clone().unwrap_or(0..length);
    range.start..range.end.min(length)
}

fn without_ranges(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let always = |name, content: &Arc<[u8]>, fields: &'static str| {
        let served = Arc::clone(content);
        Case::new(name, content, move |_| whole(&served, fields))
    };
    let until_close = |name, version: &'static str| {
        let served = Arc::clone(small);
        let answer = move |_: &Request| {
            vec![
                text(format!("HTTP/{version} 200 OK\r\nConnection: close\r\n\r\n")),
                Act::Body(Arc::clone(&served), 0..served.len()),
            ]
        };
        Case::new(name, small, answer)
    };
    let ignoring = Arc::clone(large);
    vec![
        always("no-ranges", small, V1),
        always("no-ranges-large", large, V1),
        always("ranges-promised-and-ignored", large, "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n"),
        always("ranges-denied", small, "Accept-Ranges: none\r\n"),
        Case::new("range-ignored-half-way", large, later(large, V1, move |_| Some(whole(&ignoring, V1)))),
        until_close("no-length", "1.1"),
        until_close("http-1.0", "1.0"),
    ]
}

fn wrong_lengths(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let cut = |content: &Arc<[u8]>| {
        let content = Arc::clone(content);
        move |request: &Request| {
            let range = asked(request, content.len());
            let half = range.start..range.start + range.len() / 2;
            vec![text(part_head(&range, content.len(), V1)), Act::Body(Arc::clone(&content), half)]
        }
    };
    let longer = |content: &Arc<[u8]>| {
        let content = Arc::clone(content);
        move |request: &Request| {
            let range = asked(request, content.len());
            let head = part_head(&range, content.len(), V1);
            vec![text(head), Act::Body(Arc::clone(&content), range), text("and some more".repeat(99)), Act::Keep]
        }
    };
    let (half, long) = (cut(large), longer(large));
    let never = Arc::clone(small);
    vec![
        Case::new("short-body-once", small, once(small, cut(small))),
        Case::new("short-body-half-way-once", large, once_later(large, cut(large))),
        // Every answer brings half of the rest, in the end half a block.
        Case::new("for-ever-short-bodies", small, cut(small)).refused(1, "broke"),
        Case::new("for-ever-short-bodies-half-way", large, later(large, V1, move |request| Some(half(request))))
            .refused(1, "broke"),
        Case::new("for-ever-the-same-short-body", small, move |_| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", never.len());
            vec![text(head), Act::Body(Arc::clone(&never), 0..never.len() / 2)]
        })
        .refused(1, "broke"),
        Case::new("long-body", small, longer(small)),
        Case::new("long-bodies-half-way", large, later(large, V1, move |request| Some(long(request)))),
    ]
}

fn chunks(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let of = |name, chunk_bytes: usize, end: &'static str| {
        let content = Arc::clone(small);
        let length = content.len();
        Case::new(name, small, move |_| chunked(CHUNKED, &content, 0..length, chunk_bytes, end))
    };
    let few: Arc<[u8]> = files::random_bytes(1000, 44).into();
    let tiny = Arc::clone(&few);
    let ranged = Arc::clone(large);
    let parts = move |request: &Request| {
        let range = asked(request, ranged.len());
        let (first, last, total) = (range.start, range.end - 1, ranged.len());
        let head = format!(
            "HTTP/1.1 206 Part\r\nContent-Range: bytes {first}-{last}/{total}\r\n{V1}Transfer-Encoding: chunked\r\n\r\n"
        );
        let mut acts = chunked(&head, &ranged, range, 60_001, "0\r\n\r\n");
        acts.push(Act::Keep);
        acts
    };
    vec![
        of("chunked", 37_123, "0\r\n\r\n"),
        of("chunked-with-trailers", 37_123, "0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n"),
        of("chunked-with-an-extension-at-the-end", 100_000, "0;last=yes\r\n\r\n"),
        Case::new("chunks-of-one-byte", &few, move |_| chunked(CHUNKED, &tiny, 0..1000, 1, "0\r\n\r\n")),
        Case::new("chunked-ranges", large, parts),
        of("chunked-without-its-end", 37_123, "").refused(1, "broke"),
        of("chunked-with-half-a-chunk", 37_123, "ffff\r\nnot so much").refused(1, "broke"),
        of("chunked-with-a-size-that-is-none", 37_123, "zz\r\n").refused(1, "broke"),
        of("chunked-with-a-size-that-overflows", 37_123, "ffffffffffffffffff\r\n").refused(1, "broke"),
    ]
}

fn late(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let first_byte = |name, wait: Act| {
        let content = Arc::clone(small);
        Case::new(name, small, move |request| {
            let mut acts = vec![wait.clone()];
            acts.extend(honest(request, &content, V1));
            acts
        })
    };
    let stall = |content: &Arc<[u8]>| {
        let content = Arc::clone(content);
        move |request: &Request| {
            let range = asked(request, content.len());
            let part = range.start..range.start + range.len() / 3;
            vec![text(part_head(&range, content.len(), V1)), Act::Body(Arc::clone(&content), part), Act::Hang]
        }
    };
    let trickled = Arc::clone(large);
    let trickle = move |request: &Request| {
        let range = asked(request, trickled.len());
        let mut acts = vec![text(part_head(&range, trickled.len(), V1))];
        acts.extend(slowly(&trickled, range, 6_000, Duration::from_millis(250)));
        acts.push(Act::Keep);
        Some(acts)
    };
    let stalled = stall(large);
    vec![
        first_byte("first-byte-after-3-s", seconds(3)),
        first_byte("no-first-byte", Act::Hang).more(&["--timeout", "3s"]).refused(6, "not done within 3 s"),
        first_byte("for-ever-no-first-byte", Act::Hang).refused(6, "sent nothing for 20 s").long(),
        Case::new("stall-once", small, once(small, stall(small))),
        Case::new("stall-half-way-once", large, once_later(large, stall(large))),
        Case::new(
            "for-ever-stalls-half-way",
            large,
            later(large, V1, move |request| {
                // The very first piece of each range never comes whole.
                let mut acts = stalled(request);
                acts.remove(1);
                Some(acts)
            }),
        )
        .refused(6, "sent nothing"),
        Case::new("for-ever-40-kB-a-second-half-way", large, later(large, V1, trickle)),
        Case::new("for-ever-silence-half-way", large, later(large, V1, |_| Some(vec![Act::Hang])))
            .refused(6, "sent nothing"),
    ]
}

fn broken(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let always = |name, answer: String, code, words| {
        Case::new(name, small, move |_| vec![text(answer.clone()), Act::Keep]).refused(code, words)
    };
    let reset = |content: &Arc<[u8]>| {
        let content = Arc::clone(content);
        move |request: &Request| {
            let range = asked(request, content.len());
            let part = range.start..range.start + range.len() / 2;
            vec![text(part_head(&range, content.len(), V1)), Act::Body(Arc::clone(&content), part), Act::Reset]
        }
    };
    let interim = |content: &Arc<[u8]>| {
        let content = Arc::clone(content);
        move |request: &Request| {
            let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
            let mut acts = vec![text("HTTP/1.1 100 Continue\r\n\r\n"), text(early)];
            acts.extend(honest(request, &content, V1));
            acts
        }
    };
    let hang_up = |content: &Arc<[u8]>| {
        let content = Arc::clone(content);
        // It promises to keep the connection.
        move |request: &Request| {
            let mut acts = honest(request, &content, V1);
            acts.pop();
            acts
        }
    };
    vec![
        Case::new("reset-once", small, once(small, reset(small))),
        Case::new("reset-half-way-once", large, once_later(large, reset(large))),
        Case::new("closed-before-an-answer-once", small, once(small, |_| Vec::new())),
        Case::new("closed-before-an-answer-half-way", large, once_later(large, |_| Vec::new())),
        Case::new("garbage-half-way-once", large, once_later(large, |_| vec![text("\0\u{1}garbage\r\n\r\n")])),
        Case::new("interim-answers", large, interim(large)),
        Case::new("connections-not-kept", large, hang_up(large)),
        always("not-http", "SSH-2.0-OpenSSH_9.9\r\n".to_owned(), 1, "broke"),
        always("a-head-without-end", format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(20_000)), 1, "broke"),
        always(
            "two-lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".to_owned(),
            1,
            "broke",
        ),
        always(
            "a-length-and-chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                .to_owned(),
            3,
            "makes no sense",
        ),
    ]
}

pub(crate) fn secure_cases(ground: &Ground) -> Vec<Case> {
    let over = |name, content: &Arc<[u8]>, identity: &Identity| {
        let served = Arc::clone(content);
        let origin = Scripted::start(script(move |request| honest(request, &served, V1)), Some(identity.server()));
        Case::with_origin(name, content, origin)
    };
    let refused = |name, identity| {
        let mut case = over(name, &ground.small, identity).refused(1, "certificate").look(|requests| {
            if requests.is_empty() { Ok(()) } else { Err("it spoke to a host that proved nothing".to_owned()) }
        });
        // A certificate does not get better.
        case.healed = None;
        case
    };
    vec![
        over("https", &ground.small, &ground.good),
        over("https-large", &ground.large, &ground.good),
        refused("https-expired", &ground.expired),
        refused("https-of-another-host", &ground.misnamed),
        refused("https-of-nobody-we-trust", &ground.unknown),
    ]
}
