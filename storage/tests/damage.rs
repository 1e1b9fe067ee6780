//! Rot: whatever the disk gives back is checked, and nothing that it gives back makes the store panic.
#![allow(clippy::cast_possible_truncation, reason = "test content is small")]

mod common;

use std::path::{Path, PathBuf};

use common::{ROOMY, Random, Rig, Sample, config, sample, temp_dir};
use hawker_proto::PieceIndex;
use hawker_storage::{OpenTaskError, Store, StoreConfig, WriteMode};

/// A directory with one unsealed task (three of five pieces received, two of them durable) and one sealed.
fn prepare(dir: &Path) -> [Sample; 2] {
    let samples = [sample(1, 1_200_000), sample(2, 300_000)];
    let mut rig = Rig::open(dir, config(ROOMY));
    let file = rig.create(&samples[0], WriteMode::Buffered).expect("room");
    samples[0].receive(&file, PieceIndex(0));
    samples[0].receive(&file, PieceIndex(3));
    file.add_batch(vec![1; 100]).expect("room");
    rig.give(hawker_storage::Input::Flush { task: samples[0].task });
    rig.settle();
    samples[0].receive(&file, PieceIndex(4));
    drop(rig.sealed(&samples[1]));
    samples
}

/// Opens the directory and both tasks: whatever is claimed is right. Says how many pieces of the unsealed one are.
fn claimed(dir: &Path, samples: &[Sample; 2], boot: u8) -> Option<u32> {
    let mut rig = Rig::open(dir, StoreConfig { boot_id: [boot; 16], ..config(ROOMY) });
    let mut pieces = None;
    for sample in samples {
        match rig.open_task(sample.task) {
            Ok(file) => {
                sample.check(&file);
                if sample.task == samples[0].task {
                    pieces = Some(file.received().len());
                }
            }
            Err(OpenTaskError::NotFound | OpenTaskError::Damaged { .. }) => {
                assert_eq!(rig.store.state(sample.task), None);
            }
            Err(error) => panic!("{error}"),
        }
    }
    rig.store.assert_invariants();
    pieces
}

fn part(sample: &Sample, part: &str) -> PathBuf {
    PathBuf::from(format!("tasks/{:02x}/{}.{part}", sample.task.0[0], sample.task))
}

/// Damages one file in many ways; the directory is put back each time.
fn damage(name: &Path, places: impl Iterator<Item = usize>, mut then: impl FnMut(&Path, &[Sample; 2], usize)) {
    let temp = temp_dir();
    let dir = temp.path().join("data");
    let samples = prepare(&dir);
    let mut kept = vec![PathBuf::from("catalog")];
    for sample in &samples {
        kept.extend(["table", "batches", "meta"].map(|name| part(sample, name)));
        // The store never writes to a content file, and unlinking one leaves the other name.
        std::fs::hard_link(dir.join(part(sample, "content")), temp.path().join(sample.task.to_string()))
            .expect("a link");
    }
    let kept: Vec<_> = kept.into_iter().map(|name| (std::fs::read(dir.join(&name)).expect("a file"), name)).collect();
    for place in places {
        for (bytes, name) in &kept {
            std::fs::write(dir.join(name), bytes).expect("a file");
        }
        for sample in &samples {
            let _ = std::fs::hard_link(temp.path().join(sample.task.to_string()), dir.join(part(sample, "content")));
        }
        let mut bytes = std::fs::read(dir.join(name)).expect("a file");
        bytes[place / 8] ^= 1 << (place % 8);
        std::fs::write(dir.join(name), &bytes).expect("a file");
        then(&dir, &samples, place);
    }
}

