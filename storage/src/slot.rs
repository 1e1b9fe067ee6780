//! A slot of the catalog: the fixed 256 bytes that say a task exists.

use hawker_proto::{Geometry, Root, TaskId};

use crate::codec::{Reader, put_u64};
use crate::op::WriteMode;
use crate::space::charges;

/// Bytes of a slot; two fill a sector.
pub(crate) const SLOT_BYTES: usize = 256;
/// Offset of the word that says when the task was last read. Outside the slot's checksum, with one of its own: it
/// changes while the task lives, and a torn change must not cost the task.
pub(crate) const LAST_READ_AT: usize = SLOT_BYTES - 8;

const IS_SEALED: u8 = 1;
const IS_DIRECT: u8 = 2;
const IS_CREDENTIALED: u8 = 4;
const HAS_DIGEST: u8 = 8;

/// SHA-256 or BLAKE3 of a task's content, as its origin or its user named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContentDigest {
    /// 1: SHA-256, 2: BLAKE3.
    algorithm: u8,
    bytes: [u8; 32],
}

impl ContentDigest {
    /// Of `sha256:` or `blake3:` and 64 lower-case hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, hex) = text.split_once(':')?;
        let algorithm = match name {
            "sha256" => 1,
            "blake3" => 2,
            _ => return None,
        };
        let TaskId(bytes) = hex.parse().ok()?;
        Some(Self { algorithm, bytes })
    }

    pub(crate) fn of_root(root: Root) -> Self {
        Self { algorithm: 2, bytes: root.0 }
    }
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) task: TaskId,
    pub(crate) geometry: Geometry,
    /// Number of this creation of the task, never used twice in a data directory: the table, the batches and the
    /// meta file carry it too, so that files of two creations are never taken together.
    pub(crate) instance: u64,
    /// Present when the task is sealed.
    pub(crate) root: Option<Root>,
    pub(crate) write_mode: WriteMode,
    pub(crate) is_credentialed: bool,
    pub(crate) resolve_key: [u8; 32],
    pub(crate) digest: Option<ContentDigest>,
    /// Bytes of disk that the task's files take, at most.
    pub(crate) charged: u64,
    pub(crate) created_unix_ms: u64,
}

impl Slot {
    /// The slot without its last word.
    pub(crate) fn encode(&self) -> [u8; LAST_READ_AT] {
        let mut flags = 0;
        flags |= if self.root.is_some() { IS_SEALED } else { 0 };
        flags |= if self.write_mode == WriteMode::Direct { IS_DIRECT } else { 0 };
        flags |= if self.is_credentialed { IS_CREDENTIALED } else { 0 };
        flags |= if self.digest.is_some() { HAS_DIGEST } else { 0 };
        let mut body = Vec::with_capacity(LAST_READ_AT);
        // Never zero: an empty slot is zeros.
        body.extend_from_slice(&[b'T', flags, self.digest.map_or(0, |digest| digest.algorithm), 0]);
        put_u64(&mut body, self.instance);
        body.extend_from_slice(&self.task.0);
        put_u64(&mut body, self.geometry.length());
        put_u64(&mut body, u64::from(self.geometry.piece_bytes()));
        body.extend_from_slice(&self.root.map_or([0; 32], |root| root.0));
        body.extend_from_slice(&self.resolve_key);
        body.extend_from_slice(&self.digest.map_or([0; 32], |digest| digest.bytes));
        put_u64(&mut body, self.charged);
        put_u64(&mut body, self.created_unix_ms);
        body.resize(LAST_READ_AT - 4, 0);
        let check = crc32fast::hash(&body);
        let mut bytes = [0; LAST_READ_AT];
        bytes[..4].copy_from_slice(&check.to_le_bytes());
        bytes[4..].copy_from_slice(&body);
        bytes
    }

