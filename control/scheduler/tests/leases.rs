//! Who fetches what from the origin.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawker_proto::{ByteRange, HostId, PieceMap};
use hawker_scheduler::{ClusterConfig, Input, LeaseOutcome, ToHost, WantKey};
use world::{MIB, World, key_of, task_of};

fn world_of(length: u64) -> World {
    World::new(ClusterConfig::default(), length)
}

fn swarm(world: &mut World, count: u16) -> Vec<HostId> {
    let hosts: Vec<HostId> = (0..count).map(|index| world.join(index)).collect();
    for host in &hosts {
        world.start(*host, 1);
    }
    hosts
}

fn no_lease(world: &World, host: HostId) -> Option<(bool, bool)> {
    world.heard(host).iter().rev().find_map(|message| match message {
        ToHost::NoLease { is_done, is_changed, .. } => Some((*is_done, *is_changed)),
        _ => None,
    })
}

#[test]
fn leases_follow_each_other_in_index_order() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 4);
    let mut next = 16 * MIB;
    for host in &hosts[1..] {
        world.ask(*host, 1);
        let lease = world.last_lease(*host).unwrap();
        assert_eq!(lease.start(), next);
        next = lease.end();
    }
}

#[test]
fn asks_beyond_what_the_origin_can_do_wait_in_line() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 8);
    for host in &hosts[1..] {
        world.ask(*host, 1);
    }
    let holders = |world: &World| hosts.iter().filter(|host| world.last_lease(**host).is_some()).count();
    assert_eq!(holders(&world), 4, "four while nothing is known of the origin");
    world.advance(Duration::from_millis(200));
    world.lease_done(hosts[1], None, LeaseOutcome::Complete);
    assert!(world.last_lease(hosts[4]).is_some(), "the first in line is next, without asking again");
    world.advance(Duration::from_secs(2));
    assert!(no_lease(&world, hosts[7]).is_some() || world.last_lease(hosts[7]).is_some(), "nobody waits for ever");
}

#[test]
fn remainder_of_a_failed_lease_goes_to_another_host_first() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 3);
    let lease = world.last_lease(hosts[0]).unwrap();
    let failed = LeaseOutcome::Failed { retry_after: Duration::ZERO };
    world.lease_done(hosts[0], Some(lease.start() + 3 * MIB), failed);
    world.ask(hosts[0], 1);
    assert!(world.last_lease(hosts[0]).is_none(), "it cools down");
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]).unwrap().start(), 3 * MIB, "what it stored is not fetched again");
}

#[test]
fn host_that_the_origin_refuses_gets_no_more_leases() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 2);
    world.lease_done(hosts[0], Some(0), LeaseOutcome::Refused);
    world.ask(hosts[0], 1);
    assert_eq!(no_lease(&world, hosts[0]), Some((false, false)));
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]).unwrap().start(), 0);
}

#[test]
fn host_whose_announcement_was_lost_is_asked_for_it_and_gets_leases() {
    let mut world = world_of(200 * MIB);
    let host = world.join(0);
    // It downloads; the cluster has not heard of it.
    let pieces = PieceMap::empty(world.geometry.piece_count());
    world.agents.get_mut(&host).unwrap().tasks.insert(task_of(1), pieces);
    world.ask(host, 1);
    assert!(world.heard(host).contains(&ToHost::Report { task: task_of(1) }), "{:?}", world.heard(host));
    assert_eq!(no_lease(&world, host), Some((false, false)), "nor does it wait for the answer to its ask");
    world.advance(Duration::from_secs(2));
    world.ask(host, 1);
    assert_eq!(world.last_lease(host).map(ByteRange::start), Some(0));
}

#[test]
fn agent_that_starts_anew_gets_no_lease_that_an_earlier_one_asked_for() {
    let config = ClusterConfig { origin_connections_max: 1, settle: Duration::ZERO, ..ClusterConfig::default() };
    let mut world = World::new(config, 200 * MIB);
    let hosts = [0, 1].map(|index| world.join(index));
    hosts.iter().for_each(|host| world.start(*host, 1));
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]), None, "it waits for the origin's only connection");
    world.kill(hosts[1]);
    assert_eq!(world.join(1), hosts[1]);
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    assert_eq!(world.last_lease(hosts[1]), None);
}