#[test]
fn flipped_bit_in_any_byte_of_a_table_claims_nothing_wrong() {
    let sample = sample(1, 1_200_000);
    // Head and boot id, bitmaps, and all records; then the padding up to the page, which means nothing.
    let used = (4096_usize + 16).next_multiple_of(64) + 5 * 72;
    let places = (0..128).chain(512..544).chain(4096..used).chain([used, 8191]);
    let mut random = Random(1);
    let places: Vec<usize> = places.map(|byte| byte * 8 + random.below(8)).collect();
    damage(&part(&sample, "table"), places.into_iter(), |dir, samples, place| {
        let pieces = claimed(dir, samples, 1);
        match place / 8 {
            0..68 => assert_eq!(pieces, None, "head at {place}"),
            512..536 => assert_eq!(pieces, Some(2), "boot id at {place}: as after another boot"),
            4096..4104 => assert_eq!(pieces, Some(2), "received at {place}: what is durable stays"),
            4104..4112 => assert_eq!(pieces, Some(3), "durable at {place}"),
            _ => assert!(pieces.is_some_and(|pieces| pieces >= 2), "{place}: {pieces:?}"),
        }
    });
}

#[test]
fn flipped_bit_in_a_meta_or_batches_file_claims_nothing_wrong() {
    let sample = sample(2, 300_000);
    let mut random = Random(2);
    let places: Vec<usize> = (0..90).map(|byte| byte * 8 + random.below(8)).collect();
    damage(&part(&sample, "meta"), places.into_iter(), |dir, samples, _| {
        let mut rig = Rig::open(dir, config(ROOMY));
        let result = rig.open_task(samples[1].task);
        assert!(matches!(result, Err(OpenTaskError::Damaged { what: "meta file" })), "{result:?}");
        assert_eq!((rig.store.state(samples[1].task), rig.task_files()), (None, 4));
    });
    let places: Vec<usize> = (0..140).map(|byte| byte * 8 + random.below(8)).collect();
    damage(&part(&common::sample(1, 1_200_000), "batches"), places.into_iter(), |dir, samples, place| {
        let mut rig = Rig::open(dir, config(ROOMY));
        let file = rig.open_task(samples[0].task).expect("batches are not needed");
        assert!(file.batches().is_empty(), "{place}");
        // The file is of use again.
        file.add_batch(vec![2; 50]).expect("room");
        rig.pass(std::time::Duration::from_millis(100));
        drop((rig, file));
        let mut rig = Rig::open(dir, config(ROOMY));
        let file = rig.open_task(samples[0].task).expect("batches are not needed");
        assert_eq!(file.batches().len(), 1, "{place}");
    });
}

#[test]
fn flipped_bit_in_a_slot_or_the_head_costs_at_most_that_task() {
    let mut random = Random(3);
    // Sectors of the head and the states; the first eight slots.
    let places = (0..24).chain(512..548).chain(1024..1060).chain(1536..1560).chain((4096..4096 + 1024).step_by(3));
    let places: Vec<usize> = places.map(|byte| byte * 8 + random.below(8)).collect();
    damage(Path::new("catalog"), places.into_iter(), |dir, samples, place| {
        let pieces = claimed(dir, samples, 1);
        let is_in_first_slot = (4096..4096 + 256).contains(&(place / 8));
        assert!(pieces == Some(3) || (pieces.is_none() && is_in_first_slot), "{place}: {pieces:?}");
    });
}

#[test]
fn garbage_in_every_file_is_survived() {
    let mut random = Random(4);
    for round in 0..60 {
        let temp = temp_dir();
        let dir = temp.path().join("data");
        let samples = prepare(&dir);
        for sample in &samples {
            for name in ["content", "table", "batches", "meta"] {
                if name == "content" || random.chance(50) {
                    continue;
                }
                let path = dir.join(part(sample, name));
                let mut bytes = std::fs::read(&path).expect("a file");
                match random.below(4) {
                    0 => bytes.truncate(random.below(bytes.len())),
                    1 => bytes.extend(vec![7; 5000]),
                    2 => bytes.clear(),
                    _ => bytes.iter_mut().for_each(|byte| *byte = random.next() as u8),
                }
                std::fs::write(&path, bytes).expect("a file");
            }
        }
        if random.chance(50) {
            let path = dir.join("catalog");
            let mut bytes = std::fs::read(&path).expect("a file");
            let from = 4096 + random.below(600);
            bytes[from..].iter_mut().for_each(|byte| *byte = random.next() as u8);
            if random.chance(30) {
                bytes.truncate(100_000);
            }
            std::fs::write(&path, bytes).expect("a file");
        }
        claimed(&dir, &samples, round % 2 + 1);
        assert!(Store::open(&dir, config(ROOMY)).is_ok());
    }
}

