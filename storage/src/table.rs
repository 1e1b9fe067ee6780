//! The piece table: per piece an immutable record, and which pieces are received and which durable.
//!
//! Mapped while the task is open. A word of a bitmap holds 32 pieces and its own checksum, so that one atomic store
//! changes it and any later flip of a bit on disk shows.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use hawker_proto::hash::piece_value;
use hawker_proto::{ChainingValue, Geometry, PieceIndex, TaskId};

use crate::FORMAT_MAJOR;
use crate::codec::Reader;
use crate::mapping::{Mapping, WORD};

const MAGIC: &[u8; 8] = b"HAWKTABL";
/// Bytes before the bitmaps: the head in the first sector, the boot id in the second.
pub(crate) const HEAD_BYTES: usize = 4096;
const BOOT_AT: usize = 512;
/// Pieces in a word of a bitmap; the other half is its checksum.
const PIECES_PER_WORD: u32 = 32;
/// A record's length and checksum, then the piece's value; the values of its blocks follow.
const RECORD_HEAD_BYTES: usize = 8 + 32;

/// Which of the two bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bitmap {
    /// The piece's blocks were written and checked.
    Received,
    /// As above, and they survive a power cut.
    Durable,
}

/// Where things stand in the table of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    geometry: Geometry,
    words: usize,
    records_at: usize,
    stride: usize,
    len: usize,
}

impl Layout {
    /// `None` when the table would not fit into the address space.
    pub(crate) fn of(geometry: Geometry) -> Option<Self> {
        let pieces = usize::try_from(geometry.piece_count()).ok()?;
        let blocks = usize::try_from(geometry.blocks_per_piece()).ok()?;
        let words = pieces.div_ceil(PIECES_PER_WORD as usize);
        let records_at = (HEAD_BYTES + 2 * words * WORD).next_multiple_of(64);
        let stride = RECORD_HEAD_BYTES + blocks * 32;
        let len = records_at.checked_add(pieces.checked_mul(stride)?)?.checked_next_multiple_of(4096)?;
        Some(Self { geometry, words, records_at, stride, len })
    }

    /// Bytes of the file, a multiple of 4096.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    fn word_at(self, bitmap: Bitmap, index: usize) -> usize {
        assert!(index < self.words);
        let first = if bitmap == Bitmap::Received { 0 } else { self.words };
        HEAD_BYTES + (first + index) * WORD
    }

    fn record_at(self, piece: PieceIndex) -> usize {
        self.records_at + piece.0 as usize * self.stride
    }
}

/// The first [`HEAD_BYTES`] of a new table. The rest of the file is zeros, all of them written.
pub(crate) fn head_bytes(task: TaskId, geometry: Geometry, instance: u64, boot_id: [u8; 16]) -> Vec<u8> {
    let mut bytes = head_fields(task, geometry, instance);
    let check = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes.resize(HEAD_BYTES, 0);
    bytes[BOOT_AT..BOOT_AT + 24].copy_from_slice(&boot_bytes(instance, boot_id));
    bytes
}

fn head_fields(task: TaskId, geometry: Geometry, instance: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_MAJOR.to_le_bytes());
    bytes.extend_from_slice(&0u16.to_le_bytes());
    bytes.extend_from_slice(&geometry.piece_bytes().to_le_bytes());
    bytes.extend_from_slice(&geometry.length().to_le_bytes());
    bytes.extend_from_slice(&instance.to_le_bytes());
    bytes.extend_from_slice(&task.0);
    bytes
}

fn boot_bytes(instance: u64, boot_id: [u8; 16]) -> [u8; 24] {
    let mut check = crc32fast::Hasher::new();
    check.update(b"boot");
    check.update(&instance.to_le_bytes());
    check.update(&boot_id);
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&boot_id);
    bytes[16..20].copy_from_slice(&check.finalize().to_le_bytes());
    bytes
}

/// What opening a table found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Pieces whose bit and record hold.
    pub(crate) pieces: u32,
    /// Pieces whose bit was set and that are dropped: not durable before this boot, or damaged.
    pub(crate) dropped: u32,
}

/// A mapped table. Bits are read without a lock; a record is written by one thread at a time, which the caller
/// ([`crate::TaskFile`]) sees to.
pub(crate) struct Table {
    map: Mapping,
    layout: Layout,
    instance: u64,
}

