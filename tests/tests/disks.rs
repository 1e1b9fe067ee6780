//! Disks that are full, fail, hang, rot and turn read-only, below real agents on both engines: no wrong byte is handed
//! out, what failed is named, the agent goes on and is well when its disk is.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Duration;

use hawker_tests::cluster::ask;
use hawker_tests::disk::Faults;
use hawker_tests::memory::MemoryGroup;
use hawker_tests::process::{Ended, Scratch, wait_until};
use hawker_tests::rig::{NO_JOURNAL, Rig, obstacle, start_agent};
use hawker_tests::{engines, exclusive, files, on_both_engines, skip};

const LIMIT: Duration = Duration::from_mins(1);
const DISK_BYTES: usize = 64 << 20;
const LENGTH: u64 = (8 << 20) + 1;

/// A failure that says what failed and what to do.
fn assert_clear(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code(), Some(code), "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` is missing in: {}", ended.stderr);
    }
}

/// What follows a fault went well, or says how it will: a catalog that lost pages or could not be synced takes no new
/// tasks until the agent starts anew, and a file system that could not read its own bitmaps fails until it is checked.
fn assert_mendable(ended: &Ended) {
    let has_remedy = ["restart", "fsck", "check the disk"].iter().any(|word| ended.stderr.contains(word));
    assert!(ended.code() == Some(0) || ended.code() == Some(1) && has_remedy, "{}", ended.stderr);
}

#[test]
fn a_directory_that_others_could_change_is_refused_and_left_alone() {
    let test = "a_directory_that_others_could_change_is_refused_and_left_alone";
    if !rustix::process::geteuid().is_root() {
        return skip(test, "giving a directory away needs root");
    }
    for engine in engines(test) {
        let scratch = Scratch::new();
        let make = |name: &str| {
            let path = scratch.join(name);
            std::fs::create_dir(&path).expect("room");
            path
        };
        let (foreign, open, target) = (make("foreign"), make("open"), make("target"));
        chown(&foreign, Some(12_345), None).expect("root");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("own");
        symlink(&target, scratch.join("link")).expect("room");
        std::fs::write(scratch.join("file"), b"text").expect("room");
        let inner = make("inner");
        symlink(&target, inner.join("tasks")).expect("room");
        std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o700)).expect("own");
        let cases = [
            ("foreign", "12345", "--data-dir"),
            ("open", "0777", "chmod go-w"),
            ("link", "symbolic link", "name the directory"),
            ("file", "not a directory", "--data-dir"),
            ("inner", "symbolic link", "name the directory"),
        ];
        for (name, what, remedy) in cases {
            let agent = start_agent(&scratch, &scratch.join(name), &scratch.join("socket"), engine, name, None);
            let ended = agent.wait(LIMIT);
            assert!(!ended.status.success(), "{name} was taken");
            let path = scratch.join(name).display().to_string();
            for word in [what, remedy, &path] {
                assert!(ended.stderr.contains(word), "{name}: `{word}` is missing in: {}", ended.stderr);
            }
        }
        for directory in [&foreign, &open, &target] {
            assert_eq!(files::names_in(directory), Vec::<String>::new());
        }
    }
}

#[test]
fn a_second_agent_on_one_directory_is_refused_and_the_first_goes_on() {
    for engine in engines("a_second_agent_on_one_directory_is_refused_and_the_first_goes_on") {
        let scratch = Scratch::new();
        let (data, socket) = (scratch.join("data"), scratch.join("socket"));
        let mut first = start_agent(&scratch, &data, &socket, engine, "first", None);
        first.wait_until(LIMIT, "answering", || ask(&socket, &["status"]).is_some());
        let second = start_agent(&scratch, &data, &scratch.join("other"), engine, "second", None).wait(LIMIT);
        assert!(!second.status.success());
        assert!(
            second.stderr.contains("another hawker uses") && second.stderr.contains("--data-dir"),
            "{}",
            second.stderr
        );
        assert!(ask(&socket, &["status"]).is_some());
        assert_eq!(first.stop(LIMIT).code(), Some(0));
    }
}

