//! A disk that lies, for real: a FUSE file below a loop device below ext4. It fails, hangs, rots and forgets what was
//! not flushed, on every engine alike, because the faults happen below the file system.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::fuse::{self, Mount, Request};
use crate::workspace::find_program;

const SECTOR_BYTES: usize = 512;
const SUPERBLOCK_AT: usize = 1024;
const EIO: i32 = 5;

/// How a disk misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub fails_reads: bool,
    pub fails_writes: bool,
    pub fails_flushes: bool,
    /// Nothing is answered until the fault is taken away.
    pub hangs: bool,
}

/// The disk's medium, and what is on its way to it.
#[derive(Debug, Default)]
struct Medium {
    /// What a read gives.
    bytes: Vec<u8>,
    /// As of the last flush.
    flushed: Vec<u8>,
    /// Writes since then.
    pending: Vec<(usize, Vec<u8>)>,
    faults: Faults,
    bad: Vec<std::ops::Range<usize>>,
    held: Vec<Request>,
}

/// What a power cut leaves of writes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Clean,
    /// Sectors that this seed chooses.
    Torn(u64),
}

/// A mounted file system on a disk that a test commands. Gone when this value is.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    loop_device: String,
    mount: Arc<Mount>,
    medium: Arc<Mutex<Medium>>,
    server: Option<JoinHandle<()>>,
}