/// A file is cut by somebody else, under the store that has it mapped: the pages are gone at once.
fn cut(path: &Path, len: u64) {
    std::fs::File::options().write(true).open(path).expect("a file").set_len(len).expect("room");
}

#[test]
fn a_table_that_is_lost_under_the_store_costs_its_task_only() {
    let temp = temp_dir();
    let dir = temp.path().join("data");
    let samples = [sample(1, 1_200_000), sample(2, 300_000), sample(3, 300_000)];
    let mut rig = Rig::open(&dir, config(ROOMY));
    drop(rig.sealed(&samples[0]));
    drop(rig.sealed(&samples[2]));
    let arriving = rig.create(&samples[1], WriteMode::Buffered).expect("room");
    samples[1].receive(&arriving, PieceIndex(0));
    for sample in &samples[..2] {
        cut(&dir.join(part(sample, "table")), 0);
    }
    assert!(arriving.received().iter().next().is_none(), "what is lost is not claimed");
    samples[1].receive(&arriving, PieceIndex(1));
    rig.give(hawker_storage::Input::Flush { task: samples[1].task });
    rig.settle();
    assert!(rig.news.iter().any(|news| matches!(news, hawker_storage::Output::Failed { .. })), "{:?}", rig.news);
    drop(arriving);
    let sealed = rig.open_task(samples[0].task).expect("it is open");
    assert_eq!(sealed.record(PieceIndex(0)), None);
    drop(sealed);
    let error = rig.open_task(samples[0].task).expect_err("lost");
    assert!(matches!(error, OpenTaskError::Damaged { .. }), "{error}");
    rig.settle();
    samples[2].check(&rig.open_task(samples[2].task).expect("a task with its table"));
    for sample in &samples[..2] {
        assert_eq!(rig.store.state(sample.task), None);
        rig.sealed(sample);
    }
    rig.close();
    claimed(&dir, &[sample(1, 1_200_000), sample(2, 300_000)], 1);
}

#[test]
fn a_catalog_that_is_lost_under_the_store_promises_nothing() {
    let temp = temp_dir();
    let dir = temp.path().join("data");
    let samples = [sample(1, 300_000), sample(2, 300_000), sample(3, 5000)];
    let mut rig = Rig::open(&dir, config(ROOMY));
    drop(rig.sealed(&samples[0]));
    let arriving = rig.create(&samples[1], WriteMode::Buffered).expect("room");
    samples[1].pieces().for_each(|piece| samples[1].receive(&arriving, piece));
    // Its head stays.
    cut(&dir.join("catalog"), 4096);
    rig.give(hawker_storage::Input::Seal { task: samples[1].task, root: samples[1].root });
    rig.settle();
    assert!(!arriving.is_sealed(), "no promise without a slot");
    drop(arriving);
    let error = rig.create(&samples[2], WriteMode::Buffered).expect_err("no slot can be kept");
    assert!(error.to_string().contains("restart"), "{error}");
    rig.give(hawker_storage::Input::Remove { task: samples[0].task });
    rig.close();
    let mut rig = Rig::open(&dir, config(ROOMY));
    assert_eq!((rig.store.list().count(), rig.task_files()), (0, 0));
    drop(rig.sealed(&samples[2]));
    rig.close();
}
