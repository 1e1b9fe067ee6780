use super::*;
use crate::url::Url;
use core::time::Duration;

#[test]
fn content_range_is_read_strictly() {
    let of = |range: Option<(u64, u64)>, total| {
        Some(ContentRange { range: range.map(|(start, end)| ByteRange::new(start, end).unwrap()), total })
    };
    for (text, expected) in [
        ("bytes 0-0/1", of(Some((0, 1)), Some(1))),
        ("bytes 0-4/10", of(Some((0, 5)), Some(10))),
        ("BYTES 5-9/10", of(Some((5, 10)), Some(10))),
        ("bytes 0-4/*", of(Some((0, 5)), None)),
        ("bytes */10", of(None, Some(10))),
        ("bytes */0", of(None, Some(0))),
        ("bytes */*", None),
        ("bytes 0-4", None),
        ("bytes=0-4/10", None),
        ("0-4/10", None),
        ("items 0-4/10", None),
        ("bytes  0-4/10", None),
        ("bytes 0-4/10 ", None),
        ("bytes 4-0/10", None),
        ("bytes 0-10/10", None),
        ("bytes -4/10", None),
        ("bytes 0-/10", None),
        ("bytes 00-4/10", None),
        ("bytes 0-+4/10", None),
        ("bytes 0-4/0x10", None),
        ("bytes 0-4,6-7/10", None),
        ("bytes 0-18446744073709551615/*", None),
        ("bytes 0-9223372036854775807/*", of(Some((0, 1 << 63)), None)),
        ("bytes 0-4/99999999999999999999", None),
        ("", None),
    ] {
        assert_eq!(ContentRange::parse(text), expected, "{text:?}");
    }
}

#[test]
fn range_header_is_inclusive() {
    assert_eq!(range_header(range(0, 1)), "bytes=0-0");
    assert_eq!(range_header(range(5, 10)), "bytes=5-9");
}

#[test]
#[should_panic(expected = "no empty range")]
fn asking_for_no_bytes_is_a_bug() {
    let _ = range_header(range(5, 5));
}

