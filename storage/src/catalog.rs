//! The catalog: one mapped file of fixed slots, in segments that are written whole before they are used.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use hawker_proto::TaskId;
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::FORMAT_MAJOR;
use crate::blocking::{read_at, write_at};
use crate::codec::{Reader, put_u64};
use crate::directory::{Directory, io_error, sync_dir};
use crate::error::OpenError;
use crate::mapping::Mapping;
use crate::op::File;
use crate::slot::{LAST_READ_AT, SLOT_BYTES, Slot, decode_last_read, encode_last_read};

const MAGIC: &[u8; 8] = b"HAWKCATL";
/// Bytes before the first slot.
const HEAD_BYTES: usize = 4096;
const SECTOR: usize = 512;
/// The head stands in two sectors, and the state in two that are written in turn: a torn write loses neither.
const HEAD_AT: [usize; 2] = [0, 3 * SECTOR];
const STATE_AT: [usize; 2] = [SECTOR, 2 * SECTOR];
const HEAD_FIELDS_BYTES: usize = 20;
const STATE_BYTES: usize = 32;
/// Bytes read or written at once.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// A place in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotIndex(u32);

/// A slot as it was found.
pub(crate) struct Found {
    pub(crate) index: SlotIndex,
    pub(crate) slot: Slot,
    pub(crate) last_read_unix_ms: u64,
}

/// What opening the catalog found.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) found: Vec<Found>,
    pub(crate) slots_read: u64,
    pub(crate) slots_damaged: u64,
    pub(crate) bytes_read: u64,
    pub(crate) was_clean: bool,
    pub(crate) is_same_boot: bool,
}

/// The state of the former user of the catalog.
#[derive(Clone, Copy, Default)]
struct State {
    /// Counts openings and closings.
    sequence: u64,
    boot_id: [u8; 16],
    is_clean: bool,
}

/// The mapped catalog.
pub(crate) struct Catalog {
    file: File,
    segments: Vec<Mapping>,
    /// Lowest last.
    free: Vec<SlotIndex>,
    state: State,
}

