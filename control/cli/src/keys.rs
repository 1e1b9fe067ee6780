//! The cluster key: made once, kept in a file that only its owner can read, the same on every host.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use hawker_proto::ClusterKey;

use crate::exit::Failure;

/// Instead of a file, for places that hand out secrets as variables.
pub(crate) const VARIABLE: &str = "HAWKER_CLUSTER_KEY_TEXT";

/// A key file holds 64 digits and a newline; more is some other file.
const FILE_BYTES_MAX: u64 = 4096;

/// The key in `path`, else the one in the environment, else none.
pub(crate) fn find(path: Option<&Path>) -> Result<Option<ClusterKey>, Failure> {
    if let Some(path) = path {
        return read(path).map(Some);
    }
    match std::env::var(VARIABLE) {
        Ok(text) => parse(&text, VARIABLE).map(Some),
        Err(_) => Ok(None),
    }
}

/// The key in `path`, made first when there is none.
pub(crate) fn find_or_make(path: &Path) -> Result<ClusterKey, Failure> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let text = generate()?;
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))?;
            parse(&text, &path.display().to_string())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(Failure::io(format_args!("cannot write {}", path.display()), &error)),
    }
}

/// A fresh key as text.
pub(crate) fn generate() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Failure::other(format!("no random bytes: {error}")))?;
    let mut text = String::with_capacity(65);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    Ok(text)
}

fn read(path: &Path) -> Result<ClusterKey, Failure> {
    let shown = path.display().to_string();
    let cannot = |error: &std::io::Error| {
        Failure::usage(format!("cannot read the cluster key {shown}: {error}"))
            .hint("make one with `openssl rand -hex 32`, mode 0600, and copy it to every host")
    };
    let file = File::open(path).map_err(|error| cannot(&error))?;
    if file.metadata().map_err(|error| cannot(&error))?.mode() & 0o077 != 0 {
        tracing::warn!(path = shown, "others than the owner can read the cluster key: chmod 600");
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    parse(&text, &shown)
}

fn parse(text: &str, place: &str) -> Result<ClusterKey, Failure> {
    // The text is a secret: it is not repeated.
    ClusterKey::from_text(text.trim())
        .map_err(|_| Failure::usage(format!("{place} does not hold a cluster key: 64 hex digits")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        let made = find_or_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(find_or_make(&path).unwrap().as_bytes(), made.as_bytes());
        assert_eq!(find(Some(&path)).unwrap().unwrap().as_bytes(), made.as_bytes());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        std::fs::write(&path, "secret but short").unwrap();
        let failure = find(Some(&path)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(!failure.message.contains("secret"));
        assert_eq!(find(Some(&directory.path().join("none"))).unwrap_err().exit, Exit::Usage);
    }
}
