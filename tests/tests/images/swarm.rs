//! One image to several hosts at once, by every client, and once more when the registry is gone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use hawker_tests::cluster::{self, Cluster, clean};
use hawker_tests::containerd::Containerd;
use hawker_tests::images::Image;
use hawker_tests::lab::Lab;
use hawker_tests::podman::{Podman, assert_copied};
use hawker_tests::registry::{Access, Registry, Wish, fill};
use hawker_tests::{is_full, on_both_engines, workspace};

use super::{obstacle, runtime};

const MIB: usize = 1 << 20;
/// The registry beside the lab's other origin.
const PORT: u16 = 5000;
/// Of what leaves the registry, of each layer.
const COPIES_MAX: f64 = 1.05;

/// Lengths of the layers with random bytes.
fn lengths() -> Vec<usize> {
    if is_full() { vec![220 * MIB, 150 * MIB, 100 * MIB, 40 * MIB, 1000] } else { vec![12 * MIB, 5 * MIB, MIB, 1000] }
}

/// Runs `hawker setup` for a client.
pub(super) fn setup(arguments: &[&str], place: &Path) {
    let mut command = Command::new(workspace::hawker());
    command.arg("setup").args(arguments).arg(place);
    clean(&mut command);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn an_image_leaves_the_registry_once_for_all_hosts_and_is_there_without_it() {
    let test = "an_image_leaves_the_registry_once_for_all_hosts_and_is_there_without_it";
    let obstacle = obstacle().or_else(Lab::obstacle);
    on_both_engines(test, obstacle.as_deref(), |engine| {
        let hosts = if is_full() { 5 } else { 3 };
        // The address of a lab's origin is the same in every lab.
        let address: SocketAddr = SocketAddr::from(([10, 77, 0, 1], PORT));
        let settings = format!("[mirror]\n[[mirror.registry]]\nname = '{address}'\ninsecure = true\n");
        let cluster = Cluster::start(cluster::Wish { settings, ..cluster::Wish::new(hosts, "1gbit", engine) });
        let (scratch, lab) = (cluster.scratch(), cluster.lab());
        let storage = scratch.join("storage");
        let image = Image::new(7, &lengths());
        fill(scratch, &storage, &[("team/app:v1", &image)]);
        let wish = Wish { address, tls: None, access: Access::Everybody, lab: Some(lab) };
        let registry = Registry::start(scratch, &storage, &wish);
        let reference = format!("{address}/team/app:v1");
        let names = lab.hosts();
        let (last, first) = names[..cluster.host_count()].split_last().expect("hosts");

        let start = Instant::now();
        let pulled = pull_everywhere(&cluster, first, &reference, &image, "1");
        println!(
            "{engine}: {} hosts have {} bytes after {:.1} s",
            first.len(),
            image.content_bytes(),
            start.elapsed().as_secs_f64()
        );
        for containerd in &pulled {
            containerd.assert_runs(&reference, &image);
        }
        assert_sent_once(&registry, &image);

        let host = Some((lab, first[0].as_str()));
        let registries = format!("[[registry]]\nlocation = '{address}'\ninsecure = true\n");
        let podman = Podman::new(scratch, "podman", &registries);
        setup(&["podman", "--registry", &address.to_string(), "--config-dir"], &podman.config());
        let by_podman = podman.pull(host, &reference, None);
        assert!(by_podman.status.success(), "{by_podman:?}");
        podman.assert_runs(&reference, &image);
        let copied = podman.copy(host, &reference, &scratch.join("copy"));
        assert!(copied.status.success(), "{copied:?}");
        assert_copied(&scratch.join("copy"), &image);
        assert_sent_once(&registry, &image);

        // A host that never had it, clients that forgot it, and no registry.
        drop(registry);
        let late = pull_everywhere(&cluster, std::slice::from_ref(last), &reference, &image, "2");
        late[0].assert_runs(&reference, &image);
        podman.forget();
        let by_podman = podman.pull(host, &reference, None);
        assert!(by_podman.status.success(), "{by_podman:?}");
        podman.assert_runs(&reference, &image);
        let copied = podman.copy(host, &reference, &scratch.join("copy-2"));
        assert!(copied.status.success(), "{copied:?}");
    });
}

/// Pulls by fresh containerds of these hosts at once.
fn pull_everywhere(cluster: &Cluster, hosts: &[String], reference: &str, image: &Image, run: &str) -> Vec<Containerd> {
    let scratch = cluster.scratch();
    let containerds: Vec<Containerd> = hosts
        .iter()
        .map(|host| {
            let name = format!("{host}-{run}");
            let containerd = Containerd::start(scratch, &name, Some((cluster.lab(), host)));
            setup(&["containerd", "--config"], &scratch.join(&name).join("config.toml"));
            containerd
        })
        .collect();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = containerds
            .iter()
            .map(|containerd| scope.spawn(move || (containerd, runtime().block_on(containerd.pull(reference, None)))))
            .collect();
        for pull in pulls {
            let (containerd, pulled) = pull.join().expect("a pull that ends");
            let id = pulled.unwrap_or_else(|error| panic!("{reference}: {error}\n{}", containerd.log()));
            assert_eq!(id, image.config.digest);
        }
    });
    containerds
}

fn assert_sent_once(registry: &Registry, image: &Image) {
    for blob in image.blobs() {
        let copies = registry.copies_of(blob);
        // Nobody waits for a small one to be asked for twice; its bytes cost nothing.
        let most = if blob.bytes.len() > MIB { COPIES_MAX } else { 2.0 };
        assert!(copies <= most, "{blob:?} left the registry {copies:.2} times: {:#?}", registry.requests());
    }
}
