//! Neighbors, hosts that go, restarts, bans.

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use hawker_proto::{HostId, PieceMap};
use hawker_scheduler::{ClusterConfig, Input, LeaseOutcome, ToHost, WantKey};
use world::{MIB, World, host_id, host_key, key_of, scheduler_key, task_of};

fn world() -> World {
    World::new(ClusterConfig::default(), 100 * MIB)
}

fn neighbors(world: &World, host: HostId) -> BTreeSet<HostId> {
    world.agents[&host].neighbors.get(&task_of(1)).cloned().unwrap_or_default()
}

fn swarm(world: &mut World, count: u16) -> Vec<HostId> {
    let hosts: Vec<HostId> = (0..count).map(|index| world.join(index)).collect();
    for host in &hosts {
        world.start(*host, 1);
    }
    hosts
}

#[test]
fn few_hosts_all_know_each_other() {
    let mut world = world();
    let hosts = swarm(&mut world, 20);
    for host in &hosts {
        assert_eq!(neighbors(&world, *host).len(), 19);
    }
}

#[test]
fn many_hosts_have_thirty_to_forty_neighbors_each() {
    let mut world = world();
    let hosts = swarm(&mut world, 250);
    for host in &hosts {
        let count = neighbors(&world, *host).len();
        assert!((30..=40).contains(&count), "{count} neighbors");
    }
    // One connected graph: pieces reach everybody.
    let mut reached = BTreeSet::from([hosts[0]]);
    let mut next = vec![hosts[0]];
    while let Some(host) = next.pop() {
        next.extend(neighbors(&world, host).into_iter().filter(|other| reached.insert(*other)));
    }
    assert_eq!(reached.len(), hosts.len());
}

#[test]
fn neighbors_of_hosts_that_die_get_others() {
    let mut world = world();
    let hosts = swarm(&mut world, 120);
    for host in &hosts[..40] {
        world.kill(*host);
    }
    world.advance(Duration::from_secs(3));
    for host in &hosts[40..] {
        let count = neighbors(&world, *host).len();
        assert!((30..=40).contains(&count), "{count} neighbors");
        assert!(neighbors(&world, *host).iter().all(|other| world.agents.contains_key(other)));
    }
}

#[test]
fn second_task_uses_the_links_of_the_first() {
    let mut world = world();
    let hosts = swarm(&mut world, 150);
    for host in &hosts {
        world.start(*host, 2);
    }
    let shared: usize = hosts
        .iter()
        .map(|host| {
            let second = &world.agents[host].neighbors[&task_of(2)];
            assert!(second.len() >= 20, "{} neighbors", second.len());
            assert!(second.union(&neighbors(&world, *host)).count() <= 64, "the pool is bounded");
            second.intersection(&neighbors(&world, *host)).count()
        })
        .sum();
    assert!(shared / hosts.len() >= 12, "on average {} links serve both tasks", shared / hosts.len());
}

#[test]
fn hosts_that_share_many_tasks_use_the_same_links_for_all() {
    let mut world = world();
    let hosts = swarm(&mut world, 180);
    for task in 2..=6 {
        hosts.iter().for_each(|host| world.start(*host, task));
    }
    for host in &hosts {
        let neighbors = &world.agents[host].neighbors;
        let fewest = (1..=6).map(|task| neighbors[&task_of(task)].len()).min();
        assert!(fewest >= Some(20), "{fewest:?} neighbors of {host:?}");
        assert!(neighbors.values().flatten().collect::<BTreeSet<_>>().len() <= 64, "the pool is bounded");
    }
}

#[test]
fn finished_hosts_let_go_of_each_other_and_stay_known() {
    let mut world = world();
    let hosts = swarm(&mut world, 10);
    for host in &hosts[..9] {
        world.input(Input::Finished { host: *host, task: task_of(1) });
    }
    assert_eq!(neighbors(&world, hosts[9]).len(), 9, "all can serve the last one");
    assert_eq!(neighbors(&world, hosts[0]).len(), 1);
    world.input(Input::Finished { host: hosts[9], task: task_of(1) });
    assert!(hosts.iter().all(|host| neighbors(&world, *host).is_empty()));
    let late = world.join(100);
    world.start(late, 1);
    assert_eq!(neighbors(&world, late).len(), 10);
}

#[test]
fn holder_that_announces_late_is_linked_with_those_who_lack_its_pieces() {
    for others in [2, 100] {
        let mut world = world();
        swarm(&mut world, others);
        // It wants nothing, so nobody would be given it by a want.
        let holder = world.join(500);
        let all = PieceMap::full(world.geometry.piece_count());
        world.agents.get_mut(&holder).unwrap().tasks.insert(task_of(1), all);
        world.announce(holder, 1);
        let linked = neighbors(&world, holder);
        assert!(linked.len() >= usize::from(others.min(4)) && linked.len() <= 40, "{}", linked.len());
        assert!(linked.iter().all(|host| neighbors(&world, *host).contains(&holder)), "both ends know");
    }
}

