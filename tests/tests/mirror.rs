//! The registry mirror in front of a real registry: what it answers is what the registry would say, to each caller.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use hawker_proto::http1::ResponseHead;
use hawker_tests::cluster::{self, clean};
use hawker_tests::images::Image;
use hawker_tests::process::{Process, Scratch, wait_until};
use hawker_tests::registry::{Access, Registry, Wish, ask, fill};
use hawker_tests::{free_address, on_both_engines, workspace};

const LIMIT: Duration = Duration::from_mins(1);

/// An agent with `settings`, and where its mirror answers.
fn start_agent(scratch: &Scratch, engine: &str, settings: &str) -> (Process, SocketAddr) {
    let address = free_address();
    let file = scratch.join("agent.toml");
    std::fs::write(&file, settings).expect("room");
    let mut command = Command::new(workspace::hawker());
    command.args(["agent", "--no-guard", "--peer-port", "0", "--limit-disk", "8GiB", "--engine", engine]);
    command.args(["--http-port", &address.port().to_string()]).arg("--config").arg(&file);
    command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(scratch.join("socket"));
    clean(&mut command);
    let mut agent = Process::start(scratch.path(), "agent", command);
    agent.wait_until(LIMIT, "answering", || std::net::TcpStream::connect(address).is_ok());
    (agent, address)
}

fn start_registry(scratch: &Scratch, storage: &Path, access: Access) -> Registry {
    Registry::start(scratch, storage, &Wish { address: free_address(), tls: None, access, lab: None })
}

/// `Authorization` by basic authentication, `Accept` of a manifest.
fn fields(user: Option<&str>, image: &Image) -> String {
    let basic = |user: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(user);
        format!("Authorization: Basic {text}\r\n")
    };
    format!("{}Accept: {}\r\n", user.map(basic).unwrap_or_default(), image.manifest.media_type)
}

/// The fields of an answer that clients rely on.
fn shown(head: &ResponseHead) -> (u16, [Option<String>; 4]) {
    let names = ["content-type", "content-length", "docker-content-digest", "content-range"];
    (head.status, names.map(|name| head.header(name).map(str::to_owned)))
}

#[test]
fn each_caller_gets_what_the_registry_would_say() {
    let obstacle = Registry::obstacle();
    on_both_engines("each_caller_gets_what_the_registry_would_say", obstacle.as_deref(), |engine| {
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        let image = Image::new(7, &[70_000, 3_000_000]);
        fill(&scratch, &storage, &[("team/app:v1", &image)]);
        let registry = start_registry(&scratch, &storage, Access::Basic(vec![("ann".to_owned(), "right".to_owned())]));
        let direct: SocketAddr = registry.name().parse().expect("an address");
        let (mut agent, mirror) = start_agent(&scratch, engine, "");
        let (ann, bob, nobody) =
            (fields(Some("ann:right"), &image), fields(Some("bob:wrong"), &image), fields(None, &image));
        let digest = &image.manifest.digest;
        let mut objects = vec!["team/app/manifests/v1".to_owned(), format!("team/app/manifests/{digest}")];
        objects.extend(image.blobs().map(|blob| format!("team/app/blobs/{}", blob.digest)));
        let through = |object: &str| format!("/v2/{}/{object}", registry.name());

        // Twice: from the registry, and from the cache.
        for round in 0..2 {
            for object in &objects {
                for caller in [&nobody, &bob] {
                    for method in ["GET", "HEAD"] {
                        let (theirs, _) = ask(direct, method, &format!("/v2/{object}"), caller, b"");
                        let (ours, _) = ask(mirror, method, &through(object), caller, b"");
                        assert_eq!((ours.status, theirs.status), (401, 401), "{engine} {round} {object}");
                        let challenge = |head: &ResponseHead| head.header("www-authenticate").map(str::to_owned);
                        assert_eq!(challenge(&ours), challenge(&theirs), "{engine} {round} {object}");
                    }
                }
                let (theirs, bytes) = ask(direct, "GET", &format!("/v2/{object}"), &ann, b"");
                let (ours, same) = ask(mirror, "GET", &through(object), &ann, b"");
                assert_eq!(shown(&ours), shown(&theirs), "{engine} {round} {object}");
                assert!(bytes == same, "{engine} {round} {object}: {} bytes, not {}", same.len(), bytes.len());
                let (head, body) = ask(mirror, "HEAD", &through(object), &ann, b"");
                assert_eq!((shown(&head), body.len()), (shown(&ours), 0), "{engine} {round} {object}");
            }
        }
        let layer = image.layers.last().expect("layers");
        let object = format!("team/app/blobs/{}", layer.digest);
        for range in ["bytes=500-1499", "bytes=2900000-", "bytes=-500", "bytes=2000-99999999"] {
            let asked = format!("{ann}Range: {range}\r\n");
            let (theirs, bytes) = ask(direct, "GET", &format!("/v2/{object}"), &asked, b"");
            let (ours, same) = ask(mirror, "GET", &through(&object), &asked, b"");
            assert_eq!((shown(&ours), ours.status), (shown(&theirs), 206), "{engine} {range}");
            assert!(bytes == same, "{engine} {range}");
        }
        let (missing, _) = ask(mirror, "GET", &through("team/app/manifests/v2"), &ann, b"");
        assert_eq!(missing.status, 404);

        drop(registry);
        let name = direct.to_string();
        for object in &objects {
            let target = format!("/v2/{name}/{object}");
            let (head, _) = ask(mirror, "GET", &target, &ann, b"");
            assert_eq!(head.status, 200, "{engine} {object}, with the registry away");
            for caller in [&nobody, &bob] {
                let (head, _) = ask(mirror, "GET", &target, caller, b"");
                assert!(head.status == 502, "{engine} {object}: {}", head.status);
            }
        }
        assert!(agent.is_running());
        let log = agent.stderr();
        for secret in ["right", "wrong", "YW5uOnJpZ2h0"] {
            assert!(!log.contains(secret), "{engine}: {secret} is in the log");
        }
    });
}

