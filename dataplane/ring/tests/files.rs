//! Files, on both engines: the same bytes, counts and error numbers.

mod common;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use common::{Rig, block, c_path, errno, on_both_engines, pattern, temporary_directory};
use hawker_ring::{BLOCK_BYTES, File, Mode, OFlags, Op, Outcome, Residency, residency};

on_both_engines!(
    a_file_goes_through_its_life,
    a_short_read_is_the_end_of_the_file,
    empty_transfers_complete,
    direct_transfers_take_aligned_ranges,
    a_direct_read_of_an_odd_tail_reports_its_count,
    errors_are_the_same_numbers,
    closing_waits_for_nobody,
    many_writes_at_once_land_where_they_belong,
    what_was_written_is_resident,
);

const NEW: OFlags = OFlags::RDWR.union(OFlags::CREATE);

fn read(rig: &mut Rig<'_>, file: &File, length: usize, offset: u64) -> std::io::Result<Vec<u8>> {
    let file = File::clone(file);
    let outcome = rig.run(Op::ReadBytes { file, bytes: vec![0; length], offset });
    let Outcome::ReadBytes { result, mut bytes } = outcome else { panic!("{outcome:?}") };
    assert_eq!(bytes.len(), length, "the vector comes back whole");
    bytes.truncate(result?);
    Ok(bytes)
}

fn write(rig: &mut Rig<'_>, file: &File, bytes: &[u8], offset: u64) -> std::io::Result<usize> {
    let file = File::clone(file);
    let outcome = rig.run(Op::WriteBytes { file, bytes: bytes.to_vec(), offset });
    let Outcome::WroteBytes { result, bytes: back } = outcome else { panic!("{outcome:?}") };
    assert_eq!(back, bytes);
    result
}

fn a_file_goes_through_its_life(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let (path, other) = (directory.path().join("a"), directory.path().join("b"));
    let file = rig.open(&path, NEW | OFlags::EXCL);
    rig.done(Op::Allocate { file: File::clone(&file), len: 3_000_000 }).expect("allocate");
    assert_eq!(std::fs::metadata(&path).expect("metadata").len(), 3_000_000);
    let content = pattern(2_000_003, 21);
    assert_eq!(write(rig, &file, &content, 17).expect("write"), content.len());
    for data_only in [true, false] {
        rig.done(Op::Sync { file: File::clone(&file), data_only }).expect("sync");
    }
    assert!(read(rig, &file, content.len(), 17).expect("read") == content);
    let mut written = block();
    written.as_mut_slice()[5..105].copy_from_slice(&content[..100]);
    let op = Op::Write { file: File::clone(&file), block: written, range: 5..105, offset: 2_500_000 };
    let Outcome::Wrote { result, block } = rig.run(op) else { panic!("not a write") };
    assert_eq!(result.expect("write"), 100);
    let op = Op::Read { file: File::clone(&file), block, range: 200..300, offset: 2_500_000 };
    let Outcome::Read { result, block } = rig.run(op) else { panic!("not a read") };
    assert_eq!(result.expect("read"), 100);
    assert_eq!(block.as_slice()[200..300], content[..100]);
    rig.done(Op::Rename { from: c_path(&path), to: c_path(&other) }).expect("rename");
    assert!(!path.exists() && other.exists());
    let handle = rig.open(directory.path(), OFlags::RDONLY | OFlags::DIRECTORY);
    rig.done(Op::Sync { file: handle, data_only: false }).expect("sync of a directory");
    rig.done(Op::Unlink { path: c_path(&other) }).expect("unlink");
    assert!(!other.exists());
}

fn a_short_read_is_the_end_of_the_file(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let file = rig.open(&directory.path().join("a"), NEW);
    let content = pattern(1000, 22);
    write(rig, &file, &content, 0).expect("write");
    assert_eq!(read(rig, &file, 5000, 400).expect("read"), content[400..]);
    assert_eq!(read(rig, &file, 10, 1000).expect("read"), []);
    assert_eq!(read(rig, &file, 10, 1 << 40).expect("read"), []);
}

fn empty_transfers_complete(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let file = rig.open(&directory.path().join("a"), NEW);
    assert_eq!(write(rig, &file, &[], 0).expect("write"), 0);
    assert_eq!(read(rig, &file, 0, 0).expect("read"), []);
}

fn direct_transfers_take_aligned_ranges(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let path = directory.path().join("a");
    let file = rig.open(&path, NEW | OFlags::DIRECT);
    rig.done(Op::Allocate { file: File::clone(&file), len: 4 << 20 }).expect("allocate");
    let content = pattern(BLOCK_BYTES, 23);
    for (range, offset) in [(0..BLOCK_BYTES, 0), (4096..12288, 1 << 20), (BLOCK_BYTES - 4096..BLOCK_BYTES, 3 << 20)] {
        let mut block = block();
        block.as_mut_slice().copy_from_slice(&content);
        let op = Op::Write { file: File::clone(&file), block, range: range.clone(), offset };
        let Outcome::Wrote { result, mut block } = rig.run(op) else { panic!("not a write") };
        assert_eq!(result.expect("direct write"), range.len());
        block.as_mut_slice().fill(0);
        let op = Op::Read { file: File::clone(&file), block, range: range.clone(), offset };
        let Outcome::Read { result, block } = rig.run(op) else { panic!("not a read") };
        assert_eq!(result.expect("direct read"), range.len());
        assert!(block.as_slice()[range.clone()] == content[range]);
    }
    let op = Op::Write { file, block: block(), range: 0..100, offset: 0 };
    let Outcome::Wrote { result: Err(error), .. } = rig.run(op) else { panic!("a write of 100 bytes, O_DIRECT") };
    assert_eq!(errno(&error), libc::EINVAL);
}