#[test]
fn silent_host_is_suspected_then_forgotten() {
    let mut world = world();
    let hosts = swarm(&mut world, 3);
    // It hangs, with its stream open.
    world.agents.get_mut(&hosts[2]).unwrap().is_connected = false;
    for _ in 0..2 {
        world.advance(Duration::from_secs(4));
        world.input(Input::Heartbeat { host: hosts[0] });
        world.input(Input::Heartbeat { host: hosts[1] });
    }
    let late = world.join(50);
    world.start(late, 1);
    assert!(!neighbors(&world, late).contains(&hosts[2]), "not chosen any more");
    world.advance(Duration::from_secs(3));
    assert_eq!(world.cluster.status().hosts, 3);
    assert_eq!(world.cluster.status().counters.hosts_lost, 1);
}

#[test]
fn host_that_comes_back_in_time_keeps_its_place() {
    let mut world = world();
    let hosts = swarm(&mut world, 3);
    world.input(Input::Disconnected { host: hosts[0] });
    world.advance(Duration::from_secs(1));
    world.join(0);
    world.announce(hosts[0], 1);
    let lease = world.last_lease(hosts[0]).expect("its lease goes on");
    world.advance(Duration::from_secs(1));
    for host in &hosts {
        world.input(Input::Heartbeat { host: *host });
    }
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    world.ask(hosts[1], 1);
    assert!(world.last_lease(hosts[1]).unwrap().start() >= lease.end(), "nothing is fetched again");
}

#[test]
fn restarted_agent_that_remembers_nothing_frees_its_leases() {
    let mut world = world();
    let hosts = swarm(&mut world, 2);
    let lost = world.last_lease(hosts[0]).unwrap();
    world.kill(hosts[0]);
    world.join(0);
    world.advance(Duration::from_secs(2));
    world.input(Input::Heartbeat { host: hosts[1] });
    world.ask(hosts[1], 1);
    assert_eq!(world.last_lease(hosts[1]).unwrap().start(), lost.start());
}

#[test]
fn pieces_that_only_a_dead_host_had_are_leased_again_and_others_are_not() {
    let mut world = world();
    let hosts = swarm(&mut world, 4);
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    world.copy(hosts[0], hosts[1], 1);
    world.ask(hosts[0], 1);
    let second = world.last_lease(hosts[0]).unwrap();
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    world.kill(hosts[0]);
    world.advance(Duration::from_secs(4));
    assert!(world.heard(hosts[1]).contains(&ToHost::Report { task: task_of(1) }), "peers are asked first");
    world.input(Input::Heartbeat { host: hosts[2] });
    world.ask(hosts[2], 1);
    assert_eq!(world.last_lease(hosts[2]).unwrap().start(), second.start(), "the first 16 MiB live on at a peer");
}

#[test]
fn restarted_scheduler_learns_everything_from_its_agents() {
    let mut world = world();
    let hosts = swarm(&mut world, 5);
    world.lease_done(hosts[0], None, LeaseOutcome::Complete);
    for host in &hosts[1..4] {
        world.ask(*host, 1);
    }
    world.lease_done(hosts[1], None, LeaseOutcome::Complete);
    let running = [hosts[2], hosts[3]].map(|host| world.last_lease(host).unwrap());
    let before = world.leased_bytes;

    world.restart(ClusterConfig::default(), 2);
    for index in 0..5 {
        world.join(index);
        world.announce(host_id(index), 1);
    }
    assert_eq!(world.cluster.status().counters.leases_adopted, 2);
    world.ask(hosts[4], 1);
    assert_eq!(world.last_lease(hosts[4]), None, "others may still announce");
    world.advance(Duration::from_millis(400));
    let next = world.last_lease(hosts[4]).expect("all other ranges are leased");
    assert!(running.iter().all(|live| live.intersection(next).is_none()));
    let signed = world.agents[&hosts[4]].leases[0].0;
    assert_eq!(signed.lease.epoch, 2);

    // The rest of the file leaves the origin exactly once.
    world.lease_done(hosts[2], None, LeaseOutcome::Complete);
    world.lease_done(hosts[3], None, LeaseOutcome::Complete);
    for _ in 0..1000 {
        world.lease_done(hosts[4], None, LeaseOutcome::Complete);
        world.ask(hosts[4], 1);
    }
    assert!(world.leased_bytes > before);
    assert_eq!(world.leased_bytes, world.geometry.length());
    // And a newcomer is answered from what agents remember.
    let late = world.join(60);
    world.want(late, 1, WantKey::Resolve(key_of(1)));
    assert!(world.heard(late).iter().any(|message| matches!(message, ToHost::Ready { .. })));
}

