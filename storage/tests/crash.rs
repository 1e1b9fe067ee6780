//! Crashes: a seed drives a store over a fake disk, kills it or cuts the power at any step, and opens what is left.
//!
//! The model of the disk. Operations run on real files, so that the store's mappings are real; beside them the fake
//! keeps what would survive a power cut: per inode an image of its bytes, per directory its durable names.
//!  - `Sync` of a file copies its bytes into its image, memory stores through a mapping included (Linux: fdatasync
//!    writes dirty mapped pages too). `Sync` of a directory makes its names durable. Nothing else does.
//!  - At any moment the kernel may write back: random 512-byte sectors of an inode reach its image as they are then.
//!  - On a power cut every sector that differs from its image is old or new by chance, the length too, and every
//!    name that changed since its directory was synced is there or not, each on its own.
//!  - `kill -9` keeps everything that was written or stored, and drops what had not been started.
//!  - A cut during `Store::open` mixes the directory before and after it by sectors and names. `open` is the one place
//!    that writes without the fake; when it returns, what it did to the catalog is synced.
//!
//! What must hold afterwards: no piece is claimed with a wrong byte or record; a task whose `Sealed` was seen is there,
//! sealed; what `Durable` was said of is there; after a kill all that was verified is there; no file is left over, and
//! the accounts agree.
#![allow(clippy::cast_possible_truncation, reason = "test content is small")]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Random, Rig, Sample, config, sample, temp_dir};
use hawker_proto::{PieceIndex, TaskId};
use hawker_storage::{
    Adopt, File, Input, OpOk, OpResult, Output, SpoolId, StoreConfig, StoreOp, TaskFile, WriteMode, blocking,
};

const SECTOR: usize = 512;
const KIB: usize = 1024;
const SAMPLES: u8 = 6;
/// Room for the largest sample and little more.
const SCARCE: u64 = 1500 * 1024;

/// An inode: a descriptor that keeps its number from being used again, and what the disk holds of it.
struct Inode {
    file: OwnedFd,
    image: Vec<u8>,
}

impl Inode {
    fn bytes(&self) -> Vec<u8> {
        let len = rustix::fs::fstat(&self.file).expect("an open file").st_size as usize;
        blocking::read_at(&self.file, len, 0).expect("a file in memory")
    }

    fn write_back(&mut self, random: &mut Random, percent: u64) {
        let live = self.bytes();
        self.image = mix(random, &self.image, &live, percent);
    }
}

/// Sectors of `old` and `new`, each new one by a chance of `percent`.
fn mix(random: &mut Random, old: &[u8], new: &[u8], percent: u64) -> Vec<u8> {
    let mut mixed = old.to_vec();
    if old.len() != new.len() && random.chance(percent) {
        mixed.resize(new.len(), 0);
    }
    for at in (0..mixed.len().min(new.len())).step_by(SECTOR) {
        let end = (at + SECTOR).min(mixed.len()).min(new.len());
        if mixed[at..end] != new[at..end] && random.chance(percent) {
            mixed[at..end].copy_from_slice(&new[at..end]);
        }
    }
    mixed
}

type Names = BTreeMap<PathBuf, u64>;

/// Files of a data directory, by name relative to it. Only the shards that the samples are in have any.
fn list(dir: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let mut files = BTreeMap::new();
    let shards = (1..=SAMPLES).map(|number| format!("tasks/{number:02x}"));
    for below in shards.chain([String::new(), "incoming".to_string()]) {
        for entry in std::fs::read_dir(dir.join(below)).expect("a list") {
            let path = entry.expect("a name").path();
            if path.is_file() {
                files.insert(path.strip_prefix(dir).expect("below").to_owned(), path);
            }
        }
    }
    files
}

struct Disk {
    dir: PathBuf,
    inodes: BTreeMap<u64, Inode>,
    live: Names,
    durable: Names,
}

