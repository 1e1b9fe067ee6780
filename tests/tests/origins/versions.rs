//! Content that changes while it is fetched, and origins that tell versions apart badly or not at all.

use std::sync::Arc;
use std::time::Duration;

use hawker_tests::scripted::{Act, Request, honest, part_head, refusal, slowly, whole};

use crate::cases::{Case, Ground, V1, later};

const V2: &str = "ETag: \"v2\"\r\n";
const WEAK1: &str = "ETag: W/\"v1\"\r\n";
const WEAK2: &str = "ETag: W/\"v2\"\r\n";
const DAY1: &str = "Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nLast-Modified: Fri, 20 Nov 2026 10:00:00 GMT\r\n";
const DAY2: &str = "Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nLast-Modified: Sat, 21 Nov 2026 08:00:00 GMT\r\n";

pub(crate) fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = changes(ground);
    cases.extend(steady(ground));
    cases.extend(tokens(ground));
    cases
}

fn changes(ground: &Ground) -> Vec<Case> {
    let (large, other) = (&ground.large, &ground.other);
    // From the second question on it is another version of the same length, whatever condition was sent.
    let changed = |name, before: &'static str, after: &'static str| {
        let second = Arc::clone(other);
        Case::new(name, large, later(large, before, move |request| Some(honest(request, &second, after))))
            .refused(3, "changed")
            .healed(other, after)
    };
    let (by_if_range, by_if_match, longer) = (Arc::clone(other), Arc::clone(large), Arc::clone(&ground.small));
    vec![
        changed("etag-changes-half-way", V1, V2),
        changed("date-changes-half-way", DAY1, DAY2),
        changed("weak-etag-changes-half-way", WEAK1, WEAK2),
        changed("etag-vanishes-for-a-weak-one-half-way", V1, WEAK2),
        Case::new("if-range-honoured-after-a-change", large, later(large, V1, move |_| Some(whole(&by_if_range, V2))))
            .refused(3, "changed")
            .healed(other, V2),
        Case::new("if-match-honoured-after-a-change", large, later(large, V1, |_| Some(refusal(412, ""))))
            .refused(3, "changed")
            .healed(other, V2),
        Case::new(
            "total-changes-half-way",
            large,
            later(large, "", move |request| {
                let range = request.range.clone()?;
                let range = range.start..range.end.min(by_if_match.len());
                let head = part_head(&range, by_if_match.len() + 1, "");
                Some(vec![Act::Text(head), Act::Body(Arc::clone(&by_if_match), range), Act::Keep])
            }),
        )
        .refused(3, "changed"),
        Case::new("shorter-half-way", large, later(large, "", move |request| Some(honest(request, &longer, ""))))
            .refused(3, ""),
        Case::new("other-bytes-under-the-same-etag", large, {
            let second = Arc::clone(other);
            later(large, V1, move |request| Some(honest(request, &second, V1)))
        })
        .more(&["--digest", "sha256:0000000000000000000000000000000000000000000000000000000000000000"])
        .refused(4, "")
        .for_good()
        .kept(),
    ]
}

fn steady(ground: &Ground) -> Vec<Case> {
    let (small, large) = (&ground.small, &ground.large);
    let of = |name, content: &Arc<[u8]>, fields: &'static str| {
        let served = Arc::clone(content);
        Case::new(name, content, move |request| honest(request, &served, fields)).healed(content, fields)
    };
    vec![
        of("etag", large, V1),
        of("weak-etag", large, WEAK1),
        of("date", large, DAY1),
        of(
            "a-date-of-now",
            small,
            "Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nLast-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n",
        ),
        of("no-validator", large, ""),
        of("no-store", large, "ETag: \"v1\"\r\nCache-Control: no-store\r\n"),
        of("etag-that-is-none", large, "ETag: v1\r\n"),
        of("etag-with-latin-1", small, "ETag: \"\u{e9}\"\r\n"),
        // The second get must not be answered with the first one's bytes.
        of("no-store-then-others-of-the-same-length", large, "Cache-Control: no-store\r\n").healed(&ground.other, ""),
    ]
}

fn tokens(ground: &Ground) -> Vec<Case> {
    let large = Arc::clone(&ground.large);
    // The answers take longer than their token lives, and those for the rest end before their end.
    let slow = move |request: &Request| {
        if request.age >= Duration::from_secs(2) {
            return refusal(403, "");
        }
        let Some(range) = request.range.clone() else { return refusal(400, "") };
        let range = range.start..range.end.min(large.len());
        let mut acts = vec![Act::Text(part_head(&range, large.len(), V1))];
        let end = if range.start == 0 { range.end } else { range.start + range.len() / 2 };
        acts.extend(slowly(&large, range.start..end, 1 << 20, Duration::from_millis(180)));
        if range.start == 0 {
            acts.push(Act::Keep);
        } else {
            acts.push(Act::Wait(Duration::from_secs(2)));
        }
        acts
    };
    vec![Case::new("token-of-2-s", &ground.large, slow).refused(3, "403 (forbidden)")]
}
