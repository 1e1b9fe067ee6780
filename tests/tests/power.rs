//! Crashes of one agent at any moment: kill -9 and power cuts during downloads, seals, removals and evictions. What was
//! told to be whole is whole, no byte is wrong, and nothing that may be trusted is fetched again.
//!
//! More seeds: `HAWKER_FULL=1 cargo test -p hawker-tests --test power`; one: `HAWKER_SEEDS=7..8` before it.

use std::collections::BTreeSet;
use std::time::Duration;

use hawker_tests::cluster::ask;
use hawker_tests::disk::{Cut, Random};
use hawker_tests::process::{Process, wait_until};
use hawker_tests::rig::{Rig, obstacle};
use hawker_tests::{engines, exclusive, is_full, skip};

const LIMIT: Duration = Duration::from_mins(1);
const DISK_BYTES: usize = 64 << 20;
const FILES: u64 = 4;
const ROUNDS: u64 = 4;
/// Fills the disk: for it others are evicted.
const LARGE: &str = "large";
const LARGE_BYTES: u64 = 40 << 20;

/// What went on when the agent died, so that a run that tested nothing is seen.
#[derive(Debug, Default)]
struct Seen {
    kept: u32,
    resumed: u32,
    finished: u32,
    evictions: u32,
}

fn seeds(few: u64, many: u64) -> std::ops::Range<u64> {
    let given = std::env::var("HAWKER_SEEDS").ok().and_then(|range| {
        let (first, last) = range.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    given.unwrap_or(0..if is_full() { many } else { few })
}

fn length_of(index: u64) -> u64 {
    // One block, a part of one, many pieces.
    [1, (256 << 10) + 1, (6 << 20) + 4097, 9 << 20][usize::try_from(index % FILES).expect("small")]
}

/// Tasks that are whole by what the agent says.
fn sealed(rig: &Rig) -> BTreeSet<String> {
    let list = ask(&rig.scratch.join("socket"), &["ls"]).expect("a list");
    let tasks = list["tasks"].as_array().expect("tasks").iter().filter(|task| task["state"] == "sealed");
    tasks.map(|task| task["task"].as_str().expect("an id").to_owned()).collect()
}

/// One life of a data directory: work, die, compare, again.
fn live(engine: &'static str, seed: u64, is_power_cut: bool, seen: &mut Seen) {
    let mut random = Random(seed);
    let mut rig = Rig::new(engine, DISK_BYTES, &[]);
    let names: Vec<String> = (0..FILES).map(|index| format!("file-{index}")).collect();
    let mut digests: Vec<String> = (0..FILES)
        .map(|index| rig.file(&names[usize::try_from(index).expect("small")], length_of(index), index))
        .collect();
    digests.push(rig.file(LARGE, LARGE_BYTES, FILES));
    let name = |index: usize| names.get(index).map_or(LARGE, String::as_str).to_owned();
    for round in 0..ROUNDS {
        // The large one evicts what is old, and is evicted for what comes then: it comes last.
        let is_evicting = round + 1 == ROUNDS && seed % 2 == 1;
        let wanted = if is_evicting { names.len() } else { usize::try_from(random.below(FILES)).expect("small") };
        let before = sealed(&rig);
        let mut download = rig.begin(&name(wanted), &["--limit", "24MB/s"]);
        let removed = (random.below(3) == 0).then(|| before.iter().next().cloned()).flatten();
        std::thread::sleep(Duration::from_millis(random.below(400)));
        if let Some(task) = &removed {
            // Also the answer may be lost in the crash.
            let _ = ask(&rig.scratch.join("socket"), &["rm", task]);
        }
        let is_told = !download.is_running();
        if is_told {
            let ended = download.wait(LIMIT);
            assert_eq!(ended.code(), Some(0), "round {round}: {}", ended.stderr);
        } else {
            download.kill();
        }
        if is_power_cut {
            let cut = if random.below(3) == 0 { Cut::Clean } else { Cut::Torn(random.next()) };
            rig.cut_power(cut);
        } else {
            rig.crash();
        }
        let after = sealed(&rig);
        let lost: Vec<&String> =
            before.difference(&after).filter(|task| !is_evicting && removed.as_ref() != Some(*task)).collect();
        assert!(lost.is_empty(), "round {round}: whole tasks were lost: {lost:?}");
        seen.kept += u32::try_from(after.len()).expect("few");
        seen.finished += u32::from(is_told);
        seen.evictions += u32::from(is_evicting);

        let digest = digests[wanted].clone();
        let told = rig.get_right(&name(wanted), &digest);
        let (cached, fetched) = (told["cache_bytes"].as_u64(), told["origin_bytes"].as_u64());
        let length = if wanted == names.len() { LARGE_BYTES } else { length_of(wanted as u64) };
        // Less: blocks that arrived before this caller was let in, of pieces that were not whole then.
        let sum = cached.zip(fetched).map(|(cached, fetched)| cached + fetched);
        assert!(sum.is_some_and(|sum| sum <= length), "fetched twice: {told}");
        seen.resumed += u32::from(cached.is_some_and(|cached| (1..length).contains(&cached)));
        if is_told && removed.is_none() {
            assert_eq!(cached, Some(length), "round {round}: what was told to be whole was fetched again");
        }
    }
    for (index, digest) in digests.iter().enumerate() {
        rig.get_right(&name(index), digest);
    }
    rig.stop();
}

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Kill,
    PowerCut(Cut),
}

/// What deaths met half way, in bytes.
#[derive(Debug, Default)]
struct HalfWay {
    downloads: u32,
    trusted: u64,
    fetched: u64,
}

/// Downloads that are met half way: what may be trusted of them afterwards is not fetched again.
fn live_half_way(engine: &'static str, seed: u64, seen: &mut HalfWay) {
    let mut random = Random(seed);
    let mut rig = Rig::new(engine, DISK_BYTES, &[]);
    let deaths = [Death::Kill, Death::PowerCut(Cut::Clean), Death::PowerCut(Cut::Torn(random.next()))];
    for (round, death) in deaths.into_iter().enumerate() {
        let files: Vec<(String, u64)> =
            (0..2).map(|index| (format!("half-{round}-{index}"), (4 << 20) + random.below(1 << 20))).collect();
        let digests: Vec<String> = files.iter().map(|(name, length)| rig.file(name, *length, *length)).collect();
        // Six seconds and more: what is received is made durable after five.
        let downloads: Vec<_> = files.iter().map(|(name, _)| rig.begin(name, &["--limit", "700KB/s"])).collect();
        let trusted: Vec<u64> = files
            .iter()
            .map(|(_, length)| {
                let mut trusted = 0;
                wait_until(LIMIT, "half way", || {
                    let Some(pieces) = rig.pieces(*length) else { return false };
                    let (received, durable) = pieces.bytes();
                    trusted = if death == Death::Kill { received } else { durable };
                    trusted > 1 << 20 && (death == Death::Kill || rig.is_durable(&pieces))
                });
                trusted
            })
            .collect();
        // Without an agent they would go straight to the origin.
        downloads.into_iter().for_each(Process::kill);
        match death {
            Death::Kill => rig.crash(),
            Death::PowerCut(cut) => rig.cut_power(cut),
        }
        for (((name, length), digest), trusted) in files.iter().zip(&digests).zip(trusted) {
            let before = rig.nginx.requests().len();
            let told = rig.get_right(name, digest);
            let target = format!("/{name}");
            let requests = rig.nginx.requests().split_off(before);
            // The origin may notice late that who asked first, for everything, is gone.
            let again = requests.iter().filter(|request| request.target == target && !request.range.contains("=0-"));
            let fetched =
                told["origin_bytes"].as_u64().expect("a count").max(again.map(|request| request.body_bytes).sum());
            println!("{engine} {death:?} {name}: {length} bytes, {trusted} of them trusted, {fetched} fetched");
            assert!(fetched + trusted <= *length, "{name}: {fetched} fetched, {trusted} of {length} trusted: {told}");
            assert!(told["cache_bytes"].as_u64().is_some_and(|cached| cached >= trusted), "{trusted}: {told}");
            seen.downloads += u32::from(fetched > 0);
            seen.trusted += trusted;
            seen.fetched += fetched;
        }
    }
    rig.stop();
}

/// What deaths met while old tasks went for new ones.
#[derive(Debug, Default)]
struct Evicting {
    deaths: u32,
    evicted: u32,
    kept: u32,
}

/// Files that do not fit together: each that comes drives out an older one, and the agent dies meanwhile. What the list
/// has afterwards is whole, and what it has not left nothing on the disk.
fn live_evicting(engine: &'static str, seed: u64, seen: &mut Evicting) {
    const LENGTH: u64 = 9 << 20;
    const ROUNDS: usize = 8;
    let mut random = Random(seed);
    let mut rig = Rig::new(engine, DISK_BYTES, &[]);
    let names: Vec<String> = (0..ROUNDS).map(|index| format!("file-{index}")).collect();
    let digests: Vec<String> = (0_u64..).zip(&names).map(|(index, name)| rig.file(name, LENGTH, index)).collect();
    let mut tasks: Vec<String> = Vec::new();
    for (name, digest) in names.iter().zip(&digests) {
        let before = sealed(&rig);
        let download = rig.begin(name, &["--limit", "60MB/s"]);
        std::thread::sleep(Duration::from_millis(random.below(200)));
        download.kill();
        match random.below(4) {
            0 => rig.cut_power(Cut::Clean),
            1 => rig.cut_power(Cut::Torn(random.next())),
            _ => rig.crash(),
        }
        seen.deaths += 1;
        let after = sealed(&rig);
        // One makes room for another of its length, two for the batches that it may get as well.
        let went = before.difference(&after).count();
        assert!(went <= 2, "{went} of {before:?} went for one");
        seen.evicted += u32::try_from(went).expect("few");
        let told = rig.get_right(name, digest);
        tasks.push(told["task"].as_str().expect("an id").to_owned());
    }
    // The youngest first: what is whole needs no origin, and drives nothing out.
    let whole = sealed(&rig);
    for ((name, digest), task) in names.iter().zip(&digests).zip(&tasks).rev() {
        if whole.contains(task) {
            let told = rig.get_right(name, digest);
            assert_eq!(told["cache_bytes"], LENGTH, "{told}");
            seen.kept += 1;
        }
    }
    let files = ["content", "table", "batches", "meta"].map(|part| rig.parts(part).len());
    assert_eq!(files, [whole.len(); 4], "files without a task");
    rig.stop();
}

fn live_all(test: &str, is_power_cut: bool) {
    let mut seen = Seen::default();
    each_seed(test, seeds(2, 100), |engine, seed| live(engine, seed, is_power_cut, &mut seen));
    println!("{test}: {seen:?}");
    assert!(seen.kept > 0 || obstacle().is_some(), "{seen:?}");
}

/// Runs every seed on every engine. A failure says how to repeat it.
fn each_seed(test: &str, seeds: std::ops::Range<u64>, mut live: impl FnMut(&'static str, u64)) {
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        for seed in seeds.clone() {
            let run = std::panic::AssertUnwindSafe(|| live(engine, seed));
            if let Err(failure) = std::panic::catch_unwind(run) {
                let range = format!("{seed}..{}", seed + 1);
                eprintln!("{engine}: again: HAWKER_SEEDS={range} cargo test -p hawker-tests --test power -- {test}");
                std::panic::resume_unwind(failure);
            }
        }
    }
}

#[test]
fn an_agent_killed_at_any_moment_keeps_what_is_whole() {
    live_all("an_agent_killed_at_any_moment_keeps_what_is_whole", false);
}

#[test]
fn an_agent_whose_power_is_cut_keeps_what_is_whole() {
    live_all("an_agent_whose_power_is_cut_keeps_what_is_whole", true);
}

#[test]
fn downloads_that_died_half_way_fetch_only_what_cannot_be_trusted() {
    let test = "downloads_that_died_half_way_fetch_only_what_cannot_be_trusted";
    let mut seen = HalfWay::default();
    each_seed(test, seeds(1, 20), |engine, seed| live_half_way(engine, seed, &mut seen));
    println!("{test}: {seen:?}");
    assert!(seen.downloads > 0 || obstacle().is_some(), "{seen:?}");
}

#[test]
fn an_agent_that_dies_while_it_evicts_keeps_what_is_left() {
    let test = "an_agent_that_dies_while_it_evicts_keeps_what_is_left";
    let mut seen = Evicting::default();
    each_seed(test, seeds(1, 20), |engine, seed| live_evicting(engine, seed, &mut seen));
    println!("{test}: {seen:?}");
    assert!((seen.evicted > 0 && seen.kept > 0) || obstacle().is_some(), "{seen:?}");
}
