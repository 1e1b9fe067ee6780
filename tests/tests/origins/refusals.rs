//! Origins that say no, later, elsewhere, or something that makes no sense.

use std::sync::Arc;

use hawker_tests::scripted::{Act, Request, Scripted, honest, part_head, refusal, whole};

use crate::cases::{Case, Ground, V1, later, once, once_later, script};

pub(crate) fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = statuses(ground);
    cases.extend(passing(ground));
    cases.extend(redirects(ground));
    cases.extend(nonsense(ground));
    cases.extend(totals(ground));
    cases
}

fn asked_once(requests: &[Request]) -> Result<(), String> {
    if requests.len() == 1 { Ok(()) } else { Err(format!("{} requests for a final answer", requests.len())) }
}

fn statuses(ground: &Ground) -> Vec<Case> {
    let small = &ground.small;
    let of = |name, status: u16, words| Case::new(name, small, move |_| refusal(status, "")).refused(3, words);
    let no_body = |name, status: u16, words| {
        let answer = move |_: &Request| vec![Act::Text(format!("HTTP/1.1 {status} As told\r\n\r\n")), Act::Keep];
        Case::new(name, small, answer).refused(3, words)
    };
    vec![
        of("404", 404, "404 (not found)").look(asked_once),
        of("401", 401, "401 (credentials missing or wrong)").look(asked_once),
        of("403", 403, "403 (forbidden)").look(asked_once),
        of("410", 410, "410 (gone)"),
        of("416-though-not-empty", 416, "416 (range not satisfiable)"),
        of("202-is-no-content", 202, "202"),
        of("203-is-not-the-origin", 203, "203"),
        no_body("204-is-no-content", 204, "204"),
        no_body("304-unasked", 304, "304"),
        of("429-for-an-hour", 429, "429 (too many requests)"),
        of("500-at-every-question", 500, "500 (server error)"),
        Case::new("for-ever-500-half-way", &ground.large, later(&ground.large, V1, |_| Some(refusal(500, ""))))
            .refused(3, "500 (server error)"),
        Case::new("403-half-way", &ground.large, later(&ground.large, V1, |_| Some(refusal(403, ""))))
            .refused(3, "403 (forbidden)"),
        Case::new("404-half-way", &ground.large, later(&ground.large, V1, |_| Some(refusal(404, ""))))
            .refused(3, "404 (not found)"),
        Case::new(
            "for-ever-429-an-hour-half-way",
            &ground.large,
            later(&ground.large, V1, |_| Some(refusal(429, "Retry-After: 3600\r\n"))),
        )
        .refused(3, "429 (too many requests)"),
    ]
}

fn passing(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let at =
        |name, status: u16, fields: &'static str| Case::new(name, small, once(small, move |_| refusal(status, fields)));
    let half_way = |name, status: u16, fields: &'static str| {
        Case::new(name, large, once_later(large, move |_| refusal(status, fields)))
    };
    vec![
        at("429-for-a-second", 429, "Retry-After: 1\r\n").look(|requests| {
            let pause = requests[1].age - requests[0].age;
            if pause.as_millis() >= 1000 { Ok(()) } else { Err(format!("came back after {pause:?}")) }
        }),
        at("503-then-fine", 503, ""),
        at(
            "502-until-a-date",
            502,
            "Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nRetry-After: Sat, 21 Nov 2026 10:00:01 GMT\r\n",
        ),
        half_way("503-half-way-then-fine", 503, ""),
        half_way("429-half-way-for-a-second", 429, "Retry-After: 1\r\n"),
        half_way("408-half-way-and-hang-up", 408, "Connection: close\r\n"),
    ]
}

fn redirect(location: &str) -> Vec<Act> {
    refusal(302, &format!("Location: {location}\r\n"))
}

fn redirects(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let refused =
        |name, location: &'static str, words| Case::new(name, small, move |_| redirect(location)).refused(3, words);
    let other = |content: &Arc<[u8]>| {
        let served = Arc::clone(content);
        // It is another origin: what the caller gave for the first must not come here.
        Scripted::start(
            script(move |request| match request.header("x-canary") {
                Some(_) => refusal(400, ""),
                None => honest(request, &served, V1),
            }),
            None,
        )
        .url("elsewhere")
    };
    let (at_once, half_way) = (other(small), other(large));
    let plain = other(small);
    let downgrade = Scripted::start(script(move |_| redirect(&plain)), Some(ground.good.server()));
    let secure = Arc::clone(small);
    let secure = Scripted::start(script(move |request| honest(request, &secure, V1)), Some(ground.good.server()));
    let secure = secure.url("secure");
    vec![
        refused("redirect-loop", "/again", "redirects in circles"),
        refused("redirect-to-nowhere", "", "without a Location"),
        refused("redirect-to-a-file", "file:///etc/passwd", "redirects"),
        refused("redirect-with-a-user", "http://user:secret@localhost/x", "redirects"),
        Case::new("redirect-to-another-host", small, move |_| redirect(&at_once)).more(&["-H", "X-Canary: s3cret"]),
        Case::new("redirect-half-way", large, once_later(large, move |_| redirect(&half_way)))
            .more(&["-H", "X-Canary: s3cret"]),
        Case::with_origin("redirect-from-https-to-http", small, downgrade).refused(3, "from https to http"),
        Case::new("redirect-to-https", small, move |_| redirect(&secure)),
    ]
}

