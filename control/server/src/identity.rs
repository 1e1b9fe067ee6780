//! The scheduler's signing key and its epoch: all that must outlive it.
//!
//! ```text
//! data_dir/lock            held by one scheduler (flock)
//! data_dir/scheduler.key   64 hexadecimal digits, 0600: the seed of the Ed25519 key
//! data_dir/epoch           a decimal number: grows by one at every start
//! ```
//!
//! The first epoch of a directory is a random one. A lease's serial begins with it, and agents still fetch under leases
//! of a scheduler whose directory was lost: were epochs counted from 1, the leases of the next one would look like those.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use hawker_proto::{HostKey, TaskId};

use crate::ServerError;

/// Who this scheduler is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: HostKey,
    pub(crate) epoch: u64,
    /// Released when dropped.
    _lock: File,
}

/// Reads the key (or makes one) and raises the epoch, both on disk before anything is signed with them: a lease of
/// one life must never look like one of another.
pub(crate) fn open(data_dir: &Path) -> Result<Identity, ServerError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| ServerError::Random(io::Error::other(error)))?;
    open_with(data_dir, seed).map_err(|error| ServerError::DataDir(data_dir.to_path_buf(), error))
}

fn open_with(data_dir: &Path, fresh_seed: [u8; 32]) -> io::Result<Identity> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(data_dir.join("lock"))?;
    lock.try_lock().map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "another scheduler uses it"))?;

    let key_path = data_dir.join("scheduler.key");
    let seed = match fs::read_to_string(&key_path) {
        // A task id is 32 bytes in hexadecimal, as a seed is.
        Ok(text) => text.trim_end().parse::<TaskId>().map(|id| id.0).map_err(|_| invalid("scheduler.key"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(data_dir, "scheduler.key", &format!("{}\n", TaskId(fresh_seed)))?;
            fresh_seed
        }
        Err(error) => return Err(error),
    };
    let last = match fs::read_to_string(data_dir.join("epoch")) {
        Ok(text) => text.trim_end().parse::<u64>().map_err(|_| invalid("epoch"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => first_epoch(fresh_seed),
        Err(error) => return Err(error),
    };
    let epoch = last.checked_add(1).ok_or_else(|| invalid("epoch"))?;
    write_durably(data_dir, "epoch", &format!("{epoch}\n"))?;
    Ok(Identity { key: HostKey::from_seed(seed), epoch, _lock: lock })
}

/// Below 2^28: serials are the epoch and 32 bits more, and agents set bits of their own from 2^62 on.
fn first_epoch(fresh_seed: [u8; 32]) -> u64 {
    let [a, b, c, d, ..] = HostKey::from_seed(fresh_seed).public().0;
    u64::from(u32::from_le_bytes([a, b, c, d & 0x0f]))
}

/// The old content or the new one, whenever the power goes.
fn write_durably(data_dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let fresh = data_dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, data_dir.join(name))?;
    File::open(data_dir)?.sync_all()
}

fn invalid(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} does not hold what a scheduler wrote there"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn restart_keeps_the_key_and_raises_the_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("a/b");
        let first = open_with(&data_dir, [1; 32]).unwrap();
        let (public, epoch) = (first.key.public(), first.epoch);
        drop(first);
        let second = open_with(&data_dir, [2; 32]).unwrap();
        assert_eq!((second.key.public(), second.epoch), (public, epoch + 1));
        for name in ["scheduler.key", "epoch"] {
            let mode = fs::metadata(data_dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn lost_directory_brings_other_keys_and_other_epochs() {
        let epochs: Vec<(_, u64)> = (1..=3u8)
            .map(|seed| {
                let directory = tempfile::tempdir().unwrap();
                let identity = open_with(directory.path(), [seed; 32]).unwrap();
                (identity.key.public(), identity.epoch)
            })
            .collect();
        for (index, (key, epoch)) in epochs.iter().enumerate() {
            assert!(*epoch <= 1 << 28);
            assert!(epochs[..index].iter().all(|(other_key, other)| other_key != key && other.abs_diff(*epoch) > 1000));
        }
    }

    #[test]
    fn two_schedulers_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _first = open_with(directory.path(), [1; 32]).unwrap();
        assert_eq!(open_with(directory.path(), [1; 32]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn damaged_files_are_named_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("scheduler.key"), "short").unwrap();
        let error = open_with(directory.path(), [1; 32]).unwrap_err();
        assert!(error.to_string().contains("scheduler.key"), "{error}");
        assert_eq!(fs::read_to_string(directory.path().join("scheduler.key")).unwrap(), "short");
    }
}
