//! containerd: `_default/hosts.toml` in its directory of registries.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use toml::Table;

use super::containerd_config::{Settings, lines, with_config_path};
use super::files::{self, Current};
use super::{Advice, check_mirror, check_registry, conclude, tell};
use crate::arguments::ContainerdArguments;
use crate::exit::Failure;

const DIRECTORY: &str = "/etc/containerd/certs.d";
const DEFAULT: &str = "_default";
/// The first one whose CRI reads a directory of registries.
const OLDEST: (u64, u64) = (1, 5);
/// The first one that gives up on a mirror that takes no connection before 30 s have passed.
const WITH_DIAL_TIMEOUT: (u64, u64) = (2, 1);
/// The first one whose config.toml is of version 3 when nobody says.
const WITH_VERSION_3: (u64, u64) = (2, 0);

/// What containerd of this host would do with a pull.
#[derive(Clone, Debug)]
pub(crate) struct ContainerdState {
    /// Whether there is a trace of containerd on this host.
    pub(crate) is_there: bool,
    pub(crate) version: Option<(u64, u64)>,
    /// `_default/hosts.toml` as it should be read.
    pub(crate) hosts: PathBuf,
    /// Whether that file names the mirror.
    pub(crate) is_written: bool,
    pub(crate) advice: Vec<Advice>,
}

/// Looks at what is there, and changes nothing.
pub(crate) fn look(arguments: &ContainerdArguments) -> Result<ContainerdState, Failure> {
    let mirror = check_mirror(&arguments.mirror.url)?;
    let settings = Settings::read(&arguments.config)?;
    let directory = directory(arguments, &settings);
    let version = version_of(&arguments.containerd);
    let hosts = directory.join(DEFAULT).join("hosts.toml");
    let text = files::read(&hosts)?;
    Ok(ContainerdState {
        is_there: version.is_some() || settings.version.is_some() || text.is_some(),
        version,
        is_written: text.as_deref().is_some_and(|text| names(text, mirror)),
        advice: advice(&settings, version, &directory, &arguments.config, mirror)?,
        hosts,
    })
}

pub(super) fn run(arguments: &ContainerdArguments) -> Result<ExitCode, Failure> {
    let mirror = check_mirror(&arguments.mirror.url)?;
    for name in &arguments.registry {
        check_registry(name)?;
    }
    let settings = Settings::read(&arguments.config)?;
    let directory = directory(arguments, &settings);
    if arguments.writing.undo {
        return undo(arguments, &directory);
    }
    let version = version_of(&arguments.containerd);
    if let Some((major, minor)) = version.filter(|version| *version < OLDEST) {
        return Err(Failure::other(format!("containerd {major}.{minor} reads no directory of registries"))
            .hint("1.5 is the oldest that does; 2.1 or later gives up soonest on a mirror that is away"));
    }
    let is_dry = arguments.writing.dry_run;
    for name in [DEFAULT].into_iter().chain(arguments.registry.iter().map(String::as_str)) {
        let path = directory.join(host_directory(&directory, name)).join("hosts.toml");
        let original = files::original(&path)?;
        if matches!(files::current(&path)?, Current::Foreign(text) if names(&text, mirror)) {
            tell(&path, &files::Change::Nothing, is_dry, None);
            continue;
        }
        let body = hosts_text(original.as_deref(), name, &path, mirror, version)?;
        tell(&path, &files::write(&path, &body, is_dry)?, is_dry, Some(&body));
    }
    let is_read = settings.directories.contains(&directory);
    let can_edit = arguments.edit_config && !is_read && !settings.has_mirrors && !settings.has_tls;
    if can_edit {
        let format = file_format(&settings, version);
        let body = with_config_path(files::original(&arguments.config)?.as_deref(), format, &directory);
        tell(&arguments.config, &files::write(&arguments.config, &body, is_dry)?, is_dry, Some(&body));
        println!("restart containerd now: systemctl restart containerd (running containers stay)");
    }
    let mut left = advice(&settings, version, &directory, &arguments.config, mirror)?;
    left.retain(|advice| !(advice.is_blocking && can_edit));
    Ok(conclude(&left))
}