/// A fault of what lies on the disk.
#[derive(Clone, Copy, Debug)]
enum Rot {
    ContentBit,
    ContentUnreadable,
    TableBit,
    TableUnreadable,
    CatalogBit,
    CatalogUnreadable,
}

#[test]
fn what_rotted_is_fetched_again_and_never_handed_out() {
    let test = "what_rotted_is_fetched_again_and_never_handed_out";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let mut rig = Rig::new(engine, DISK_BYTES, NO_JOURNAL);
        let digest = rig.file("file", LENGTH, 21);
        rig.get_right("file", &digest);
        let rots = [
            Rot::ContentBit,
            Rot::ContentUnreadable,
            Rot::TableBit,
            Rot::TableUnreadable,
            Rot::CatalogBit,
            Rot::CatalogUnreadable,
        ];
        for rot in rots {
            rig.stop();
            let at = match rot {
                Rot::ContentBit | Rot::ContentUnreadable => rig.place(&rig.part("content"), 5 << 20),
                Rot::TableBit | Rot::TableUnreadable => rig.place(&rig.part("table"), 4096),
                Rot::CatalogBit | Rot::CatalogUnreadable => rig.place(&rig.data().join("catalog"), 4096),
            };
            match rot {
                Rot::ContentBit | Rot::TableBit | Rot::CatalogBit => rig.disk.flip_bit(at + 200),
                _ => rig.disk.make_unreadable(at..at + 4096),
            }
            rig.disk.remount();
            rig.start();
            let before = rig.nginx.body_bytes("file");
            let told = rig.get_right("file", &digest);
            let sent = rig.nginx.body_bytes("file") - before;
            println!("{engine} {rot:?}: {sent} bytes from the origin, {told}");
            if matches!(rot, Rot::ContentBit | Rot::ContentUnreadable) {
                assert!((1..LENGTH / 2).contains(&sent), "{rot:?}: the origin sent {sent}");
            }
            // And it is mended: the next one needs no origin.
            assert_eq!(rig.get_right("file", &digest)["cache_bytes"], LENGTH, "{rot:?}");
        }
        rig.stop();
    }
}

#[test]
fn what_rots_under_a_running_agent_is_not_handed_out() {
    let test = "what_rots_under_a_running_agent_is_not_handed_out";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let mut rig = Rig::new(engine, DISK_BYTES, NO_JOURNAL);
        let digest = rig.file("file", LENGTH, 22);
        rig.get_right("file", &digest);
        let content = rig.part("content");
        let at = rig.place(&content, 3 << 20);
        rig.disk.flip_bit(at + 77);
        let file = std::fs::File::open(&content).expect("a file");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
        rig.get_right("file", &digest);
        let link = rig.get("file", &["--link"]);
        assert_eq!(link.code(), Some(0), "{}", link.stderr);
        assert_eq!(files::sha256(&rig.output()).expect("FILE"), digest);
        rig.stop();
    }
}

#[test]
fn a_table_that_somebody_cuts_costs_its_task_and_no_agent() {
    let test = "a_table_that_somebody_cuts_costs_its_task_and_no_agent";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let mut rig = Rig::new(engine, DISK_BYTES, NO_JOURNAL);
        let (digest, half) = (rig.file("file", LENGTH, 35), rig.file("half", LENGTH, 36));
        rig.get_right("file", &digest);
        cut(&rig.part("table"));
        rig.get_right("file", &digest);
        assert_eq!(rig.get_right("file", &digest)["cache_bytes"], LENGTH);
        // Under a download: its task goes, and the next one has it.
        let slow = rig.begin("half", &["--limit", "2MB/s"]);
        wait_until(LIMIT, "half way", || rig.parts("table").len() == 2);
        rig.parts("table").iter().for_each(|table| cut(table));
        let ended = slow.wait(LIMIT);
        println!("{engine}: {:?} {}", ended.code(), ended.stderr);
        rig.assert_alive();
        rig.get_right("half", &half);
        rig.get_right("file", &digest);
        rig.assert_alive();
        rig.restart();
        rig.get_right("half", &half);
        rig.get_right("file", &digest);
        rig.stop();
    });
}

