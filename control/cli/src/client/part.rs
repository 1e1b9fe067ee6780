//! FILE while it is not whole: a sibling that gets its name at the very end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hawker_agent::embedded::part_dir;
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::exit::Failure;

/// Copied at most at once, so that signals and events are looked at in between.
pub(crate) const STEP_BYTES: u64 = 4 << 20;

/// A file being filled. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    is_kept: bool,
}

/// Says now what would fail after the download: FILE exists, is a directory, or lies nowhere.
pub(crate) fn check_target(target: &Path, overwrite: bool) -> Result<(), Failure> {
    let shown = target.display();
    if target.file_name().is_none() {
        return Err(Failure::usage(format!("`{shown}` is not a file name")));
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => {
            return Err(Failure::usage(format!("{shown} is a directory")).hint("name the file in it"));
        }
        Ok(_) if !overwrite => {
            return Err(Failure::usage(format!("{shown} exists")).hint("--overwrite replaces it"));
        }
        // A rename would replace the device or socket itself.
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            return Err(Failure::usage(format!("{shown} is not a regular file")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::usage(format!("{shown}: {error}"))),
    }
    match fs::metadata(directory_of(target)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{} is not a directory", directory_of(target).display()))),
        Err(error) => Err(Failure::usage(format!("{}: {error}", directory_of(target).display()))),
    }
}

/// Gives `whole` the name `target`, durably. Without `overwrite` a file that appeared meanwhile stays.
pub(crate) fn publish(whole: &Path, target: &Path, overwrite: bool) -> Result<(), Failure> {
    let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let mut renamed = rustix::fs::renameat_with(CWD, whole, CWD, target, flags);
    if renamed == Err(Errno::INVAL) && !overwrite {
        // The file system has no RENAME_NOREPLACE (NFS). A hard link fails on an existing name just as well.
        renamed = rustix::fs::link(whole, target).and_then(|()| rustix::fs::unlink(whole));
    }
    match renamed {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            return Err(Failure::usage(format!("{} appeared during the download", target.display()))
                .hint("--overwrite replaces it"));
        }
        Err(error) => return Err(Failure::io(format_args!("cannot name {}", target.display()), &error.into())),
    }
    let directory = directory_of(target);
    File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Failure::io(format_args!("cannot sync {}", directory.display()), &error))
}

