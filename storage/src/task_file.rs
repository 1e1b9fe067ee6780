//! One open task, shared by all shards.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawker_proto::{BlockIndex, ByteRange, ChainingValue, Geometry, PieceIndex, PieceMap, Root, TaskId};

use crate::batches;
use crate::error::{BatchError, RecordError};
use crate::meta::TaskMeta;
use crate::op::{File, WriteMode};
use crate::table::{Bitmap, Table};

/// O_DIRECT wants offsets, lengths and memory in multiples of this; 4096 suits every device in use.
pub const DIRECT_ALIGNMENT: u64 = 4096;

/// An open task: its files, and what is known of its pieces.
///
/// Any thread may ask and mark; the bits are single atomic words, only records and batches take a lock.
/// Blocks are written by the caller, in any order, to [`Self::content`] or [`Self::direct`]; when all writes of a
/// piece have completed the caller calls [`Self::mark_received`], and nobody writes to that piece again.
pub struct TaskFile {
    task: TaskId,
    geometry: Geometry,
    instance: u64,
    write_mode: WriteMode,
    content: File,
    direct: Option<File>,
    table: Table,
    is_sealed: AtomicBool,
    bytes_received: AtomicU64,
    checked: Box<[AtomicU64]>,
    pins: AtomicU32,
    shared: Mutex<Shared>,
}

/// What changes rarely.
struct Shared {
    meta: Arc<TaskMeta>,
    root: Option<Root>,
    batches: Vec<Arc<[u8]>>,
    /// How many of `batches` were handed to the disk.
    batches_taken: usize,
    /// Bytes of the batches file, with those that wait.
    batches_bytes: u64,
    /// Pieces cleared since the last call of `received_snapshot`; each at most once a round trip through `received`.
    cleared: Vec<PieceIndex>,
}

/// What [`TaskFile::new`] puts together.
pub(crate) struct Parts {
    pub(crate) task: TaskId,
    pub(crate) geometry: Geometry,
    pub(crate) instance: u64,
    pub(crate) write_mode: WriteMode,
    pub(crate) content: File,
    pub(crate) direct: Option<File>,
    pub(crate) table: Table,
    pub(crate) meta: Arc<TaskMeta>,
    pub(crate) root: Option<Root>,
    pub(crate) batches: Vec<Vec<u8>>,
    pub(crate) batches_bytes: u64,
}

/// Keeps a task from eviction while it lives: it is being sent, downloaded, preheated.
pub struct Pin {
    file: Arc<TaskFile>,
}

/// How a range of the content is written: see [`TaskFile::write_plan`]. Either part may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePlan {
    /// Through [`TaskFile::direct`]; offset and length are multiples of [`DIRECT_ALIGNMENT`].
    pub direct: ByteRange,
    /// Through [`TaskFile::content`].
    pub buffered: ByteRange,
}

impl TaskFile {
    pub(crate) fn new(parts: Parts) -> Self {
        let blocks = parts.geometry.piece_count() as usize * parts.geometry.blocks_per_piece() as usize;
        let taken = parts.batches.len();
        let shared = Shared {
            meta: parts.meta,
            root: parts.root,
            batches: parts.batches.into_iter().map(Arc::from).collect(),
            batches_taken: taken,
            batches_bytes: parts.batches_bytes,
            cleared: Vec::new(),
        };
        let file = Self {
            task: parts.task,
            geometry: parts.geometry,
            instance: parts.instance,
            write_mode: if parts.direct.is_some() { parts.write_mode } else { WriteMode::Buffered },
            content: parts.content,
            direct: parts.direct,
            table: parts.table,
            is_sealed: AtomicBool::new(parts.root.is_some()),
            bytes_received: AtomicU64::new(0),
            checked: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            pins: AtomicU32::new(0),
            shared: Mutex::new(shared),
        };
        let received = file.bitmap(Bitmap::Received);
        let bytes = received.iter().map(|piece| file.geometry.piece_range(piece).length()).sum();
        file.bytes_received.store(bytes, Relaxed);
        file
    }

