//! What the store promises its users, by its public interface.

#![allow(clippy::cast_possible_truncation, reason = "test content is small")]

mod common;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use common::{BOOT, ROOMY, Rig, Sample, config, range, sample, temp_dir};
use hawker_proto::{BlockIndex, PieceIndex, Root};
use hawker_storage::{
    CreateError, FileSystemSpace, Input, OpenError, OpenTaskError, Output, RecordError, SealError, Store, StoreConfig,
    StoreOp, TaskState, Usage, WriteMode, blocking,
};

const KIB: usize = 1024;

fn three() -> [Sample; 3] {
    [sample(1, 700 * KIB + 13), sample(2, 0), sample(3, 5)]
}

#[test]
fn task_is_created_filled_sealed_and_found_again() {
    let dir = temp_dir();
    for (was_closed, boot) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let dir = dir.path().join(format!("{was_closed}-{boot}"));
        let mut rig = Rig::open(&dir, config(ROOMY));
        for sample in &three() {
            drop(rig.sealed(sample));
        }
        let usage = rig.store.usage();
        if was_closed {
            rig.close();
        } else {
            drop(rig);
        }
        let mut rig = Rig::open(&dir, StoreConfig { boot_id: [boot; 16], ..config(ROOMY) });
        assert_eq!((rig.store.report().tasks, rig.store.report().was_clean), (3, was_closed));
        assert_eq!(rig.store.report().names_read, if was_closed && boot == 1 { 0 } else { 12 });
        // The limit follows what others leave of the disk.
        let Usage { limit, ceiling, .. } = usage;
        assert_eq!(Usage { limit, ceiling, ..rig.store.usage() }, usage);
        for sample in &three() {
            assert_eq!(rig.store.state(sample.task), Some(TaskState::Sealed));
            assert_eq!(rig.store.find_by_resolve(&[sample.task.0[0]; 32]), Some(sample.task));
            assert_eq!(rig.store.find_by_digest(&format!("blake3:{}", sample.root)), Some(sample.task));
            let file = rig.open_task(sample.task).unwrap();
            assert!(file.is_sealed());
            assert_eq!(*file.meta(), sample.meta());
            sample.check(&file);
            assert!(sample.pieces().all(|piece| !file.is_checked(piece, BlockIndex(0))));
        }
    }
}

#[test]
fn root_is_checked_for_every_size_before_a_task_is_sealed() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    for (number, length) in [(1, 0), (2, 1), (3, 256 * KIB), (4, 256 * KIB + 1), (5, 512 * KIB), (6, 2000 * KIB)] {
        let sample = sample(number, length);
        let file = rig.create(&sample, WriteMode::Buffered).unwrap();
        if length > 0 {
            rig.give(Input::Seal { task: sample.task, root: sample.root });
            rig.settle();
            let news = rig.news.pop_back();
            assert!(matches!(news, Some(Output::Sealed { result: Err(SealError::Incomplete { .. }), .. })), "{news:?}");
        }
        sample.pieces().for_each(|piece| sample.receive(&file, piece));
        rig.give(Input::Seal { task: sample.task, root: Root([7; 32]) });
        rig.settle();
        let news = rig.news.pop_back();
        assert!(
            matches!(news, Some(Output::Sealed { result: Err(SealError::WrongRoot { found }), .. }) if found == sample.root),
            "{length}: {news:?}"
        );
        assert!(!file.is_sealed());
        rig.give(Input::Seal { task: sample.task, root: sample.root });
        rig.settle();
        assert!(matches!(rig.news.pop_back(), Some(Output::Sealed { result: Ok(()), .. })));
        sample.check(&file);
    }
}