impl Disk {
    /// Why this machine can have no such disk, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("loop devices need root".to_owned());
        }
        let missing = ["mkfs.ext4", "losetup", "mount", "umount"].into_iter().find(|name| find_program(name).is_none());
        if let Some(name) = missing {
            return Some(format!("{name} is not installed"));
        }
        if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
            return Some("/dev/fuse cannot be opened".to_owned());
        }
        let free = Command::new(find_program("losetup")?).arg("-f").output();
        let has_free = free.is_ok_and(|output| output.status.success());
        (!has_free).then(|| "no loop device can be had".to_owned())
    }

    /// An empty ext4 of `len` bytes below `directory`, made with `mkfs_options`.
    ///
    /// # Panics
    /// When it cannot be made; callers ask [`Disk::obstacle`] first.
    #[must_use]
    pub fn new(directory: &Path, len: usize, mkfs_options: &[&str]) -> Self {
        let disk = Self::attach(directory, vec![0; len]);
        let mut mkfs = vec!["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
        mkfs.extend_from_slice(mkfs_options);
        run("mkfs.ext4", &[&mkfs[..], &[&disk.loop_device]].concat());
        disk.mount_file_system("rw");
        disk
    }

    /// A disk with these bytes, its file system mounted as after a crash.
    ///
    /// # Panics
    /// When the file system cannot be mounted.
    #[must_use]
    pub fn of_image(directory: &Path, image: Vec<u8>) -> Self {
        let disk = Self::attach(directory, image);
        disk.mount_file_system("rw");
        disk
    }

    fn attach(directory: &Path, image: Vec<u8>) -> Self {
        std::fs::create_dir_all(directory.join("fs")).expect("room");
        let file = directory.join("disk");
        std::fs::write(&file, b"").expect("room");
        let mount = Arc::new(Mount::new(&file, image.len() as u64).expect("FUSE mounts"));
        let medium = Medium { flushed: image.clone(), bytes: image, ..Medium::default() };
        let medium = Arc::new(Mutex::new(medium));
        let server = {
            let (mount, medium) = (Arc::clone(&mount), Arc::clone(&medium));
            std::thread::spawn(move || {
                while let Ok(Some(request)) = mount.next() {
                    // The kernel may have given up on the mount meanwhile: the next request says so.
                    let _ = serve(&mount, &mut lock(&medium), request);
                }
            })
        };
        let loop_device = run("losetup", &["-f", "--show", &file.to_string_lossy()]).trim().to_owned();
        Self { directory: directory.to_owned(), loop_device, mount, medium, server: Some(server) }
    }

    /// Where the file system is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join("fs")
    }

    /// `loop3` and the like.
    #[must_use]
    pub fn device_name(&self) -> &str {
        self.loop_device.trim_start_matches("/dev/")
    }

    /// Sets what the disk does wrong; [`Faults::default`] makes it well again and answers what hung.
    pub fn set_faults(&self, faults: Faults) {
        let mut medium = lock(&self.medium);
        medium.faults = faults;
        if !faults.hangs {
            for request in std::mem::take(&mut medium.held) {
                let _ = serve(&self.mount, &mut medium, request);
            }
        }
    }

    /// Requests that hang.
    #[must_use]
    pub fn held_count(&self) -> usize {
        lock(&self.medium).held.len()
    }

    /// Where these bytes, which begin a sector, stand on the medium.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        let medium = lock(&self.medium);
        (0..medium.bytes.len()).step_by(SECTOR_BYTES).find(|at| medium.bytes[*at..].starts_with(bytes))
    }

    /// Whether a sector with these bytes at `offset` survives a power cut.
    #[must_use]
    pub fn has_flushed(&self, offset: usize, bytes: &[u8]) -> bool {
        let medium = lock(&self.medium);
        medium.flushed.chunks_exact(SECTOR_BYTES).any(|sector| sector[offset..].starts_with(bytes))
    }

    /// Turns one bit over.
    pub fn flip_bit(&self, at: usize) {
        let mut medium = lock(&self.medium);
        medium.bytes[at] ^= 0x10;
        medium.flushed[at] ^= 0x10;
    }

    /// Makes reads of these bytes fail, until they are written anew, as sectors do.
    pub fn make_unreadable(&self, range: std::ops::Range<usize>) {
        lock(&self.medium).bad.push(range);
    }

    /// What would be on the medium if power went now.
    #[must_use]
    pub fn cut(&self, cut: Cut) -> Vec<u8> {
        let medium = lock(&self.medium);
        let mut image = medium.flushed.clone();
        if let Cut::Torn(seed) = cut {
            let mut random = Random(seed);
            for (at, bytes) in &medium.pending {
                let mut is_kept = false;
                for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let at = at + index * SECTOR_BYTES;
                    let draw = random.next().is_multiple_of(2);
                    // Both halves of ext4's superblock share one checksum: torn, no file system could be mounted.
                    is_kept = if index > 0 && at == SUPERBLOCK_AT + SECTOR_BYTES { is_kept } else { draw };
                    if is_kept {
                        image[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
        image
    }

    /// Unmounts and mounts the file system: nothing of it is in memory any more.
    ///
    /// # Panics
    /// When somebody still uses it.
    pub fn remount(&self) {
        run("umount", &[&self.path().to_string_lossy()]);
        self.mount_file_system("rw");
    }

    /// Unmounts, repairs and mounts the file system.
    ///
    /// # Panics
    /// When somebody still uses it, or it cannot be repaired.
    pub fn check(&self) {
        run("umount", &[&self.path().to_string_lossy()]);
        let program = find_program("e2fsck").expect("e2fsck is installed beside mkfs.ext4");
        let output = Command::new(program).args(["-f", "-y", &self.loop_device]).output().expect("it runs");
        // 0: nothing was wrong; 1: what was wrong is repaired.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
        self.mount_file_system("rw");
    }

    fn mount_file_system(&self, options: &str) {
        run("mount", &["-t", "ext4", "-o", options, &self.loop_device, &self.path().to_string_lossy()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.set_faults(Faults::default());
        fuse::unmount(&self.path());
        // Detached by the kernel when its last user is gone.
        let _ = Command::new("losetup").args(["-d", &self.loop_device]).status();
        fuse::unmount(&self.directory.join("disk"));
        if let Some(server) = self.server.take().filter(|_| !std::thread::panicking()) {
            // Ends with the mount.
            let _ = server.join();
        }
    }
}

fn serve(mount: &Mount, medium: &mut Medium, request: Request) -> io::Result<()> {
    let faults = medium.faults;
    if faults.hangs {
        medium.held.push(request);
        return Ok(());
    }
    match request {
        Request::Read { id, offset, len } => {
            let start = usize::try_from(offset).expect("within the disk").min(medium.bytes.len());
            let range = start..(start + len).min(medium.bytes.len());
            let is_bad = medium.bad.iter().any(|bad| bad.start < range.end && range.start < bad.end);
            let is_failed = faults.fails_reads || is_bad;
            mount.answer(id, if is_failed { Err(EIO) } else { Ok(&medium.bytes[range]) })
        }
        Request::Write { id, .. } if faults.fails_writes => mount.answer(id, Err(EIO)),
        Request::Write { id, offset, bytes } => {
            let start = usize::try_from(offset).expect("within the disk");
            let end = start + bytes.len();
            medium.bytes[start..end].copy_from_slice(&bytes);
            medium.bad.retain(|bad| bad.start < start || end < bad.end);
            let len = bytes.len();
            medium.pending.push((start, bytes));
            mount.wrote(id, len)
        }
        Request::Sync { id } if faults.fails_flushes => mount.answer(id, Err(EIO)),
        Request::Sync { id } => {
            let Medium { flushed, pending, .. } = medium;
            for (at, bytes) in pending.drain(..) {
                flushed[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            mount.answer(id, Ok(&[]))
        }
    }
}

fn lock(medium: &Mutex<Medium>) -> MutexGuard<'_, Medium> {
    medium.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small, seeded and good enough to choose faults: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "an endless source is no iterator")]
    pub fn next(&mut self) -> u64 {
        // Neighboring seeds must not give neighboring numbers.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn run(name: &str, arguments: &[&str]) -> String {
    let program = find_program(name).unwrap_or_else(|| panic!("{name} is not installed"));
    let output = Command::new(program).args(arguments).output().expect("a program that is there runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
