//! In whose name registries are asked, by the agent's settings.

use std::path::Path;

use hawker_agent::config::{CredentialsPolicy, RegistryConfig};

use super::Check;
use crate::exit::Failure;
use crate::settings;

const NAME: &str = "registry";
/// What those who are asked for nothing particular do.
const FORWARD: &str = "what the client sends is passed on: containerd sends it unless its pull secret names the registry \
                       (ServerAddress); Podman, CRI-O and Docker keep it to themselves, so that only public images come";

/// `config`: the agent's settings file.
pub(super) fn look(config: Option<&Path>, checks: &mut Vec<Check>) {
    let Some(path) = config else {
        checks.push(Check::ok(NAME, format!("all: {FORWARD}")));
        return;
    };
    match settings::read_mirror(path) {
        Ok(mirror) if !mirror.is_enabled => {
            let text = format!("the mirror is switched off in {}", path.display());
            checks.push(Check::wrong(NAME, text, "take `enabled = false` out of [mirror], and restart the agent"));
        }
        Ok(mirror) => {
            checks.extend(mirror.registries.iter().map(check));
            checks.push(if mirror.is_only_configured {
                Check::ok(NAME, "all others: not through this agent (only-configured)")
            } else {
                Check::ok(NAME, format!("all others: {FORWARD}"))
            });
        }
        Err(Failure { message, hint, .. }) => checks.push(Check::wrong(NAME, message, hint)),
    }
}

fn check(registry: &RegistryConfig) -> Check {
    let name = &registry.name;
    let plain = if registry.is_insecure { ", insecurely" } else { "" };
    match registry.credentials {
        CredentialsPolicy::Forward => Check::ok(NAME, format!("{name}{plain}: {FORWARD}")),
        CredentialsPolicy::Bypass => {
            Check::note(NAME, format!("{name}: clients are sent to the registry itself (bypass)"), "")
        }
        CredentialsPolicy::Node => {
            let file = registry.auth_file.as_deref();
            if let Some(path) = file.filter(|path| !path.is_file()) {
                let text = format!(
                    "{name}{plain}: the credentials of this host are to be used, and {} is not there",
                    path.display()
                );
                return Check::wrong(NAME, text, format!("docker login {name}, or name the right file as auth-file"));
            }
            let helper = registry.helper.as_ref().map(|helper| format!("docker-credential-{helper}"));
            let from = file.map(|path| path.display().to_string()).or(helper).unwrap_or_default();
            Check::ok(NAME, format!("{name}{plain}: the credentials of this host, from {from}, for every client of it"))
        }
    }
}