#[test]
fn lease_of_a_stranger_is_not_adopted() {
    let mut world = world();
    let hosts = swarm(&mut world, 2);
    world.restart(ClusterConfig::default(), 2);
    world.join(0);
    world.join(1);
    let mut announcement = world.announcement(hosts[0], 1).unwrap();
    let stolen = announcement.leases[0];
    let mut forged = stolen.lease;
    forged.serial += 1;
    // Signed by somebody else, and signed rightly but for another host.
    announcement.leases = vec![forged.sign(&host_key(0))];
    world.input(Input::Announce { host: hosts[0], announcement });
    let mut announcement = world.announcement(hosts[1], 1).unwrap();
    announcement.leases = vec![stolen];
    world.input(Input::Announce { host: hosts[1], announcement });
    assert_eq!(world.cluster.status().counters.leases_adopted, 0);
    assert_ne!(scheduler_key().public(), host_key(0).public());
}

#[test]
fn three_distinct_reporters_ban_a_host_and_two_do_not() {
    let mut world = world();
    let hosts = swarm(&mut world, 6);
    let bad = hosts[5];
    let complain = |world: &mut World, reporter: HostId| {
        world.input(Input::BadHost { reporter, host: bad, task: task_of(1) });
    };
    for reporter in [hosts[0], hosts[0], hosts[1], hosts[1], bad] {
        complain(&mut world, reporter);
    }
    let stranger = world.join(40);
    complain(&mut world, stranger);
    assert_eq!(world.cluster.status().counters.bans, 0, "only peers of the task count, once each");
    complain(&mut world, hosts[2]);
    assert_eq!(world.cluster.status().counters.bans, 1);
    assert!(world.heard(hosts[3]).contains(&ToHost::Ban { host: bad }));
    assert!(world.heard(bad).contains(&ToHost::Ban { host: bad }));
    assert!(!neighbors(&world, hosts[3]).contains(&bad));
    world.join(5);
    assert!(world.cluster.status().hosts == 6, "it does not get back in");
}

#[test]
fn ban_takes_most_of_the_neighbors_that_a_peer_has() {
    let mut world = world();
    let hosts = swarm(&mut world, 21);
    let complain = |world: &mut World, reporter: HostId, bad: HostId| {
        world.input(Input::BadHost { reporter, host: bad, task: task_of(1) });
        world.cluster.status().counters.bans
    };
    for reporter in &hosts[..10] {
        assert_eq!(complain(&mut world, *reporter, hosts[20]), 0, "half of 20 may be liars");
        assert_eq!(complain(&mut world, *reporter, hosts[19]), 0);
    }
    assert_eq!(complain(&mut world, hosts[10], hosts[20]), 1);
    // Hosts 0 to 9 and 11 make eleven, but what a banned host said counts no more.
    for reporter in &hosts[10..20] {
        complain(&mut world, *reporter, hosts[0]);
    }
    assert_eq!(complain(&mut world, hosts[18], hosts[0]), 2, "of 19 neighbors ten complained");
    assert_eq!(complain(&mut world, hosts[11], hosts[19]), 3, "nine are left, of 18 neighbors ten complained");
}

#[test]
fn allowances_of_all_hosts_together_stay_within_one_file() {
    for count in [1, 2, 7, 8, 33, 49] {
        let mut world = world();
        let hosts = swarm(&mut world, count);
        let last = |host: &HostId| {
            let mut allowances = world.heard(*host).iter().rev().filter_map(|message| match message {
                ToHost::Allowance { allowance, .. } => Some(allowance),
                _ => None,
            });
            let last = allowances.next().expect("every peer gets one");
            assert_eq!(last.verify(&[scheduler_key().public()]), Ok(()));
            last.allowance.bytes
        };
        let sum: u64 = hosts.iter().map(last).sum();
        assert!(sum <= world.geometry.length(), "{count} hosts: {sum}");
        assert!(sum >= world.geometry.length() / 2, "{count} hosts together can nearly finish alone: {sum}");
    }
}

#[test]
fn malformed_announcement_changes_nothing() {
    let mut world = world();
    let host = world.join(1);
    world.start(host, 1);
    let before = world.cluster.status();
    let mut wrong = world.announcement(host, 1).unwrap();
    wrong.geometry = hawker_proto::Geometry::of_length(5 * MIB).unwrap();
    world.input(Input::Announce { host, announcement: wrong.clone() });
    wrong.have = hawker_proto::PieceMap::empty(wrong.geometry.piece_count());
    world.input(Input::Announce { host, announcement: wrong });
    assert_eq!(world.cluster.status(), before);
}