#[test]
fn interrupted_task_is_resumed_with_pieces_records_and_batches() {
    let dir = temp_dir();
    let sample = sample(1, 900 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample, WriteMode::Direct).unwrap();
    sample.receive(&file, PieceIndex(1));
    sample.receive(&file, PieceIndex(3));
    file.put_record(PieceIndex(0), &sample.records[0]).unwrap();
    file.add_batch(b"signed".to_vec()).unwrap();
    file.add_batch(b"signed".to_vec()).unwrap();
    rig.pass(Duration::from_millis(100));
    drop((rig, file));

    // The process was killed: nothing that was verified is lost.
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.open_task(sample.task).unwrap();
    assert_eq!(file.received().iter().collect::<Vec<_>>(), [PieceIndex(1), PieceIndex(3)]);
    assert_eq!(
        file.bytes_received(),
        sample.piece(PieceIndex(1)).len() as u64 + sample.piece(PieceIndex(3)).len() as u64
    );
    assert!(file.has_record(PieceIndex(0)) && !file.has_record(PieceIndex(2)));
    assert_eq!(file.batches(), [Arc::from(*b"signed")]);
    sample.check(&file);
    rig.give(Input::Flush { task: sample.task });
    rig.settle();
    assert!(matches!(rig.news.pop_back(), Some(Output::Durable { .. })));
    sample.receive(&file, PieceIndex(2));
    file.add_batch(b"signed too".to_vec()).unwrap();
    rig.pass(Duration::from_millis(100));
    drop((rig, file));

    // The machine was booted: only what was durable counts.
    let mut rig = Rig::open(dir.path(), StoreConfig { boot_id: [2; 16], ..config(ROOMY) });
    let file = rig.open_task(sample.task).unwrap();
    assert_eq!(file.received().iter().collect::<Vec<_>>(), [PieceIndex(1), PieceIndex(3)]);
    assert_eq!(file.batches().len(), 2);
    sample.pieces().for_each(|piece| sample.receive(&file, piece));
    rig.give(Input::Seal { task: sample.task, root: sample.root });
    rig.settle();
    assert!(file.is_sealed());
}

#[test]
fn received_becomes_durable_by_itself() {
    let dir = temp_dir();
    let sample = sample(1, 900 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    assert_eq!(rig.store.deadline(), None);
    let file = rig.create(&sample, WriteMode::Buffered).unwrap();
    sample.receive(&file, PieceIndex(0));
    rig.pass(Duration::from_millis(100));
    assert!(file.durable().is_empty());
    rig.pass(Duration::from_secs(5));
    assert_eq!(file.durable(), file.received());
    rig.pass(Duration::from_secs(5));
    assert!(rig.pending.is_empty() && rig.news.is_empty(), "what is durable is not synced again");
}

#[test]
fn accounting_is_exact_and_eviction_takes_the_oldest_that_is_not_pinned() {
    let dir = temp_dir();
    let samples: Vec<_> = (1..=5).map(|number| sample(number, 600 * KIB)).collect();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    drop(rig.sealed(&samples[0]));
    let sealed_bytes = rig.store.usage().used;
    let on_disk = |rig: &Rig| -> u64 {
        let shard = rig.dir.join("tasks/01");
        let files = std::fs::read_dir(shard).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        files.map(|len| len.next_multiple_of(4096)).sum()
    };
    // The meta file counts as its maximum: two pages, of which it fills one.
    assert_eq!(sealed_bytes, on_disk(&rig) + 4096);
    drop(rig);

    // Room for three sealed tasks, and for what one more takes while it arrives.
    let mut rig = Rig::open(dir.path(), config(sealed_bytes * 4 + 8 * 4096));
    let pin = rig.open_task(samples[0].task).unwrap().pin();
    for sample in &samples[1..3] {
        rig.now += Duration::from_secs(1);
        drop(rig.sealed(sample));
    }
    rig.now += Duration::from_secs(1);
    rig.give(Input::Touch { task: samples[1].task });
    drop(rig.sealed(&samples[3]));
    assert_eq!(rig.store.usage().used, 4 * sealed_bytes);
    rig.now += Duration::from_secs(1);
    let file = rig.create(&samples[4], WriteMode::Buffered).unwrap();
    // The pinned one is the oldest, and the touched one is younger than the next.
    assert!(matches!(rig.news.pop_front(), Some(Output::Evicted { task }) if task == samples[2].task));
    assert!(rig.news.is_empty(), "one was enough");
    assert_eq!(rig.store.state(samples[2].task), None);
    assert_eq!(rig.store.state(samples[0].task), Some(TaskState::Sealed));
    assert_eq!((rig.task_files(), rig.store.usage().lingering), (16, 0));
    drop((pin, file));
}

#[test]
fn evicted_bytes_count_until_the_last_holder_lets_go() {
    let dir = temp_dir();
    let (first, second) = (sample(1, 600 * KIB), sample(2, 600 * KIB));
    let mut rig = Rig::open(dir.path(), config(1_000 * 1024));
    let held = rig.sealed(&first);
    rig.ask_create(&second, WriteMode::Buffered);
    rig.settle();
    assert!(matches!(rig.news.pop_front(), Some(Output::Evicted { .. })));
    assert!(rig.created().is_none(), "it waits");
    assert!(rig.store.usage().lingering > 0);
    first.check(&held);
    drop(held);
    rig.pass(Duration::from_millis(20));
    assert!(rig.created().unwrap().is_ok());
    assert_eq!(rig.store.usage().lingering, 0);

    // Nobody lets go: the task passes through.
    let held = rig.open_task(second.task).unwrap();
    sample(2, 600 * KIB).pieces().for_each(|piece| second.receive(&held, piece));
    rig.give(Input::Seal { task: second.task, root: second.root });
    rig.settle();
    rig.ask_create(&first, WriteMode::Buffered);
    rig.settle();
    rig.pass(Duration::from_secs(3));
    assert!(matches!(rig.created(), Some(Err(CreateError::OverLimit { .. }))));
}

#[test]
fn task_that_cannot_fit_evicts_nobody() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(2_000 * 1024));
    drop(rig.sealed(&sample(1, 600 * KIB)));
    let busy = rig.create(&sample(2, 600 * KIB), WriteMode::Buffered).unwrap();
    let error = rig.create(&sample(3, 1400 * KIB), WriteMode::Buffered).unwrap_err();
    assert!(matches!(error, CreateError::OverLimit { limit_bytes: 2_048_000, .. }), "{error}");
    assert_eq!(rig.store.list().count(), 2);
    drop(busy);
}