#[test]
fn host_that_comes_with_fresh_credentials_gets_leases_again() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 2);
    world.lease_done(hosts[0], Some(0), LeaseOutcome::Refused);
    // Its download ended, and the next one begins with a want.
    world.want(hosts[0], 77, WantKey::Resolve(key_of(1)));
    world.ask(hosts[0], 1);
    assert_eq!(world.last_lease(hosts[0]).unwrap().start(), 0);
}

#[test]
fn origin_that_asks_for_quiet_gets_it() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 2);
    world.lease_done(hosts[0], Some(0), LeaseOutcome::Failed { retry_after: Duration::from_secs(1) });
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]), None);
    world.advance(Duration::from_millis(999));
    assert_eq!(world.last_lease(hosts[1]), None);
    world.advance(Duration::from_millis(2));
    assert!(world.last_lease(hosts[1]).is_some());
}

/// Four of eight hosts fetch, the last of them is refused at once, and the fifth stands in line.
fn refused_beside_three(retry_after: Duration) -> (World, Vec<HostId>, u64) {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 8);
    hosts[1..4].iter().for_each(|host| world.ask(*host, 1));
    let start = world.last_lease(hosts[3]).unwrap().start();
    world.lease_done(hosts[3], Some(start), LeaseOutcome::Failed { retry_after });
    world.ask(hosts[4], 1);
    assert_eq!(world.last_lease(hosts[4]), None);
    (world, hosts, start)
}

#[test]
fn origin_that_refuses_one_too_many_serves_as_many_as_before() {
    let (mut world, hosts, start) = refused_beside_three(Duration::from_secs(1));
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    assert_eq!(world.last_lease(hosts[4]).map(ByteRange::start), Some(start), "the third, without a quiet");
    world.ask(hosts[5], 1);
    assert_eq!(world.last_lease(hosts[5]), None);
    world.advance(Duration::from_millis(1001));
    world.lease_done(hosts[1], None, LeaseOutcome::Complete);
    world.ask(hosts[6], 1);
    assert!(world.last_lease(hosts[5]).is_some() && world.last_lease(hosts[6]).is_some(), "a fourth is tried");
}

#[test]
fn quiet_that_is_asked_for_is_kept_though_others_are_served() {
    let (mut world, hosts, _) = refused_beside_three(Duration::from_millis(1500));
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    assert_eq!(world.last_lease(hosts[4]), None);
    world.advance(Duration::from_millis(1501));
    assert!(world.last_lease(hosts[4]).is_some());
}

#[test]
fn changed_content_is_leased_no_more_and_resolved_anew() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 2);
    world.lease_done(hosts[0], Some(0), LeaseOutcome::Changed);
    world.ask(hosts[1], 1);
    assert_eq!(no_lease(&world, hosts[1]), Some((false, true)));
    let late = world.join(9);
    world.start(late, 1);
    assert!(world.heard(late).iter().any(|message| matches!(message, ToHost::Resolve { .. })));
}

#[test]
fn lease_that_runs_out_is_given_again_with_more_time() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 2);
    let valid_of = |world: &World, host: HostId| {
        world.heard(host).iter().rev().find_map(|message| match message {
            ToHost::Lease { valid, .. } => Some(*valid),
            _ => None,
        })
    };
    let first = valid_of(&world, hosts[0]).unwrap();
    assert!(first >= Duration::from_secs(2));
    let end = world.now + first + Duration::from_secs(2);
    while world.now < end {
        world.advance(Duration::from_secs(1));
        for host in &hosts {
            world.input(Input::Heartbeat { host: *host });
        }
    }
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]).unwrap().start(), 0);
    let second = valid_of(&world, hosts[1]).unwrap();
    let rates = [(16 * MIB, first), (world.last_lease(hosts[1]).unwrap().length(), second)]
        .map(|(bytes, valid)| bytes as u128 * 1_000_000 / valid.as_micros());
    assert!(rates[1] * 3 < rates[0] * 2, "a slower fetch than before is in time: {rates:?} bytes/s");
}

