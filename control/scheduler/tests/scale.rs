//! Costs that must not grow with the number of hosts, counted, not timed.

#[path = "../benches/crowd/mod.rs"]
mod crowd;
mod world;

use crowd::{Crowd, FETCHED};
use hawker_scheduler::{ClusterConfig, Input, WantKey};
use world::{MIB, World, key_of, task_of};

/// Messages that one more host and its want cause in a swarm of `count`.
fn messages_of_a_join(count: u16) -> usize {
    let mut world = World::new(ClusterConfig::default(), 100 * MIB);
    world.has_checks = false;
    for index in 0..count {
        let host = world.join(index);
        world.start(host, 1);
    }
    let heard = |world: &World| world.agents.values().map(|agent| agent.heard.len()).sum::<usize>();
    let before = heard(&world);
    let late = world.join(count);
    world.want(late, 1, WantKey::Resolve(key_of(1)));
    heard(&world) - before
}

#[test]
fn join_of_one_host_bothers_as_many_in_a_small_swarm_as_in_a_large_one() {
    let (small, large) = (messages_of_a_join(200), messages_of_a_join(2_000));
    assert!(small <= 100 && large <= 100, "{small} and {large} messages");
}

#[test]
fn finish_of_thousands_leaves_few_cached_holders() {
    let mut world = World::new(ClusterConfig::default(), 100 * MIB);
    world.has_checks = false;
    let hosts: Vec<_> = (0..1_000).map(|index| world.join(index)).collect();
    for host in &hosts {
        world.start(*host, 1);
    }
    for host in &hosts {
        world.input(Input::Finished { host: *host, task: task_of(1) });
    }
    world.cluster.assert_invariants();
    let peers = world.cluster.status().peers;
    assert!((100..=128).contains(&peers), "{peers} holders are remembered");
}

/// Most messages that one call of the cluster sends, and how many calls it takes, until all that follows from `input`
/// is done.
fn calls_of(crowd: &mut Crowd, input: Input) -> (usize, usize) {
    crowd.messages_max = 0;
    let mut calls = 0;
    crowd.play_out(input, &mut |call| {
        call();
        calls += 1;
    });
    (crowd.messages_max, calls)
}

#[test]
fn what_concerns_thousands_comes_in_small_calls() {
    const COUNT: u32 = 2_000;
    let all_wait = || {
        let mut crowd = Crowd::connected(COUNT);
        (0..COUNT).for_each(|index| crowd.input(crowd::want(index, FETCHED)));
        let want = hawker_scheduler::WantId(u64::from(FETCHED));
        let input = Input::Resolved { host: crowd::host(0), want, resolution: crowd::resolution(FETCHED) };
        (crowd, input)
    };
    let all_ask = || {
        let mut crowd = Crowd::connected(COUNT);
        crowd.all_fetch(FETCHED);
        (0..COUNT).for_each(|index| crowd.ask(index, 1 << 40));
        (crowd, Input::Finished { host: crowd::host(0), task: crowd::task_of(FETCHED) })
    };
    let all_vanish = || {
        let mut crowd = Crowd::connected(COUNT);
        crowd.all_fetch(FETCHED);
        crowd.now += std::time::Duration::from_secs(7_200);
        (crowd, Input::Tick)
    };
    let full_host_goes = || {
        let mut crowd = Crowd::connected(2);
        (0..2_000).for_each(|task| crowd.announce(0, 1_000 + task));
        (crowd, Input::Leave { host: crowd::host(0) })
    };
    for (name, (mut crowd, input)) in
        [("wait", all_wait()), ("ask", all_ask()), ("vanish", all_vanish()), ("full", full_host_goes())]
    {
        let (messages_max, calls) = calls_of(&mut crowd, input);
        crowd.cluster.assert_invariants();
        assert!(messages_max <= 1_000, "{name}: {messages_max} messages in one call");
        assert!(calls >= 10, "{name}: all in {calls} calls");
    }
}

#[test]
fn all_peers_are_asked_once_for_what_a_lost_host_had() {
    let mut crowd = Crowd::connected(1_000);
    crowd.all_fetch(FETCHED);
    let mut have = hawker_proto::PieceMap::empty(crowd::geometry().piece_count());
    have.insert_range(0..16);
    crowd.input(crowd::announcement(0, FETCHED, have, Some(crowd::ORIGIN)));
    crowd.reports.clear();
    crowd.input(Input::Leave { host: crowd::host(0) });
    assert_eq!(crowd.reports.len(), 64, "the first part");
    // Some go while they are asked, and some before their turn: nobody is asked twice, nobody is passed over.
    for index in [1, 2, 3, 500, 999] {
        crowd.input(Input::Leave { host: crowd::host(index) });
    }
    for _ in 0..8 {
        crowd.now += std::time::Duration::from_secs(1);
        crowd.input(Input::Tick);
        crowd.cluster.assert_invariants();
    }
    let asked: std::collections::BTreeSet<_> = crowd.reports.iter().copied().collect();
    assert_eq!(asked.len(), crowd.reports.len(), "nobody twice");
    let left = (1..1_000).filter(|index| ![1, 2, 3, 500, 999].contains(index));
    assert!(left.map(crowd::host).all(|host| asked.contains(&host)), "{} were asked", asked.len());
}
