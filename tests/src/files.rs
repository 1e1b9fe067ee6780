//! Content that a seed describes, and digests of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

const CHUNK_BYTES: usize = 1 << 20;

/// Writes `length` bytes to `path` that are random to look at and the same for every run with this seed, and returns
/// their SHA-256.
///
/// # Panics
/// When the file cannot be written.
pub fn write_random(path: &Path, length: u64, seed: u64) -> String {
    let mut source = random(seed);
    let mut file = BufWriter::new(File::create(path).expect("the test's directory can be written"));
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        source.fill(&mut chunk[..count]);
        hasher.update(&chunk[..count]);
        file.write_all(&chunk[..count]).expect("room for the test's file");
        left -= count as u64;
    }
    file.flush().expect("room for the test's file");
    hex(&hasher.finalize())
}

/// `length` bytes as [`write_random`] writes them.
#[must_use]
pub fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random(seed).fill(&mut bytes);
    bytes
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// SHA-256 of bytes, in hex.
#[must_use]
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Names of what lies in a directory, hidden files too, sorted.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the test's directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn random(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
