//! The few requests of FUSE that one file needs, by the protocol of linux/fuse.h (7.31): no library is needed for it.
//!
//! The mount's root is itself a regular file, so that no names are looked up.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

/// Bytes of data that one request carries at most.
pub(crate) const DATA_BYTES_MAX: usize = 1 << 20;
/// Room for a request: its heads and its data.
const REQUEST_BYTES_MAX: usize = DATA_BYTES_MAX + 4096;
const IN_HEAD_BYTES: usize = 40;
const OUT_HEAD_BYTES: usize = 16;

const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
/// FORGET, INTERRUPT and BATCH_FORGET are not answered.
const SILENT: [u32; 3] = [2, 36, 42];

/// What the kernel wants of the file; `id` goes into the answer.
#[derive(Debug)]
pub(crate) enum Request {
    Read { id: u64, offset: u64, len: usize },
    Write { id: u64, offset: u64, bytes: Vec<u8> },
    Sync { id: u64 },
}

/// A mounted file that this process serves.
#[derive(Debug)]
pub(crate) struct Mount {
    device: File,
    len: u64,
}

impl Mount {
    /// Mounts a file of `len` bytes over the file at `path`.
    pub(crate) fn new(path: &Path, len: u64) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=100600,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no NUL");
        rustix::mount::mount("disk", path, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
        Ok(Self { device, len })
    }

    /// The next request that is about content; others are answered here. `None` when the file was unmounted.
    pub(crate) fn next(&self) -> io::Result<Option<Request>> {
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        loop {
            let count = match (&self.device).read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => return Ok(None),
                // ENOENT: the request was taken back meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let request = &buffer[..count];
            let (opcode, id, body) = (u32_at(request, 4), u64_at(request, 8), &request[IN_HEAD_BYTES..]);
            match opcode {
                INIT => self.answer(id, Ok(&init_answer()))?,
                GETATTR | SETATTR => self.answer(id, Ok(&self.attributes()))?,
                // A handle of 0; FOPEN_DIRECT_IO: the kernel caches nothing, so that every fault is met.
                OPEN => self.answer(id, Ok(&words(&[0, 0, 1, 0])))?,
                RELEASE | FLUSH => self.answer(id, Ok(&[]))?,
                READ => {
                    return Ok(Some(Request::Read { id, offset: u64_at(body, 8), len: u32_at(body, 16) as usize }));
                }
                WRITE => return Ok(Some(Request::Write { id, offset: u64_at(body, 8), bytes: body[40..].to_vec() })),
                FSYNC => return Ok(Some(Request::Sync { id })),
                silent if SILENT.contains(&silent) => {}
                _ => self.answer(id, Err(rustix::io::Errno::NOSYS.raw_os_error()))?,
            }
        }
    }

    /// Answers a request with a body, or an errno. One that was taken back needs no answer.
    pub(crate) fn answer(&self, id: u64, result: Result<&[u8], i32>) -> io::Result<()> {
        let (error, body) = result.map_or_else(|errno| (-errno, &[][..]), |body| (0, body));
        let len = OUT_HEAD_BYTES + body.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&u32::try_from(len).expect("a bounded answer").to_le_bytes());
        bytes.extend_from_slice(&error.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(body);
        match (&self.device).write(&bytes) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Answers a write of `len` bytes.
    pub(crate) fn wrote(&self, id: u64, len: usize) -> io::Result<()> {
        self.answer(id, Ok(&words(&[u32::try_from(len).expect("a bounded write"), 0])))
    }

    fn attributes(&self) -> Vec<u8> {
        let (low, high) = (self.len & u64::from(u32::MAX), self.len >> 32);
        let narrow = |word: u64| u32::try_from(word).expect("half of it");
        let mut answer = vec![0; 4];
        // Inode 1, the size, blocks, three times of which nobody asks.
        answer.extend([1, 0, narrow(low), narrow(high), narrow(self.len / 512), 0]);
        answer.extend([0; 9]);
        // Mode, one name, root's, no device, its block size.
        answer.extend([0o100_600, 1, 0, 0, 0, 4096, 0]);
        words(&answer)
    }
}

/// Unmounts what lies at `path`, as soon as nobody uses it.
pub(crate) fn unmount(path: &Path) {
    // Fails only when nothing is mounted there.
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
}

fn init_answer() -> Vec<u8> {
    // ASYNC_READ, BIG_WRITES, MAX_PAGES.
    let flags = 1 | 1 << 5 | 1 << 22;
    let background = 64 | 48 << 16;
    let pages = u32::try_from(DATA_BYTES_MAX / 4096).expect("small");
    let bytes_max = u32::try_from(DATA_BYTES_MAX).expect("small");
    let mut answer = vec![7, 31, 0, flags, background, bytes_max, 1, pages];
    answer.resize(16, 0);
    words(&answer)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
