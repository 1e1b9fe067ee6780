//! Data directories as earlier versions left them, kept in the tree: this version reads or migrates each of them.
//!
//! `HAWKER_GOLDEN=1 cargo test -p hawker-storage --test golden` keeps one of a new version; those of former versions
//! are never written again.
#![allow(clippy::cast_possible_truncation, reason = "test content is small")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{ROOMY, Rig, Sample, config, sample, temp_dir};
use hawker_proto::PieceIndex;
use hawker_storage::{
    Adopt, FORMAT_MAJOR, Input, OpenError, Output, Store, StoreConfig, TaskMeta, TaskState, WriteMode,
};

const SECTOR: usize = 512;

/// Tasks of a kept directory, by what has become of them. Never change these: the kept files say the same.
struct Kept {
    sealed: Sample,
    empty: Sample,
    /// Pieces 0 and 2 are durable, 1 is received, 3 is missing.
    half: Sample,
    adopted: Sample,
    removed: Sample,
}

impl Kept {
    fn new() -> Self {
        let half = sample(3, 200_000);
        assert_eq!(half.geometry.piece_count(), 4);
        Self { sealed: sample(1, 70_001), empty: sample(2, 0), half, adopted: sample(4, 999), removed: sample(5, 5000) }
    }

    fn credentialed() -> TaskMeta {
        TaskMeta {
            url: "https://origin.example/adopted".to_owned(),
            resolve_key: [4; 32],
            is_credentialed: true,
            digest: Some(format!("sha256:{}", "5a".repeat(32))),
            ..TaskMeta::default()
        }
    }

    /// Lives through everything that leaves a trace, and ends as by kill -9.
    fn write(&self, dir: &Path) {
        let mut rig = Rig::open(dir, config(ROOMY));
        let file = rig.create(&self.sealed, WriteMode::Buffered).expect("room");
        self.sealed.pieces().for_each(|piece| self.sealed.receive(&file, piece));
        file.add_batch(vec![0xba; 300]).expect("room");
        rig.give(Input::Seal { task: self.sealed.task, root: self.sealed.root });
        rig.settle();
        drop((file, rig.sealed(&self.empty), rig.sealed(&self.removed)));
        rig.give(Input::Remove { task: self.removed.task });
        rig.settle();
        let half = rig.create(&self.half, WriteMode::Buffered).expect("room");
        [0, 2].into_iter().for_each(|piece| self.half.receive(&half, PieceIndex(piece)));
        half.add_batch(vec![0xbb; 40]).expect("room");
        rig.give(Input::Flush { task: self.half.task });
        rig.settle();
        self.half.receive(&half, PieceIndex(1));
        self.adopt(&mut rig);
        rig.give(Input::Seal { task: self.adopted.task, root: self.adopted.root });
        rig.settle();
    }

    fn adopt(&self, rig: &mut Rig) {
        let Sample { task, geometry, ref bytes, ref records, .. } = self.adopted;
        rig.news.clear();
        rig.give(Input::Spool { request: 1 });
        rig.settle();
        let Some(Output::Spooling { result: Ok((spool, file)), .. }) = rig.news.pop_front() else { panic!("no spool") };
        rig.give(Input::ReserveSpool { request: 2, spool, bytes: bytes.len() as u64 });
        rig.settle();
        hawker_storage::blocking::write_at(&file, bytes, 0).expect("a write");
        let adopt = Adopt { request: 3, spool, task, geometry, meta: Self::credentialed(), records: records.clone() };
        rig.give(Input::Adopt(Box::new(adopt)));
        rig.settle();
    }

    /// Opens the directory and finds everything as it was left, in the same boot or after another.
    fn read(&self, dir: &Path, is_same_boot: bool) {
        let boot_id = if is_same_boot { common::BOOT } else { [9; 16] };
        let mut rig = Rig::open(dir, StoreConfig { boot_id, ..config(ROOMY) });
        assert_eq!(rig.store.list().count(), 4);
        assert_eq!((rig.store.report().tasks, rig.store.report().slots_dropped), (4, 0));
        for sealed in [&self.sealed, &self.empty, &self.adopted] {
            let file = rig.open_task(sealed.task).expect("a kept task");
            sealed.check(&file);
            assert!(file.is_sealed() && file.durable().is_full());
            assert_eq!(rig.store.find_by_digest(&format!("blake3:{}", hex(&sealed.root.0))), Some(sealed.task));
            assert_eq!(rig.store.find_by_resolve(&file.meta().resolve_key), Some(sealed.task));
            let meta = if sealed.task == self.adopted.task { Self::credentialed() } else { sealed.meta() };
            assert_eq!(*file.meta(), meta);
        }
        let batches: Vec<Vec<u8>> = self.batches(&mut rig, &self.sealed);
        assert_eq!(batches, [vec![0xba; 300]]);
        assert_eq!(self.batches(&mut rig, &self.half), [vec![0xbb; 40]]);
        assert!(rig.store.list().any(|task| task.task == self.adopted.task && task.is_credentialed));
        assert_eq!(rig.store.find_by_digest(&Self::credentialed().digest.expect("a digest")), Some(self.adopted.task));
        assert_eq!(rig.store.state(self.removed.task), None);

        let half = rig.open_task(self.half.task).expect("a kept task");
        self.half.check(&half);
        let pieces = |map: hawker_proto::PieceMap| map.iter().map(|piece| piece.0).collect::<Vec<_>>();
        assert_eq!(pieces(half.received()), if is_same_boot { vec![0, 1, 2] } else { vec![0, 2] });
        assert_eq!(pieces(half.durable()), [0, 2]);
        assert_eq!(rig.store.state(self.half.task), Some(TaskState::Unsealed));
        // And it goes on from there.
        let missing = self.half.pieces().filter(|piece| !half.has_piece(*piece)).collect::<Vec<_>>();
        missing.into_iter().for_each(|piece| self.half.receive(&half, piece));
        rig.give(Input::Seal { task: self.half.task, root: self.half.root });
        rig.settle();
        assert!(half.is_sealed(), "{:?}", rig.news);
        self.half.check(&half);
        drop(rig.sealed(&self.removed));
        assert_eq!(rig.task_files(), 5 * 4);
        rig.close();
    }

