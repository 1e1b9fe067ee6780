//! From a want to a task.

mod world;

use std::time::Duration;

use hawker_proto::PieceMap;
use hawker_proto::resolve::Digest;
use hawker_scheduler::{ClusterConfig, Input, ResolveFailure, ToHost, WantId, WantKey};
use world::{MIB, World, host_id, key_of, task_of};

fn world() -> World {
    World::new(ClusterConfig::default(), 100 * MIB)
}

fn is_resolver(world: &World, index: u16, want: u64) -> bool {
    world.agents[&host_id(index)].resolves.contains(&WantId(want))
}

#[test]
fn first_want_resolves_and_the_others_are_answered_when_it_is_done() {
    let mut world = world();
    let hosts: Vec<_> = (0..100).map(|index| world.join(index)).collect();
    for host in &hosts {
        world.want(*host, 1, WantKey::Resolve(key_of(1)));
    }
    assert!(matches!(world.heard(hosts[0])[..], [ToHost::Resolve { upto: 0x4_0000, previous: None, .. }]));
    for host in &hosts[1..] {
        assert!(matches!(world.heard(*host)[..], [ToHost::Wait { .. }]));
    }
    world.resolved(hosts[0], 1, world.resolution(1));
    for host in &hosts {
        assert!(world.heard(*host).iter().any(|message| matches!(message, ToHost::Ready { .. })));
        assert!(world.agents[host].wants.is_empty());
    }
    assert_eq!(world.last_lease(hosts[0]).unwrap().length(), 16 * MIB, "the resolver keeps what it asked for");
    assert_eq!(world.cluster.status().counters.resolves, 1);
}

#[test]
fn resolver_that_leaves_is_replaced_at_once() {
    let mut world = world();
    let (first, second) = (world.join(1), world.join(2));
    world.want(first, 1, WantKey::Resolve(key_of(1)));
    world.want(second, 1, WantKey::Resolve(key_of(1)));
    world.leave(first);
    assert!(is_resolver(&world, 2, 1));
}

#[test]
fn resolver_whose_stream_breaks_is_replaced_after_the_grace() {
    let mut world = world();
    let (first, second) = (world.join(1), world.join(2));
    world.want(first, 1, WantKey::Resolve(key_of(1)));
    world.want(second, 1, WantKey::Resolve(key_of(1)));
    world.kill(first);
    assert!(!is_resolver(&world, 2, 1), "it may come back and go on");
    world.advance(Duration::from_secs(3));
    assert!(is_resolver(&world, 2, 1));
}

#[test]
fn silent_resolver_is_replaced_and_its_late_answer_still_counts() {
    let mut world = world();
    let (first, second) = (world.join(1), world.join(2));
    world.want(first, 1, WantKey::Resolve(key_of(1)));
    world.want(second, 1, WantKey::Resolve(key_of(1)));
    for _ in 0..4 {
        world.advance(Duration::from_secs(5));
        world.input(Input::Heartbeat { host: second });
        world.input(Input::Resolving { host: first, want: WantId(1) });
    }
    assert!(!is_resolver(&world, 2, 1), "it says that it is at work");
    for _ in 0..4 {
        world.advance(Duration::from_secs(4));
        world.input(Input::Heartbeat { host: first });
        world.input(Input::Heartbeat { host: second });
    }
    assert!(is_resolver(&world, 2, 1));
    world.resolved(first, 1, world.resolution(1));
    assert!(world.agents[&first].tasks.contains_key(&task_of(1)));
    world.resolved(second, 1, world.resolution(1));
    assert!(world.agents[&second].tasks.contains_key(&task_of(1)));
}

#[test]
fn refusal_of_the_origin_reaches_everybody_who_waits() {
    let mut world = world();
    let hosts: Vec<_> = (0..5).map(|index| world.join(index)).collect();
    for host in &hosts {
        world.want(*host, 1, WantKey::Resolve(key_of(1)));
    }
    let failure = ResolveFailure { is_final: true, status: 404, text: "Not Found".into() };
    world.input(Input::ResolveFailed { host: hosts[0], want: WantId(1), failure });
    for host in &hosts {
        let told = world.heard(*host).last();
        assert!(
            matches!(told, Some(ToHost::WantFailed { failure, retry: None, .. }) if failure.status == 404),
            "{told:?}"
        );
    }
}