#[test]
fn default_limit_keeps_a_quarter_of_the_file_system_free() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), StoreConfig { limit_bytes: None, ..config(0) });
    let total_bytes = 100 << 20;
    rig.give(Input::FileSystem(FileSystemSpace { total_bytes, available_bytes: 30 << 20 }));
    assert_eq!(rig.store.usage().limit, 5 << 20);
    drop(rig.sealed(&sample(1, 600 * KIB)));
    drop(rig.sealed(&sample(2, 600 * KIB)));
    let used = rig.store.usage().used;
    // Somebody else fills the disk: tasks go, oldest first, until a quarter is free again or none is left.
    rig.give(Input::FileSystem(FileSystemSpace { total_bytes, available_bytes: (25 << 20) - 1 }));
    rig.settle();
    assert_eq!(rig.store.usage().used, used / 2);
}

#[test]
fn what_is_wanted_on_a_full_file_system_is_held_until_nobody_wants_it() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), StoreConfig { limit_bytes: None, ..config(0) });
    let total_bytes = 100 << 20;
    let at_work = |free_kib: u64| FileSystemSpace { total_bytes, available_bytes: (15 << 20) + free_kib * 1024 };
    rig.give(Input::FileSystem(at_work(900)));
    assert_eq!((rig.store.usage().limit, rig.store.usage().ceiling), (0, 900 * 1024));
    let error = rig.create(&sample(1, 1000 * KIB), WriteMode::Buffered).unwrap_err();
    assert!(matches!(error, CreateError::OverLimit { limit_bytes: 921_600, .. }), "{error}");

    let held = rig.sealed(&sample(2, 600 * KIB));
    let pin = held.pin();
    rig.give(Input::FileSystem(at_work(250)));
    rig.settle();
    assert!(rig.store.usage().used > 600 * 1024, "a caller holds it");
    // What is wanted next may take its place only once it is let go of.
    let error = rig.create(&sample(3, 600 * KIB), WriteMode::Buffered).unwrap_err();
    assert!(matches!(error, CreateError::OverLimit { .. }), "{error}");
    drop((pin, held));
    drop(rig.sealed(&sample(3, 600 * KIB)));
    assert_eq!(rig.store.list().count(), 1);
    rig.give(Input::FileSystem(at_work(250)));
    rig.settle();
    assert_eq!(rig.store.usage().total(), 0);
}

