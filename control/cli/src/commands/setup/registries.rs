//! Podman, Buildah, skopeo and CRI-O: a drop-in of registries.conf that puts the agent before each registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use toml::{Table, Value};

use super::files::{self, Change};
use super::{Advice, check_mirror, check_registry, conclude, tell};
use crate::arguments::{CrioArguments, PodmanArguments};
use crate::exit::Failure;

/// Late in the order of names: the last file that names a registry wins.
const DROP_IN: &str = "90-hawker.conf";

pub(super) fn run(arguments: &PodmanArguments) -> Result<ExitCode, Failure> {
    let mirror = check_mirror(&arguments.mirror.url)?;
    let directory = arguments.config_dir.clone().map_or_else(default_directory, Ok)?;
    let path = directory.join("registries.conf.d").join(DROP_IN);
    let is_dry = arguments.writing.dry_run;
    if arguments.writing.undo {
        tell(&path, &files::undo(&path, is_dry)?, is_dry, None);
        return Ok(ExitCode::SUCCESS);
    }
    let mut advice = Vec::new();
    let body = text(&arguments.registry, mirror, &others(&directory)?, &mut advice)?;
    let change = files::write(&path, &body, is_dry)?;
    tell(&path, &change, is_dry, Some(&body));
    if change != Change::Nothing {
        println!("Podman, Buildah and skopeo read it at their next start; CRI-O after `systemctl reload crio`.");
    }
    Ok(conclude(&advice))
}

pub(super) fn print_for_crio(arguments: &CrioArguments) -> Result<ExitCode, Failure> {
    let mirror = check_mirror(&arguments.mirror.url)?;
    let body = text(&arguments.registry, mirror, &[], &mut Vec::new())?;
    println!("CRI-O reads /etc/containers/registries.conf.d. Write 90-hawker.conf there, or let `hawker setup podman`");
    println!("write it, then `systemctl reload crio`:\n");
    for line in body.lines() {
        println!("  {line}");
    }
    println!(
        "\nCredentials of pods do not reach a mirror in CRI-O: private images need credentials of the host in the"
    );
    println!("agent's settings ([mirror]), or come from the registry itself.");
    Ok(ExitCode::SUCCESS)
}

/// Which registries the drop-in sends to the mirror, and whether it is there at all.
pub(crate) fn look(directory: &Path, mirror: &str) -> Result<(PathBuf, Vec<String>), Failure> {
    let path = directory.join("registries.conf.d").join(DROP_IN);
    let address = address(mirror).0;
    let table = files::read(&path)?.and_then(|text| text.parse::<Table>().ok()).unwrap_or_default();
    let names = entries(&table).filter(|entry| {
        let mirrors = entry.get("mirror").and_then(Value::as_array).into_iter().flatten();
        let mut locations = mirrors.filter_map(|mirror| mirror.get("location")?.as_str());
        locations.any(|location| location.split('/').next() == Some(address))
    });
    let names = names.map(|entry| prefix(entry).to_owned()).collect();
    Ok((path, names))
}

/// Where registries.conf.d lies for this user.
pub(crate) fn default_directory() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/etc/containers".into());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CONFIG_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".config")))
        .map(|directory| directory.join("containers"))
        .ok_or_else(|| Failure::usage("neither HOME nor XDG_CONFIG_HOME is set").hint("name one with --config-dir"))
}

/// The drop-in. What other files say of the same registry would be lost, so it is taken over.
fn text(registries: &[String], mirror: &str, others: &[Other], advice: &mut Vec<Advice>) -> Result<String, Failure> {
    let (address, is_insecure) = address(mirror);
    let mut blocks = Vec::new();
    for name in registries {
        check_registry(name)?;
        let other = others.iter().rev().find(|other| prefix(&other.entry) == name);
        let mut entry = other.map(|other| other.entry.clone()).unwrap_or_default();
        if let Some(other) = other.filter(|other| !other.is_before) {
            advice.push(Advice {
                is_blocking: true,
                text: format!("{} names {name}, too, and is read after {DROP_IN}", other.path.display()),
                remedy: format!("take {name} out of it, then run this again"),
            });
        }
        entry.entry("prefix").or_insert_with(|| name.as_str().into());
        let wildcard = name.starts_with("*.");
        if !wildcard {
            entry.entry("location").or_insert_with(|| name.as_str().into());
        }
        let own = Table::from_iter([
            ("location".to_owned(), Value::from(format!("{address}/{}", in_path(name)))),
            ("insecure".to_owned(), Value::from(is_insecure)),
        ]);
        let old = entry.remove("mirror").and_then(|mirrors| mirrors.as_array().cloned()).unwrap_or_default();
        let mut mirrors = vec![Value::from(own)];
        mirrors.extend(old);
        entry.insert("mirror".to_owned(), Value::from(mirrors));
        blocks.push(Value::from(entry));
    }
    let table = Table::from_iter([("registry".to_owned(), Value::from(blocks))]);
    toml::to_string(&table).map_err(|error| Failure::other(format!("cannot write registries.conf: {error}")))
}

/// What another file says of a registry.
struct Other {
    path: PathBuf,
    entry: Table,
    /// Whether our file is read later, and so wins.
    is_before: bool,
}

/// In the order in which they are read.
fn others(directory: &Path) -> Result<Vec<Other>, Failure> {
    let drop_ins = std::fs::read_dir(directory.join("registries.conf.d")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = drop_ins.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "conf") && !path.ends_with(DROP_IN));
    paths.sort();
    paths.insert(0, directory.join("registries.conf"));
    let mut found = Vec::new();
    for path in paths {
        let Some(text) = files::read(&path)? else { continue };
        let parsed = text.parse::<Table>();
        let table = parsed.map_err(|error| Failure::other(format!("{} is not TOML: {error}", path.display())))?;
        let is_before = path.ends_with("registries.conf") || path.file_name() < Some(DROP_IN.as_ref());
        found.extend(entries(&table).map(|entry| Other { path: path.clone(), entry: entry.clone(), is_before }));
    }
    Ok(found)
}

fn entries(table: &Table) -> impl Iterator<Item = &Table> {
    table.get("registry").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
}

/// A registry as a part of an image's name: a port follows two underscores, since no colon may be there.
fn in_path(name: &str) -> String {
    let (host, path) = name.split_once('/').map_or((name, String::new()), |(host, path)| (host, format!("/{path}")));
    format!("{}{path}", host.replacen(':', "__", 1))
}

/// What images of an entry begin with.
fn prefix(entry: &Table) -> &str {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text("prefix").or_else(|| text("location")).unwrap_or_default()
}

/// The mirror without its scheme, and whether that was plain http.
fn address(mirror: &str) -> (&str, bool) {
    mirror.split_once("://").map_or((mirror, true), |(scheme, rest)| (rest, scheme == "http"))
}
