use super::*;

/// Decodes `body`, fed in parts of `part` bytes; also what was left over.
fn unchunk(body: &[u8], part: usize) -> Result<(Vec<u8>, usize, bool), HttpError> {
    let mut decoder = ChunkedDecoder::new(1 << 20);
    let mut out = Vec::new();
    let mut consumed = 0;
    for input in body.chunks(part) {
        let mut rest = input;
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.feed(rest)?;
            out.extend_from_slice(&rest[step.data]);
            consumed += step.consumed;
            rest = &rest[step.consumed..];
        }
    }
    Ok((out, consumed, decoder.is_done()))
}

#[test]
fn chunked_body_is_taken_as_it_arrives() {
    let body =
        b"4\r\nWiki\r\n00000000000000A;x=\"y;z\"\r\n0123456789\r\n1\r\n\r\r\n0\r\nA: b\r\nAge:\t1\r\n\r\nHTTP/1.1";
    for part in 1..body.len() {
        let (out, consumed, is_done) = unchunk(body, part).unwrap();
        assert_eq!(out, b"Wiki0123456789\r");
        assert!(is_done);
        assert_eq!(&body[consumed..], b"HTTP/1.1", "the next response is left alone");
    }
    let mut decoder = ChunkedDecoder::new(0);
    assert_eq!(decoder.feed(b"0\r\n\r\nx"), Ok(ChunkStep { consumed: 5, data: 5..5 }));
    assert_eq!(decoder.feed(b"x"), Ok(ChunkStep { consumed: 0, data: 0..0 }));
    assert_eq!(decoder.feed(b""), Ok(ChunkStep { consumed: 0, data: 0..0 }));
}

#[test]
fn cut_chunked_body_is_never_done() {
    let body = b"4\r\nWiki\r\n0\r\nA: b\r\n\r\n";
    for length in 0..body.len() {
        assert!(!unchunk(&body[..length], 3).unwrap().2, "{length}");
    }
}

#[test]
fn chunked_body_with_two_readings_is_refused() {
    let many_trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    let long_trailer = format!("0\r\na: {}\r\n\r\n", "b".repeat(8 * 1024));
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(1025));
    for (body, expected) in [
        ("\r\n", HttpError::ChunkSize),
        (";x\r\n", HttpError::ChunkSize),
        ("0x1\r\n", HttpError::ChunkSize),
        ("1_0\r\n", HttpError::ChunkSize),
        ("+1\r\n", HttpError::ChunkSize),
        ("-1\r\n", HttpError::ChunkSize),
        (" 1\r\n", HttpError::ChunkSize),
        ("1 \r\n", HttpError::ChunkSize),
        ("1\t;x\r\n", HttpError::ChunkSize),
        ("1g\r\n", HttpError::ChunkSize),
        ("00000000000000001\r\n", HttpError::ChunkSize),
        ("1\nx", HttpError::ChunkSize),
        ("1\rx", HttpError::ChunkSize),
        ("1\r\rx", HttpError::ChunkSize),
        ("1;a\nx\r\n", HttpError::ChunkExtension),
        ("1;a\u{0}\r\n", HttpError::ChunkExtension),
        ("1;a\rx\r\n", HttpError::ChunkSize),
        (&long_extension, HttpError::ChunkExtension),
        ("1\r\nxy\r\n", HttpError::ChunkEnd),
        ("1\r\nx\n", HttpError::ChunkEnd),
        ("1\r\nx\rX", HttpError::ChunkEnd),
        ("1\r\nx\r\n\r\n", HttpError::ChunkSize),
        ("0\r\n\n", HttpError::Trailer),
        ("0\r\n\rx", HttpError::Trailer),
        ("0\r\n: b\r\n\r\n", HttpError::Trailer),
        ("0\r\na b\r\n\r\n", HttpError::Trailer),
        ("0\r\na: b\n\r\n", HttpError::Trailer),
        ("0\r\na: b\rc\r\n", HttpError::Trailer),
        ("0\r\na: b\r\n c\r\n\r\n", HttpError::Trailer),
        ("0\r\na: \u{0}\r\n\r\n", HttpError::Trailer),
        ("0\r\nContent-Length: 5\r\n\r\n", HttpError::Trailer),
        ("0\r\ntransfer-encoding: chunked\r\n\r\n", HttpError::Trailer),
        ("0\r\nHOST: x\r\n\r\n", HttpError::Trailer),
        (&many_trailers, HttpError::Trailer),
        (&long_trailer, HttpError::Trailer),
        ("100001\r\n", HttpError::BodyTooLong),
        ("ffffffffffffffff\r\n", HttpError::BodyTooLong),
    ] {
        for part in [1, 2, 1000] {
            assert_eq!(unchunk(body.as_bytes(), part), Err(expected), "{body:?}");
        }
    }
    let mut decoder = ChunkedDecoder::new(5);
    assert_eq!(decoder.feed(b"4\r\nWiki").unwrap().data, 3..7);
    assert_eq!(decoder.feed(b"\r\n2\r\nxx"), Err(HttpError::BodyTooLong));
    assert_eq!(decoder.feed(b"0\r\n\r\n"), Err(HttpError::BodyTooLong), "an error is final");
    assert_eq!(decoder.feed(b""), Err(HttpError::BodyTooLong));
}

fn near_chunked() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(
        &["1\r\nx\r\n", "3;a=b\r\nabc\r\n", "0\r\n", "\r\n", "a: b\r\n", "f", "\r", "\n", ";", "Host: x", " "][..],
    );
    (any_vec(token.prop_map(|token| token.as_bytes().to_vec()), 0..12), any_vec(any::<u8>(), 0..8))
        .prop_map(|(tokens, tail)| [tokens.concat(), tail].concat())
}

proptest! {
    #[test]
    fn chunked_body_means_the_same_however_it_is_split(bytes in near_chunked(), part in 1usize..20) {
        let whole = unchunk(&bytes, usize::MAX);
        prop_assert_eq!(unchunk(&bytes, part), whole);
    }

    #[test]
    fn what_was_chunked_comes_back(
        chunks in any_vec(any_vec(any::<u8>(), 1..40), 0..8),
        part in 1usize..30,
    ) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        prop_assert_eq!(unchunk(&body, part), Ok((chunks.concat(), body.len(), true)));
    }
}