#[test]
fn full_disk_fails_the_creation_and_leaves_nothing() {
    let dir = temp_dir();
    let sample = sample(1, 700 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    // Every operation of the creation fails once.
    for failing in 0.. {
        let mut count = 0;
        rig.ask_create(&sample, WriteMode::Direct);
        rig.settle_with(|op| {
            count += 1;
            let is_direct =
                matches!(&op, StoreOp::Open { flags, .. } if flags.contains(hawker_storage::OFlags::DIRECT));
            if count - 1 == failing && !is_direct && !matches!(op, StoreOp::Unlink { .. } | StoreOp::Close { .. }) {
                return Err(io::Error::from_raw_os_error(28));
            }
            blocking::run(op)
        });
        match rig.created().expect("an answer") {
            Err(CreateError::DiskFull { .. }) => {
                assert_eq!((rig.store.usage().total(), rig.task_files(), rig.store.list().count()), (0, 0, 0));
            }
            Ok(file) => {
                drop(file);
                rig.give(Input::Remove { task: sample.task });
                rig.settle();
                if count <= failing {
                    assert!(failing > 8, "{failing}");
                    return;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn failed_sync_drops_the_task_and_is_not_tried_again() {
    let dir = temp_dir();
    let sample = sample(1, 700 * KIB);
    for is_seal in [false, true] {
        for failing in 0..4 {
            let mut rig = Rig::open(dir.path(), config(ROOMY));
            let file = rig.create(&sample, WriteMode::Buffered).unwrap();
            sample.pieces().for_each(|piece| sample.receive(&file, piece));
            rig.give(match is_seal {
                true => Input::Seal { task: sample.task, root: sample.root },
                false => Input::Flush { task: sample.task },
            });
            let mut syncs = 0;
            rig.settle_with(|op| match op {
                StoreOp::Sync { .. }
                    if {
                        syncs += 1;
                        syncs - 1 == failing
                    } =>
                {
                    Err(io::Error::from_raw_os_error(5))
                }
                op => blocking::run(op),
            });
            let news = rig.news.pop_front();
            let is_told =
                matches!(news, Some(Output::Failed { .. } | Output::Sealed { result: Err(SealError::Disk(_)), .. }));
            assert!(is_told, "{news:?}");
            assert_eq!((rig.store.list().count(), rig.task_files()), (0, 0));
            assert!(!file.is_sealed());
            drop((file, rig));
        }
    }
}

#[test]
fn catalog_that_cannot_be_synced_takes_no_new_tasks() {
    let dir = temp_dir();
    let (first, second) = (sample(1, 700 * KIB), sample(2, 5));
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    drop(rig.sealed(&second));
    drop(rig.sealed(&first));
    rig.give(Input::Remove { task: first.task });
    rig.settle_with(|op| match op {
        StoreOp::Sync { .. } => Err(io::Error::from_raw_os_error(5)),
        op => blocking::run(op),
    });
    assert!(matches!(rig.create(&first, WriteMode::Buffered), Err(CreateError::Closed)));
    second.check(&rig.open_task(second.task).unwrap());
}

#[test]
fn direct_writes_leave_no_padding() {
    // O_DIRECT needs a file system that has it: the build directory's, not the one in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sample = sample(1, 300 * KIB + 77);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample, WriteMode::Direct).unwrap();
    assert_eq!(file.write_mode() == WriteMode::Direct, file.direct().is_some());
    for piece in sample.pieces() {
        let bytes = sample.geometry.piece_range(piece);
        let plan = file.write_plan(bytes);
        assert_eq!((plan.direct.start(), plan.direct.end()), (bytes.start(), plan.buffered.start()));
        assert_eq!(plan.buffered.end(), bytes.end());
        if let Some(direct) = file.direct() {
            let at = |offset: u64| (offset - bytes.start()) as usize;
            let mut aligned = vec![0; plan.direct.length() as usize + 4096];
            let skip = aligned.as_ptr().align_offset(4096);
            let aligned = &mut aligned[skip..skip + plan.direct.length() as usize];
            aligned.copy_from_slice(&sample.piece(piece)[..at(plan.direct.end())]);
            blocking::write_at(direct, aligned, plan.direct.start()).unwrap();
            let tail = &sample.piece(piece)[at(plan.buffered.start())..];
            blocking::write_at(file.content(), tail, plan.buffered.start()).unwrap();
        } else {
            sample.write(&file, piece);
        }
        file.put_record(piece, &sample.records[piece.0 as usize]).unwrap();
        file.mark_received(piece);
    }
    rig.give(Input::Seal { task: sample.task, root: sample.root });
    rig.settle();
    assert!(file.is_sealed());
    let len = std::fs::metadata(rig.dir.join(format!("tasks/01/{}.content", sample.task))).unwrap().len();
    assert_eq!(len, sample.geometry.length());
    sample.check(&file);
}

#[test]
fn buffered_writes_do_not_split() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample(1, 5000), WriteMode::Buffered).unwrap();
    let plan = file.write_plan(range(0, 5000));
    assert_eq!((plan.direct, plan.buffered), (range(0, 0), range(0, 5000)));
}

#[test]
fn cleared_piece_unseals_its_task_and_is_mended_in_place() {
    let dir = temp_dir();
    let sample = sample(1, 900 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.sealed(&sample);
    let charged = rig.store.usage().used;
    blocking::write_at(file.content(), b"rot", 100 * 1024).unwrap();
    file.clear_piece(PieceIndex(1));
    assert!(!file.is_sealed() && !file.has_piece(PieceIndex(1)) && file.has_piece(PieceIndex(0)));
    assert!(!file.is_checked(PieceIndex(1), BlockIndex(0)));
    assert_eq!(rig.store.state(sample.task), Some(TaskState::Unsealed));
    drop((rig, file));

    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.open_task(sample.task).unwrap();
    assert_eq!(file.received().missing().collect::<Vec<_>>(), [PieceIndex(1)]);
    assert_eq!(rig.store.usage().used, 0);
    sample.receive(&file, PieceIndex(1));
    rig.give(Input::Seal { task: sample.task, root: sample.root });
    rig.settle();
    assert!(file.is_sealed());
    sample.check(&file);
    assert_eq!(rig.store.usage().used, charged);
}

#[test]
fn record_does_not_change() {
    let dir = temp_dir();
    let sample = sample(1, 900 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample, WriteMode::Buffered).unwrap();
    let (first, second) = (&sample.records[0], &sample.records[1]);
    assert_eq!(file.put_record(PieceIndex(0), first), Ok(()));
    assert_eq!(file.put_record(PieceIndex(0), first), Ok(()));
    assert_eq!(file.put_record(PieceIndex(0), second), Err(RecordError::Conflict));
    assert_eq!(file.put_record(PieceIndex(0), &[]), Err(RecordError::WrongBlockCount { expected: 1 }));
    assert_eq!(file.put_record(PieceIndex(15), first), Err(RecordError::NoSuchPiece));
    assert_eq!(file.record(PieceIndex(15)), None);
    assert!(!file.has_piece(PieceIndex(u32::MAX)));
    assert!(!file.is_checked(PieceIndex(0), BlockIndex(9)));
}

#[test]
#[should_panic(expected = "has no record")]
fn piece_without_a_record_cannot_have_been_received() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    rig.create(&sample(1, 5), WriteMode::Buffered).unwrap().mark_received(PieceIndex(0));
}

#[test]
fn spool_of_unknown_length_becomes_a_task() {
    let dir = temp_dir();
    for length in [0, 5, 900 * KIB] {
        let sample = sample(1, length);
        let mut rig = Rig::open(dir.path(), config(ROOMY));
        rig.give(Input::Spool { request: 1 });
        rig.settle();
        let Some(Output::Spooling { result: Ok((spool, file)), .. }) = rig.news.pop_front() else { panic!() };
        rig.give(Input::ReserveSpool { request: 2, spool, bytes: 1 << 20 });
        assert!(matches!(rig.news.pop_front(), Some(Output::SpoolReserved { result: Ok(()), .. })));
        assert_eq!(rig.store.usage().reserved, 1 << 20);
        blocking::write_at(&file, &sample.bytes, 0).unwrap();
        drop(file);
        let (task, geometry, meta) = (sample.task, sample.geometry, sample.meta());
        let records = sample.records.clone();
        rig.give(Input::Adopt(Box::new(hawker_storage::Adopt { request: 3, spool, task, geometry, meta, records })));
        rig.settle();
        let file = rig.created().unwrap().unwrap();
        assert!(file.received().is_full());
        rig.give(Input::Seal { task, root: sample.root });
        rig.settle();
        assert!(file.is_sealed());
        sample.check(&file);
        rig.give(Input::Remove { task });
        rig.settle();
        drop(file);
        rig.pass(Duration::from_secs(1));
        assert_eq!(rig.store.usage().total(), 0);
    }
}

#[test]
fn spool_that_is_not_what_was_said_is_thrown_away() {
    let dir = temp_dir();
    let sample = sample(1, 900 * KIB);
    let mut rig = Rig::open(dir.path(), config(4 << 20));
    rig.give(Input::Spool { request: 1 });
    rig.settle();
    let Some(Output::Spooling { result: Ok((spool, file)), .. }) = rig.news.pop_front() else { panic!() };
    rig.give(Input::ReserveSpool { request: 2, spool, bytes: 5 << 20 });
    assert!(matches!(rig.news.pop_front(), Some(Output::SpoolReserved { result: Err(_), .. })));
    blocking::write_at(&file, b"short", 0).unwrap();
    let (task, geometry, meta) = (sample.task, sample.geometry, sample.meta());
    let records = sample.records.clone();
    rig.give(Input::Adopt(Box::new(hawker_storage::Adopt { request: 3, spool, task, geometry, meta, records })));
    rig.settle();
    assert!(matches!(rig.created(), Some(Err(CreateError::WrongSpool { .. }))));
    assert_eq!(rig.store.usage().total(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
}

#[test]
fn meta_file_is_replaced_and_read_without_opening_the_task() {
    let dir = temp_dir();
    let sample = sample(1, 5);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    drop(rig.sealed(&sample));
    let meta = hawker_storage::TaskMeta { etag: Some("\"new\"".into()), ..sample.meta() };
    rig.give(Input::SetMeta { task: sample.task, meta: meta.clone() });
    rig.settle();
    rig.close();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    rig.give(Input::ReadMeta { request: 1, task: sample.task });
    rig.settle();
    assert!(matches!(rig.news.pop_front(), Some(Output::Meta { result: Ok(found), .. }) if found == meta));
    rig.give(Input::ReadMeta { request: 1, task: hawker_proto::TaskId([9; 32]) });
    assert!(matches!(rig.news.pop_front(), Some(Output::Meta { result: Err(OpenTaskError::NotFound), .. })));
}

#[test]
fn idle_tasks_are_closed_and_open_again() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), StoreConfig { open_tasks_max: 2, ..config(ROOMY) });
    let samples: Vec<_> = (1..=6).map(|number| sample(number, 5)).collect();
    samples.iter().for_each(|sample| drop(rig.sealed(sample)));
    assert_eq!(rig.store.list().filter(|task| task.url.is_some()).count(), 2);
    for sample in &samples {
        sample.check(&rig.open_task(sample.task).unwrap());
    }
    // Those that somebody holds stay, however many.
    let held: Vec<_> = samples.iter().map(|sample| rig.open_task(sample.task).unwrap()).collect();
    assert_eq!(rig.store.list().filter(|task| task.url.is_some()).count(), 6);
    drop(held);
}

#[test]
fn threads_mark_pieces_of_one_word_without_losing_any() {
    let dir = temp_dir();
    let sample = sample(1, 40 * 256 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample, WriteMode::Buffered).unwrap();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (file, sample) = (&file, &sample);
            scope.spawn(move || {
                for piece in sample.pieces().skip(first).step_by(4) {
                    sample.receive(file, piece);
                    assert!(file.has_piece(piece));
                }
            });
        }
    });
    assert!(file.received().is_full());
    assert_eq!(file.bytes_received(), sample.geometry.length());
    drop((rig, file));
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.open_task(sample.task).unwrap();
    assert!(file.received().is_full());
    sample.check(&file);
    assert_eq!(rig.store.content_path(sample.task), dir.path().join(format!("tasks/01/{}.content", sample.task)));
}

