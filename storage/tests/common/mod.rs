//! A shell for the store: runs its operations on real files, in any order a seed chooses.
#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(clippy::cast_possible_truncation, reason = "test content is small")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::hash::{block_values, root_of_bytes};
use hawker_proto::{ByteRange, ChainingValue, Geometry, Instant, PieceIndex, Root, TaskId};
use hawker_storage::{
    CreateError, Input, OpId, OpResult, OpenTaskError, Output, Store, StoreConfig, StoreOp, TaskFile, TaskMeta,
    WriteMode, blocking,
};

/// SplitMix64 (Steele, Lea, Flood 2014): a seed repeats a run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// A directory in memory when the machine has one: the tests sync a lot.
pub fn temp_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

/// What a task holds, and what everybody should find in it.
pub struct Sample {
    pub task: TaskId,
    pub geometry: Geometry,
    pub bytes: Vec<u8>,
    pub records: Vec<Vec<ChainingValue>>,
    pub root: Root,
}

pub fn sample(number: u8, length: usize) -> Sample {
    let mut random = Random(u64::from(number) << 32 | length as u64);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    let geometry = Geometry::of_length(length as u64).expect("a small length");
    let rows = (0..geometry.piece_count()).map(|piece| {
        let range = geometry.piece_range(PieceIndex(piece));
        block_values(geometry, range.start(), &bytes[range.start() as usize..range.end() as usize])
    });
    let records = rows.collect();
    let root = root_of_bytes(&bytes);
    Sample { task: TaskId([number; 32]), geometry, bytes, records, root }
}

impl Sample {
    pub fn piece(&self, piece: PieceIndex) -> &[u8] {
        let range = self.geometry.piece_range(piece);
        &self.bytes[range.start() as usize..range.end() as usize]
    }

    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.geometry.piece_count()).map(PieceIndex)
    }

    pub fn meta(&self) -> TaskMeta {
        let number = self.task.0[0];
        TaskMeta {
            url: format!("https://origin.example/{number}"),
            resolve_key: [number; 32],
            etag: Some(format!("\"{number}\"")),
            ..TaskMeta::default()
        }
    }

    /// Writes the piece's bytes, its record, and only then says so.
    pub fn receive(&self, file: &TaskFile, piece: PieceIndex) {
        self.write(file, piece);
        file.put_record(piece, &self.records[piece.0 as usize]).expect("the right record");
        file.mark_received(piece);
    }

    pub fn write(&self, file: &TaskFile, piece: PieceIndex) {
        let range = self.geometry.piece_range(piece);
        blocking::write_at(file.content(), self.piece(piece), range.start()).expect("a write");
    }

    /// No piece that `file` claims has a wrong byte or a wrong record.
    pub fn check(&self, file: &TaskFile) {
        for piece in file.received().iter() {
            let range = self.geometry.piece_range(piece);
            let found = blocking::read_at(file.content(), range.length() as usize, range.start()).expect("a read");
            assert!(found == self.piece(piece), "{piece:?} of {} has wrong bytes", self.task);
            assert_eq!(file.record(piece).as_ref(), Some(&self.records[piece.0 as usize]), "{piece:?}");
        }
        if file.is_sealed() {
            assert!(file.received().is_full());
            assert_eq!(file.root(), Some(self.root));
        }
    }
}

pub fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).expect("a range")
}

pub const BOOT: [u8; 16] = [1; 16];

pub fn config(limit_bytes: u64) -> StoreConfig {
    StoreConfig { limit_bytes: Some(limit_bytes), ..StoreConfig::new(BOOT, Instant::ZERO, 1_700_000_000_000) }
}

pub const ROOMY: u64 = 1 << 40;

/// A store and what its operations wait for.
pub struct Rig {
    pub store: Store,
    pub dir: PathBuf,
    pub now: Instant,
    pub pending: Vec<(OpId, StoreOp)>,
    pub news: VecDeque<Output>,
    pub requests: u64,
}

impl Rig {
    pub fn open(dir: &Path, config: StoreConfig) -> Self {
        let now = config.now;
        let store = Store::open(dir, config).expect("the directory opens");
        store.assert_invariants();
        Self { store, dir: dir.to_owned(), now, pending: Vec::new(), news: VecDeque::new(), requests: 0 }
    }

    pub fn give(&mut self, input: Input) {
        self.store.handle(self.now, input);
        while let Some(output) = self.store.poll() {
            match output {
                Output::Op { op, what } => self.pending.push((op, what)),
                news => self.news.push_back(news),
            }
        }
        self.store.assert_invariants();
    }

    pub fn answer(&mut self, op: OpId, result: OpResult) {
        self.give(Input::OpDone { op, result });
    }

    /// Runs all operations, first come first served, until the store wants none.
    pub fn settle(&mut self) {
        self.settle_with(blocking::run);
    }

    pub fn settle_with(&mut self, mut run: impl FnMut(StoreOp) -> OpResult) {
        while !self.pending.is_empty() {
            let (op, what) = self.pending.remove(0);
            let result = run(what);
            self.answer(op, result);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.give(Input::Tick);
        self.settle();
    }

    pub fn create(&mut self, sample: &Sample, write_mode: WriteMode) -> Result<Arc<TaskFile>, CreateError> {
        self.ask_create(sample, write_mode);
        self.settle();
        self.created().expect("an answer")
    }

    pub fn ask_create(&mut self, sample: &Sample, write_mode: WriteMode) {
        self.requests += 1;
        let (request, task, geometry, meta) = (self.requests, sample.task, sample.geometry, sample.meta());
        self.give(Input::Create { request, task, geometry, meta, write_mode });
    }

    pub fn created(&mut self) -> Option<Result<Arc<TaskFile>, CreateError>> {
        let place = self.news.iter().position(|news| matches!(news, Output::Created { .. }))?;
        match self.news.remove(place) {
            Some(Output::Created { result, .. }) => Some(result),
            _ => None,
        }
    }

    pub fn open_task(&mut self, task: TaskId) -> Result<Arc<TaskFile>, OpenTaskError> {
        self.requests += 1;
        self.give(Input::Open { request: self.requests, task });
        self.settle();
        let place = self.news.iter().position(|news| matches!(news, Output::Opened { .. })).expect("an answer");
        match self.news.remove(place) {
            Some(Output::Opened { result, .. }) => result,
            _ => unreachable!("position found it"),
        }
    }

    /// Creates, fills and seals a task.
    pub fn sealed(&mut self, sample: &Sample) -> Arc<TaskFile> {
        let file = self.create(sample, WriteMode::Buffered).expect("room");
        sample.pieces().for_each(|piece| sample.receive(&file, piece));
        self.give(Input::Seal { task: sample.task, root: sample.root });
        self.settle();
        assert!(file.is_sealed(), "{:?}", self.news);
        self.news.clear();
        file
    }

    pub fn close(mut self) {
        self.give(Input::Close);
        self.settle();
        assert!(self.news.iter().any(|news| matches!(news, Output::Closed)), "{:?}", self.news);
    }

    /// Files in the directories of tasks.
    pub fn task_files(&self) -> usize {
        let shards = std::fs::read_dir(self.dir.join("tasks")).expect("a list");
        shards.map(|shard| std::fs::read_dir(shard.expect("a name").path()).expect("a list").count()).sum()
    }
}
