//! Files as memory. The only module with unsafe code.
//!
//! A mapping is a slice of atomic words, so that any number of threads may read and write it without a data race.
//! On disk the words are little-endian.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

/// Bytes in a word.
pub(crate) const WORD: usize = 8;

/// `len` bytes of a file, shared with every reader of the file and kept by the kernel when the process dies.
pub(crate) struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, both multiples of 4096.
    ///
    /// The file must hold those bytes and must never be cut: touching a page beyond its end kills the process
    /// (SIGBUS, mmap(2)). The length is checked here; nobody but the one store that holds the directory's lock
    /// changes the file, and the store never cuts one. Read the bytes before, so that a bad sector is an error
    /// of that read and the pages are in memory.
    pub(crate) fn new(file: &OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        assert!(offset.is_multiple_of(4096) && len.is_multiple_of(4096) && len > 0, "{len} bytes from {offset}");
        let size = u64::try_from(rustix::fs::fstat(file.as_fd())?.st_size).unwrap_or(0);
        if size < offset + len as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its mapping"));
        }
        let map = MmapOptions::new().offset(offset).len(len).map_raw(file.as_raw_fd())?;
        assert!(map.as_ptr().cast::<AtomicU64>().is_aligned() && map.len() == len);
        Ok(Self { map })
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The word at byte `offset`.
    ///
    /// # Panics
    /// When `offset` is not a multiple of 8 within the mapping.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(WORD));
        &self.words()[offset / WORD]
    }

    /// Reads the word at byte `offset`.
    pub(crate) fn load(&self, offset: usize, order: Ordering) -> u64 {
        u64::from_le(self.word(offset).load(order))
    }

    /// Writes the word at byte `offset`, at once and whole.
    pub(crate) fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.word(offset).store(value.to_le(), order);
    }

    /// Copies bytes out, word by word. `offset` and the length are multiples of 8.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(into.len().is_multiple_of(WORD));
        for (index, chunk) in into.chunks_exact_mut(WORD).enumerate() {
            let word = self.load(offset + index * WORD, Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Copies bytes in, word by word: not at once, so that what matters carries a checksum. `offset` and the length
    /// are multiples of 8.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        assert!(from.len().is_multiple_of(WORD));
        for (index, chunk) in from.chunks_exact(WORD).enumerate() {
            let mut word = [0; WORD];
            word.copy_from_slice(chunk);
            self.store(offset + index * WORD, u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    fn words(&self) -> &[AtomicU64] {
        let start = self.map.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: `new` mapped `len` readable and writable bytes at `start`, which the kernel aligned to a page; they
        // stay mapped while `self.map` lives, and the slice borrows `self`. Any bits are a valid AtomicU64, and this
        // crate touches them in no other way than by these atomics. `new` says why the file is never cut.
        unsafe { std::slice::from_raw_parts(start, self.map.len() / WORD) }
    }
}