#[test]
fn pinned_task_is_never_evicted_and_lets_the_next_one_pass_through() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(1_000 * 1024));
    let pin = rig.sealed(&sample(1, 600 * KIB)).pin();
    let second = pin.clone();
    drop(pin);
    assert!(matches!(rig.create(&sample(2, 600 * KIB), WriteMode::Buffered), Err(CreateError::OverLimit { .. })));
    assert!(second.file().is_pinned());
    drop(second);
    assert!(rig.create(&sample(2, 600 * KIB), WriteMode::Buffered).is_ok());
    assert_eq!(rig.store.state(sample(1, 0).task), None);
}

#[test]
fn batches_are_bounded() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample(1, 5), WriteMode::Buffered).unwrap();
    assert_eq!(file.add_batch(vec![1; 1000]), Ok(()));
    assert_eq!(file.add_batch(vec![1; 1000]), Ok(()), "the same");
    assert_eq!(file.add_batch(vec![2; 1000]), Err(hawker_storage::BatchError::Full));
    assert_eq!(file.batches().len(), 1);
}

#[test]
fn store_and_task_files_move_between_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Store>();
    is_send::<hawker_storage::TaskFile>();
    is_sync::<hawker_storage::TaskFile>();
}

#[test]
fn second_store_of_a_directory_is_refused() {
    let dir = temp_dir();
    let rig = Rig::open(dir.path(), config(ROOMY));
    assert!(matches!(Store::open(dir.path(), config(ROOMY)), Err(OpenError::Locked { .. })));
    drop(rig);
    Rig::open(dir.path(), config(ROOMY));
}