fn undo(arguments: &ContainerdArguments, directory: &Path) -> Result<ExitCode, Failure> {
    let is_dry = arguments.writing.dry_run;
    let mut paths: Vec<PathBuf> = registries(directory).iter().map(|name| name.join("hosts.toml")).collect();
    paths.insert(0, directory.join(DEFAULT).join("hosts.toml"));
    paths.push(arguments.config.clone());
    for (index, path) in paths.iter().enumerate() {
        let change = files::undo(path, is_dry)?;
        if index == 0 || change != files::Change::NotOurs {
            tell(path, &change, is_dry, None);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn directory(arguments: &ContainerdArguments, settings: &Settings) -> PathBuf {
    let configured = || settings.directories.first().cloned();
    let directory = arguments.config_dir.clone().or_else(configured).unwrap_or_else(|| DIRECTORY.into());
    // containerd has a working directory of its own.
    std::path::absolute(&directory).unwrap_or(directory)
}

/// Version 2 unless the file, or a containerd that would make a new one, says otherwise.
fn file_format(settings: &Settings, version: Option<(u64, u64)>) -> u64 {
    let fresh = if version.is_some_and(|version| version >= WITH_VERSION_3) { 3 } else { 2 };
    settings.version.unwrap_or(fresh)
}

/// What keeps pulls away from the agent, or from being quick without it.
fn advice(
    settings: &Settings,
    version: Option<(u64, u64)>,
    directory: &Path,
    config: &Path,
    mirror: &str,
) -> Result<Vec<Advice>, Failure> {
    let mut advice = Vec::new();
    let (directory_shown, config_shown) = (directory.display(), config.display());
    if settings.has_mirrors || settings.has_tls {
        let what = if settings.has_mirrors { "registry.mirrors" } else { "registry.configs with tls" };
        advice.push(Advice {
            is_blocking: true,
            text: format!("{config_shown} has {what}, and containerd's CRI does not start with that beside config_path"),
            remedy: format!(
                "move each of its registries to {directory_shown}/NAME/hosts.toml, take the section out, then run this again"
            ),
        });
    } else if !settings.directories.iter().any(|read| read == directory) {
        let lines = lines(file_format(settings, version), directory);
        advice.push(Advice {
            is_blocking: true,
            text: format!("{config_shown} does not tell containerd to read {directory_shown}"),
            remedy: format!(
                "add these two lines (or let --edit-config add them), then restart containerd:\n{}",
                lines.trim_end()
            ),
        });
    }
    for own in registries(directory) {
        let text = files::read(&own.join("hosts.toml"))?;
        if !text.is_some_and(|text| names(&text, mirror)) {
            let name = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
            advice.push(Advice {
                is_blocking: false,
                text: format!("{} shadows {DEFAULT}: images of {name} do not come through the agent", own.display()),
                remedy: format!("hawker setup containerd --registry {name}"),
            });
        }
    }
    if version.is_some_and(|version| version < WITH_DIAL_TIMEOUT) {
        advice.push(Advice {
            is_blocking: false,
            text: "this containerd knows no dial_timeout (2.1 does): a host whose kernel drops packets to the agent's port \
                   would wait 30 s for it. An agent that is away or restarts is noticed at once"
                .to_owned(),
            remedy: String::new(),
        });
    }
    Ok(advice)
}

/// hosts.toml with the mirror first, and all that was in it before.
fn hosts_text(
    original: Option<&str>,
    name: &str,
    path: &Path,
    mirror: &str,
    version: Option<(u64, u64)>,
) -> Result<String, Failure> {
    let mut host = format!("[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    if version.is_some_and(|version| version >= WITH_DIAL_TIMEOUT) {
        host += "  dial_timeout = \"200ms\"\n";
    }
    let Some(original) = original else {
        if name == DEFAULT {
            return Ok(format!("# For every registry: the agent first, then the registry itself.\n{host}"));
        }
        return Ok(format!("server = \"{}\"\n{}\n{host}", upstream(name), certificates(path)?));
    };
    let parsed = original.parse::<Table>();
    parsed.map_err(|error| Failure::other(format!("{} is not TOML: {error}", path.display())))?;
    // Settings of the registry itself stand before the first table, hosts in the order in which they are asked.
    let start =
        original.lines().take_while(|line| !line.trim_start().starts_with('[')).map(|line| line.len() + 1).sum();
    let (top, rest) = original.split_at(std::cmp::min(start, original.len()));
    let gap = if top.is_empty() || top.ends_with('\n') { "" } else { "\n" };
    let space = if rest.is_empty() { "" } else { "\n" };
    Ok(format!("{top}{gap}{host}{space}{rest}"))
}

/// What containerd read from a directory without hosts.toml: authorities, each in a file of its own.
fn certificates(path: &Path) -> Result<String, Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    let with =
        |end: &str| files.iter().filter(|file| file.extension().is_some_and(|have| have == end)).collect::<Vec<_>>();
    if let Some(client) = with("cert").first() {
        return Err(Failure::other(format!("{} is a client's certificate", client.display()))
            .hint(format!("write `server` and `client` into {} by hand, then run this again", path.display())));
    }
    let authorities: Vec<String> = with("crt").iter().map(|file| format!("\"{}\"", file.display())).collect();
    Ok(if authorities.is_empty() { String::new() } else { format!("ca = [{}]\n", authorities.join(", ")) })
}

/// Where a registry really is.
fn upstream(name: &str) -> String {
    match name {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        _ => format!("https://{name}"),
    }
}

/// The directory of a registry; the one with a port may be written in two ways.
fn host_directory(directory: &Path, name: &str) -> String {
    let Some((host, port)) = name.rsplit_once(':') else { return name.to_owned() };
    // containerd looks for this one first.
    let safe = format!("{host}_{port}_");
    if directory.join(&safe).exists() || !directory.join(name).exists() { safe } else { name.to_owned() }
}

/// Directories of single registries.
fn registries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir() && !path.ends_with(DEFAULT)).collect();
    found.sort();
    found
}

/// Whether a hosts.toml asks the mirror for names and content.
fn names(text: &str, mirror: &str) -> bool {
    let Ok(table) = text.parse::<Table>() else { return false };
    let host = table.get("host").and_then(|hosts| hosts.get(mirror)).and_then(toml::Value::as_table);
    let Some(host) = host else { return false };
    let capabilities = host.get("capabilities").and_then(toml::Value::as_array);
    // Without a list it may do everything.
    capabilities
        .is_none_or(|list| ["pull", "resolve"].iter().all(|name| list.iter().any(|have| have.as_str() == Some(name))))
}

/// Major and minor number; `None` when the program is not there or says something else.
fn version_of(program: &Path) -> Option<(u64, u64)> {
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `containerd github.com/containerd/containerd v2.1.4 abcdef`, or `1.6.20~ds1` in its place.
pub(super) fn parse_version(text: &str) -> Option<(u64, u64)> {
    let word = text.split_whitespace().nth(2)?.trim_start_matches('v');
    let mut numbers = word.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