impl Disk {
    /// Everything in the directory is durable.
    fn new(dir: &Path) -> Self {
        let mut disk = Self { dir: dir.to_owned(), inodes: BTreeMap::new(), live: Names::new(), durable: Names::new() };
        disk.look_again();
        disk.durable = disk.live.clone();
        for inode in disk.inodes.values_mut() {
            inode.image = inode.bytes();
        }
        disk
    }

    /// After `Store::open`, which works without the fake: new names are durable, removed ones not surely.
    fn look_again(&mut self) {
        self.live.clear();
        for (name, path) in list(&self.dir) {
            let inode = self.know(&path);
            self.live.insert(name.clone(), inode);
        }
        let catalog = self.live.get(Path::new("catalog")).copied();
        if let Some(inode) = catalog.and_then(|number| self.inodes.get_mut(&number)) {
            inode.image = inode.bytes();
        }
    }

    fn know(&mut self, path: &Path) -> u64 {
        let file: OwnedFd =
            std::fs::File::options().read(true).write(true).open(path).expect("a file that is there").into();
        let number = rustix::fs::fstat(&file).expect("an open file").st_ino;
        self.inodes.entry(number).or_insert(Inode { file, image: Vec::new() });
        number
    }

    fn relative(&self, path: &std::ffi::CStr) -> PathBuf {
        let path = Path::new(path.to_str().expect("ascii"));
        path.strip_prefix(&self.dir).expect("in the data directory").to_owned()
    }

    fn run(&mut self, op: StoreOp) -> OpResult {
        match &op {
            StoreOp::Sync { file, .. } => {
                self.sync(file);
                return Ok(OpOk::Done);
            }
            StoreOp::Rename { from, to } => {
                let (from, to) = (self.relative(from), self.relative(to));
                let number = self.live.remove(&from).expect("a file to rename");
                self.live.insert(to, number);
            }
            StoreOp::Unlink { path } => {
                self.live.remove(&self.relative(path));
            }
            _ => {}
        }
        let created = match &op {
            StoreOp::Open { path, flags, .. } if flags.contains(hawker_storage::OFlags::CREATE) => Some(path.clone()),
            _ => None,
        };
        let result = blocking::run(op);
        if let (Ok(_), Some(path)) = (&result, created) {
            let name = self.relative(&path);
            let number = self.know(&self.dir.join(&name));
            self.live.insert(name, number);
        }
        result
    }

    fn sync(&mut self, file: &File) {
        let stat = rustix::fs::fstat(&**file).expect("an open file");
        if let Some(inode) = self.inodes.get_mut(&stat.st_ino) {
            inode.image = inode.bytes();
            return;
        }
        // A directory: found by its number among ours.
        let dirs = self.live.keys().chain(self.durable.keys()).filter_map(|name| name.parent());
        let dirs: BTreeSet<PathBuf> = dirs.map(Path::to_owned).collect();
        let number = |dir: &PathBuf| rustix::fs::stat(self.dir.join(dir)).expect("a directory").st_ino;
        let dir = dirs.into_iter().find(|dir| number(dir) == stat.st_ino);
        let dir = dir.expect("a directory with files");
        self.durable.retain(|name, _| name.parent() != Some(&dir));
        for (name, number) in self.live.iter().filter(|(name, _)| name.parent() == Some(&dir)) {
            self.durable.insert(name.clone(), *number);
        }
    }

    fn write_back(&mut self, random: &mut Random) {
        let numbers: Vec<u64> = self.live.values().copied().collect();
        let number = numbers[random.below(numbers.len())];
        let percent = [5, 50, 100][random.below(3)];
        self.inodes.get_mut(&number).expect("a live inode").write_back(random, percent);
    }

    /// What a power cut leaves, as a new directory.
    fn cut(&mut self, random: &mut Random, to: &Path) {
        let percent = [0, 10, 50, 90, 100][random.below(5)];
        let names: BTreeSet<PathBuf> = self.live.keys().chain(self.durable.keys()).cloned().collect();
        make_dirs(to);
        for name in names {
            let number = if random.chance(percent) { self.live.get(&name) } else { self.durable.get(&name) };
            let Some(inode) = number.and_then(|number| self.inodes.get_mut(number)) else { continue };
            // Two names of one inode (a rename that is half there) have the same bytes.
            inode.write_back(random, percent);
            write_private(&to.join(&name), &inode.image);
        }
    }
}