impl Part {
    /// The empty part of `target`, locked, so that two downloads to one FILE do not mix.
    pub(crate) fn create(target: &Path) -> Result<Self, Failure> {
        let path = part_dir(target);
        let cannot = |error: &io::Error| Failure::io(format_args!("cannot write {}", path.display()), error);
        if path.is_dir() {
            // An interrupted download without an agent left it; now there is one.
            fs::remove_dir_all(&path).map_err(|error| cannot(&error))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|error| cannot(&error))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Failure::usage(format!("another download to {} is running", target.display())));
        }
        // The one that held the lock before may have renamed or removed what was just opened.
        let (opened, named) = (file.metadata(), fs::symlink_metadata(&path));
        if !matches!((opened, named), (Ok(opened), Ok(named)) if opened.ino() == named.ino()) {
            return Err(Failure::usage(format!("another download to {} was running", target.display()))
                .hint("run the command again"));
        }
        file.set_len(0).map_err(|error| cannot(&error))?;
        Ok(Self { path, file, is_kept: false })
    }

    /// Empties it: the content turned out to be another.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Copies a range of the content to the same place here.
    pub(crate) fn copy(&mut self, content: &File, range: Range<u64>) -> io::Result<()> {
        copy_in_kernel(content, &self.file, range.clone()).or_else(|error| match Errno::from_io_error(&error) {
            // Another file system, or one that cannot: read and write do the same.
            Some(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                copy_by_hand(content, &self.file, range)
            }
            _ => Err(error),
        })
    }

    /// Shares the content's blocks instead of copying them, where the file system can.
    pub(crate) fn share_blocks(&mut self, content: &File) -> bool {
        rustix::fs::ioctl_ficlone(&self.file, content).is_ok()
    }

    /// Fills `bytes` from `offset`.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Puts a hard link to `whole` in the place of the part.
    pub(crate) fn replace_by_link(&mut self, whole: &Path) -> io::Result<()> {
        let beside = self.path.with_extension("hawker-link");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(whole, &beside)?;
        fs::rename(&beside, &self.path).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = fs::remove_file(&beside);
        })
    }

    /// Makes the part FILE: `length` bytes, on disk, under its name.
    pub(crate) fn finish(mut self, target: &Path, length: Option<u64>, overwrite: bool) -> Result<(), Failure> {
        let cannot = |error: &io::Error| Failure::io(format_args!("cannot write {}", target.display()), error);
        if let Some(length) = length {
            self.file.set_len(length).map_err(|error| cannot(&error))?;
            self.file.sync_all().map_err(|error| cannot(&error))?;
        }
        publish(&self.path, target, overwrite)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // Gone already is as good; there is nobody left to tell of anything else.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn directory_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn copy_in_kernel(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    let (mut from_offset, mut to_offset) = (range.start, range.start);
    while from_offset < range.end {
        let left = usize::try_from(range.end - from_offset).unwrap_or(usize::MAX);
        let count = rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), left)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let mut chunk = vec![0; usize::try_from(CHUNK_BYTES.min(range.end - range.start)).unwrap_or(usize::MAX)];
    let mut offset = range.start;
    while offset < range.end {
        let count = usize::try_from(CHUNK_BYTES.min(range.end - offset)).unwrap_or(usize::MAX);
        from.read_exact_at(&mut chunk[..count], offset)?;
        to.write_all_at(&chunk[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn part_becomes_the_file_with_its_bytes_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        fs::write(&source, b"0123456789").unwrap();
        let content = File::open(&source).unwrap();
        let target = directory.path().join("target");
        let mut part = Part::create(&target).unwrap();
        part.copy(&content, 5..10).unwrap();
        assert_eq!(names(directory.path()), [".target.hawker-part", "source"]);
        part.copy(&content, 0..5).unwrap();
        part.finish(&target, Some(10), false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"0123456789");
        assert_eq!(names(directory.path()), ["source", "target"]);
    }

    #[test]
    fn both_ways_of_copying_give_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 3_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        fs::write(directory.path().join("source"), &bytes).unwrap();
        let content = File::open(directory.path().join("source")).unwrap();
        for copy in [copy_in_kernel, copy_by_hand] {
            let path = directory.path().join("copy");
            let to = File::create(&path).unwrap();
            copy(&content, &to, 1_000..2_999_999).unwrap();
            assert_eq!(fs::read(&path).unwrap()[1_000..], bytes[1_000..2_999_999]);
            assert!(copy(&content, &to, 2_999_999..3_000_001).is_err(), "past the end");
        }
    }

    #[test]
    fn dropped_part_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(Part::create(&directory.path().join("target")).unwrap());
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn two_downloads_to_one_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        let first = Part::create(&target).unwrap();
        assert_eq!(Part::create(&target).unwrap_err().exit, Exit::Usage);
        first.finish(&target, Some(0), false).unwrap();
        assert!(Part::create(&target).is_ok());
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_replaced_unless_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        let part = Part::create(&target).unwrap();
        fs::write(&target, b"precious").unwrap();
        assert_eq!(part.finish(&target, Some(3), false).unwrap_err().exit, Exit::Usage);
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(names(directory.path()), ["target"]);
        Part::create(&target).unwrap().finish(&target, Some(3), true).unwrap();
        assert_eq!(fs::read(&target).unwrap(), [0; 3]);
    }

    #[test]
    fn targets_that_cannot_become_a_file_are_refused_before_anything_starts() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        assert!(check_target(&target, false).is_ok());
        assert!(check_target(directory.path(), true).is_err());
        assert!(check_target(&target.join("below/nothing"), false).is_err());
        assert!(check_target(Path::new("/"), true).is_err());
        assert!(check_target(Path::new("/dev/null"), true).is_err());
        fs::write(&target, b"").unwrap();
        assert_eq!(check_target(&target, false).unwrap_err().exit, Exit::Usage);
        assert!(check_target(&target, true).is_ok());
    }

    #[test]
    fn a_link_shares_the_content() {
        let directory = tempfile::tempdir().unwrap();
        let sealed = directory.path().join("sealed");
        fs::write(&sealed, b"content").unwrap();
        let target = directory.path().join("target");
        let mut part = Part::create(&target).unwrap();
        part.replace_by_link(&sealed).unwrap();
        part.finish(&target, None, false).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().ino(), fs::metadata(&sealed).unwrap().ino());
        assert_eq!(names(directory.path()), ["sealed", "target"]);
    }
}
