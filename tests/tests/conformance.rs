//! What registries must do for those who pull, asked of a real one and of the mirror before it: nothing that is right
//! directly is wrong through an agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use hawker_proto::http1::ResponseHead;
use hawker_tests::cluster::clean;
use hawker_tests::images::Image;
use hawker_tests::process::{Process, Scratch};
use hawker_tests::registry::{Access, Registry, Wish, ask, fill};
use hawker_tests::{free_address, on_both_engines, workspace};

const LIMIT: Duration = Duration::from_mins(1);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Nobody's.
const UNKNOWN: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8ff";

/// A registry, an agent before it, and where both answer.
struct Pair {
    scratch: Scratch,
    registry: Registry,
    agent: Process,
    direct: SocketAddr,
    mirror: SocketAddr,
}

impl Pair {
    fn start(engine: &str, images: &[(&str, &Image)]) -> Self {
        let scratch = Scratch::new();
        let storage = scratch.join("storage");
        fill(&scratch, &storage, images);
        let wish = Wish { address: free_address(), tls: None, access: Access::Everybody, lab: None };
        let registry = Registry::start(&scratch, &storage, &wish);
        let mirror = free_address();
        let mut command = Command::new(workspace::hawker());
        command.args(["agent", "--no-guard", "--peer-port", "0", "--limit-disk", "8GiB", "--engine", engine]);
        command.args(["--http-port", &mirror.port().to_string()]);
        command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(scratch.join("socket"));
        clean(&mut command);
        let mut agent = Process::start(scratch.path(), "agent", command);
        agent.wait_until(LIMIT, "answering", || TcpStream::connect(mirror).is_ok());
        Self { scratch, registry, agent, direct: wish.address, mirror }
    }

