//! Whether a file's bytes are in the page cache: sendfile(2) of bytes that are not blocks its shard on the disk.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use std::os::fd::AsRawFd;

/// Where a range of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Residency {
    /// Every page is in memory.
    Resident,
    /// Some pages are not.
    Absent,
    /// The kernel does not say: below 6.5, a file system without a page cache, or a seccomp filter.
    Unknown,
}

/// include/uapi/linux/mman.h
#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

/// include/uapi/linux/mman.h
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    pages_cached: u64,
    pages_dirty: u64,
    pages_writeback: u64,
    pages_evicted: u64,
    pages_recently_evicted: u64,
}

/// cachestat(2), Linux 6.5; one number on every architecture (asm-generic and all tables).
const SYS_CACHESTAT: libc::c_long = 451;

/// Asked once: a kernel without the call will not grow it.
static IS_MISSING: AtomicBool = AtomicBool::new(false);

/// Where `length` bytes from `offset` are. An answer is a guess about the past: pages may be evicted at any time.
#[must_use]
pub fn residency(file: impl AsFd, offset: u64, length: u64) -> Residency {
    if length == 0 {
        // To the kernel 0 means "to the end".
        return Residency::Resident;
    }
    if IS_MISSING.load(Ordering::Relaxed) {
        return Residency::Unknown;
    }
    let Some(end) = offset.checked_add(length) else { return Residency::Unknown };
    let page_bytes = rustix::param::page_size() as u64;
    let pages = end.div_ceil(page_bytes) - offset / page_bytes;
    let range = CachestatRange { offset, length };
    let mut stat = Cachestat::default();
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: both pointers are to live values of the layout that the call has fixed; it writes `stat` only.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, fd, &raw const range, &raw mut stat, 0u32) };
    if result == 0 {
        return if stat.pages_cached >= pages { Residency::Resident } else { Residency::Absent };
    }
    if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        IS_MISSING.store(true, Ordering::Relaxed);
    }
    Residency::Unknown
}
