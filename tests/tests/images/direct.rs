//! The baseline: the same clients and the same registry, with no agent between them.

use std::collections::HashMap;

use hawker_tests::containerd::Containerd;
use hawker_tests::images::Image;
use hawker_tests::podman::{Podman, assert_copied};
use hawker_tests::process::Scratch;
use hawker_tests::registry::{Access, Registry, Wish, fill};
use hawker_tests::token::TokenService;
use hawker_tests::{exclusive, free_address, skip};

use super::{credentials, obstacle, runtime};

/// What passes directly must pass through an agent; so it is looked at that it passes directly.
#[test]
fn without_an_agent_the_parts_work_together() {
    let test = "without_an_agent_the_parts_work_together";
    if let Some(obstacle) = obstacle() {
        return skip(test, &obstacle);
    }
    let _alone = exclusive();
    let scratch = Scratch::new();
    let storage = scratch.join("storage");
    let image = Image::new(1, &[300_000, 2_000_000]);
    fill(&scratch, &storage, &[("team/app:v1", &image), ("team/secret:v1", &image)]);
    let tokens = TokenService::start(
        &scratch.join("token.pem"),
        HashMap::from([
            (String::new(), vec!["team/app".to_owned()]),
            ("ann:right".to_owned(), vec!["team/secret".to_owned()]),
            ("bob:other".to_owned(), Vec::new()),
        ]),
    );
    let start = |access| {
        let wish = Wish { address: free_address(), tls: None, access, lab: None };
        Registry::start(&scratch, &storage, &wish)
    };
    let open = start(Access::Everybody);
    let basic = start(Access::Basic(vec![("ann".to_owned(), "right".to_owned())]));
    let bearer = start(tokens.access());
    let containerd = Containerd::start(&scratch, "direct", None);
    let runtime = runtime();
    let pull = |registry: &Registry, repository: &str, credentials| {
        runtime.block_on(containerd.pull(&format!("{}/{repository}:v1", registry.name()), credentials))
    };

    let reference = format!("{}/team/app:v1", open.name());
    assert_eq!(pull(&open, "team/app", None).expect("an image"), image.config.digest);
    containerd.assert_runs(&reference, &image);
    for layer in &image.layers {
        assert!((open.copies_of(layer) - 1.0).abs() < 0.01, "{layer:?}: {}", open.copies_of(layer));
    }
    let stored = runtime.block_on(containerd.status(&reference)).expect("an answer").expect("an image");
    assert!(stored.repo_digests[0].ends_with(&image.manifest.digest), "{stored:?}");

    for server in [String::new(), format!("http://{}", basic.name())] {
        assert!(pull(&basic, "team/app", credentials("ann", "wrong", &server)).is_err(), "{server}");
        assert!(pull(&basic, "team/app", None).is_err());
        let pulled = pull(&basic, "team/app", credentials("ann", "right", &server));
        assert_eq!(pulled.expect("an image"), image.config.digest, "{server}");
        runtime.block_on(containerd.remove(&format!("{}/team/app:v1", basic.name()))).expect("removed");
    }
    assert_eq!(pull(&bearer, "team/app", None).expect("a public image"), image.config.digest);
    assert!(pull(&bearer, "team/secret", None).is_err());
    assert!(pull(&bearer, "team/secret", credentials("bob", "other", "")).is_err());
    assert!(!tokens.requests().is_empty());
    let pulled = pull(&bearer, "team/secret", credentials("ann", "right", ""));
    assert_eq!(pulled.expect("an image"), image.config.digest);

    let insecure =
        [&open, &basic].map(|registry| format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", registry.name()));
    let podman = Podman::new(&scratch, "podman", &insecure.concat());
    let pulled = podman.pull(None, &reference, None);
    assert!(pulled.status.success(), "{pulled:?}");
    podman.assert_runs(&reference, &image);
    let private = format!("{}/team/app:v1", basic.name());
    assert!(!podman.pull(None, &private, Some("ann:wrong")).status.success());
    assert!(podman.pull(None, &private, Some("ann:right")).status.success());
    let copied = podman.copy(None, &reference, &scratch.join("copy"));
    assert!(copied.status.success(), "{copied:?}");
    assert_copied(&scratch.join("copy"), &image);
    let inspected = podman.inspect(None, &reference);
    assert!(String::from_utf8_lossy(&inspected.stdout).contains(&image.manifest.digest), "{inspected:?}");
}