#[test]
fn origin_without_ranges_has_one_holder_who_fetches_everything() {
    let mut world = world_of(200 * MIB);
    let (first, second) = (world.join(1), world.join(2));
    world.want(first, 1, hawker_scheduler::WantKey::Resolve(world::key_of(1)));
    let mut resolution = world.resolution(1);
    (resolution.has_ranges, resolution.arriving_bytes) = (false, 200 * MIB);
    world.resolved(first, 1, resolution);
    world.start(second, 1);
    assert_eq!(world.last_lease(first).unwrap().length(), 200 * MIB);
    world.ask(second, 1);
    assert_eq!(world.last_lease(second), None);
    world.lease_done(first, Some(50 * MIB), LeaseOutcome::Failed { retry_after: Duration::ZERO });
    assert_eq!(world.last_lease(second).unwrap().end(), 200 * MIB);
}

#[test]
fn budget_of_connections_and_bytes_is_never_exceeded() {
    let config = ClusterConfig { origin_connections_max: 3, origin_bytes_per_s: 8 * MIB, ..ClusterConfig::default() };
    let mut world = World::new(config, 400 * MIB);
    let hosts = swarm(&mut world, 6);
    for round in 0..400u64 {
        for host in &hosts {
            world.ask(*host, 1);
        }
        assert!(world.cluster.status().leases <= 3);
        world.advance(Duration::from_millis(50));
        world.lease_done(hosts[(round % 6) as usize], None, LeaseOutcome::Complete);
        let allowed = 8 * MIB + 8 * MIB * (world.now.as_nanos() / 1_000_000) / 1000;
        // Whole leases are given while a single byte is left, so the last one may reach beyond.
        assert!(world.leased_bytes <= allowed + 16 * MIB, "{} of {allowed}", world.leased_bytes);
    }
    assert!(world.leased_bytes >= 120 * MIB, "and it is used: {}", world.leased_bytes);
}

#[test]
fn lone_host_gets_parallel_ranges_and_the_whole_file_once() {
    let mut world = world_of(300 * MIB + 1);
    let host = world.join(1);
    world.start(host, 1);
    let mut parallel = 0;
    for _ in 0..2000 {
        for _ in 0..4 {
            world.ask(host, 1);
        }
        parallel = parallel.max(world.agents[&host].leases.len());
        world.advance(Duration::from_millis(20));
        world.lease_done(host, None, LeaseOutcome::Complete);
    }
    assert!(parallel >= 4, "{parallel} ranges at a time");
    assert_eq!(world.leased_bytes, 300 * MIB + 1);
    assert_eq!(no_lease(&world, host), Some((true, false)));
}

fn report(world: &mut World, hosts: &[HostId], arrived: &BTreeMap<u64, u64>) {
    for host in hosts {
        let upto = |lease: &hawker_proto::trust::Lease| {
            (lease.serial, lease.range.start() + arrived.get(&lease.serial).copied().unwrap_or(0))
        };
        let leases = world.agents[host].leases.iter().map(|(signed, _)| upto(&signed.lease)).collect();
        world.input(Input::Progress { host: *host, task: task_of(1), have_count: 0, bytes_per_s: 0, leases });
    }
}

