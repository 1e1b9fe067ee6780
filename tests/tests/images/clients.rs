//! One of each client with the same agent before its registries, and no way around it.

use std::path::PathBuf;

use hawker_tests::containerd::{Containerd, Credentials};
use hawker_tests::images::Image;
use hawker_tests::podman::{Podman, assert_copied};
use hawker_tests::process::Scratch;

use super::runtime;
use crate::swarm::setup;

/// Who pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Containerd,
    Podman,
    Skopeo,
}

impl Client {
    pub(super) const ALL: [Self; 3] = [Self::Containerd, Self::Podman, Self::Skopeo];
}

/// Containerd, podman and skopeo, with nothing of their own: no credentials, no certificates, no images.
pub(super) struct Clients {
    containerd: Containerd,
    podman: Podman,
    copy: PathBuf,
}

impl Clients {
    /// Clients that `hawker setup` told about the mirror at this URL, for `registries`. Where nobody listens at their
    /// names (see [`name`]), what is pulled came through the agent.
    pub(super) fn start(scratch: &Scratch, name: &str, mirror: &str, registries: &[String]) -> Self {
        let containerd = Containerd::start(scratch, &format!("containerd-{name}"), None);
        let config = scratch.join(&format!("containerd-{name}/config.toml"));
        setup(&["containerd", "--mirror", mirror, "--config"], &config);
        // What is asked directly is asked in the clear; containerd does so on loopback.
        let clear = registries.iter().map(|name| format!("[[registry]]\nlocation = '{name}'\ninsecure = true\n"));
        let podman = Podman::new(scratch, &format!("podman-{name}"), &clear.collect::<String>());
        let mut arguments = vec!["podman", "--mirror", mirror];
        arguments.extend(registries.iter().flat_map(|registry| ["--registry", registry.as_str()]));
        arguments.push("--config-dir");
        setup(&arguments, &podman.config());
        Self { containerd, podman, copy: scratch.join(&format!("copy-{name}")) }
    }

    /// Containerd; podman and skopeo.
    pub(super) fn parts(&self) -> (&Containerd, &Podman) {
        (&self.containerd, &self.podman)
    }

    /// Pulls with no credentials, and forgets what was pulled.
    ///
    /// # Errors
    /// What the client says.
    pub(super) fn pull(&self, client: Client, reference: &str, image: &Image) -> Result<(), String> {
        self.pull_as(client, None, reference, image)
    }

    /// Pulls, and forgets what was pulled.
    ///
    /// # Errors
    /// What the client says.
    pub(super) fn pull_as(
        &self,
        client: Client,
        credentials: Option<Credentials>,
        reference: &str,
        image: &Image,
    ) -> Result<(), String> {
        let user = credentials.as_ref().map(|user| format!("{}:{}", user.username, user.password));
        match client {
            Client::Containerd => {
                let runtime = runtime();
                let pulled = runtime.block_on(self.containerd.pull(reference, credentials));
                let id = pulled.map_err(|status| status.message().to_owned())?;
                assert_eq!(id, image.config.digest, "{reference}");
                self.containerd.assert_runs(reference, image);
                runtime.block_on(self.containerd.remove(reference)).expect("removed");
            }
            Client::Podman => {
                let output = self.podman.pull(None, reference, user.as_deref());
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                }
                self.podman.assert_runs(reference, image);
                self.podman.forget();
            }
            Client::Skopeo => {
                let more = user.iter().flat_map(|user| ["--src-creds", user]).collect::<Vec<_>>();
                let output = self.podman.copy_with(None, reference, &self.copy, &more);
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                }
                assert_copied(&self.copy, image);
                std::fs::remove_dir_all(&self.copy).expect("our own directory");
            }
        }
        Ok(())
    }

    /// Copies all images of an index with skopeo; the directory.
    pub(super) fn copy_all(&self, reference: &str) -> PathBuf {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let directory = self.copy.with_extension(name.replace(':', "-"));
        let output = self.podman.copy_with(None, reference, &directory, &["--all"]);
        assert!(output.status.success(), "{reference}: {output:?}");
        directory
    }

    /// The same with each client, and it must work.
    pub(super) fn pull_all(&self, what: &str, reference: &str, image: &Image) {
        for client in Client::ALL {
            let pulled = self.pull(client, reference, image);
            pulled.unwrap_or_else(|error| panic!("{what}, {client:?}: {error}\n{}", self.containerd.log()));
        }
    }
}

/// Names of registries at which nobody listens: who goes there without the agent is refused at once.
pub(super) fn name(index: usize) -> String {
    format!("127.0.0.{}:5000", 100 + index)
}
