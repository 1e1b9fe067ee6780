//! Crashes of one agent at any moment: kill -9 and power cuts during downloads, seals, removals and evictions. What was
//! told to be whole is whole, no byte is wrong, and nothing that may be trusted is fetched again.
//!
//! More seeds: `HAWKER_FULL=1 cargo test -p hawker-tests --test power`; one: `HAWKER_SEEDS=7..8` before it.

use std::collections::BTreeSet;
use std::time::Duration;

use hawker_tests::cluster::ask;
use hawker_tests::disk::{Cut, Random};
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

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("HAWKER_SEEDS").ok().and_then(|range| {
        let (first, last) = range.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    given.unwrap_or(if is_full() { 0..100 } else { 0..2 })
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

fn live_all(test: &str, is_power_cut: bool) {
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    for engine in engines(test) {
        let mut seen = Seen::default();
        for seed in seeds() {
            let run = std::panic::AssertUnwindSafe(|| live(engine, seed, is_power_cut, &mut seen));
            if let Err(failure) = std::panic::catch_unwind(run) {
                let range = format!("{seed}..{}", seed + 1);
                eprintln!("{engine}: again: HAWKER_SEEDS={range} cargo test -p hawker-tests --test power -- {test}");
                std::panic::resume_unwind(failure);
            }
        }
        println!("{engine}: {seen:?}");
        assert!(seen.kept > 0, "{seen:?}");
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