fn make_dirs(to: &Path) {
    let mut dirs = vec![to.to_owned(), to.join("tasks"), to.join("incoming")];
    dirs.extend((0..=255).map(|byte: u8| to.join("tasks").join(format!("{byte:02x}"))));
    for dir in dirs {
        std::fs::create_dir(&dir).expect("a new directory");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).expect("our directory");
    }
}

fn write_private(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a new file");
}

/// What the test was told of a task, and what it did.
#[derive(Default)]
struct Known {
    file: Option<Arc<TaskFile>>,
    /// `Sealed` was seen, and nobody has asked for its end since.
    is_sealed: bool,
    /// Pieces marked as received.
    received: BTreeSet<u32>,
    /// Those when each flush that is not answered yet was asked for.
    flushing: VecDeque<BTreeSet<u32>>,
    /// Those of the flushes whose end was told.
    durable: BTreeSet<u32>,
    /// Whether the task was created and nobody has asked for its end.
    exists: bool,
}

impl Known {
    /// Nothing is promised of the task any more, but its flushes are still answered.
    fn forget(&mut self) {
        let flushing = self.flushing.iter().map(|_| BTreeSet::new()).collect();
        *self = Self { flushing, ..Self::default() };
    }
}

struct World {
    seed: u64,
    random: Random,
    samples: Vec<Sample>,
    known: BTreeMap<TaskId, Known>,
    rig: Rig,
    disk: Disk,
    boot: u8,
    limit: u64,
    /// What happened, counted so that the test can show it was not idle.
    seen: Seen,
}

#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    sealed: u32,
    kept_sealed: u32,
    durable: u32,
    evicted: u32,
    adopted: u32,
    mended: u32,
    removed: u32,
    pieces_checked: u32,
    damaged: u32,
}

impl World {
    fn new(seed: u64, dir: &Path) -> Self {
        let mut random = Random(seed);
        // Half of the time there is room for the largest and little more.
        let limit = if random.chance(50) { SCARCE } else { common::ROOMY };
        Self::with_limit(seed, dir, random, limit)
    }

    fn with_limit(seed: u64, dir: &Path, random: Random, limit: u64) -> Self {
        let lengths = [0, 5, 4096, 300 * KIB + 7, 900 * KIB, 1100 * KIB + 512];
        assert_eq!(lengths.len(), usize::from(SAMPLES));
        let samples: Vec<_> = lengths.iter().enumerate().map(|(n, len)| sample(n as u8 + 1, *len)).collect();
        let rig = Rig::open(dir, Self::config(1, limit));
        let disk = Disk::new(dir);
        let known = samples.iter().map(|sample| (sample.task, Known::default())).collect();
        Self { seed, random, samples, known, rig, disk, boot: 1, limit, seen: Seen::default() }
    }