    /// The task's name.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task
    }

    /// Its length and pieces.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether all pieces are here, durable, and merge to [`Self::root`].
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.is_sealed.load(Acquire)
    }

    /// BLAKE3 of the content, once sealed.
    #[must_use]
    pub fn root(&self) -> Option<Root> {
        self.lock().root
    }

    /// Where the task came from.
    #[must_use]
    pub fn meta(&self) -> Arc<TaskMeta> {
        Arc::clone(&self.lock().meta)
    }

    /// The content through the page cache: for reads, sendfile and unaligned writes.
    #[must_use]
    pub fn content(&self) -> &Arc<OwnedFd> {
        &self.content
    }

    /// The content by O_DIRECT, when the task is written that way.
    #[must_use]
    pub fn direct(&self) -> Option<&Arc<OwnedFd>> {
        self.direct.as_ref()
    }

    /// How its blocks are to be written.
    #[must_use]
    pub fn write_mode(&self) -> WriteMode {
        self.write_mode
    }

    /// Splits a block's range into what goes by O_DIRECT and the tail of the content that does not: the file ends at
    /// the content's last byte, so that no padded length is ever seen.
    ///
    /// # Panics
    /// When `range` does not start at a multiple of [`DIRECT_ALIGNMENT`], or ends at none before the end of the
    /// content: blocks do neither.
    #[must_use]
    pub fn write_plan(&self, range: ByteRange) -> WritePlan {
        let end = range.end();
        assert!(end <= self.geometry.length(), "{range} of {:?}", self.geometry);
        assert!(range.start().is_multiple_of(DIRECT_ALIGNMENT), "{range}");
        assert!(end.is_multiple_of(DIRECT_ALIGNMENT) || end == self.geometry.length(), "{range}");
        let split = match self.write_mode {
            WriteMode::Direct => end - end % DIRECT_ALIGNMENT,
            WriteMode::Buffered => range.start(),
        };
        let part = |start, end| ByteRange::new(start, end).expect("ordered by the assertions above");
        WritePlan { direct: part(range.start(), split), buffered: part(split, end) }
    }

    /// Whether the piece's bytes are here and were checked; false for a piece the task does not have.
    #[must_use]
    pub fn has_piece(&self, piece: PieceIndex) -> bool {
        if self.is_sealed() { self.geometry.has_piece(piece) } else { self.table.has(Bitmap::Received, piece) }
    }

    /// All pieces that are here. One load for 32 pieces.
    #[must_use]
    pub fn received(&self) -> PieceMap {
        if self.is_sealed() {
            return PieceMap::full(self.geometry.piece_count());
        }
        self.bitmap(Bitmap::Received)
    }

    /// The pieces that survive a power cut.
    #[must_use]
    pub fn durable(&self) -> PieceMap {
        self.bitmap(Bitmap::Durable)
    }

    fn bitmap(&self, bitmap: Bitmap) -> PieceMap {
        let pieces = self.geometry.piece_count();
        let mut bytes: Vec<u8> = self.table.snapshot(bitmap).into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.truncate(PieceMap::byte_count(pieces));
        PieceMap::from_bytes(pieces, &bytes).expect("no bit beyond the last piece: `set` and `recover` see to it")
    }

    /// Bytes of the pieces that are here.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Relaxed)
    }

    /// Keeps a piece's record; the caller has checked its signature. Taking the same record twice is fine.
    ///
    /// # Errors
    /// [`RecordError`], each the fault of whoever signed or sent the record.
    pub fn put_record(&self, piece: PieceIndex, blocks: &[ChainingValue]) -> Result<(), RecordError> {
        if !self.geometry.has_piece(piece) {
            return Err(RecordError::NoSuchPiece);
        }
        let expected = self.geometry.block_count(piece);
        if blocks.len() != expected as usize {
            return Err(RecordError::WrongBlockCount { expected });
        }
        let _guard = self.lock();
        match self.table.record(piece) {
            Some(found) if found == blocks => Ok(()),
            Some(_) => Err(RecordError::Conflict),
            None => {
                self.table.put_record(piece, blocks);
                Ok(())
            }
        }
    }

    /// Whether the piece has a record. One load; [`Self::record`] also checks it.
    #[must_use]
    pub fn has_record(&self, piece: PieceIndex) -> bool {
        self.table.has_record(piece)
    }

    /// The chaining values of a piece's blocks; `None` without a record, and when it fails its checksum.
    #[must_use]
    pub fn record(&self, piece: PieceIndex) -> Option<Vec<ChainingValue>> {
        self.table.record(piece)
    }

    /// The chaining value of a piece; as [`Self::record`].
    #[must_use]
    pub fn piece_value(&self, piece: PieceIndex) -> Option<ChainingValue> {
        self.table.piece_value(piece)
    }

    /// The piece's blocks were all checked against its record, and their writes have completed.
    ///
    /// # Panics
    /// When the task has no such piece, or the piece has no record: nobody could have checked its bytes.
    pub fn mark_received(&self, piece: PieceIndex) {
        assert!(self.geometry.has_piece(piece), "{piece:?} of {:?}", self.geometry);
        assert!(self.table.has_record(piece) || self.is_torn(), "{piece:?} of {} has no record", self.task);
        for block in 0..self.geometry.block_count(piece) {
            self.mark_checked(piece, BlockIndex(block));
        }
        if self.table.set(Bitmap::Received, piece, true) {
            self.bytes_received.fetch_add(self.geometry.piece_range(piece).length(), Relaxed);
        }
    }

    /// The piece's bytes turned out bad: it is missing from here on, and once nothing reads or writes it, it is
    /// fetched again in place. A sealed task is unsealed by it; give the store an [`crate::Input::Flush`], so that its
    /// catalog follows.
    ///
    /// What is written in place was checked before: a power cut in between leaves the bad bytes or the right ones,
    /// and a block that was not checked in this process is checked before it is served.
    pub fn clear_piece(&self, piece: PieceIndex) {
        let mut shared = self.lock();
        if !self.has_piece(piece) {
            return;
        }
        shared.cleared.push(piece);
        shared.root = None;
        self.table.set(Bitmap::Durable, piece, false);
        if self.table.set(Bitmap::Received, piece, false) {
            self.bytes_received.fetch_sub(self.geometry.piece_range(piece).length(), Relaxed);
        }
        self.doubt_piece(piece);
        // After the bit: a reader that finds the task unsealed must not find the piece.
        self.is_sealed.store(false, Release);
    }

    /// Somebody says that the piece is bad: its blocks are no longer known to be good until each is checked again.
    pub fn doubt_piece(&self, piece: PieceIndex) {
        if !self.geometry.has_piece(piece) {
            return;
        }
        for block in 0..self.geometry.block_count(piece) {
            let (word, bit) = self.checked_at(piece, BlockIndex(block));
            word.fetch_and(!bit, AcqRel);
        }
    }

    /// Whether the block was written or checked since the task was opened: then it may be sent by reference.
    #[must_use]
    pub fn is_checked(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        if !self.geometry.has_block(piece, block) {
            return false;
        }
        let (word, bit) = self.checked_at(piece, block);
        word.load(Acquire) & bit != 0
    }

    /// The block was read and is equal to its record.
    ///
    /// # Panics
    /// When the task has no such block.
    pub fn mark_checked(&self, piece: PieceIndex, block: BlockIndex) {
        assert!(self.geometry.has_block(piece, block), "{piece:?} {block:?} of {:?}", self.geometry);
        let (word, bit) = self.checked_at(piece, block);
        word.fetch_or(bit, AcqRel);
    }

    fn checked_at(&self, piece: PieceIndex, block: BlockIndex) -> (&AtomicU64, u64) {
        let index = piece.0 as usize * self.geometry.blocks_per_piece() as usize + block.0 as usize;
        (&self.checked[index / 64], 1 << (index % 64))
    }

    /// Keeps the task from eviction while the pin lives.
    #[must_use]
    pub fn pin(self: &Arc<Self>) -> Pin {
        let before = self.pins.fetch_add(1, AcqRel);
        assert!(before < u32::MAX / 2, "pins leak");
        Pin { file: Arc::clone(self) }
    }

    /// Whether a pin lives.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pins.load(Acquire) > 0
    }

    /// Keeps a signed record batch, to be passed on; it reaches the disk with the store's next tick. Taking the same
    /// batch twice is fine.
    ///
    /// # Errors
    /// [`BatchError::Full`]; the task can do without the batch.
    pub fn add_batch(&self, batch: Vec<u8>) -> Result<(), BatchError> {
        let mut shared = self.lock();
        if batch.is_empty() || shared.batches.iter().any(|known| **known == *batch) {
            return Ok(());
        }
        let bytes = shared.batches_bytes + (batches::FRAME_HEAD_BYTES + batch.len()) as u64;
        if bytes > batches::bytes_max(self.geometry) {
            return Err(BatchError::Full);
        }
        shared.batches_bytes = bytes;
        shared.batches.push(batch.into());
        Ok(())
    }

    /// All signed record batches, in the order of their arrival.
    #[must_use]
    pub fn batches(&self) -> Vec<Arc<[u8]>> {
        self.lock().batches.clone()
    }

    /// The files, to be closed where that stalls nobody.
    pub(crate) fn into_files(self) -> Vec<File> {
        self.direct.into_iter().chain([self.content]).collect()
    }

    pub(crate) fn has_waiting_batches(&self) -> bool {
        let shared = self.lock();
        shared.batches_taken < shared.batches.len()
    }

    pub(crate) fn batches_bytes(&self) -> u64 {
        self.lock().batches_bytes
    }

    /// The frames of the batches that wait for the disk, and where they go.
    pub(crate) fn take_batches(&self) -> Option<(Vec<u8>, u64)> {
        let mut shared = self.lock();
        let mut frames = Vec::new();
        for batch in &shared.batches[shared.batches_taken..] {
            batches::put_frame(&mut frames, self.instance, batch);
        }
        shared.batches_taken = shared.batches.len();
        let offset = shared.batches_bytes - frames.len() as u64;
        (!frames.is_empty()).then_some((frames, offset))
    }

    pub(crate) fn set_meta(&self, meta: Arc<TaskMeta>) {
        self.lock().meta = meta;
    }

    /// Whether every received piece is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.table.is_durable()
    }

    /// Whether the disk lost a part of the table: nothing may be promised of the task.
    pub(crate) fn is_torn(&self) -> bool {
        self.table.is_torn()
    }

    /// What is received now, for [`Self::make_durable`] once the data is synced.
    pub(crate) fn received_snapshot(&self) -> Vec<u32> {
        let mut shared = self.lock();
        shared.cleared.clear();
        self.table.snapshot(Bitmap::Received)
    }

    /// The data of the pieces in `snapshot` is synced: all but those cleared since, which may have been received again
    /// after the sync began.
    pub(crate) fn make_durable(&self, mut snapshot: Vec<u32>) {
        // Under the lock, so that no piece is cleared between the question and the stores.
        let shared = self.lock();
        for piece in &shared.cleared {
            snapshot[piece.0 as usize / 32] &= !(1 << (piece.0 % 32));
        }
        self.table.make_durable(&snapshot);
    }

    /// Seals, unless a piece was cleared since the last snapshot.
    pub(crate) fn seal(&self, root: Root) -> bool {
        let mut shared = self.lock();
        let is_whole = shared.cleared.is_empty();
        if is_whole {
            shared.root = Some(root);
            self.is_sealed.store(true, Release);
        }
        is_whole
    }

    /// A poisoned lock is taken as it is: what it guards is valid after every statement above.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TaskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFile")
            .field("task", &self.task)
            .field("geometry", &self.geometry)
            .field("is_sealed", &self.is_sealed())
            .field("bytes_received", &self.bytes_received())
            .finish_non_exhaustive()
    }
}

impl Pin {
    /// The pinned task.
    #[must_use]
    pub fn file(&self) -> &Arc<TaskFile> {
        &self.file
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.file.pin()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let before = self.file.pins.fetch_sub(1, AcqRel);
        assert!(before > 0);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({})", self.file.task)
    }
}
