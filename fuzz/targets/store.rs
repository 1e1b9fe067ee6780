//! A data directory of which any bytes were changed: opening it, and every task in it, ends no process and claims
//! nothing that it does not hold. Checksums may be made right again, because no input would guess them.
#![no_main]

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hawker_proto::hash::{block_values, root_of_bytes};
use hawker_proto::{Geometry, Instant, PieceIndex, TaskId};
use hawker_storage::{Input, Output, Store, StoreConfig, TaskFile, TaskMeta, WriteMode, blocking};
use libfuzzer_sys::fuzz_target;

const PARTS: [&str; 4] = ["table", "batches", "meta", "content"];
/// Of the part of the catalog that holds anything: the head and eight slots.
const CATALOG_BYTES: usize = 4096 + 8 * 256;
const EDITS_MAX: usize = 16;

/// The directory that every run starts from: one sealed task, and one of which three of five pieces are there.
struct Start {
    dir: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn config(boot: u8) -> StoreConfig {
    StoreConfig { limit_bytes: Some(1 << 40), ..StoreConfig::new([boot; 16], Instant::ZERO, 1_700_000_000_000) }
}

/// Gives the store an input, runs what it asks for, and keeps what it says.
fn ask(store: &mut Store, input: Input) -> Vec<Output> {
    store.handle(Instant::ZERO, input);
    let mut said = Vec::new();
    while let Some(output) = store.poll() {
        match output {
            Output::Op { op, what } => {
                let result = blocking::run(what);
                store.handle(Instant::ZERO, Input::OpDone { op, result });
            }
            news => said.push(news),
        }
    }
    store.assert_invariants();
    said
}

fn prepare(store: &mut Store, task: TaskId, length: usize, pieces: u32) {
    let bytes = vec![task.0[0]; length];
    let geometry = Geometry::of_length(length as u64).expect("a small length");
    let meta = TaskMeta { url: "http://origin.example/".to_owned(), ..TaskMeta::default() };
    let create = Input::Create { request: 1, task, geometry, meta, write_mode: WriteMode::Buffered };
    let file = ask(store, create).into_iter().find_map(|news| match news {
        Output::Created { result, .. } => Some(result.expect("room")),
        _ => None,
    });
    let file = file.expect("an answer");
    for piece in (0..pieces).map(PieceIndex) {
        let range = geometry.piece_range(piece);
        let of_piece = &bytes[range.start() as usize..range.end() as usize];
        blocking::write_at(file.content(), of_piece, range.start()).expect("a write");
        file.put_record(piece, &block_values(geometry, range.start(), of_piece)).expect("its record");
        file.mark_received(piece);
    }
    file.add_batch(vec![1; 100]).expect("room");
    let end = if pieces == geometry.piece_count() {
        Input::Seal { task, root: root_of_bytes(&bytes) }
    } else {
        Input::Flush { task }
    };
    ask(store, end);
}

fn start() -> &'static Start {
    static START: OnceLock<Start> = OnceLock::new();
    START.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("hawker-fuzz-{}", std::process::id()));
        let mut store = Store::open(&dir, config(1)).expect("a new directory");
        prepare(&mut store, TaskId([1; 32]), 1_200_000, 3);
        prepare(&mut store, TaskId([2; 32]), 300_000, 2);
        drop(store);
        let of_tasks = [1u8, 2].into_iter().flat_map(|task| {
            PARTS.map(|part| PathBuf::from(format!("tasks/{task:02x}/{}.{part}", TaskId([task; 32]))))
        });
        let files = std::iter::once(PathBuf::from("catalog")).chain(of_tasks);
        let files = files.map(|name| (dir.join(&name), std::fs::read(dir.join(&name)).expect("a file")));
        let files = files.collect();
        Start { dir, files }
    })
}

fn put_check(bytes: &mut [u8], at: usize, checked: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
    }
}

