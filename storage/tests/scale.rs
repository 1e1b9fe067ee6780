//! A large store opens by reading its catalog: no file of a task is touched.

mod common;

use std::time::Instant;

use common::{ROOMY, Random, config, temp_dir};
use hawker_proto::TaskId;
use hawker_storage::{Store, TaskState};

const TASKS: usize = 100_000;

/// A catalog as FORMAT.md describes it, of sealed tasks of one byte, closed cleanly.
fn catalog() -> Vec<u8> {
    let mut bytes = vec![0; (1 + 2 + 4 + 8 + 16) << 20];
    let mut head = b"HAWKCATL".to_vec();
    head.extend_from_slice(&[1, 0, 0, 0, 0, 1, 0, 0]);
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    for at in [0, 1536] {
        bytes[at..at + head.len()].copy_from_slice(&head);
    }
    let mut state = 9u64.to_le_bytes().to_vec();
    state.extend_from_slice(&common::BOOT);
    state.extend_from_slice(&1u32.to_le_bytes());
    state.extend_from_slice(&crc32fast::hash(&state).to_le_bytes());
    bytes[512..512 + state.len()].copy_from_slice(&state);

    let mut random = Random(7);
    let mut id = || -> Vec<u8> { (0..4).flat_map(|_| random.next().to_le_bytes()).collect() };
    for (number, slot) in bytes[4096..].chunks_exact_mut(256).take(TASKS).enumerate() {
        let mut body = vec![b'T', 1, 0, 0];
        body.extend_from_slice(&(number as u64 + 1).to_le_bytes());
        body.extend_from_slice(&id());
        body.extend_from_slice(&1u64.to_le_bytes());
        body.extend_from_slice(&(64u64 * 1024).to_le_bytes());
        body.extend_from_slice(&id());
        body.extend_from_slice(&id());
        body.extend_from_slice(&[0; 32]);
        body.extend_from_slice(&24_576u64.to_le_bytes());
        body.extend_from_slice(&1_700_000_000_000u64.to_le_bytes());
        body.resize(244, 0);
        slot[..4].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
        slot[4..248].copy_from_slice(&body);
    }
    bytes
}

#[test]
fn hundred_thousand_tasks_open_by_reading_the_catalog_once() {
    let dir = temp_dir();
    drop(Store::open(dir.path(), config(ROOMY)).expect("a new directory"));
    std::fs::write(dir.path().join("catalog"), catalog()).expect("a catalog");
    let begin = Instant::now();
    let store = Store::open(dir.path(), config(ROOMY)).expect("the directory opens");
    println!("{TASKS} tasks open in {:?}", begin.elapsed());
    let report = store.report();
    assert_eq!((report.tasks, report.slots_dropped, report.names_read), (TASKS as u64, 0, 0));
    assert_eq!((report.bytes_read, report.slots_read), (31 << 20, (31 << 12) - 16));
    assert_eq!(store.usage().used, TASKS as u64 * 24_576);
    store.assert_invariants();
    let some: TaskId = store.list().next().expect("a task").task;
    assert_eq!(store.state(some), Some(TaskState::Sealed));
}