    fn config(boot: u8, limit: u64) -> StoreConfig {
        StoreConfig { boot_id: [boot; 16], open_tasks_max: 3, ..config(limit) }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=8 => self.run_one(),
            9..=12 => self.receive(),
            13 => self.disk.write_back(&mut self.random),
            14 => {
                self.rig.now += Duration::from_millis(self.random.next() % 3000);
                self.rig.give(Input::Tick);
            }
            _ => self.request(),
        }
        self.hear();
    }

    fn run_one(&mut self) {
        if !self.rig.pending.is_empty() {
            let (op, what) = self.rig.pending.swap_remove(self.random.below(self.rig.pending.len()));
            let result = self.disk.run(what);
            self.rig.answer(op, result);
        }
    }

    fn pick(&mut self) -> usize {
        self.random.below(self.samples.len())
    }

    fn request(&mut self) {
        let place = self.pick();
        let sample = &self.samples[place];
        let known = self.known.get_mut(&sample.task).expect("a known task");
        let task = sample.task;
        match self.random.below(26) {
            0..=7 => {
                let mode = WriteMode::Buffered;
                self.rig.ask_create(sample, mode);
            }
            8..=10 => self.rig.give(Input::Open { request: 0, task }),
            11..=14 => {
                known.flushing.push_back(known.received.clone());
                self.rig.give(Input::Flush { task });
            }
            15..=19 => self.rig.give(Input::Seal { task, root: sample.root }),
            20 => {
                known.forget();
                self.rig.give(Input::Remove { task });
            }
            21 => self.rig.give(Input::Touch { task }),
            22 => self.rig.give(Input::SetMeta { task, meta: sample.meta() }),
            23 => known.file = None,
            _ => {
                self.rig.give(Input::Spool { request: place as u64 });
            }
        }
    }

    /// Writes garbage over what is not received, or a piece as it should be; sometimes takes one back.
    fn receive(&mut self) {
        let place = self.pick();
        let sample = &self.samples[place];
        let known = self.known.get_mut(&sample.task).expect("a known task");
        let Some(file) = known.file.clone() else { return };
        let pieces: Vec<PieceIndex> = sample.pieces().collect();
        if pieces.is_empty() || !known.exists {
            return;
        }
        let piece = pieces[self.random.below(pieces.len())];
        let range = sample.geometry.piece_range(piece);
        if file.has_piece(piece) {
            if self.random.chance(4) {
                self.doubt(place, piece);
            }
        } else if self.random.chance(30) && !known.durable.contains(&piece.0) && !file.has_record(piece) {
            let garbage = vec![0xee; range.length() as usize];
            blocking::write_at(file.content(), &garbage, range.start()).expect("a write");
        } else {
            sample.receive(&file, piece);
            let _ = file.add_batch(vec![piece.0 as u8; 40]);
            known.received.insert(piece.0);
        }
    }

    /// As if the piece were bad: it is not, so that whatever survives of the mending is right.
    fn doubt(&mut self, place: usize, piece: PieceIndex) {
        let known = self.known.get_mut(&self.samples[place].task).expect("a known task");
        known.file.as_ref().expect("an open task").clear_piece(piece);
        for set in known.flushing.iter_mut().chain([&mut known.received, &mut known.durable]) {
            set.remove(&piece.0);
        }
        self.seen.mended += u32::from(known.is_sealed);
        known.is_sealed = false;
    }

    fn receive_all(&mut self, place: usize, pieces: impl Fn(PieceIndex) -> bool) {
        let sample = &self.samples[place];
        let known = self.known.get_mut(&sample.task).expect("a known task");
        let file = known.file.clone().expect("an open task");
        for piece in sample.pieces().filter(|piece| pieces(*piece) && !file.has_piece(*piece)) {
            sample.receive(&file, piece);
            file.add_batch(vec![piece.0 as u8; 40]).expect("room");
            known.received.insert(piece.0);
        }
    }

    fn flush(&mut self, place: usize) {
        let task = self.samples[place].task;
        let known = self.known.get_mut(&task).expect("a known task");
        known.flushing.push_back(known.received.clone());
        self.rig.give(Input::Flush { task });
    }

    fn seal(&mut self, place: usize) {
        let Sample { task, root, .. } = self.samples[place];
        self.rig.give(Input::Seal { task, root });
    }

    fn remove(&mut self, place: usize) {
        let task = self.samples[place].task;
        self.known.get_mut(&task).expect("a known task").forget();
        self.rig.give(Input::Remove { task });
    }

    fn create(&mut self, place: usize) {
        self.rig.ask_create(&self.samples[place], WriteMode::Buffered);
    }

    fn hear(&mut self) {
        while let Some(news) = self.rig.news.pop_front() {
            match news {
                Output::Created { result: Ok(file), .. } => self.meet(&file, true),
                Output::Opened { result: Ok(file), .. } => self.meet(&file, false),
                Output::Opened { result: Err(error), .. } => {
                    assert!(!matches!(error, hawker_storage::OpenTaskError::Disk(_)), "{error}");
                    self.seen.damaged += u32::from(matches!(error, hawker_storage::OpenTaskError::Damaged { .. }));
                }
                Output::Sealed { task, result: Ok(()) } => {
                    // A removal that was asked for in between ends it; so does a piece taken back.
                    let known = self.known.get_mut(&task).expect("a known task");
                    let is_held = known.file.as_ref().is_some_and(|file| file.is_sealed());
                    known.is_sealed = known.exists && is_held;
                    self.seen.sealed += 1;
                }
                Output::Durable { task } => {
                    let known = self.known.get_mut(&task).expect("a known task");
                    known.durable.extend(known.flushing.pop_front().expect("a flush was asked for"));
                    self.seen.durable += 1;
                }
                Output::Evicted { task } => {
                    self.known.get_mut(&task).expect("a known task").forget();
                    self.seen.evicted += 1;
                }
                Output::Removed { task } => {
                    self.seen.removed += 1;
                    // A task that was created after its removal was asked for is gone as well.
                    self.known.get_mut(&task).expect("a known task").forget();
                }
                Output::Spooling { request, result: Ok((spool, file)) } => self.spool(request as usize, spool, &file),
                Output::Failed { task, error } => panic!("{task}: {error}"),
                _ => {}
            }
        }
    }

    /// Spools a sample of unknown length, and makes it a task or throws it away.
    fn spool(&mut self, place: usize, spool: SpoolId, file: &File) {
        let Sample { task, geometry, bytes, records, .. } = &self.samples[place];
        self.rig.give(Input::ReserveSpool { request: 0, spool, bytes: bytes.len() as u64 });
        blocking::write_at(file, bytes, 0).expect("a write");
        if self.random.chance(20) {
            self.rig.give(Input::DropSpool { spool });
            return;
        }
        let (task, geometry, meta) = (*task, *geometry, self.samples[place].meta());
        let adopt = Adopt { request: 0, spool, task, geometry, meta, records: records.clone() };
        self.rig.give(Input::Adopt(Box::new(adopt)));
        self.seen.adopted += 1;
    }

    fn meet(&mut self, file: &Arc<TaskFile>, is_new: bool) {
        let sample = self.samples.iter().find(|sample| sample.task == file.id()).expect("a known task");
        sample.check(file);
        let known = self.known.get_mut(&file.id()).expect("a known task");
        if is_new {
            known.forget();
            known.exists = true;
            // All of an adopted one.
            known.received = file.received().iter().map(|piece| piece.0).collect();
        }
        // A removal that waits behind this answer has been asked for: the file is of no use.
        if self.rig.store.state(file.id()).is_some() && (is_new || known.exists) {
            known.file = Some(Arc::clone(file));
        }
    }

    /// The process dies; what it wrote stays.
    fn kill(mut self) -> Self {
        self.known.values_mut().for_each(|known| known.file = None);
        let Self { seed, mut random, samples, known, rig, mut disk, boot, limit, seen } = self;
        let removing = doomed(&rig, &known);
        drop(rig);
        if random.chance(20) {
            disk.write_back(&mut random);
        }
        let dir = disk.dir.clone();
        let rig = Rig::open(&dir, Self::config(boot, limit));
        disk.look_again();
        let mut world = Self { seed, random, samples, known, rig, disk, boot, limit, seen };
        world.check(&removing, false);
        world
    }

    /// The machine stops, and boots again; sometimes it stops again while the store is opened.
    fn cut(mut self, next: &Path) -> Self {
        self.known.values_mut().for_each(|known| known.file = None);
        let Self { seed, mut random, samples, known, rig, mut disk, boot, limit, seen } = self;
        let removing = doomed(&rig, &known);
        drop(rig);
        disk.cut(&mut random, next);
        let mut dir = next.to_owned();
        if random.chance(30) {
            let before = contents(&dir);
            drop(Rig::open(&dir, Self::config(boot + 100, limit)));
            let after = contents(&dir);
            dir = next.with_extension("again");
            make_dirs(&dir);
            for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let both = match (before.get(name), after.get(name)) {
                    (Some(old), Some(new)) => mix(&mut random, old, new, 50),
                    (old, new) if random.chance(50) => match old.or(new) {
                        Some(bytes) => bytes.clone(),
                        None => continue,
                    },
                    _ => continue,
                };
                write_private(&dir.join(name), &both);
            }
        }
        let rig = Rig::open(&dir, Self::config(boot + 1, limit));
        let disk = Disk::new(&dir);
        let mut world = Self { seed, random, samples, known, rig, disk, boot: boot + 1, limit, seen };
        world.check(&removing, true);
        world
    }

    /// Opens all tasks of the new store and compares them with what was known of them.
    fn check(&mut self, removing: &BTreeSet<TaskId>, is_power_cut: bool) {
        let seed = self.seed;
        self.rig.pending.clear();
        for sample in &self.samples {
            let task = sample.task;
            let known = self.known.get_mut(&task).expect("a known task");
            let result = self.rig.open_task(task);
            if let Ok(file) = &result {
                sample.check(file);
                self.seen.pieces_checked += file.received().len();
            }
            let is_promised = !removing.contains(&task);
            if known.is_sealed && is_promised {
                let file = result.as_ref().unwrap_or_else(|error| panic!("seed {seed}: sealed {task} lost: {error}"));
                assert!(file.is_sealed(), "seed {seed}: {task} was sealed");
                self.seen.kept_sealed += 1;
            }
            let promised = if is_power_cut { &known.durable } else { &known.received };
            if known.exists && is_promised && (!is_power_cut || !promised.is_empty()) {
                let file = result.as_ref().unwrap_or_else(|error| panic!("seed {seed}: {task} lost: {error}"));
                let lost = promised.iter().find(|piece| !file.has_piece(PieceIndex(**piece)));
                assert_eq!(lost, None, "seed {seed}: {task} lost a piece, power cut: {is_power_cut}");
            }
            *known = match result {
                Ok(file) => {
                    let received: BTreeSet<u32> = file.received().iter().map(|piece| piece.0).collect();
                    // After a kill a durable bit may stand in memory only: what was told counts.
                    let durable = match is_power_cut {
                        true => file.durable().iter().map(|piece| piece.0).collect(),
                        false => std::mem::take(&mut known.durable),
                    };
                    let is_sealed = file.is_sealed();
                    Known { file: Some(file), is_sealed, durable, received, exists: true, ..Known::default() }
                }
                Err(_) => Known::default(),
            };
        }
        self.rig.settle();
        self.hear();
        assert_eq!(self.rig.task_files(), 4 * self.rig.store.list().count(), "seed {seed}: files without a task");
        assert_eq!(std::fs::read_dir(self.rig.dir.join("incoming")).expect("a list").count(), 0);
        self.disk.look_again();
    }
}

