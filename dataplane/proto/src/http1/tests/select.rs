//! Ranges and preconditions that clients send, and fields that go on.

use super::*;

const LENGTH: u64 = 1_000;
const TAG: &str = "\"a,b\"";
/// 784111777.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

const CONTENT: Content<'static> = Content { length: LENGTH, etag: Some(TAG), last_modified: Some(784_111_777) };
const BARE: Content<'static> = Content { length: LENGTH, etag: None, last_modified: None };

fn asked(method: &str, headers: &[(&str, &str)], content: &Content<'_>) -> Selection {
    select(&RequestHead { method: method.to_owned(), ..request(headers) }, content)
}

fn get(headers: &[(&str, &str)]) -> Selection {
    asked("GET", headers, &CONTENT)
}

#[test]
fn range_selects_its_bytes() {
    for (text, expected) in [
        ("bytes=0-0", Selection::Part(range(0, 1))),
        ("bytes=0-499", Selection::Part(range(0, 500))),
        ("bytes=500-", Selection::Part(range(500, 1_000))),
        ("bytes=-500", Selection::Part(range(500, 1_000))),
        ("bytes=-1001", Selection::Part(range(0, 1_000))),
        ("bytes=999-5000", Selection::Part(range(999, 1_000))),
        ("BYTES=007-8", Selection::Part(range(7, 9))),
        ("bytes=0-18446744073709551615", Selection::Part(range(0, 1_000))),
        ("bytes=0-99999999999999999999999", Selection::Part(range(0, 1_000))),
        ("bytes=-99999999999999999999999", Selection::Part(range(0, 1_000))),
        ("bytes=1000-", Selection::Unsatisfiable),
        ("bytes=1000-1000", Selection::Unsatisfiable),
        ("bytes=9223372036854775808-", Selection::Unsatisfiable),
        ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
        ("bytes=-0", Selection::Unsatisfiable),
    ] {
        assert_eq!(get(&[("Range", text)]), expected, "{text}");
    }
}

#[test]
fn range_that_is_none_or_many_is_answered_with_the_whole() {
    let many = format!("bytes={}0-1", "0-1,".repeat(1_000));
    for text in ["", "bytes", "bytes=", "bytes=-", "bytes=5", "bytes=9-1", "bytes=a-b", "bytes=0x1-2", "bytes=+1-2"] {
        assert_eq!(get(&[("Range", text)]), Selection::Whole, "{text}");
    }
    for text in
        ["bytes=0-1,3-4", "bytes=0-1,5000-", "items=0-1", "bytes=1--2", "bytes=1- 2", "bytes=--1", many.as_str()]
    {
        assert_eq!(get(&[("Range", text)]), Selection::Whole, "{text}");
    }
    assert_eq!(get(&[("Range", "bytes=0-1"), ("Range", "bytes=0-1")]), Selection::Whole);
    for method in ["HEAD", "POST"] {
        assert_eq!(asked(method, &[("Range", "bytes=0-1")], &CONTENT), Selection::Whole, "only GET has ranges");
    }
}

#[test]
fn range_of_nothing() {
    let empty = Content { length: 0, ..CONTENT };
    for (text, expected) in [
        ("bytes=0-", Selection::Unsatisfiable),
        ("bytes=0-0", Selection::Unsatisfiable),
        ("bytes=-0", Selection::Unsatisfiable),
        ("bytes=-5", Selection::Whole),
    ] {
        assert_eq!(asked("GET", &[("Range", text)], &empty), expected, "{text}");
    }
}

#[test]
fn if_range_needs_the_same_strong_validator() {
    let with = |validator: &str, content: &Content<'_>| {
        asked("GET", &[("Range", "bytes=0-1"), ("If-Range", validator)], content)
    };
    let part = Selection::Part(range(0, 2));
    assert_eq!(with(TAG, &CONTENT), part);
    assert_eq!(with(DATE, &CONTENT), part);
    assert_eq!(with("Sunday, 06-Nov-94 08:49:37 GMT", &CONTENT), part);
    for validator in ["\"other\"", "W/\"a,b\"", EARLIER, LATER, "", "x", "*", "\"a,b\", \"c\""] {
        assert_eq!(with(validator, &CONTENT), Selection::Whole, "{validator}");
    }
    let weak = Content { etag: Some("W/\"a,b\""), ..CONTENT };
    assert_eq!(with("W/\"a,b\"", &weak), Selection::Whole, "weak tags are never equal here");
    for validator in [TAG, DATE, "", "x"] {
        assert_eq!(with(validator, &BARE), Selection::Whole, "nothing to compare {validator} with");
    }
    let twice = [("Range", "bytes=0-1"), ("If-Range", TAG), ("If-Range", TAG)];
    assert_eq!(get(&twice), Selection::Whole);
    assert_eq!(get(&[("Range", "bytes=5000-"), ("If-Range", "\"other\"")]), Selection::Whole, "no 416 for old ranges");
}

