//! Files of noise, and the page cache.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hawker_ring::{Residency, residency};

use crate::error::BenchError;

/// Read at once when files are compared.
const CHUNK_BYTES: usize = 1 << 20;

/// A file of noise, in the page cache.
#[derive(Debug)]
pub(crate) struct Content {
    path: PathBuf,
    bytes: u64,
}

impl Content {
    /// Writes the file and sees it to the disk, so that no write-back disturbs what is measured.
    pub(crate) fn create(path: &Path, bytes: u64) -> Result<Self, BenchError> {
        let failed = BenchError::io("write the bench's content");
        let create = || -> io::Result<()> {
            let file = File::options().read(true).write(true).create_new(true).open(path)?;
            let mut writer = BufWriter::with_capacity(1 << 20, &file);
            io::copy(&mut Noise(bytes | 1).take(bytes), &mut writer)?;
            writer.flush()?;
            drop(writer);
            file.sync_all()
        };
        create().map_err(failed)?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sees to it that every page is in memory.
    pub(crate) fn heat(&self) -> Result<(), BenchError> {
        heat(&self.path, self.bytes)
    }

    /// Whether the file at `path` holds exactly this content.
    pub(crate) fn is_equal_to(&self, path: &Path) -> Result<bool, BenchError> {
        let equal = || -> io::Result<bool> {
            let (ours, theirs) = (File::open(&self.path)?, File::open(path)?);
            if theirs.metadata()?.len() != self.bytes {
                return Ok(false);
            }
            let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
            let mut offset = 0;
            while offset < self.bytes {
                let count = (self.bytes - offset).min(CHUNK_BYTES as u64);
                let count = usize::try_from(count).map_err(io::Error::other)?;
                ours.read_exact_at(&mut left[..count], offset)?;
                theirs.read_exact_at(&mut right[..count], offset)?;
                if left[..count] != right[..count] {
                    return Ok(false);
                }
                offset += count as u64;
            }
            Ok(true)
        };
        equal().map_err(BenchError::io("compare a file with the bench's content"))
    }
}

/// Sees to it that every page of a file is in memory.
pub(crate) fn heat(path: &Path, bytes: u64) -> Result<(), BenchError> {
    let failed = BenchError::io("read a file into the page cache");
    let mut file = File::open(path).map_err(&failed)?;
    if residency(&file, 0, bytes) == Residency::Resident {
        return Ok(());
    }
    io::copy(&mut file, &mut io::sink()).map_err(&failed)?;
    match residency(&file, 0, bytes) {
        // Too little memory, or a host that reclaims cold pages ahead of need (DAMON).
        Residency::Absent => Err(BenchError::Host(format!("the page cache does not keep a file of {bytes} bytes"))),
        Residency::Resident | Residency::Unknown => Ok(()),
    }
}

/// Bytes without end that neither repeat nor compress: xorshift64 (Marsaglia 2003).
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_its_length_and_does_not_repeat() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("content");
        let content = Content::create(&path, 1_000_003).expect("a file");
        content.heat().expect("a file that fits");
        let bytes = std::fs::read(&path).expect("the file");
        assert_eq!(bytes.len(), 1_000_003);
        assert_ne!(bytes[..4096], bytes[4096..8192]);
    }

    #[test]
    fn a_copy_is_told_from_anything_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let content = Content::create(&directory.path().join("content"), 3_000_001).expect("a file");
        let copy = directory.path().join("copy");
        let mut bytes = std::fs::read(content.path()).expect("the file");
        let is_equal = |bytes: &[u8]| {
            std::fs::write(&copy, bytes).expect("a copy");
            content.is_equal_to(&copy).expect("two files")
        };
        assert!(is_equal(&bytes));
        assert!(!is_equal(&bytes[1..]));
        bytes[2_500_000] ^= 1;
        assert!(!is_equal(&bytes));
    }
}