#[test]
fn directory_that_others_control_is_refused_with_its_name() {
    let dir = temp_dir();
    let path = dir.path().join("data");
    drop(Rig::open(&path, config(ROOMY)));

    for mode in [0o777, 0o770, 0o702] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Store::open(&path, config(ROOMY)).unwrap_err();
        assert!(matches!(error, OpenError::WritableByOthers { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();

    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Store::open(&link, config(ROOMY)), Err(OpenError::Symlink { .. })));

    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Store::open(&file, config(ROOMY)), Err(OpenError::NotADirectory { .. })));

    // Giving a directory away takes root; without it, whatever root owns is foreign.
    if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
        assert!(matches!(Store::open(&path, config(ROOMY)), Err(OpenError::ForeignOwner { owner: 12345, .. })));
    } else {
        assert!(matches!(
            Store::open(std::path::Path::new("/usr"), config(ROOMY)),
            Err(OpenError::ForeignOwner { .. })
        ));
    }
}

#[test]
fn newer_version_and_foreign_files_are_left_alone() {
    let dir = temp_dir();
    let catalog = dir.path().join("catalog");
    drop(Rig::open(dir.path(), config(ROOMY)));
    let mut bytes = std::fs::read(&catalog).unwrap();
    for at in [0, 1536] {
        bytes[at + 8] = 2;
        let check = crc32fast::hash(&bytes[at..at + 16]);
        bytes[at + 16..at + 20].copy_from_slice(&check.to_le_bytes());
    }
    std::fs::write(&catalog, &bytes).unwrap();
    assert!(matches!(Store::open(dir.path(), config(ROOMY)), Err(OpenError::NewerVersion { found: 2, .. })));
    assert!(std::fs::read(&catalog).unwrap() == bytes);

    std::fs::write(&catalog, "somebody's").unwrap();
    assert!(matches!(Store::open(dir.path(), config(ROOMY)), Err(OpenError::NotACatalog { .. })));
    assert_eq!(std::fs::read(&catalog).unwrap(), b"somebody's");
}

