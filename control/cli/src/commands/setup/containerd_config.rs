//! What containerd's own config.toml says about registries, and the two lines it may lack.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::files;
use crate::exit::Failure;

/// Sections that hold CRI's registry settings: of version 3, 2 and 1 of the file.
const SECTIONS: [(u64, &str); 3] = [(3, "io.containerd.cri.v1.images"), (2, "io.containerd.grpc.v1.cri"), (1, "cri")];
/// Files that one config.toml may import.
const IMPORTS_MAX: usize = 64;

/// config.toml and what it imports, as far as registries go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Of the file's format; `None` without a file.
    pub(crate) version: Option<u64>,
    /// Directories of registries, in the order in which containerd looks.
    pub(crate) directories: Vec<PathBuf>,
    /// `registry.mirrors`, which containerd refuses beside config_path.
    pub(crate) has_mirrors: bool,
    /// `registry.configs.*.tls`, the same.
    pub(crate) has_tls: bool,
}

impl Settings {
    /// Reads `path` and its imports.
    ///
    /// # Errors
    /// A file that cannot be read, or is not TOML: containerd would not start with it either.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let mut settings = Self::default();
        let Some(table) = parse(path)? else { return Ok(settings) };
        settings.version = Some(version(&table));
        settings.take(&table);
        for import in imports(&table, path).into_iter().take(IMPORTS_MAX) {
            if let Some(table) = parse(&import)? {
                settings.take(&table);
            }
        }
        Ok(settings)
    }

    fn take(&mut self, table: &Table) {
        let plugins = table.get("plugins").and_then(Value::as_table);
        for registry in SECTIONS.iter().filter_map(|(_, name)| plugins?.get(*name)?.get("registry")?.as_table()) {
            if let Some(path) = registry.get("config_path").and_then(Value::as_str).filter(|path| !path.is_empty()) {
                self.directories = path.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect();
            }
            let is_filled = |name: &str| registry.get(name).and_then(Value::as_table).filter(|table| !table.is_empty());
            self.has_mirrors |= is_filled("mirrors").is_some();
            let has_tls = |table: &Table| table.values().any(|config| config.get("tls").is_some());
            self.has_tls |= is_filled("configs").is_some_and(has_tls);
        }
    }
}

fn parse(path: &Path) -> Result<Option<Table>, Failure> {
    let Some(text) = files::read(path)? else { return Ok(None) };
    let parsed = text.parse::<Table>();
    parsed.map(Some).map_err(|error| Failure::other(format!("{} is not TOML: {error}", path.display())))
}

fn version(table: &Table) -> u64 {
    table.get("version").and_then(Value::as_integer).and_then(|version| u64::try_from(version).ok()).unwrap_or(1)
}

/// Imported files: names, or patterns with one `*` in their last part.
fn imports(table: &Table, path: &Path) -> Vec<PathBuf> {
    let patterns = table.get("imports").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut found = Vec::new();
    for pattern in patterns {
        let pattern = path.parent().unwrap_or(Path::new("/")).join(pattern);
        let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((start, end)) = name.split_once('*') else {
            found.push(pattern);
            continue;
        };
        let entries = pattern.parent().and_then(|directory| std::fs::read_dir(directory).ok());
        let mut names: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        names.retain(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        });
        names.sort();
        found.extend(names);
    }
    found
}

/// The lines that make containerd read `directory`.
pub(super) fn lines(version: u64, directory: &Path) -> String {
    let (header, setting) = section(version, directory);
    format!("{header}\n{setting}\n")
}

/// `text` of config.toml with config_path in it; `version` is that of a file that is yet to be made.
pub(super) fn with_config_path(text: Option<&str>, version: u64, directory: &Path) -> String {
    let (header, setting) = section(version, directory);
    let Some(text) = text else { return format!("version = {version}\n\n{header}\n{setting}\n") };
    let bare = |line: &str| line.split('#').next().unwrap_or_default().replace([' ', '\t', '"', '\''], "");
    let wanted = bare(&header);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some(start) = lines.iter().position(|line| bare(line) == wanted) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{gap}\n{header}\n{setting}\n");
    };
    let end = lines[start + 1..].iter().position(|line| line.trim_start().starts_with('['));
    let end = end.map_or(lines.len(), |offset| start + 1 + offset);
    let old = (start + 1..end).find(|index| bare(&lines[*index]).starts_with("config_path="));
    match old {
        Some(index) => lines[index] = setting,
        None => lines.insert(start + 1, setting),
    }
    lines.join("\n") + "\n"
}

fn section(version: u64, directory: &Path) -> (String, String) {
    let name = SECTIONS.iter().find(|(of, _)| *of <= version).map_or("cri", |(_, name)| name);
    (format!("[plugins.\"{name}\".registry]"), format!("  config_path = \"{}\"", directory.display()))
}
