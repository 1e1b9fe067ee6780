//! Private images: who may pull gets them from the cache, and who may not gets what the registry would say.

use std::collections::HashMap;

use hawker_tests::containerd::{Containerd, Credentials};
use hawker_tests::images::Image;
use hawker_tests::process::Scratch;
use hawker_tests::registry::{Access, Registry, Wish, fill};
use hawker_tests::token::TokenService;
use hawker_tests::{free_address, http_get, on_both_engines};

use super::{credentials, obstacle, runtime};
use crate::faults::Mirror;
use crate::swarm::setup;

const REPOSITORY: &str = "team/secret";

/// A registry that lets ann pull, and nobody else.
struct Private<'a> {
    registry: Registry,
    mirror: &'a Mirror,
    containerd: &'a Containerd,
    image: &'a Image,
}

impl Private<'_> {
    fn reference(&self) -> String {
        format!("{}/{REPOSITORY}:v1", self.registry.name())
    }

    fn pull(&self, credentials: Option<Credentials>) -> Result<String, tonic::Status> {
        let runtime = runtime();
        let reference = self.reference();
        let pulled = runtime.block_on(self.containerd.pull(&reference, credentials));
        if pulled.is_ok() {
            runtime.block_on(self.containerd.remove(&reference)).expect("removed");
        }
        pulled
    }

    /// What the agent says to an anonymous request for the largest layer, and what the registry says.
    fn refusals(&self, fields: &str) -> [String; 2] {
        let layer = self.image.layers.iter().max_by_key(|layer| layer.bytes.len()).expect("layers");
        let path = format!("/v2/{REPOSITORY}/blobs/{}", layer.digest);
        let registry = self.registry.name().parse().expect("an address");
        let by_mirror = http_get(self.mirror.http, &format!("{path}?ns={registry}"), fields);
        [by_mirror, http_get(registry, &path, fields)]
    }

    fn check(&self, engine: &str, kind: &str) {
        let what = format!("{engine}, {kind}");
        let right = |server: &str| credentials("ann", "right", server);
        let url = format!("http://{}", self.registry.name());
        let pulled = self.pull(right("")).unwrap_or_else(|error| panic!("{what}: {error}\n{}", self.containerd.log()));
        assert_eq!(pulled, self.image.config.digest);
        assert_eq!(self.pull(right("")).expect("again"), self.image.config.digest, "{what}");
        for layer in &self.image.layers {
            let copies = self.registry.copies_of(layer);
            assert!(copies < 1.05, "{what}: the second pull is from the cache, and {layer:?} left {copies} times");
        }
        // With it containerd shows the credentials to the registry alone.
        assert_eq!(self.pull(right(&url)).expect("with ServerAddress"), self.image.config.digest, "{what}");
        for wrong in
            [None, credentials("ann", "wrong", ""), credentials("bob", "other", ""), credentials("bob", "other", &url)]
        {
            assert!(self.pull(wrong.clone()).is_err(), "{what}: {wrong:?}");
        }
        for fields in ["", "Authorization: Basic Ym9iOm90aGVy\r\n", "Authorization: Bearer forged\r\n"] {
            let [by_mirror, by_registry] = self.refusals(fields);
            let part = |text: &str| {
                let status = text.lines().next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
                let challenge = text.lines().find(|line| line.to_ascii_lowercase().starts_with("www-authenticate:"));
                (status, challenge.map(|line| line[17..].trim().to_owned()))
            };
            assert_eq!(part(&by_mirror), part(&by_registry), "{what}: {fields}: {by_mirror}");
            assert!(matches!(part(&by_mirror).0.as_str(), "401" | "403"), "{what}: {by_mirror}");
        }
    }
}

#[test]
fn a_private_image_is_for_those_whom_its_registry_lets_in() {
    let test = "a_private_image_is_for_those_whom_its_registry_lets_in";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        let image = Image::new(11, &[2_000_000, 300_000]);
        // One content digest is one task, whoever has it: each registry has bytes of its own.
        let other = Image::new(12, &[2_000_000, 300_000]);
        let other_storage = scratch.join("other-storage");
        fill(&scratch, &storage, &[(&format!("{REPOSITORY}:v1"), &image)]);
        fill(&scratch, &other_storage, &[(&format!("{REPOSITORY}:v1"), &other)]);
        let rights = HashMap::from([
            ("ann:right".to_owned(), vec![REPOSITORY.to_owned()]),
            ("bob:other".to_owned(), Vec::new()),
        ]);
        let tokens = TokenService::start(&scratch.join("token.pem"), rights);
        let start = |storage, access| {
            Registry::start(&scratch, storage, &Wish { address: free_address(), tls: None, access, lab: None })
        };
        let users = [("ann", "right"), ("bob", "hers")].map(|(user, word)| (user.to_owned(), word.to_owned()));
        let basic = start(&storage, Access::Basic(users.to_vec()));
        let bearer = start(&other_storage, tokens.access());
        let sections = [&basic, &bearer]
            .map(|registry| format!("[[mirror.registry]]\nname = '{}'\ninsecure = true\n", registry.name()));
        let mirror = Mirror::start(&scratch, engine, &sections.concat(), &[]);
        let containerd = Containerd::start(&scratch, "containerd", None);
        setup(&["containerd", "--mirror", &mirror.url(), "--config"], &scratch.join("containerd/config.toml"));
        let (mirror, containerd) = (&mirror, &containerd);
        Private { registry: basic, mirror, containerd, image: &image }.check(engine, "basic");
        Private { registry: bearer, mirror, containerd, image: &other }.check(engine, "bearer");
    });
}