#[test]
fn public_image_is_fetched_once_and_outlives_its_registry_and_the_agents_restart() {
    let test = "public_image_is_fetched_once_and_outlives_its_registry_and_the_agents_restart";
    let obstacle = Registry::obstacle();
    on_both_engines(test, obstacle.as_deref(), |engine| {
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        let image = Image::new(8, &[70_000, 3_000_000, 2_000_000]);
        fill(&scratch, &storage, &[("team/app:v1", &image)]);
        let registry = start_registry(&scratch, &storage, Access::Everybody);
        let name = registry.name();
        let (agent, mirror) = start_agent(&scratch, engine, "");
        let anybody = fields(None, &image);
        let pull = |mirror: SocketAddr| {
            let (head, bytes) = ask(mirror, "GET", &format!("/v2/team/app/manifests/v1?ns={name}"), &anybody, b"");
            assert_eq!((head.status, head.header("oci-namespace")), (200, Some(name.as_str())), "{engine}");
            assert!(bytes == image.manifest.bytes, "{engine}");
            for blob in image.blobs() {
                let target = format!("/v2/team/app/blobs/{}?ns={name}", blob.digest);
                let (head, bytes) = ask(mirror, "GET", &target, &anybody, b"");
                assert_eq!(head.status, 200, "{engine} {blob:?}");
                assert!(bytes == blob.bytes, "{engine} {blob:?}");
            }
            head
        };
        for _ in 0..3 {
            assert_eq!(pull(mirror).header("warning"), None);
        }
        for layer in &image.layers {
            assert!(
                (registry.copies_of(layer) - 1.0).abs() < 0.01,
                "{engine} {layer:?}: {}",
                registry.copies_of(layer)
            );
        }
        drop(registry);
        assert!(pull(mirror).header("warning").is_some(), "{engine}");
        // What tags stand for is written within a second.
        wait_until(LIMIT, "written", || scratch.join("data").join("tags.json").exists());
        assert_eq!(agent.stop(LIMIT).code(), Some(0));
        let (_agent, mirror) = start_agent(&scratch, engine, "");
        assert!(pull(mirror).header("warning").is_some(), "{engine}");
    });
}

#[test]
fn pinned_tag_stays_until_it_is_invalidated() {
    let obstacle = Registry::obstacle();
    on_both_engines("pinned_tag_stays_until_it_is_invalidated", obstacle.as_deref(), |engine| {
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        let (old, new) = (Image::new(9, &[70_000]), Image::new(10, &[70_000]));
        fill(&scratch, &storage, &[("team/app:v1", &old)]);
        let registry = start_registry(&scratch, &storage, Access::Everybody);
        let name = format!("{}/team/app:v1", registry.name());
        let settings = "[[mirror.tags]]\npattern = \"*:v1\"\npolicy = \"pinned\"\n";
        let (_agent, mirror) = start_agent(&scratch, engine, settings);
        let socket = scratch.join("socket");
        let target = format!("/v2/team/app/manifests/v1?ns={}", registry.name());
        let pull = || ask(mirror, "GET", &target, &fields(None, &old), b"").1;
        assert!(pull() == old.manifest.bytes, "{engine}");
        fill(&scratch, &storage, &[("team/app:v1", &new)]);
        assert!(pull() == old.manifest.bytes, "{engine}: pinned");

        let list = cluster::ask(&socket, &["mirror", "ls"]).expect("a list");
        let tag = list["tags"].as_array().expect("tags").iter().find(|tag| tag["name"] == name.as_str());
        let tag = tag.unwrap_or_else(|| panic!("{engine}: {name} is not in {list}"));
        assert_eq!((&tag["digest"], &tag["is_public"]), (&old.manifest.digest.as_str().into(), &true.into()));
        assert!(tag["age_ms"].is_u64(), "{tag}");

        let invalidate = || {
            let mut command = Command::new(workspace::hawker());
            command.args(["mirror", "invalidate", "*/team/app:*", "--json", "--socket"]).arg(&socket);
            clean(&mut command);
            Process::start(scratch.path(), "invalidate", command).wait(LIMIT)
        };
        let done = invalidate();
        assert_eq!((done.code(), done.json()["invalidated"].as_u64()), (Some(0), Some(1)), "{engine} {done:?}");
        let again = invalidate();
        assert_eq!(again.code(), Some(1), "{engine} {again:?}");
        assert!(again.stderr.contains("*/team/app:*") && again.stderr.contains("mirror ls"), "{}", again.stderr);
        assert!(pull() == new.manifest.bytes, "{engine}: forgotten, so the registry was asked");
    });
}
