//! `hawker setup`: what other programs' configuration needs, so that they pull through the agent.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where an agent answers when nobody says otherwise.
const MIRROR: &str = "http://127.0.0.1:7311";

const LONG: &str = "\
Writes the few lines of configuration with which a container runtime of this host asks the agent first and the registry \
itself when the agent does not answer. Images, their names and credentials stay as they are.

Each command may be repeated: what is right already is left alone. What was there before is kept beside the file as \
FILE.before-hawker; --undo puts it back and removes what was made. --dry-run shows what would be written.

`hawker doctor` says afterwards whether all of it is in force.";

const EXAMPLES: &str = "\
Examples:
  hawker setup containerd --dry-run
  hawker setup containerd
  hawker setup containerd --registry docker.io      a registry with a directory of its own, which shadows _default
  hawker setup podman --registry docker.io --registry quay.io
  hawker setup containerd --undo";

/// Let containerd, Podman, CRI-O or Docker pull through the agent
#[derive(Args, Debug)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct SetupArguments {
    #[command(subcommand)]
    pub(crate) client: SetupClient,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SetupClient {
    Containerd(ContainerdArguments),
    Podman(PodmanArguments),
    Crio(CrioArguments),
    Docker(DockerArguments),
}

/// What the commands that write have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct Writing {
    /// Show what would be written or removed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Put back what was there before and remove what was made
    #[arg(long)]
    pub(crate) undo: bool,
}

/// Where the agent answers.
#[derive(Args, Clone, Debug)]
pub(crate) struct Mirror {
    /// The agent's HTTP port
    #[arg(long = "mirror", env = "HAWKER_MIRROR", value_name = "URL", default_value = MIRROR)]
    pub(crate) url: String,
}

const CONTAINERD_LONG: &str = "\
Writes _default/hosts.toml into containerd's directory of registries: one file for all registries, read at each pull, so \
that nothing needs a restart. containerd asks the agent first, and the registry when the agent is away or refuses.

containerd reads that directory only when its config.toml names it (config_path). Where it does not, this command says which \
two lines to add, or adds them itself with --edit-config; that takes effect when containerd is restarted.

A registry that has a directory of its own there does not use _default: the command names such registries, and --registry \
writes into theirs as well.";

/// Write containerd's _default/hosts.toml
#[derive(Args, Clone, Debug)]
#[command(long_about = CONTAINERD_LONG)]
pub(crate) struct ContainerdArguments {
    #[command(flatten)]
    pub(crate) mirror: Mirror,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// containerd's directory of registries (default: what config.toml names, else /etc/containerd/certs.d)
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// containerd's own settings, which are looked at, and changed only with --edit-config
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    pub(crate) config: PathBuf,
    /// A registry with a directory of its own, such as docker.io; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) registry: Vec<String>,
    /// Add config_path to config.toml where it is missing
    #[arg(long)]
    pub(crate) edit_config: bool,
    /// The program that is asked for its version
    #[arg(long, value_name = "PROGRAM", default_value = "containerd")]
    pub(crate) containerd: PathBuf,
}

const PODMAN_LONG: &str = "\
Writes a drop-in for containers-registries.conf(5), which Podman, Buildah, skopeo and CRI-O read: the agent becomes the first \
mirror of each registry that is named. They have no setting for all registries at once.

These programs look up credentials for a mirror by the mirror's own name: those of the registry never reach the agent. For \
private images either give the agent credentials of the host ([mirror] in its settings), or `podman login 127.0.0.1:7311/NAME`.";

/// Write a registries.conf drop-in for Podman, Buildah and skopeo
#[derive(Args, Clone, Debug)]
#[command(long_about = PODMAN_LONG)]
pub(crate) struct PodmanArguments {
    #[command(flatten)]
    pub(crate) mirror: Mirror,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Directory of registries.conf and registries.conf.d (default: /etc/containers as root, else ~/.config/containers)
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// A registry to pull through the agent; may be repeated
    #[arg(long, value_name = "NAME", default_value = "docker.io")]
    pub(crate) registry: Vec<String>,
}

/// Print what CRI-O needs
#[derive(Args, Clone, Debug)]
pub(crate) struct CrioArguments {
    #[command(flatten)]
    pub(crate) mirror: Mirror,
    /// A registry to pull through the agent; may be repeated
    #[arg(long, value_name = "NAME", default_value = "docker.io")]
    pub(crate) registry: Vec<String>,
}

/// Print what Docker needs, and what Docker cannot do
#[derive(Args, Clone, Debug)]
pub(crate) struct DockerArguments {
    #[command(flatten)]
    pub(crate) mirror: Mirror,
}