#[test]
fn partial_answer_must_be_what_was_asked_for() {
    let asked = Some(range(10, 20));
    let partial = |range, total| OriginAnswer::Partial { range, total };
    let malformed = OriginAnswer::Malformed;
    for (fields, expected) in [
        ("Content-Range: bytes 10-19/100\nContent-Length: 10", partial(range(10, 20), Some(100))),
        ("Content-Range: bytes 10-19/100\nTransfer-Encoding: chunked", partial(range(10, 20), Some(100))),
        ("Content-Range: bytes 10-19/100", partial(range(10, 20), Some(100))),
        ("Content-Range: bytes 10-19/*\nContent-Length: 10", partial(range(10, 20), None)),
        ("Content-Range: bytes 10-14/15\nContent-Length: 5", partial(range(10, 15), Some(15))),
        ("Content-Range: bytes 10-19/20\nContent-Encoding: identity", partial(range(10, 20), Some(20))),
        ("Content-Range: bytes 10-14/100\nContent-Length: 5", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 10-14/*\nContent-Length: 5", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 0-19/100\nContent-Length: 20", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 10-20/100\nContent-Length: 11", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 0-9/100\nContent-Length: 10", malformed(MalformedReason::OtherRange)),
        ("Content-Range: bytes 10-19/100\nContent-Length: 11", malformed(MalformedReason::OtherLength)),
        ("Content-Range: bytes 10-19/100\nContent-Length: 0", malformed(MalformedReason::OtherLength)),
        ("Content-Length: 10", malformed(MalformedReason::ContentRange)),
        ("Content-Range: bytes */100", malformed(MalformedReason::ContentRange)),
        ("Content-Range: bytes 10-19/15", malformed(MalformedReason::ContentRange)),
        ("Content-Range: 10-19/100", malformed(MalformedReason::ContentRange)),
        ("Content-Range: bytes 10-19/281474976710657", malformed(MalformedReason::TooLong)),
        ("Content-Range: bytes 10-19/100\nContent-Range: bytes 10-19/200", malformed(MalformedReason::TwoValues)),
        ("Content-Type: Multipart/byteranges; boundary=x\nContent-Length: 10", malformed(MalformedReason::Multipart)),
        ("Content-Range: bytes 10-19/100\nContent-Encoding: gzip", malformed(MalformedReason::Encoded)),
        (
            "Content-Range: bytes 10-19/100\nContent-Length: 10\nContent-Length: 10",
            malformed(MalformedReason::Http(HttpError::ContentLength)),
        ),
    ] {
        assert_eq!(interpret(asked, &head(206, fields)), expected, "{fields}");
    }
    let whole_range = head(206, "Content-Range: bytes 0-9/10\nContent-Length: 10");
    assert_eq!(interpret(None, &whole_range), malformed(MalformedReason::UnaskedPartial));
}

#[test]
fn whole_answer_is_taken_for_a_range_too() {
    for asked in [None, Some(range(10, 20))] {
        let whole = |length| OriginAnswer::Whole { length };
        assert_eq!(interpret(asked, &head(200, "Content-Length: 5")), whole(Some(5)));
        assert_eq!(interpret(asked, &head(200, "Content-Length: 0")), whole(Some(0)));
        assert_eq!(interpret(asked, &head(200, "Transfer-Encoding: chunked")), whole(None));
        assert_eq!(interpret(asked, &head(200, "")), whole(None));
        let malformed = OriginAnswer::Malformed;
        let too_long = head(200, "Content-Length: 281474976710657");
        assert_eq!(interpret(asked, &too_long), malformed(MalformedReason::TooLong));
        for coding in ["gzip", "br", "identity, gzip", "identity\nContent-Encoding: zstd", "x"] {
            let encoded = head(200, &format!("Content-Length: 5\nContent-Encoding: {coding}"));
            assert_eq!(interpret(asked, &encoded), malformed(MalformedReason::Encoded), "{coding}");
        }
    }
}

#[test]
fn every_other_status_keeps_nothing() {
    let asked = Some(range(0, 10));
    for status in [201, 202, 203, 204, 205, 207, 226, 300, 305, 306, 400, 401, 403, 404, 410, 412, 429, 500, 503, 599] {
        let answer = interpret(asked, &head(status, ""));
        assert_eq!(answer, OriginAnswer::Refused { status, retry_after: None });
    }
    assert_eq!(interpret(asked, &head(304, "ETag: \"a\"")), OriginAnswer::NotModified);
    for status in [100, 101, 103] {
        assert_eq!(interpret(asked, &head(status, "")), OriginAnswer::Malformed(MalformedReason::Interim));
    }
    for (fields, total) in [
        ("Content-Range: bytes */0", Some(0)),
        ("Content-Range: bytes */100", Some(100)),
        ("Content-Range: nonsense", None),
        ("", None),
    ] {
        assert_eq!(interpret(asked, &head(416, fields)), OriginAnswer::OutOfRange { total }, "{fields}");
    }
    assert!(is_transient(503) && is_transient(429) && !is_transient(404) && !is_transient(401));
}

#[test]
fn origin_may_ask_to_wait_for_at_most_a_day() {
    for (fields, seconds) in [
        ("Retry-After: 7", Some(7)),
        ("Retry-After: 0", Some(0)),
        ("Retry-After: 999999999", Some(86_400)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\nRetry-After: Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\nRetry-After: Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
        ("Retry-After: Sun, 06 Nov 1994 08:50:37 GMT", None),
        ("Retry-After: -1", None),
        ("Retry-After: soon", None),
    ] {
        let expected = OriginAnswer::Refused { status: 503, retry_after: seconds.map(Duration::from_secs) };
        assert_eq!(interpret(None, &head(503, fields)), expected, "{fields}");
    }
}

#[test]
fn redirect_says_where_to() {
    for status in [301, 302, 303, 307, 308] {
        let expected = OriginAnswer::Redirect { location: "/b".to_owned(), status };
        assert_eq!(interpret(None, &head(status, "Location: /b\nContent-Length: 5")), expected);
        let no_location = OriginAnswer::Malformed(MalformedReason::NoLocation);
        assert_eq!(interpret(None, &head(status, "")), no_location);
        assert_eq!(interpret(None, &head(status, "Location:")), no_location);
        let two = head(status, "Location: /b\nLocation: /c");
        assert_eq!(interpret(None, &two), OriginAnswer::Malformed(MalformedReason::TwoValues));
    }
}

#[test]
fn redirect_target_is_checked() {
    let from = Url::parse("https://origin.example/a/b?c").unwrap();
    let to = |location: &str| redirect_target(&from, location).map(|url| url.to_string());
    assert_eq!(to("d?e#f"), Ok("https://origin.example/a/d?e".to_owned()));
    assert_eq!(to("//cdn.example/x"), Ok("https://cdn.example/x".to_owned()));
    assert_eq!(to("https://cdn.example"), Ok("https://cdn.example/".to_owned()));
    assert_eq!(to("http://origin.example/"), Err(RedirectError::Downgrade));
    assert_eq!(to("//user@cdn.example/"), Err(RedirectError::Location(crate::url::UrlError::Userinfo)));
    for location in ["file:///etc/passwd", "gopher://x/", "http://0x7f.1/", "https://h:99999/", "data:,x"] {
        assert!(matches!(to(location), Err(RedirectError::Location(_))), "{location}");
    }
    let from = Url::parse("http://origin.example/").unwrap();
    assert!(redirect_target(&from, "https://origin.example/").is_ok());
}

#[test]
fn credentials_do_not_leave_their_origin() {
    let headers: Vec<(String, String)> =
        ["Authorization", "Cookie", "PRIVATE-TOKEN", "X-Anything", "ACCEPT", "User-Agent", "Referer"]
            .map(|name| (name.to_owned(), "secret".to_owned()))
            .to_vec();
    let url = |text| Url::parse(text).unwrap();
    let from = url("http://origin.example/a");
    assert_eq!(headers_after_redirect(&from, &url("http://ORIGIN.example:80/b"), &headers), headers);
    for to in [
        "http://other.example/a",
        "http://origin.example:81/a",
        "https://origin.example/a",
        "http://sub.origin.example/a",
        "http://origin.example./a",
    ] {
        let kept = headers_after_redirect(&from, &url(to), &headers);
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ACCEPT", "User-Agent"], "{to}");
    }
}

proptest! {
    #[test]
    fn any_field_values_are_interpreted_without_panic(
        status in 100u16..600,
        length in "[0-9+, ]{0,20}",
        content_range in "(bytes )?[0-9*-]{0,20}/?[0-9*]{0,20}",
        asked in prop::option::of((0u64..100, 1u64..100)),
    ) {
        let fields = format!("Content-Length: {length}\nContent-Range: {content_range}");
        let asked = asked.map(|(start, length)| range(start, start + length));
        if let OriginAnswer::Partial { range, total } = interpret(asked, &head(status, &fields)) {
            let asked = asked.unwrap();
            prop_assert!(asked.contains(range) && range.start() == asked.start() && !range.is_empty());
            prop_assert!(total.is_none_or(|total| range.end() <= total));
        }
    }

    #[test]
    fn content_range_survives_the_wire(start in 0u64..1 << 50, length in 1u64..1 << 50, rest in prop::option::of(0u64..99)) {
        let range = range(start, start + length);
        let total = rest.map(|rest| range.end() + rest);
        let shown = total.map_or("*".to_owned(), |total| total.to_string());
        let text = format!("bytes {}/{shown}", range_header(range).trim_start_matches("bytes="));
        prop_assert_eq!(ContentRange::parse(&text), Some(ContentRange { range: Some(range), total }));
    }
}