/// Tasks whose end was decided, but not told yet: by a removal, an eviction or damage.
fn doomed(rig: &Rig, known: &BTreeMap<TaskId, Known>) -> BTreeSet<TaskId> {
    known.keys().copied().filter(|task| rig.store.state(*task).is_none()).collect()
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| std::fs::read(path).expect("a file that is there");
    list(dir).into_iter().map(|(name, path)| (name, read(path))).collect()
}

/// A life in which everything happens that leaves a trace.
const SCRIPT: &[fn(&mut World)] = &[
    |world| world.create(3),
    |world| world.receive_all(3, |piece| piece.0 != 1),
    |world| world.flush(3),
    |world| world.receive_all(3, |_| true),
    |world| world.seal(3),
    |world| {
        let Sample { task, .. } = world.samples[3];
        let meta = world.samples[3].meta();
        world.rig.give(Input::SetMeta { task, meta });
    },
    // Adopted.
    |world| world.rig.give(Input::Spool { request: 2 }),
    |world| world.seal(2),
    // Unsealed, mended and sealed again.
    |world| world.doubt(3, PieceIndex(0)),
    |world| world.flush(3),
    |world| world.receive_all(3, |_| true),
    |world| world.seal(3),
    |world| world.remove(2),
    |world| world.create(4),
    |world| world.receive_all(4, |_| true),
    |world| world.seal(4),
    // What was used is let go, and goes for this one.
    |world| world.known.values_mut().for_each(|known| known.file = None),
    |world| world.create(5),
    |world| world.receive_all(5, |piece| piece.0.is_multiple_of(2)),
    |world| world.flush(5),
    |world| world.remove(5),
    |world| world.rig.give(Input::Close),
];