fn nonsense(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let first = |name, head: &'static str, words| {
        let content = Arc::clone(small);
        let answer = move |_: &Request| {
            vec![Act::Text(format!("{head}\r\n\r\n")), Act::Body(Arc::clone(&content), 0..content.len()), Act::Keep]
        };
        Case::new(name, small, answer).refused(3, words)
    };
    let shifted = |request: &Request, by: usize, content: &Arc<[u8]>| {
        let range = request.range.clone().unwrap_or(0..content.len());
        let range = range.start + by..range.end.min(content.len());
        vec![Act::Text(part_head(&range, content.len(), V1)), Act::Body(Arc::clone(content), range), Act::Keep]
    };
    let (early, half_way) = (Arc::clone(small), Arc::clone(large));
    vec![
        Case::new("206-of-another-range", small, move |request| shifted(request, 1, &early))
            .refused(3, "another range"),
        Case::new(
            "206-of-another-range-half-way",
            large,
            later(large, V1, move |request| Some(shifted(request, 7, &half_way))),
        )
        .refused(3, "another range"),
        first(
            "206-without-content-range",
            "HTTP/1.1 206 Part\r\nContent-Length: 2097153",
            "without a valid Content-Range",
        ),
        first(
            "206-with-a-broken-content-range",
            "HTTP/1.1 206 Part\r\nContent-Length: 2097153\r\nContent-Range: bytes 9-1/2",
            "without a valid Content-Range",
        ),
        first(
            "206-that-contradicts-its-length",
            "HTTP/1.1 206 Part\r\nContent-Length: 7\r\nContent-Range: bytes 0-2097152/2097153",
            "contradict each other",
        ),
        first(
            "206-in-several-parts",
            "HTTP/1.1 206 Part\r\nContent-Length: 2097153\r\nContent-Type: multipart/byteranges; boundary=x",
            "several ranges",
        ),
        first(
            "gzip-against-our-will",
            "HTTP/1.1 200 OK\r\nContent-Length: 2097153\r\nContent-Encoding: gzip",
            "Content-Encoding",
        ),
        Case::new(
            "gzip-half-way",
            large,
            later(large, V1, |request| {
                let range = request.range.clone()?;
                Some(vec![Act::Text(part_head(&range, (18 << 20) + 1, "ETag: \"v1\"\r\nContent-Encoding: gzip\r\n"))])
            }),
        )
        .refused(3, "Content-Encoding"),
        first("an-absurd-length", "HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000", "256 TiB"),
    ]
}

fn totals(ground: &Ground) -> Vec<Case> {
    let small = &ground.small;
    let ended = Arc::clone(small);
    vec![
        Case::new("a-total-that-never-comes", small, move |request| {
            let is_first = request.range.as_ref().is_some_and(|range| range.start == 0);
            if is_first {
                let range = 0..ended.len();
                let text = part_head(&range, ended.len() + 1, V1);
                return vec![Act::Text(text), Act::Body(Arc::clone(&ended), range), Act::Keep];
            }
            refusal(416, "")
        })
        .refused(3, ""),
        {
            let content = Arc::clone(small);
            Case::new("206-of-an-unknown-total", small, move |request| match request.range.clone() {
                Some(_) => vec![
                    Act::Text(
                        "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-7/*\r\nContent-Length: 8\r\n\r\n".to_owned(),
                    ),
                    Act::Body(Arc::clone(&content), 0..8),
                    Act::Keep,
                ],
                None => whole(&content, V1),
            })
            .refused(3, "another range")
        },
        {
            let content = Arc::clone(small);
            Case::new("206-whose-total-is-a-star", small, move |request| match request.range.clone() {
                Some(range) if range.start == 0 => {
                    let text = format!(
                        "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-{}/*\r\nContent-Length: {}\r\n\r\n",
                        range.end - 1,
                        range.len()
                    );
                    vec![Act::Text(text), Act::Body(Arc::clone(&content), 0..9), Act::Keep]
                }
                _ => whole(&content, V1),
            })
        },
    ]
}