#[test]
fn files_without_a_slot_are_deleted_and_foreign_names_are_not() {
    let dir = temp_dir();
    let sample = sample(1, 5);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    drop(rig.sealed(&sample));
    drop(rig);
    let ours = ["incoming/17".to_string(), format!("tasks/07/{}.content", "07".repeat(32))];
    let foreign = ["incoming/notes", "tasks/07/notes.content", "notes"];
    ours.iter().map(String::as_str).chain(foreign).for_each(|name| std::fs::write(dir.path().join(name), "x").unwrap());
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    assert_eq!(rig.store.report().orphans_deleted, 2);
    assert!(foreign.iter().all(|name| dir.path().join(name).exists()));
    sample.check(&rig.open_task(sample.task).unwrap());
}

#[test]
fn task_that_lost_a_file_is_dropped() {
    let dir = temp_dir();
    let sample = sample(1, 300 * KIB);
    for (lost, is_seen_at_once) in
        [("content", true), ("table", true), ("batches", true), ("meta", true), ("content", false)]
    {
        let mut rig = Rig::open(dir.path(), config(ROOMY));
        drop(rig.sealed(&sample));
        if is_seen_at_once {
            drop(rig);
        } else {
            rig.close();
        }
        std::fs::remove_file(dir.path().join(format!("tasks/01/{}.{lost}", sample.task))).unwrap();
        let mut rig = Rig::open(dir.path(), config(ROOMY));
        assert_eq!(rig.store.list().count(), usize::from(!is_seen_at_once));
        assert!(rig.open_task(sample.task).is_err());
        assert_eq!((rig.store.list().count(), rig.task_files(), rig.store.usage().total()), (0, 0, 0));
    }
}

