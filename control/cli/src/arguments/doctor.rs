//! `hawker doctor`.

use std::path::PathBuf;

use clap::Args;

use super::inspect::Target;

const LONG: &str = "\
Looks at the whole way of a pull through this host: the agent and its guard, engine, data directory and disk, scheduler and \
clocks, the mirror's port, in whose name registries are asked (--config), and what containerd and Podman are told. Says what is wrong and what to do about it.

Exit code 1 when something is wrong. JSON keys: is_well, checks[] {name, state (ok, note, wrong), text, remedy}.";

/// Look at the whole way of a pull, and say what is wrong
#[derive(Args, Debug)]
#[command(long_about = LONG)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The agent's settings file, which says in whose name registries are asked
    #[arg(long, env = "HAWKER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// containerd's own settings
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    pub(crate) containerd_config: PathBuf,
    /// containerd's directory of registries (default: what its settings name, else /etc/containerd/certs.d)
    #[arg(long, value_name = "DIR")]
    pub(crate) containerd_dir: Option<PathBuf>,
    /// Directory of registries.conf.d (default: /etc/containers as root, else ~/.config/containers)
    #[arg(long, value_name = "DIR")]
    pub(crate) podman_dir: Option<PathBuf>,
}