impl Table {
    /// Maps the table of `task`. The file was written, or read whole, before.
    ///
    /// # Errors
    /// `InvalidData` when it is not this task's table of this instance, and what mapping it gives.
    pub(crate) fn open(file: &OwnedFd, task: TaskId, geometry: Geometry, instance: u64) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not the table of this task");
        let layout = Layout::of(geometry).ok_or_else(damaged)?;
        let map = Mapping::new(file, 0, layout.len())?;
        let mut head = [0; BOOT_AT];
        map.read(0, &mut head);
        let fields = head_fields(task, geometry, instance);
        let is_ours =
            head.starts_with(&fields) && head[fields.len()..fields.len() + 4] == crc32fast::hash(&fields).to_le_bytes();
        if is_ours { Ok(Self { map, layout, instance }) } else { Err(damaged()) }
    }

    /// Makes the bits mean what they say in this boot: in another boot than that of the bits only `durable` counts;
    /// words that fail their check, and pieces whose record does, count as not received.
    pub(crate) fn recover(&self, boot_id: [u8; 16]) -> Recovered {
        let mut boot = [0; 24];
        self.map.read(BOOT_AT, &mut boot);
        let is_same_boot = boot == boot_bytes(self.instance, boot_id);
        let mut recovered = Recovered::default();
        for index in 0..self.layout.words {
            let (received, was_sound) = self.checked_word(Bitmap::Received, index);
            let (durable, _) = self.checked_word(Bitmap::Durable, index);
            // `received` of an unsound word is unknown; what is durable was received.
            let claimed = if is_same_boot && was_sound { received } else { durable };
            let kept = self.with_sound_records(index, claimed);
            self.put_word(Bitmap::Durable, index, durable & kept);
            self.put_word(Bitmap::Received, index, kept);
            recovered.pieces += kept.count_ones();
            recovered.dropped += ((received | durable) & !kept).count_ones();
        }
        self.drop_unsound_records();
        // After the bits: were this process killed in between, the next one would do the same again.
        std::sync::atomic::fence(Release);
        self.map.write(BOOT_AT, &boot_bytes(self.instance, boot_id));
        recovered
    }

    /// Whether pages of the table were lost since it was opened.
    pub(crate) fn is_torn(&self) -> bool {
        self.map.is_torn()
    }

    /// A record that does not hold is none: left there it would stand in the way of the right one.
    fn drop_unsound_records(&self) {
        for piece in (0..self.layout.geometry.piece_count()).map(PieceIndex) {
            if self.has_record(piece) && self.record(piece).is_none() {
                self.map.store(self.layout.record_at(piece), 0, Release);
            }
        }
    }

    fn with_sound_records(&self, index: usize, bits: u32) -> u32 {
        let first = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(PIECES_PER_WORD);
        let is_kept = |bit: &u32| {
            let piece = PieceIndex(first.saturating_add(*bit));
            bits >> bit & 1 == 1 && self.layout.geometry.has_piece(piece) && self.record(piece).is_some()
        };
        (0..PIECES_PER_WORD).filter(is_kept).fold(0, |kept, bit| kept | 1 << bit)
    }

    pub(crate) fn has(&self, bitmap: Bitmap, piece: PieceIndex) -> bool {
        if !self.layout.geometry.has_piece(piece) {
            return false;
        }
        let at = self.layout.word_at(bitmap, (piece.0 / PIECES_PER_WORD) as usize);
        self.map.load(at, Acquire) >> (piece.0 % PIECES_PER_WORD) & 1 == 1
    }

    /// Sets or clears a piece's bit by one atomic store; true when it changed.
    pub(crate) fn set(&self, bitmap: Bitmap, piece: PieceIndex, value: bool) -> bool {
        assert!(self.layout.geometry.has_piece(piece), "{piece:?} of {:?}", self.layout.geometry);
        let index = (piece.0 / PIECES_PER_WORD) as usize;
        let bit = 1 << (piece.0 % PIECES_PER_WORD);
        let before = self.update_word(bitmap, index, |bits| if value { bits | bit } else { bits & !bit });
        (before & bit != 0) != value
    }

    /// Marks as durable what is set in `pieces` (a bitmap's words) and still received.
    pub(crate) fn make_durable(&self, pieces: &[u32]) {
        assert_eq!(pieces.len(), self.layout.words);
        for (index, bits) in pieces.iter().enumerate().filter(|(_, bits)| **bits != 0) {
            let still = bits & self.bits(Bitmap::Received, index);
            self.update_word(Bitmap::Durable, index, |durable| durable | still);
        }
    }

    /// A bitmap's words, 32 pieces each.
    pub(crate) fn snapshot(&self, bitmap: Bitmap) -> Vec<u32> {
        (0..self.layout.words).map(|index| self.bits(bitmap, index)).collect()
    }

    /// Whether every bit that is set in `received` is set in `durable`.
    pub(crate) fn is_durable(&self) -> bool {
        let differs = |index| self.bits(Bitmap::Received, index) & !self.bits(Bitmap::Durable, index) != 0;
        !(0..self.layout.words).any(differs)
    }

    fn bits(&self, bitmap: Bitmap, index: usize) -> u32 {
        low_half(self.map.load(self.layout.word_at(bitmap, index), Acquire))
    }

    /// The bits of a word as found on disk, none when its check fails.
    fn checked_word(&self, bitmap: Bitmap, index: usize) -> (u32, bool) {
        let word = self.map.load(self.layout.word_at(bitmap, index), Acquire);
        let bits = low_half(word);
        let is_sound = word == self.encode_word(bitmap, index, bits);
        (if is_sound { bits } else { 0 }, is_sound)
    }

    fn put_word(&self, bitmap: Bitmap, index: usize, bits: u32) {
        let word = self.encode_word(bitmap, index, bits);
        let at = self.layout.word_at(bitmap, index);
        // Pages that did not change stay clean: opening a task must not cost its next sync a write.
        if self.map.load(at, Relaxed) != word {
            self.map.store(at, word, Release);
        }
    }

    /// Returns the bits before.
    fn update_word(&self, bitmap: Bitmap, index: usize, change: impl Fn(u32) -> u32) -> u32 {
        let word = self.map.word(self.layout.word_at(bitmap, index));
        let mut current = word.load(Acquire);
        loop {
            let bits = low_half(u64::from_le(current));
            let next = self.encode_word(bitmap, index, change(bits)).to_le();
            if next == current {
                return bits;
            }
            match word.compare_exchange_weak(current, next, AcqRel, Acquire) {
                Ok(_) => return bits,
                Err(found) => current = found,
            }
        }
    }

    /// No bits are the zero word, so that a new file of zeros is an empty table.
    fn encode_word(&self, bitmap: Bitmap, index: usize, bits: u32) -> u64 {
        if bits == 0 {
            return 0;
        }
        let mut check = crc32fast::Hasher::new();
        check.update(&[u8::from(bitmap == Bitmap::Durable)]);
        check.update(&self.instance.to_le_bytes());
        check.update(&(index as u64).to_le_bytes());
        check.update(&bits.to_le_bytes());
        u64::from(check.finalize()) << 32 | u64::from(bits)
    }

    /// Whether the piece has a record, sound or not: one load.
    pub(crate) fn has_record(&self, piece: PieceIndex) -> bool {
        self.layout.geometry.has_piece(piece) && self.map.load(self.layout.record_at(piece), Acquire) != 0
    }

    /// The values of a piece's blocks; `None` without a record, and when it fails its check.
    pub(crate) fn record(&self, piece: PieceIndex) -> Option<Vec<ChainingValue>> {
        self.record_and_value(piece).map(|(_, blocks)| blocks)
    }

    /// The value of a piece; as [`Self::record`].
    pub(crate) fn piece_value(&self, piece: PieceIndex) -> Option<ChainingValue> {
        self.record_and_value(piece).map(|(value, _)| value)
    }

    fn record_and_value(&self, piece: PieceIndex) -> Option<(ChainingValue, Vec<ChainingValue>)> {
        if !self.has_record(piece) {
            return None;
        }
        let at = self.layout.record_at(piece);
        let blocks = self.layout.geometry.block_count(piece) as usize;
        let head = self.map.load(at, Acquire);
        let mut body = vec![0; 32 + blocks * 32];
        self.map.read(at + WORD, &mut body);
        if head != self.record_head(piece, &body) {
            return None;
        }
        let mut reader = Reader::new(&body);
        let value = ChainingValue(reader.array()?);
        let blocks = (0..blocks).map(|_| reader.array().map(ChainingValue)).collect::<Option<Vec<_>>>()?;
        Some((value, blocks))
    }

    /// Writes a piece's record over nothing, or over one that fails its check.
    ///
    /// # Panics
    /// When `blocks` is not one value per block, or the task has no such piece.
    pub(crate) fn put_record(&self, piece: PieceIndex, blocks: &[ChainingValue]) {
        let value = piece_value(self.layout.geometry, piece, blocks).expect("one value a block");
        let mut body = Vec::with_capacity(32 + blocks.len() * 32);
        body.extend_from_slice(&value.0);
        body.extend(blocks.iter().flat_map(|block| block.0));
        let at = self.layout.record_at(piece);
        self.map.store(at, 0, Release);
        self.map.write(at + WORD, &body);
        self.map.store(at, self.record_head(piece, &body), Release);
    }

    /// Length of the piece and checksum. Never zero, because no piece is empty.
    fn record_head(&self, piece: PieceIndex, body: &[u8]) -> u64 {
        let length = u32::try_from(self.layout.geometry.piece_range(piece).length()).expect("a piece is below 4 GiB");
        let mut check = crc32fast::Hasher::new();
        check.update(&self.instance.to_le_bytes());
        check.update(&piece.0.to_le_bytes());
        check.update(&length.to_le_bytes());
        check.update(body);
        u64::from(check.finalize()) << 32 | u64::from(length)
    }
}

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).expect("32 bits")
}
