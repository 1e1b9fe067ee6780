//! Real images, real clients: containerd by CRI, podman and skopeo, with docker-registry behind nginx.

mod clients;
mod direct;
mod faults;
mod indexes;
mod node;
mod private;
mod sha512;
mod swarm;
mod tls;

use hawker_tests::containerd::{Containerd, Credentials};
use hawker_tests::podman::Podman;
use hawker_tests::registry::Registry;

/// Why this machine can run none of these, `None` when it can.
fn obstacle() -> Option<String> {
    Registry::obstacle().or_else(Containerd::obstacle).or_else(Podman::obstacle)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

/// `server` is empty, as kubelets have it, or the registry's URL.
fn credentials(user: &str, password: &str, server: &str) -> Option<Credentials> {
    Some(Credentials { username: user.to_owned(), password: password.to_owned(), server_address: server.to_owned() })
}