impl World {
    /// Lives by the script until so many operations are done; whether it came to its end.
    fn follow_script(&mut self, mut left: u32) -> bool {
        for step in SCRIPT {
            step(self);
            self.hear();
            while !self.rig.pending.is_empty() {
                if left == 0 {
                    return false;
                }
                left -= 1;
                let (op, what) = self.rig.pending.remove(0);
                let result = self.disk.run(what);
                self.rig.answer(op, result);
                self.hear();
            }
        }
        true
    }
}

#[test]
fn crash_after_every_single_operation_of_a_life() {
    let mut total = Seen::default();
    let mut operations = 0;
    let mut is_over = false;
    while !is_over {
        is_over = true;
        for (way, name) in ["kill", "power cut"].iter().enumerate() {
            let temp = temp_dir();
            let seed = u64::from(operations) * 2 + way as u64;
            let mut world = World::with_limit(seed, &temp.path().join("0"), Random(seed), SCARCE);
            let crash = std::panic::AssertUnwindSafe(|| {
                is_over &= world.follow_script(operations);
                let world = if way == 0 { world.kill() } else { world.cut(&temp.path().join("1")) };
                world.seen
            });
            let seen = std::panic::catch_unwind(crash).unwrap_or_else(|_| panic!("{name} after {operations}"));
            total.kept_sealed += seen.kept_sealed;
            total.evicted += seen.evicted;
            total.removed += seen.removed;
            total.adopted += seen.adopted;
            total.mended += seen.mended;
            total.pieces_checked += seen.pieces_checked;
        }
        operations += 1;
    }
    println!("{operations} operations: {total:?}");
    assert!(operations > 80 && total.kept_sealed > 0 && total.evicted > 0 && total.removed > 0, "{total:?}");
    assert!(total.adopted > 0 && total.mended > 0 && total.pieces_checked > 0, "{total:?}");
}