    fn batches(&self, rig: &mut Rig, sample: &Sample) -> Vec<Vec<u8>> {
        let file = rig.open_task(sample.task).expect("a kept task");
        file.batches().iter().map(|batch| batch.to_vec()).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names and bytes of all files below a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a list") {
            let path = entry.expect("a name").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_owned();
                files.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    files
}

/// A directory in one file: names, lengths, and the sectors that are not zeros.
fn pack(dir: &Path) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, bytes) in contents(dir) {
        let name = name.to_str().expect("ascii");
        packed.extend_from_slice(format!("file {name} {}\n", bytes.len()).as_bytes());
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            if sector.iter().any(|byte| *byte != 0) {
                packed.extend_from_slice(format!("at {} {}\n", index * SECTOR, sector.len()).as_bytes());
                packed.extend_from_slice(sector);
            }
        }
    }
    packed
}

fn unpack(mut packed: &[u8], dir: &Path) {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut current = String::new();
    while !packed.is_empty() {
        let end = packed.iter().position(|byte| *byte == b'\n').expect("a line");
        let line = std::str::from_utf8(&packed[..end]).expect("text").to_owned();
        packed = &packed[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse::<usize>().expect("a number");
        match words[..] {
            ["file", name, len] => {
                name.clone_into(&mut current);
                files.insert(current.clone(), vec![0; number(len)]);
            }
            ["at", offset, len] => {
                let (offset, len) = (number(offset), number(len));
                files.get_mut(&current).expect("a file")[offset..offset + len].copy_from_slice(&packed[..len]);
                packed = &packed[len..];
            }
            _ => panic!("{line}"),
        }
    }
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("below")).expect("room");
        std::fs::write(path, bytes).expect("room");
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).expect("own");
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `1.0` and the like.
fn version_of(dir: &Path) -> String {
    let catalog = std::fs::read(dir.join("catalog")).expect("a catalog");
    let word = |at: usize| u16::from_le_bytes([catalog[at], catalog[at + 1]]);
    format!("{}.{}", word(8), word(10))
}

/// A copy of each kept directory.
fn copies() -> Vec<(String, tempfile::TempDir)> {
    let names = std::fs::read_dir(golden()).expect("kept directories").map(|entry| entry.expect("a name").path());
    let copy = |path: PathBuf| {
        let temp = temp_dir();
        let dir = temp.path().join("data");
        std::fs::create_dir(&dir).expect("room");
        unpack(&std::fs::read(&path).expect("a file"), &dir);
        (path.file_name().expect("a name").to_string_lossy().into_owned(), temp)
    };
    names.map(copy).collect()
}

#[test]
fn what_former_versions_wrote_is_read() {
    let temp = temp_dir();
    let made = temp.path().join("made");
    Kept::new().write(&made);
    let kept = golden().join(format!("{}.dir", version_of(&made)));
    if std::env::var_os("HAWKER_GOLDEN").is_some_and(|value| value == "1") && !kept.exists() {
        std::fs::write(&kept, pack(&made)).expect("room");
    }
    assert!(
        kept.exists(),
        "no directory of this version is kept: HAWKER_GOLDEN=1 cargo test -p hawker-storage --test golden"
    );
    let mut count = 0;
    for is_same_boot in [true, false] {
        for (name, temp) in copies() {
            println!("{name}, same boot: {is_same_boot}");
            Kept::new().read(&temp.path().join("data"), is_same_boot);
            count += 1;
        }
    }
    assert!(count >= 2);
}

/// Gives the catalog's heads another version.
fn set_version(dir: &Path, major: u16, minor: u16) {
    let path = dir.join("catalog");
    let mut bytes = std::fs::read(&path).expect("a catalog");
    for at in [0, 3 * SECTOR] {
        bytes[at + 8..at + 10].copy_from_slice(&major.to_le_bytes());
        bytes[at + 10..at + 12].copy_from_slice(&minor.to_le_bytes());
        let check = crc32fast::hash(&bytes[at..at + 16]);
        bytes[at + 16..at + 20].copy_from_slice(&check.to_le_bytes());
    }
    std::fs::write(&path, bytes).expect("room");
}

#[test]
fn a_directory_of_a_newer_version_is_refused_and_left_alone() {
    for (name, temp) in copies() {
        let dir = temp.path().join("data");
        std::fs::remove_file(dir.join("lock")).expect("a lock");
        for major in [FORMAT_MAJOR + 1, u16::MAX] {
            set_version(&dir, major, 0);
            let before = contents(&dir);
            let error = Store::open(&dir, config(ROOMY)).expect_err("a newer version");
            assert!(matches!(error, OpenError::NewerVersion { found, .. } if found == major), "{name}: {error}");
            let text = error.to_string();
            for word in [dir.to_str().expect("text"), &major.to_string(), "upgrade", "--data-dir"] {
                assert!(text.contains(word), "`{word}` is missing in: {text}");
            }
            assert!(contents(&dir) == before, "{name} was changed");
        }
        // A newer minor version is read.
        set_version(&dir, FORMAT_MAJOR, 7);
        Kept::new().read(&dir, true);
    }
}
