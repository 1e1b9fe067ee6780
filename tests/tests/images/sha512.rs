//! Names by SHA-512: docker-registry knows none, so files in the layout of a registry stand for one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hawker_tests::containerd::Containerd;
use hawker_tests::files::random_bytes;
use hawker_tests::images::{Image, OCI};
use hawker_tests::nginx::Nginx;
use hawker_tests::podman::Podman;
use hawker_tests::process::Scratch;
use hawker_tests::registry::ask;
use hawker_tests::{free_address, on_both_engines};
use serde_json::json;
use sha2::{Digest as _, Sha512};

use super::{obstacle, runtime};
use crate::clients::{Client, Clients};
use crate::faults::Mirror;

const REPOSITORY: &str = "team/app";

fn name_of(bytes: &[u8]) -> String {
    let digest: String = Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha512:{digest}")
}

/// An image whose parts go by SHA-512, as files.
struct Site {
    root: PathBuf,
    manifest: Vec<u8>,
    /// Names and bytes of config and layers.
    blobs: Vec<(String, Vec<u8>)>,
}

impl Site {
    fn new(scratch: &Scratch, image: &Image) -> Self {
        let root = scratch.join("site");
        let blobs: Vec<_> = image.blobs().map(|blob| (name_of(&blob.bytes), blob.bytes.clone())).collect();
        let mut descriptors: Vec<_> = image
            .blobs()
            .map(|blob| json!({ "mediaType": blob.media_type, "digest": name_of(&blob.bytes), "size": blob.bytes.len() }))
            .collect();
        let config = descriptors.pop();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI.manifest, "config": config, "layers": descriptors,
        });
        let site = Self { root, manifest: manifest.to_string().into_bytes(), blobs };
        for (name, bytes) in &site.blobs {
            site.put("blobs", name, bytes);
        }
        for name in ["v1", &name_of(&site.manifest)] {
            site.put("manifests", name, &site.manifest);
        }
        site
    }

    fn put(&self, kind: &str, name: &str, bytes: &[u8]) {
        let directory = self.root.join("v2").join(REPOSITORY).join(kind);
        std::fs::create_dir_all(&directory).expect("room");
        std::fs::write(directory.join(name), bytes).expect("room");
    }

    fn serve(&self, scratch: &Scratch, address: SocketAddr) -> Nginx {
        let (digest, manifest) = (name_of(&self.manifest), OCI.manifest);
        let server = format!(
            "listen {address}; root {}; types {{ }} default_type application/octet-stream;\n\
             location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}\n\
             location /v2/{REPOSITORY}/manifests/ {{ default_type {manifest};\n\
               add_header Docker-Content-Digest {digest}; }}\n",
            self.root.display()
        );
        Nginx::serve(scratch, address, &server, None)
    }
}

/// What a client says to a reference.
fn pull(client: Client, containerd: &Containerd, podman: &Podman, to: &Path, reference: &str) -> Result<(), String> {
    let output = match client {
        Client::Containerd => {
            let pulled = runtime().block_on(containerd.pull(reference, None));
            return pulled.map(drop).map_err(|status| status.message().to_owned());
        }
        Client::Podman => podman.pull(None, reference, None),
        Client::Skopeo => podman.copy(None, reference, to),
    };
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn what_goes_by_sha512_is_compared_with_it() {
    let test = "what_goes_by_sha512_is_compared_with_it";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let scratch = Scratch::new();
        let image = Image::new(71, &[40_000, 3_000_000]);
        let site = Site::new(&scratch, &image);
        let address = free_address();
        // Right bytes under the names of others, whole and cut.
        let lies = [1000, 3_000_000].map(|length| {
            let (named, sent) = (random_bytes(length, 72), random_bytes(length, 73));
            (name_of(&named), sent)
        });
        for (name, bytes) in &lies {
            site.put("blobs", name, bytes);
            site.put("manifests", name, bytes);
        }
        let nginx = site.serve(&scratch, address);
        let mirror = Mirror::start(&scratch, engine, "", &[]);
        let get = |method: &str, object: &str, fields: &str| {
            ask(mirror.http, method, &format!("/v2/{REPOSITORY}/{object}?ns={address}"), fields, b"")
        };

        let accept = format!("Accept: {}\r\n", OCI.manifest);
        let digest = name_of(&site.manifest);
        for round in 0..2 {
            for reference in ["v1", &digest] {
                let (head, bytes) = get("GET", &format!("manifests/{reference}"), &accept);
                let what = format!("{engine} {round} {reference}: {head:?}");
                assert_eq!(head.status, 200, "{what}");
                assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()), "{what}");
                assert_eq!(head.header("content-type"), Some(OCI.manifest), "{what}");
                assert!(bytes == site.manifest, "{what}");
            }
            for (name, bytes) in &site.blobs {
                let (head, got) = get("GET", &format!("blobs/{name}"), "");
                let what = format!("{engine} {round} {name}: {head:?}");
                assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(name.as_str())), "{what}");
                assert!(&got == bytes, "{what}");
                let (head, _) = get("HEAD", &format!("blobs/{name}"), "");
                let length = bytes.len().to_string();
                assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())), "{what}");
            }
        }
        let (name, bytes) = &site.blobs[2];
        let (head, part) = get("GET", &format!("blobs/{name}"), "Range: bytes=1000-1999999\r\n");
        assert!(head.status == 206 && part == bytes[1000..2_000_000], "{engine}: {head:?}");
        for (name, bytes) in &site.blobs {
            let requests = nginx.requests();
            let of_it = requests.iter().filter(|request| request.method == "GET" && request.target.contains(name));
            let sent: u64 = of_it.map(|request| request.body_bytes).sum();
            assert_eq!(sent, bytes.len() as u64, "{engine} {name}");
        }

        for (name, bytes) in &lies {
            for _ in 0..2 {
                for kind in ["blobs", "manifests"] {
                    let (head, got) = get("GET", &format!("{kind}/{name}"), "");
                    let is_whole = head.status < 300 && got.len() >= bytes.len();
                    assert!(!is_whole, "{engine}: {kind}/{name}: {head:?} with {} bytes", got.len());
                }
            }
        }
        let tasks = mirror.ask(&["ls"]).to_string();
        assert!(lies.iter().all(|(name, _)| !tasks.contains(&format!("/{name}\""))), "{engine}: {tasks}");

        assert_clients_hear_the_same(&scratch, engine, &mirror, address);
    });
}

/// What a client takes from the registry it takes from the agent. Podman and skopeo 1.9 and containerd 1.6 take no sha512
/// from anybody: they compare by sha256.
fn assert_clients_hear_the_same(scratch: &Scratch, engine: &str, mirror: &Mirror, address: SocketAddr) {
    let clients = Clients::start(scratch, "clients", &mirror.url(), &[address.to_string()]);
    let (containerd, podman) = clients.parts();
    let reference = format!("{address}/{REPOSITORY}:v1");
    let clear = format!("[[registry]]\nlocation = '{address}'\ninsecure = true\n");
    let alone = (Containerd::start(scratch, "alone", None), Podman::new(scratch, "podman-alone", &clear));
    for client in Client::ALL {
        let directly = pull(client, &alone.0, &alone.1, &scratch.join("copy-alone"), &reference);
        let mirrored = pull(client, containerd, podman, &scratch.join("copy"), &reference);
        assert_eq!(directly.is_ok(), mirrored.is_ok(), "{engine} {client:?}: {directly:?} {mirrored:?}");
    }
}
