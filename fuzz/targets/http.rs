//! An origin's answer: its head, what it means, and a chunked body, which reads the same however it is cut.
#![no_main]

use hawker_proto::ByteRange;
use hawker_proto::http1::{BodyFraming, ChunkedDecoder, HTTP_HEAD_BYTES_MAX, interpret, parse_date, parse_response};
use libfuzzer_sys::fuzz_target;

/// The body's bytes and how many of the input are behind it; `None` when it is refused or not at its end.
fn decode(input: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut body, mut taken) = (ChunkedDecoder::new(1 << 20), Vec::new(), 0);
    while !decoder.is_done() {
        let end = input.len().min(taken + step);
        let fed = decoder.feed(&input[taken..end]).ok()?;
        let data = fed.data.clone();
        body.extend_from_slice(&input[taken + data.start..taken + data.end]);
        if fed.consumed == 0 && end == input.len() {
            return None;
        }
        assert!(fed.consumed > 0 || step < 64, "nothing is taken of {} bytes", end - taken);
        if fed.consumed == 0 {
            return None;
        }
        taken += fed.consumed;
    }
    Some((body, input.len() - taken))
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((head, length))) = parse_response(bytes) else { return };
    assert!(length <= bytes.len() && length <= HTTP_HEAD_BYTES_MAX);
    for end in [length / 2, length.saturating_sub(1)] {
        assert!(!matches!(parse_response(&bytes[..end]), Ok(Some(_))), "a head ends where it ends");
    }
    let _ = interpret(None, &head);
    let _ = interpret(ByteRange::new(7, 1 << 40), &head);
    let _ = head.header("Date").map(parse_date);
    let _ = (head.content_length(), head.is_reusable());
    if matches!(head.framing(false), Ok(BodyFraming::Chunked)) {
        assert_eq!(decode(&bytes[length..], usize::MAX >> 1), decode(&bytes[length..], 64));
    }
});
