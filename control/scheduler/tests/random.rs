//! Whatever happens in whatever order: the cluster's own invariants, those that the world checks at every lease and
//! every edge, and in the end an answer for everybody.

mod world;

use std::time::Duration;

use hawker_proto::{HostId, PieceIndex};
use hawker_scheduler::{ClusterConfig, Input, LeaseOutcome, ResolveFailure, WantId, WantKey};
use proptest::prelude::*;
use world::{MIB, World, host_id, key_of, task_of};

const HOSTS: u16 = 12;
const TASKS: u8 = 3;

#[derive(Clone, Copy, Debug)]
enum Event {
    Join,
    Kill,
    Leave,
    Break,
    Reconnect,
    Want(u8),
    Resolve,
    FailResolve(bool),
    Ask(u8),
    Buy(u8, u64),
    Starve(u8, u32),
    Done(u8, u8),
    Progress(u8),
    Copy(u16, u8),
    Left(u8),
    Complain(u16, u8),
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let task = 1..=TASKS;
    prop_oneof![
        6 => Just(Event::Join),
        1 => Just(Event::Kill),
        1 => Just(Event::Leave),
        1 => Just(Event::Break),
        2 => Just(Event::Reconnect),
        6 => task.clone().prop_map(Event::Want),
        6 => Just(Event::Resolve),
        1 => any::<bool>().prop_map(Event::FailResolve),
        10 => task.clone().prop_map(Event::Ask),
        2 => (task.clone(), 0..200 * MIB).prop_map(|(task, rate)| Event::Buy(task, rate)),
        2 => (task.clone(), 0..200u32).prop_map(|(task, piece)| Event::Starve(task, piece)),
        8 => (0..6u8, 0..100u8).prop_map(|(outcome, percent)| Event::Done(outcome, percent)),
        3 => task.clone().prop_map(Event::Progress),
        5 => (0..HOSTS, task.clone()).prop_map(|(from, task)| Event::Copy(from, task)),
        1 => task.clone().prop_map(Event::Left),
        1 => (0..HOSTS, task).prop_map(|(host, task)| Event::Complain(host, task)),
        6 => (0..3000u16).prop_map(Event::Wait),
    ]
}

fn play(world: &mut World, index: u16, event: Event) {
    let host = host_id(index);
    let is_connected = world.agents.get(&host).is_some_and(|agent| agent.is_connected);
    match event {
        Event::Join if !world.agents.contains_key(&host) => {
            // Hosts of two zones, and of none. (One that reconnects names none; that must not confuse its tasks.)
            let zone = ["a", "b"].get(usize::from(index % 3)).map(|zone| ("zone", *zone));
            world.join_as(index, zone.as_slice(), 0);
        }
        Event::Reconnect if world.agents.contains_key(&host) && !is_connected => reconnect(world, index),
        Event::Wait(millis) => wait(world, millis),
        _ if !is_connected => {}
        Event::Kill => world.kill(host),
        Event::Leave => world.leave(host),
        Event::Break => world.break_stream(host),
        Event::Want(number) => world.want(host, u64::from(number), WantKey::Resolve(key_of(number))),
        Event::Resolve => resolve(world, host),
        Event::FailResolve(is_final) => {
            let want = world.agents[&host].resolves.first().copied();
            if let Some(want) = want {
                let failure = ResolveFailure { is_final, status: 0, text: String::new() };
                world.input(Input::ResolveFailed { host, want, failure });
            }
        }
        Event::Buy(number, rate) if world.agents[&host].tasks.contains_key(&task_of(number)) => {
            world.ask_to_buy(host, number, rate);
        }
        Event::Starve(number, piece) if world.agents[&host].tasks.contains_key(&task_of(number)) => {
            world.ask_starving(host, number, PieceIndex(piece), u64::from(piece % 4) * MIB);
        }
        Event::Ask(number) if world.agents[&host].tasks.contains_key(&task_of(number)) => world.ask(host, number),
        Event::Done(outcome, percent) => end_lease(world, host, outcome, percent),
        Event::Progress(number) => progress(world, host, number),
        Event::Copy(from, number) => world.copy(host_id(from), host, number),
        Event::Left(number) => {
            let agent = world.agents.get_mut(&host).unwrap();
            agent.tasks.remove(&task_of(number));
            agent.neighbors.remove(&task_of(number));
            agent.leases.retain(|(signed, _)| signed.lease.task != task_of(number));
            world.input(Input::Left { host, task: task_of(number) });
        }
        Event::Complain(bad, number) => {
            world.input(Input::BadHost { reporter: host, host: host_id(bad), task: task_of(number) });
        }
        Event::Join | Event::Reconnect | Event::Ask(_) | Event::Buy(..) | Event::Starve(..) => {}
    }
}

