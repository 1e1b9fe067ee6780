//! Hosts that say to have what they have not, and hosts that starve for it.

mod world;

use std::time::Duration;

use hawker_proto::{ByteRange, HostId, PieceIndex, PieceMap};
use hawker_scheduler::{ClusterConfig, Input, LeaseOutcome};
use world::{MIB, World, task_of};

/// Of a task of 100 MiB the first of four hosts fetched the first 16 MiB, and the second says that it has everything.
fn world() -> (World, [HostId; 4]) {
    let mut world = World::new(ClusterConfig { settle: Duration::ZERO, ..ClusterConfig::default() }, 100 * MIB);
    let hosts = [0, 1, 2, 3].map(|index| world.join(index));
    hosts.iter().for_each(|host| world.start(*host, 1));
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    claim_all(&mut world, hosts[1]);
    (world, hosts)
}

fn claim_all(world: &mut World, liar: HostId) {
    let mut announcement = world.announcement(liar, 1).unwrap();
    announcement.have = PieceMap::full(announcement.geometry.piece_count());
    announcement.is_running = false;
    world.input(Input::Announce { host: liar, announcement });
}

/// The first byte of what is leased to `host` when it starves for `piece`.
fn starve(world: &mut World, host: HostId, piece: u32) -> Option<u64> {
    world.ask_starving(host, 1, PieceIndex(piece), 1);
    world.last_lease(host).map(ByteRange::start)
}

#[test]
fn who_starves_gets_what_others_only_say_to_have() {
    let (mut world, [_, _, honest, other]) = world();
    let piece_bytes = u64::from(world.geometry.piece_bytes());
    let (last, before) = (world.geometry.piece_count() - 1, world.leased_bytes);
    world.ask(honest, 1);
    assert_eq!(world.last_lease(honest), None, "everything is at hosts, as far as anybody knows");
    assert_eq!(starve(&mut world, honest, last), Some(u64::from(last) * piece_bytes));
    assert_eq!(starve(&mut world, other, last), None, "it is on its way");
    world.lease_done(honest, None, LeaseOutcome::Complete);
    assert_eq!(starve(&mut world, other, last), None, "somebody fetched it");
    assert_eq!(world.leased_bytes - before, piece_bytes, "and nothing else");
    assert_eq!(starve(&mut world, other, last + 1), None, "there is no such piece");
}

#[test]
fn lease_of_what_is_starved_for_ends_where_somebody_fetched() {
    let (mut world, [_, _, honest, other]) = world();
    let piece_bytes = u64::from(world.geometry.piece_bytes());
    let last = world.geometry.piece_count() - 1;
    starve(&mut world, honest, last - 2);
    world.ask_starving(other, 1, PieceIndex(last - 4), MIB);
    assert_eq!(world.last_lease(other).map(ByteRange::length), Some(2 * piece_bytes));
}

#[test]
fn what_came_under_a_lease_leaves_the_origin_again_when_its_holder_is_gone() {
    let (mut world, [first, _, honest, _]) = world();
    assert_eq!(starve(&mut world, honest, 3), None);
    world.leave(first);
    assert_eq!(starve(&mut world, honest, 0), Some(0));
}

#[test]
fn who_lost_what_it_fetched_is_no_holder() {
    let (mut world, [first, _, honest, _]) = world();
    world.agents.get_mut(&first).unwrap().tasks.insert(task_of(1), PieceMap::empty(world.geometry.piece_count()));
    world.announce(first, 1);
    assert_eq!(starve(&mut world, honest, 0), Some(0));
}

#[test]
fn who_lost_what_it_fetched_gets_it_again() {
    let (mut world, [first, ..]) = world();
    let before = world.leased_bytes;
    assert_eq!(starve(&mut world, first, 0), Some(0));
    assert_eq!(world.leased_bytes - before, u64::from(world.geometry.piece_bytes()));
}

#[test]
fn all_that_starve_fetch_no_more_than_the_file_and_what_was_lost() {
    let (mut world, hosts) = world();
    let count = world.geometry.piece_count();
    for round in 0..count {
        starve(&mut world, hosts[2 + round as usize % 2], round);
        world.lease_done(hosts[2 + round as usize % 2], None, LeaseOutcome::Complete);
    }
    assert_eq!(world.leased_bytes, 100 * MIB);
    for round in 0..3 * count {
        let host = hosts[2 + round as usize % 2];
        starve(&mut world, host, round % count);
        world.lease_done(host, None, LeaseOutcome::Complete);
    }
    assert_eq!(world.leased_bytes, 200 * MIB);
}

#[test]
fn holder_of_an_earlier_life_is_believed_until_somebody_starves() {
    let (mut world, hosts) = world();
    world.agents.get_mut(&hosts[0]).unwrap().tasks.insert(task_of(1), PieceMap::full(world.geometry.piece_count()));
    world.restart(ClusterConfig::default(), 2);
    world.join(0);
    world.join(2);
    world.announce(hosts[0], 1);
    world.announce(hosts[2], 1);
    let before = world.leased_bytes;
    assert_eq!(starve(&mut world, hosts[2], 5), None, "others may announce themselves still");
    world.advance(Duration::from_secs(2));
    world.ask(hosts[2], 1);
    assert_eq!(world.leased_bytes, before);
    starve(&mut world, hosts[2], 5);
    assert_eq!(world.leased_bytes - before, u64::from(world.geometry.piece_bytes()));
}

#[test]
fn what_is_for_sale_is_not_leased_twice() {
    let (mut world, [_, _, honest, other]) = world();
    world.ask_to_buy(other, 1, MIB);
    let sold = world.last_lease(other).map(ByteRange::start);
    assert_eq!(sold, Some(0), "of an unknown origin one lease is sold");
    assert_eq!(starve(&mut world, honest, 0), None);
    let last = world.geometry.piece_count() - 1;
    assert!(starve(&mut world, honest, last).is_some());
}
