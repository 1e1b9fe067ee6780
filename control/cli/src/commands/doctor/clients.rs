//! What container runtimes of this host are told, and whether it is in force.

use super::Check;
use crate::arguments::{ContainerdArguments, DoctorArguments, Mirror, Writing};
use crate::commands::setup::{look_at_containerd, look_at_registries, registries_directory};
use crate::exit::Failure;

/// What the examples and the defaults name.
const MIRROR: &str = "http://127.0.0.1:7311";

/// `mirror`: where the agent answers, when it does.
pub(super) fn look(arguments: &DoctorArguments, mirror: Option<&str>, checks: &mut Vec<Check>) {
    let mirror = mirror.unwrap_or(MIRROR);
    if let Err(failure) = containerd(arguments, mirror, checks) {
        checks.push(Check::wrong("containerd", failure.message, failure.hint));
    }
    if let Err(failure) = podman(arguments, mirror, checks) {
        checks.push(Check::wrong("podman", failure.message, failure.hint));
    }
}

fn containerd(arguments: &DoctorArguments, mirror: &str, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let state = look_at_containerd(&ContainerdArguments {
        mirror: Mirror { url: mirror.to_owned() },
        writing: Writing { dry_run: true, undo: false },
        config_dir: arguments.containerd_dir.clone(),
        config: arguments.containerd_config.clone(),
        registry: Vec::new(),
        edit_config: false,
        containerd: "containerd".into(),
    })?;
    if !state.is_there {
        checks.push(Check::ok("containerd", "is not on this host"));
        return Ok(());
    }
    let version = state.version.map_or_else(String::new, |(major, minor)| format!("{major}.{minor} "));
    if !state.is_written {
        let text = format!("{version}does not pull through this agent: {} does not name it", state.hosts.display());
        let remedy = if mirror == MIRROR { String::new() } else { format!(" --mirror {mirror}") };
        checks.push(Check::note("containerd", text, format!("hawker setup containerd{remedy}")));
        return Ok(());
    }
    // What is written and not read is worse than what is not written: somebody relies on it.
    let wrongs = state.advice.iter().filter(|advice| advice.is_blocking);
    let mut found: Vec<Check> =
        wrongs.map(|advice| Check::wrong("containerd", advice.text.clone(), advice.remedy.clone())).collect();
    if found.is_empty() {
        found.push(Check::ok("containerd", format!("{version}asks {mirror} first ({})", state.hosts.display())));
    }
    let notes = state.advice.iter().filter(|advice| !advice.is_blocking);
    found.extend(notes.map(|advice| Check::note("containerd", advice.text.clone(), advice.remedy.clone())));
    checks.append(&mut found);
    Ok(())
}

fn podman(arguments: &DoctorArguments, mirror: &str, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let directory = arguments.podman_dir.clone().map_or_else(registries_directory, Ok)?;
    let (path, names) = look_at_registries(&directory, mirror)?;
    checks.push(if !names.is_empty() {
        Check::ok("podman", format!("asks {mirror} first for {} ({})", names.join(", "), path.display()))
    } else if directory.join("registries.conf").exists() {
        Check::note("podman", "does not pull through this agent", "hawker setup podman --registry NAME")
    } else {
        Check::ok("podman", "is not on this host")
    });
    Ok(())
}
