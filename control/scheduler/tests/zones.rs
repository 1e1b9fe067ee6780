//! Importers: who brings what into a zone, and with whom it links for that.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawker_proto::{HostId, Stripes};
use hawker_scheduler::{ClusterConfig, Input, ToHost};
use world::{MIB, World, task_of};

const STRIPES: usize = Stripes::COUNT as usize;

/// Hosts dealt out to so many zones in turn, all in task 1.
fn swarm(hosts: u16, zones: u16) -> (World, Vec<HostId>) {
    let mut world = World::new(ClusterConfig::default(), 100 * MIB);
    let hosts: Vec<HostId> = (0..hosts).map(|index| join(&mut world, index, index % zones)).collect();
    for host in &hosts {
        world.start(*host, 1);
    }
    (world, hosts)
}

fn join(world: &mut World, index: u16, zone: u16) -> HostId {
    world.join_as(index, &[("zone", &zone.to_string())], 0)
}

/// What the host was told last of task `number`.
fn stripes(world: &World, host: HostId, number: u8) -> Stripes {
    let told = world.heard(host).iter().rev().find_map(|message| match message {
        ToHost::Imports { task, stripes } if *task == task_of(number) => Some(*stripes),
        _ => None,
    });
    told.unwrap_or_default()
}

/// Who brings in each stripe.
fn importers(world: &World, hosts: impl IntoIterator<Item = HostId>) -> [Vec<HostId>; STRIPES] {
    let mut found = [const { Vec::new() }; STRIPES];
    for host in hosts.into_iter().filter(|host| world.agents.contains_key(host)) {
        for (stripe, importers) in found.iter_mut().enumerate() {
            if stripes(world, host, 1).has(stripe) {
                importers.push(host);
            }
        }
    }
    found
}

fn every(hosts: &[HostId], nth: usize, zones: usize) -> Vec<HostId> {
    hosts.iter().copied().skip(nth).step_by(zones).collect()
}

fn neighbors(world: &World, host: HostId) -> BTreeSet<HostId> {
    world.agents[&host].neighbors.get(&task_of(1)).cloned().unwrap_or_default()
}

#[test]
fn every_stripe_of_every_zone_has_one_importer_and_no_host_has_two() {
    let (world, hosts) = swarm(120, 3);
    for zone in 0..3 {
        let importers = importers(&world, every(&hosts, zone, 3));
        assert!(importers.iter().all(|hosts| hosts.len() == 1), "{importers:?}");
        assert_eq!(importers.iter().flatten().collect::<BTreeSet<_>>().len(), STRIPES);
    }
}

#[test]
fn importers_of_a_stripe_know_each_other_and_all_others_mostly_their_own_zone() {
    let (world, hosts) = swarm(200, 5);
    let zones: Vec<_> = (0..5).map(|zone| importers(&world, every(&hosts, zone, 5))).collect();
    for stripe in 0..STRIPES {
        for (at, zone) in zones.iter().enumerate() {
            let known = neighbors(&world, zone[stripe][0]);
            assert!(zones[..at].iter().all(|other| known.contains(&other[stripe][0])));
        }
    }
    for (index, host) in hosts.iter().enumerate().filter(|(_, host)| stripes(&world, **host, 1) == Stripes::NONE) {
        let zone: BTreeSet<HostId> = every(&hosts, index % 5, 5).into_iter().collect();
        let (near, far): (Vec<_>, Vec<_>) = neighbors(&world, *host).into_iter().partition(|it| zone.contains(it));
        assert!((30..=40).contains(&near.len()) && (1..=6).contains(&far.len()), "{} + {}", near.len(), far.len());
    }
}

#[test]
fn neighbor_in_another_zone_is_said_to_be_there() {
    let (world, hosts) = swarm(90, 3);
    for (index, host) in hosts.iter().enumerate() {
        let zone = every(&hosts, index % 3, 3);
        let mut count = 0;
        for message in world.heard(*host) {
            let (ToHost::Neighbors { add: told, .. } | ToHost::Ready { neighbors: told, .. }) = message else {
                continue;
            };
            count += told.len();
            assert!(told.iter().all(|neighbor| neighbor.is_remote != zone.contains(&neighbor.id)));
        }
        assert!(count > 0);
    }
}

#[test]
fn importers_stay_when_others_come_and_go() {
    let (mut world, hosts) = swarm(120, 3);
    let before: Vec<_> = (0..3).map(|zone| importers(&world, every(&hosts, zone, 3))).collect();
    let bystanders = hosts.iter().filter(|host| stripes(&world, **host, 1) == Stripes::NONE);
    for host in bystanders.copied().take(60).collect::<Vec<_>>() {
        world.kill(host);
    }
    world.advance(Duration::from_secs(5));
    let after: Vec<_> = (0..3).map(|zone| importers(&world, every(&hosts, zone, 3))).collect();
    assert_eq!(before, after);
    // Of 20 hosts a newcomer wins one stripe in twenty or so, and then only one.
    let late = join(&mut world, 500, 0);
    world.start(late, 1);
    let zone = every(&hosts, 0, 3).into_iter().chain([late]);
    let now = importers(&world, zone);
    let moved = now.iter().zip(&before[0]).filter(|(now, before)| now != before).count();
    assert!(moved <= 1 && now.iter().all(|hosts| hosts.len() == 1), "{moved} moved: {now:?}");
}

