//! Images for several platforms: each client gets its own, and whoever asks for all gets all.

use hawker_tests::images::{DOCKER, Image, Index, OCI, PLATFORM, Types};
use hawker_tests::loopback::Loopback;
use hawker_tests::podman::assert_copied_all;
use hawker_tests::process::Scratch;
use hawker_tests::registry::{Access, Registry, Wish, fill_indexes};
use hawker_tests::{free_address, on_both_engines};

use super::obstacle;
use crate::clients::Clients;

const INDEXES: [(&str, Types, u64); 2] = [("team/oci:v1", OCI, 51), ("team/docker:v1", DOCKER, 61)];

/// The image for this machine first.
fn index(types: Types, seed: u64) -> Index {
    let images = [PLATFORM, "arm64"].iter().zip(seed..);
    Index::new(types, images.map(|(platform, seed)| Image::of(types, platform, seed, &[900_000, 40_000])).collect())
}

#[test]
fn only_this_platforms_layers_are_fetched_until_somebody_wants_all() {
    let test = "only_this_platforms_layers_are_fetched_until_somebody_wants_all";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let cluster = Loopback::start(engine, 2);
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        let all = INDEXES.map(|(name, types, seed)| (name, index(types, seed)));
        let names: Vec<_> = all.iter().map(|(name, index)| (*name, index)).collect();
        fill_indexes(&scratch, &storage, &names);
        let wish = Wish { address: free_address(), tls: None, access: Access::Everybody, lab: None };
        let registry = Registry::start(&scratch, &storage, &wish);
        let name = registry.name();
        let clients = |agent: usize| {
            let [_, http] = cluster.listeners(agent);
            let name = std::slice::from_ref(&name);
            Clients::start(&scratch, &format!("clients-{agent}"), &format!("http://{http}"), name)
        };

        let here = clients(0);
        for (tag, index) in &all {
            let (own, other) = (&index.images[0], &index.images[1]);
            here.pull_all(engine, &format!("{name}/{tag}"), own);
            // The program is the same for both.
            for blob in own.blobs().skip(1) {
                registry.assert_sent_once(blob);
            }
            let requests = registry.requests();
            for digest in other.blobs().skip(1).chain([&other.manifest]).map(|blob| &blob.digest) {
                let asked: Vec<_> = requests.iter().filter(|request| request.target.contains(digest)).collect();
                assert!(asked.is_empty(), "{engine} {tag}: {asked:?}");
            }
            assert_copied_all(&here.copy_all(&format!("{name}/{tag}")), index);
            for blob in other.blobs().skip(1) {
                registry.assert_sent_once(blob);
            }
        }

        // Another host that never asked, and no registry.
        drop(registry);
        let there = clients(1);
        for (tag, index) in &all {
            there.pull_all(engine, &format!("{name}/{tag}"), &index.images[0]);
            assert_copied_all(&there.copy_all(&format!("{name}/{tag}")), index);
        }
    });
}