    fn directly(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> (ResponseHead, Vec<u8>) {
        ask(self.direct, method, target, fields, body)
    }

    /// The same of the mirror, the registry named by `ns`.
    fn mirrored(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> (ResponseHead, Vec<u8>) {
        let mark = if target.contains('?') { '&' } else { '?' };
        ask(self.mirror, method, &format!("{target}{mark}ns={}", self.registry.name()), fields, body)
    }

    /// Asks both, and compares all that a client may rely on.
    fn assert_same(&self, method: &str, target: &str, fields: &str) -> (ResponseHead, Vec<u8>) {
        let (theirs, bytes) = self.directly(method, target, fields, b"");
        let (ours, same) = self.mirrored(method, target, fields, b"");
        let what = format!("{method} {target} {fields:?}\ndirectly {theirs:?}\nmirrored {ours:?}");
        assert_eq!(ours.status, theirs.status, "{what}");
        if theirs.status < 300 {
            for name in ["content-length", "content-type", "docker-content-digest", "content-range"] {
                assert_eq!(ours.header(name), theirs.header(name), "{name}: {what}");
            }
            assert!(same == bytes, "{what}\n{} bytes, not {}", same.len(), bytes.len());
        } else if method != "HEAD" {
            let text = String::from_utf8_lossy(&same);
            let is_json = serde_json::from_slice::<serde_json::Value>(&same)
                .is_ok_and(|error| error["errors"][0]["code"].is_string());
            // Go's router answers what is no route of its own in plain text.
            assert!(is_json || !bytes.starts_with(b"{"), "{what}\n{text}");
        }
        (ours, same)
    }
}

#[test]
fn whoever_pulls_hears_the_same_through_the_mirror() {
    let obstacle = Registry::obstacle();
    on_both_engines("whoever_pulls_hears_the_same_through_the_mirror", obstacle.as_deref(), |engine| {
        let (one, two) = (Image::new(21, &[900, 3_000_000]), Image::new(22, &[5_000]));
        let tags = [("team/app:v1", &one), ("team/app:v2", &two), ("team/app:v3", &one), ("other:latest", &two)];
        let mut pair = Pair::start(engine, &tags);
        let accept = format!("Accept: application/vnd.oci.image.index.v1+json, {MANIFEST}\r\n");
        let manifest = &one.manifest.digest;
        // From the registry, and from what the agent has then.
        for _ in 0..2 {
            let (ping, _) = pair.mirrored("GET", "/v2/", "", b"");
            assert_eq!((ping.status, ping.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
            for reference in ["v1", "v2", manifest] {
                for method in ["HEAD", "GET"] {
                    let (head, body) =
                        pair.assert_same(method, &format!("/v2/team/app/manifests/{reference}"), &accept);
                    assert_eq!(head.header("content-type"), Some(MANIFEST));
                    assert_eq!(body.is_empty(), method == "HEAD");
                }
            }
            for blob in one.blobs().chain(two.blobs()) {
                let target = format!("/v2/team/app/blobs/{}", blob.digest);
                pair.assert_same("HEAD", &target, "");
                let (_, body) = pair.assert_same("GET", &target, "");
                assert!(body == blob.bytes);
            }
            let large = format!("/v2/team/app/blobs/{}", one.layers[1].digest);
            let length = one.layers[1].bytes.len();
            let last = format!("{0}-{0}", length - 1);
            for range in ["500-1499", "500-", "-500", "0-0", "2000-50000000", &last] {
                let (head, _) = pair.assert_same("GET", &large, &format!("Range: bytes={range}\r\n"));
                assert_eq!(head.status, 206, "{range}");
            }
            let (beyond, _) = pair.assert_same("GET", &large, &format!("Range: bytes={length}-\r\n"));
            assert_eq!(beyond.status, 416);
            for missing in [
                "manifests/none".to_owned(),
                format!("manifests/{UNKNOWN}"),
                format!("blobs/{UNKNOWN}"),
                "blobs/sha256:baddigeststring".to_owned(),
                "manifests/sha256:baddigeststring".to_owned(),
            ] {
                for method in ["GET", "HEAD"] {
                    let target = format!("/v2/team/app/{missing}");
                    let (theirs, _) = pair.directly(method, &target, "", b"");
                    let (ours, _) = pair.mirrored(method, &target, "", b"");
                    // The specification allows both for what is no digest.
                    let is_right =
                        ours.status == theirs.status || (matches!(ours.status, 400 | 404) && theirs.status >= 400);
                    assert!(is_right && matches!(ours.status, 400 | 404), "{method} {target}: {theirs:?} {ours:?}");
                }
            }
            pair.assert_same("GET", "/v2/nobody/has/this/manifests/v1", "");
            // A registry that knows no referrers says 404, and clients look for a tag then.
            pair.assert_same("GET", &format!("/v2/team/app/referrers/{manifest}"), "");
        }
        assert!(pair.agent.is_running());
    });
}

#[test]
fn lists_are_paginated_through_the_mirror() {
    let obstacle = Registry::obstacle();
    on_both_engines("lists_are_paginated_through_the_mirror", obstacle.as_deref(), |engine| {
        let image = Image::new(23, &[900]);
        let names: Vec<String> = (0..7).map(|index| format!("team/app:v{index}")).collect();
        let images: Vec<(&str, &Image)> = names.iter().map(|name| (name.as_str(), &image)).collect();
        let pair = Pair::start(engine, &images);
        pair.assert_same("GET", "/v2/team/app/tags/list", "");
        pair.assert_same("GET", "/v2/_catalog", "");
        for query in ["n=3", "n=3&last=v2", "n=100", "last=v5", "n=1&last=v6"] {
            pair.assert_same("GET", &format!("/v2/team/app/tags/list?{query}"), "");
        }
        // Page by page, by the links alone.
        let mut seen = Vec::new();
        let mut target = format!("/v2/team/app/tags/list?n=3&ns={}", pair.registry.name());
        for _ in 0..10 {
            let (head, body) = ask(pair.mirror, "GET", &target, "", b"");
            assert_eq!(head.status, 200, "{target}");
            let page: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            seen.extend(page["tags"].as_array().expect("tags").iter().map(|tag| tag.as_str().unwrap().to_owned()));
            let Some(link) = head.header("link") else { break };
            let next = link.split_once('<').and_then(|(_, rest)| rest.split_once('>')).expect("a link").0;
            assert!(next.starts_with('/'), "it leads through the mirror again: {next}");
            next.clone_into(&mut target);
        }
        seen.sort();
        assert_eq!(seen, (0..7).map(|index| format!("v{index}")).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_pushed_and_deleted_through_the_mirror_is_so_for_all() {
    let test = "what_is_pushed_and_deleted_through_the_mirror_is_so_for_all";
    on_both_engines(test, Registry::obstacle().as_deref(), |engine| {
        let (first, second) = (Image::new(24, &[900]), Image::new(25, &[70_000, 2_000_000]));
        let pair = Pair::start(engine, &[("team/app:old", &first)]);
        for blob in second.blobs() {
            let (begun, _) = pair.mirrored("POST", "/v2/team/app/blobs/uploads/", "", b"");
            assert_eq!(begun.status, 202, "{begun:?}");
            let location = begun.header("location").expect("a place to upload to");
            assert!(location.starts_with('/'), "it leads through the mirror again: {location}");
            let mark = if location.contains('?') { '&' } else { '?' };
            let kind = "Content-Type: application/octet-stream\r\n";
            let put = ask(pair.mirror, "PUT", &format!("{location}{mark}digest={}", blob.digest), kind, &blob.bytes).0;
            assert_eq!(put.status, 201, "{put:?}");
        }
        let kind = format!("Content-Type: {}\r\n", second.manifest.media_type);
        let manifest = "/v2/team/app/manifests/new";
        assert_eq!(pair.mirrored("PUT", manifest, &kind, &second.manifest.bytes).0.status, 201);
        let accept = format!("Accept: {MANIFEST}\r\n");
        pair.assert_same("GET", manifest, &accept);
        for blob in second.blobs() {
            pair.assert_same("GET", &format!("/v2/team/app/blobs/{}", blob.digest), "");
        }
        // What is deleted through the mirror is gone through it at once.
        let by_digest = format!("/v2/team/app/manifests/{}", second.manifest.digest);
        pair.assert_same("GET", &by_digest, &accept);
        assert_eq!(pair.mirrored("DELETE", &by_digest, "", b"").0.status, 202);
        for target in [manifest, &by_digest] {
            let (head, _) = pair.assert_same("GET", target, &accept);
            assert_eq!(head.status, 404, "{target}");
        }
        drop(pair.scratch);
    });
}

#[test]
fn a_thousand_clients_of_one_blob_cost_the_registry_one_copy_and_slow_ones_block_nobody() {
    let test = "a_thousand_clients_of_one_blob_cost_the_registry_one_copy_and_slow_ones_block_nobody";
    on_both_engines(test, Registry::obstacle().as_deref(), |engine| {
        let image = Image::new(26, &[900, 8 << 20]);
        let mut pair = Pair::start(engine, &[("team/app:v1", &image)]);
        let layer = &image.layers[1];
        let request = format!(
            "GET /v2/team/app/blobs/{}?ns={} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            layer.digest,
            pair.registry.name(),
            pair.mirror
        );
        // All of them ask before anybody reads; then 100 of them read nothing at all until the others are done.
        let mut clients: Vec<TcpStream> = Vec::new();
        for _ in 0..1000 {
            let mut client = TcpStream::connect(pair.mirror).expect("it listens");
            client.set_read_timeout(Some(LIMIT)).expect("a timeout");
            client.write_all(request.as_bytes()).expect("it reads");
            clients.push(client);
        }
        let slow: Vec<TcpStream> = clients.split_off(900);
        let read = |mut client: TcpStream| {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{engine}");
            assert!(answer.ends_with(&layer.bytes), "{engine}: {} bytes", answer.len());
        };
        std::thread::scope(|scope| {
            for part in 0..4 {
                let mine: Vec<TcpStream> =
                    clients.iter().skip(part).step_by(4).map(|one| one.try_clone().unwrap()).collect();
                scope.spawn(move || mine.into_iter().for_each(read));
            }
        });
        slow.into_iter().for_each(read);
        let copies = pair.registry.copies_of(layer);
        assert!(copies <= 1.0, "{engine}: {copies} copies left the registry");
        assert!(pair.agent.is_running());
    });
}