#[test]
fn preconditions_are_tried_in_their_order() {
    use Selection::{NotModified, PreconditionFailed, Whole};
    for (headers, expected) in [
        (&[("If-None-Match", TAG)][..], NotModified),
        (&[("If-None-Match", "\"x\" , W/\"a,b\"")], NotModified),
        (&[("If-None-Match", "\"x\""), ("If-None-Match", TAG)], NotModified),
        (&[("If-None-Match", "*")], NotModified),
        (&[("If-None-Match", "\"a\", b\"")], Whole),
        (&[("If-None-Match", "\"x\""), ("If-Modified-Since", DATE)], Whole),
        (&[("If-None-Match", TAG), ("Range", "bytes=0-1")], NotModified),
        (&[("If-None-Match", "nonsense")], Whole),
        (&[("If-Modified-Since", DATE)], NotModified),
        (&[("If-Modified-Since", LATER)], NotModified),
        (&[("If-Modified-Since", EARLIER)], Whole),
        (&[("If-Modified-Since", "x")], Whole),
        (&[("If-Match", TAG)], Whole),
        (&[("If-Match", "*")], Whole),
        (&[("If-Match", "W/\"a,b\"")], PreconditionFailed),
        (&[("If-Match", "\"x\"")], PreconditionFailed),
        (&[("If-Match", "\"x\""), ("If-None-Match", TAG)], PreconditionFailed),
        (&[("If-Match", TAG), ("If-Unmodified-Since", EARLIER)], Whole),
        (&[("If-Unmodified-Since", EARLIER)], PreconditionFailed),
        (&[("If-Unmodified-Since", DATE)], Whole),
        (&[("If-Match", TAG), ("Range", "bytes=5000-")], Selection::Unsatisfiable),
    ] {
        assert_eq!(get(headers), expected, "{headers:?}");
    }
    assert_eq!(asked("PUT", &[("If-None-Match", "*")], &CONTENT), PreconditionFailed);
    assert_eq!(asked("PUT", &[("If-Modified-Since", DATE)], &CONTENT), Whole);
    assert_eq!(asked("HEAD", &[("If-None-Match", TAG)], &CONTENT), NotModified);
    assert_eq!(asked("GET", &[("If-None-Match", TAG), ("If-Match", "*")], &BARE), Whole);
}

#[test]
fn selection_is_answered() {
    let error = || b"{}".to_vec();
    let none = || ReplyBody::Inline(Vec::new());
    let content = |range| ReplyBody::Content { range, total: LENGTH, available: 7 };
    for (selection, status, body, said) in [
        (Selection::Whole, 200, content(range(0, LENGTH)), None),
        (Selection::Part(range(0, 1)), 206, content(range(0, 1)), Some("Content-Range: bytes 0-0/1000\r\n")),
        (Selection::NotModified, 304, none(), None),
        (Selection::PreconditionFailed, 412, ReplyBody::Inline(error()), None),
        (Selection::Unsatisfiable, 416, ReplyBody::Inline(error()), Some("Content-Range: bytes */1000\r\n")),
    ] {
        let reply = Reply::selected(selection, LENGTH, 7, Vec::new(), error()).unwrap();
        assert_eq!((reply.status(), reply.body()), (status, &body));
        let head = String::from_utf8(reply.encode_head(None)).unwrap();
        assert_eq!(head.contains("Content-Range"), said.is_some(), "{head}");
        assert!(said.is_none_or(|said| head.contains(said)), "{head}");
    }
    let other = Reply::selected(Selection::Part(range(5, LENGTH + 1)), LENGTH, 0, Vec::new(), error());
    assert_eq!(other, Err(ReplyError::Body));
    let open = ContentRange { range: Some(range(5, 7)), total: None };
    assert_eq!(ContentRange::parse(&open.to_string()), Some(open));
}

#[test]
fn answer_with_a_part_becomes_one_with_all_or_another_part() {
    let fields = vec![("ETag".to_owned(), "\"1\"".to_owned())];
    let answer = |selection| Reply::selected(selection, LENGTH, 0, fields.clone(), Vec::new()).unwrap();
    let all = [Selection::Whole, Selection::Part(range(0, LENGTH)), Selection::Part(range(7, 9))];
    for (from, to) in all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to))) {
        assert_eq!(answer(from).reselected(to), Some(answer(to)), "{from:?} {to:?}");
    }
    for other in [Selection::NotModified, Selection::PreconditionFailed, Selection::Unsatisfiable] {
        assert_eq!(answer(other).reselected(Selection::Whole), None, "{other:?}");
        assert_eq!(answer(Selection::Whole).reselected(other), None, "{other:?}");
    }
    assert_eq!(answer(Selection::Whole).reselected(Selection::Part(range(7, LENGTH + 1))), None);
}

#[test]
fn fields_of_one_hop_do_not_go_on() {
    let headers: Vec<(String, String)> = [
        ("connection", "close, X-Secret"),
        ("X-Secret", "1"),
        ("te", "trailers"),
        ("Proxy-Authorization", "x"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("host", "h"),
        ("upgrade", "h2c"),
        ("X-Hawker-Source", "peer"),
        ("x-hawker-", ""),
        ("accept", "a"),
        ("authorization", "b"),
        ("x-hawk", "c"),
    ]
    .iter()
    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
    .collect();
    let kept: Vec<String> = forwardable_headers(&headers).into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, ["accept", "authorization", "x-hawk"]);
}

proptest! {
    #[test]
    fn any_fields_select_something_within_the_content(
        values in any_vec("[\\PC]{0,20}|bytes=[0-9]{0,22}-[0-9]{0,22}|(W/)?\"[a-c,]{0,3}\"(, ?\"a,b\")?", 6),
        length in any::<u64>(),
        is_get in any::<bool>(),
    ) {
        let names = ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];
        for names in [&names[..], &names[..1]] {
            let headers: Vec<(&str, &str)> =
                names.iter().zip(&values).map(|(name, value)| (*name, value.as_str())).collect();
            let content = Content { length, ..CONTENT };
            if let Selection::Part(part) = asked(if is_get { "GET" } else { "HEAD" }, &headers, &content) {
                prop_assert!(is_get && !part.is_empty() && part.end() <= length);
            }
        }
    }
}