    /// `None` for a slot that was not written whole, or that means nothing.
    pub(crate) fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let mut reader = Reader::new(&bytes[..LAST_READ_AT]);
        let check = reader.u32()?;
        if crc32fast::hash(&bytes[4..LAST_READ_AT]) != check {
            return None;
        }
        let [tag, flags, algorithm, _] = reader.array()?;
        let instance = reader.u64()?;
        let task = TaskId(reader.array()?);
        let length = reader.u64()?;
        let piece_bytes = u32::try_from(reader.u64()?).ok()?;
        let geometry = Geometry::from_parts(length, piece_bytes)?;
        let root = Root(reader.array()?);
        let resolve_key = reader.array()?;
        let digest = ContentDigest { algorithm, bytes: reader.array()? };
        let write_mode = if flags & IS_DIRECT == 0 { WriteMode::Buffered } else { WriteMode::Direct };
        let is_sealed = flags & IS_SEALED != 0;
        let charged = reader.u64()?;
        (tag == b'T' && charges(geometry, is_sealed)?.contains(&charged)).then_some(())?;
        Some(Self {
            task,
            geometry,
            instance,
            root: is_sealed.then_some(root),
            write_mode,
            is_credentialed: flags & IS_CREDENTIALED != 0,
            resolve_key,
            digest: (flags & HAS_DIGEST != 0).then_some(digest),
            charged,
            created_unix_ms: reader.u64()?,
        })
    }
}

/// The last word of a slot: seconds since 1970 below, their checksum with the task above.
pub(crate) fn encode_last_read(task: TaskId, unix_ms: u64) -> u64 {
    // Until 2106; a clock beyond that orders eviction wrongly, nothing worse.
    let seconds = u32::try_from(unix_ms / 1000).unwrap_or(u32::MAX);
    u64::from(last_read_check(task, seconds)) << 32 | u64::from(seconds)
}

/// When the task was last read, in milliseconds since 1970; 0 (evicted first) when the word fails its check.
pub(crate) fn decode_last_read(task: TaskId, word: u64) -> u64 {
    let seconds = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
    if word >> 32 == u64::from(last_read_check(task, seconds)) { u64::from(seconds) * 1000 } else { 0 }
}

fn last_read_check(task: TaskId, seconds: u32) -> u32 {
    let mut check = crc32fast::Hasher::new();
    check.update(&task.0);
    check.update(&seconds.to_le_bytes());
    check.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Slot {
        Slot {
            task: TaskId([1; 32]),
            geometry: Geometry::of_length(1 << 33).unwrap(),
            instance: 77,
            root: Some(Root([2; 32])),
            write_mode: WriteMode::Direct,
            is_credentialed: true,
            resolve_key: [3; 32],
            digest: ContentDigest::parse(&format!("sha256:{}", "cd".repeat(32))),
            charged: crate::space::footprint(Geometry::of_length(1 << 33).unwrap()).unwrap(),
            created_unix_ms: 1_700_000_000_123,
        }
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..LAST_READ_AT].copy_from_slice(&sample().encode());
        assert_eq!(Slot::decode(&bytes), Some(sample()));
        for bit in 0..LAST_READ_AT * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(&bad), None, "bit {bit}");
        }
        assert_eq!(Slot::decode(&[0; SLOT_BYTES]), None);
    }

    #[test]
    fn flipped_bit_of_last_read_makes_the_task_old() {
        let task = TaskId([9; 32]);
        let word = encode_last_read(task, 1_700_000_000_999);
        assert_eq!(decode_last_read(task, word), 1_700_000_000_000);
        assert!((0..64).all(|bit| decode_last_read(task, word ^ 1 << bit) == 0));
        assert_eq!(decode_last_read(task, 0), 0);
    }

    #[test]
    fn digest_has_one_spelling() {
        assert!(ContentDigest::parse(&format!("blake3:{}", "0".repeat(64))).is_some());
        for text in ["", "sha256", "sha256:", "md5:00", &format!("sha512:{}", "0".repeat(64))] {
            assert_eq!(ContentDigest::parse(text), None, "{text}");
        }
    }
}