/// Checksum at `at` of the bytes `from..until`.
fn check_range(bytes: &mut [u8], at: usize, from: usize, until: usize) {
    let Some(checked) = bytes.get(from..until).map(<[u8]>::to_vec) else { return };
    put_check(bytes, at, &checked);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn check_catalog(bytes: &mut [u8]) {
    for head in [0, 1536] {
        check_range(bytes, head + 16, head, head + 16);
    }
    for state in [512, 1024] {
        check_range(bytes, state + 28, state, state + 28);
    }
    for slot in (4096..CATALOG_BYTES).step_by(256) {
        if bytes.get(slot..slot + 248).is_some_and(|slot| slot.iter().any(|byte| *byte != 0)) {
            check_range(bytes, slot, slot + 4, slot + 248);
            let read = [&bytes[slot + 16..slot + 48], &bytes[slot + 248..slot + 252]].concat();
            put_check(bytes, slot + 252, &read);
        }
    }
}

fn check_table(bytes: &mut [u8]) {
    check_range(bytes, 64, 0, 64);
    let instance = u64_at(bytes, 24).to_le_bytes();
    let piece_bytes = (u64_at(bytes, 12) & u64::from(u32::MAX)) as u32;
    let Some(geometry) = Geometry::from_parts(u64_at(bytes, 16), piece_bytes) else { return };
    let boot = [b"boot", instance.as_slice(), bytes.get(512..528).unwrap_or_default()].concat();
    put_check(bytes, 528, &boot);
    let words = (geometry.piece_count() as usize).div_ceil(32);
    // No more than this table may hold.
    for word in 0..(2 * words).min(1000) {
        let at = 4096 + 8 * word;
        let Some(bits) = bytes.get(at..at + 4).filter(|bits| **bits != [0; 4]) else { continue };
        let index = ((word % words) as u64).to_le_bytes();
        let checked = [[u8::from(word >= words)].as_slice(), &instance, &index, bits].concat();
        put_check(bytes, at + 4, &checked);
    }
    let stride = 40 + 32 * geometry.blocks_per_piece() as usize;
    let records = (4096 + 16 * words).next_multiple_of(64);
    for piece in (0..geometry.piece_count().min(1000)).map(PieceIndex) {
        let at = records + stride * piece.0 as usize;
        let Some(record) = bytes.get(at..at + 40 + 32 * geometry.block_count(piece) as usize) else { return };
        if record[..4] != [0; 4] {
            let checked = [instance.as_slice(), &piece.0.to_le_bytes(), &record[..4], &record[8..]].concat();
            put_check(bytes, at + 4, &checked);
        }
    }
}

fn check_batches(bytes: &mut [u8]) {
    check_range(bytes, 20, 0, 20);
    let instance = u64_at(bytes, 12).to_le_bytes();
    let mut at = 32;
    while let Some(length) = bytes.get(at..at + 4) {
        let length_bytes = [length[0], length[1], length[2], length[3]];
        let end = at + 8 + u32::from_le_bytes(length_bytes) as usize;
        let Some(batch) = bytes.get(at + 8..end) else { return };
        let checked = [instance.as_slice(), &length_bytes, batch].concat();
        put_check(bytes, at + 4, &checked);
        at = end;
    }
}

fn check_meta(bytes: &mut [u8]) {
    let (Some(head), Some(rest)) = (bytes.get(..12), bytes.get(16..)) else { return };
    let checked = [head, rest].concat();
    put_check(bytes, 12, &checked);
}

/// Puts the files back and changes them: which file, how, where, and the bytes for there, again and again.
fn change(start: &Start, mut edits: &[u8], is_checked: bool) {
    let mut files: Vec<_> = start.files.iter().map(|(path, bytes)| (path, bytes.clone())).collect();
    for _ in 0..EDITS_MAX {
        let Some(([file, how, low, high], rest)) = edits.split_first_chunk::<4>() else { break };
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let place = usize::from(*file) % files.len();
        let bytes = &mut files[place].1;
        edits = rest;
        if *how == u8::MAX {
            // Up to 2 MiB: more than any of them is long.
            bytes.resize(at * 32, 0);
            continue;
        }
        let Some((new, rest)) = edits.split_at_checked(usize::from(*how)) else { break };
        edits = rest;
        if let Some(old) = bytes.get_mut(at..at + new.len()) {
            old.copy_from_slice(new);
        }
    }
    for (index, (path, bytes)) in files.iter_mut().enumerate() {
        if is_checked {
            match index.checked_sub(1).map(|index| PARTS[index % PARTS.len()]) {
                None => check_catalog(bytes),
                Some("table") => check_table(bytes),
                Some("batches") => check_batches(bytes),
                Some("meta") => check_meta(bytes),
                Some(_) => {}
            }
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&*path).expect("a file");
        file.set_len(bytes.len() as u64).expect("room");
        file.write_all_at(bytes, 0).expect("room");
    }
}

/// What an open task claims, it holds; and it can be used.
fn look_at(file: &TaskFile) {
    let geometry = file.geometry();
    for piece in file.received().iter() {
        let record = file.record(piece).expect("a received piece has its record");
        assert_eq!(record.len(), geometry.block_count(piece) as usize);
    }
    assert!(file.durable().iter().all(|piece| file.has_piece(piece)), "durable, but not received");
    assert!(!file.is_sealed() || file.received().is_full(), "sealed, but not whole");
    assert!(file.bytes_received() <= geometry.length());
    if let Some(piece) = file.received().iter().next() {
        file.clear_piece(piece);
        assert!(!file.has_piece(piece));
    }
    let _ = (file.batches().len(), file.meta(), file.add_batch(vec![2; 10]));
}

fn open_all(store: &mut Store) {
    let tasks: Vec<TaskId> = store.list().map(|summary| summary.task).collect();
    for task in tasks {
        let said = ask(store, Input::Open { request: 1, task });
        let opened: Vec<&Arc<TaskFile>> = said
            .iter()
            .filter_map(|news| match news {
                Output::Opened { result, .. } => result.as_ref().ok(),
                _ => None,
            })
            .collect();
        opened.into_iter().for_each(|file| look_at(file));
        drop(said);
        ask(store, Input::Flush { task });
    }
}

fn names(store: &Store) -> BTreeSet<[u8; 32]> {
    store.list().map(|summary| summary.task.0).collect()
}

fn open(dir: &Path, boot: u8) -> Option<Store> {
    let store = Store::open(dir, config(boot)).ok()?;
    store.assert_invariants();
    Some(store)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, edits)) = bytes.split_first() else { return };
    let start = start();
    change(start, edits, how & 1 == 1);
    let Some(mut store) = open(&start.dir, 1 + (how >> 1 & 1)) else { return };
    open_all(&mut store);
    ask(&mut store, Input::Tick);
    ask(&mut store, Input::Close);
    let kept = names(&store);
    drop(store);
    // What one opening mended, the next one finds whole.
    let store = open(&start.dir, 1).expect("it opened before");
    assert!(store.report().slots_dropped == 0, "{:?}", store.report());
    assert_eq!(names(&store), kept);
});
