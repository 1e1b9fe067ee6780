//! Files as memory. The only module with unsafe code.
//!
//! A mapping is a slice of atomic words, so that any number of threads may read and write it without a data race.
//! On disk the words are little-endian.
//!
//! A page of a mapped file that the kernel cannot give (a bad sector under a page that memory pressure drove out, a file
//! that somebody else cut, a write into a hole of a full disk) is a SIGBUS, which would end the agent and everybody's
//! downloads. Here it is a page of zeros and a mark on its mapping, [`Mapping::is_torn`]: zeros are no slot, no record
//! and no bits, and whoever promises something asks for the mark first. Reading ahead of every touch would be no help:
//! the page may go in between.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

/// Bytes in a word.
pub(crate) const WORD: usize = 8;

/// `len` bytes of a file, shared with every reader of the file and kept by the kernel when the process dies.
pub(crate) struct Mapping {
    // Dropped first: the handler must not know addresses that may be somebody else's.
    guard: Guard,
    map: MmapRaw,
}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, both multiples of 4096.
    ///
    /// The file must hold those bytes, and nobody but the one store that holds the directory's lock changes it. Read
    /// the bytes before, so that a bad sector is an error of that read and the pages are in memory.
    pub(crate) fn new(file: &OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        assert!(offset.is_multiple_of(4096) && len.is_multiple_of(4096) && len > 0, "{len} bytes from {offset}");
        let size = u64::try_from(rustix::fs::fstat(file.as_fd())?.st_size).unwrap_or(0);
        if size < offset + len as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its mapping"));
        }
        let map = MmapOptions::new().offset(offset).len(len).map_raw(file.as_raw_fd())?;
        assert!(map.as_ptr().cast::<AtomicU64>().is_aligned() && map.len() == len);
        let guard = Guard::new(map.as_ptr().addr(), len)?;
        Ok(Self { guard, map })
    }

    /// Whether pages were lost: what is read there is zeros, and what is written there reaches no file.
    pub(crate) fn is_torn(&self) -> bool {
        self.guard.0.is_torn.load(Ordering::Acquire)
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
        // crate touches them in no other way than by these atomics. A page that the file has no more is replaced.
        unsafe { std::slice::from_raw_parts(start, self.map.len() / WORD) }
    }
}

/// A mapping that the handler knows.
struct Guard(&'static Known);

/// A place in the handler's list. Places are used again and never freed: the handler may come at any moment, may take
/// no lock and allocate nothing.
struct Known {
    /// `usize::MAX` while nobody uses the place.
    start: AtomicUsize,
    end: AtomicUsize,
    is_torn: AtomicBool,
    next: Option<&'static Known>,
}

/// The newest place, and through it all others.
static NEWEST: AtomicPtr<Known> = AtomicPtr::new(std::ptr::null_mut());
static UNUSED: Mutex<Vec<&'static Known>> = Mutex::new(Vec::new());
/// What SIGBUS did before; std says there that a stack overflowed.
static FORMER: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

impl Guard {
    fn new(start: usize, len: usize) -> io::Result<Self> {
        let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: once.
        if FORMER.get().is_none() {
            PAGE_BYTES.store(rustix::param::page_size(), Ordering::Relaxed);
            let former = action_of_sigbus(None)?;
            FORMER.get_or_init(|| former);
            action_of_sigbus(Some(on_fault))?;
        }
        let known = unused.pop().unwrap_or_else(|| {
            let (start, end) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
            let known: &'static mut Known =
                Box::leak(Box::new(Known { start, end, is_torn: AtomicBool::new(false), next: newest() }));
            NEWEST.store(known, Ordering::Release);
            newest().expect("stored above, under the lock")
        });
        known.is_torn.store(false, Ordering::Release);
        known.end.store(start + len, Ordering::Release);
        known.start.store(start, Ordering::Release);
        Ok(Self(known))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(usize::MAX, Ordering::Release);
        UNUSED.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

fn newest() -> Option<&'static Known> {
    let newest = NEWEST.load(Ordering::Acquire);
    // SAFETY: null, or a box that was leaked: it lives for ever, and nobody has it mutably any more.
    unsafe { newest.as_ref() }
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Sets what SIGBUS does, if anything is given; what it did before.
fn action_of_sigbus(handler: Option<Handler>) -> io::Result<libc::sigaction> {
    // SAFETY: sigaction(2)'s struct: zeros are the default action, no flags and an empty mask.
    let mut former: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut action = former;
    action.sa_sigaction = handler.map_or(libc::SIG_DFL, |handler| handler as libc::sighandler_t);
    // On the stack that std gives every thread for its own handler, which may be called from ours.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let new = if handler.is_some() { &raw const action } else { std::ptr::null() };
    // SAFETY: pointers to live values, or null; the handler does only what signal-safety(7) allows.
    let result = unsafe { libc::sigaction(libc::SIGBUS, new, &raw mut former) };
    if result == 0 { Ok(former) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t.
    let info = unsafe { &*info };
    // SAFETY: of SIGBUS it is the address; what kill(2) sent has none of ours.
    let address = unsafe { info.si_addr() }.addr();
    let is_fault = info.si_code > 0;
    if is_fault && replace_page(address) {
        return;
    }
    // Not ours: as it was before. A fault comes again when this returns.
    if let Some(former) = FORMER.get() {
        // SAFETY: an action that the kernel gave.
        unsafe { libc::sigaction(signal, former, std::ptr::null_mut()) };
    }
    if !is_fault {
        // SAFETY: raise(3) may be called in a handler.
        unsafe { libc::raise(signal) };
    }
}

/// Puts a page of zeros where a known mapping lost one.
fn replace_page(address: usize) -> bool {
    let mut place = newest();
    while let Some(known) = place {
        let start = known.start.load(Ordering::Acquire);
        let is_within = start <= address && address < known.end.load(Ordering::Acquire);
        // Else the place changed hands in between.
        if is_within && known.start.load(Ordering::Acquire) == start {
            known.is_torn.store(true, Ordering::Release);
            let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
            let page = std::ptr::with_exposed_provenance_mut(address - address % page_bytes);
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: the page is of a mapping that lives: the thread that met the fault borrows it. Its users take
            // any bits for atomics, so that they may change under them.
            let got = unsafe { libc::mmap(page, page_bytes, access, flags | libc::MAP_FIXED, -1, 0) };
            return got != libc::MAP_FAILED;
        }
        place = known.next;
    }
    false
}