#[test]
fn requests_of_one_task_are_answered_in_order() {
    let dir = temp_dir();
    let sample = sample(1, 5);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    rig.ask_create(&sample, WriteMode::Buffered);
    rig.ask_create(&sample, WriteMode::Buffered);
    rig.give(Input::Remove { task: sample.task });
    rig.give(Input::Open { request: 9, task: sample.task });
    rig.ask_create(&sample, WriteMode::Buffered);
    rig.settle();
    assert!(matches!(rig.created(), Some(Ok(_))));
    assert!(matches!(rig.created(), Some(Err(CreateError::Exists))));
    assert!(matches!(rig.news.pop_front(), Some(Output::Removed { .. })));
    assert!(matches!(rig.news.pop_front(), Some(Output::Opened { request: 9, result: Err(OpenTaskError::NotFound) })));
    assert!(matches!(rig.created(), Some(Ok(_))));
}

#[test]
fn catalog_grows_by_whole_segments() {
    let dir = temp_dir();
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    // 4080 slots in the first segment; an unsealed task takes one.
    let geometry = hawker_proto::Geometry::of_length(0).unwrap();
    for number in 0..4100u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let meta = hawker_storage::TaskMeta::default();
        let task = hawker_proto::TaskId(id);
        rig.store.handle(rig.now, Input::Create { request: 1, task, geometry, meta, write_mode: WriteMode::Buffered });
        while let Some(output) = rig.store.poll() {
            match output {
                Output::Op { op, what } => rig.store.handle(rig.now, Input::OpDone { op, result: blocking::run(what) }),
                Output::Created { result, .. } => assert!(result.is_ok()),
                other => panic!("{other:?}"),
            }
        }
        rig.store.handle(rig.now, Input::Flush { task });
        while let Some(output) = rig.store.poll() {
            if let Output::Op { op, what } = output {
                rig.store.handle(rig.now, Input::OpDone { op, result: blocking::run(what) });
            }
        }
        if number % 512 == 0 {
            rig.now += Duration::from_secs(1);
            rig.give(Input::Tick);
        }
    }
    assert_eq!(std::fs::metadata(dir.path().join("catalog")).unwrap().len(), 3 << 20);
    drop(rig);
    let rig = Rig::open(dir.path(), StoreConfig { boot_id: BOOT, ..config(ROOMY) });
    assert_eq!(rig.store.list().count(), 4100);
}

#[test]
fn files_go_only_after_their_slot_is_durably_gone() {
    let dir = temp_dir();
    let sample = sample(1, 5);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    drop(rig.sealed(&sample));
    rig.give(Input::Remove { task: sample.task });
    rig.ask_create(&sample, WriteMode::Buffered);
    // Were the slot back after a power cut, it would promise the files of the next creation.
    let mut order = Vec::new();
    rig.settle_with(|op| {
        order.push(match &op {
            StoreOp::Sync { .. } => 's',
            StoreOp::Unlink { .. } => 'u',
            StoreOp::Close { .. } => 'c',
            _ => 'o',
        });
        blocking::run(op)
    });
    let order: String = order.into_iter().filter(|kind| *kind != 'c').collect();
    assert!(order.starts_with("suuuuoooo"), "{order}");
}

#[test]
fn piece_mended_while_a_flush_runs_is_not_called_durable() {
    let dir = temp_dir();
    let sample = sample(1, 900 * KIB);
    let mut rig = Rig::open(dir.path(), config(ROOMY));
    let file = rig.create(&sample, WriteMode::Buffered).unwrap();
    sample.pieces().for_each(|piece| sample.receive(&file, piece));
    rig.give(Input::Flush { task: sample.task });
    let mut is_mended = false;
    rig.settle_with(|op| {
        let is_sync = matches!(op, StoreOp::Sync { .. });
        let result = blocking::run(op);
        if is_sync && !is_mended {
            is_mended = true;
            file.clear_piece(PieceIndex(1));
            sample.receive(&file, PieceIndex(1));
        }
        result
    });
    assert_eq!(file.durable().missing().collect::<Vec<_>>(), [PieceIndex(1)]);
    rig.give(Input::Flush { task: sample.task });
    rig.settle();
    assert!(file.durable().is_full());
}