impl Catalog {
    /// Refuses a catalog of a newer version, and a file that is none. Changes nothing.
    pub(crate) fn check_format(path: &Path) -> Result<(), OpenError> {
        let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(io_error("open", path, errno.into())),
        };
        let head = read_at(&file, HEAD_BYTES, 0).map_err(|source| io_error("read", path, source))?;
        let majors = HEAD_AT.iter().filter_map(|at| parse_head(head.get(*at..)?));
        match majors.max() {
            None => Err(OpenError::NotACatalog { path: path.to_owned() }),
            Some(found) if found > FORMAT_MAJOR => {
                Err(OpenError::NewerVersion { path: path.to_owned(), found, supported: FORMAT_MAJOR })
            }
            Some(_) => Ok(()),
        }
    }

    /// Opens or makes the catalog of a directory whose format was checked, and marks it as in use by this boot.
    pub(crate) fn open(directory: &Directory, boot_id: [u8; 16]) -> Result<(Self, Opened), OpenError> {
        let path = directory.catalog();
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| io_error(doing, &path, source)
        };
        if !path.try_exists().map_err(failed("look at"))? {
            make(directory).map_err(failed("create"))?;
            sync_dir(directory.root())?;
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(io::Error::from).map_err(failed("open"))?;
        let file = Arc::new(file);
        let size = rustix::fs::fstat(&file).map_err(io::Error::from).map_err(failed("look at"))?.st_size;
        let size = u64::try_from(size).unwrap_or(0);
        if size < FIRST_SEGMENT_BYTES {
            // Cut by somebody else: what is left of it counts, and the head must not be grown over.
            let missing = usize::try_from(FIRST_SEGMENT_BYTES - size).expect("1 MiB at most");
            write_at(&file, &vec![0; missing], size).map_err(failed("write"))?;
        }
        let segment_count = segments_within(size.max(FIRST_SEGMENT_BYTES));
        // A power cut while it grew may have left holes; a store into a hole of a mapping kills when the disk is full.
        match rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, segment_start(segment_count)) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(failed("allocate")(errno.into())),
        }
        let mut catalog = Self { file, segments: Vec::new(), free: Vec::new(), state: State::default() };
        let mut opened = Opened::default();
        let mut damaged = Vec::new();
        for _ in 0..segment_count {
            catalog.read_segment(&mut opened, &mut damaged).map_err(failed("read"))?;
        }
        for index in damaged {
            catalog.clear(index);
            catalog.release(index);
        }
        catalog.free.reverse();
        catalog.begin(boot_id, &mut opened).map_err(failed("write"))?;
        Ok((catalog, opened))
    }

    /// Reads the next segment whole, then maps it.
    fn read_segment(&mut self, opened: &mut Opened, damaged: &mut Vec<SlotIndex>) -> io::Result<()> {
        let segment = self.segments.len();
        let (start, end) = (segment_start(segment), segment_start(segment + 1));
        let mut at = start;
        while at < end {
            let bytes = match read_at(&self.file, CHUNK_BYTES, at) {
                Ok(bytes) => bytes,
                Err(_) => {
                    // An unreadable chunk costs its slots. Written anew it can be mapped.
                    let zeros = vec![0; CHUNK_BYTES];
                    write_at(&self.file, &zeros, at)?;
                    if at == 0 {
                        write_at(&self.file, &head_bytes(), 0)?;
                    }
                    opened.slots_damaged += 1;
                    zeros
                }
            };
            opened.bytes_read += bytes.len() as u64;
            let skip = if at == 0 { HEAD_BYTES } else { 0 };
            if at == 0 {
                self.state = parse_state(&bytes);
            }
            for (place, slot) in bytes.chunks_exact(SLOT_BYTES).enumerate().skip(skip / SLOT_BYTES) {
                let index = SlotIndex(u32::try_from(at / SLOT_BYTES as u64).unwrap_or(u32::MAX) + narrow(place));
                opened.slots_read += 1;
                self.look_at_slot(index, slot, opened, damaged);
            }
            at += CHUNK_BYTES as u64;
        }
        self.map_segment()
    }

    fn look_at_slot(&mut self, index: SlotIndex, bytes: &[u8], opened: &mut Opened, damaged: &mut Vec<SlotIndex>) {
        let bytes: &[u8; SLOT_BYTES] = bytes.try_into().expect("a chunk of that length");
        if bytes[..LAST_READ_AT].iter().all(|byte| *byte == 0) {
            self.free.push(index);
            return;
        }
        let Some(slot) = Slot::decode(bytes) else {
            opened.slots_damaged += 1;
            damaged.push(index);
            return;
        };
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[LAST_READ_AT..]);
        let last_read_unix_ms = decode_last_read(slot.task, u64::from_le_bytes(word));
        opened.found.push(Found { index, slot, last_read_unix_ms });
    }

    /// From here on the directory counts as not cleanly closed.
    fn begin(&mut self, boot_id: [u8; 16], opened: &mut Opened) -> io::Result<()> {
        opened.was_clean = self.state.is_clean && opened.slots_damaged == 0;
        opened.is_same_boot = self.state.boot_id == boot_id;
        // Numbers of creations start with the sequence: were both copies of the state lost, none is used again.
        let newest = opened.found.iter().map(|found| found.slot.instance >> 32).max().unwrap_or(0);
        self.state = State { sequence: self.state.sequence.max(newest), boot_id, is_clean: false };
        let (bytes, at) = self.next_state(false);
        write_at(&self.file, &bytes, at)?;
        for at in HEAD_AT {
            write_at(&self.file, &head_fields(), at as u64)?;
        }
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Advances the state; the bytes to write and where, by [`Catalog::file`].
    pub(crate) fn next_state(&mut self, is_clean: bool) -> (Vec<u8>, u64) {
        self.state.sequence += 1;
        self.state.is_clean = is_clean;
        let at = STATE_AT[usize::from(self.state.sequence % 2 == 1)];
        (state_bytes(self.state), at as u64)
    }

    /// Number of this opening, never used twice.
    pub(crate) fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// Whether the disk lost a part of the catalog.
    pub(crate) fn is_torn(&self) -> bool {
        self.segments.iter().any(Mapping::is_torn)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn take_free(&mut self) -> Option<SlotIndex> {
        self.free.pop()
    }

    /// Gives a cleared slot back.
    pub(crate) fn release(&mut self, index: SlotIndex) {
        self.free.push(index);
    }

    /// Writes a slot by memory stores: whole only after a sync, which its checksum shows.
    pub(crate) fn put(&self, index: SlotIndex, slot: &Slot, last_read_unix_ms: u64) {
        let (segment, at) = self.locate(index);
        segment.write(at, &slot.encode());
        self.put_last_read(index, slot.task, last_read_unix_ms);
    }

    pub(crate) fn clear(&self, index: SlotIndex) {
        let (segment, at) = self.locate(index);
        segment.write(at, &[0; SLOT_BYTES]);
    }

    /// What was put there; `None` when the disk lost it.
    pub(crate) fn get(&self, index: SlotIndex) -> Option<Slot> {
        let (segment, at) = self.locate(index);
        let mut bytes = [0; SLOT_BYTES];
        segment.read(at, &mut bytes);
        Slot::decode(&bytes)
    }

    pub(crate) fn put_last_read(&self, index: SlotIndex, task: TaskId, unix_ms: u64) {
        let (segment, at) = self.locate(index);
        segment.store(at + LAST_READ_AT, encode_last_read(task, unix_ms), Release);
    }

    /// Where the next segment stands: its start and its end.
    pub(crate) fn next_segment(&self) -> (u64, u64) {
        (segment_start(self.segments.len()), segment_start(self.segments.len() + 1))
    }

    /// Takes the next segment into use, once all its bytes are written and synced.
    pub(crate) fn add_segment(&mut self) -> io::Result<()> {
        let (start, end) = self.next_segment();
        self.map_segment()?;
        let slot = |offset: u64| u32::try_from(offset / SLOT_BYTES as u64).unwrap_or(u32::MAX);
        self.free.extend((slot(start)..slot(end)).rev().map(SlotIndex));
        Ok(())
    }

    fn map_segment(&mut self) -> io::Result<()> {
        let (start, end) = self.next_segment();
        let len = usize::try_from(end - start).expect("a segment fits into memory");
        self.segments.push(Mapping::new(&self.file, start, len)?);
        Ok(())
    }

    fn locate(&self, index: SlotIndex) -> (&Mapping, usize) {
        let offset = u64::from(index.0) * SLOT_BYTES as u64;
        let segment = segments_within(offset);
        let within = usize::try_from(offset - segment_start(segment)).expect("within a segment");
        (&self.segments[segment], within)
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.segments.iter().map(Mapping::len).sum();
        f.debug_struct("Catalog").field("bytes", &bytes).field("free", &self.free.len()).finish_non_exhaustive()
    }
}

/// Makes the file under another name first: a catalog is there whole or not at all.
fn make(directory: &Directory) -> io::Result<()> {
    let path = directory.root().join("catalog.new");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    let mut bytes = head_bytes();
    bytes.resize(usize::try_from(FIRST_SEGMENT_BYTES).expect("1 MiB"), 0);
    write_at(&file, &bytes, 0)?;
    rustix::fs::fsync(&file)?;
    std::fs::rename(&path, directory.catalog())
}

/// Bytes of all segments before the one numbered `segment`.
fn segment_start(segment: usize) -> u64 {
    (0..segment).map(|index| (FIRST_SEGMENT_BYTES << index.min(6)).min(SEGMENT_BYTES_MAX)).sum()
}

/// Whole segments in the first `bytes` bytes of the file: also the number of the segment that holds that byte.
fn segments_within(bytes: u64) -> usize {
    let mut count = 0;
    while segment_start(count + 1) <= bytes {
        count += 1;
    }
    count
}

fn head_bytes() -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    for at in HEAD_AT {
        bytes[at..at + HEAD_FIELDS_BYTES].copy_from_slice(&head_fields());
    }
    bytes
}