#[test]
fn network_failure_of_one_host_lets_the_next_one_try() {
    let mut world = world();
    let hosts: Vec<_> = (0..5).map(|index| world.join(index)).collect();
    for host in &hosts {
        world.want(*host, 1, WantKey::Resolve(key_of(1)));
    }
    for attempt in 0..3u16 {
        assert!(is_resolver(&world, attempt, 1), "attempt {attempt}");
        let failure = ResolveFailure { is_final: false, status: 0, text: "connection reset".into() };
        world.input(Input::ResolveFailed { host: host_id(attempt), want: WantId(1), failure });
    }
    let told = world.heard(hosts[4]).last();
    assert!(matches!(told, Some(ToHost::WantFailed { retry: Some(_), .. })), "three tries are enough: {told:?}");
}

#[test]
fn answer_that_must_not_be_shared_stays_with_its_host() {
    let mut world = world();
    let (first, second) = (world.join(1), world.join(2));
    world.want(first, 1, WantKey::Resolve(key_of(1)));
    world.want(second, 1, WantKey::Resolve(key_of(1)));
    let mut private = world.resolution(1);
    private.is_shared = false;
    world.has_checks = false; // Both fetch the same bytes, each for itself.
    world.resolved(first, 1, private.clone());
    assert!(is_resolver(&world, 2, 1), "the other asks the origin itself");
    world.resolved(second, 1, private);
    for host in [first, second] {
        let is_alone = |message: &ToHost| matches!(message, ToHost::Ready { neighbors, is_shared: false, .. } if neighbors.is_empty());
        assert!(world.heard(host).iter().any(is_alone));
        assert!(world.last_lease(host).is_some());
    }
    world.cluster.assert_invariants();
}

#[test]
fn expired_answer_is_revalidated_by_one_host() {
    let mut world = world();
    let (first, second) = (world.join(1), world.join(2));
    world.start(first, 1);
    for _ in 0..20 {
        world.advance(Duration::from_secs(3));
        world.input(Input::Heartbeat { host: first });
        world.input(Input::Heartbeat { host: second });
    }
    world.want(second, 2, WantKey::Resolve(key_of(1)));
    let told = world.heard(second).last();
    assert!(
        matches!(told, Some(ToHost::Resolve { previous: Some((task, validators)), .. })
            if *task == task_of(1) && validators[..] == [1]),
        "{told:?}"
    );
}

#[test]
fn content_is_found_by_its_digest() {
    let mut world = world();
    let (first, second, third) = (world.join(1), world.join(2), world.join(3));
    let digest = Digest::Sha256([5; 32]);
    world.want(first, 1, WantKey::Digest(digest, Some(key_of(1))));
    let mut resolution = world.resolution(1);
    resolution.digest = Some(digest);
    world.resolved(first, 1, resolution);
    world.want(second, 1, WantKey::Digest(digest, Some(key_of(2))));
    assert!(world.agents[&second].tasks.contains_key(&task_of(1)), "another URL, the same content");
    world.want(third, 1, WantKey::Digest(Digest::Sha256([6; 32]), None));
    assert!(matches!(world.heard(third).last(), Some(ToHost::WantFailed { retry: None, .. })));
    world.want(third, 2, WantKey::Task(task_of(1)));
    assert!(world.agents[&third].tasks.contains_key(&task_of(1)));
}

#[test]
fn resolves_beyond_the_origin_budget_wait_for_a_connection() {
    let mut world = World::new(ClusterConfig { origin_connections_max: 2, ..ClusterConfig::default() }, 100 * MIB);
    let host = world.join(1);
    for number in 1..=4u8 {
        world.want(host, u64::from(number), WantKey::Resolve(key_of(number)));
    }
    assert_eq!(world.agents[&host].resolves.len(), 2);
    let failure = ResolveFailure { is_final: true, status: 404, text: String::new() };
    world.input(Input::ResolveFailed { host, want: WantId(1), failure });
    assert!(is_resolver(&world, 1, 3), "the next takes the place");
}

#[test]
fn all_who_wait_for_a_connection_are_answered_by_who_knows_the_task() {
    let mut world = World::new(ClusterConfig { origin_connections_max: 1, ..ClusterConfig::default() }, 100 * MIB);
    let (busy, holder) = (world.join(1), world.join(2));
    world.want(busy, 1, WantKey::Resolve(key_of(1)));
    let waiters = [3, 4, 5].map(|index| world.join(index));
    for host in waiters {
        world.want(host, 2, WantKey::Resolve(key_of(2)));
        assert!(matches!(world.heard(host)[..], [ToHost::Wait { .. }]));
    }
    // After a restart of the scheduler, hosts announce what they have while others want it already.
    let have = PieceMap::full(world.geometry.piece_count());
    world.agents.get_mut(&holder).unwrap().tasks.insert(task_of(2), have);
    world.announce(holder, 2);
    for host in waiters {
        assert!(world.heard(host).iter().any(|message| matches!(message, ToHost::Ready { .. })), "{host:?}");
    }
}