fn reconnect(world: &mut World, index: u16) {
    let host = host_id(index);
    world.join(index);
    for number in 1..=TASKS {
        if world.agents[&host].is_connected {
            world.announce(host, number);
        }
    }
    let wants: Vec<_> = world.agents[&host].wants.clone().into_iter().collect();
    for (want, key) in wants {
        world.want(host, want.0, key);
    }
}

fn resolve(world: &mut World, host: HostId) {
    let want = world.agents[&host].resolves.first().copied();
    if let Some(WantId(number)) = want {
        let resolution = world.resolution(u8::try_from(number).unwrap());
        world.resolved(host, number, resolution);
    }
}

fn end_lease(world: &mut World, host: HostId, outcome: u8, percent: u8) {
    let Some((signed, _)) = world.agents[&host].leases.first() else { return };
    let range = signed.lease.range;
    let part = range.start() + range.length() * u64::from(percent) / 100;
    let retry_after = Duration::from_millis(u64::from(percent) * 10);
    match outcome {
        0 => world.lease_done(host, Some(part), LeaseOutcome::Returned),
        1 => world.lease_done(host, Some(part), LeaseOutcome::Failed { retry_after }),
        _ => world.lease_done(host, None, LeaseOutcome::Complete),
    }
}

fn progress(world: &mut World, host: HostId, number: u8) {
    let agent = &world.agents[&host];
    let half = |lease: &hawker_proto::trust::Lease| (lease.serial, lease.range.start() + lease.range.length() / 2);
    let leases = agent.leases.iter().map(|(signed, _)| half(&signed.lease)).collect();
    world.input(Input::Progress { host, task: task_of(number), have_count: 1, bytes_per_s: 5, leases });
}

/// Time passes; whoever is connected is heard of.
fn wait(world: &mut World, millis: u16) {
    world.advance(Duration::from_millis(millis.into()));
    let connected: Vec<HostId> =
        world.agents.iter().filter(|(_, agent)| agent.is_connected).map(|(host, _)| *host).collect();
    for host in connected {
        world.input(Input::Heartbeat { host });
    }
}

/// From now on everybody behaves: what was wanted is answered, and everybody ends with every piece.
fn finish(world: &mut World) {
    for _ in 0..40 {
        for index in 0..HOSTS {
            play(world, index, Event::Reconnect);
            play(world, index, Event::Resolve);
            play(world, index, Event::Done(5, 100));
        }
        wait(world, 500);
    }
    let connected: Vec<HostId> =
        world.agents.iter().filter(|(_, agent)| agent.is_connected).map(|(host, _)| *host).collect();
    for host in &connected {
        assert!(world.agents[host].wants.is_empty(), "{host:?} still waits for {:?}", world.agents[host].wants);
    }
    for number in 1..=TASKS {
        for _ in 0..200 {
            for host in &connected {
                if world.agents[host].tasks.contains_key(&task_of(number)) {
                    world.ask(*host, number);
                    wait(world, 5);
                    while !world.agents[host].leases.is_empty() {
                        world.lease_done(*host, None, LeaseOutcome::Complete);
                    }
                }
            }
            wait(world, 1000);
            // Pieces spread all the way.
            for from in &connected {
                for to in &connected {
                    if from != to {
                        world.copy(*from, *to, number);
                    }
                }
            }
            if is_everywhere(world, &connected, number) {
                break;
            }
        }
        assert!(
            is_everywhere(world, &connected, number),
            "task {number} is not complete: {:?}",
            world.cluster.status()
        );
    }
}

fn is_everywhere(world: &World, hosts: &[HostId], number: u8) -> bool {
    hosts.iter().all(|host| world.agents[host].tasks.get(&task_of(number)).is_none_or(hawker_proto::PieceMap::is_full))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_everybody_is_served_whatever_happens(
        events in proptest::collection::vec((0..HOSTS, event()), 1..250),
        mib in 1..80u64,
        connections in 1..6u32,
    ) {
        let config = ClusterConfig { origin_connections_max: connections, ..ClusterConfig::default() };
        let mut world = World::new(config, mib * MIB + 1);
        for (index, event) in events {
            play(&mut world, index, event);
        }
        finish(&mut world);
    }
}