fn cut(path: &std::path::Path) {
    std::fs::File::options().write(true).open(path).expect("a table").set_len(0).expect("own");
}

#[test]
fn mapped_pages_that_cannot_be_read_again_end_no_agent() {
    let test = "mapped_pages_that_cannot_be_read_again_end_no_agent";
    let obstacle = obstacle().or_else(|| MemoryGroup::new(1 << 30).err());
    on_both_engines(test, obstacle.as_deref(), |engine| {
        let mut rig = Rig::new(engine, DISK_BYTES, NO_JOURNAL);
        let (kept, digest) = (rig.file("kept", LENGTH, 37), rig.file("file", LENGTH, 38));
        rig.get_right("kept", &kept);
        let group = MemoryGroup::new(1 << 30).expect("just tried");
        rig.restart();
        group.take(rig.agent.as_ref().expect("an agent").id());
        let slow = rig.begin("file", &["--limit", "1MB/s"]);
        wait_until(LIMIT, "half way", || rig.pieces(LENGTH).is_some_and(|pieces| pieces.bytes().0 > 1 << 20));
        // Memory is short and the disk fails: what is touched next is a page that cannot be had.
        rig.disk.set_faults(Faults { fails_reads: true, ..Faults::default() });
        let mut slow = slow;
        wait_until(LIMIT, "the end", || {
            group.reclaim();
            !slow.is_running()
        });
        let ended = slow.wait(LIMIT);
        println!("{engine}: {:?} {}", ended.code(), ended.stderr);
        rig.assert_alive();
        rig.disk.set_faults(Faults::default());
        let again = rig.get("file", &["--timeout", "20s"]);
        println!("{engine} again: {:?} {}", again.code(), again.stderr);
        assert_mendable(&again);
        rig.assert_alive();
        rig.restart_checked();
        rig.get_right("file", &digest);
        rig.get_right("kept", &kept);
        rig.stop();
    });
}

/// A file that the agent's disk has no room for passes the agent by: FILE lies on another disk.
fn assert_passed(rig: &mut Rig, name: &str, digest: &str) {
    let ended = rig.get(name, &[]);
    println!("{name}: {}", ended.stderr);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("no room") && ended.stderr.contains("without the agent"), "{}", ended.stderr);
    assert_eq!(files::sha256(&rig.output()).expect("FILE"), digest, "{name}");
}

#[test]
fn a_full_disk_is_named_and_other_tasks_go_on() {
    let test = "a_full_disk_is_named_and_other_tasks_go_on";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let mut rig = Rig::new(engine, DISK_BYTES, &[]);
        let large = rig.file("large", (64 << 20) + 1, 23);
        let half = rig.file("half", 28 << 20, 24);
        let other = rig.file("other", 28 << 20, 25);
        let small = rig.file("small", LENGTH, 26);
        rig.get_right("small", &small);
        let slow = rig.begin("half", &["--limit", "20MB/s"]);
        assert_passed(&mut rig, "large", &large);
        assert_eq!(slow.wait(LIMIT).code(), Some(0));
        rig.get_right("half", &half);
        // What is there is evicted for what is wanted.
        rig.get_right("other", &other);
        // Somebody else fills the disk.
        let hog = std::fs::File::create(rig.disk.path().join("hog")).expect("room");
        let mut step: u64 = 16 << 20;
        let mut taken = 0;
        while step >= 4096 {
            match rustix::fs::fallocate(&hog, rustix::fs::FallocateFlags::empty(), taken, step) {
                Ok(()) => taken += step,
                Err(_) => step /= 2,
            }
        }
        let late = rig.file("late", 20 << 20, 27);
        assert_passed(&mut rig, "late", &late);
        rig.assert_alive();
        drop(hog);
        std::fs::remove_file(rig.disk.path().join("hog")).expect("a file");
        rig.get_right("small", &small);
        rig.stop();
    }
}

