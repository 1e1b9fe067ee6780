//! Costs that must not grow with the number of hosts, counted, not timed.

mod world;

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
