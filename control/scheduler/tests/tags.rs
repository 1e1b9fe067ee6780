//! What names in registries stand for.

mod world;

use std::time::Duration;

use hawker_scheduler::{ClusterConfig, Input, TagFact, TagKey, ToHost};
use world::{World, host_id};

fn fact(digest: &str, age_s: u64) -> TagFact {
    TagFact {
        digest: digest.to_owned(),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        length: 500,
        is_public: true,
        age: Duration::from_secs(age_s),
    }
}

fn asked(world: &mut World, tag: TagKey) -> Option<TagFact> {
    let host = host_id(2);
    world.input(Input::AskTag { host, tag });
    let heard = world.heard(host);
    let answer = heard.iter().rev().find_map(|message| match message {
        ToHost::Tag { tag: named, fact } if *named == tag => Some(fact.clone()),
        _ => None,
    });
    answer.expect("an ask is answered")
}

#[test]
fn newest_sight_of_a_tag_is_told_with_its_age() {
    let mut world = World::new(ClusterConfig::default(), 1 << 20);
    let hosts = [world.join(1), world.join(2)];
    let tag = TagKey([7; 32]);
    assert_eq!(asked(&mut world, tag), None);
    world.input(Input::TagSeen { host: hosts[0], tag, fact: fact("sha256:new", 10) });
    world.input(Input::TagSeen { host: hosts[1], tag, fact: fact("sha256:old", 20) });
    world.advance(Duration::from_secs(2));
    assert_eq!(asked(&mut world, tag), Some(fact("sha256:new", 12)));
    world.input(Input::TagSeen { host: hosts[1], tag, fact: fact("sha256:newer", 0) });
    assert_eq!(asked(&mut world, tag), Some(fact("sha256:newer", 0)));
}

#[test]
fn tags_are_bounded_and_the_oldest_sight_goes_first() {
    let mut config = ClusterConfig::default();
    config.limits.tags_max = 2;
    let mut world = World::new(config, 1 << 20);
    let host = world.join(1);
    world.join(2);
    for (number, age) in [(1, 30), (2, 50), (3, 40)] {
        world.input(Input::TagSeen { host, tag: TagKey([number; 32]), fact: fact("sha256:x", age) });
    }
    assert_eq!(asked(&mut world, TagKey([2; 32])), None);
    assert!(asked(&mut world, TagKey([1; 32])).is_some() && asked(&mut world, TagKey([3; 32])).is_some());
    let long = TagFact { digest: "x".repeat(600), ..fact("", 0) };
    world.input(Input::TagSeen { host, tag: TagKey([4; 32]), fact: long });
    assert_eq!(asked(&mut world, TagKey([4; 32])), None, "texts are bounded, too");
}
