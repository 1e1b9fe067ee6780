//! Changing other programs' files so that it can be undone exactly.
//!
//! A file that was written here begins with a comment that holds a digest of the rest: as long as it is right, nobody
//! has changed the file since, and putting the original back loses nothing.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

const MARK: &str = "# Changed by `hawker setup`, which puts back what was here with --undo: ";
const BACKUP: &str = "before-hawker";
/// A configuration file is text for people; more is something else.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was right already.
    Nothing,
    Made,
    Changed,
    /// The original is back.
    Restored,
    /// Nothing was there before.
    Removed,
    /// Not made here, so that there is nothing to undo.
    NotOurs,
}

/// A file as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Current {
    Missing,
    Foreign(String),
    /// Written here and as it was written; with how many directories were made for it.
    Ours {
        body: String,
        directories: usize,
    },
    /// Written here, and changed by somebody since.
    Touched,
}

/// Reads a file; a missing one is empty.
pub(super) fn read(path: &Path) -> Result<Option<String>, Failure> {
    let cannot = |error: &io::Error| Failure::io(format_args!("cannot read {}", path.display()), error);
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(&error)),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(Failure::other(format!("{} is too large for a configuration file", path.display())));
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(|error| cannot(&error))
}

/// What `path` holds, seen with this module's eyes.
pub(super) fn current(path: &Path) -> Result<Current, Failure> {
    let Some(text) = read(path)? else { return Ok(Current::Missing) };
    let Some((seal, body)) = text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n')) else {
        return Ok(Current::Foreign(text));
    };
    let sealed = seal.split_once(' ').and_then(|(digest, count)| Some((digest, count.parse::<usize>().ok()?)));
    Ok(match sealed {
        Some((digest, directories)) if digest == digest_of(body) => {
            Current::Ours { body: body.to_owned(), directories }
        }
        _ => Current::Touched,
    })
}

/// The text that was in `path` before anything was written here.
pub(super) fn original(path: &Path) -> Result<Option<String>, Failure> {
    match current(path)? {
        Current::Missing => Ok(None),
        Current::Foreign(text) => Ok(Some(text)),
        Current::Ours { .. } | Current::Touched => read(&backup(path)),
    }
}

/// Makes `path` hold `body`, keeping what was there before; only says what it would do when `is_dry`.
pub(super) fn write(path: &Path, body: &str, is_dry: bool) -> Result<Change, Failure> {
    let (directories, foreign) = match current(path)? {
        Current::Ours { body: old, .. } if old == body => return Ok(Change::Nothing),
        Current::Ours { directories, .. } => (directories, None),
        Current::Touched => return Err(touched(path)),
        Current::Missing => (path.ancestors().skip(1).take_while(|directory| !directory.exists()).count(), None),
        Current::Foreign(text) => (0, Some(text)),
    };
    let change = if foreign.is_some() || path.exists() { Change::Changed } else { Change::Made };
    if is_dry {
        return Ok(change);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)
        .map_err(|error| Failure::io(format_args!("cannot make {}", parent.display()), &error))?;
    if let Some(text) = foreign {
        replace(&backup(path), text.as_bytes(), path)?;
    }
    replace(path, format!("{MARK}{} {directories}\n{body}", digest_of(body)).as_bytes(), path)?;
    Ok(change)
}

/// Puts back what was there before [`write`].
pub(super) fn undo(path: &Path, is_dry: bool) -> Result<Change, Failure> {
    let directories = match current(path)? {
        Current::Missing | Current::Foreign(_) => return Ok(Change::NotOurs),
        Current::Touched => return Err(touched(path)),
        Current::Ours { directories, .. } => directories,
    };
    let cannot = |error: &io::Error| Failure::io(format_args!("cannot undo {}", path.display()), error);
    let backup = backup(path);
    if backup.exists() {
        if !is_dry {
            fs::rename(&backup, path).map_err(|error| cannot(&error))?;
        }
        return Ok(Change::Restored);
    }
    if !is_dry {
        fs::remove_file(path).map_err(|error| cannot(&error))?;
        for directory in path.ancestors().skip(1).take(directories) {
            // Somebody else's files may be there by now.
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
    Ok(Change::Removed)
}

fn touched(path: &Path) -> Failure {
    let backup = backup(path);
    let before = if backup.exists() { format!("what was there before is {}", backup.display()) } else { String::new() };
    Failure::other(format!("{} was changed by somebody after `hawker setup` wrote it", path.display()))
        .hint(format!("move it away, then run the command again; {before}").trim_end_matches("; ").to_owned())
}

/// Beside the file, and by a name that nobody reads as configuration.
fn backup(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(BACKUP);
    path.with_file_name(name)
}

/// Whole or not at all, with the mode that `like` has.
fn replace(path: &Path, bytes: &[u8], like: &Path) -> Result<(), Failure> {
    let cannot = |error: &io::Error| Failure::io(format_args!("cannot write {}", path.display()), error);
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mut fresh = tempfile::NamedTempFile::new_in(parent).map_err(|error| cannot(&error))?;
    let permissions = fs::metadata(like).map_or_else(|_| readable(), |metadata| metadata.permissions());
    fresh.as_file().set_permissions(permissions).map_err(|error| cannot(&error))?;
    fresh.write_all(bytes).and_then(|()| fresh.as_file().sync_all()).map_err(|error| cannot(&error))?;
    fresh.persist(path).map_err(|error| cannot(&error.error))?;
    fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(|error| cannot(&error))
}

/// Rootless programs read these files, too.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

fn digest_of(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex()[..16].to_owned()
}