fn live(seed: u64) -> io::Result<Seen> {
    let temp = temp_dir();
    let mut world = World::new(seed, &temp.path().join("0"));
    for generation in 1..=3 {
        for _ in 0..(40 + world.random.below(260)) {
            world.step();
        }
        let next = temp.path().join(generation.to_string());
        world = if world.random.chance(35) { world.kill() } else { world.cut(&next) };
        let old = temp.path().join((generation - 1).to_string());
        if old.exists() && old != world.rig.dir {
            std::fs::remove_dir_all(old)?;
        }
    }
    Ok(world.seen)
}

#[test]
fn crash_at_any_step_loses_no_promise_and_tells_no_lie() {
    // Another run of seeds: HAWKER_SEEDS=first..last. A failure names its seed.
    let seeds = std::env::var("HAWKER_SEEDS").ok().and_then(|range| {
        let (first, last) = range.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    let mut total = Seen::default();
    for seed in seeds.unwrap_or(0..200u64) {
        let seen = std::panic::catch_unwind(|| live(seed)).unwrap_or_else(|_| panic!("seed {seed}")).expect("a disk");
        total.sealed += seen.sealed;
        total.kept_sealed += seen.kept_sealed;
        total.durable += seen.durable;
        total.evicted += seen.evicted;
        total.adopted += seen.adopted;
        total.mended += seen.mended;
        total.removed += seen.removed;
        total.pieces_checked += seen.pieces_checked;
        total.damaged += seen.damaged;
    }
    println!("{total:?}");
    assert!(total.sealed > 0 && total.kept_sealed > 0 && total.durable > 0 && total.evicted > 0, "{total:?}");
    assert!(total.adopted > 0 && total.mended > 0 && total.removed > 0, "{total:?}");
    assert!(total.pieces_checked > 0, "{total:?}");
}