fn a_direct_read_of_an_odd_tail_reports_its_count(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let path = directory.path().join("a");
    let content = pattern(10_001, 24);
    std::fs::write(&path, &content).expect("write");
    let file = rig.open(&path, OFlags::RDONLY | OFlags::DIRECT);
    let op = Op::Read { file, block: block(), range: 0..BLOCK_BYTES, offset: 0 };
    let Outcome::Read { result, block } = rig.run(op) else { panic!("not a read") };
    assert_eq!(result.expect("read"), 10_001);
    assert!(block.as_slice()[..10_001] == content);
}

fn errors_are_the_same_numbers(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let missing = directory.path().join("missing");
    let opened = |rig: &mut Rig<'_>, path: &std::path::Path, flags| {
        let Outcome::Opened(result) = rig.run(Op::Open { path: c_path(path), flags, mode: Mode::empty() }) else {
            panic!("not an open")
        };
        errno(&result.expect_err("an error"))
    };
    assert_eq!(opened(rig, &missing, OFlags::RDONLY), libc::ENOENT);
    assert_eq!(opened(rig, directory.path(), OFlags::WRONLY), libc::EISDIR);
    let path = directory.path().join("a");
    let writable = rig.open(&path, OFlags::WRONLY | OFlags::CREATE);
    assert_eq!(opened(rig, &path, NEW | OFlags::EXCL), libc::EEXIST);
    assert_eq!(errno(&read(rig, &writable, 1, 0).expect_err("not readable")), libc::EBADF);
    let readable = rig.open(&path, OFlags::RDONLY);
    assert_eq!(errno(&write(rig, &readable, b"x", 0).expect_err("not writable")), libc::EBADF);
    let mut done = |op| errno(&rig.done(op).expect_err("an error"));
    assert_eq!(done(Op::Allocate { file: File::clone(&writable), len: 0 }), libc::EINVAL);
    assert_eq!(done(Op::Allocate { file: readable, len: 1 }), libc::EBADF);
    assert_eq!(done(Op::Allocate { file: writable, len: i64::MAX as u64 }), libc::EFBIG);
    assert_eq!(done(Op::Rename { from: c_path(&missing), to: c_path(&path) }), libc::ENOENT);
    assert_eq!(done(Op::Unlink { path: c_path(&missing) }), libc::ENOENT);
    assert_eq!(done(Op::Unlink { path: c_path(directory.path()) }), libc::EISDIR);
    let socket: File = Arc::new(common::connection().1.into());
    assert_eq!(done(Op::Sync { file: socket, data_only: false }), libc::EINVAL);
}

fn closing_waits_for_nobody(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let file = rig.open(&directory.path().join("a"), NEW);
    let other = File::clone(&file);
    rig.done(Op::Close { file }).expect("let go of");
    assert_eq!(write(rig, &other, b"still open", 0).expect("write"), 10);
    let number = other.as_raw_fd();
    let link = format!("/proc/self/fd/{number}");
    let target = std::fs::read_link(&link).expect("open");
    rig.done(Op::Close { file: other }).expect("close");
    // Another test may have been given the number; it is not this file any more.
    assert_ne!(std::fs::read_link(&link).ok(), Some(target));
}

fn many_writes_at_once_land_where_they_belong(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let file = rig.open(&directory.path().join("a"), NEW);
    // More than the ring has entries.
    let tokens: Vec<_> = (0..600u64)
        .map(|index| {
            let (file, bytes) = (File::clone(&file), pattern(1000, index));
            rig.submit(Op::WriteBytes { file, bytes, offset: index * 1000 })
        })
        .collect();
    assert_eq!(rig.engine.in_flight(), 600);
    for token in tokens {
        assert!(matches!(rig.finish(token), Outcome::WroteBytes { result: Ok(1000), .. }));
    }
    let content = read(rig, &file, 600_000, 0).expect("read");
    for (index, part) in content.chunks(1000).enumerate() {
        assert!(part == pattern(1000, index as u64), "write {index}");
    }
}

fn what_was_written_is_resident(rig: &mut Rig<'_>) {
    let directory = temporary_directory();
    let file = rig.open(&directory.path().join("a"), NEW);
    write(rig, &file, &pattern(100_000, 25), 0).expect("write");
    let answer = residency(&file, 4097, 90_000);
    assert!(matches!(answer, Residency::Resident | Residency::Unknown), "{answer:?}");
    if answer == Residency::Resident {
        assert_eq!(residency(&file, 0, 1 << 20), Residency::Absent, "what lies behind the end is not there");
        assert_eq!(residency(&file, 1 << 30, 0), Residency::Resident, "nothing is everywhere");
    }
}
