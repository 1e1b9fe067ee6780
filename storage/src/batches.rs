//! The batches file: signed record batches, appended, never changed. Storage does not look into them.

use crate::FORMAT_MAJOR;
use crate::codec::Reader;
use hawker_proto::Geometry;

const MAGIC: &[u8; 8] = b"HAWKBTCH";
/// Bytes before the first frame.
pub(crate) const HEAD_BYTES: usize = 32;
/// Length and checksum before each batch.
pub(crate) const FRAME_HEAD_BYTES: usize = 8;

/// Bytes that the batches file of a task may take.
///
/// One batch a piece is the worst that an honest holder does (grant, signature and framing are below 512 bytes), and
/// two holders may have leases for one piece after a timeout: hence twice that.
pub(crate) fn bytes_max(geometry: Geometry) -> u64 {
    HEAD_BYTES as u64 + 1024 * u64::from(geometry.piece_count()) + 64 * geometry.block_count_total()
}

/// The file without a batch.
pub(crate) fn head_bytes(instance: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_MAJOR.to_le_bytes());
    bytes.extend_from_slice(&0u16.to_le_bytes());
    bytes.extend_from_slice(&instance.to_le_bytes());
    let check = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes.resize(HEAD_BYTES, 0);
    bytes
}

/// Appends the frame of `batch` to `into`.
///
/// # Panics
/// When the batch has 2^32 bytes or more: [`bytes_max`] is asked before.
pub(crate) fn put_frame(into: &mut Vec<u8>, instance: u64, batch: &[u8]) {
    let len = u32::try_from(batch.len()).expect("a batch below 4 GiB");
    into.extend_from_slice(&len.to_le_bytes());
    into.extend_from_slice(&frame_check(instance, len, batch).to_le_bytes());
    into.extend_from_slice(batch);
}

fn frame_check(instance: u64, len: u32, batch: &[u8]) -> u32 {
    let mut check = crc32fast::Hasher::new();
    check.update(&instance.to_le_bytes());
    check.update(&len.to_le_bytes());
    check.update(batch);
    check.finalize()
}

/// The batches of a file up to the first that fails its check, and the length of that sound front. `None` when not
/// even the head is sound.
pub(crate) fn parse(bytes: &[u8], instance: u64) -> Option<(Vec<Vec<u8>>, u64)> {
    if bytes.get(..HEAD_BYTES)? != head_bytes(instance) {
        return None;
    }
    let mut batches = Vec::new();
    let mut end = HEAD_BYTES;
    while let Some(batch) = next_frame(&bytes[end..], instance) {
        end += FRAME_HEAD_BYTES + batch.len();
        batches.push(batch.to_vec());
    }
    Some((batches, end as u64))
}

fn next_frame(rest: &[u8], instance: u64) -> Option<&[u8]> {
    let mut reader = Reader::new(rest);
    let len = reader.u32()?;
    let check = reader.u32()?;
    let batch = reader.bytes(usize::try_from(len).ok()?)?;
    (!batch.is_empty() && frame_check(instance, len, batch) == check).then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipped_bit_ends_the_sound_front_before_it() {
        let mut bytes = head_bytes(5);
        put_frame(&mut bytes, 5, b"first");
        let first_end = bytes.len();
        put_frame(&mut bytes, 5, b"second");
        let whole = parse(&bytes, 5).unwrap();
        assert_eq!(whole, (vec![b"first".to_vec(), b"second".to_vec()], bytes.len() as u64));
        assert_eq!(parse(&bytes, 6), None);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                at if at < HEAD_BYTES => None,
                at if at < first_end => Some((vec![], HEAD_BYTES as u64)),
                _ => Some((vec![b"first".to_vec()], first_end as u64)),
            };
            assert_eq!(parse(&bad, 5), expected, "bit {bit}");
        }
        for len in HEAD_BYTES..bytes.len() {
            assert!(parse(&bytes[..len], 5).is_some(), "{len} bytes");
        }
    }
}