/// The main job in small: the origin's link is shared by whoever holds a lease, every host asks ahead. Counts how
/// long the origin sits idle, and how many hosts share the last part.
fn fetch_with(hosts: u16, length: u64, rate: u64, link_delay: Duration) -> (Duration, usize) {
    let mut world = world_of(length);
    world.has_checks = false;
    let hosts = swarm(&mut world, hosts);
    let step = Duration::from_millis(2);
    let mut arrived: BTreeMap<u64, u64> = BTreeMap::new();
    let mut asked: BTreeMap<HostId, hawker_proto::Instant> = BTreeMap::new();
    let mut tail_holders = BTreeSet::new();
    let mut ticks = 0u32;
    let mut pieces_at_origin = true;
    while pieces_at_origin {
        ticks += 1;
        assert!(ticks < 200_000, "it ends");
        // Everybody who holds nothing, or is nearly through, asks again after a round trip.
        for host in &hosts {
            let left: u64 = world.agents[host]
                .leases
                .iter()
                .map(|(lease, _)| lease.lease.range.length() - arrived.get(&lease.lease.serial).copied().unwrap_or(0))
                .sum();
            let is_near_end = left < rate / 10;
            if is_near_end && asked.get(host).is_none_or(|at| world.now.since(*at) > Duration::from_millis(200)) {
                asked.insert(*host, world.now + link_delay);
            }
            if asked.get(host) == Some(&world.now) {
                world.ask(*host, 1);
            }
        }
        world.advance(step);
        if ticks.is_multiple_of(100) {
            report(&mut world, &hosts, &arrived);
        }
        let live: Vec<(HostId, u64, u64)> = hosts
            .iter()
            .flat_map(|host| {
                let leases = &world.agents[host].leases;
                leases.iter().map(|(lease, _)| (*host, lease.lease.serial, lease.lease.range.length()))
            })
            .collect();
        let share = rate / 500 / (live.len() as u64).max(1);
        for (host, serial, bytes) in live {
            let so_far = arrived.entry(serial).or_default();
            *so_far += share;
            if *so_far >= bytes {
                let at = world.agents[&host].leases.iter().position(|(lease, _)| lease.lease.serial == serial).unwrap();
                world.agents.get_mut(&host).unwrap().leases.swap(0, at);
                let range = world.agents[&host].leases[0].0.lease.range;
                if range.end() > length - length / 16 {
                    tail_holders.insert(host);
                }
                world.lease_done(host, None, LeaseOutcome::Complete);
            }
        }
        pieces_at_origin = hosts.iter().any(|host| no_lease(&world, *host).is_none_or(|(is_done, _)| !is_done))
            && hosts.iter().all(|host| no_lease(&world, *host).is_none_or(|(is_done, _)| !is_done));
    }
    assert_eq!(world.leased_bytes, length, "every byte leaves the origin once");
    (step * ticks, tail_holders.len())
}

#[test]
fn origin_is_kept_busy_until_its_last_byte() {
    for (hosts, mib, rate_mib) in [(8, 256, 25), (8, 64, 25), (3, 64, 2), (50, 512, 100)] {
        let rate = rate_mib * MIB;
        let (took, tail_holders) = fetch_with(hosts, mib * MIB + 1, rate, Duration::from_millis(4));
        let ideal = Duration::from_secs_f64(mib as f64 / rate_mib as f64);
        let ratio = took.as_secs_f64() / ideal.as_secs_f64();
        println!("{hosts} hosts, {mib} MiB at {rate_mib} MiB/s: {ratio:.3}, {tail_holders} at the tail");
        assert!(ratio < 1.06, "{hosts} hosts, {mib} MiB at {rate_mib} MiB/s: {took:?} instead of {ideal:?}");
        assert!(tail_holders >= 2, "the last sixteenth is shared");
    }
}

#[test]
fn ask_for_an_unknown_task_is_answered() {
    let mut world = world_of(MIB);
    let host = world.join(1);
    world.ask(host, 7);
    let is_refused =
        |heard: &[ToHost]| matches!(heard, [.., ToHost::NoLease { task, is_done: false, .. }] if *task == task_of(7));
    assert!(is_refused(world.heard(host)), "{:?}", world.heard(host));
}

#[test]
fn returned_pieces_are_asked_for_among_the_peers_before_they_are_leased_again() {
    let mut world = world_of(200 * MIB);
    let hosts = swarm(&mut world, 3);
    let lease = world.last_lease(hosts[0]).unwrap();
    world.lease_done(hosts[0], Some(lease.start()), LeaseOutcome::Returned);
    let is_asked = world.heard(hosts[1]).iter().any(|message| matches!(message, ToHost::Report { .. }));
    assert!(is_asked, "a host gives back what it or its neighbors have: somebody holds it");
    // All three answered that they do not.
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]).map(ByteRange::start), Some(lease.start()));
}
