//! Sales: an origin that is faster than the hosts that have everything.

mod world;

use std::time::Duration;

use hawker_proto::{ByteRange, HostId, PieceMap};
use hawker_scheduler::{ClusterConfig, Input, LeaseOutcome, ToHost};
use world::{MIB, World, task_of};

/// Three hosts of a task that a fourth has.
fn world() -> (World, [HostId; 3], HostId) {
    let mut world = World::new(ClusterConfig { settle: Duration::ZERO, ..ClusterConfig::default() }, 200 * MIB);
    let full = world.join(9);
    world.start(full, 1);
    world.lease_done(full, None, LeaseOutcome::Complete);
    let everything = PieceMap::full(world.geometry.piece_count());
    world.agents.get_mut(&full).unwrap().tasks.insert(task_of(1), everything);
    world.input(Input::Finished { host: full, task: task_of(1) });
    let hosts = [0, 1, 2].map(|index| world.join(index));
    for host in hosts {
        world.start(host, 1);
    }
    (world, hosts, full)
}

fn is_refused(world: &World, host: HostId) -> bool {
    matches!(world.heard(host).last(), Some(ToHost::NoLease { .. }))
}

/// The first lease sold is fetched at `bytes_per_s`.
fn probe(world: &mut World, host: HostId, bytes_per_s: u64) {
    world.ask_to_buy(host, 1, 10 * MIB);
    let lease = world.last_lease(host).expect("the rate of the origin is unknown");
    world.advance(Duration::from_millis(lease.length() * 1000 / bytes_per_s));
    world.lease_done(host, None, LeaseOutcome::Complete);
}

#[test]
fn one_lease_is_sold_to_learn_the_rate_of_the_origin() {
    let (mut world, [first, second, third], _) = world();
    world.ask(third, 1);
    assert!(is_refused(&world, third), "what a host has is not leased");
    world.ask_to_buy(first, 1, 10 * MIB);
    world.ask_to_buy(second, 1, 10 * MIB);
    assert_eq!(world.last_lease(first).map(ByteRange::start), Some(0));
    assert_eq!(world.last_lease(second), None, "it waits for what the first one finds");
}

#[test]
fn what_a_faster_origin_has_is_sold_once() {
    let (mut world, [first, second, third], _) = world();
    probe(&mut world, first, 100 * MIB);
    let sold = 4 * MIB;
    world.ask_to_buy(second, 1, 10 * MIB);
    world.ask_to_buy(third, 1, 10 * MIB);
    let (next, last) = (world.last_lease(second).unwrap(), world.last_lease(third).unwrap());
    assert_eq!((next.start(), last.start()), (sold, next.end()));
    world.ask(first, 1);
    assert!(is_refused(&world, first), "the sale is for those who say that they are held up");
}

#[test]
fn new_scheduler_sells_without_waiting_for_more_announcements() {
    let (mut world, [first, second, _], full) = world();
    world.restart(ClusterConfig::default(), 2);
    for index in [9, 0, 1] {
        world.join(index);
    }
    for host in [full, first, second] {
        world.announce(host, 1);
    }
    world.ask(first, 1);
    assert!(is_refused(&world, first));
    world.ask_to_buy(second, 1, 10 * MIB);
    assert_eq!(world.last_lease(second).map(ByteRange::start), Some(0));
}

#[test]
fn nothing_is_sold_by_an_origin_that_is_hardly_faster() {
    let (mut world, [first, second, _], _) = world();
    probe(&mut world, first, 12 * MIB);
    world.ask_to_buy(second, 1, 10 * MIB);
    assert!(is_refused(&world, second));
    assert_eq!(world.last_lease(second), None);
}

#[test]
fn sales_of_a_task_are_of_one_file_in_all() {
    let (mut world, [first, second, third], _) = world();
    probe(&mut world, first, 100 * MIB);
    world.input(Input::Finished { host: second, task: task_of(1) });
    world.ask_to_buy(third, 1, 10 * MIB);
    assert!(is_refused(&world, third), "somebody has everything, and a second sale is too many for four hosts");
}

#[test]
fn sale_ends_when_the_task_is_nowhere_whole() {
    let (mut world, [first, second, _], full) = world();
    probe(&mut world, first, 100 * MIB);
    world.kill(full);
    world.advance(Duration::from_secs(12));
    world.ask(second, 1);
    let lease = world.last_lease(second).expect("what only the dead host had is leased to anybody");
    assert_eq!(lease.start(), 4 * MIB, "what was bought is there");
}