#[test]
fn a_disk_without_inodes_is_named() {
    let test = "a_disk_without_inodes_is_named";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        // 256 directories of tasks and a little more.
        let mut rig = Rig::new(engine, DISK_BYTES, &["-N", "300"]);
        let digest = rig.file("file", LENGTH, 28);
        for index in 0..1000 {
            if std::fs::File::create(rig.disk.path().join(format!("hog-{index}"))).is_err() {
                break;
            }
        }
        assert_passed(&mut rig, "file", &digest);
        rig.assert_alive();
        for index in 0..10 {
            std::fs::remove_file(rig.disk.path().join(format!("hog-{index}"))).expect("a file");
        }
        rig.get_right("file", &digest);
        rig.stop();
    }
}

#[test]
fn a_failing_disk_ends_downloads_and_they_work_when_it_is_well() {
    let test = "a_failing_disk_ends_downloads_and_they_work_when_it_is_well";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    let cases = [
        ("writes", Faults { fails_writes: true, ..Faults::default() }),
        ("flushes", Faults { fails_flushes: true, ..Faults::default() }),
        ("all", Faults { fails_reads: true, fails_writes: true, fails_flushes: true, hangs: false }),
    ];
    for engine in engines(test) {
        for (name, faults) in cases {
            let mut rig = Rig::new(engine, DISK_BYTES, NO_JOURNAL);
            let (kept, digest) = (rig.file("kept", LENGTH, 29), rig.file("file", LENGTH, 30));
            rig.get_right("kept", &kept);
            rig.disk.set_faults(faults);
            let ended = rig.get("file", &["--timeout", "20s"]);
            println!("{engine} {name}: {:?} {}", ended.code(), ended.stderr);
            assert_clear(&ended, 1, &["disk"]);
            rig.assert_alive();
            rig.disk.set_faults(Faults::default());
            let again = rig.get("file", &["--timeout", "20s"]);
            println!("{engine} {name} again: {:?} {}", again.code(), again.stderr);
            assert_mendable(&again);
            assert_eq!(rig.get_right("kept", &kept)["cache_bytes"], LENGTH);
            rig.restart_checked();
            rig.get_right("file", &digest);
            rig.get_right("kept", &kept);
            rig.stop();
        }
    }
}

#[test]
fn a_disk_that_hangs_ends_no_agent_and_its_downloads_go_on_afterwards() {
    let test = "a_disk_that_hangs_ends_no_agent_and_its_downloads_go_on_afterwards";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let mut rig = Rig::new(engine, DISK_BYTES, NO_JOURNAL);
        let digest = rig.file("file", LENGTH, 31);
        rig.disk.set_faults(Faults { hangs: true, ..Faults::default() });
        let ended = rig.get("file", &["--timeout", "3s"]);
        println!("{engine}: {:?} {}", ended.code(), ended.stderr);
        assert_clear(&ended, 6, &["--timeout"]);
        rig.assert_alive();
        wait_until(LIMIT, "hanging", || rig.disk.held_count() > 0);
        rig.disk.set_faults(Faults::default());
        rig.get_right("file", &digest);
        rig.stop();
    }
}

#[test]
fn a_file_system_that_turned_read_only_is_named_and_served_from() {
    let test = "a_file_system_that_turned_read_only_is_named_and_served_from";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let mut rig = Rig::new(engine, DISK_BYTES, &["-e", "remount-ro"]);
        let (kept, digest) = (rig.file("kept", LENGTH, 33), rig.file("file", LENGTH, 34));
        rig.get_right("kept", &kept);
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", rig.disk.device_name());
        std::fs::write(&trigger, b"a test wants it").expect("root");
        let ended = rig.get("file", &["--timeout", "20s"]);
        println!("{engine}: {:?} {}", ended.code(), ended.stderr);
        assert_clear(&ended, 1, &["Read-only file system", "disk"]);
        rig.assert_alive();
        assert_eq!(rig.get_right("kept", &kept)["cache_bytes"], LENGTH);
        // A read-only directory is refused at the start, by name.
        rig.stop();
        let refused =
            start_agent(&rig.scratch, &rig.data(), &rig.scratch.join("socket"), engine, "refused", None).wait(LIMIT);
        assert!(!refused.status.success() && refused.stderr.contains("Read-only"), "{}", refused.stderr);
        rig.disk.remount();
        rig.start();
        rig.get_right("kept", &kept);
        rig.get_right("file", &digest);
        rig.stop();
    }
}
