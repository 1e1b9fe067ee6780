//! Small contents that ride in answers to wants.

mod world;

use hawker_proto::HostId;
use hawker_proto::resolve::Digest;
use hawker_scheduler::{ClusterConfig, Input, Resolution, ToHost, WantKey};
use world::{World, key_of, task_of};

const LENGTH: u64 = 10_000;
const DIGEST: Digest = Digest::Sha256([1; 32]);

fn resolution(world: &World, number: u8) -> Resolution {
    let digest = Some(Digest::Sha256([number; 32]));
    Resolution { digest, inline: vec![number; 10_000], ..world.resolution(number) }
}

/// What rides in the last answer that `host` got, and how many neighbors stand in it.
fn inlined(world: &World, host: HostId) -> (Vec<u8>, usize) {
    let ready = world.heard(host).iter().rev().find_map(|message| match message {
        ToHost::Ready { inline, neighbors, .. } => Some((inline.clone(), neighbors.len())),
        _ => None,
    });
    ready.expect("the want is answered")
}

#[test]
fn what_a_resolver_sent_along_rides_in_all_answers_and_nobody_links() {
    let mut world = World::new(ClusterConfig::default(), LENGTH);
    let hosts: Vec<_> = (0..20).map(|index| world.join(index)).collect();
    for host in &hosts[..10] {
        world.want(*host, 1, WantKey::Digest(DIGEST, Some(key_of(1))));
    }
    world.resolved(hosts[0], 1, resolution(&world, 1));
    for host in &hosts[1..10] {
        assert_eq!(inlined(&world, *host), (vec![1; 10_000], 0));
        world.input(Input::Left { host: *host, task: task_of(1) });
    }
    for host in &hosts[10..] {
        world.want(*host, 1, WantKey::Digest(DIGEST, Some(key_of(1))));
        assert_eq!(inlined(&world, *host).0, vec![1; 10_000]);
    }
    assert_eq!(world.cluster.status().counters.resolves, 1);
}

#[test]
fn inline_contents_are_bounded_and_must_be_whole() {
    let mut config = ClusterConfig::default();
    config.limits.inline_bytes_max = 25_000;
    let mut world = World::new(config, LENGTH);
    let (first, second) = (world.join(1), world.join(2));
    for number in 1..=3 {
        world.want(first, u64::from(number), WantKey::Resolve(key_of(number)));
        world.resolved(first, u64::from(number), resolution(&world, number));
    }
    let mut rides = |number: u8| {
        world.want(second, u64::from(number), WantKey::Resolve(key_of(number)));
        !inlined(&world, second).0.is_empty()
    };
    assert_eq!([rides(1), rides(2), rides(3)], [false, true, true], "what was asked for longest ago went");
    let mut world = World::new(ClusterConfig::default(), LENGTH);
    let (first, second) = (world.join(1), world.join(2));
    world.want(first, 1, WantKey::Resolve(key_of(1)));
    world.resolved(first, 1, Resolution { inline: vec![1; 9_999], ..resolution(&world, 1) });
    world.want(second, 1, WantKey::Resolve(key_of(1)));
    assert!(inlined(&world, second).0.is_empty(), "half a content is none");
}
