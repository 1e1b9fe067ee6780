//! `hawker setup`: other programs' configuration, so that they pull through the agent; and, for `hawker doctor`, what of
//! it is in force.

mod containerd;
mod containerd_config;
mod files;
mod registries;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::ExitCode;

use crate::arguments::{DockerArguments, SetupArguments, SetupClient};
use crate::exit::Failure;
use files::Change;

pub(crate) use containerd::look as look_at_containerd;
pub(crate) use registries::{default_directory as registries_directory, look as look_at_registries};

/// Something for the user to know, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// Whether pulls do not go through the agent before this is done.
    pub(crate) is_blocking: bool,
    pub(crate) text: String,
    /// What to do; empty when there is nothing.
    pub(crate) remedy: String,
}

pub(crate) fn run(arguments: &SetupArguments) -> Result<ExitCode, Failure> {
    match &arguments.client {
        SetupClient::Containerd(arguments) => containerd::run(arguments),
        SetupClient::Podman(arguments) => registries::run(arguments),
        SetupClient::Crio(arguments) => registries::print_for_crio(arguments),
        SetupClient::Docker(arguments) => docker(arguments),
    }
}

fn docker(arguments: &DockerArguments) -> Result<ExitCode, Failure> {
    let mirror = check_mirror(&arguments.mirror.url)?;
    let address = mirror.split_once("://").map_or(mirror, |(_, rest)| rest);
    println!("Docker reads /etc/docker/daemon.json. Add, and restart it (`systemctl restart docker`):\n");
    println!("  {{ \"registry-mirrors\": [\"{mirror}\"] }}\n");
    println!(
        "What Docker cannot do: it asks mirrors for images of Docker Hub only. Other registries it asks itself, unless an \
         image is named by the agent's address:"
    );
    println!("  docker pull {address}/quay.io/prometheus/busybox:latest");
    println!(
        "It never sends credentials to a mirror: private images of Docker Hub come from Docker Hub, unless the agent has \
         credentials of its own ([mirror] in its settings). Kubernetes on containerd has neither limit: `hawker setup \
         containerd`."
    );
    Ok(ExitCode::SUCCESS)
}

/// The mirror's URL without a slash at its end; http or https and a host, nothing else.
fn check_mirror(url: &str) -> Result<&str, Failure> {
    let trimmed = url.trim_end_matches('/');
    let rest = trimmed.strip_prefix("http://").or_else(|| trimmed.strip_prefix("https://"));
    let is_plain = |rest: &str| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
    };
    if rest.is_some_and(is_plain) {
        return Ok(trimmed);
    }
    Err(Failure::usage(format!("--mirror {url} is not a URL of a host")).hint("such as http://127.0.0.1:7311"))
}

/// A registry's name as images have it: a host, perhaps with a port, and for registries.conf a path.
fn check_registry(name: &str) -> Result<(), Failure> {
    let is_right = !name.is_empty()
        && !name.starts_with(['.', '-', '/'])
        && !name.contains("..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_/".contains(&byte));
    if is_right {
        return Ok(());
    }
    Err(Failure::usage(format!("--registry {name} is not a registry's name")).hint("such as docker.io or host:5000"))
}

/// Tells what became, or would become, of a file.
fn tell(path: &Path, change: &Change, is_dry: bool, body: Option<&str>) {
    let (done, would) = match change {
        Change::Nothing => ("is right already:", "is right already:"),
        Change::Made => ("made", "would make"),
        Change::Changed => ("changed", "would change"),
        Change::Restored => ("restored", "would restore"),
        Change::Removed => ("removed", "would remove"),
        Change::NotOurs => ("nothing to undo:", "nothing to undo:"),
    };
    println!("{} {}", if is_dry { would } else { done }, path.display());
    if let (true, Some(body), Change::Made | Change::Changed) = (is_dry, body, change) {
        for line in body.lines() {
            println!("  {line}");
        }
    }
}

/// Prints what is left to do; a blocking one makes the command's exit code 1.
fn conclude(advice: &[Advice]) -> ExitCode {
    for advice in advice {
        println!("\n{}{}", if advice.is_blocking { "NOT IN FORCE YET: " } else { "note: " }, advice.text);
        for line in advice.remedy.lines() {
            println!("  {line}");
        }
    }
    if advice.iter().any(|advice| advice.is_blocking) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