#[test]
fn importer_that_dies_or_falls_silent_is_replaced_and_no_other() {
    let (mut world, hosts) = swarm(120, 3);
    let before = importers(&world, every(&hosts, 1, 3));
    world.kill(before[2][0]);
    let after = importers(&world, every(&hosts, 1, 3));
    assert_eq!((after[2].len(), &after[0], &after[1], &after[3]), (1, &before[0], &before[1], &before[3]));
    assert_ne!(after[2], before[2]);

    // One says nothing, all others do.
    let silent = after[0][0];
    for _ in 0..5 {
        world.advance(Duration::from_secs(1));
        for host in
            hosts.iter().copied().filter(|host| *host != silent && world.agents.contains_key(host)).collect::<Vec<_>>()
        {
            world.input(Input::Heartbeat { host });
        }
    }
    let now = importers(&world, every(&hosts, 1, 3));
    assert!(now[0].len() == 1 && now[0][0] != silent, "{now:?}");
    assert_eq!(stripes(&world, silent, 1), Stripes::NONE);
    assert_eq!((&now[1], &now[2], &now[3]), (&after[1], &after[2], &after[3]));
}

#[test]
fn lone_host_of_a_zone_imports_everything() {
    let mut world = World::new(ClusterConfig::default(), 100 * MIB);
    for index in 0..60 {
        let host = join(&mut world, index, 1);
        world.start(host, 1);
    }
    let lone = join(&mut world, 60, 2);
    world.start(lone, 1);
    assert_eq!(stripes(&world, lone, 1), Stripes::ALL);
    assert!(neighbors(&world, lone).len() >= STRIPES);
    // With company it shares the work.
    for index in 61..64 {
        let host = join(&mut world, index, 2);
        world.start(host, 1);
        let own = (60..=index).map(world::host_id);
        assert!(importers(&world, own).iter().all(|hosts| hosts.len() == 1));
    }
    assert_eq!(stripes(&world, lone, 1).bits().count_ones(), 1);
}

#[test]
fn tasks_share_the_work_among_hosts() {
    // Each task's resolver keeps its connection.
    let config = ClusterConfig { origin_connections_max: 64, ..ClusterConfig::default() };
    let mut world = World::new(config, 100 * MIB);
    let hosts: Vec<HostId> = (0..40).map(|index| join(&mut world, index, index % 2)).collect();
    for number in 1..=16 {
        for host in &hosts {
            world.start(*host, number);
        }
    }
    let mut roles: BTreeMap<HostId, u32> = BTreeMap::new();
    for number in 1..=16 {
        for host in &hosts {
            *roles.entry(*host).or_default() += stripes(&world, *host, number).bits().count_ones();
        }
    }
    assert_eq!(roles.values().sum::<u32>(), 16 * 2 * Stripes::COUNT);
    // Three on average, as dice fall.
    assert!(roles.values().all(|count| *count <= 10), "{roles:?}");
}

#[test]
fn slow_link_imports_only_when_all_are() {
    let mut world = World::new(ClusterConfig::default(), 100 * MIB);
    for index in 0..40 {
        // Ten of twenty hosts in each zone.
        let rate = if index / 2 % 2 == 0 { 10_000_000 } else { 100_000_000 };
        let host = world.join_as(index, &[("zone", ["a", "b"][usize::from(index % 2)])], rate);
        world.start(host, 1);
    }
    let slow = (0..40).filter(|index| index / 2 % 2 == 0).map(world::host_id);
    assert!(importers(&world, slow).iter().all(Vec::is_empty));
}

#[test]
fn hosts_of_one_zone_or_of_none_hear_nothing_of_imports() {
    for zone in [None, Some(("zone", "a"))] {
        let mut world = World::new(ClusterConfig::default(), 100 * MIB);
        for index in 0..50 {
            let host = world.join_as(index, zone.as_slice(), 0);
            world.start(host, 1);
        }
        let told = |agent: &world::Agent| agent.heard.iter().any(|message| matches!(message, ToHost::Imports { .. }));
        assert!(!world.agents.values().any(told));
    }
}

/// How many of `hosts` the first of them reaches from neighbor to neighbor.
fn reached(world: &World, hosts: &[HostId]) -> usize {
    let mut seen = BTreeSet::from([hosts[0]]);
    let mut next = vec![hosts[0]];
    while let Some(host) = next.pop() {
        next.extend(neighbors(world, host).into_iter().filter(|other| seen.insert(*other)));
    }
    assert!(seen.iter().all(|host| hosts.contains(host)), "neighbors are alive");
    seen.len()
}

#[test]
fn no_zone_is_an_island_even_when_its_importers_die() {
    // Few and large zones, and many small ones: of one host, and of two.
    for (count, zones) in [(90, 2), (120, 3), (30, 30), (24, 12)] {
        let (mut world, mut hosts) = swarm(count, zones);
        assert_eq!(reached(&world, &hosts), hosts.len(), "{count} hosts in {zones} zones");
        if count / zones == 1 {
            continue;
        }
        let zone = every(&hosts, 0, usize::from(zones));
        let dead: BTreeSet<HostId> = zone
            .iter()
            .copied()
            .filter(|host| stripes(&world, *host, 1) != Stripes::NONE)
            .take(zone.len() - 1)
            .collect();
        dead.iter().for_each(|host| world.kill(*host));
        world.advance(Duration::from_secs(2));
        hosts.retain(|host| !dead.contains(host));
        let now = importers(&world, hosts.iter().copied().filter(|host| zone.contains(host)));
        assert!(now.iter().all(|hosts| hosts.len() == 1), "{now:?}");
        for host in now.iter().flatten() {
            assert!(neighbors(&world, *host).iter().any(|other| !zone.contains(other)), "an importer knows others");
        }
        // The dead are forgotten when the scheduler has waited long enough for them.
        for _ in 0..6 {
            world.advance(Duration::from_secs(1));
            hosts.iter().for_each(|host| world.input(Input::Heartbeat { host: *host }));
        }
        assert_eq!(reached(&world, &hosts), hosts.len(), "{} of {count} hosts in {zones} zones", hosts.len());
    }
}
