//! Podman and skopeo with a home of their own: nothing of this machine's configuration reaches them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::images::{Image, Index};
use crate::lab::Lab;
use crate::process::Scratch;
use crate::workspace;

/// A user's home, and the images that this user has.
#[derive(Debug)]
pub struct Podman {
    home: PathBuf,
}

impl Podman {
    /// Why this machine can have none, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("podman with storage of its own needs root".to_owned());
        }
        let missing = ["podman", "skopeo"].into_iter().find(|name| workspace::find_program(name).is_none());
        missing.map(|name| format!("{name} is not installed"))
    }

    /// A home without images; `registries` is its registries.conf.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(scratch: &Scratch, name: &str, registries: &str) -> Self {
        let podman = Self { home: scratch.join(name) };
        let directory = podman.config();
        std::fs::create_dir_all(&directory).expect("room");
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).expect("room");
        write("registries.conf", registries);
        write("policy.json", r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#);
        let home = podman.home.display();
        // The only driver that needs nothing of the file system.
        write(
            "storage.conf",
            &format!("[storage]\ndriver = 'vfs'\nrunroot = '{home}/run'\ngraphroot = '{home}/graph'\n"),
        );
        podman
    }

    /// Where registries.conf lies; `hawker setup podman` may be told to write there.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.home.join(".config/containers")
    }

    /// Pulls an image; `credentials` are `user:password`.
    ///
    /// # Panics
    /// When podman cannot be started.
    #[must_use]
    pub fn pull(&self, lab: Option<(&Lab, &str)>, reference: &str, credentials: Option<&str>) -> Output {
        let mut command = self.podman(lab);
        command.args(["pull", "--quiet"]);
        if let Some(credentials) = credentials {
            command.args(["--creds", credentials]);
        }
        command.arg(reference).output().expect("podman runs")
    }

    /// Runs the image's check in its root file system.
    ///
    /// # Panics
    /// When it does not run, or a byte is wrong.
    pub fn assert_runs(&self, reference: &str, image: &Image) {
        let mount = self.podman(None).args(["image", "mount", reference]).output().expect("podman runs");
        assert!(mount.status.success(), "{reference}: {}", String::from_utf8_lossy(&mount.stderr));
        let root = String::from_utf8_lossy(&mount.stdout).trim().to_owned();
        let check = Command::new("chroot").arg(&root).args(image.check_command()).output().expect("chroot runs");
        let _unmounted = self.podman(None).args(["image", "unmount", reference]).output();
        assert_eq!(String::from_utf8_lossy(&check.stdout), image.check_output(), "{reference}: {check:?}");
    }

    /// Forgets all images.
    ///
    /// # Panics
    /// When podman does not do it.
    pub fn forget(&self) {
        let output = self.podman(None).args(["rmi", "--all", "--force"]).output().expect("podman runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Copies an image into a directory with skopeo.
    ///
    /// # Panics
    /// When skopeo cannot be started.
    #[must_use]
    pub fn copy(&self, lab: Option<(&Lab, &str)>, reference: &str, to: &Path) -> Output {
        self.copy_with(lab, reference, to, &[])
    }

    /// The same with more arguments.
    ///
    /// # Panics
    /// When skopeo cannot be started.
    #[must_use]
    pub fn copy_with(&self, lab: Option<(&Lab, &str)>, reference: &str, to: &Path, more: &[&str]) -> Output {
        let mut command = self.command("skopeo", lab);
        command.args(["copy", "--quiet"]).args(more).arg(format!("docker://{reference}"));
        command.arg(format!("dir:{}", to.display())).output().expect("skopeo runs")
    }

    /// What skopeo says of an image without its layers.
    ///
    /// # Panics
    /// When skopeo cannot be started.
    #[must_use]
    pub fn inspect(&self, lab: Option<(&Lab, &str)>, reference: &str) -> Output {
        let mut command = self.command("skopeo", lab);
        command.args(["inspect", &format!("docker://{reference}")]).output().expect("skopeo runs")
    }

    fn podman(&self, lab: Option<(&Lab, &str)>) -> Command {
        let mut command = self.command("podman", lab);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command
    }

    fn command(&self, program: &str, lab: Option<(&Lab, &str)>) -> Command {
        let program = workspace::find_program(program).expect("callers ask for obstacles");
        let mut command = lab.map_or_else(|| Command::new(&program), |(lab, host)| lab.command(host, &program));
        command.env("HOME", &self.home).env("CONTAINERS_STORAGE_CONF", self.config().join("storage.conf"));
        command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_RUNTIME_DIR").env_remove("REGISTRY_AUTH_FILE");
        command
    }
}

/// Asserts that a directory holds what skopeo copied of an image: every byte.
///
/// # Panics
/// When it does not.
pub fn assert_copied(directory: &Path, image: &Image) {
    let manifest = std::fs::read(directory.join("manifest.json")).expect("a manifest");
    assert!(manifest == image.manifest.bytes, "another manifest in {}", directory.display());
    assert_has_blobs(directory, image);
}

/// The same of all images of an index.
///
/// # Panics
/// When it does not.
pub fn assert_copied_all(directory: &Path, index: &Index) {
    let manifest = std::fs::read(directory.join("manifest.json")).expect("a manifest");
    assert!(manifest == index.manifest.bytes, "another index in {}", directory.display());
    for image in &index.images {
        let name = format!("{}.manifest.json", image.manifest.digest.trim_start_matches("sha256:"));
        let manifest = std::fs::read(directory.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(manifest == image.manifest.bytes, "another {name} in {}", directory.display());
        assert_has_blobs(directory, image);
    }
}

fn assert_has_blobs(directory: &Path, image: &Image) {
    for blob in image.blobs() {
        let name = blob.digest.trim_start_matches("sha256:");
        let bytes = std::fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{blob:?}: {error}"));
        assert!(bytes == blob.bytes, "{blob:?} is another one in {}", directory.display());
    }
}