fn head_fields() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_FIELDS_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_MAJOR.to_le_bytes());
    bytes.extend_from_slice(&0u16.to_le_bytes());
    bytes.extend_from_slice(&narrow(SLOT_BYTES).to_le_bytes());
    let check = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

/// The major version of a sound head.
fn parse_head(bytes: &[u8]) -> Option<u16> {
    let mut reader = Reader::new(bytes.get(8..HEAD_FIELDS_BYTES)?);
    let major = reader.u16()?;
    let check = crc32fast::hash(&bytes[..HEAD_FIELDS_BYTES - 4]).to_le_bytes();
    (bytes.starts_with(MAGIC) && bytes[HEAD_FIELDS_BYTES - 4..HEAD_FIELDS_BYTES] == check).then_some(major)
}

fn state_bytes(state: State) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(STATE_BYTES);
    put_u64(&mut bytes, state.sequence);
    bytes.extend_from_slice(&state.boot_id);
    bytes.extend_from_slice(&u32::from(state.is_clean).to_le_bytes());
    let check = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

/// The newer of the two states; a fresh one, which trusts nothing, when neither is sound.
fn parse_state(head: &[u8]) -> State {
    let parse = |at: &usize| {
        let bytes = head.get(*at..*at + STATE_BYTES)?;
        let mut reader = Reader::new(bytes);
        let state = State { sequence: reader.u64()?, boot_id: reader.array()?, is_clean: reader.u32()? == 1 };
        // Numbers of creations have 32 bits for it.
        (state_bytes(state) == bytes && state.sequence <= u64::from(u32::MAX)).then_some(state)
    };
    STATE_AT.iter().filter_map(parse).max_by_key(|state| state.sequence).unwrap_or_default()
}

fn narrow(small: usize) -> u32 {
    u32::try_from(small).expect("below 4 GiB")
}
